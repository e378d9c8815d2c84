"""From files to batches: sources → prepared targets → augmented samples → batches."""

from .collate import collate, collate_eval, expand_batch
from .dataset import EvalDataset, SegmentationDataset
from .label_maps import read_label_map
from .label_zero import with_zero, zero_is_void, zero_mask
from .sampling import RareClassCrops
from .sources import (
    holds_images,
    kind_of,
    load_folder,
    load_memory,
    load_memory_rows,
    load_memory_validation,
    load_source,
    load_stored,
    load_synthetic_retina,
    load_table,
)
from .streaming import StreamingSegmentationDataset, StreamLoader, as_stream, first_rows, open_stream
from .synthetic import draw_fundus
from .targets import Skipped, class_counts, drop_bad, fingerprint, prepare_targets, sample_digests
from .transforms import TrainTransform

__all__ = [
    "EvalDataset",
    "RareClassCrops",
    "SegmentationDataset",
    "Skipped",
    "StreamLoader",
    "StreamingSegmentationDataset",
    "TrainTransform",
    "as_stream",
    "class_counts",
    "collate",
    "collate_eval",
    "draw_fundus",
    "drop_bad",
    "expand_batch",
    "fingerprint",
    "first_rows",
    "holds_images",
    "kind_of",
    "load_folder",
    "load_memory",
    "load_memory_rows",
    "load_memory_validation",
    "load_source",
    "load_stored",
    "load_synthetic_retina",
    "load_table",
    "open_stream",
    "prepare_targets",
    "read_label_map",
    "sample_digests",
    "with_zero",
    "zero_is_void",
    "zero_mask",
]
