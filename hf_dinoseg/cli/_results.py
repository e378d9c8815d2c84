"""What `dinoseg predict` writes: the files of each image, and those about all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ._images import Image

if TYPE_CHECKING:
    from ..labels import LabelSpace


class Form(StrEnum):
    ids = "ids"
    color = "color"
    overlay = "overlay"
    panel = "panel"
    probabilities = "probabilities"
    coco = "coco"
    geojson = "geojson"
    labelme = "labelme"
    yolo = "yolo"
    areas = "areas"


#: what is added to an image's name
ENDINGS = {
    Form.ids: ".png",
    Form.color: "_color.png",
    Form.overlay: "_overlay.jpg",
    Form.panel: "_panel.png",
    Form.probabilities: "_probabilities.npz",
    Form.coco: ".json",
    Form.geojson: ".geojson",
    Form.labelme: ".json",
    Form.yolo: ".txt",
    Form.areas: ".csv",
}
#: forms whose files lie in a folder of their own, and are put together in one file for all images
FOLDERS = {Form.coco: "coco", Form.areas: "areas"}
TOGETHER = {Form.coco: "annotations.json", Form.areas: "areas.csv", Form.yolo: "data.yaml"}
LEGEND = "legend.png"

Files = dict[Form, Path]


def result_files(name: Path, output: Path, forms: Sequence[Form]) -> Files:
    """The files that are written for one image."""
    return {form: output / FOLDERS.get(form, "") / name.parent / f"{name.name}{ENDINGS[form]}" for form in forms}


def refuse_overwriting(
    images: Sequence[Image],
    targets: Sequence[Mapping[Form, Path]],
    output: Path,
    may_exist: bool,
    together: Sequence[Path],
) -> None:
    """Stop before anything is written over an image, over another result, or unasked over any file.

    Args:
        images, targets: the images, and the files of each.
        output: the folder.
        may_exist: whether results may be there already.
        together: files about all images.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
    inputs = {Path(p.source).resolve() for p in images if not p.is_url}
    owners: dict[str, tuple[str, str]] = {}  # what has a file: how it is told apart, and what it is called
    for file in together:
        if file.resolve() in inputs:
            raise typer.BadParameter(f"{file} is one of the images; name another folder.", param_hint="--output")
        owners[str(file).lower()] = (file.name, file.name)
    for image, files in zip(images, targets, strict=True):
        for form, file in files.items():
            if file.resolve() in inputs:
                raise typer.BadParameter(f"{file} is one of the images; name another folder.", param_hint="--output")
            mine = (f"{image.source} {form.value}", image.name)
            if (owner := owners.setdefault(str(file).lower(), mine))[0] != mine[0]:
                raise typer.BadParameter(
                    f"{owner[1]} and {mine[1]} would both be written to {file}; predict them into different folders.",
                    param_hint="IMAGES",
                )
    there = [file for files in targets for file in files.values() if file.exists()]
    there += [file for file in together if file.exists()]
    if there and not may_exist:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise typer.BadParameter(
            f"{there[0]}{more} exist already; pass --resume to do what is missing, --overwrite to replace them, or "
            "name another folder.",
            param_hint="--output",
        )


def write_together(targets: Sequence[Files], forms: Sequence[Form], output: Path, labels: LabelSpace) -> list[Path]:
    """Write the files about all images, from those of single images that are there.

    Returns:
        what was written.
    """
    import json

    from ..inference.polygon_files import merge_areas, merge_coco
    from ..inference.write import whole_file
    from ..recipe import write_yaml

    written = []
    for form in forms:
        if form not in TOGETHER:
            continue
        parts = [files[form] for files in targets if files[form].is_file()]
        if not parts:
            continue
        if form is Form.yolo:
            text = write_yaml({"names": {i: labels.classes[i] for i in labels.original_ids}})
        else:
            text = json.dumps(merge_coco(parts)) if form is Form.coco else merge_areas(parts)
        with whole_file(output / TOGETHER[form]) as unfinished:
            Path(unfinished).write_text(text, encoding="utf-8", newline="")
        written.append(output / TOGETHER[form])
    return written
