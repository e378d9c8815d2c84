"""`dinoseg predict CHECKPOINT FILES… --output DIR`"""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._checkpoint import Checkpoint, check_checkpoint, loading
from ._errors import FAILED, Debug
from ._output import only_results_on_stdout, print_json

if TYPE_CHECKING:
    from ..inference import Segmenter

logger = logging.getLogger(__name__)

_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


class Mode(str, Enum):
    slide = "slide"
    whole = "whole"


def predict(
    checkpoint: Checkpoint,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES",
            help="Pictures, folders of pictures (searched to the bottom), or quoted patterns such as 'in/**/*.jpg'.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.", show_default=False)
    ],
    mode: Annotated[
        Mode | None,
        typer.Option(help="Overlapping windows, or each picture at once; as in evaluation if not given."),
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Side of the windows, in pixels.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Step from window to window, in pixels.")] = None,
    overlay: Annotated[bool, typer.Option(help="Write a tinted photograph beside each label map.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Segment pictures.

    Writes NAME.png, whose pixel values are the data set's own label ids in visible colours, and NAME_overlay.jpg for
    each picture NAME. Pictures of one name keep their folders. A picture that cannot be read is listed at the end, and
    the others are done. Pictures of more than 67 million pixels are read, predicted and written by strips, and get no
    overlay.
    """
    check_checkpoint(checkpoint)
    pictures, faults = find_pictures(files)
    if not pictures:
        raise typer.BadParameter("no pictures: " + " ".join(faults), param_hint="FILES")
    targets = dict(zip(pictures, name_results(pictures), strict=True))
    refuse_overwriting(pictures, list(targets.values()), output, overlay, overwrite)
    with only_results_on_stdout():
        written, failed = _segment_all(_load(checkpoint, mode, window, stride), targets, output, overlay)
    failed = [{"file": None, "error": fault} for fault in faults] + failed
    if json:
        print_json({"written": written, "failed": failed})
    else:
        typer.echo(f"{len(written)} of {len(pictures)} pictures written to {output}")
    for item in failed:
        name = f"{item['file']}: " if item["file"] and not str(item["error"]).startswith(str(item["file"])) else ""
        typer.echo(f"dinoseg: {name}{item['error']}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def find_pictures(entries: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that arguments stand for, each once, in order; and a sentence for each argument that stands for none.

    A file named by itself is taken whatever its ending.
    """
    found: dict[Path, Path] = {}  # by resolved path, so that no file is done twice
    faults = []
    for entry in entries:
        path = Path(entry)
        if path.is_file():
            hits = [path]
        elif path.is_dir():
            hits = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in _PICTURES and p.is_file()]
            if not hits:
                faults.append(f"{entry}: the folder holds no pictures ({', '.join(sorted(_PICTURES))}).")
        else:
            matches = (Path(match) for match in sorted(glob.glob(entry, recursive=True)))
            hits = [p for p in matches if p.is_file() and p.suffix.lower() in _PICTURES]
            if not hits:
                faults.append(f"{entry}: there is no such file, folder or match.")
        for hit in hits:
            found.setdefault(hit.resolve(), hit)
    return list(found.values()), faults


def name_results(pictures: Sequence[Path]) -> list[Path]:
    """The name, without ending, of each picture's results below the output folder.

    The stem where that is unique. Pictures that share a stem keep their folders from where those part; in one folder
    (`a.jpg`, `a.png`) they keep their endings. Names that differ in case only count as one: some file systems think so.
    """
    stems = Counter(p.stem.lower() for p in pictures)
    if all(count == 1 for count in stems.values()):
        return [Path(p.stem) for p in pictures]
    absolute = [Path(os.path.abspath(p)) for p in pictures]
    root = os.path.commonpath([p.parent for p in absolute])
    names = [p.relative_to(root) for p in absolute]
    plain = [n.with_name(n.stem) if stems[n.stem.lower()] > 1 else Path(n.stem) for n in names]
    counts = Counter(str(n).lower() for n in plain)
    return [n if counts[str(p).lower()] > 1 else p for n, p in zip(names, plain, strict=True)]


def result_files(target: Path, output: Path, overlay: bool) -> list[Path]:
    """The files that are written for one picture: the label map and, if wanted, the overlay."""
    label_map = output / target.parent / f"{target.name}.png"
    return [label_map, output / target.parent / f"{target.name}_overlay.jpg"] if overlay else [label_map]


def refuse_overwriting(
    pictures: Sequence[Path], targets: Sequence[Path], output: Path, overlay: bool, overwrite: bool
) -> None:
    """Stop before anything is written over a picture, or unasked over any file.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
    inputs = {p.resolve() for p in pictures}
    planned = [file for target in targets for file in result_files(target, output, overlay)]
    if hit := [file for file in planned if file.resolve() in inputs]:
        raise typer.BadParameter(f"{hit[0]} is one of the pictures; name another folder.", param_hint="--output")
    there = [file for file in planned if file.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise typer.BadParameter(
            f"{there[0]}{more} exist already; pass --overwrite to replace them, or name another folder.",
            param_hint="--output",
        )


def _load(checkpoint: str, mode: Mode | None, window: int | None, stride: int | None) -> Segmenter:
    from ..inference import Segmenter

    name: Any = mode.value if mode else None
    with loading(checkpoint):
        return Segmenter.from_pretrained(checkpoint, mode=name, window=window, stride=stride)


def _segment_all(
    segmenter: Segmenter, targets: dict[Path, Path], output: Path, overlay: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segment and write, one picture after the other; what was written, and what failed with the reason."""
    from tqdm.auto import tqdm

    from ..inference import is_large, segment_large

    written: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for picture, target in tqdm(targets.items(), unit="picture", disable=None):
        files = result_files(target, output, overlay)
        try:
            large = is_large(picture)
            if large:
                segment_large(segmenter, picture, files[0])
            else:
                result = segmenter(picture)
                files[0].parent.mkdir(parents=True, exist_ok=True)
                result.save(files[0])
            if overlay and not large:
                result.overlay().save(files[1], quality=95)
        except Exception as error:  # one bad picture must not cost the others; what it was is told at the end
            logger.debug("%s failed", picture, exc_info=True)
            failed.append({"file": str(picture), "error": str(error) or type(error).__name__})
            continue
        entry: dict[str, Any] = {"file": str(picture), "label_map": str(files[0])}
        if overlay and not large:
            entry["overlay"] = str(files[1])
        written.append(entry)
    return written, failed
