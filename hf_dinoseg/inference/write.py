"""What a prediction is written as, one file for each form."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from ..errors import InputError
from . import polygon_files as files
from .polygons import regions

if TYPE_CHECKING:
    from .segmenter import SegmentationResult

Format = Literal["ids", "color", "overlay", "panel", "probabilities", "coco", "geojson", "labelme", "yolo", "areas"]

#: Forms made of polygons.
POLYGONS = ("coco", "geojson", "labelme", "yolo")


@dataclass(frozen=True)
class Writing:
    """How results are written.

    Attributes:
        transparent: whether classes that are drawn black (background) are clear in `ids` and `color`.
        tolerance: of polygons, in pixels, see `polygons.regions`.
        omit: original ids of classes that polygons leave out.
        pixel_size: side of a pixel and its unit, for `areas`.
    """

    transparent: bool = False
    tolerance: float = 1.0
    omit: frozenset[int] = frozenset()
    pixel_size: tuple[float, str] | None = None


def write_result(
    result: SegmentationResult,
    form: Format,
    path: Path,
    source: str = "",
    name: str = "",
    note: str = "",
    how: Writing = Writing(),  # noqa: B008: immutable
) -> None:
    """Write one form of a prediction; the file has its name only once it is whole.

    * `ids`: PNG whose values are the original ids, in colours (`SegmentationResult.save`).
    * `color`: PNG of the classes' colours, RGB (RGBA if transparent), void hatched.
    * `overlay`: the tinted image, in the format of the path's ending.
    * `panel`: PNG, image and prediction side by side with a legend.
    * `probabilities`: NPZ of `probabilities` (C, H, W) float16, each pixel's scores over their sum; `ids` (C,) the
      original ids in that order; `names` (C,).
    * `coco`, `geojson`, `labelme`, `yolo`: polygons of all regions, see `polygon_files`.
    * `areas`: CSV of the pixels of each class.

    Args:
        result: with `class_scores` for `probabilities`.
        source: path or URL of the image.
        name: what `coco` and `areas` call the image.
        note: of the panel.
        how: settings of the forms.

    Raises:
        ValueError: on another form, or scores that are missing.
    """
    from ..visualize import color_image, panel, save_panel

    if form == "ids":
        result.save(path, how.transparent)
        return
    with whole_file(path) as unfinished:
        if form in POLYGONS or form == "areas":
            text = _as_text(result, form, path, source, name, how)
            Path(unfinished).write_text(text, encoding="utf-8", newline="")
            return
        if form == "color":
            color_image(result.label_map, result.label_space, how.transparent).save(unfinished, format="PNG")
        elif form == "overlay":
            kind = Image.registered_extensions()[path.suffix.lower()]
            result.overlay().save(unfinished, format=kind, quality=95)
        elif form == "panel":
            save_panel(
                panel(result.image, None, result.label_map, result.label_space, Path(source).name, note),
                Path(unfinished),
            )
        elif form == "probabilities":
            _write_probabilities(result, unfinished)
        else:
            raise InputError(f"{form!r} is no form of a prediction.")


def _as_text(result: SegmentationResult, form: Format, path: Path, source: str, name: str, how: Writing) -> str:
    labels, size = result.label_space, result.image.size
    if form == "areas":
        return files.areas(result.label_map, labels, name, how.pixel_size)
    found = [each for each in regions(result.label_map, labels, how.tolerance) if each.label_id not in how.omit]
    if form == "yolo":
        return files.yolo(found, size)
    if form == "geojson":
        return json.dumps(files.geojson(found, labels))
    if form == "labelme":
        return json.dumps(files.labelme(found, labels, files.path_between(source, path), size), indent=1)
    return json.dumps(files.coco(found, labels, name, size))


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name to write to, `PATH.part`, which becomes the file when the block ends; on an error nothing is left of it.

    A process that is killed leaves at most the unfinished file. Missing folders are made.
    """
    unfinished = f"{os.fspath(path)}.part"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def _write_probabilities(result: SegmentationResult, path: str) -> None:
    if result.class_scores is None:
        raise InputError("probabilities are written from the scores of all classes; the result has none.")
    # Scores of mask heads are sums over queries: shares of their sum are what can be read as probabilities.
    total = result.class_scores.sum(axis=0).clip(min=np.finfo(np.float32).tiny)
    ids = result.label_space.original_ids
    with open(path, "wb") as file:
        np.savez(
            file,
            probabilities=(result.class_scores / total).astype(np.float16),
            ids=np.array(ids),
            names=np.array([result.label_space.classes[i] for i in ids]),
        )


__all__ = ["POLYGONS", "Format", "Writing", "whole_file", "write_result"]
