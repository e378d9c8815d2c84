"""The demo page as a Space on the Hub: the files that make one.

The package's own files go with them, so that a Space runs the code that made it, whether or not a package index has
that version.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError

from ..errors import InputError
from ..recipe import write_yaml
from .push import PushError, explained

_PACKAGE = Path(__file__).parents[1]
_KINDS = {".py", ".md", ".json", ".yaml", ".js", ".css", ".j2", ".typed"}
_PYTHON = "3.11"
_SERVE = "from hf_dinoseg.hub.demo import serve"


def space_files(checkpoint_repo_id: str, title: str | None = None, license: str | None = None) -> dict[str, str]:
    """What a Space holds that shows a checkpoint.

    Args:
        checkpoint_repo_id: the checkpoint on the Hub; a private one needs the secret `HF_TOKEN` in the Space.
        title: heading of the page; the repository's name if None.
        license: identifier of the page's licence in its metadata; Apache-2.0, the package's, if None.

    Returns:
        `{path in the repository: text}`.

    Raises:
        ValueError: if the id is none of the form `name/repository`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint_repo_id):
        raise InputError(f"{checkpoint_repo_id!r} is no Hub id; it has the form name/repository.")
    name = title or checkpoint_repo_id.partition("/")[2]
    files = {
        "app.py": _app(checkpoint_repo_id, name),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "README.md": _readme(checkpoint_repo_id, name, license or "apache-2.0"),
    }
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in _KINDS and "__pycache__" not in path.parts:
            files[f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}"] = path.read_text(encoding="utf-8")
    return files


def push_space(checkpoint_repo_id: str, *, private: bool = False) -> str:
    """Make, or bring up to date, the Space of the checkpoint's name that shows it.

    Args:
        checkpoint_repo_id: owner/name of the pushed checkpoint.
        private: make the Space private; it is not changed if it is there already.

    Returns:
        The Space's page.

    Raises:
        PushError: with what to do about it; among others if a Space of that name holds another app.
    """
    api = HfApi()
    files = space_files(checkpoint_repo_id)
    with explained(checkpoint_repo_id):
        api.create_repo(
            checkpoint_repo_id, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True
        )
        _refuse_another(api, checkpoint_repo_id)
        with TemporaryDirectory(prefix="dinoseg-space-") as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            api.upload_folder(
                repo_id=checkpoint_repo_id,
                repo_type="space",
                folder_path=folder,
                commit_message=f"Page for {checkpoint_repo_id}",
                delete_patterns=f"{_PACKAGE.name}/*",  # files of an older version
            )
    return f"{api.endpoint}/spaces/{checkpoint_repo_id}"


def _refuse_another(api: HfApi, repo_id: str) -> None:
    try:
        there = Path(api.hf_hub_download(repo_id, "app.py", repo_type="space")).read_text("utf-8")
    except RemoteEntryNotFoundError:
        return
    if _SERVE not in there:
        raise PushError(
            f"{repo_id}: the Space of that name holds another app, which this would replace. The checkpoint was "
            "pushed. Rename the Space in its settings on the Hub, or choose another name for both."
        )


def requirements() -> list[str]:
    """What the package needs at run time, as pip reads it; Gradio comes with the Space."""
    declared = importlib.metadata.requires("hf-dinoseg") or []
    return sorted(re.sub(r"\s", "", line) for line in declared if "extra ==" not in line)


def gradio_version() -> str:
    """The Gradio that the page was seen to work with, where it is installed; else the oldest that is allowed."""
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        declared = " ".join(importlib.metadata.requires("hf-dinoseg") or [])
        found = re.search(r"gradio\s*>=\s*([\d.]+)", declared)
        return f"{found[1]}.0" if found and found[1].count(".") == 1 else (found[1] if found else "6.29.0")


def _app(repo_id: str, title: str) -> str:
    return f"{_SERVE}\n\nserve({repo_id!r}, title={title!r})\n"


def _readme(repo_id: str, title: str, license: str) -> str:
    metadata = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": gradio_version(),
        "python_version": _PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "license": license,
        "models": [repo_id],
    }
    return f"---\n{write_yaml(metadata)}---\n\nA page to try [{repo_id}](https://huggingface.co/{repo_id}) on.\n"


__all__ = ["push_space", "requirements", "space_files"]
