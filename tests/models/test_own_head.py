"""A head that only this file knows goes through everything: nothing in the package depends on a head's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.models.heads import HEADS

WriteRecipe = Callable[[Path], Path]

CODE = '''
"""A head from outside the package: scores of patches by two linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_dinoseg.models.heads import Head, Setting, register_head
from hf_dinoseg.models.outputs import DinoSegOutput, crop_to_frame


@register_head("two_layers")
class TwoLayerHead(Head):
    title = "A head of two layers"
    citation = "@misc{two2026, title = {Two layers}}"
    loss = "pixel"
    settings = {"two_layers_width": Setting(int, 24, "width between the layers", {"ge": 1, "le": 512})}
    small = {"two_layers_width": 8}

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        width = settings["two_layers_width"]
        return [f"two_layers_width is {width}; it must be even."] if width % 2 else []

    def __init__(self, config: Any, backbone: Any) -> None:
        super().__init__()
        self.pad_multiple = backbone.patch_size
        self.progress = 0.0
        self.first = nn.Conv2d(backbone.channels[-1], config.two_layers_width, 1)
        self.second = nn.Conv2d(config.two_layers_width, config.num_labels, 1)

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def forward(self, pixel_values: Any, frame: Any, output_auxiliary: bool, *, backbone: Any) -> DinoSegOutput:
        maps = backbone(pixel_values).on(pixel_values.device).maps[-1].to(self.first.weight.dtype)
        return DinoSegOutput(logits=crop_to_frame(self.second(self.first(maps).relu()).float(), frame))
'''


@pytest.fixture
def head_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The head, imported from a folder of the user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_head.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("my_head", None)
    import my_head  # type: ignore[import-not-found]  # noqa: F401

    yield folder / "my_head.py"
    del HEADS["two_layers"], sys.modules["my_head"]


def dinoseg(*arguments: object, exit_code: int = 0) -> str:
    from hf_dinoseg.cli import app

    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.stdout


ANYWHERE = """
import sys
import torch
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True)
assert ("hf_dinoseg" in sys.modules) == (sys.argv[2] == "with"), sorted(sys.modules)
torch.save(model(torch.linspace(-1, 1, 3 * 48 * 32).view(1, 3, 48, 32)).logits, sys.argv[3])
"""


def test_a_head_from_outside_goes_through_everything(
    head_file: Path, tmp_path: Path, write_tiny_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_dinoseg import DinoSegForSemanticSegmentation, load_recipe
    from hf_dinoseg.errors import RecipeError

    recipe, run = write_tiny_recipe(tmp_path), tmp_path / "run"
    own = ["model.head=two_layers", "model.two_layers_width=12"]
    with pytest.raises(RecipeError, match=r"model\.two_layers_width.*even"):
        load_recipe(recipe, [own[0], "model.two_layers_width=13"])
    with pytest.raises(RecipeError, match=r"model\.two_layer_width: unknown.*two_layers_width"):
        load_recipe(recipe, [own[0], "model.two_layer_width=12"])

    assert "two_layers" in dinoseg("train", recipe, *own, "--dry-run")
    dinoseg("train", recipe, *own)
    config = json.loads((run / "config.json").read_text())
    assert (config["head"], config["two_layers_width"]) == ("two_layers", 12)
    card = (run / "README.md").read_text()
    assert "A head of two layers" in card and "two2026" in card
    measured = json.loads((run / "metrics.json").read_text())["mean_iou"]
    again = json.loads(dinoseg("evaluate", run, "--json"))["mean_iou"]
    assert again == measured
    told = dinoseg("doctor", run / "recipe.yaml", "--checkpoint", run, exit_code=1)
    assert "confidence-collapse" in told  # after four steps it knows nothing, which the doctor sees

    model = DinoSegForSemanticSegmentation.from_pretrained(run)
    # the schedule reached the head, and training is over
    assert model.head.progress == 0.0
    image = torch.linspace(-1, 1, 3 * 48 * 32).view(1, 3, 48, 32)
    with torch.no_grad():
        expected = model(image).logits
    pytest.importorskip("onnxruntime")
    Image.fromarray(np.zeros((48, 32, 3), np.uint8)).save(tmp_path / "image.png")
    dinoseg("export", run, "--format", "onnx", "--output", tmp_path / "exported.onnx")

    blocker = tmp_path / "without"
    blocker.mkdir()
    (blocker / "hf_dinoseg.py").write_text("raise ImportError('the package is not installed here')")
    package = str(Path(__file__).parents[2])
    for how, path in (("without", str(blocker)), ("with", f"{package}{os.pathsep}{head_file.parent}")):
        code = ANYWHERE if how == "without" else "import hf_dinoseg, my_head\n" + ANYWHERE
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / f"modules {how}".replace(" ", "_")))
        out = tmp_path / f"{how}.pt"
        told = subprocess.run([sys.executable, "-c", code, str(run), how, str(out)], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr[-3000:]
        torch.testing.assert_close(torch.load(out), expected)


def test_a_head_that_is_not_known_is_named_and_so_is_the_way_to_it(head_file: Path) -> None:
    from hf_dinoseg import DinoSegConfig

    with pytest.raises(ValueError, match=r"'three_layers'.*mask2former.*imported"):
        DinoSegConfig(head="three_layers")


def test_two_heads_cannot_share_a_name_or_a_setting_by_accident(head_file: Path) -> None:
    from hf_dinoseg.models.heads import Head, Setting, register_head

    class Other(Head):
        title = "Another head"
        settings = {"num_queries": Setting(int, 7, "something else")}

    with pytest.raises(ValueError, match="registered already"):
        register_head("two_layers")(Other)
    with pytest.raises(ValueError, match="'num_queries' of head 'other'"):
        register_head("other")(Other)
