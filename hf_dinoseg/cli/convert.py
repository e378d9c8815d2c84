"""`dinoseg convert KIND … --output DIR`, one function a kind of published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._errors import Debug
from ._options import folder_option
from ._output import only_results_on_stdout, print_json

if TYPE_CHECKING:
    from ..labels import LabelSpace

convert = typer.Typer(
    help="Turn a published checkpoint into a checkpoint folder of this package.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Backbone = Annotated[
    str, typer.Option("--backbone", metavar="ID_OR_DIR", help="The backbone's Hub id or folder.", show_default=False)
]
Head = Annotated[
    Path,
    typer.Option(
        "--head",
        metavar="FILE",
        help="The head's .pth file: tensors only, bare or under `model`.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
Peer = Annotated[
    str,
    typer.Option("--checkpoint", metavar="ID_OR_DIR", help="The checkpoint's Hub id or folder.", show_default=False),
]
Output = Annotated[Path, folder_option("A folder that is new or empty.")]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="ade20k|RECIPE",
        help="ADE20K's classes, or those of a recipe file; the checkpoint's own names, or numbers, if not given.",
        show_default=False,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side of the windows, and shorter side of images, in prediction; as published if not given.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(min=1, help="Step from window to window; two thirds of --window if not given.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")]


@convert.command("meta-m2f")
def meta_m2f(
    backbone: Backbone,
    head: Head,
    output: Output,
    labels: Labels = None,
    window: Window = None,
    stride: Stride = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The published DINOv3 Mask2Former heads, adapter included (or one that the published repository trained)."""
    with only_results_on_stdout():
        from ..hub import convert as converters

        windows = _windows(window, stride, converters.M2F_WINDOWS)
        converters.convert_meta_m2f(head, backbone, output, _label_space(labels), windows)
    _report(output, json)


@convert.command("meta-linear")
def meta_linear(
    backbone: Backbone,
    head: Head,
    output: Output,
    labels: Labels = None,
    window: Window = None,
    stride: Stride = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The published DINOv3 linear heads: batch norm and a 1×1 convolution."""
    with only_results_on_stdout():
        from ..hub import convert as converters

        windows = _windows(window, stride, converters.LINEAR_WINDOWS)
        converters.convert_meta_linear(head, backbone, output, _label_space(labels), windows)
    _report(output, json)


@convert.command("eomt")
def eomt(
    checkpoint: Peer,
    output: Output,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="ID_OR_DIR",
            help="The backbone it was trained from: for differences, which are added to it, and the authors' files.",
            show_default=False,
        ),
    ] = None,
    labels: Labels = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the windows, and shorter side of images, in prediction; the checkpoint's image size, or "
            "512, if not given.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """EoMT on DINOv3: transformers' checkpoints and the authors' own, whole or as differences to a backbone."""
    with only_results_on_stdout():
        from ..hub import convert as converters

        converters.convert_eomt(checkpoint, output, backbone, _label_space(labels), window)
    _report(output, json)


@convert.command("pmt")
def pmt(
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            metavar="ID_OR_FILE",
            help="The decoder's Hub id or folder, or its pytorch_model.bin.",
            show_default=False,
        ),
    ],
    backbone: Backbone,
    output: Output,
    labels: Labels = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the windows, and shorter side of images, in prediction; 512 if not given.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """PMT: a decoder of its authors, and beside it the backbone that it was trained on, which rested."""
    with only_results_on_stdout():
        from ..hub import convert as converters

        side = window or converters.LINEAR_WINDOWS.window
        converters.convert_pmt(checkpoint, backbone, output, _label_space(labels), side)
    _report(output, json)


@convert.command("mask2former")
def mask2former(
    checkpoint: Peer,
    backbone: Backbone,
    output: Output,
    labels: Labels = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """A new model whose head starts from a Mask2Former of transformers, where shapes agree: a start for training.

    In a recipe, model.init_from does the same.
    """
    with only_results_on_stdout():
        from ..hub import convert as converters

        report = converters.convert_mask2former(checkpoint, backbone, output, _label_space(labels))
    _report(output, json, taken=list(report.taken), new=report.left)


def _label_space(labels: str | None) -> LabelSpace | None:
    if labels is None:
        return None
    if labels == "ade20k":
        from ..hub.convert import ade20k

        return ade20k()
    from ..recipe import load_recipe

    return load_recipe(labels).labels


def _windows(window: int | None, stride: int | None, published: Any) -> Any:
    from ..inference.windows import default_stride

    side = window or published.window
    step = stride or (default_stride(side) if window else published.stride)
    if step > side:
        raise typer.BadParameter(f"{step} is more than the window's {side} pixels.", param_hint="--stride")
    return type(published)(side, step)


def _report(output: Path, json: bool, taken: list[str] | None = None, new: dict[str, str] | None = None) -> None:
    if json:
        print_json({"checkpoint": str(output)} | ({} if taken is None else {"taken": taken, "new": new}))
        return
    for name in taken or ():
        typer.echo(f"taken  {name}")
    for name, reason in (new or {}).items():
        typer.echo(f"new    {name}: {reason}")
    typer.echo(f"checkpoint: {output}")
