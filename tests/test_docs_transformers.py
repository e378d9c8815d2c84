"""The scripts of docs/transformers.md and of README.md run as they stand, on small images and a tiny backbone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoBackbone, AutoConfig, pipeline

from hf_dinoseg import Segmenter
from hf_dinoseg.data import draw_fundus

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
BACKBONE = "facebook/dinov3-vits16-pretrain-lvd1689m"


def scripts(text: str) -> list[str]:
    return [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "Trainer(" in block]


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs and masks, a checkpoint, and in place of the published backbone a tiny one of its kind."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    AutoBackbone.from_config(AutoConfig.for_model("dinov3_vit", **sizes)).save_pretrained(tmp_path / BACKBONE)
    shutil.copytree(tiny_run, tmp_path / "out" / "quickstart")
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(5):
        image, mask = draw_fundus(number, size=64)
        image.save(tmp_path / "photos" / f"{number}.jpg")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script: str) -> None:
    """With fewer steps, and smaller images."""
    small = script.replace("max_steps=2000", "max_steps=2, use_cpu=True, report_to=[]").replace("512", "64")
    assert small.count("max_steps=2,") == 1 and small.count('"height": 64') == 1
    exec(compile(small, "script", "exec"), {"__name__": "__main__"})


def test_the_readme_shows_the_script_of_the_page_in_twenty_lines() -> None:
    [script] = [block for block in scripts(README) if "DinoSegTrainer(" in block]
    assert script in PAGE and len(script.splitlines()) <= 20


def test_the_script_of_dinosegtrainer(place: Path) -> None:
    run(scripts(PAGE)[0])
    segmenter = Segmenter.from_pretrained(place / "out" / "plain")
    assert segmenter.label_space.id2label[3] == "disc"
    assert segmenter(place / "photos" / "0.jpg").label_map.shape == (64, 64)
    segments = pipeline("image-segmentation", model=str(place / "out" / "plain"))(str(place / "photos" / "0.jpg"))
    assert {one["label"] for one in segments} <= {"background", "artery", "vein", "disc"}
    assert sum(np.asarray(one["mask"], dtype=bool) for one in segments).tolist() == np.ones((64, 64), int).tolist()


def test_the_script_of_the_plain_trainer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(scripts(PAGE)[1])
    assert "eval_loss" in capsys.readouterr().out
    assert Segmenter.from_pretrained(place / "out" / "vanilla").label_space.num_labels == 4
