"""Reading images and masks: every way to store ids, written by hand where Pillow would decide for itself."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hf_dinoseg.data.label_maps import encode_label_map, read_label_map
from hf_dinoseg.errors import DataError, TooLargeError
from hf_dinoseg.images import MAX_PIXELS, read_image, read_mask, upright_size
from hf_dinoseg.labels import LabelSpace

IDS = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 0], [1, 1, 0, 2, 3]], np.uint8)
PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)]

# EXIF 2.32, tag 0x0112: what is to be done to the stored rows and columns to see the image upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.swapaxes(a, 0, 1)[:, ::-1],
    7: lambda a: np.swapaxes(a, 0, 1)[::-1, ::-1],
    8: lambda a: np.swapaxes(a, 0, 1)[::-1],
}


def png(ids: np.ndarray, depth: int, color_type: int) -> bytes:
    """A PNG of `depth` bits a pixel, grey (color type 0) or palette (3), by the letter of the specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = (ids[..., None].astype(np.uint32) >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(ids), -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], depth, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(sum(PALETTE, ()))[: 3 * 2**depth]) if color_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def cell(data: bytes, path: str | None = None) -> dict[str, Any]:
    return {"path": path, "bytes": data}


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_grey_png_of_any_depth_gives_the_stored_number(depth: int) -> None:
    mask = read_mask(cell(png(IDS, depth, 0)))
    assert (mask == IDS).all() and mask.dtype == (np.uint16 if depth == 16 else np.uint8)


def test_one_bit_png_gives_0_and_1() -> None:
    for color_type in (0, 3):
        assert read_mask(cell(png(IDS % 2, 1, color_type))).astype(int).tolist() == (IDS % 2).tolist()


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_palette_png_gives_the_index_never_the_colour(depth: int) -> None:
    for encoding in ("index", "binary"):
        assert (read_mask(cell(png(IDS, depth, 3)), encoding) == IDS).all()


def test_palette_png_gives_the_colour_where_colours_name_the_classes() -> None:
    assert (read_mask(cell(png(IDS, 8, 3)), "rgb") == np.array(PALETTE)[IDS]).all()


def test_rgb_masks_give_colours_and_drop_alpha() -> None:
    colors = np.array(PALETTE, np.uint8)[IDS]
    for image in (Image.fromarray(colors), Image.fromarray(colors).convert("RGBA")):
        mask = read_mask(cell(saved(image, "PNG")), "rgb")
        assert mask.shape == (3, 5, 3) and (mask == colors).all()


def test_grey_saved_in_three_channels_is_read_as_ids_and_colours_are_not() -> None:
    grey = Image.fromarray(np.dstack([IDS] * 3))
    for image in (grey, grey.convert("RGBA"), Image.fromarray(IDS).convert("LA")):
        assert read_mask(cell(saved(image, "PNG"))).tolist() == IDS.tolist()
    assert read_mask(cell(saved(Image.fromarray(np.array(PALETTE, np.uint8)[IDS]), "PNG"))).shape == (3, 5, 3)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "WEBP"])
def test_other_file_types(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert read_mask(cell(saved(Image.fromarray(IDS), kind, **options))).tolist() == IDS.tolist()


def test_wide_ids_in_tiff_of_either_byte_order() -> None:
    ids = np.array([[0, 300, 65535]], np.uint16)
    assert read_mask(cell(saved(Image.fromarray(ids), "TIFF"))).tolist() == ids.tolist()
    big_endian = Image.frombytes("I;16B", (3, 1), ids.astype(">u2").tobytes())
    mask = read_mask(cell(saved(big_endian, "TIFF")))
    assert mask.tolist() == ids.tolist() and mask.dtype == np.uint16
    wide = np.array([[0, 70_000, 2_000_000]], np.int32)
    assert read_mask(cell(saved(Image.fromarray(wide), "TIFF"))).tolist() == wide.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_turns_image_and_mask_alike(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = Image.fromarray(IDS)
    mask.putpalette(sum(PALETTE, ()))
    stored = cell(saved(mask, kind, exif=exif))
    assert (read_mask(stored) == UPRIGHT[orientation](IDS)).all()
    image = cell(saved(mask.convert("RGB"), kind, exif=exif))
    assert (np.asarray(read_image(image)) == UPRIGHT[orientation](np.array(PALETTE)[IDS])).all()
    height, width = UPRIGHT[orientation](IDS).shape
    assert upright_size(stored) == upright_size(image) == (width, height)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpegs(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255  # one corner: every orientation puts it elsewhere or exchanges the sides
    image = cell(saved(Image.fromarray(stored), "JPEG", exif=exif, quality=95))
    expected = UPRIGHT[orientation](stored)
    assert np.abs(np.asarray(read_image(image)).astype(int) - expected).max() < 20
    assert upright_size(image) == (expected.shape[1], expected.shape[0])


def test_images_of_any_mode_become_rgb_of_8_bits() -> None:
    grey16 = np.array([[0, 0x1234, 0xFFFF]], np.uint16)
    assert np.asarray(read_image(cell(saved(Image.fromarray(grey16), "PNG"))))[0].tolist() == [
        [v] * 3 for v in (0, 18, 255)
    ]
    for mode, kind in [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "TIFF"), ("LA", "PNG")]:
        image = read_image(cell(saved(Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode), kind)))
        assert image.mode == "RGB" and image.size == (3, 2) and np.asarray(image).min() == 255, mode


def test_integer_images_of_8_bit_range_are_not_darkened() -> None:
    image = cell(saved(Image.fromarray(np.array([[0, 200, 255]], np.int32)), "TIFF"))
    assert np.asarray(read_image(image))[0, :, 0].tolist() == [0, 200, 255]
    with pytest.raises(DataError, match="run from -5 to 70000"):
        read_image(cell(saved(Image.fromarray(np.array([[-5, 70000]], np.int32)), "TIFF")))


def test_floating_point_files_are_refused() -> None:
    stored = cell(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif.*whole numbers"):
        read_mask(stored)
    with pytest.raises(DataError, match=r"depth\.tif.*8 bits"):
        read_image(stored)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_named(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    path = tmp_path / "cut.bin"
    path.write_bytes(saved(Image.fromarray(noise), kind)[:-2000])
    for read in (read_image, read_mask, upright_size):
        with pytest.raises(DataError, match=r"cut\.bin: cannot be read"):
            read(str(path))


def test_missing_empty_and_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, reason in [("empty.png", "0 bytes"), ("text.png", "cannot be read"), ("none.png", "no such file")]:
        for form in (str(tmp_path / name), {"path": str(tmp_path / name), "bytes": None}):
            with pytest.raises(DataError, match=f"{name}.*{reason}"):
                read_image(form)
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        read_mask(cell(b"", "a.png"))
    with pytest.raises(DataError, match="neither a path nor bytes"):
        read_mask({"path": None, "bytes": None})


def test_bytes_win_over_a_path_that_does_not_exist() -> None:
    assert (read_mask(cell(png(IDS, 8, 0), "inside/archive.png")) == IDS).all()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", "<i4", ">i4", "<i8", "<u8"])
def test_numpy_arrays_of_any_whole_numbers(dtype: str, tmp_path: Path) -> None:
    ids = (IDS % 2 if dtype == "?" else IDS).astype(dtype)
    (tmp_path / "m.npy").write_bytes(npy(ids))
    for form in (cell(npy(ids)), str(tmp_path / "m.npy"), {"path": str(tmp_path / "m.npy"), "bytes": None}):
        mask = read_mask(form)
        assert (mask == ids).all() and mask.dtype == ids.dtype.newbyteorder("=") and mask.dtype.isnative


def test_numpy_arrays_in_column_order_with_spare_axes_and_of_colours() -> None:
    for array in (np.asfortranarray(IDS), IDS[None], IDS[..., None]):
        assert (read_mask(cell(npy(array))) == IDS).all()
    colors = np.array(PALETTE, np.uint8)[IDS]
    assert (read_mask(cell(npy(colors)), "rgb") == colors).all()


def test_numpy_arrays_that_are_no_masks_are_named_and_objects_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    trap = np.empty((1, 1), object)
    trap[0, 0] = Trap()
    for data, reason in [
        (npy(trap), "an array of object"),
        (npy(IDS.astype(np.float32)), "float32.*whole numbers"),
        (npy(IDS)[:-1], "holds 14 bytes of values where its head promises 15"),
        (npy(IDS)[:40], "cannot be read as a NumPy array"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), r"shape \(2, 3, 4, 5\)"),
        (npy(np.zeros((0, 5), np.uint8)), r"shape \(0, 5\)"),
    ]:
        with pytest.raises(DataError, match=rf"m\.npy: .*{reason}"):
            read_mask(cell(data, "m.npy"))
    assert not (tmp_path / "executed").exists()
    (tmp_path / "empty.npy").touch()
    for name, reason in [("empty.npy", "0 bytes"), ("none.npy", "no such file")]:
        with pytest.raises(DataError, match=f"{name}.*{reason}"):
            read_mask(str(tmp_path / name))


def stored_masks() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The same ids 0 to 3 in every way that a mask may be stored: the file, and what the label space says of it."""
    colored = Image.fromarray(np.array(PALETTE, np.uint8)[IDS])
    palette = Image.fromarray(IDS)
    palette.putpalette(sum(PALETTE, ()))
    colors = {"encoding": "rgb", "colors": dict(enumerate(PALETTE))}
    two = {"classes": {0: "a", 1: "b"}}
    binary = {"classes": {0: "a", 1: "b"}, "encoding": "binary"}
    blurred = np.clip(np.array(PALETTE)[IDS] + np.random.default_rng(0).integers(-40, 41, (*IDS.shape, 3)), 0, 255)
    return {
        "L": (saved(Image.fromarray(IDS), "PNG"), {}),
        "P": (saved(palette, "PNG"), {}),
        "P of 2 bits": (png(IDS, 2, 3), {}),
        "P read by colour": (saved(palette, "PNG"), colors),
        "1 bit": (png(IDS % 2, 1, 0), two),
        "1 bit, TIFF": (saved(Image.fromarray((IDS % 2).astype(bool)), "TIFF"), two),
        "1 bit, binary": (png(IDS % 2, 1, 0), binary),
        "0 and 255": (saved(Image.fromarray(IDS % 2 * 255), "PNG"), binary),
        "RGB": (saved(colored, "PNG"), colors),
        "RGBA": (saved(colored.convert("RGBA"), "PNG"), colors),
        "RGB, nearest": (
            saved(Image.fromarray(blurred.astype(np.uint8)), "PNG"),
            {**colors, "unknown_colors": "nearest"},
        ),
        "RGB, BMP": (saved(colored, "BMP"), colors),
        "16 bits, PNG": (png(IDS, 16, 0), {}),
        "16 bits, TIFF": (saved(Image.fromarray(IDS.astype(np.uint16)), "TIFF"), {}),
        "32 bits, TIFF": (saved(Image.fromarray(IDS.astype(np.int32)), "TIFF"), {}),
        "GIF": (saved(palette, "GIF"), {}),
        "GIF, grey": (saved(Image.fromarray(IDS), "GIF"), {}),
        "BMP": (saved(palette, "BMP"), {}),
        "array": (npy(IDS), {}),
        "array of int64": (npy(IDS.astype(np.int64)), {}),
        "array of 0 and 255": (npy(IDS % 2 * 255), binary),
        "array of colours": (npy(np.asarray(colored)), colors),
    }


@pytest.mark.parametrize("kind", stored_masks())
def test_every_encoding_ends_in_the_same_train_ids(kind: str) -> None:
    data, fields = stored_masks()[kind]
    space = LabelSpace(**{"classes": {0: "a", 1: "b", 2: "c", 3: "d"}, **fields})
    expected = IDS % 2 if len(space.classes) == 2 else IDS
    assert (space.encode(read_mask(cell(data), space.encoding)) == expected).all()


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    )
)
def test_a_label_map_comes_back_exactly(label_map: np.ndarray) -> None:
    for stored in (label_map, np.asfortranarray(label_map), label_map[::-1, ::-1]):
        back = read_label_map(encode_label_map(stored))
        assert back.dtype == label_map.dtype and (back == stored).all()


def _claims(width: int, height: int) -> bytes:
    """A PNG of one pixel whose head says otherwise: what a bomb looks like before it is unpacked."""
    data = bytearray(png(np.zeros((1, 1), np.uint8), 8, 0))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("read", [read_image, read_mask, upright_size])
@pytest.mark.parametrize("size", [(20_000, 9_001), (30_000, 30_000), (65_000, 65_000)])
def test_a_file_of_too_many_pixels_is_refused_by_its_head(
    read: Any, size: tuple[int, int], recwarn: pytest.WarningsRecorder
) -> None:
    cell = {"path": "bomb.png", "bytes": _claims(*size)}
    with pytest.raises(TooLargeError) as raised:
        read(cell)
    pixels = size[0] * size[1]
    for words in ("bomb.png", f"{size[0]}×{size[1]}", str(MAX_PIXELS), f"data.max_pixels: {pixels}"):
        assert words in str(raised.value)
    assert not recwarn.list


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pillows_own_limit_neither_warns_nor_stops_what_was_allowed(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_mask(path, max_pixels=100)[9, 9] == 99 and read_image(path, max_pixels=100).size == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 10 and not recwarn.list
    with pytest.raises(TooLargeError):
        read_mask(path, max_pixels=99)
