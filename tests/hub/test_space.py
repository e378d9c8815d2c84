"""A Space holds all that its page needs, and `dinoseg push --space` puts it beside the checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import RepoCard
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.hub.space import space_files


def test_its_files_start_without_the_installed_package(tmp_path: Path) -> None:
    files = space_files("me/retina")
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    code = (
        "import hf_dinoseg.hub.demo as d, pathlib; d.serve = lambda *a, **k: print(a, k, d.__file__);"
        "from hf_dinoseg import load_recipe; exec(pathlib.Path('app.py').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PATH": "", "PYTHONPATH": str(tmp_path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("('me/retina',) {'title': 'retina'}") and str(tmp_path) in done.stdout
    package = Path(sys.modules["hf_dinoseg"].__file__ or "").parent
    kept = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert kept <= set(files)


def test_its_metadata_names_the_sdk_and_the_model() -> None:
    files = space_files("me/retina", license="mit")
    card = RepoCard(files["README.md"], ignore_metadata_errors=False)
    assert card.data.sdk == "gradio" and card.data.models == ["me/retina"] and card.data.license == "mit"
    lines = files["requirements.txt"].splitlines()
    assert any(line.startswith("torch>=") for line in lines) and not any("extra" in line for line in lines)
    with pytest.raises(ValueError, match="no Hub id"):
        space_files("retina'); import os")


def test_push_puts_it_beside_the_checkpoint(here: HubServer, tiny_run: Path) -> None:
    command = ["push", str(tiny_run), "me/retina", "--space"]
    for _ in range(2):  # the second brings it up to date
        result = CliRunner().invoke(app, [*command, "--json"])
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["space"] == f"{here.url}/spaces/me/retina"
    there = here.repos["space", "me/retina"].files()
    expected = space_files("me/retina")
    assert {name: there[name].decode() for name in expected} == expected
    assert "config.json" in here.repos["model", "me/retina"].files()


def test_a_space_with_another_app_is_left_alone(here: HubServer, tiny_run: Path) -> None:
    from huggingface_hub import HfApi

    HfApi().create_repo("me/retina", repo_type="space", space_sdk="gradio")
    HfApi().upload_file(path_or_fileobj=b"print(1)", path_in_repo="app.py", repo_id="me/retina", repo_type="space")
    result = CliRunner().invoke(app, ["push", str(tiny_run), "me/retina", "--space"])
    assert result.exit_code == 1 and "holds another app" in result.stderr
    assert here.repos["space", "me/retina"].files()["app.py"] == b"print(1)"
