"""Metrics: everything is computed from one confusion matrix, counted picture by picture."""

from .confusion import ConfusionMatrix, confusion_matrix
from .summary import per_class_table, summarize, without_nan

__all__ = ["ConfusionMatrix", "confusion_matrix", "per_class_table", "summarize", "without_nan"]
