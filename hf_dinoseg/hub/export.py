"""Checkpoints as files that need no code of ours: a `torch.export` program or ONNX.

The graph takes images (or normalised pixel values) and answers with a label map in original ids, or with the scores
of every class. It is the model and `models/scores.py` as they are; nothing is computed a second way. What the
numbers mean travels in the file (`METADATA_KEY`).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DinoSegError, how_to_install
from ..inference import Segmenter
from ..labels import LabelSpace
from ..models.scores import semantic_labels_and_scores, semantic_scores, without_unlikely
from ..version import __version__

logger = logging.getLogger(__name__)

Format = Literal["torch", "onnx"]
OutputKind = Literal["labels", "scores"]
Size = tuple[int, int]

#: where the description stands: ONNX `metadata_props`, and the extra file of a `torch.export` archive
METADATA_KEY = "dinoseg.json"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SINGLE_FILE_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB; larger weights go to FILE.data
_OPSET = 20


class ExportError(DinoSegError, ValueError):
    """An export that cannot be done, or whose file does not answer as the model does."""


class ExportableSegmentation(nn.Module):
    """Images to answers, as one graph.

    Args:
        model: in evaluation mode, float32.
        label_space: what train ids stand for.
        image_mean, image_std: of the normalisation, per channel, for pixel values from 0 to 1.
        preprocess: take uint8 images and normalise inside.
        output_kind: `labels`, or `scores`.
        background_threshold: pixels whose best score is below it become void; None for never.
    """

    original_ids: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        label_space: LabelSpace,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        preprocess: bool = True,
        output_kind: OutputKind = "labels",
        background_threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocess, self.output_kind, self.threshold = preprocess, output_kind, background_threshold
        self.void_id = label_space.void_id
        table = label_space.decode_table
        dtype = torch.uint8 if table.dtype == np.uint8 else torch.int32
        self.register_buffer("original_ids", torch.tensor(table[:-1].tolist(), dtype=dtype))
        self.register_buffer("mean", 255 * torch.tensor(image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(image_std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Answer.

        Args:
            image: (B, 3, H, W); RGB uint8 with `preprocess`, else normalised float32.

        Returns:
            With `labels`: (B, H, W) original ids, uint8 where they fit and else int32; and the winning score of every
            pixel, (B, H, W) float32. With `scores`: (B, C, H, W) float32 in the order of train ids.
        """
        pixel_values = (image.float() - self.mean) / self.std if self.preprocess else image
        outputs = self.model(pixel_values=pixel_values)
        size = (image.shape[-2], image.shape[-1])
        if self.output_kind == "scores":
            return semantic_scores(outputs, size)
        labels, scores = semantic_labels_and_scores(outputs, size)
        return without_unlikely(self.original_ids[labels], scores, self.threshold, self.void_id), scores


@dataclass(frozen=True)
class ExportPlan:
    """What is exported, and how its input looks.

    Attributes:
        graph: in evaluation mode, on the CPU.
        size: (height, width) of the images; None for any.
        multiple: of what heights and widths must be multiples where `size` is None; they start at twice that.
        label_space: what the ids mean.
        processor: the checkpoint's settings that the description repeats.
    """

    graph: ExportableSegmentation
    size: Size | None
    multiple: int
    label_space: LabelSpace
    processor: Mapping[str, Any]

    @property
    def input_name(self) -> str:
        return "image" if self.graph.preprocess else "pixel_values"

    @property
    def output_names(self) -> list[str]:
        return ["scores"] if self.graph.output_kind == "scores" else ["label_map", "score"]

    def description(self, **more: Any) -> dict[str, Any]:
        """What the exported file says of itself: plain values, ready for JSON."""
        space = self.label_space
        return {
            "hf_dinoseg": __version__,
            "input": self.input_name,
            "input_dtype": "uint8" if self.graph.preprocess else "float32",
            "size": list(self.size) if self.size else "dynamic",
            "size_multiple": None if self.size else self.multiple,
            "smallest_size": None if self.size else 2 * self.multiple,
            "outputs": self.output_names,
            "original_ids": list(space.original_ids),
            "names": [space.classes[i] for i in space.original_ids],
            "void_id": space.void_id,
            "background_threshold": self.graph.threshold,
            "label_space": space.to_dict(),
            **self.processor,
            **more,
        }


def plan_export(
    segmenter: Segmenter,
    size: Size | Literal["dynamic"] | None = None,
    preprocess: bool = True,
    output_kind: OutputKind = "labels",
) -> ExportPlan:
    """Make a loaded checkpoint ready for export.

    Args:
        segmenter: moved to the CPU and made float32 by this.
        size: of the images; None takes the segmenter's window, or any size when it sees images whole.
        preprocess, output_kind: see `ExportableSegmentation`.

    Raises:
        ExportError: on a size that is too small.
    """
    if size is None:
        size = (segmenter.window, segmenter.window) if segmenter.mode == "slide" else "dynamic"
    if size != "dynamic" and min(size) < 1:
        raise ExportError(f"size {size[0]} x {size[1]}: both must be at least 1 pixel.")
    model: Any = nn.Module.to(segmenter.model, device="cpu", dtype=torch.float32).eval()
    processor = segmenter.processor
    mean = tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0)
    std = tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0)
    graph = ExportableSegmentation(
        model, segmenter.label_space, mean, std, preprocess, output_kind, segmenter.background_threshold
    )
    shortest = (processor.size or {}).get("shortest_edge") if processor.do_resize else None
    settings = {"image_mean": list(mean), "image_std": list(std), "resize_shortest_edge": shortest}
    multiple = math.lcm(model.head.pad_multiple, model.backbone.patch_size)
    return ExportPlan(graph.eval(), None if size == "dynamic" else size, multiple, segmenter.label_space, settings)


def example_input(plan: ExportPlan, batch: int = 2) -> Tensor:
    """An image batch of a size that the graph takes. If it takes any size, height and width differ."""
    height, width = plan.size or (3 * plan.multiple, 5 * plan.multiple)
    values = torch.randint(0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0))
    return values.byte() if plan.graph.preprocess else values / 127.5 - 1


def export_program(plan: ExportPlan) -> Any:
    """The graph as a `torch.export.ExportedProgram` with a dynamic batch and, if planned, dynamic height and width.

    Raises:
        ExportError: where the graph cannot be captured, with torch's own words.
    """
    from torch.export import Dim, export

    dims: dict[int, Any] = {0: Dim("batch", min=1)}
    if plan.size is None:
        for axis, name in ((2, "height"), (3, "width")):
            dims[axis] = plan.multiple * Dim(f"{name}_steps", min=2, max=max(3, 16384 // plan.multiple))
    try:
        with torch.no_grad(), _less_noise():
            return export(plan.graph, (example_input(plan),), dynamic_shapes=(dims,), strict=False)
    except Exception as error:  # torch raises many kinds, some of them internal
        raise ExportError(
            f"torch.export could not capture the model as a graph: {error}\nTry a fixed size (--size 512)."
        ) from error


def write_torch(plan: ExportPlan, path: Path) -> None:
    """Write a `.pt2` archive; `torch.export.load(path).module()` runs it."""
    program = export_program(plan)
    with _less_noise():
        torch.export.save(program, path, extra_files={METADATA_KEY: json.dumps(plan.description(format="torch"))})


def write_onnx(plan: ExportPlan, path: Path, int8: bool = False) -> None:
    """Write an ONNX file.

    Args:
        int8: weights of matrix products as 8-bit integers with one scale per channel, their inputs quantised as they
            come (dynamic quantisation); convolutions stay in float32.

    Raises:
        ExportError: if packages are missing, or the graph cannot be captured.
    """
    require_onnx()
    size = sum(t.numel() * t.element_size() for t in (*plan.graph.parameters(), *plan.graph.buffers()))
    program = export_program(plan)
    with _less_noise():
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[plan.input_name],
            output_names=plan.output_names,
            opset_version=_OPSET,
            verbose=False,
        )
        exported.model.metadata_props[METADATA_KEY] = json.dumps(plan.description(format="onnx", int8=False))
        if not int8:
            exported.save(str(path), external_data=size > _SINGLE_FILE_BYTES)
            return
        with tempfile.TemporaryDirectory() as folder:
            full = Path(folder) / "full.onnx"
            exported.save(str(full), external_data=size > _SINGLE_FILE_BYTES)
            quantize_onnx(full, path)


def quantize_onnx(full: Path, path: Path) -> None:
    """Write a file of `write_onnx` again with 8-bit weights."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _less_noise():
        quantize_dynamic(
            full,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=(full.with_name(full.name + ".data")).exists(),
        )
        model = onnx.load(path, load_external_data=False)
        for entry in model.metadata_props:
            if entry.key == METADATA_KEY:
                entry.value = json.dumps({**json.loads(entry.value), "int8": True})
        onnx.save(model, path)


def require_onnx() -> None:
    """Raise an `ExportError` that says what to install if ONNX cannot be written or run here."""
    if missing := [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"{how_to_install('onnx')}."
        )


@contextmanager
def _less_noise() -> Iterator[None]:
    """Exporters log and warn about their own insides; errors come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


__all__ = [
    "METADATA_KEY",
    "ExportError",
    "ExportPlan",
    "ExportableSegmentation",
    "export_program",
    "plan_export",
    "quantize_onnx",
    "require_onnx",
    "write_onnx",
    "write_torch",
]
