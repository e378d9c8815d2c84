"""`dinoseg predict CHECKPOINT IMAGES… --output DIR`"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoint import check_place
from ._errors import FAILED, Debug
from ._images import Image, find_images, name_results
from ._options import Background, Checkpoint, Palette, Threshold, check_background, folder_option
from ._output import only_results_on_stdout, print_json
from ._processes import Processes
from ._results import LEGEND, TOGETHER, Files, Form, refuse_overwriting, result_files, write_together

if TYPE_CHECKING:
    from ..inference import Job, Outcome, Segmenter
    from ..inference.write import Format, Writing


class Mode(StrEnum):
    slide = "slide"
    whole = "whole"


#: what `--json` calls the files
_JSON_NAMES = {Form.ids: "label_map"}
_PIXEL_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(um|mm|cm|m|km)")


def predict(
    checkpoint: Checkpoint,
    *,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="Images, folders of images (searched to the bottom), quoted patterns such as 'in/**/*.jpg', or "
            "URLs (http, https); - for names on standard input, one a line.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, folder_option("Where the results go.")],
    form: Annotated[
        list[Form] | None,
        typer.Option(
            "--format",
            "-f",
            help="What to write, may be repeated: ids (NAME.png), color (NAME_color.png), overlay (NAME_overlay.jpg), "
            "panel (NAME_panel.png), probabilities (NAME_probabilities.npz); polygons: coco (annotations.json), "
            "geojson (NAME.geojson), labelme (NAME.json), yolo (NAME.txt); areas of the classes: areas (areas.csv). "
            "ids and overlay if not given.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        list[str] | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="A text file that names images, folders or URLs, one a line; may be repeated.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Polygons leave out corners that are at most so many pixels off.")
    ] = 1.0,
    omit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS", help="A class (name or id) that gets no polygons, such as background; may be repeated."
        ),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="Side of a pixel, such as 0.25m or 12um (um, mm, cm, m, km): areas are given in its square too.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Where the model runs, such as cpu or cuda:1; the accelerator if there is one.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Windows that the model sees at once; as in evaluation if not given."),
    ] = None,
    tta_scales: Annotated[
        str | None,
        typer.Option(
            metavar="SCALES",
            help="Sizes whose scores are averaged, such as 0.75,1,1.25; as in evaluation if not given. 1 is none.",
            show_default=False,
        ),
    ] = None,
    tta_flip: Annotated[
        bool | None,
        typer.Option(help="Average with the mirror image too; as in evaluation if not given.", show_default=False),
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
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but what failed: no progress bar, no summary.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Segment images.

    Writes NAME.png, whose pixel values are the dataset's own label ids in visible colours (16-bit grey if there are
    ids above 255), and NAME_overlay.jpg for each image NAME; other forms with --format. Sub-folders of a folder or
    pattern are kept. Files appear only once they are whole, so an interrupted run is taken up with --resume. An image
    that cannot be read is listed at the end, and the others are done. Images of more than 67 million pixels are
    read, predicted and written by strips, as ids only.

    Processes that `accelerate launch --no_python` or `torchrun --no-python` starts share the images.
    """
    check_place(checkpoint)
    check_background(background, threshold)
    if resume and overwrite:
        raise typer.BadParameter("give one of them.", param_hint="--resume, --overwrite")
    forms = list(dict.fromkeys(form)) if form else [Form.ids, *([Form.overlay] if overlay else [])]
    if pixel_size and Form.areas not in forms:
        raise typer.BadParameter("is about areas; add --format areas.", param_hint="--pixel-size")
    size, scales = _length(pixel_size), _scales(tta_scales)
    processes = Processes(device)
    with processes.one_voice():
        entries = [*(images or []), *(f"@{name}" for name in listed or [])]
        found, faults = find_images(_entries(entries, processes.count))
        if not found:
            raise typer.BadParameter("no images: " + " ".join(faults), param_hint="IMAGES")
        names = name_results(found)
        targets = [result_files(name, output, forms) for name in names]
        together = [output / TOGETHER[form] for form in forms if form in TOGETHER]
        refuse_overwriting(found, targets, output, resume or overwrite, together)
        if legend and any(file == output / LEGEND for files in targets for file in files.values()):
            raise typer.BadParameter(
                f"an image's result is called {LEGEND} too; predict without.", param_hint="--legend"
            )
    processes.wait()  # until all have seen the folder as it was
    with only_results_on_stdout():
        share = processes.share(list(zip(found, names, targets, strict=True)))
        todo = [each for each in share if not (resume and _all_there(each[2]))]
        started = time.perf_counter()
        outcomes: list[Outcome] = []
        if todo or (processes.speaks and (together or (legend and not (output / LEGEND).exists()))):
            segmenter = _load(
                checkpoint,
                mode,
                window,
                stride,
                palette,
                background,
                threshold,
                processes.device,
                batch_size,
                scales,
                tta_flip,
            )
            how = _writing(segmenter, transparent, tolerance, omit or [], size)
            started = time.perf_counter()
            jobs = [_job(*each, resume, how) for each in todo]
            outcomes = sorted(_run(segmenter, jobs, quiet or not processes.speaks), key=lambda each: each.number)
        told = processes.gather([_Told.of(outcome) for outcome in outcomes])
        if processes.speaks:
            if legend and not (resume and (output / LEGEND).exists() and not todo):
                _write_legend(segmenter, output)
            if together:
                write_together(targets, forms, output, segmenter.label_space)
        seconds = time.perf_counter() - started
    if processes.speaks:
        _tell(told, faults, len(found), output, seconds, as_json=json, quiet=quiet)
    processes.wait()  # a launcher ends the others as soon as one has failed
    if faults or any(each.error is not None for each in told):
        raise typer.Exit(FAILED)


def _entries(entries: Sequence[str], processes: int) -> list[str]:
    """Arguments, with the lines of lists (`@FILE`) and of standard input (`-`) in their place."""
    given = []
    for entry in entries:
        if entry == "-" and processes > 1:
            raise typer.BadParameter(
                "several processes cannot share standard input; write the names to a file: --list FILE.",
                param_hint="IMAGES",
            )
        if entry == "-":
            lines = sys.stdin.read().splitlines()
        elif entry.startswith("@") and not Path(entry).exists():
            try:
                lines = Path(entry[1:]).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise typer.BadParameter(f"{entry[1:]}: cannot be read ({error}).", param_hint="--list") from error
        else:
            lines = [entry]
        given += [line.strip() for line in lines if line.strip()]
    return given


def _length(text: str | None) -> tuple[float, str] | None:
    """A length and its unit."""
    if text is None:
        return None
    if (match := _PIXEL_SIZE.fullmatch(text.strip().replace("µ", "u").replace("μ", "u"))) and float(match[1]) > 0:
        return float(match[1]), match[2]
    raise typer.BadParameter(f"{text!r} is no length; write one such as 0.25m or 12um.", param_hint="--pixel-size")


def _scales(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or not all(0 < scale < 100 for scale in scales):
        raise typer.BadParameter(f"{text!r} is no list of sizes; write 0.75,1,1.25.", param_hint="--tta-scales")
    return scales


def _writing(
    segmenter: Segmenter, transparent: bool, tolerance: float, omit: Sequence[str], size: tuple[float, str] | None
) -> Writing:
    from ..inference.write import Writing

    labels = segmenter.label_space
    ids = {name: i for i, name in labels.classes.items()} | {str(i): i for i in labels.original_ids}
    if unknown := [name for name in omit if name not in ids]:
        known = ", ".join(labels.classes.values())
        raise typer.BadParameter(f"{unknown[0]!r} is no class of this checkpoint: {known}.", param_hint="--omit")
    return Writing(transparent, tolerance, frozenset(ids[name] for name in omit), size)


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
    device: str | None,
    batch_size: int | None,
    scales: list[float] | None,
    flip: bool | None,
) -> Segmenter:
    from ..inference import Segmenter

    _check_device(device)
    tta = None if scales is None and flip is None else {"scales": scales or [1.0], "flip": bool(flip)}

    return Segmenter.from_pretrained(
        checkpoint,
        mode=mode.value if mode else None,
        window=window,
        stride=stride,
        background=background.value if background else None,
        background_threshold=threshold,
        palette=palette.value if palette else None,
        device=device,
        batch_size=batch_size,
        tta=tta,
    )


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"{device} cannot be used here ({reason})", param_hint="--device") from error


def _write_legend(segmenter: Segmenter, output: Path) -> None:
    from ..inference.write import whole_file
    from ..visualize import legend

    with whole_file(output / LEGEND) as unfinished:
        legend(segmenter.label_space).save(unfinished, format="PNG")


def _run(segmenter: Segmenter, jobs: Sequence[Job], quiet: bool) -> Iterator[Outcome]:
    """Outcomes as they come, with a progress bar."""
    from tqdm.auto import tqdm

    from ..inference import segment_files

    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
    with tqdm(total=len(jobs), unit=" images", bar_format=layout, disable=quiet or None) as bar:
        for outcome in segment_files(segmenter, jobs):
            bar.update()
            yield outcome


def _job(image: Image, name: Path, files: Files, resume: bool, how: Writing) -> Job:
    from ..inference import Job

    names: dict[Format, Path] = {form.value: file for form, file in files.items()}
    there = frozenset(form for form, file in names.items() if resume and file.exists())
    return Job(image.source, names, there, f"{name.as_posix()}{image.within.suffix}", how)


@dataclass(frozen=True)
class _Told:
    """What is said of an image; small, as it goes from process to process."""

    source: str
    written: dict[str, str]
    error: str | None

    @classmethod
    def of(cls, outcome: Outcome) -> _Told:
        written = {_JSON_NAMES.get(Form(form), form): str(path) for form, path in outcome.written.items()}
        return cls(outcome.job.name, written, outcome.error)


def _tell(
    told: Sequence[_Told],
    faults: Sequence[str],
    images: int,
    output: Path,
    seconds: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Results, then what failed."""
    failed: list[dict[str, str | None]] = [{"file": None, "error": fault} for fault in faults]
    failed += [{"file": each.source, "error": each.error} for each in told if each.error is not None]
    done = [each for each in told if each.written]
    skipped = images - len(done) - (len(failed) - len(faults))
    rate = len(done) / seconds if done else 0.0
    if as_json:
        written = [{"file": each.source, **each.written} for each in done]
        summary = {"skipped": skipped, "seconds": round(seconds, 3), "images_per_second": round(rate, 3)}
        print_json({"written": written, "failed": failed, **summary})
    elif not quiet:
        there = f", {skipped} there already" if skipped else ""
        speed = f" ({rate:.2f} images per second)" if done else ""
        typer.echo(f"{len(done)} of {images} images written to {output}{there}{speed}")
    for item in failed:
        typer.echo(f"dinoseg: {item['error']}", err=True)
