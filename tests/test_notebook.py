"""The notebook is run from its first cell to its last, on a tiny model for one step, against a Hub on loopback."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "tests" / "hub"))


def shown(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; what its last line shows, if it is an expression. Magics (`%pip`) are passed over."""
    lines = [line for line in code.splitlines() if not line.startswith(("%", "!"))]
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_notebook_without_outputs(path: Path) -> None:
    """What the format asks for (nbformat 4.5), so that any service opens it."""
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(len(i) <= 64 and i.replace("-", "").isalnum() for i in ids)
    for cell in book["cells"]:
        assert isinstance(cell["metadata"], dict) and all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert cell["cell_type"] == "markdown" and set(cell) == {"cell_type", "id", "metadata", "source"}


def test_the_quickstart_goes_from_folders_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_server import HubServer

    monkeypatch.chdir(tmp_path)
    (book,) = (json.loads(path.read_text()) for path in NOTEBOOKS if path.stem == "quickstart")
    names: dict[str, Any] = {}
    results = {}
    with HubServer() as hub:
        hub.stand_in(monkeypatch, tmp_path)
        for cell in (cell for cell in book["cells"] if cell["cell_type"] == "code"):
            results[cell["id"]] = shown("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= {"count": 5, "max_steps": 1, "repo_id": "me/quickstart"}
                names["small"] |= {"training": {"use_cpu": True, "per_device_train_batch_size": 2}}
        assert set(hub.repos) == {("model", "me/quickstart")}
    assert results["check"].errors == ()
    assert "background" in results["train"]._repr_html_() and results["train"]["train_images"] == 4
    drawn = Image.open(io.BytesIO(results["predict"]._repr_png_()))
    assert drawn.size == (256, 256)
    saved = np.asarray(Image.open(tmp_path / "prediction.png"))
    assert np.array_equal(saved, results["predict"].label_map) and saved.max() <= 3
