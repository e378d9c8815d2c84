"""By strips and at once: the same bits; and memory that does not grow with the image."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn
from transformers.utils import ModelOutput

from hf_dinoseg.images import RowReader
from hf_dinoseg.inference import Segmenter, segment_large
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegImageProcessor

SPACE = LabelSpace({1: "a", 2: "b", 7: "c"}, reduce_zero_label=True)


class Convolution(nn.Module):
    """Six queries of three classes, masks at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masks = nn.Conv2d(3, 6, 7, stride=4, padding=3)
        self.classes = nn.Parameter(2 * torch.randn(6, 4))

    def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
        classes = self.classes + pixel_values.mean((1, 2, 3))[:, None, None]
        return ModelOutput(class_queries_logits=classes, masks_queries_logits=4 * self.masks(pixel_values))


def segmenter(**settings) -> Segmenter:
    return Segmenter(Convolution(), DinoSegImageProcessor(), SPACE, "slide", 48, 32, batch_size=3, **settings)


def photo(height: int = 157, width: int = 203) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "settings",
    [{}, {"blend": "smooth"}, {"tta": {"flip": True}}, {"background_threshold": 0.9}],
    ids=["plain", "smooth", "flip", "threshold"],
)
@pytest.mark.parametrize("kind", ["strips", "png"])
def test_by_strips_and_at_once_are_the_same_bits(tmp_path, settings, kind):
    file = tmp_path / ("photo.tif" if kind == "strips" else "photo.png")
    if kind == "strips":
        tifffile.imwrite(file, photo(), photometric="rgb", compression="zlib", rowsperstrip=10)
    else:
        Image.fromarray(photo()).save(file)
    ours = segmenter(**settings)
    result = ours(file)
    expected = result.save(tmp_path / "at_once.png")
    written = segment_large(ours, file, tmp_path / "new" / "strips.png")
    with Image.open(expected) as one, Image.open(written) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert (one.mode, one.getpalette()) == (other.mode, other.getpalette())
    assert len(np.unique(result.label_map)) == (4 if "background_threshold" in settings else 3)
    assert [p.name for p in written.parent.iterdir()] == ["strips.png"]


def test_a_clear_background_is_clear_by_strips_too(tmp_path):
    file = tmp_path / "photo.png"
    Image.fromarray(photo()).save(file)
    ours = segmenter()
    ours.label_space = replace(SPACE, colors={SPACE.original_ids[0]: (0, 0, 0)})
    expected = ours(file).save(tmp_path / "at_once.png", transparent=True)
    written = segment_large(ours, file, tmp_path / "strips.png", transparent=True)
    with Image.open(expected) as one, Image.open(written) as other:
        alpha = np.asarray(one.convert("RGBA"))[..., 3]
        assert set(np.unique(alpha)) == {0, 255}
        assert np.array_equal(alpha, np.asarray(other.convert("RGBA"))[..., 3])


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 7},
        {"compression": "zlib", "rowsperstrip": 7, "predictor": True},
        {"tile": (32, 48), "compression": "zlib"},
        {"tile": (16, 16)},
        {"compression": "zlib", "byteorder": ">"},
    ],
    ids=lambda layout: "-".join(f"{k}={v}" for k, v in layout.items()) or "plain",
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_layout_of_tiff_is_read_piece_by_piece_as_pillow_reads_it(tmp_path, layout, channels):
    pixels = np.random.default_rng(1).integers(0, 256, (157, 203, channels), dtype=np.uint8)
    file = tmp_path / "a.tif"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    photometric = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(file, pixels[..., 0] if channels == 1 else pixels, photometric=photometric, **extra, **layout)
    reader = RowReader(file)
    assert reader.streamed and reader.size == (157, 203)
    expected = np.asarray(Image.open(file).convert("RGB"))
    for reading in (reader, reader.again()):
        for top in (0, 0, 13, 60, 100):
            height = min(57, 157 - top)
            assert np.array_equal(reading.crop(top, 3, height, 200), expected[top : top + height, 3:203])
        assert len(reading._rows) < 157  # what is above is forgotten


def test_other_files_are_decoded_whole_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(40, 60)).save(tmp_path / "turned.png", exif=exif)
    reader = RowReader(tmp_path / "turned.png")
    assert not reader.streamed and reader.size == (60, 40)
    assert np.array_equal(reader.crop(10, 2, 20, 30), np.rot90(photo(40, 60), -1)[10:30, 2:32])
    tifffile.imwrite(tmp_path / "wide.tif", photo(40, 60), extratags=[(274, "H", 1, 6, True)])
    assert RowReader(tmp_path / "wide.tif").size == (60, 40)


def test_what_cannot_be_done_by_strips_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.fromarray(photo(60, 60)).save(file)
    target = tmp_path / "out.png"
    with pytest.raises(ValueError, match="too large to be seen whole"):
        segment_large(Segmenter(Convolution(), DinoSegImageProcessor(), SPACE), file, target)
    with pytest.raises(ValueError, match=r"without the scales \[0.5, 1.0\]"):
        segment_large(segmenter(tta={"scales": [0.5, 1]}), file, target)
    with pytest.raises(ValueError, match="60×60 pixels are more than 3599"):
        segment_large(segmenter(), file, target, max_pixels=3599)
    with pytest.raises(ValueError, match=r"name the file \*.png"):
        segment_large(segmenter(), file, tmp_path / "out.jpg")
    (tmp_path / "broken.png").write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="broken.png: cannot be read as an image"):
        segment_large(segmenter(), tmp_path / "broken.png", target)
    assert not target.exists()


def test_a_failure_midway_leaves_no_file(tmp_path):
    class Failing(Convolution):
        calls = 0

        def forward(self, pixel_values):
            self.calls += 1
            if self.calls == 5:
                raise RuntimeError("out of luck")
            return super().forward(pixel_values)

    file = tmp_path / "a.png"
    Image.fromarray(photo()).save(file)
    ours = segmenter()
    ours.model = Failing().eval()
    with pytest.raises(RuntimeError, match="out of luck"):
        segment_large(ours, file, tmp_path / "out.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


MEASURED = """
import sys
from pathlib import Path
def highest():  # ru_maxrss would begin with that of the parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
sys.path.insert(0, sys.argv[1])
from test_large_images import SPACE, Convolution
from hf_dinoseg.inference import Segmenter, segment_large
from hf_dinoseg.models import DinoSegImageProcessor
segmenter = Segmenter(Convolution(), DinoSegImageProcessor(), SPACE, "slide", 512, 512)
segment_large(segmenter, sys.argv[2], sys.argv[4])
before = highest()
segment_large(segmenter, sys.argv[3], sys.argv[4])
print(highest() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_memory_does_not_follow_the_height_of_the_image(tmp_path):
    """An image of 1024 × 2048 first, then of 1024 × 8192: as numbers it takes 72 MiB more, and its scores as much."""
    for name, height in (("low", 2048), ("high", 8192)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            np.tile(photo(64, 64), (height // 64, 16, 1)),
            photometric="rgb",
            rowsperstrip=64,
            compression="zlib",
        )
    files = [str(tmp_path / name) for name in ("low.tif", "high.tif", "out.png")]
    command = [sys.executable, "-c", MEASURED, str(Path(__file__).parent), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 56 << 10  # KiB; either alone would be 72 MiB
    with Image.open(tmp_path / "out.png") as written:
        assert written.size == (1024, 8192)
