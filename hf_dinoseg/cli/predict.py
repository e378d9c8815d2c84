"""`dinoseg predict CHECKPOINT IMAGES… --output DIR`"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoint import check_place
from ._errors import FAILED, Debug
from ._images import Image, find_images, name_results
from ._options import Background, Checkpoint, Palette, Threshold, check_background, folder_option
from ._output import only_results_on_stdout, print_json

if TYPE_CHECKING:
    from ..inference import Job, Outcome, Segmenter
    from ..inference.write import Format


class Mode(str, Enum):
    slide = "slide"
    whole = "whole"


class Form(str, Enum):
    ids = "ids"
    color = "color"
    overlay = "overlay"
    panel = "panel"
    probabilities = "probabilities"


#: what is added to an image's name
ENDINGS = {
    Form.ids: ".png",
    Form.color: "_color.png",
    Form.overlay: "_overlay.jpg",
    Form.panel: "_panel.png",
    Form.probabilities: "_probabilities.npz",
}
LEGEND = "legend.png"
#: what `--json` calls the files
_JSON_NAMES = {Form.ids: "label_map"}

Files = dict[Form, Path]


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="Images, folders of images (searched to the bottom), quoted patterns such as 'in/**/*.jpg', or "
            "URLs (http, https).",
            show_default=False,
        ),
    ],
    output: Annotated[Path, folder_option("Where the results go.")],
    form: Annotated[
        list[Form] | None,
        typer.Option(
            "--format",
            "-f",
            help="What to write, may be repeated: ids (NAME.png), color (NAME_color.png), overlay (NAME_overlay.jpg), "
            "panel (NAME_panel.png), probabilities (NAME_probabilities.npz). ids and overlay if not given.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Overlapping windows, or each image at once; as in evaluation if not given."),
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Side of the windows, in pixels.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Step from window to window, in pixels.")] = None,
    overlay: Annotated[
        bool, typer.Option(help="Whether overlays are among the results if --format is not given.")
    ] = True,
    palette: Annotated[
        Palette | None,
        typer.Option(
            help="Colours: dataset for the dataset's own, colorblind for ones that everybody can tell apart; the "
            "checkpoint's (evaluation.palette) if not given.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        Background | None,
        typer.Option(
            help="What is answered where no class is likely: none for the best class all the same, threshold for no "
            "class below a score; threshold if --threshold is given or the checkpoint has one, else none.",
            show_default=False,
        ),
    ] = None,
    threshold: Threshold = None,
    transparent: Annotated[
        bool, typer.Option("--transparent", help="Classes drawn black (background) are clear in ids and color.")
    ] = False,
    legend: Annotated[
        bool, typer.Option("--legend", help="Also write legend.png: the classes, their ids and colours.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave alone what is there, and do what is missing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Segment images.

    Writes NAME.png, whose pixel values are the dataset's own label ids in visible colours (16-bit grey if there are
    ids above 255), and NAME_overlay.jpg for each image NAME; other forms with --format. Sub-folders of a folder or
    pattern are kept. Files appear only once they are whole, so an interrupted run is taken up with --resume. An image
    that cannot be read is listed at the end, and the others are done. Images of more than 67 million pixels are
    read, predicted and written by strips, as ids only.
    """
    check_place(checkpoint)
    check_background(background, threshold)
    if resume and overwrite:
        raise typer.BadParameter("give one of them.", param_hint="--resume, --overwrite")
    found, faults = find_images(images)
    if not found:
        raise typer.BadParameter("no images: " + " ".join(faults), param_hint="IMAGES")
    forms = list(dict.fromkeys(form)) if form else [Form.ids, *([Form.overlay] if overlay else [])]
    targets = [result_files(name, output, forms) for name in name_results(found)]
    refuse_overwriting(found, targets, output, may_exist=resume or overwrite)
    if legend and any(file == output / LEGEND for files in targets for file in files.values()):
        raise typer.BadParameter(f"an image's result is called {LEGEND} too; predict without.", param_hint="--legend")
    with only_results_on_stdout():
        todo = [(p, files) for p, files in zip(found, targets, strict=True) if not (resume and _all_there(files))]
        started = time.perf_counter()
        outcomes: list[Outcome] = []
        if todo or (legend and not (output / LEGEND).exists()):
            segmenter = _load(checkpoint, mode, window, stride, palette, background, threshold)
            started = time.perf_counter()
            jobs = [_job(image, files, resume, transparent) for image, files in todo]
            outcomes = sorted(_run(segmenter, jobs), key=lambda outcome: outcome.number)
            if legend:
                _write_legend(segmenter, output)
        seconds = time.perf_counter() - started
    _tell(outcomes, faults, found, output, seconds, as_json=json)


def result_files(name: Path, output: Path, forms: Sequence[Form]) -> Files:
    """The files that are written for one image."""
    return {form: output / name.parent / f"{name.name}{ENDINGS[form]}" for form in forms}


def refuse_overwriting(
    images: Sequence[Image], targets: Sequence[Mapping[Form, Path]], output: Path, may_exist: bool
) -> None:
    """Stop before anything is written over an image, over another result, or unasked over any file.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
    inputs = {Path(p.source).resolve() for p in images if not p.is_url}
    owners: dict[str, Image] = {}
    for image, files in zip(images, targets, strict=True):
        for file in files.values():
            if file.resolve() in inputs:
                raise typer.BadParameter(f"{file} is one of the images; name another folder.", param_hint="--output")
            if (owner := owners.setdefault(str(file).lower(), image)).source != image.source:
                raise typer.BadParameter(
                    f"{owner.name} and {image.name} would both be written to {file}; predict them into different "
                    "folders.",
                    param_hint="IMAGES",
                )
    there = [file for files in targets for file in files.values() if file.exists()]
    if there and not may_exist:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise typer.BadParameter(
            f"{there[0]}{more} exist already; pass --resume to do what is missing, --overwrite to replace them, or "
            "name another folder.",
            param_hint="--output",
        )


def _all_there(files: Mapping[Form, Path]) -> bool:
    return all(file.exists() for file in files.values())


def _load(
    checkpoint: str,
    mode: Mode | None,
    window: int | None,
    stride: int | None,
    palette: Palette | None,
    background: Background | None,
    threshold: float | None,
) -> Segmenter:
    from ..inference import Segmenter

    return Segmenter.from_pretrained(
        checkpoint,
        mode=mode.value if mode else None,
        window=window,
        stride=stride,
        background=background.value if background else None,
        background_threshold=threshold,
        palette=palette.value if palette else None,
    )


def _write_legend(segmenter: Segmenter, output: Path) -> None:
    from ..inference.write import whole_file
    from ..visualize import legend

    with whole_file(output / LEGEND) as unfinished:
        legend(segmenter.label_space).save(unfinished, format="PNG")


def _run(segmenter: Segmenter, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Outcomes as they come, with a progress bar."""
    from tqdm.auto import tqdm

    from ..inference import segment_files

    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    with tqdm(total=len(jobs), unit=" images", bar_format=layout, disable=None) as bar:
        for outcome in segment_files(segmenter, jobs):
            bar.update()
            yield outcome


def _job(image: Image, files: Files, resume: bool, transparent: bool) -> Job:
    from ..inference import Job

    names: dict[Format, Path] = {form.value: file for form, file in files.items()}
    there = frozenset(name for name, file in names.items() if resume and file.exists())
    return Job(image.source, names, there, transparent)


def _tell(
    outcomes: Sequence[Outcome],
    faults: Sequence[str],
    images: Sequence[Image],
    output: Path,
    seconds: float,
    as_json: bool,
) -> None:
    """Results, then what failed; exit code 1 if anything did."""
    failed: list[dict[str, str | None]] = [{"file": None, "error": fault} for fault in faults]
    failed += [{"file": o.job.name, "error": o.error} for o in outcomes if o.error is not None]
    done = [outcome for outcome in outcomes if outcome.written]
    skipped = len(images) - len(done) - (len(failed) - len(faults))
    rate = len(done) / seconds if done else 0.0
    if as_json:
        written = [
            {"file": o.job.name, **{_JSON_NAMES.get(Form(f), f): str(path) for f, path in o.written.items()}}
            for o in done
        ]
        summary = {"skipped": skipped, "seconds": round(seconds, 3), "images_per_second": round(rate, 3)}
        print_json({"written": written, "failed": failed, **summary})
    else:
        there = f", {skipped} there already" if skipped else ""
        speed = f" ({rate:.2f} images per second)" if done else ""
        typer.echo(f"{len(done)} of {len(images)} images written to {output}{there}{speed}")
    for item in failed:
        typer.echo(f"dinoseg: {item['error']}", err=True)
    if failed:
        raise typer.Exit(FAILED)
