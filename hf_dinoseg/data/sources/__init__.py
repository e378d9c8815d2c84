"""Where images and masks come from, one file a source. Every source gives the same three columns: `id`, `image`,
`mask`.

`image` and `mask` stay files (paths or encoded bytes); `images` opens them. A new layout of files starts here.
"""

from __future__ import annotations

from typing import Any

from datasets import DatasetDict

from ...errors import DataError
from ...labels import LabelSpace
from .coco import read_coco
from .columns import FEATURES
from .cvat import read_cvat
from .folder import load_folder
from .label_studio import read_label_studio
from .labelme import read_labelme
from .memory import holds_images, kind_of, load_memory, load_memory_rows, load_memory_validation
from .mixture import mix
from .saved_dataset import StoredSplits, load_stored
from .shapes import Reader, load_shapes
from .synthetic_retina import load_synthetic_retina
from .table import load_table
from .voc import load_voc
from .yolo import read_yolo

__all__ = [
    "FEATURES",
    "SHAPES",
    "StoredSplits",
    "holds_images",
    "kind_of",
    "load_folder",
    "load_memory",
    "load_memory_rows",
    "load_memory_validation",
    "load_source",
    "load_shapes",
    "load_stored",
    "load_synthetic_retina",
    "load_table",
    "load_voc",
    "mix",
]

#: Formats whose annotations are shapes, and what reads them.
SHAPES: dict[str, Reader] = {
    "coco": read_coco,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "labelme": read_labelme,
    "yolo": read_yolo,
}


def load_source(source: str, labels: LabelSpace | None = None, **fields: Any) -> DatasetDict:
    """`train` and `validation` of any source; images and masks are not opened.

    Args:
        source: its name in a recipe: `folder`, `table`, `hub`, `parquet`, `arrow`, `imagefolder`, `synthetic-retina`
            `voc`, `mixture`, or one of `SHAPES`; one in `memory` is loaded by `load_memory`.
        labels: where names of classes find their ids; needed by `SHAPES` alone.
        fields: the other fields that the recipe has for it.

    Returns:
        Columns `id` (str), `image` and `mask` (cells of `datasets.Image(decode=False)`: `path` and `bytes`).

    Raises:
        DataError: if the data is not there or is not laid out as the fields say.
    """
    if source == "folder":
        return load_folder(**fields)
    if source == "table":
        return load_table(**fields)
    if source == "memory":
        raise DataError(
            f"data.source: the data of this recipe was given in Python ({fields.get('kind') or 'a dataset'}), in no "
            "file; give it again, by dataset=… of hf_dinoseg.train, check or evaluate, or name another source."
        )
    if source == "synthetic-retina":
        return load_synthetic_retina(**fields)
    if source == "mixture":
        entries = [dict(entry) for entry in fields["sources"]]
        weights = [entry.pop("weight") for entry in entries]
        return mix([load_source(labels=labels, **entry) for entry in entries], weights)
    if source == "voc":
        return load_voc(**fields)
    if source in SHAPES:
        if labels is None:
            raise DataError(f"data.source: {source} finds the ids of its classes in `labels`, which are missing.")
        return load_shapes(SHAPES[source], labels, **fields)
    place = fields.pop("repo_id" if source == "hub" else "root")
    return load_stored(source, place=place, **fields)
