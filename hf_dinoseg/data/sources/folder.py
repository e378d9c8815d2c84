"""Pictures and masks in folders, paired by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict
from PIL import Image

from ..errors import DataError
from .rows import file_rows, some

logger = logging.getLogger(__name__)

_SPLIT = "{split}"


def load_folder(root: str | os.PathLike[str], image: str, mask: str, train: str, validation: str) -> DatasetDict:
    """Pictures and masks in folders, paired by stem.

    A picture and a mask are a pair when their paths below their folders are the same but for the ending: `a/b.jpg` and
    `a/b.png`. Any type that Pillow reads will do. Names that begin with a dot are passed over.

    Args:
        root: the folder that the other four are relative to.
        image: folder of the pictures. With `{split}` in it there is a folder a split: `images/{split}`. Without, all
            pictures are in one folder and split files divide them.
        mask: likewise.
        train: the name put in place of `{split}`; or, without `{split}`, a text file that lists stems, one a line.
        validation: likewise.

    Returns:
        Splits `train` and `validation`, columns `id` (the stem), `image`, `mask` (cells holding absolute paths),
        ordered by stem.

    Raises:
        DataError: if a folder or split file is missing or empty, a picture lacks its mask or a mask its picture, or two
            files share a stem.
    """
    base = Path(os.path.abspath(Path(root).expanduser()))
    if not base.is_dir():
        raise DataError(f"data.root: there is no folder {base}. Write the folder that holds the pictures and masks.")
    if (_SPLIT in image) != (_SPLIT in mask):
        raise DataError(
            f"data.image is {image!r} and data.mask is {mask!r}: write {_SPLIT} in both (a folder a split) or in "
            "neither (data.train and data.validation are then text files that list stems)."
        )
    by_split = {"train": train, "validation": validation}
    stems = {}
    splits = {}
    if _SPLIT in image:
        for split, name in by_split.items():
            images = _files_by_stem(base, "image", image.replace(_SPLIT, name))
            masks = _files_by_stem(base, "mask", mask.replace(_SPLIT, name))
            folders = base / image.replace(_SPLIT, name), base / mask.replace(_SPLIT, name)
            _check_pairs(images, masks, f"data.{split} ({name})", *folders)
            stems[split] = sorted(images)
            splits[split] = file_rows(stems[split], [images[s] for s in stems[split]], [masks[s] for s in stems[split]])
    else:
        images, masks = _files_by_stem(base, "image", image), _files_by_stem(base, "mask", mask)
        for split, name in by_split.items():
            stems[split] = _read_split_file(base, split, name)
            where = f"data.{split} ({name})"
            _check_listed(stems[split], images, where, f"image in {base / image}")
            _check_listed(stems[split], masks, where, f"mask in {base / mask}", _suffix_hint(images, masks))
            splits[split] = file_rows(stems[split], [images[s] for s in stems[split]], [masks[s] for s in stems[split]])
        if both := sorted(set(stems["train"]) & set(stems["validation"])):
            logger.warning("%d images are in training and in validation: %s", len(both), some(both))
    return DatasetDict(splits)


def _endings(field: str) -> set[str]:
    """Of files that are read as pictures or, of masks, also as arrays."""
    Image.init()
    arrays = {".npy"} if field == "mask" else set()
    return arrays | {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _files_by_stem(base: Path, field: str, folder_name: str) -> dict[str, str]:
    """`{stem: absolute path}` of the pictures below a folder; the stem is relative, with `/`, without the ending."""
    folder = base / folder_name
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f" {folder.parent} holds the folders {some(beside)}." if beside else ""
        raise DataError(
            f"data.{field}: there is no folder {folder}.{found} Check data.root, data.{field} and the splits."
        )
    endings = _endings(field)
    files: dict[str, str] = {}
    others: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() not in endings:
                others.add(path.suffix or name)
                continue
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in files:
                raise DataError(
                    f"data.{field}: {files[stem]} and {path} have the same stem {stem!r}, so it is not clear which of "
                    "them is meant. Remove or rename one."
                )
            files[stem] = str(path)
    if not files:
        seen = f" It holds files of other types: {some(sorted(others))}." if others else " It is empty."
        raise DataError(f"data.{field}: no image files in {folder}.{seen}")
    return files


def _read_split_file(base: Path, split: str, name: str) -> list[str]:
    """Stems, sorted. An ending that pictures or masks have may stand after a stem and is dropped."""
    path = base / name
    if not path.is_file():
        raise DataError(
            f"data.{split}: there is no file {path}. data.image and data.mask hold no {_SPLIT}, so data.{split} is a "
            "text file, relative to data.root, that lists stems, one a line."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"data.{split}: {path} is not UTF-8 text; it is to list stems, one a line.") from None
    endings = _endings("mask")
    stems: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        stem = line.replace("\\", "/").removeprefix("./")
        head, dot, ending = stem.rpartition(".")
        stems.append(head if f"{dot}{ending}".lower() in endings else stem)
    if not stems:
        raise DataError(f"data.{split}: {path} lists no stems.")
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else ()):
        raise DataError(f"data.{split}: {path} lists more than once: {some(twice)}.")
    return sorted(stems)


def _check_pairs(
    images: dict[str, str], masks: dict[str, str], where: str, image_folder: Path, mask_folder: Path
) -> None:
    cure = _suffix_hint(images, masks) or " Add what is missing, or move the others out of the folder."
    if alone := sorted(set(images) - set(masks)):
        raise DataError(
            f"{where}: {len(alone)} of {len(images)} images have no mask of the same stem in {mask_folder}: "
            f"{some(alone)}.{cure}"
        )
    if alone := sorted(set(masks) - set(images)):
        raise DataError(
            f"{where}: {len(alone)} of {len(masks)} masks have no image of the same stem in {image_folder}: "
            f"{some(alone)}.{cure}"
        )


def _check_listed(stems: Sequence[str], files: dict[str, str], where: str, what: str, hint: str = "") -> None:
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{where}: {len(missing)} of {len(stems)} listed stems have no {what}: {some(missing)}.{hint}")


def _suffix_hint(images: dict[str, str], masks: dict[str, str]) -> str:
    """Says so where all masks are named after a picture plus one and the same ending, such as `_mask`."""
    first = min(masks)
    for cut in range(len(first) - 1, 0, -1):
        suffix = first[cut:]
        if first[:cut] in images and all(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks):
            return f" Every mask's stem is an image's stem plus {suffix!r}: rename the masks without it."
    return ""
