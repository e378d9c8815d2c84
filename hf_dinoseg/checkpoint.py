"""A checkpoint, a folder or a repository on the Hub: what its files are called, and how it is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from .errors import DinoSegError, LabelError, ModelError

if TYPE_CHECKING:
    from .labels import LabelSpace
    from .models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"

#: that the Hub gets to say whether it has a repository
_HUB_SECONDS = 5.0

_WHERE = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class NoCheckpointError(ModelError):
    """A name that leads to no checkpoint."""

    exit_code = 2


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        model: in evaluation mode, on the CPU unless asked for otherwise.
        processor: what makes `pixel_values` of images.
        label_space: what the ids of its classes mean.
    """

    model: DinoSegForSemanticSegmentation
    processor: DinoSegImageProcessor
    label_space: LabelSpace


def load_checkpoint(name: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Load a checkpoint.

    Args:
        name: folder or Hub id.
        options: of the model's `from_pretrained` (`dtype`, `attn_implementation`, …); options that locate files
            (`revision`, `token`, `cache_dir`, …) go to the processor too.

    Raises:
        ModelError: if there is no such checkpoint, or it is broken or of another model; the message says which.
    """
    from .labels import LabelSpace
    from .models import DinoSegForSemanticSegmentation, DinoSegImageProcessor  # takes seconds

    where = {key: options[key] for key in _WHERE if key in options}
    with _told(str(name), where):
        # never a pickle, which transformers would look for next
        model = DinoSegForSemanticSegmentation.from_pretrained(name, **{"use_safetensors": True, **options})
        processor = DinoSegImageProcessor.from_pretrained(name, **where)
        if model.config.label_space is None:
            raise ModelError(
                f"{name}: its config.json has no `label_space`, so predictions cannot be given in original ids. Store "
                "LabelSpace.to_dict() there, or build Segmenter(model, processor, label_space) yourself."
            )
        try:
            return Checkpoint(model, processor, LabelSpace.from_dict(model.config.label_space))
        except LabelError as error:
            raise ModelError(f"{name}: the label space in its config.json is wrong: {error}") from error


def checkpoint_recipe(name: str | os.PathLike[str]) -> Path:
    """The recipe file of a checkpoint.

    Raises:
        ModelError: if it has none.
    """
    own = Path(name) / RECIPE_FILE
    if Path(name).is_dir():
        if not own.is_file():
            raise NoCheckpointError(f"{name} holds no {RECIPE_FILE}; name a recipe after the checkpoint.")
        return own
    from transformers.utils import cached_file  # from the Hub, or its cache

    with _told(str(name)):
        return Path(str(cached_file(str(name), RECIPE_FILE)))


def checkpoint_json(name: str | os.PathLike[str], file: str) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds; nothing where it has no such file.

    Raises:
        ModelError: if there is no such checkpoint.
    """
    from transformers.utils import cached_file  # finds it in a folder, on the Hub, or in its cache

    with _told(str(name)):
        found = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
        stored = json.loads(Path(found).read_text(encoding="utf-8")) if found is not None else {}
        return stored if isinstance(stored, dict) else {}


def checkpoint_metrics(name: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of a checkpoint's `metrics.json`; None if it is missing or cannot be read."""
    if Path(name).is_dir():
        file: Path | None = Path(name) / METRICS_FILE
    else:
        from transformers.utils import cached_file  # from the Hub, or its cache

        found = cached_file(str(name), METRICS_FILE, _raise_exceptions_for_missing_entries=False)
        file = Path(found) if found is not None else None
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file is not None else None
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


@contextmanager
def _told(name: str, where: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Whatever keeps a checkpoint from being loaded becomes one message."""
    check_place(name, **(where or {}))
    try:
        yield
    except DinoSegError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{name}: its weights are broken ({error}); copy or download them anew.") from error
    except OSError as error:
        if Path(name).is_dir():
            raise ModelError(f"{name}: {error}") from error
        raise ModelError(f"{name}: there is no such folder here, and the Hub says: {error}") from error
    except ValueError as error:  # the model's and the configuration's own words
        raise ModelError(f"{name}: {error}") from error
    except (AttributeError, LookupError, RecursionError, TypeError) as error:  # JSON that is no object, or has no end
        raise ModelError(
            f"{name}: its config.json or preprocessor_config.json is not what a checkpoint has "
            f"({type(error).__name__}: {error}); copy or download them anew."
        ) from error
    except RuntimeError as error:
        if "mismatched_sizes" not in str(error):
            raise
        raise ModelError(
            f"{name}: its weights are of other sizes than its config.json says; copy or download both anew."
        ) from error


@contextmanager
def model_errors() -> Iterator[None]:
    """What `models/` refuses becomes a ModelError. That folder travels with checkpoints and cannot know this package's
    errors: it raises ValueError."""
    try:
        yield
    except DinoSegError:
        raise
    except ValueError as error:
        raise ModelError(str(error)) from error


def check_place(name: str, **where: Any) -> None:
    """Tell at once that a name leads to no checkpoint, before anything else is loaded.

    A name of two parts is a Hub id, unless a folder of the first part's name is here: then it is a misspelt path.

    Args:
        where: `revision`, `cache_dir` and the like, as for `load_checkpoint`.

    Raises:
        NoCheckpointError: naming what is there instead.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inside = sorted(p.parent.name for p in folder.glob("*/config.json"))
            hint = f" These folders in it do: {', '.join(inside[:5])}." if inside else ""
            raise NoCheckpointError(f"{name} holds no config.json, so it is no checkpoint.{hint}")
    elif folder.exists():
        raise NoCheckpointError(f"{name} is a file; name the checkpoint's folder.")
    elif name.count("/") != 1 or name.startswith((".", "/", "~")) or folder.parent.is_dir():
        beside = sorted(p.parent.name for p in folder.parent.glob("*/config.json")) if folder.parent.is_dir() else []
        hint = f" {folder.parent} holds the checkpoints {', '.join(beside[:5])}." if beside else ""
        raise NoCheckpointError(f"there is no folder {name}.{hint}")
    else:
        _check_repository(name, **where)


def _check_repository(name: str, revision: str | None = None, token: Any = None, **where: Any) -> None:
    """Ask the Hub once whether a repository has a config.json. Its libraries try for a minute before they give up."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    file = f"{where['subfolder']}/config.json" if where.get("subfolder") else "config.json"
    try:
        if isinstance(try_to_load_from_cache(name, file, where.get("cache_dir"), revision), str):
            return
        if is_offline_mode() or where.get("local_files_only"):
            why = "it is not among the checkpoints downloaded before, and the Hub is not asked (offline)"
        else:
            get_hf_file_metadata(hf_hub_url(name, file, revision=revision), token=token, timeout=_HUB_SECONDS)
            return
    except GatedRepoError:
        return  # loading says what to do
    except RepositoryNotFoundError:
        why = "the Hub shows you no such repository; `hf auth login` if it is private"
    except EntryNotFoundError:
        why = f"the Hub's repository of this name holds no {file}, so it is no checkpoint"
    except HfHubHTTPError:
        return  # a wrong revision, a busy server: loading tries again and says what the Hub says
    except ValueError as error:
        why = f"it is no name of a repository on the Hub ({str(error).splitlines()[0]})"
    except Exception as error:  # no network: of its HTTP library, which changes
        why = f"the Hub cannot be reached ({error})"
    raise NoCheckpointError(f"there is no folder {name} here, and {why}.")
