"""Label Studio's JSON: a list of tasks, coordinates in per cent (https://labelstud.io/guide/export)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ...errors import DataError
from ...labels import LabelSpace
from .coco import box_ring
from .shapes import (
    AnnotatedImage,
    Rules,
    Shape,
    ellipse_ring,
    image_place,
    pixel_runs,
    read_json,
    turned,
    wrong_layout,
)

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what an upload's name is given in front


def read_label_studio(
    base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace
) -> list[AnnotatedImage]:
    """The images of a file in its order. Of a task that was annotated several times, the recipe says which is taken."""
    path = base / annotations
    tasks = read_json(path)
    try:
        if rules.several is None and (n := sum(len(_annotations(task)) > 1 for task in tasks)):
            raise DataError(
                f"data.several: {n} images of {path} were annotated more than once. Write several: first or "
                "several: last, to say which annotation is taken."
            )
        return [_image(base, image, task, path, rules) for task in tasks]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise wrong_layout(path, "Label Studio's JSON (not JSON-MIN)", error) from error


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in task["annotations"] if not each.get("was_cancelled")]


def _image(base: Path, folder: str, task: dict[str, Any], path: Path, rules: Rules) -> AnnotatedImage:
    place, name = image_place(base, folder, _file_name(base / folder, _address(task)), str(path))
    each = AnnotatedImage(place, name, str(path))
    if not (found := _annotations(task)):
        return each
    for entry in found[-1 if rules.several == "last" else 0]["result"]:
        if "original_width" not in entry:
            continue  # text and choices about the image
        each.size = (int(entry["original_width"]), int(entry["original_height"]))
        try:
            if (shape := _shape(entry, each.size)) is not None:
                each.shapes.append(shape)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            each.fault = f"{path}: a result of task {task.get('id')} cannot be read ({error})."
    return each


def _address(task: dict[str, Any]) -> str:
    """Where the task's image lies: the value that looks like a place."""
    values = [value for value in task["data"].values() if isinstance(value, str)]
    return str(task["data"].get("image") or next(value for value in values if "/" in value or "." in value))


def _file_name(folder: Path, address: str) -> str:
    """The name of the image below the folder, whether it was uploaded, served from a local folder, or linked."""
    parts = urlsplit(address)
    names = [given[0]] if (given := parse_qs(parts.query).get("d")) else []
    path = unquote(parts.path)
    names += [path.rpartition("/")[2], _UPLOAD.sub("", path.rpartition("/")[2])]
    names += [name.rpartition("/")[2] for name in names[:1]]
    return next((name for name in names if (folder / name).is_file()), names[-1])


def _shape(entry: dict[str, Any], size: tuple[int, int]) -> Shape | None:
    kind, value = entry["type"], entry["value"]
    if kind.endswith("labels") and not value.get(kind):
        raise ValueError("it has no label")
    if not kind.endswith("labels") or kind == "labels":
        return None  # the same shape again, without its label
    label, across = str(value[kind][0]), (size[0] / 100, size[1] / 100)

    def pixels(*names: str) -> list[float]:
        return [float(value[name]) * across[place % 2] for place, name in enumerate(names)]

    if kind == "polygonlabels":
        return Shape(label, [[[float(v) * across[n] for point in value["points"] for n, v in enumerate(point)]]])
    angle = float(value.get("rotation", 0))
    if kind == "rectanglelabels":
        left, top, width, height = pixels("x", "y", "width", "height")
        ring = box_ring(left, top, left + width, top + height)
        return Shape(label, [[turned(ring, angle, left, top)]], kind="box")
    if kind == "ellipselabels":
        x, y, radius_x, radius_y = pixels("x", "y", "radiusX", "radiusY")
        return Shape(label, [[turned(ellipse_ring(x, y, radius_x, radius_y), angle, x, y)]])
    if kind == "brushlabels":
        alpha = decode_brush(value["rle"])[3::4]
        return Shape(label, runs=pixel_runs(alpha.reshape(size[1], size[0]) > 0, 0, 0))
    if kind == "keypointlabels":
        return Shape(label, kind="line")
    raise ValueError(f"its kind, {kind}, is not known")


def decode_brush(packed: Sequence[int]) -> np.ndarray:
    """The bytes of a brush stroke's image, red, green, blue, alpha of pixel after pixel, from Label Studio's packing.

    A stream of bits: how many values there are (32 bits), the width of a value less 1 (5), four widths of lengths less
    1 (4 each). Then blocks: a bit that tells a run from values written out, which of the four widths its length has
    (2), the length less 1, and one value or so many.

    Raises:
        ValueError: if it ends before its time.
    """
    bits = "".join(f"{int(byte):08b}" for byte in packed)
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        if place > len(bits):
            raise ValueError("its brush stroke is cut off")
        return int(bits[place - width : place], 2)

    count, width = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if count > 4 * 10**9 or count > len(bits) << 17:
        raise ValueError("its brush stroke is damaged")
    values, done = np.zeros(count, np.uint8), 0
    while done < count:
        is_run, length = read(1), read(widths[read(2)]) + 1
        end = min(done + length, count)
        if is_run:
            values[done:end] = read(width)
        else:
            values[done:end] = [read(width) for _ in range(end - done)]
        done = end
    return values
