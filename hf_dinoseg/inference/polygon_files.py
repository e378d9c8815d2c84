"""Predictions in the formats of labelling tools and maps: polygons, and areas."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..labels import LabelSpace
from .polygons import Region, joined


def geojson(regions: Sequence[Region], labels: LabelSpace) -> dict[str, Any]:
    """A FeatureCollection (RFC 7946) in pixels: x to the right, y down, (0, 0) the corner of the first pixel."""
    features = [
        {
            "type": "Feature",
            "properties": {"id": region.label_id, "name": labels.classes[region.label_id], "pixels": region.pixels},
            "geometry": {"type": "Polygon", "coordinates": [[*r.tolist(), r[0].tolist()] for r in region.rings]},
        }
        for region in regions
    ]
    return {"type": "FeatureCollection", "features": features}


def labelme(regions: Sequence[Region], labels: LabelSpace, image: str, size: tuple[int, int]) -> dict[str, Any]:
    """A file of LabelMe; `image` is the path to the image from the folder of the file."""
    shapes = [
        {
            "label": labels.classes[region.label_id],
            "points": joined(region.rings).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for region in regions
    ]
    whole = {"imagePath": image, "imageData": None, "imageHeight": size[1], "imageWidth": size[0]}
    return {"version": "5.0.1", "flags": {}, "shapes": shapes, **whole}


def yolo(regions: Sequence[Region], size: tuple[int, int]) -> str:
    """A line for each region: its id, then x and y as shares of width and height."""
    lines = []
    for region in regions:
        corners = (joined(region.rings) / np.array(size)).ravel()
        lines.append(" ".join([str(region.label_id), *(f"{value:.8g}" for value in corners)]) + "\n")
    return "".join(lines)


def coco(regions: Sequence[Region], labels: LabelSpace, image: str, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's JSON of one image; `image` is its file name."""
    annotations = []
    for number, region in enumerate(regions, 1):
        (left, top), (right, bottom) = region.rings[0].min(axis=0).tolist(), region.rings[0].max(axis=0).tolist()
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": region.label_id,
                "segmentation": [joined(region.rings).ravel().tolist()],
                "area": region.pixels,
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
        )
    categories = [{"id": i, "name": labels.classes[i]} for i in labels.original_ids]
    entry = {"id": 1, "file_name": image, "width": size[0], "height": size[1]}
    return {"images": [entry], "annotations": annotations, "categories": categories}


def merge_coco(parts: Iterable[Path]) -> dict[str, Any]:
    """One file of those of single images, numbered anew."""
    whole: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, path in enumerate(parts, 1):
        part = json.loads(path.read_bytes())
        whole["images"].append({**part["images"][0], "id": number})
        for entry in part["annotations"]:
            whole["annotations"].append({**entry, "id": len(whole["annotations"]) + 1, "image_id": number})
        whole["categories"] = part["categories"]
    return whole


def areas(label_map: np.ndarray, labels: LabelSpace, image: str, pixel_size: tuple[float, str] | None = None) -> str:
    """A CSV of one image: a line for each class, the absent among them, and one for void.

    Args:
        label_map: (H, W) original ids.
        labels: their names.
        image: what the first column holds.
        pixel_size: side of a pixel and its unit, such as (0.25, "m"), for a column of areas.
    """
    ids, counts = np.unique(label_map, return_counts=True)
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "id", "class", "pixels", "share", *([f"area_{pixel_size[1]}2"] if pixel_size else [])])
    for label_id, name in [*((i, labels.classes[i]) for i in labels.original_ids), (labels.void_id, "(no class)")]:
        pixels = found.get(label_id, 0)
        area = [f"{pixels * pixel_size[0] ** 2:.10g}"] if pixel_size else []
        rows.writerow([image, label_id, name, pixels, f"{pixels / label_map.size:.6f}", *area])
    return text.getvalue()


def merge_areas(parts: Iterable[Path]) -> str:
    """One CSV of those of single images."""
    lines: list[str] = []
    for path in parts:
        head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines += rows if lines else [head, *rows]
    return "".join(lines)


def path_between(image: str, file: Path) -> str:
    """How the image is found from the folder of a file that is about it; a URL or another drive as it is."""
    if "://" in image:
        return image
    try:
        return Path(os.path.relpath(os.path.abspath(image), os.path.abspath(file.parent))).as_posix()
    except ValueError:
        return image
