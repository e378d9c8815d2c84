"""LabelMe's JSON: a file an image, shapes with the names of their classes (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...images import read_mask
from ...labels import LabelSpace
from .coco import box_ring
from .shapes import AnnotatedImage, Rules, Shape, ellipse_ring, pixel_runs, read_json
from .yolo import pair_files


def read_labelme(base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace) -> list[AnnotatedImage]:
    """All images of the folder, by name; an image without a file has no annotation."""
    found = []
    for name, path, file in pair_files(base, image, annotations, ".json"):
        each = AnnotatedImage(path, name, file or str(base / annotations))
        if file is not None:
            try:
                _read(each, Path(file))
            except DataError as error:
                each.fault = str(error)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                each.fault = f"{file}: is not laid out as a file of LabelMe ({error}). Save it again, or remove it."
        found.append(each)
    return found


def _read(each: AnnotatedImage, file: Path) -> None:
    content = read_json(file)
    each.size = (int(content["imageWidth"]), int(content["imageHeight"])) if content.get("imageWidth") else None
    each.shapes = [_shape(entry) for entry in content["shapes"]]


def _shape(entry: dict[str, Any]) -> Shape:
    kind, label = entry.get("shape_type") or "polygon", str(entry["label"])
    points = [(float(x), float(y)) for x, y in entry["points"]]
    if kind == "polygon":
        return Shape(label, [[[value for point in points for value in point]]])
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[0], points[len(points) // 2]  # two opposite corners, or all four
        return Shape(label, [[box_ring(x0, y0, x1, y1)]], kind="box")
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return Shape(label, [[ellipse_ring(x, y, radius, radius)]])
    if kind == "mask":
        pixels = read_mask({"path": "mask", "bytes": base64.b64decode(entry["mask"])}) > 0
        return Shape(label, runs=pixel_runs(pixels, int(points[0][0]), int(points[0][1])))
    if kind in ("line", "linestrip", "point", "points"):
        return Shape(label, kind="line")
    raise ValueError(f"shape_type {kind!r} is not known")
