"""Inference: one path from images to label maps, in training, on the command line and in Python."""

from .background import Background
from .folders import Job, Outcome, segment_files
from .large_images import segment_large
from .predict import Inference, as_input, predict_best, predict_scores
from .segmenter import SegmentationResult, Segmenter
from .windows import window_positions

__all__ = [
    "Background",
    "Inference",
    "Job",
    "Outcome",
    "SegmentationResult",
    "Segmenter",
    "as_input",
    "predict_best",
    "predict_scores",
    "segment_files",
    "segment_large",
    "window_positions",
]
