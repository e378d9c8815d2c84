"""Tiny datasets in memory: a clean one, and whatever a test plants in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace

Rows = list[dict[str, Any]]


def _encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def _quarters(values: tuple[int, int, int, int] = (0, 1, 2, 3), dtype: Any = np.uint8) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=dtype)
    mask[:20, 30:], mask[20:, :30], mask[20:, 30:] = values[1:]
    mask[:20, :30] = values[0]
    return mask


def _row(mask: Any, name: str = "a", image: Any = None, kind: str = "PNG") -> dict[str, Any]:
    if image is None:
        seed = sum(ord(letter) * 31**place for place, letter in enumerate(name))
        image = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return {
        "id": name,
        "image": {"path": f"{name}.png", "bytes": image if isinstance(image, bytes) else _encode(image)},
        "mask": {"path": f"{name}_mask.png", "bytes": mask if isinstance(mask, bytes) else _encode(mask, kind)},
    }


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encoded bytes of an image."""
    return _encode


@pytest.fixture
def quarters() -> Callable[..., np.ndarray]:
    """A (40, 60) mask of four values, a quarter of the pixels each."""
    return _quarters


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    """A pair from a mask (array, image or bytes) and, if given, an image."""
    return _row


@pytest.fixture
def splits() -> Callable[..., dict[str, Rows]]:
    """Two splits of three pairs each, all with the same mask."""

    def make(mask: Any, kind: str = "PNG") -> dict[str, Rows]:
        return {
            split: [_row(mask, f"{split}{number}", kind=kind) for number in range(3)]
            for split in ("train", "validation")
        }

    return make


@pytest.fixture
def space() -> LabelSpace:
    return LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"}, ignore=(255,))
