"""Metrics: everything is computed from one confusion matrix, counted picture by picture."""

from .background import ThresholdCurve, background_figures, background_matrices
from .confusion import ConfusionMatrix, confusion_matrix
from .summary import per_class_table, summarize, without_nan

__all__ = [
    "ConfusionMatrix",
    "ThresholdCurve",
    "background_figures",
    "background_matrices",
    "confusion_matrix",
    "per_class_table",
    "summarize",
    "without_nan",
]
