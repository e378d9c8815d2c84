"""Metrics: everything is computed from counts, of which a confusion matrix is the first, added image by image."""

from .boundary import boundary_counts, summarize_boundary
from .calibration import BINS, calibration_counts, summarize_calibration
from .confusion import ConfusionMatrix, confusion_matrix
from .intervals import image_counts, image_scores, iou_intervals
from .label_zero import Figure, ThresholdCurve, background_figures, background_matrices, is_worse
from .summary import BETA, per_class_table, summarize

__all__ = [
    "BETA",
    "BINS",
    "ConfusionMatrix",
    "Figure",
    "ThresholdCurve",
    "background_figures",
    "background_matrices",
    "boundary_counts",
    "calibration_counts",
    "confusion_matrix",
    "image_counts",
    "image_scores",
    "is_worse",
    "iou_intervals",
    "per_class_table",
    "summarize",
    "summarize_boundary",
    "summarize_calibration",
]
