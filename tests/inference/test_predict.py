from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_dinoseg.inference import predict_best, predict_scores, window_positions


class QueryModel(nn.Module):
    """Query masks that depend on the pixels, the place in the window and nothing else; masks at stride 4."""

    def __init__(self, queries: int = 6, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.mix = nn.Parameter(3 * torch.randn(queries, 3, generator=generator))
        self.classes = nn.Parameter(2 * torch.randn(queries, classes + 1, generator=generator))
        self.batches: list[tuple[int, ...]] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.batches.append(tuple(pixel_values.shape))
        size = [-(-side // 4) for side in pixel_values.shape[-2:]]
        small = F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False)
        masks = torch.einsum("qk,bkhw->bqhw", self.mix, small)
        masks = masks + torch.linspace(-1, 1, size[0])[:, None] * torch.linspace(0, 2, size[1])
        classes = self.classes + pixel_values.mean((1, 2, 3))[:, None, None]
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


class PixelModel(nn.Module):
    """Per-pixel logits at stride 4, as a linear head makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(7)))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        size = [-(-side // 4) for side in pixel_values.shape[-2:]]
        small = F.interpolate(pixel_values, size=size, mode="bilinear", align_corners=False)
        return SimpleNamespace(logits=torch.einsum("ck,bkhw->bchw", self.mix, small))


MODELS = [QueryModel, PixelModel]


def photos(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 100 + width))


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def scores_from_definition(model: nn.Module, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(C, H, W) of one image (3, h, w), written out from the formula."""
    outputs = model(pixel_values=image[None])
    if hasattr(outputs, "logits"):
        return upsample(outputs.logits, size).softmax(1)[0]
    classes = outputs.class_queries_logits.softmax(-1)[0, :, :-1]
    masks = upsample(outputs.masks_queries_logits, size).sigmoid()[0]
    return (classes[:, :, None, None] * masks[:, None]).sum(0)


def slide_from_definition(model: nn.Module, image: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """The field's plain loop: one window at a time, its end clipped to the image and its start moved to match."""
    _, height, width = image.shape
    rows = max(height - window + stride - 1, 0) // stride + 1
    columns = max(width - window + stride - 1, 0) // stride + 1
    total, count = torch.zeros(4, height, width), torch.zeros(1, height, width)
    for i in range(rows):
        for j in range(columns):
            y2, x2 = min(i * stride + window, height), min(j * stride + window, width)
            y1, x1 = max(y2 - window, 0), max(x2 - window, 0)
            crop = image[:, y1:y2, x1:x2]
            total[:, y1:y2, x1:x2] += scores_from_definition(model, crop, (y2 - y1, x2 - x1))
            count[:, y1:y2, x1:x2] += 1
    return total / count


def test_window_positions_for_every_small_size():
    for length in range(1, 71):
        for window in (1, 2, 3, 5, 8, 13):
            for stride in range(1, window + 1):
                starts = window_positions(length, window, stride)
                shrunk = min(window, length)
                covered = {pixel for start in starts for pixel in range(start, start + shrunk)}
                assert covered == set(range(length))  # every pixel, and none outside
                assert starts == sorted(set(starts)) and starts[0] == 0
                assert all(b - a <= stride for a, b in zip(starts, starts[1:], strict=False))
                assert all(start == i * stride for i, start in enumerate(starts[:-1]))
                grid = max(length - window + stride - 1, 0) // stride + 1
                field = [max(min(i * stride + window, length) - window, 0) for i in range(grid)]
                assert starts == field


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_windows_that_leave_gaps_are_refused(window, stride):
    with pytest.raises(ValueError, match="must all be at least 1|would be left out"):
        window_positions(10, window, stride)
    with pytest.raises(ValueError, match="must all be at least 1|would be left out"):
        predict_scores(QueryModel(), photos(1, 8, 8), mode="slide", window=window, stride=stride)


def test_unknown_mode_is_refused():
    for function in (predict_scores, predict_best):
        with pytest.raises(ValueError, match="'tiles' is not known; it is one of whole, slide"):
            function(QueryModel(), photos(1, 8, 8), mode="tiles")


@pytest.mark.parametrize("make_model", MODELS)
@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(32, 32, 16, 11), (37, 53, 16, 11), (40, 16, 16, 16), (12, 45, 16, 5), (9, 10, 16, 11), (17, 33, 16, 1)],
)
def test_slide_equals_the_plain_loop(make_model, height, width, window, stride):
    model = make_model()
    images = photos(2, height, width)
    expected = torch.stack([slide_from_definition(model, image, window, stride) for image in images])
    for batch_size in (1, 3, 100):
        scores = predict_scores(model, images, mode="slide", window=window, stride=stride, batch_size=batch_size)
        assert scores.dtype == torch.float32
        assert torch.allclose(scores, expected, atol=1e-5)


def test_windows_are_batched_over_positions_and_images():
    model = QueryModel()
    predict_scores(model, photos(2, 16, 30), mode="slide", window=16, stride=7, batch_size=4)  # 1 x 3 windows each
    assert model.batches == [(4, 3, 16, 16), (2, 3, 16, 16)]


def test_stride_is_two_thirds_of_the_window_unless_given():
    with_default, given = QueryModel(), QueryModel()
    images = photos(1, 40, 40)
    assert torch.equal(
        predict_scores(with_default, images, mode="slide", window=24),
        predict_scores(given, images, mode="slide", window=24, stride=16),
    )


@pytest.mark.parametrize("make_model", MODELS)
def test_whole_scores_follow_the_definition(make_model):
    model = make_model()
    images = photos(2, 21, 34)
    expected = torch.stack([scores_from_definition(model, image, (21, 34)) for image in images])
    assert torch.allclose(predict_scores(model, images), expected, atol=1e-5)


@pytest.mark.parametrize("make_model", MODELS)
@pytest.mark.parametrize("target", [None, (50, 61), (11, 13)])
def test_whole_label_map_is_the_argmax_of_scores_at_the_target_size(make_model, target):
    model = make_model()
    images = photos(2, 24, 36)
    expected = torch.stack([scores_from_definition(model, image, target or (24, 36)) for image in images])
    labels, scores = predict_best(model, images, target)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, expected.argmax(1))
    assert torch.allclose(scores, expected.amax(1), atol=1e-5)
    assert torch.equal(predict_best(model, images, target)[0], labels)


@pytest.mark.parametrize("target", [None, (50, 61), (11, 13)])
@pytest.mark.parametrize("strip", [1, 1000, 1 << 19])
def test_slide_label_map_is_the_argmax_of_resized_scores(target, strip, monkeypatch):
    monkeypatch.setattr("hf_dinoseg.models.scores.CACHED_VALUES", strip)
    model = QueryModel()
    images = photos(2, 24, 36)
    scores = torch.stack([slide_from_definition(model, image, 16, 11) for image in images])
    resized = upsample(scores, target or (24, 36))
    labels, best = predict_best(model, images, target, mode="slide", window=16, stride=11)
    assert torch.equal(labels, resized.argmax(1))
    assert torch.allclose(best, resized.amax(1), atol=1e-5)


def test_image_without_batch_dimension_gives_a_batch_of_one():
    model = QueryModel()
    image = photos(1, 20, 24)
    labels = predict_best(model, image[0], (30, 31))[0]
    assert labels.shape == (1, 30, 31)
    assert torch.equal(labels, predict_best(model, image, (30, 31))[0])


def test_low_precision_outputs_are_summed_in_float32():
    class Half(QueryModel):
        def forward(self, pixel_values):
            return SimpleNamespace(**{k: v.bfloat16() for k, v in vars(super().forward(pixel_values)).items()})

    model = Half()
    images = photos(1, 20, 24)
    for mode in ("whole", "slide"):
        scores = predict_scores(model, images, mode=mode, window=16, stride=11)
        exact = predict_scores(QueryModel(), images, mode=mode, window=16, stride=11)
        assert scores.dtype == torch.float32
        assert (scores - exact).abs().max() < 0.05
        assert len(np.unique(scores.numpy())) > 256  # not the few values that bfloat16 has
    assert predict_best(model, images, (41, 43))[1].dtype == torch.float32


def test_no_gradient_is_recorded():
    assert not predict_scores(QueryModel(), photos(1, 8, 8)).requires_grad


@pytest.mark.parametrize("make_model", MODELS)
@pytest.mark.parametrize(("height", "width"), [(37, 53), (9, 40), (12, 10)])
def test_smooth_blending_is_the_weighted_mean_of_windows(make_model, height, width):
    model, window, stride = make_model(), 16, 11
    image = photos(1, height, width)
    tall, wide = min(window, height), min(window, width)
    bell = [0.001 + 0.999 * np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (tall, wide)]
    weight = torch.from_numpy(np.outer(*bell)).float()
    total, weights = torch.zeros(4, height, width), torch.zeros(height, width)
    for y in window_positions(height, window, stride):
        for x in window_positions(width, window, stride):
            crop = image[0, :, y : y + tall, x : x + wide]
            total[:, y : y + tall, x : x + wide] += weight * scores_from_definition(model, crop, (tall, wide))
            weights[y : y + tall, x : x + wide] += weight
    scores = predict_scores(model, image, mode="slide", window=window, stride=stride, blend="smooth")
    assert torch.allclose(scores[0], total / weights, atol=1e-5)
    if (height, width) != (12, 10):  # one window alone has nothing to blend with
        assert not torch.allclose(
            scores, predict_scores(model, image, mode="slide", window=window, stride=stride), atol=1e-3
        )


@pytest.mark.parametrize("make_model", MODELS)
@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("target", [(24, 36), (50, 61)])
def test_augmentation_is_the_mean_over_sizes_and_mirror_images(make_model, mode, target):
    model = make_model()
    image = photos(1, 24, 36)
    expected = []
    for scale in (0.75, 1.0, 1.25):
        size = (round(24 * scale), round(36 * scale))
        resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        for photo, back in ((resized, ()), (resized.flip(-1), (-1,))):
            if mode == "whole":
                scores = scores_from_definition(model, photo[0], target)
            else:
                scores = upsample(slide_from_definition(model, photo[0], 16, 11)[None], target)[0]
            expected.append(scores.flip(back))
    mean = torch.stack(expected).mean(0)
    settings = {"mode": mode, "window": 16, "stride": 11, "tta": {"scales": [0.75, 1, 1.25], "flip": True}}
    assert torch.allclose(predict_scores(model, image, target_size=target, **settings)[0], mean, atol=1e-5)
    labels, best = predict_best(model, image, target, **settings)
    assert torch.allclose(best[0], mean.amax(0), atol=1e-5)
    assert (labels[0] != mean.argmax(0)).float().mean() < 1e-3


def test_scores_can_be_collected_on_another_device():
    assert predict_scores(QueryModel(), photos(1, 8, 8), output_device="meta").device.type == "meta"


def test_an_image_too_large_to_be_seen_whole_is_refused(monkeypatch):
    monkeypatch.setattr("hf_dinoseg.inference.predict.WHOLE_MAX_PIXELS", 100)
    predict_best(QueryModel(), photos(1, 10, 10))[0]
    with pytest.raises(ValueError, match="11×10 pixels is too large to be seen whole.*mode slide"):
        predict_best(QueryModel(), photos(1, 10, 11))[0]
    assert predict_best(QueryModel(), photos(1, 10, 11), mode="slide", window=8)[0].shape == (1, 10, 11)
