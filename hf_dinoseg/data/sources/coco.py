"""COCO's JSON: polygons and runs of pixels (https://cocodataset.org/#format-data). Roboflow, CVAT and many others
export it too.

pycocotools reads it as well, but needs a compiler where there is no wheel for it; what is used of it here is the
decoding of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...labels import LabelSpace
from .shapes import AnnotatedImage, Rules, Shape, image_place, logger, read_json, wrong_layout


def read_coco(base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace) -> list[AnnotatedImage]:
    """The images of a file in its order. Labels are category ids as they stand there."""
    path = base / annotations
    content = read_json(path)
    images: dict[Any, AnnotatedImage] = {}
    try:
        for entry in content["images"]:
            place, name = image_place(base, image, entry["file_name"], str(path))
            size = (int(entry["width"]), int(entry["height"])) if entry.get("width") and entry.get("height") else None
            images[entry["id"]] = AnnotatedImage(place, name, str(path), size)
        for entry in content["annotations"]:
            each = images[entry["image_id"]]
            try:
                each.shapes.append(_shape(entry, each.size))
            except (ValueError, TypeError, KeyError) as error:
                each.fault = f"{path}: annotation {entry.get('id')} of {each.path} cannot be read ({error})."
        _compare_names(content.get("categories", ()), labels)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise wrong_layout(path, "COCO's JSON", error) from error
    return list(images.values())


def _shape(entry: dict[str, Any], size: tuple[int, int] | None) -> Shape:
    segmentation, crowd, label = entry.get("segmentation"), bool(entry.get("iscrowd")), int(entry["category_id"])
    if isinstance(segmentation, dict):
        height, width = map(int, segmentation["size"])
        if size is not None and size != (width, height):
            raise ValueError(f"its runs are of {width}×{height} pixels, its image is {size[0]}×{size[1]}")
        counts = segmentation["counts"]
        if not isinstance(counts, list):
            counts = decode_counts(counts)
        return Shape(label, runs=([int(count) for count in counts], (0, 0, width, height), True), crowd=crowd)
    if not segmentation:
        left, top, across, down = map(float, entry["bbox"])
        return Shape(label, [[box_ring(left, top, left + across, top + down)]], kind="box", crowd=crowd)
    rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
    return Shape(label, [[[float(value) for value in ring]] for ring in rings], crowd=crowd)


def box_ring(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def decode_counts(text: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed text.

    A number is written in groups of five bits, the lowest first, each as the character 48 above its value; a sixth bit
    says that more groups follow, and the highest bit of the last is the sign. From the fourth on, a number is the
    difference from the length two before.

    Raises:
        ValueError: on text that is cut off or holds other characters.

    Example:
        >>> decode_counts("52203")
        [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode() if isinstance(text, str) else bytes(text), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return []
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its compressed runs are damaged")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 11:
        raise ValueError("its compressed runs are damaged")
    groups = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * groups), starts)
    numbers = np.where(codes[ends] & 16 != 0, numbers - (1 << 5 * (ends - starts + 1)), numbers)
    for first in (1, 2):  # lengths two apart add up; the first stands alone
        numbers[first::2] = np.cumsum(numbers[first::2])
    return [int(number) for number in numbers]


def _compare_names(categories: Any, labels: LabelSpace) -> None:
    for category in categories:
        name, label_id = str(category["name"]), int(category["id"])
        named = labels.classes.get(label_id)
        if named is not None and named.lower() != name.lower():
            logger.warning("labels.classes calls %d %r, the annotations call it %r", label_id, named, name)
