"""Pascal VOC: images, palette masks, and lists of names that divide them."""

from __future__ import annotations

from datasets import DatasetDict

from .folder import load_folder


def load_voc(root: str, train: str = "train", validation: str | float = "val") -> DatasetDict:
    """The layout of Pascal VOC, which labelling tools export as "Pascal VOC" or "segmentation mask".

    Args:
        root: the folder that holds `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`.
        train: name of a list in `ImageSets/Segmentation`, without its ending.
        validation: likewise; or the share of the training images that is held out, between 0 and 1.

    Returns:
        As `load_folder`.

    Raises:
        DataError: as `load_folder`.
    """
    lists = "ImageSets/Segmentation/{}.txt"
    held_out = validation if not isinstance(validation, str) else lists.format(validation)
    return load_folder(root, "JPEGImages", "SegmentationClass", lists.format(train), held_out)
