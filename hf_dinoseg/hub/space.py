"""The demo page as a Space on the Hub: the files that make one.

The package's own files go with them, so that a Space runs the code that made it, whether or not a package index has
that version.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_KINDS = {".py", ".md", ".json", ".yaml", ".js", ".css", ".typed"}
_PYTHON = "3.11"


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
        raise ValueError(f"{checkpoint_repo_id!r} is no Hub id; it has the form name/repository.")
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
    return f"from hf_dinoseg.hub.demo_app import serve\n\nserve({repo_id!r}, title={title!r})\n"


def _readme(repo_id: str, title: str, license: str) -> str:
    from ..recipe import write_yaml

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


__all__ = ["requirements", "space_files"]
