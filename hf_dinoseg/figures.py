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

#: share of void pixels of the truth above which the figures of an evaluation come with a warning
MUCH_VOID = 1 / 3


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


def void_text(metrics: Mapping[str, Any]) -> str:
    """What people have to know of void truth beside the figures of an evaluation; empty where there is none.

    Args:
        metrics: what `metrics.json` holds; `void_share` is read, which old ones lack.

    Example:
        >>> void_text({"void_share": 0.125})
        '12.5 % of the pixels of the truth are void and not measured.'
    """
    share = metrics.get("void_share")
    if not is_figure(share) or not share:
        return ""
    told = f"{100 * share:.1f}" if share >= 0.001 else "Less than 0.1"
    text = f"{told} % of the pixels of the truth are void and not measured."
    if share > MUCH_VOID:
        text += " That is more than a third: what the model answers there may be wrong, and no figure shows it."
    return text


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
