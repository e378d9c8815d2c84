from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_dinoseg.inference import predict_best
from hf_dinoseg.inference.predict import pixels_at_once, predict_images


class Bright(nn.Module):
    """Logits that are the pixels themselves; notes how many windows it sees at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.seen.append(len(pixel_values))
        return SimpleNamespace(logits=pixel_values)


SLIDE = {"mode": "slide", "window": 16, "stride": 16, "batch_size": 4}


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def test_windows_of_several_images_share_a_batch():
    model, given = Bright(), images((16, 32), (16, 32), (16, 32), (16, 16), (16, 32))
    sizes = [(16, 32), (16, 32), (20, 30), (16, 16), (16, 32)]
    answers = list(predict_images(model, given, sizes, at_once=4 * 16 * 16, **SLIDE))
    # two images of two windows; the third is answered at another size, the fourth is of another size
    assert model.seen == [4, 2, 1, 2]
    for image, size, (labels, scores) in zip(given, sizes, answers, strict=True):
        alone = predict_best(Bright(), image, size, **SLIDE)
        assert torch.equal(labels, alone[0][0]) and torch.equal(scores, alone[1][0])


@pytest.mark.parametrize(("at_once", "seen"), [(0, [2] * 5), (1100, [4, 4, 2]), (10_000, [4, 4, 2]), (None, [2] * 5)])
def test_what_is_held_is_bounded_by_pixels_not_by_images(at_once, seen):
    model = Bright()
    assert len(list(predict_images(model, images(*[(16, 32)] * 5), [(16, 32)] * 5, at_once, **SLIDE))) == 5
    assert model.seen == seen


def test_a_processor_takes_images_one_by_one_and_an_accelerator_a_batch_of_windows():
    assert pixels_at_once(torch.device("cpu"), 4, 512) == 0
    assert pixels_at_once(torch.device("cuda"), 4, 512) == 4 * 512 * 512


def test_no_image_no_answer():
    assert list(predict_images(Bright(), [], [], **SLIDE)) == []
