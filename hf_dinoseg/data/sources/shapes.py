"""Annotations that are shapes, as labelling tools export them, to masks: what is the same for every format.

A reader (`coco.py`, `cvat.py`, …) says which shapes a file holds. What they mean where the format leaves it open is
decided by the recipe: `Rules`. Masks stay shapes in the rows (`images.shapes`) and are drawn when they are first read.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from datasets import Dataset, DatasetDict

from ...errors import DataError, ImageError
from ...images import pack_fault, pack_shapes, polygon_shape, run_shape, stored_upright_size
from ...images.shapes import Overlap, Ring, fill
from ...labels import LabelSpace
from .columns import FEATURES, absolute_root, hold_out, place_inside, some

logger = logging.getLogger(__name__)

_SPLIT = "{split}"


@dataclass
class Shape:
    """A shape of an annotated image.

    Attributes:
        label: the id of its class, or the class's name in formats that have names only.
        parts: polygons, each of one ring or more (the further ones cut holes); pixels are in the shape if they are in
            any. None for runs.
        runs: what `images.run_shape` takes after the id; None for polygons.
        kind: `box`: a rectangle, which may stand for an object instead of outlining it; `line`: a point or line, which
            has no area.
        crowd: whether it outlines a group (COCO's `iscrowd`).
    """

    label: int | str
    parts: list[list[Ring]] | None = None
    runs: tuple[Sequence[int], tuple[int, int, int, int], bool] | None = None
    kind: Literal["area", "box", "line"] = "area"
    crowd: bool = False


@dataclass
class AnnotatedImage:
    """What a file says of an image.

    Attributes:
        path: the image.
        name: its name without ending, below the folder of images.
        where: the annotation file, for messages.
        size: (width, height) that shapes refer to; None takes it from the image.
        shapes: in the file's order, later ones drawn over earlier ones.
        relative: whether coordinates are shares of width and height.
        fault: what is wrong with its annotation; None if nothing is.
    """

    path: str
    name: str
    where: str
    size: tuple[int, int] | None = None
    shapes: list[Shape] = field(default_factory=list)
    relative: bool = False
    fault: str | None = None


@dataclass(frozen=True)
class Rules:
    """What the recipe settles, see `recipe.schema_data`."""

    unlabelled: int
    overlap: Overlap
    boxes: Literal["fill", "skip"] | None = None
    empty: Literal["keep", "skip"] | None = None
    crowd: int | Literal["class"] | None = None
    holes: Literal["cut", "fill"] | None = None
    several: Literal["first", "last"] | None = None
    names: Mapping[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """Reads the annotations of a split.

    Args:
        base: `data.root`.
        image, annotations: `data.image` and `data.annotations` with the split's name filled in.
        rules: what the recipe settles.
        labels: the names of classes, for messages.
    """

    def __call__(
        self, base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace
    ) -> list[AnnotatedImage]: ...


def load_shapes(
    read: Reader,
    labels: LabelSpace,
    root: str,
    image: str,
    annotations: str,
    train: str | None,
    validation: str | float,
    **rules: Any,
) -> DatasetDict:
    """Images with annotations of shapes.

    Args:
        read: the format's reader.
        labels: where names of classes find their ids.
        root: the folder that `image` and `annotations` are relative to.
        image: folder of the images.
        annotations: the file, or the folder of files; with `{split}` in it there is one for each split.
        train: what stands for `{split}`; None without.
        validation: likewise, or the share of the training images that is held out.
        rules: the fields of `Rules`.

    Returns:
        As `load_folder`, in the order of the file. The cells of `mask` hold shapes.

    Raises:
        DataError: if a file is missing or not laid out as its format, if a label has no id, or if the annotations leave
            open what the rules do not settle.
    """
    base, settled = absolute_root(root), Rules(**rules)
    names: dict[str, str | None] = {"train": train}
    if isinstance(validation, str):
        names["validation"] = validation
    splits = {
        split: read(base, image.replace(_SPLIT, str(name)), annotations.replace(_SPLIT, str(name)), settled, labels)
        for split, name in names.items()
    }
    found = [each for images in splits.values() for each in images]
    _check_images(found, base / image)
    _ask(found, settled)
    _check_labels(found, settled, labels)
    rows = {split: _rows(images, settled, labels) for split, images in splits.items()}
    if not isinstance(validation, str):
        return hold_out(rows["train"], validation)
    return DatasetDict(rows)


# ---------------------------------------------------------------------- what readers share


def read_json(path: Path) -> Any:
    """
    Raises:
        DataError: naming the file, if it is missing or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            raise DataError(
                f"data.annotations: {path} cannot be read ({error.strerror or error}). Check data.root, "
                "data.annotations and the splits."
            ) from None
        raise DataError(f"data.annotations: {path} is no JSON file ({error}). Export it again.") from None


def wrong_layout(path: Path, kind: str, error: Exception) -> DataError:
    """What to raise where a file lacks what its format has."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return DataError(
        f"data.annotations: {path} is not laid out as {kind} ({reason}). Check data.source, or export it again."
    )


def image_place(base: Path, folder: str, name: str, where: str) -> tuple[str, str]:
    """The path of an image that an annotation file names, and its name without ending.

    Raises:
        DataError: if it leads out of the folder.
    """
    if (path := place_inside(base / folder, name)) is None:
        raise DataError(
            f"{where}: the image {name} lies outside of {base / folder}. Set data.image to the folder of all images."
        )
    return path, PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix()


def ellipse_ring(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """An ellipse as a polygon that is nowhere a tenth of a pixel off."""
    # a chord of n lies r (1 - cos(pi / n)) inside its arc
    count = max(16, math.ceil(math.pi * math.sqrt(5 * max(radius_x, radius_y, 1))))
    angles = [2 * math.pi * n / count for n in range(count)]
    return [value for a in angles for value in (x + radius_x * math.cos(a), y + radius_y * math.sin(a))]


def turned(ring: Ring, degrees: float, x: float, y: float) -> list[float]:
    """A ring turned clockwise about a point."""
    if not degrees:
        return list(ring)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(ring[n] - x, ring[n + 1] - y) for n in range(0, len(ring), 2)]
    return [value for a, b in corners for value in (x + a * cosine - b * sine, y + a * sine + b * cosine)]


def pixel_runs(pixels: np.ndarray, left: int, top: int) -> tuple[list[int], tuple[int, int, int, int], bool]:
    """Pixels that begin at (left, top) of the image as `Shape.runs`: (H, W) bool."""
    flat = pixels.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return counts.tolist(), (left, top, pixels.shape[1], pixels.shape[0]), False


# ---------------------------------------------------------------------- what the recipe is asked


def _check_images(found: Sequence[AnnotatedImage], folder: Path) -> None:
    if not found:
        raise DataError(f"data.annotations: no annotated images for {folder}. Check data.annotations and data.image.")
    first = [each.path for each in found[:20]]
    if not any(map(os.path.exists, first)):
        raise DataError(
            f"data.image: the annotations name {some(first)}, and none of these is there. Set data.root and data.image "
            "so that the names in the annotations start from that folder."
        )


def _ask(found: Sequence[AnnotatedImage], rules: Rules) -> None:
    """One error with every setting that these annotations need and the recipe lacks."""
    asked = []

    def ask(name: str, seen: Callable[[AnnotatedImage], int], what: str, choices: str) -> None:
        if getattr(rules, name) is None and (hits := [(each, n) for each in found if (n := seen(each))]):
            count = sum(n for _, n in hits)
            asked.append(f"data.{name}: {count} {what} (the first of {hits[0][0].path}). Write {choices}.")

    ask(
        "boxes",
        lambda each: sum(shape.kind == "box" for shape in each.shapes),
        "annotations are boxes",
        "boxes: fill if all of a box is its class, boxes: skip if it only says where an object is",
    )
    ask(
        "crowd",
        lambda each: sum(shape.crowd for shape in each.shapes),
        "annotations are crowds, outlines of groups (iscrowd)",
        "crowd: class if their pixels belong to their class like any others, or an id of labels.ignore, such as "
        "crowd: 255, to leave them out",
    )
    ask(
        "holes",
        lambda each: sum(_nested(shape) for shape in each.shapes),
        "annotations have a polygon inside another",
        "holes: cut if it is a hole, holes: fill if it is not (as COCO's own tools do)",
    )
    ask(
        "empty",
        lambda each: int(not each.shapes and each.fault is None),
        "images have no annotation",
        "empty: keep if there is nothing in them (every pixel is then data.unlabelled), empty: skip if they were not "
        "annotated yet",
    )
    if asked:
        raise DataError("The annotations leave open what only you know:\n  " + "\n  ".join(asked))


def _nested(shape: Shape) -> bool:
    """Whether filling its polygons one by one differs from taking those inside others as holes."""
    if shape.parts is None or len(shape.parts) < 2 or shape.kind != "area":
        return False
    rings = [ring for part in shape.parts for ring in part]
    boxes = [(min(ring[::2]), min(ring[1::2]), max(ring[::2]), max(ring[1::2])) for ring in rings if len(ring) > 5]
    inner = [
        True
        for a in boxes
        for b in boxes
        if a is not b and a[0] <= b[0] and a[1] <= b[1] and b[2] <= a[2] and b[3] <= a[3]
    ]
    if not inner:
        return False
    width, height = (int(max(box[side] for box in boxes)) + 1 for side in (2, 3))
    try:
        together = fill(rings, width, height)[2].sum()
        return bool(together != sum(fill([ring], width, height)[2].sum() for ring in rings))
    except ValueError:
        return False


def _check_labels(found: Sequence[AnnotatedImage], rules: Rules, labels: LabelSpace) -> None:
    """That each label has an id which the recipe's labels hold."""
    counts = Counter(shape.label for each in found for shape in each.shapes if shape.kind != "line")
    ids = _ids(rules, labels)
    if unknown := [(label, n) for label, n in counts.most_common() if ids.get(label, label) not in labels.train_ids]:
        told = some(f"{label} ({n} shapes)" for label, n in unknown)
        if any(isinstance(label, str) for label, _ in unknown):
            cure = (
                "Name them in labels.classes, or give them ids: data.names: "
                f"{{{unknown[0][0]}: 255}} with an id of labels.classes, or of labels.ignore to leave them out."
            )
        else:
            cure = "Add them to labels.classes, to labels.merge, or to labels.ignore to leave them out."
        raise DataError(f"data.annotations: labels without an id in the recipe: {told}. {cure}")
    if lines := sum(shape.kind == "line" for each in found for shape in each.shapes):
        logger.warning("%d points and lines of the annotations have no area and are left out", lines)


def _ids(rules: Rules, labels: LabelSpace) -> dict[int | str, int]:
    ids: dict[int | str, int] = {name: label_id for label_id, name in labels.classes.items()}
    return ids | dict(rules.names)


# ---------------------------------------------------------------------- rows


def _rows(images: Iterable[AnnotatedImage], rules: Rules, labels: LabelSpace) -> Dataset:
    ids = _ids(rules, labels)
    kept = [each for each in images if each.shapes or each.fault or rules.empty == "keep"]
    seen = Counter(each.name for each in kept)
    if twice := [name for name, n in seen.items() if n > 1]:
        raise DataError(f"data.annotations: {kept[0].where} lists more than once: {some(twice)}. Keep one of each.")
    cells = [{"path": f"{each.path} in {each.where}", "bytes": _mask(each, rules, ids)} for each in kept]
    return Dataset.from_dict(
        {
            "id": [each.name for each in kept],
            "image": [{"path": each.path, "bytes": None} for each in kept],
            "mask": cells,
        },
        features=FEATURES,
    )


def _mask(each: AnnotatedImage, rules: Rules, ids: Mapping[int | str, int]) -> bytes:
    if each.fault is not None:
        return pack_fault(each.fault)
    size = each.size
    if size is None:
        try:
            size = stored_upright_size(each.path)
        except ImageError as error:
            return pack_fault(str(error))
    scale = size if each.relative else (1, 1)
    shapes = []
    for shape in each.shapes:
        if shape.kind == "line" or (shape.kind == "box" and rules.boxes == "skip"):
            continue
        label_id = rules.crowd if shape.crowd and isinstance(rules.crowd, int) else ids.get(shape.label, shape.label)
        if shape.runs is not None:
            shapes.append(run_shape(int(label_id), *shape.runs))
        else:
            parts = [[_scaled(ring, scale) for ring in part] for part in shape.parts or ()]
            if rules.holes == "cut":
                parts = [[ring for part in parts for ring in part]]
            shapes.append(polygon_shape(int(label_id), parts))
    return pack_shapes(size, shapes, rules.unlabelled, rules.overlap)


def _scaled(ring: Ring, scale: tuple[float, float]) -> list[float]:
    return [value * scale[place % 2] for place, value in enumerate(ring)] if scale != (1, 1) else list(ring)
