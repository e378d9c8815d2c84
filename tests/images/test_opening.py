"""Training, `Segmenter` and images by strips read one and the same pixels from a file."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hf_dinoseg
from hf_dinoseg.errors import ImageError
from hf_dinoseg.images import RowReader, dropped_parts, image_size, read_image
from hf_dinoseg.inference.segmenter import load_image

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 65536, (9, 14)).astype(np.uint16)
BYTES = RNG.integers(0, 256, (9, 14, 4), dtype=np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def rows(path: Path) -> np.ndarray:
    reader = RowReader(path)
    return np.concatenate([reader.crop(top, 0, 1, reader.size[1]) for top in range(reader.size[0])])


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "training": lambda path: np.asarray(read_image(path)),
    "Segmenter": lambda path: np.asarray(load_image(path)),
    "Segmenter, of an open image": lambda path: np.asarray(load_image(Image.open(path))),
    "strips": rows,
}


def tiff(path: Path, array: np.ndarray, **how: object) -> None:
    pytest.importorskip("tifffile").imwrite(path, array, **how)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BYTES[..., :3]).save(path, exif=exif)


FILES: dict[str, tuple[str, Callable[[Path], None], np.ndarray]] = {
    "16-bit grey PNG": ("a.png", lambda p: Image.fromarray(WIDE).save(p), grey((WIDE // 256).astype(np.uint8))),
    "16-bit grey TIFF": ("a.tif", lambda p: Image.fromarray(WIDE).save(p), grey((WIDE // 256).astype(np.uint8))),
    "32-bit TIFF": (
        "a.tif",
        lambda p: Image.fromarray(WIDE.astype(np.int32)).save(p),
        grey((WIDE // 256).astype(np.uint8)),
    ),
    "alpha": ("a.png", lambda p: Image.fromarray(BYTES).save(p), BYTES[..., :3]),
    "grey and alpha": ("a.tif", lambda p: Image.fromarray(BYTES[..., :2]).save(p), grey(BYTES[..., 0])),
    "tiles": ("a.tif", lambda p: tiff(p, BYTES[..., :3], tile=(16, 16), photometric="rgb"), BYTES[..., :3]),
    "planes": (
        "a.tif",
        lambda p: tiff(p, np.moveaxis(BYTES[..., :3], -1, 0), photometric="rgb", planarconfig="separate"),
        BYTES[..., :3],
    ),
    "turned by its tag": ("a.png", turned, np.rot90(BYTES[..., :3], 3)),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("name", "save", "expected"), FILES.values(), ids=FILES)
def test_every_reader_gives_the_same_pixels(
    tmp_path: Path,
    reader: Callable[[Path], np.ndarray],
    name: str,
    save: Callable[[Path], None],
    expected: np.ndarray,
) -> None:
    save(tmp_path / name)
    assert np.array_equal(reader(tmp_path / name), expected)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_refuses_floating_point(tmp_path: Path, reader: Callable[[Path], np.ndarray]) -> None:
    Image.fromarray(WIDE.astype(np.float32) / 65535).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point pixels.*Convert it to 8 bits"):
        reader(tmp_path / "a.tif")


@pytest.mark.parametrize("reader", [READERS[name] for name in ("training", "Segmenter", "strips")])
def test_what_pillow_does_not_read_is_said_so(tmp_path: Path, reader: Callable[[Path], np.ndarray]) -> None:
    tiff(tmp_path / "nir.tif", BYTES, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=r"nir.tif: cannot be read as an image \(it is broken, or none of.*RGB"):
        reader(tmp_path / "nir.tif")


def test_many_readers_at_once_leave_pillows_limit_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a variable of the process: whoever lifts it while another does, and puts back what it found, could leave it
    off for good."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "a.png"
    Image.fromarray(BYTES[..., :3]).save(path)
    given = Image.open

    def slowly(*args: Any, **kwargs: Any) -> Image.Image:
        assert Image.MAX_IMAGE_PIXELS is None
        time.sleep(0.002)
        return given(*args, **kwargs)

    monkeypatch.setattr(Image, "open", slowly)
    with ThreadPoolExecutor(8) as threads:
        readers = [READERS["training"], READERS["strips"], image_size] * 8
        for done in [threads.submit(reader, path) for reader in readers]:
            done.result()
    assert Image.MAX_IMAGE_PIXELS == 10


def test_no_other_code_opens_images() -> None:
    """Formats, limits and turning are decided in one place; images that the package drew itself are its own."""
    package = Path(hf_dinoseg.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"Image\.open\(|MAX_IMAGE_PIXELS|exif_transpose\(", path.read_text(encoding="utf-8"))
    }
    drawn = {"training/log_images.py"}
    assert found - drawn == {"images/opening.py"}


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"not an image"])
def test_only_listed_formats_are_opened_whatever_the_name_says(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cat.png: cannot be read as an image .*JPEG, PNG, TIFF"):
        image_size(path)


def bands(path: Path, extra: list[int]) -> None:
    array = np.zeros((9, 14, 3 + len(extra)), np.uint8)
    tiff(path, array, photometric="rgb", extrasamples=extra)


def stack(path: Path, *pages: dict[str, Any]) -> None:
    with pytest.importorskip("tifffile").TiffWriter(path) as writer:
        for page in pages:
            writer.write(**{"data": BYTES[..., :3], "photometric": "rgb", "metadata": None, **page})


def frames(path: Path) -> None:
    first, *others = (Image.fromarray(BYTES[..., n]) for n in range(3))
    first.save(path, save_all=True, append_images=others)


def broken_pages(path: Path) -> None:
    stack(path, {}, {"data": np.zeros((4, 4, 7), np.float64), "photometric": "minisblack"})  # 4 pages


@pytest.mark.parametrize(
    ("name", "write", "dropped"),
    [
        ("near infrared", lambda p: bands(p, [0]), "band 4"),
        ("six bands", lambda p: bands(p, [0, 0, 0]), "bands 4 to 6"),
        ("transparency", lambda p: bands(p, [2]), ""),
        ("transparency, then a band", lambda p: bands(p, [2, 0]), "band 5"),
        ("grey", lambda p: Image.fromarray(WIDE).save(p), ""),
        ("CMYK", lambda p: Image.fromarray(BYTES, "CMYK").save(p), ""),
        ("two pages", lambda p: stack(p, {}, {}), "page 2"),
        ("pages", frames, "pages 2 to 3"),
        ("overviews", lambda p: stack(p, {}, {"subfiletype": 1}, {"subfiletype": 1}), ""),
        ("a page behind an overview", lambda p: stack(p, {}, {"subfiletype": 1}, {}), "page 3"),
        ("pages that Pillow cannot read", broken_pages, "pages 2 to 5"),
        ("both", lambda p: stack(p, *[{"data": BYTES, "extrasamples": [0]}] * 2), "page 2 and band 4"),
        ("not there", lambda p: None, ""),
        ("broken", lambda p: p.write_bytes(b"II*\0 broken"), ""),
    ],
)
def test_what_of_a_tiff_is_not_read_is_named(
    tmp_path: Path, name: str, write: Callable[[Path], None], dropped: str
) -> None:
    write(tmp_path / "a.tif")
    assert dropped_parts(tmp_path / "a.tif") == dropped, name


@pytest.mark.parametrize(("ending", "dropped"), [("gif", "frames 2 to 3"), ("webp", "frames 2 to 3"), ("mpo", "")])
def test_frames_of_other_formats_are_named(tmp_path: Path, ending: str, dropped: str) -> None:
    frames(tmp_path / f"a.{ending}")
    assert dropped_parts({"path": None, "bytes": (tmp_path / f"a.{ending}").read_bytes()}) == dropped


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "webp", "bmp"])
def test_of_ordinary_files_nothing_is_dropped(tmp_path: Path, ending: str) -> None:
    Image.fromarray(BYTES[..., :3]).save(tmp_path / f"a.{ending}")
    assert dropped_parts(tmp_path / f"a.{ending}") == ""
