"""The evaluation of each protocol against the published one, written out plainly: sizes, windows, what is averaged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from hf_dinoseg.builders import build_inference, build_processor
from hf_dinoseg.inference import Segmenter, predict_scores, window_positions
from hf_dinoseg.inference.test_time_augmentation import views
from hf_dinoseg.recipe import Recipe

CLASSES = 4
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Pixels(nn.Module):
    """Logits at stride 4 that depend on pixels and on the place in the window, so that windows disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(1)))

    def maps(self, pixels: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(pixels, size=[-(-side // 4) for side in pixels.shape[-2:]], mode="bilinear")
        slope = torch.linspace(-1, 1, small.shape[2])[:, None] * torch.linspace(0, 2, small.shape[3])
        return torch.einsum("ck,bkhw->bchw", self.mix, small) + slope * torch.arange(len(self.mix))[:, None, None]

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.maps(pixel_values))


class Queries(Pixels):
    """Masks of queries, and their classes."""

    def forward(self, pixel_values: torch.Tensor) -> Any:
        classes = torch.eye(CLASSES, CLASSES + 1)[None] * 2 + pixel_values.mean((1, 2, 3))[:, None, None]
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=self.maps(pixel_values))


def recipe_of(name: str, **evaluation: Any) -> Recipe:
    """The protocol in small: sizes divided by 8, so that an image of 60 pixels is what one of 480 is."""
    sizes = {"window": 64, "stride": {"dinov3_linear": 42, "dinov3_m2f": 43}.get(name, 64), "shortest_edge": 64}
    return Recipe.from_dict(
        {
            "protocol": name,
            "labels": {"classes": {i: str(i) for i in range(CLASSES)}},
            "data": {"source": "folder", "root": "r"},
            "training": {"output_dir": "o", "fp16": False},
            "evaluation": {**sizes, **evaluation},
        }
    )


def image_of(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def normalised(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return ((pixels - MEAN) / STD).permute(2, 0, 1)[None]


def resized(image: Image.Image, side: int) -> Image.Image:
    """The shorter side to so many pixels; the longer one to the nearest, as `int(x + 0.5)`."""
    width, height = image.size
    if height > width:
        return image.resize((side, int(side * height / width + 0.5)), Image.Resampling.BILINEAR)
    return image.resize((int(side * width / height + 0.5), side), Image.Resampling.BILINEAR)


def scores_of(outputs: Any, size: tuple[int, int]) -> torch.Tensor:
    """What windows are summed up as: logits of a linear head; of queries, classes' shares times masks'."""
    if hasattr(outputs, "logits"):
        return F.interpolate(outputs.logits, size=size, mode="bilinear")
    masks = F.interpolate(outputs.masks_queries_logits, size=size, mode="bilinear").sigmoid()
    return torch.einsum("bqc,bqhw->bchw", outputs.class_queries_logits.softmax(-1)[..., :-1], masks)


def slide(model: nn.Module, pixels: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    total, count = torch.zeros(1, CLASSES, height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            part = pixels[:, :, top:bottom, left:right]
            total[:, :, top:bottom, left:right] += scores_of(model(pixel_values=part), part.shape[-2:])
            count[:, :, top:bottom, left:right] += 1
    return total / count


def found(recipe: Recipe, model: nn.Module, image: Image.Image) -> torch.Tensor:
    """As `dinoseg evaluate` and `Segmenter` go: the recipe's image processor, the recipe's inference."""
    segmenter = Segmenter(model, build_processor(recipe), recipe.labels, **build_inference(recipe))
    pixels = segmenter.prepare(image).pixel_values
    return predict_scores(model, pixels, (image.height, image.width), **build_inference(recipe))


@pytest.mark.parametrize("size", [(75, 60), (60, 75), (93, 61), (180, 64), (50, 41)])
@torch.no_grad()
def test_dinov3_linear_joins_logits(size: tuple[int, int]) -> None:
    image, model = image_of(*size), Pixels()
    joined = slide(model, normalised(resized(image, 64)), 64, 42)
    expected = F.interpolate(joined, size=size[::-1], mode="bilinear").softmax(1)
    recipe = recipe_of("dinov3_linear")
    assert torch.allclose(found(recipe, model, image), expected, atol=2e-5)
    by_scores = found(recipe_of("dinov3_linear", join="scores"), model, image)
    if max(size) / min(size) > 1.2:  # windows overlap, and the two ways differ
        assert (by_scores - expected).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(75, 60), (60, 75), (93, 61)])
@torch.no_grad()
def test_dinov3_m2f_averages_ten_views_of_the_file_each_through_a_soft_max(size: tuple[int, int]) -> None:
    image, model = image_of(*size), Queries()
    total = torch.zeros(1, CLASSES, *size[::-1])
    shown = []
    for scale in (0.9, 0.95, 1.0, 1.05, 1.1):
        side = int(64 * scale)
        if scale < 1:
            side = math.ceil(side / 32) * 32
        view = normalised(resized(image, side))
        shown.append(tuple(view.shape[-2:]))
        for flip in (False, True):
            joined = slide(model, view.flip(-1) if flip else view, 64, 43)
            scores = F.interpolate(joined.flip(-1) if flip else joined, size=size[::-1], mode="bilinear")
            total += scores.softmax(1)
    recipe = recipe_of("dinov3_m2f")
    answer = found(recipe, model, image)
    # views are made of numbers here and of bytes there: half a grey level, at most
    assert torch.allclose(answer, total / 10, atol=2e-3)
    assert (answer.argmax(1) == total.argmax(1)).float().mean() > 0.995
    assert [view.size(*size[::-1]) for view in views(build_inference(recipe)["tta"])][::2] == shown
    resized_twice = found(recipe_of("dinov3_m2f", tta={"from_file": False, "multiple": None}), model, image)
    assert (resized_twice - total / 10).abs().max() > 2e-3


def test_published_sizes_of_views() -> None:
    """Of an image of 683 × 512 pixels, and of one that stands."""
    tta = {"scales": [0.9, 0.95, 1.0, 1.05, 1.1], "shortest_edge": 896, "multiple": 32}
    assert [view.size(512, 683) for view in views(tta)] == [
        (832, 1110),
        (864, 1153),
        (896, 1195),
        (940, 1254),
        (985, 1314),
    ]
    assert [view.size(683, 512)[0] for view in views(tta)] == [1110, 1153, 1195, 1254, 1314]


@pytest.mark.parametrize("name", ["eomt_dinov3", "pmt_dinov3"])
@pytest.mark.parametrize("size", [(75, 60), (60, 75), (180, 64), (64, 64), (333, 71)])
@torch.no_grad()
def test_eomt_spreads_windows_evenly(name: str, size: tuple[int, int]) -> None:
    """The image's shorter side at the crop; as few crops along the longer one as cover it, evenly spread."""
    image, model, crop = image_of(*size), Queries(), 64
    factor = max(crop / image.height, crop / image.width)
    shape = [round(side * factor) for side in size]
    pixels = normalised(image.resize(shape, Image.Resampling.BILINEAR))
    count = math.ceil(max(shape) / crop)
    overlap = (count * crop - max(shape)) / (count - 1) if count > 1 else 0
    total, seen = torch.zeros(1, CLASSES, *shape[::-1]), torch.zeros(1, 1, *shape[::-1])
    for number in range(count):
        start = int(number * (crop - overlap))
        across = slice(start, start + crop) if shape[0] >= shape[1] else slice(None)
        down = slice(start, start + crop) if shape[1] > shape[0] else slice(None)
        part = pixels[:, :, down, across]
        total[:, :, down, across] += scores_of(model(pixel_values=part), part.shape[-2:])
        seen[:, :, down, across] += 1
    expected = F.interpolate(total / seen, size=size[::-1], mode="bilinear")
    assert torch.allclose(found(recipe_of(name), model, image), expected, atol=2e-5)


def test_even_windows_are_those_of_the_stride_where_there_are_two() -> None:
    assert window_positions(683, 512, 512) == window_positions(683, 512, 512, even=True) == [0, 171]
    assert window_positions(1300, 512, 512) == [0, 512, 788]
    assert window_positions(1300, 512, 512, even=True) == [0, 394, 788]


@pytest.mark.parametrize("size", [(75, 60), (60, 75), (180, 64)])
@torch.no_grad()
def test_mask2former_scores_the_image_as_shown_and_resizes_the_scores(size: tuple[int, int]) -> None:
    image, model = image_of(*size), Queries()
    pixels = normalised(resized(image, 64))
    shown = scores_of(model(pixel_values=pixels), pixels.shape[-2:])
    expected = F.interpolate(shown, size=size[::-1], mode="bilinear")
    recipe = recipe_of("mask2former", window=256, stride=256)
    assert torch.allclose(found(recipe, model, image), expected, atol=2e-5)
