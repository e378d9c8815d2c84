"""What a prediction is written as, one file for each form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from ..errors import InputError

if TYPE_CHECKING:
    from .segmenter import SegmentationResult

Format = Literal["ids", "color", "overlay", "panel", "probabilities"]


def write_result(
    result: SegmentationResult, form: Format, path: Path, title: str = "", note: str = "", transparent: bool = False
) -> None:
    """Write one form of a prediction; the file has its name only once it is whole.

    * `ids`: PNG whose values are the original ids, in colours (`SegmentationResult.save`).
    * `color`: PNG of the classes' colours, RGB (RGBA if transparent), void hatched.
    * `overlay`: the tinted image, in the format of the path's ending.
    * `panel`: PNG, image and prediction side by side with a legend.
    * `probabilities`: NPZ of `probabilities` (C, H, W) float16, each pixel's scores over their sum; `ids` (C,) the
      original ids in that order; `names` (C,).

    Args:
        result: with `class_scores` for `probabilities`.
        title, note: of the panel.
        transparent: whether classes that are drawn black (background) are clear in `ids` and `color`.

    Raises:
        ValueError: on another form, or scores that are missing.
    """
    from ..visualize import color_image, panel, save_panel

    if form == "ids":
        result.save(path, transparent)
        return
    with whole_file(path) as unfinished:
        if form == "color":
            color_image(result.label_map, result.label_space, transparent).save(unfinished, format="PNG")
        elif form == "overlay":
            kind = Image.registered_extensions()[path.suffix.lower()]
            result.overlay().save(unfinished, format=kind, quality=95)
        elif form == "panel":
            save_panel(panel(result.image, None, result.label_map, result.label_space, title, note), Path(unfinished))
        elif form == "probabilities":
            _write_probabilities(result, unfinished)
        else:
            raise InputError(f"{form!r} is no form of a prediction.")


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


__all__ = ["Format", "whole_file", "write_result"]
