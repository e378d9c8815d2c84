"""A checkpoint folder to a model repository on the Hub.

What is uploaded is a list of what is meant to be shared, not the folder less a list of what is not: the state of the
optimiser, logs and whatever else lies there stay where they are.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..checkpoint import CARD_FILE, METRICS_FILE, RECIPE_FILE
from ..errors import DinoSegError
from ..recipe import load_recipe
from ..training.checkpoints import model_faults
from ..training.manifest import MANIFEST_FILE
from ..visualize import CURVES_FILE
from .checkpoint_folder import describe, last_panels

logger = logging.getLogger(__name__)

#: Files at the top of a checkpoint folder that are shared: weights, configs, the model's code, and what describes them.
SHARED = (
    *("model*.safetensors", "model.safetensors.index.json", "*config.json", "*.py"),
    *(CARD_FILE, METRICS_FILE, RECIPE_FILE, CURVES_FILE, "LICENSE*"),
)
MODEL_TYPE = "dinoseg"

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_TEXT = {".json", ".yaml", ".md", ".py", ""}


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repo_id: the repository, owner included.
        url: its page.
        commit: the commit that it is at now.
        files: what belongs to the push; files that were there already are among them.
    """

    repo_id: str
    url: str
    commit: str
    files: list[str]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a checkpoint folder: weights, processor, the model's code, card, metrics, recipe and images.

    A push that was interrupted goes on when it is repeated: `huggingface_hub` sends only what is not there yet.

    Args:
        folder: what training, or `from_pretrained(…).save_pretrained`, left.
        repo_id: `name` or `owner/name`; made if there is none.
        private: make it private.
        revision: a branch, made if there is none, or `refs/pr/<number>`; None is `main`.
        message: the commit's message.

    Raises:
        PushError: with what to do about it.
    """
    folder = Path(folder)
    for seen, cure in model_faults(folder, ["model*.safetensors"]):
        raise PushError(
            f"{seen} {cure} If it was changed on purpose, delete {MANIFEST_FILE} there. Nothing was pushed."
        )
    with TemporaryDirectory(prefix="dinoseg-push-") as scratch:
        stage = Path(scratch)
        for path in shared_files(folder):
            target = stage / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        _describe(stage, folder)
        refuse_tokens(stage)
        repo_id = open_repository(repo_id, private=private, revision=revision)
        _name_in_card(stage / CARD_FILE, repo_id)
        return upload(stage, repo_id, revision=revision, message=message or f"Upload {folder.resolve().name}")


def shared_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that are pushed; of the images, those of the last evaluation.

    Raises:
        PushError: if it holds no model.
    """
    found = sorted({p for pattern in SHARED for p in folder.glob(pattern) if p.is_file() and p.name[0] != "."})
    names = {path.name for path in found}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise PushError(f"{folder} holds no config.json beside model*.safetensors, so there is no model to push.")
    return [*found, *last_panels(folder)]


def refuse_tokens(folder: Path) -> None:
    """Never publish a token.

    Raises:
        PushError: naming the file that holds something that looks like one.
    """
    own = get_token()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _TEXT):
        text = path.read_text(encoding="utf-8", errors="replace")
        if (own and own in text) or _TOKEN.search(text):
            raise PushError(
                f"{path.relative_to(folder)} holds a token of the Hub, and everybody could read it. Take it out, and "
                f"make a new token at {TOKENS} if the file has been elsewhere already. Nothing was pushed."
            )


def open_repository(repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Make sure that a checkpoint can be pushed there; the repository and the branch are made if there are none.

    Returns:
        The name with its owner.

    Raises:
        PushError: if there is no token or a wrong one, if it may not write there, or if the repository is something
            else.
    """
    api = HfApi()
    with explained(repo_id, revision):
        user = api.whoami()
        access = (user.get("auth") or {}).get("accessToken") or {}
        if access.get("role") == "read":
            raise PushError(f"{repo_id}: the token of {user['name']} may only read. Make one that writes at {TOKENS}.")
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    with explained(repo_id, revision):
        _check_kind(api, repo_id)
        if private and not api.model_info(repo_id).private:
            raise PushError(
                f"{repo_id}: the repository is there already and public. Make it private in its settings on the Hub, "
                "choose another name, or push without asking for a private one."
            )
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        _check_model(api, repo_id, revision)
    return repo_id


def _check_kind(api: HfApi, repo_id: str) -> None:
    """Raise if the name belongs to a dataset or a Space and to no model."""
    if api.repo_exists(repo_id):
        return
    for kind in ("dataset", "space"):
        if api.repo_exists(repo_id, repo_type=kind):
            raise PushError(f"{repo_id}: that is a {kind}, not a model repository. Choose another name.")


def _check_model(api: HfApi, repo_id: str, revision: str | None) -> None:
    """Raise if the repository holds the model of another architecture, which a push would leave in pieces."""
    try:
        config = json.loads(Path(api.hf_hub_download(repo_id, "config.json", revision=revision)).read_text("utf-8"))
    except RemoteEntryNotFoundError:
        return
    if (kind := config.get("model_type")) != MODEL_TYPE:
        raise PushError(
            f"{repo_id}: it holds a model of another kind ({kind or 'its config.json names none'}), and a push would "
            "mix the two. Choose another name."
        )


def upload(
    folder: Path, repo_id: str, *, revision: str | None, message: str, path_in_repo: str | None = None
) -> Pushed:
    """One commit of everything in `folder`; images of an earlier push that are not in it go.

    Raises:
        PushError: with what to do about it.
    """
    api = HfApi()
    with explained(repo_id, revision):
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=path_in_repo,
            revision=revision,
            commit_message=message,
            delete_patterns=None if path_in_repo else "panels/*",
        )
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    page = f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")
    return Pushed(repo_id, page, commit.oid, files)


# ---------------------------------------------------------------------- the card


def _describe(stage: Path, folder: Path) -> None:
    """Write the card if there is none and a recipe tells what to write.

    Raises:
        PushError: if there is neither: weights without a card have no licence and no labels that anybody could read.
    """
    if (stage / CARD_FILE).exists():
        return
    recipe = next((p for p in (folder / RECIPE_FILE, folder.resolve().parent / RECIPE_FILE) if p.is_file()), None)
    if recipe is None:
        raise PushError(
            f"{folder} has no {CARD_FILE}, the model card, and no {RECIPE_FILE} to write it from. Write one that says "
            "what the labels are and under what licence the weights are; docs/sharing.md has an example."
        )
    metrics = json.loads((stage / METRICS_FILE).read_text("utf-8")) if (stage / METRICS_FILE).exists() else {}
    read = load_recipe(recipe)
    (stage / METRICS_FILE).unlink(missing_ok=True)  # a link to the file in the checkpoint folder
    describe(stage, read.labels.to_dict(), read.to_dict(), metrics)
    if not (stage / RECIPE_FILE).exists():
        shutil.copy(recipe, stage / RECIPE_FILE)


def _name_in_card(card: Path, repo_id: str) -> None:
    """Let the card's examples load the repository instead of the folder that the run wrote; the owner's words stay."""
    text = card.read_text(encoding="utf-8")
    named = re.sub(r'(from_pretrained\(|^checkpoint = )"[^"\n]+"', rf'\1"{repo_id}"', text, flags=re.MULTILINE)
    named = re.sub(r"^dinoseg predict \S+", f"dinoseg predict {repo_id}", named, flags=re.MULTILINE)
    if named != text:
        card.unlink()  # a link to the file in the checkpoint folder, which stays as it is
        card.write_text(named, encoding="utf-8")


TOKENS = "https://huggingface.co/settings/tokens"
AGAIN = "What has arrived stays there: the same push again goes on where this one stopped."

_STATUS = {
    402: "the Hub asks for payment before it goes on.",
    413: "a file is larger than the Hub takes.",
    429: "the Hub is asked too often. Wait some minutes. " + AGAIN,
}


class PushError(DinoSegError, RuntimeError):
    """A checkpoint that could not be pushed."""


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into a message that says what to do.

    Raises:
        PushError: in place of the client's errors; files that cannot be read stay OSErrors.
    """
    try:
        yield
    except PushError:
        raise
    except (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, RuntimeError, ValueError) as error:
        raise PushError(f"{repo_id}: {_explain(error, repo_id, revision)}") from error


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPError):
        error = error.__cause__  # an upload in a thread of its own wraps what happened
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is sent. Unset it, and push again."
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for the Hub. Run `hf auth login`, or set HF_TOKEN, with one that writes ({TOKENS})."
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision}."
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo_id)
    if isinstance(error, HTTPError):
        return f"{constants.ENDPOINT} cannot be reached, or broke off ({_line(error)}). {AGAIN}"
    if isinstance(error, ValueError):
        return _line(error)
    return f"the upload broke off ({_line(error)}). {AGAIN}"


def _explain_status(error: HfHubHTTPError, repo_id: str) -> str:
    status, said = error.response.status_code, error.server_message
    quoted = f" (the Hub says: {said})" if said else ""
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        where = "HF_TOKEN, which goes before `hf auth login`" if os.environ.get("HF_TOKEN") else "`hf auth login`"
        return f"the Hub does not accept the token of {where}{quoted}. Make one that writes at {TOKENS}."
    if status == 403:
        return (
            f"the token may not write there{quoted}. Check the owner in the name, and that the token is one that "
            f"writes to repositories of {repo_id.partition('/')[0]} ({TOKENS})."
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"there is no such model repository, or the token may not see it{quoted}."
    if status == 409:
        return f"the name is in conflict with something on the Hub{quoted}. Choose another name."
    if status >= 500:
        return f"the Hub failed (HTTP {status}){quoted}. {AGAIN}"
    return _STATUS.get(status, f"HTTP {status}: {said or _line(error)}.")


def _line(error: BaseException) -> str:
    """A message in one line, without the address of a request, which tells a reader nothing."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text.rstrip(".")
