"""What a file holds decides whether it is opened, not its name, and a bomb is told by its head.

PostScript is the format to fear: Pillow gives it to Ghostscript, an interpreter of programs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.data.targets import read_target
from hf_dinoseg.doctor.file_facts import inspect_image
from hf_dinoseg.errors import TooLargeError
from hf_dinoseg.hub.demo import Demo
from hf_dinoseg.images import (
    MAX_FOREIGN_PIXELS,
    RowReader,
    dropped_parts,
    image_size,
    read_image,
    read_mask,
    upright_size,
)
from hf_dinoseg.inference import Segmenter
from hf_dinoseg.inference.segmenter import load_image
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor
from hf_dinoseg.visualize import image_of_panel

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
showpage
%%EOF
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A `gs` that leaves a mark when it is run, before any other on the path."""
    folder, mark = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark.exists


def checkpoint_beside(path: Path) -> Path:
    """A model of a few thousand weights, saved once."""
    folder = path.parent / "checkpoint"
    if not folder.is_dir():
        space = LabelSpace({0: "a", 1: "b"}).to_dict()
        backbone = {"model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = DinoSegForSemanticSegmentation.from_backbone(backbone, head="linear", label_space=space)
        model.save_pretrained(folder)
        DinoSegImageProcessor(label_space=space).save_pretrained(folder)
    return folder


def demo(path: Path) -> Any:
    return Demo(Segmenter.from_pretrained(checkpoint_beside(path))).segment(str(path), "whole", 512, 341, False)


def doctor(path: Path) -> None:
    if fault := inspect_image({"path": str(path), "bytes": None}).fault:
        raise ValueError(fault)


def predict(path: Path) -> None:
    checkpoint = checkpoint_beside(path)
    result = CliRunner().invoke(app, ["predict", str(checkpoint), str(path), "-o", str(path.parent / "out")])
    assert result.exit_code == 1, result.output
    raise ValueError(result.stderr)


DOORS: dict[str, Callable[[Path], Any]] = {
    "training, image": read_image,
    "training, mask": read_mask,
    "training, target": lambda path: read_target({"path": str(path), "bytes": None}, LabelSpace({0: "a"})),
    "training, size": upright_size,
    "bytes": lambda path: read_image({"path": None, "bytes": path.read_bytes()}),
    "head": image_size,
    "strips": RowReader,
    "Segmenter": load_image,
    "Segmenter, bytes": lambda path: load_image(path.read_bytes()),
    "doctor": doctor,
    "predict": predict,
    "demo": demo,
}


@pytest.mark.parametrize("name", ["cat.png", "cat.eps", "cat.tif"])
def test_postscript_reaches_ghostscript_through_no_door(name: str, tmp_path: Path, called: Callable[[], bool]) -> None:
    path = tmp_path / name
    path.write_bytes(EPS)
    for door, open_it in DOORS.items():
        with pytest.raises(ValueError, match="cannot be read as an image"):
            open_it(path)
            pytest.fail(f"{door} took it")
    assert dropped_parts(path) == "" and image_of_panel(path) is None
    assert not called()
    with pytest.raises(OSError), Image.open(path) as image:  # what all this is about
        image.load()
    assert called()


def png(path: Path, width: int, height: int) -> None:
    """A file whose head promises a size, and that holds four pixels."""
    Image.new("RGB", (2, 2)).save(path, "PNG")
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


def webp(path: Path, width: int, height: int) -> None:
    """The same, of the lossless kind: https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification"""
    Image.new("RGB", (2, 2)).save(path, "WEBP", lossless=True)
    data = bytearray(path.read_bytes())
    place = data.index(b"VP8L") + 8
    assert data[place] == 0x2F
    size = int.from_bytes(data[place + 1 : place + 5], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
    data[place + 1 : place + 5] = size.to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("write", [png, webp])
def test_a_bomb_is_refused_by_its_head(write: Callable[..., None], tmp_path: Path) -> None:
    """Decoding would end in an error of its own: the files are cut short."""
    path = tmp_path / "bomb.png"
    write(path, 8192, 8192)
    assert image_size(path) == (8192, 8192)
    with pytest.raises(TooLargeError, match="67108864 pixels"):
        demo(path)
    write(path, 16383, 16383)
    for door in ("training, image", "training, mask", "Segmenter", "Segmenter, bytes", "demo"):
        with pytest.raises(TooLargeError, match="268402689"):
            DOORS[door](path)
    with pytest.raises(ValueError, match="refused"):
        doctor(path)


def test_a_camera_of_50_megapixels_is_no_bomb() -> None:
    assert 8160 * 6144 <= 8192 * 6144 <= MAX_FOREIGN_PIXELS < 8192 * 8192


def test_a_panel_cannot_say_that_its_image_is_larger_than_itself(tmp_path: Path) -> None:
    for box in ("0 0 30000 30000 30000 30000", "0 0 10 10 1 2000000000", "5 5 0 0 4 4", "-9 -9 10 10 4 4"):
        note = PngInfo()
        note.add_text("dinoseg:image", box)
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png", pnginfo=note)
        assert image_of_panel(tmp_path / "a.png") is None, box
