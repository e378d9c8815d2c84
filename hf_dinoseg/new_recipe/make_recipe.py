"""From two folders to a recipe: what `dinoseg init` does, step by step."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError

from ..data.sources.columns import file_rows, hold_out
from ..doctor.duplicates import find_twins
from ..doctor.file_facts import THUMBNAIL
from ..doctor.survey import PairFacts, Survey, survey, train_counts
from ..errors import DataError
from ..recipe import Recipe
from .choose_settings import BACKBONE, choose_settings
from .divide import SHARE, Division, divide, twin_places
from .find_pairs import Pairs, find_pairs
from .read_labels import Ask, Labels, read_labels
from .write_recipe import recipe_text

_SECONDS = 10  # for the Hub to answer


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that is not written yet.

    Attributes:
        text: of the file.
        lists: name to stems: text files beside it that divide the images; often none.
        told: sentences about what was found and left out.
    """

    text: str
    lists: dict[str, list[str]]
    told: list[str]


def make_recipe(
    images: Path,
    masks: Path | None,
    output: Path,
    ask: Ask,
    names: Sequence[str] = (),
    backbone: str | None = None,
) -> NewRecipe:
    """Look at the files and write down what fits them.

    Args:
        images, masks: see `find_pairs`.
        output: where the recipe will be.
        ask: settles what the files cannot tell.
        names: of the classes, by id.
        backbone: Hub id or folder; None is DINOv3 ViT-S where its weights can be had, else a tiny one from scratch.

    Raises:
        DataError: if there are no pairs, or the masks hold no labels.
    """
    pairs = find_pairs(images, masks)
    stems = list(pairs.images)
    rows = file_rows(stems, [pairs.images[s] for s in stems], [pairs.masks[s] for s in stems])
    read = survey(rows, "index", progress="reading images and masks")
    told = _left_out(pairs, read)
    good = [pair for pair in read.pairs if _fits(pair)]
    if len(good) < 2:
        raise DataError(f"{pairs.root}: {len(good)} pairs of image and mask can be read; training needs two at least.")
    read = Survey(len(good), tuple(good))
    labels = read_labels(read, ask, names)
    division = _divide(pairs, read, labels)
    if division.train is None and (pairs.without_mask or pairs.without_image or len(good) < len(stems)):
        division = _listed(pairs, [pair.id for pair in good], division)
    lists, data = _data(pairs, [pair.id for pair in good], division, output)
    space = labels.space
    counts = np.stack([train_counts(pair.values, space)[:-1] for pair in _in_terms_of(good, labels)])
    pixels = counts.sum(axis=0)
    found, why = (backbone, "") if backbone else find_backbone(BACKBONE)
    num_train = len(good) - len(division.validation or []) if division.train else round((1 - SHARE) * len(good))
    settings = choose_settings(
        [pair.image.size for pair in good if pair.image.size],
        (pixels / max(1, pixels.sum())).tolist(),
        int((counts > 0).sum(axis=1).max()),
        num_train,
        found,
        why,
    )
    name = re.sub(r"[^\w-]+", "_", pairs.root.name).strip("_") or "run"
    own = settings.sections
    sections: dict[str, dict[str, Any]] = {
        "labels": labels.fields,
        "data": {**data, **own["data"]},
        "model": own["model"],
        "loss": own["loss"],
        "training": {"output_dir": f"out/{name}", **own["training"]},
        "evaluation": own["evaluation"],
    }
    reasons = {f"labels.{key}": reason for key, reason in labels.reasons.items()}
    split_at = "data.train" if lists else "data.validation"
    reasons |= {split_at: division.reason, **settings.reasons}
    head = (
        f"{len(good)} images with masks from {_place(pairs.root)}. Lines that begin with # say why. Every field: "
        "docs/recipe.md. `dinoseg train` with this file trains, and `dinoseg doctor` looks at the data more closely."
    )
    if found == BACKBONE:
        reasons["model.backbone"] = (
            "DINOv3's weights have a licence of their own; an Apache-2.0 choice is facebook/dinov2-with-registers-small"
        )
    text = recipe_text(head, sections, reasons)
    Recipe.from_dict({name: fields for name, fields in sections.items() if fields}, str(output))
    return NewRecipe(text, lists, told)


def find_backbone(name: str) -> tuple[str | None, str]:
    """The backbone if its weights are here or can be downloaded, else None and why not."""
    if isinstance(try_to_load_from_cache(name, "model.safetensors"), str):
        return name, ""
    try:
        get_hf_file_metadata(hf_hub_url(name, "model.safetensors"), timeout=_SECONDS)
    except GatedRepoError:
        return None, (
            f"the weights of {name} are for those who accepted their licence on the model's page and ran "
            "`hf auth login`. Then write its name here instead"
        )
    except Exception:  # of the network, of whatever kind
        return None, f"the weights of {name} could not be reached. With a connection, write its name here instead"
    return name, ""


def _fits(pair: PairFacts) -> bool:
    return pair.image.fault is None and pair.mask.fault is None and pair.image.size == pair.mask.size


def _left_out(pairs: Pairs, read: Survey) -> list[str]:
    told = []
    if pairs.without_mask:
        told.append(f"{len(pairs.without_mask)} images have no mask and are left out: {_few(pairs.without_mask)}")
    if pairs.without_image:
        told.append(f"{len(pairs.without_image)} masks have no image and are left out: {_few(pairs.without_image)}")
    if broken := [pair for pair in read.pairs if not _fits(pair)]:
        first = broken[0]
        because = (
            first.image.fault
            or first.mask.fault
            or (f"the image is {_size(first.image.size)}, its mask {_size(first.mask.size)}")
        )
        told.append(f"{len(broken)} pairs do not fit and are left out: {_few([p.id for p in broken])} ({because})")
    return told


def _divide(pairs: Pairs, read: Survey, labels: Labels) -> Division:
    if pairs.train is not None:
        return Division(None, None, f"the folders {pairs.train} and {pairs.validation}")
    places = [pair.id for pair in read.pairs]
    stored = file_rows(places, [pairs.images[s] for s in places], [pairs.masks[s] for s in places])
    twins = twin_places(find_twins({"train": stored}, {"train": read}), [pair.image.name for pair in read.pairs])
    looks = np.stack([np.frombuffer(pair.image.thumbnail or bytes(THUMBNAIL**2), np.uint8) for pair in read.pairs])
    classes = [frozenset(pair.values) for pair in read.pairs]
    return divide(looks.reshape(-1, THUMBNAIL, THUMBNAIL), classes, twins)


def _listed(pairs: Pairs, good: list[str], division: Division) -> Division:
    """The same division written as lists, since not every file is part of it."""
    if pairs.train is not None:
        validation = [i for i, stem in enumerate(good) if stem.startswith(f"{pairs.validation}/")]
    else:
        held = set(hold_out(file_rows(good, good, good), SHARE)["validation"]["id"])
        validation = [i for i, stem in enumerate(good) if stem in held]
    inside = set(validation)
    return Division([i for i in range(len(good)) if i not in inside], validation, division.reason)


def _data(
    pairs: Pairs, good: list[str], division: Division, output: Path
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The text files that divide the images, and the fields of `data` that find them."""
    data: dict[str, Any] = {"source": "folder", "root": _place(pairs.root), "image": pairs.image, "mask": pairs.mask}
    if division.train is None or division.validation is None:
        if pairs.train is not None:
            return {}, {**data, "train": pairs.train, "validation": pairs.validation}
        return {}, {**data, "validation": SHARE}
    data |= {key: data[key].replace("/{split}", "") for key in ("image", "mask")}
    places = {"train": division.train, "validation": division.validation}
    lists = {f"{output.stem}_{split}.txt": [good[i] for i in part] for split, part in places.items()}
    folder = Path(os.path.abspath(output)).parent
    for split, name in zip(places, lists, strict=True):
        data[split] = os.path.relpath(folder / name, pairs.root)
    return lists, data


def _in_terms_of(pairs: Sequence[PairFacts], labels: Labels) -> list[PairFacts]:
    return [pair for pair in pairs if pair.colored == (labels.fields.get("encoding") == "rgb")]


def _place(folder: Path) -> str:
    """As one would write it: relative where that leads down, else absolute."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]} × {size[1]}" if size else "unreadable"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
