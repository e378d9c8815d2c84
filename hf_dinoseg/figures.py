"""Figures of an evaluation: ratios of counts, their means, and how people and JSON read them.

The one home of "IoU from counts", of what becomes of a figure that does not exist, and of per cent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def ratio(part: Any, whole: Any) -> np.ndarray:
    """`part / whole` as float64; NaN where the whole is nothing."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def iou(right: Any, truth: Any, predicted: Any) -> np.ndarray:
    """Intersection over union: pixels right over pixels true or predicted. NaN for a class that is neither.

    Args:
        right, truth, predicted: counts of pixels, of any one shape or shapes that broadcast.

    Example:
        >>> iou(np.array([2, 0, 0]), np.array([3, 1, 0]), np.array([4, 0, 0]))
        array([0.4, 0. , nan])
    """
    right, truth, predicted = (np.asarray(counts, dtype=np.float64) for counts in (right, truth, predicted))
    return ratio(right, truth + predicted - right)


def mean_of_known(values: np.ndarray, axis: int | None = None) -> Any:
    """The mean of what is not NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    mean = ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))
    return float(mean) if axis is None else mean


def is_figure(value: Any) -> bool:
    """Whether a figure exists: a number that is not NaN or infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(value: Any, digits: int = 2) -> str:
    """A share in per cent; a dash where there is none.

    Example:
        >>> percent(0.75), percent(float("nan"))
        ('75.00', '-')
    """
    return f"{100 * value:.{digits}f}" if is_figure(value) else "-"


def without_nan(data: Any) -> Any:
    """Plain data for JSON, which has no NaN: a figure that does not exist is null."""
    if isinstance(data, Mapping):
        return {str(key): without_nan(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write figures as JSON, with null for NaN."""
    path.write_text(json.dumps(without_nan(data), indent=2) + "\n", encoding="utf-8")
