"""Does an exported file answer as the model does? Runs both on the same images and counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data import load_synthetic_retina
from ..images import read_image
from .export import METADATA_KEY, ExportError, ExportPlan, Format

#: float32 files: rounding only, and what rounding does to near ties
MOST_SCORE_DIFFERENCE, LEAST_EQUAL_LABELS = 1e-3, 0.999
#: int8 files lose something by design; below this they answer another question
LEAST_EQUAL_LABELS_INT8 = 0.9

Run = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Agreement:
    """How one kind of images fared.

    Attributes:
        images: what they are.
        count: how many were compared, one at a time.
        max_score_difference: the largest absolute difference of a score (of the winning score where the file gives
            label maps).
        equal_labels: share of pixels with the same label.
    """

    images: str
    count: int
    max_score_difference: float
    equal_labels: float


def check_export(
    plan: ExportPlan, path: Path, file_format: Format, images: Sequence[Image.Image] = ()
) -> list[Agreement]:
    """Run the file and the model on the same images.

    Args:
        images: RGB, to check on; drawn ones if there are none. Random noise is always checked too.

    Returns:
        One entry for noise, as a batch of two, and one for images.
    """
    run = open_torch(path)[0] if file_format == "torch" else open_onnx(path)[0]
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, *_sizes(plan)[-1]), dtype=np.uint8)
    chosen = list(images) or drawn_images()
    sizes = _sizes(plan)
    shown = [_fit(image, sizes[number % len(sizes)]) for number, image in enumerate(chosen)]
    return [
        _compare(plan, run, "random noise", [noise]),
        _compare(plan, run, "given images" if images else "drawn images", shown),
    ]


def refuse_disagreement(found: Sequence[Agreement], int8: bool) -> None:
    """Raise an `ExportError` with the figures if a file does not answer as its model does.

    An int8 file is judged by its labels on images alone; noise has no classes to lose.
    """
    for one in found:
        if int8 and one.images == "random noise":
            continue
        least = LEAST_EQUAL_LABELS_INT8 if int8 else LEAST_EQUAL_LABELS
        wrong_labels = not one.equal_labels >= least
        wrong_scores = not int8 and not one.max_score_difference <= MOST_SCORE_DIFFERENCE
        if wrong_labels or wrong_scores:
            raise ExportError(
                f"the file does not answer as the model does: on {one.images} {100 * one.equal_labels:.2f} % of "
                f"labels are equal (at least {100 * least:.1f} % are asked for) and scores differ by up to "
                f"{one.max_score_difference:.1e}. It was written, but do not use it. "
                + ("Export without --int8." if int8 else "Try another --size, or the other --format.")
            )


def open_torch(path: Path) -> tuple[Run, dict[str, Any]]:
    """A `.pt2` file as a function of arrays, and its description."""
    extra: dict[str, Any] = {METADATA_KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return _arrays(module(torch.from_numpy(image)))

    return run, json.loads(extra[METADATA_KEY])


def open_onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    """An ONNX file as a function of arrays on the CPU, and its description."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    description = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    return lambda image: list(session.run(None, {name: image})), description


def open_eager(plan: ExportPlan) -> Run:
    """The model itself as a function of arrays."""

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return _arrays(plan.graph(torch.from_numpy(image)))

    return run


def as_input(plan: ExportPlan, images: np.ndarray) -> np.ndarray:
    """(B, 3, H, W) uint8 images as the plan's input."""
    if plan.graph.preprocess:
        return images
    mean, std = plan.graph.mean.numpy(), plan.graph.std.numpy()
    return ((images.astype(np.float32) - mean) / std).astype(np.float32)


def drawn_images(count: int = 4) -> list[Image.Image]:
    """Images with regions, lines and texture, which noise has not."""
    split = load_synthetic_retina(num_train=1, num_validation=count, size=256)["validation"]
    return [read_image(row["image"]) for row in split]


def _sizes(plan: ExportPlan) -> list[tuple[int, int]]:
    """The sizes to check at: the one there is, or a square, a wide and the smallest."""
    step = plan.multiple
    squarish = max(2, 256 // step)
    return [plan.size] if plan.size else [(squarish * step,) * 2, (2 * step, 5 * step), (2 * step, 2 * step)]


def _fit(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))[None]


def _compare(plan: ExportPlan, run: Run, name: str, batches: Sequence[np.ndarray]) -> Agreement:
    eager = open_eager(plan)
    difference, equal, pixels = 0.0, 0, 0
    for images in batches:
        image = as_input(plan, images)
        found, expected = run(image), eager(image)
        gap = float(np.abs(found[-1].astype(np.float64) - expected[-1]).max())
        difference = gap if not gap <= difference else difference  # NaN stays
        labels = [out[0] if plan.graph.output_kind == "labels" else out[0].argmax(axis=1) for out in (found, expected)]
        equal += int((labels[0] == labels[1]).sum())
        pixels += labels[0].size
    return Agreement(name, sum(len(images) for images in batches), difference, equal / pixels)


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [t.numpy() for t in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]


def as_dict(found: Sequence[Agreement]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


__all__ = ["Agreement", "as_dict", "check_export", "open_eager", "open_onnx", "open_torch", "refuse_disagreement"]
