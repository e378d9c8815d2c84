"""Id 0 where it is void: told from other void, which label maps do not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..labels import LabelSpace


def zero_is_void(label_space: LabelSpace) -> bool:
    """Whether 0 may stand in masks and is no class: the model then has no output for background."""
    return label_space.train_ids.get(0) == label_space.ignore_index


def with_zero(label_space: LabelSpace) -> LabelSpace:
    """The same label space with 0, which is void in it, as a class of its own."""
    ignore = tuple(i for i in label_space.ignore if i != 0)
    return replace(
        label_space, classes={0: "background", **label_space.classes}, ignore=ignore, reduce_zero_label=False
    )


def zero_mask(mask: np.ndarray, label_space: LabelSpace, where: str = "mask") -> np.ndarray:
    """Where a mask says 0.

    Args:
        mask: as it is stored; see `images.read_mask`.
        label_space: one in which 0 is void.
        where: what to call the mask in an error.

    Returns:
        (H, W) bool; nowhere true if colours name the ids and 0 has none.
    """
    if label_space.encoding == "rgb" and 0 not in label_space.colors:
        return np.zeros(mask.shape[:2], dtype=bool)
    space = with_zero(label_space)
    return space.encode(mask, where) == space.train_ids[0]


__all__ = ["with_zero", "zero_is_void", "zero_mask"]
