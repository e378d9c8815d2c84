"""Images and masks in folders, paired by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict

from ...errors import DataError
from ...images import mask_endings
from .columns import absolute_root, as_on_disk, file_rows, hold_out, some
from .file_names import STEM, files_by_stem, rename_as, spelt_as

logger = logging.getLogger(__name__)

_SPLIT = "{split}"


def load_folder(
    root: str | os.PathLike[str], image: str, mask: str, train: str | None, validation: str | float
) -> DatasetDict:
    """Images and masks in folders, paired by stem.

    An image and a mask are a pair when their paths below their folders are the same but for the ending: `a/b.jpg` and
    `a/b.png`. Any type that Pillow reads will do, and `.npy` for masks. Where the names differ in more than the ending,
    templates say how: `{stem}.jpg` and `{stem}_mask.png`, see `file_names.files_by_stem`. Names that begin with a dot
    are passed over. Names that differ only in how Unicode writes an accent are the same, those of folders too.

    Args:
        root: the folder that the other four are relative to.
        image: folder of the images, or a template with `{stem}`. With `{split}` in it, once or more, there are files
            of their own for each split: `images/{split}`. Without, all images are together and split files divide
            them.
        mask: likewise.
        train: the name put in place of `{split}`; or, without `{split}`, a text file that lists stems, one a line;
            None for all images.
        validation: likewise; or the share of the training images that is held out instead, between 0 and 1.

    Returns:
        Splits `train` and `validation`, columns `id` (the stem), `image`, `mask` (cells holding absolute paths),
        ordered by stem.

    Raises:
        DataError: if a folder or split file is missing or empty, an image lacks its mask or a mask its image, or two
            files share a stem.
    """
    base = absolute_root(root)
    if (_SPLIT in image) != (_SPLIT in mask):
        raise DataError(
            f"data.image is {image!r} and data.mask is {mask!r}: write {_SPLIT} in both (a folder a split) or in "
            "neither (data.train and data.validation are then text files that list stems)."
        )
    read = _split_folder if _SPLIT in image else _split_file
    training = read(base, image, mask, "train", train)
    if not isinstance(validation, str):
        return hold_out(training, validation)
    splits = DatasetDict({"train": training, "validation": read(base, image, mask, "validation", validation)})
    if _SPLIT not in image and (both := sorted(set(splits["train"]["id"]) & set(splits["validation"]["id"]))):
        logger.warning("%d images are in training and in validation: %s", len(both), some(both))
    return splits


def _split_folder(base: Path, image: str, mask: str, split: str, name: str | None) -> Dataset:
    """The pairs of a split that has folders or names of its own."""
    image, mask = image.replace(_SPLIT, str(name)), mask.replace(_SPLIT, str(name))
    images, masks = _both(base, image, mask)
    _check_pairs(images, masks, f"data.{split} ({name})", base / image, base / mask)
    return _rows(sorted(images), images, masks)


def _split_file(base: Path, image: str, mask: str, split: str, name: str | None) -> Dataset:
    """The pairs that a split file lists; without one, all pairs."""
    images, masks = _both(base, image, mask)
    if name is None:
        _check_pairs(images, masks, "data", base / image, base / mask)
        return _rows(sorted(images), images, masks)
    stems = _read_split_file(base, split, name, images)
    where = f"data.{split} ({name})"
    _check_listed(stems, images, where, f"image in {base / image}")
    _check_listed(stems, masks, where, f"mask in {base / mask}", _suffix_hint(images, masks, mask))
    return _rows(stems, images, masks)


def _both(base: Path, image: str, mask: str) -> tuple[dict[str, str], dict[str, str]]:
    images, masks = files_by_stem(base, "image", image), files_by_stem(base, "mask", mask)
    if shared := set(images.values()) & set(masks.values()):
        # `{stem}.png` fits `a_mask.png` too: a file belongs to the template that says more about it
        loose = images if len(image) <= len(mask) else masks
        for stem in [stem for stem, path in loose.items() if path in shared]:
            del loose[stem]
    return images, rename_as(images, masks, "mask")


def _rows(stems: Sequence[str], images: dict[str, str], masks: dict[str, str]) -> Dataset:
    return file_rows(stems, [images[stem] for stem in stems], [masks[stem] for stem in stems])


def _read_split_file(base: Path, split: str, name: str, images: Collection[str]) -> list[str]:
    """Stems, sorted, spelt as `images` spells them. An ending of an image or a mask may stand after a stem."""
    path = Path(as_on_disk(base / name))
    if not path.is_file():
        raise DataError(
            f"data.{split}: there is no file {path}. data.image and data.mask hold no {_SPLIT}, so data.{split} is a "
            "text file, relative to data.root, that lists stems, one a line. To hold out a share of all images "
            "instead, write data.validation: 0.2 and no data.train."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"data.{split}: {path} is not UTF-8 text; it is to list stems, one a line.") from None
    endings = mask_endings()
    stems: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        stem = line.replace("\\", "/").removeprefix("./")
        head, dot, ending = stem.rpartition(".")
        stems.append(head if f"{dot}{ending}".lower() in endings else stem)
    if not stems:
        raise DataError(f"data.{split}: {path} lists no stems.")
    stems = spelt_as(images, stems)
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else ()):
        raise DataError(f"data.{split}: {path} lists more than once: {some(twice)}.")
    return sorted(stems)


def _check_pairs(
    images: dict[str, str], masks: dict[str, str], where: str, image_place: Path, mask_place: Path
) -> None:
    cure = _suffix_hint(images, masks, str(mask_place)) or " Add what is missing, or move the others out of the folder."
    if alone := sorted(set(images) - set(masks)):
        raise DataError(
            f"{where}: {len(alone)} of {len(images)} images have no mask of the same stem in {mask_place}: "
            f"{some(alone)}.{cure}"
        )
    if alone := sorted(set(masks) - set(images)):
        raise DataError(
            f"{where}: {len(alone)} of {len(masks)} masks have no image of the same stem in {image_place}: "
            f"{some(alone)}.{cure}"
        )


def _check_listed(stems: Sequence[str], files: dict[str, str], where: str, what: str, hint: str = "") -> None:
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{where}: {len(missing)} of {len(stems)} listed stems have no {what}: {some(missing)}.{hint}")


def _suffix_hint(images: dict[str, str], masks: dict[str, str], mask_place: str) -> str:
    """Says so where all masks are named after an image plus one and the same ending, such as `_mask`."""
    first = min(masks) if masks and STEM not in mask_place else ""
    for cut in range(len(first) - 1, 0, -1):
        suffix = first[cut:]
        if first[:cut] in images and all(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks):
            return (
                f" Every mask's stem is an image's stem plus {suffix!r}: say so by adding /{{stem}}{suffix}.* to "
                "data.mask."
            )
    return ""
