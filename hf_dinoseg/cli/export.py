"""`dinoseg export CHECKPOINT --format torch|onnx --output FILE`"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoint import check_place
from ._errors import Debug
from ._images import find_images
from ._options import Checkpoint
from ._output import only_results_on_stdout, print_json


class Format(StrEnum):
    torch = "torch"
    onnx = "onnx"


class OutputKind(StrEnum):
    labels = "labels"
    scores = "scores"


def export(
    checkpoint: Checkpoint,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new .pt2 or .onnx file.", show_default=False)
    ],
    format: Annotated[Format, typer.Option(help="A torch.export program, or ONNX.")] = Format.onnx,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW|dynamic",
            help="Images the file takes: one size, or any whose sides are multiples of 32 or so (the file says). "
            "The evaluation's window if not given; dynamic where it saw images whole.",
            show_default=False,
        ),
    ] = None,
    preprocess: Annotated[
        bool, typer.Option(help="Take uint8 RGB images and normalise inside; otherwise normalised pixel_values.")
    ] = True,
    output_kind: Annotated[
        OutputKind,
        typer.Option(help="Label maps in original ids with the winning scores, or the scores of every class."),
    ] = OutputKind.labels,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX: 8-bit weights in matrix products, for CPUs; its cost is printed.")
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILES",
            help="Images, folder or pattern to check the file on, instead of drawn images; may be repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there already.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print what was written and how it was checked as JSON.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write a checkpoint as one file that runs without this package, and check it against the model.

    The file names its classes and their original ids. Batches may have any number of images.
    """
    check_place(checkpoint)
    wanted = parse_size(size)
    suffix = ".pt2" if format is Format.torch else ".onnx"
    if output.suffix != suffix:
        raise typer.BadParameter(f"name the file *{suffix} with --format {format.value}.", param_hint="--output")
    if output.exists() and not overwrite:
        raise typer.BadParameter(f"{output} exists; pass --overwrite to replace it.", param_hint="--output")
    if int8 and format is Format.torch:
        raise typer.BadParameter("8-bit weights are offered for --format onnx only.", param_hint="--int8")
    files: list[Path] = []
    if images:
        chosen, faults = find_images(images)
        faults += [f"{p.source}: an address is not taken here; name files." for p in chosen if p.is_url]
        files = [Path(p.source) for p in chosen]
        if faults:
            raise typer.BadParameter(" ".join(faults), param_hint="--images")
    with only_results_on_stdout():
        report, found = _export(checkpoint, output, format, wanted, preprocess, output_kind, int8, files)
    if json:
        print_json(report)
    else:
        _print(report)
    from ..hub.export_check import refuse_disagreement

    refuse_disagreement(found, int8)


def parse_size(text: str | None) -> Any:
    """`512`, `480x640` (height first) or `dynamic`.

    Raises:
        typer.BadParameter: on anything else.
    """
    if text is None or text == "dynamic":
        return text
    if not (match := re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)) or 0 in (sides := _sides(match)):
        raise typer.BadParameter(f"{text!r} is no size; write 512, 480x640 (height first) or dynamic.")
    return sides


def _sides(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2] or match[1])


def _export(
    checkpoint: str,
    output: Path,
    format: Format,
    size: Any,
    preprocess: bool,
    output_kind: OutputKind,
    int8: bool,
    files: list[Path],
) -> tuple[dict[str, Any], Any]:
    from ..hub import export as exporting
    from ..hub.export_check import as_dict, check_export
    from ..inference import Segmenter
    from ..inference.segmenter import load_image

    if format is Format.onnx:
        exporting.require_onnx()
    images = [load_image(file) for file in files]
    segmenter = Segmenter.from_pretrained(checkpoint)
    kind: Any = output_kind.value
    plan = exporting.plan_export(segmenter, size, preprocess, kind)
    output.parent.mkdir(parents=True, exist_ok=True)
    if format is Format.torch:
        exporting.write_torch(plan, output)
    else:
        exporting.write_onnx(plan, output, int8)
    found = check_export(plan, output, "torch" if format is Format.torch else "onnx", images)
    bytes_written = sum(p.stat().st_size for p in (output, output.with_name(output.name + ".data")) if p.exists())
    report = {
        "file": str(output),
        "format": format.value,
        "bytes": bytes_written,
        **plan.description(int8=int8),
        "check": as_dict(found),
    }
    return report, found


def _print(report: dict[str, Any]) -> None:
    size = report["size"]
    shape = (
        f"sides in multiples of {report['size_multiple']} from {report['smallest_size']}"
        if size == "dynamic"
        else f"{size[0]} x {size[1]}"
    )
    kind = f"{report['format']}{', int8' if report['int8'] else ''}, {report['bytes'] / 1e6:.1f} MB"
    typer.echo(f"{report['file']}: {kind}")
    typer.echo(f"in   {report['input']} (B, 3, H, W) {report['input_dtype']}, {shape}")
    typer.echo(f"out  {', '.join(report['outputs'])}")
    if report["resize_shortest_edge"]:
        typer.echo(f"note the checkpoint resizes images to a shorter side of {report['resize_shortest_edge']} first")
    typer.echo(f"\n{'checked against the model':28}{'images':>9}{'max score difference':>22}{'equal labels':>14}")
    for one in report["check"]:
        typer.echo(
            f"{one['images']:28}{one['count']:>9}{one['max_score_difference']:>22.1e}"
            f"{100 * one['equal_labels']:>12.3f} %"
        )
