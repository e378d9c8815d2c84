"""Where pictures and masks come from. Every source gives the same three columns: `id`, `image`, `mask`.

`image` and `mask` stay files (paths or encoded bytes); `masks.py` opens them. A new layout of files starts here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image

from .errors import DataError
from .synthetic import draw_fundus, encode_pair

logger = logging.getLogger(__name__)

_FILE = datasets.Image(decode=False)
FEATURES = Features({"id": Value("string"), "image": _FILE, "mask": _FILE})

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
            splits[split] = _rows(stems[split], images, masks)
    else:
        images, masks = _files_by_stem(base, "image", image), _files_by_stem(base, "mask", mask)
        for split, name in by_split.items():
            stems[split] = _read_split_file(base, split, name)
            where = f"data.{split} ({name})"
            _check_listed(stems[split], images, where, f"image in {base / image}")
            _check_listed(stems[split], masks, where, f"mask in {base / mask}", _suffix_hint(images, masks))
            splits[split] = _rows(stems[split], images, masks)
        if both := sorted(set(stems["train"]) & set(stems["validation"])):
            logger.warning("%d images are in training and in validation: %s", len(both), _some(both))
    return DatasetDict(splits)


def load_synthetic_retina(
    num_train: int = 160, num_validation: int = 32, size: int = 256, seed: int = 0
) -> DatasetDict:
    """Fundus-like pictures drawn by `synthetic.py`, stored as encoded files (JPEG pictures, PNG masks).

    A split's i-th picture depends on `seed`, `size` and i alone, and no picture is in both splits.

    Args:
        num_train: pictures to train on.
        num_validation: pictures to validate on.
        size: side of the square pictures, pixels.
        seed: 0 or more; another seed draws other eyes.

    Returns:
        As `load_folder`; ids 0 background, 1 artery, 2 vein, 3 disc.
    """
    splits = {}
    for offset, (split, count) in enumerate((("train", num_train), ("validation", num_validation))):
        if count < 1:
            raise DataError(f"data: synthetic-retina is to draw {count} pictures for {split}; it draws 1 or more.")
        rows: list[dict[str, Any]] = []
        for i in range(count):
            picture, mask = encode_pair(*draw_fundus(2 * i + offset, seed, size))
            name = f"{split}_{i:05d}"
            rows.append(
                {
                    "id": name,
                    "image": {"path": f"{name}.jpg", "bytes": picture},
                    "mask": {"path": f"{name}.png", "bytes": mask},
                }
            )
        splits[split] = Dataset.from_list(rows, features=FEATURES)
    return DatasetDict(splits)


def _rows(stems: Sequence[str], images: dict[str, str], masks: dict[str, str]) -> Dataset:
    return Dataset.from_dict(
        {
            "id": list(stems),
            "image": [{"path": images[stem], "bytes": None} for stem in stems],
            "mask": [{"path": masks[stem], "bytes": None} for stem in stems],
        },
        features=FEATURES,
    )


def _picture_endings() -> set[str]:
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _files_by_stem(base: Path, field: str, folder_name: str) -> dict[str, str]:
    """`{stem: absolute path}` of the pictures below a folder; the stem is relative, with `/`, without the ending."""
    folder = base / folder_name
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f" {folder.parent} holds the folders {_some(beside)}." if beside else ""
        raise DataError(
            f"data.{field}: there is no folder {folder}.{found} Check data.root, data.{field} and the splits."
        )
    endings = _picture_endings()
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
        seen = f" It holds files of other types: {_some(sorted(others))}." if others else " It is empty."
        raise DataError(f"data.{field}: no image files in {folder}.{seen}")
    return files


def _read_split_file(base: Path, split: str, name: str) -> list[str]:
    """Stems, sorted. An ending that pictures have may stand after a stem and is dropped."""
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
    endings = _picture_endings()
    stems: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        stem = line.replace("\\", "/").removeprefix("./")
        head, dot, ending = stem.rpartition(".")
        stems.append(head if f"{dot}{ending}".lower() in endings else stem)
    if not stems:
        raise DataError(f"data.{split}: {path} lists no stems.")
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else ()):
        raise DataError(f"data.{split}: {path} lists more than once: {_some(twice)}.")
    return sorted(stems)


def _check_pairs(
    images: dict[str, str], masks: dict[str, str], where: str, image_folder: Path, mask_folder: Path
) -> None:
    cure = _suffix_hint(images, masks) or " Add what is missing, or move the others out of the folder."
    if alone := sorted(set(images) - set(masks)):
        raise DataError(
            f"{where}: {len(alone)} of {len(images)} images have no mask of the same stem in {mask_folder}: "
            f"{_some(alone)}.{cure}"
        )
    if alone := sorted(set(masks) - set(images)):
        raise DataError(
            f"{where}: {len(alone)} of {len(masks)} masks have no image of the same stem in {image_folder}: "
            f"{_some(alone)}.{cure}"
        )


def _check_listed(stems: Sequence[str], files: dict[str, str], where: str, what: str, hint: str = "") -> None:
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{where}: {len(missing)} of {len(stems)} listed stems have no {what}: {_some(missing)}.{hint}")


def _suffix_hint(images: dict[str, str], masks: dict[str, str]) -> str:
    """Says so where all masks are named after a picture plus one and the same ending, such as `_mask`."""
    first = min(masks)
    for cut in range(len(first) - 1, 0, -1):
        suffix = first[cut:]
        if first[:cut] in images and all(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks):
            return f" Every mask's stem is an image's stem plus {suffix!r}: rename the masks without it."
    return ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
