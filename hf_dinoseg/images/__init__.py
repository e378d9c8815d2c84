"""Opening images and masks: of any kind, any size, from files and from bytes."""

from .finding import files_below, image_endings, mask_endings
from .opening import (
    FORMATS,
    MAX_FOREIGN_PIXELS,
    MAX_PIXELS,
    Cell,
    cell_name,
    dropped_parts,
    image_size,
    open_image,
    stored_upright_size,
    upright_rgb,
)
from .reading import read_image, read_mask, read_upper, upright_size
from .rows import LARGEST, RowReader, has_strips
from .shapes import is_shapes, pack_fault, pack_shapes, polygon_shape, read_shapes, run_shape

__all__ = [
    "FORMATS",
    "LARGEST",
    "MAX_FOREIGN_PIXELS",
    "MAX_PIXELS",
    "Cell",
    "RowReader",
    "cell_name",
    "dropped_parts",
    "files_below",
    "has_strips",
    "image_endings",
    "image_size",
    "is_shapes",
    "mask_endings",
    "open_image",
    "pack_fault",
    "pack_shapes",
    "polygon_shape",
    "read_image",
    "read_mask",
    "read_shapes",
    "read_upper",
    "run_shape",
    "stored_upright_size",
    "upright_rgb",
    "upright_size",
]
