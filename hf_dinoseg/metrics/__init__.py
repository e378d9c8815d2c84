"""Metrics: everything is computed from one confusion matrix, counted picture by picture."""

from .confusion import ConfusionMatrix, confusion_matrix
from .summary import per_class_table, summarize

__all__ = ["ConfusionMatrix", "confusion_matrix", "per_class_table", "summarize"]
