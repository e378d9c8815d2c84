"""Polygons of YOLO: a text file an image, a line a polygon, coordinates as shares of width and height
(https://docs.ultralytics.com/datasets/segment/)."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...images import files_below
from ...labels import LabelSpace
from .coco import box_ring
from .columns import some
from .file_names import files_by_stem, rename_as
from .shapes import AnnotatedImage, Rules, Shape


def read_yolo(base: Path, image: str, annotations: str, rules: Rules, labels: LabelSpace) -> list[AnnotatedImage]:
    """All images of the folder, by name. Labels are class numbers as they stand in the files; an image without a file
    has no annotation."""
    found = []
    for name, path, file in pair_files(base, image, annotations, ".txt"):
        each = AnnotatedImage(path, name, file or str(base / annotations), relative=True)
        if file is not None:
            _read(each, Path(file))
        found.append(each)
    return found


def pair_files(base: Path, image: str, annotations: str, ending: str) -> list[tuple[str, str, str | None]]:
    """Name, image and annotation file (None if it has none) of each image in a folder, by name.

    Raises:
        DataError: if a folder is missing, or annotations have no image.
    """
    images = files_by_stem(base, "image", image)
    files = annotation_files(base, annotations, ending)
    files = rename_as(images, files, "annotations")
    if alone := sorted(set(files) - set(images)):
        raise DataError(
            f"data.annotations: {len(alone)} of {len(files)} files in {base / annotations} have no image of the same "
            f"name in {base / image}: {some(alone)}. Add the images, or move the files out of the folder."
        )
    return [(name, images[name], files.get(name)) for name in sorted(images)]


def annotation_files(base: Path, annotations: str, ending: str) -> dict[str, str]:
    folder = base / annotations
    if not folder.is_dir():
        raise DataError(
            f"data.annotations: there is no folder {folder}. Check data.root, data.annotations and the splits."
        )
    paths = [path for path in files_below(folder) if path.suffix.lower() == ending]
    if not paths:
        raise DataError(f"data.annotations: {folder} holds no {ending} files.")
    return {path.relative_to(folder).with_suffix("").as_posix(): str(path) for path in paths}


def _read(each: AnnotatedImage, file: Path) -> None:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        each.fault = f"{file}: cannot be read ({error})."
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, *values = map(float, line.split())
            if not label.is_integer() or len(values) < 4 or len(values) % 2:
                raise ValueError
        except ValueError:
            each.fault = (
                f"{file}, line {number}: a class number and pairs of coordinates are expected, not {line[:80]!r}."
            )
            return
        if len(values) == 4:
            x, y, width, height = values
            ring = box_ring(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            each.shapes.append(Shape(int(label), [[ring]], kind="box"))
        else:
            each.shapes.append(Shape(int(label), [[values]]))
