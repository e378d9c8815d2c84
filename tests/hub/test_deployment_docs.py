"""docs/deployment.md, typed in: its commands, then its Python, on a tiny checkpoint."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_export import make_segmenter
from typer.testing import CliRunner

from hf_dinoseg.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")


def test_the_commands_and_the_python_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter = make_segmenter(head="linear")
    segmenter.model.save_pretrained("out/quickstart")
    segmenter.processor.save_pretrained("out/quickstart")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg", quality=100)

    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in commands.splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
        assert "equal labels" in result.stdout

    onnx, torch_only = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    capsys.readouterr()
    names: dict[str, object] = {}
    exec(compile(onnx, "docs/deployment.md", "exec"), names)
    resized = Image.open("photo.jpg").resize((96, 64), Image.Resampling.BILINEAR)
    expected = segmenter(resized)
    assert np.array_equal(np.asarray(names["label_map"])[0], expected.label_map)
    told = capsys.readouterr().out
    for label in np.unique(expected.label_map):
        assert f"{label} {expected.label_space.classes[int(label)]}" in told
    exec(compile(torch_only, "docs/deployment.md", "exec"), names)
    assert tuple(names["label_map"].shape) == (1, 128, 128)  # type: ignore[attr-defined]
