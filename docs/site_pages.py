"""What stands on the site (a hook of mkdocs, see mkdocs.yml): the repository's own pages where they lie, so that their
links to one another hold, and a reference made from docstrings, a page for each part of the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "recipes/*.md", "benchmarks/*.md", "model_cards/*.md")
FILES = ("LICENSE", "docs/*.png", "docs/notebooks/*.ipynb", "recipes/**/*.yaml", "model_cards/**/*.png")
#: Parts that have a page of their own, beside that of `import hf_dinoseg`.
PARTS = (
    *("labels", "recipe", "data", "images", "models", "training", "inference", "evaluation", "visualize", "doctor"),
    *("hub", "calibrate", "errors"),
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of pages is that of docs/README.md."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = dict.fromkeys(f"docs/{name}" for name in re.findall(r"\((\w+\.md)\)", index))
    config.nav = [
        {"Start": ["README.md"]},
        {"Documentation": ["docs/README.md", *named]},
        {"Reference": [f"reference/{part}.md" for part in ("hf_dinoseg", *PARTS)]},
        {"Recipes and results": ["recipes/README.md", "benchmarks/RESULTS.md"]},
        {"Project": ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's files in the place of the folder docs/ alone."""
    found = [path for pattern in (*PAGES, *FILES) for path in sorted(ROOT.glob(pattern))]
    kept = [file for file in files if file.src_dir != config.docs_dir]
    for path in found:
        kept.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, use_directory_urls=False))
    for part, text in reference().items():
        kept.append(File.generated(config, f"reference/{part}.md", content=text))
    return Files(kept)


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links to what is in the repository and not on the site, such as folders of tests, become their words."""
    here = (ROOT / page.file.src_uri).parent

    def linked(match: re.Match[str]) -> str:
        image, words, target, _ = match.groups()
        place = (here / target).resolve()
        if not place.is_relative_to(ROOT):
            return match[0]
        if (place / "README.md").is_file():
            return f"[{words}]({target.rstrip('/')}/README.md)"
        known = files.get_file_from_path(place.relative_to(ROOT).as_posix()) is not None
        return match[0] if known or image or not place.exists() else words

    parts = re.split(r"(^ *```.*?^ *```$|`[^`\n]+`(?!\]))", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else _LINK.sub(linked, part) for number, part in enumerate(parts))


def reference() -> dict[str, str]:
    """Pages of the reference, by part: each public name once, first of all what `import hf_dinoseg` offers."""
    package: Any = griffe.load("hf_dinoseg", search_paths=[str(ROOT)], resolve_aliases=True)
    done: set[str] = set()
    pages = {}
    for part in ("hf_dinoseg", *PARTS):
        module = package if part == "hf_dinoseg" else package[part]
        title = f"hf_dinoseg.{part}" if module is not package else part
        names = [str(name) for name in module.exports or _public(module)]
        paths = {_canonical(module, name): name for name in names if not name.startswith("__")}
        text = [f"# {title}", module.docstring.value.partition("\n\n")[0] if module.docstring else ""]
        for path, name in paths.items():
            if path is not None and path not in done:
                text.append(f"::: {path}\n    options:\n      heading: {title}.{name}")
        done |= {path for path in paths if path}
        pages[part] = "\n\n".join(text) + "\n"
    return pages


def _public(module: Any) -> list[str]:
    return [name for name, member in module.members.items() if not name.startswith("_") and not member.is_alias]


def _canonical(module: Any, name: str) -> str | None:
    """Where a name is defined; None for modules, and for what has no docstring."""
    member = module.members.get(name)
    if member is None:
        return None
    target = member.final_target if member.is_alias else member
    return None if target.is_module or target.docstring is None else str(target.path)
