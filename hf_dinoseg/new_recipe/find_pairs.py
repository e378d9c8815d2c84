"""Which images and masks belong together, and how a recipe says so: `data.root`, `data.image` and `data.mask`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..data.sources.file_names import STEM, files_by_stem
from ..errors import DataError
from ..images import files_below, image_endings, mask_endings

_SPLIT = "{split}"
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "jpegimages", "leftimg8bit", "inputs", "x", "rgb")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gtfine", "gt", "groundtruth", "ground_truth"),
    *("segmentationclass", "segmentation", "targets", "y"),
)
_TRAINING = ("train", "training", "trn")
_VALIDATION = ("val", "valid", "validation", "dev", "test", "testing")
_MASK_WORDS = re.compile(r"(?:^|[_\-. ])(masks?|labels?|labelids|gt|seg|segmentation|manual\d*|annotations?)$", re.I)
_SEPARATORS = "_-. "


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, and the fields of a recipe that find them.

    Attributes:
        root: the folder that the templates are relative to, absolute.
        image, mask: a folder, or a template of names with `{stem}`; both with `{split}` where folders divide them.
        train, validation: what `{split}` stands for; None where nothing divides the images.
        images, masks: `{stem}` to path, of complete pairs, in order of the stems; of both splits, whose name the stem
            then begins with.
        without_mask, without_image: stems that are alone.
    """

    root: Path
    image: str
    mask: str
    images: dict[str, str]
    masks: dict[str, str]
    train: str | None = None
    validation: str | None = None
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)


def find_pairs(images: Path, masks: Path | None = None) -> Pairs:
    """Pair the files of two folders, or of one that holds both.

    Args:
        images: the folder of the images; without `masks`, one that holds a folder of images and one of masks, or images
            and masks side by side whose names differ by an ending such as `_mask`.
        masks: the folder of the masks.

    Raises:
        DataError: if no image has a mask; it says what was looked for.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise DataError(
                f"{folder}: there is no such folder. Name the folder of the images, then that of the masks."
            )
    if masks is None:
        images, masks = _both_in(images)
    images, masks = Path(os.path.abspath(images)), Path(os.path.abspath(masks))
    if images == masks:
        return _side_by_side(images)
    root = Path(os.path.commonpath([images, masks]))
    names = [path.relative_to(root).as_posix() for path in (images, masks)]
    if splits := _splits(images, masks):
        return _pair(root, names[0], names[1], splits)
    return _pair(root, names[0], names[1], None)


def _both_in(folder: Path) -> tuple[Path, Path]:
    """The folder of images and that of masks in one folder; the folder itself twice if it has none such."""
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    image = next((inside[name] for name in _IMAGE_FOLDERS if name in inside), None)
    mask = next((inside[name] for name in _MASK_FOLDERS if name in inside), None)
    if image is not None and mask is not None:
        return image, mask
    if image is not None or mask is not None:
        other = "masks" if mask is None else "images"
        raise DataError(
            f"{folder}: it is not clear which folder holds the {other}. It holds {', '.join(inside)}. Name both: "
            "dinoseg init IMAGES MASKS."
        )
    return folder, folder


def _splits(images: Path, masks: Path) -> tuple[str, str] | None:
    """Folders for training and validation that both have, if all files lie in such folders."""
    both = {p.name for p in images.iterdir() if p.is_dir()} & {p.name for p in masks.iterdir() if p.is_dir()}
    named = {name.lower(): name for name in both}
    train = next((named[name] for name in _TRAINING if name in named), None)
    validation = next((named[name] for name in _VALIDATION if name in named), None)
    return (train, validation) if train is not None and validation is not None else None


def _pair(root: Path, image: str, mask: str, splits: tuple[str, str] | None) -> Pairs:
    places = [f"{name}/{split}" for name in (image, mask) for split in splits or ("",)]
    found = [_stems(root / place, kind) for place, kind in zip(places, _kinds(splits), strict=True)]
    half = len(found) // 2
    all_images = _joined(found[:half], splits)
    all_masks = _joined(found[half:], splits)
    image_ends, mask_ends = _affixes(all_images), _affixes(all_masks)
    if not set(all_images) & set(all_masks):
        all_images = {_without(stem, image_ends): path for stem, path in all_images.items()}
        all_masks = {_without(stem, mask_ends): path for stem, path in all_masks.items()}
        both = set(all_images) & set(all_masks)
        if not both:
            _no_pairs(root / image, root / mask, found[0], found[half])
    else:
        both = set(all_images) & set(all_masks)
        image_ends = mask_ends = ("", "")
    between = f"/{_SPLIT}" if splits else ""
    stems = sorted(both)
    return Pairs(
        root,
        f"{image}{between}" + _template(image_ends),
        f"{mask}{between}" + _template(mask_ends),
        {stem: all_images[stem] for stem in stems},
        {stem: all_masks[stem] for stem in stems},
        train=splits[0] if splits else None,
        validation=splits[1] if splits else None,
        without_mask=sorted(set(all_images) - both),
        without_image=sorted(set(all_masks) - both),
    )


def _kinds(splits: Collection[str] | None) -> list[str]:
    count = len(splits or ("",))
    return ["image"] * count + ["mask"] * count


def _stems(folder: Path, kind: str) -> dict[str, str]:
    return files_by_stem(folder, kind, ".")


def _joined(parts: Iterable[Mapping[str, str]], splits: tuple[str, str] | None) -> dict[str, str]:
    if splits is None:
        return dict(next(iter(parts)))
    return {f"{split}/{stem}": path for split, part in zip(splits, parts, strict=True) for stem, path in part.items()}


def _affixes(stems: Iterable[str]) -> tuple[str, str]:
    """What the names of all files begin and end with, up to the separator nearest to what differs."""
    names = [stem.rpartition("/")[2] for stem in stems]
    if len(names) < 2:
        return "", ""
    before, after = os.path.commonprefix(names), os.path.commonprefix([name[::-1] for name in names])[::-1]
    cut = max((before.rfind(mark) for mark in _SEPARATORS), default=-1)
    places = [place for mark in _SEPARATORS if (place := after.find(mark)) >= 0]
    return before[: cut + 1], after[min(places) :] if places else ""


def _without(stem: str, affixes: tuple[str, str]) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.removeprefix(affixes[0]).removesuffix(affixes[1])


def _template(affixes: tuple[str, str]) -> str:
    return f"/{affixes[0]}{STEM}{affixes[1]}.*" if any(affixes) else ""


def _side_by_side(folder: Path) -> Pairs:
    """Images and masks in one folder: `a.jpg` and `a_mask.png`, or `a_img.png` and `a_mask.png`."""
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    ends: Counter[str] = Counter()
    files = [path for path in files_below(folder) if path.suffix.lower() in mask_endings()]
    for path in files:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if match := _MASK_WORDS.search(stem):
            masks[stem[: match.start()]] = str(path)
            ends[f"{stem[match.start() :]}{path.suffix}"] += 1
        elif path.suffix.lower() in image_endings():
            images[stem] = str(path)
    image_ends = _affixes(images)
    if not set(images) & set(masks):
        images = {_without(stem, ("", image_ends[1])): path for stem, path in images.items()}
    else:
        image_ends = ("", "")
    both = sorted(set(images) & set(masks))
    if not both:
        raise DataError(
            f"{folder}: no image with a mask was found. Name two folders, dinoseg init IMAGES MASKS, or name each mask "
            "like its image with an ending such as _mask: eye.jpg and eye_mask.png."
        )
    if len(ends) > 1:
        named = ", ".join(f"*{end}" for end, _ in ends.most_common(4))
        raise DataError(f"{folder}: masks end in different ways, {named}. Put the masks into a folder of their own.")
    image_types = {Path(path).suffix for path in images.values()}
    suffix = next(iter(image_types)) if len(image_types) == 1 else ".*"
    return Pairs(
        folder,
        f"{STEM}{image_ends[1]}{suffix}",
        f"{STEM}{next(iter(ends))}",
        {stem: images[stem] for stem in both},
        {stem: masks[stem] for stem in both},
        without_mask=sorted(set(images) - set(both)),
        without_image=sorted(set(masks) - set(both)),
    )


def _no_pairs(images: Path, masks: Path, image_stems: Mapping[str, str], mask_stems: Mapping[str, str]) -> None:
    raise DataError(
        f"no image of {images} has a mask in {masks}: a mask is to be named like its image, but for an ending. Images "
        f"are named {_few(image_stems.values())}, masks {_few(mask_stems.values())}."
    )


def _few(paths: Iterable[str]) -> str:
    def names() -> Iterator[str]:
        for count, path in enumerate(paths):
            if count == 2:
                return
            yield Path(path).name

    return " and ".join(names())
