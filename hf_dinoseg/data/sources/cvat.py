"""CVAT's own XML, "CVAT for images 1.1" (https://docs.cvat.ai/docs/manual/advanced/xml_format/)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from ...errors import DataError
from ...labels import LabelSpace
from .coco import box_ring
from .shapes import AnnotatedImage, Rules, Shape, ellipse_ring, image_place, turned, wrong_layout


def read_cvat(base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace) -> list[AnnotatedImage]:
    """The images of a file in its order; shapes in their `z_order`, then in the file's."""
    path = base / annotations
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.annotations: {path} cannot be read ({error.strerror or error}). Check data.root, data.annotations "
            "and the splits."
        ) from None
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError(f"data.annotations: {path} defines entities, which CVAT's exports do not. It is not read.")
    try:
        root = ET.fromstring(content)  # noqa: S314  (there are no entities that could grow)
        if root.find("track") is not None:
            raise ValueError("it is of a video; export the task as CVAT for images 1.1")
        return [_image(base, image, entry, path) for entry in root.iter("image")]
    except (ET.ParseError, KeyError, ValueError) as error:
        raise wrong_layout(path, "CVAT for images 1.1", error) from error


def _image(base: Path, folder: str, entry: ET.Element, path: Path) -> AnnotatedImage:
    place, name = image_place(base, folder, entry.attrib["name"], str(path))
    each = AnnotatedImage(place, name, str(path), (int(entry.attrib["width"]), int(entry.attrib["height"])))
    shapes = [element for element in entry if element.tag != "tag"]
    for element in sorted(shapes, key=lambda element: int(element.get("z_order", 0))):
        try:
            each.shapes.append(_shape(element))
        except (KeyError, ValueError) as error:
            each.fault = f"{path}: a {element.tag} of {place} cannot be read ({error})."
    return each


def _shape(element: ET.Element) -> Shape:
    label = element.attrib["label"]

    def number(*names: str) -> list[float]:
        return [float(element.attrib[name]) for name in names]

    if element.tag == "polygon":
        return Shape(label, [[[float(v) for point in element.attrib["points"].split(";") for v in point.split(",")]]])
    angle = float(element.get("rotation", 0))
    if element.tag == "box":
        left, top, right, bottom = number("xtl", "ytl", "xbr", "ybr")
        ring = box_ring(left, top, right, bottom)
        return Shape(label, [[turned(ring, angle, (left + right) / 2, (top + bottom) / 2)]], kind="box")
    if element.tag == "ellipse":
        x, y, radius_x, radius_y = number("cx", "cy", "rx", "ry")
        return Shape(label, [[turned(ellipse_ring(x, y, radius_x, radius_y), angle, x, y)]])
    if element.tag == "mask":
        left, top, width, height = (int(value) for value in number("left", "top", "width", "height"))
        counts = [int(count) for count in element.attrib["rle"].split(",")]
        return Shape(label, runs=(counts, (left, top, width, height), False))
    if element.tag in ("polyline", "points", "cuboid", "skeleton"):
        return Shape(label, kind="line")
    raise ValueError(f"its kind, {element.tag}, is not known")
