"""Checkpoints with a planted fault. The stand-in model reads each pixel's class off its colour, so it is right on
images prepared as it expects, and wrong in a known way on others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_dinoseg import DinoSegImageProcessor, LabelSpace
from hf_dinoseg.doctor import examine_checkpoint
from hf_dinoseg.doctor.predictions import probe
from hf_dinoseg.inference import Segmenter
from hf_dinoseg.models import DinoSegOutput

COLORS = np.array([[60, 80, 120], [90, 110, 60], [120, 140, 150], [150, 170, 90]], dtype=np.uint8)
STEPS = np.array([[60, 80, 120], [90, 110, 150], [120, 140, 180], [150, 170, 210]], dtype=np.uint8)  # by brightness


class ReadsColors(nn.Module):
    """Logits by distance to each class's colour, of pixels normalised by `mean` and `std`."""

    def __init__(self, mean, std, colors=COLORS, order=None, sharpness=200.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.colors = torch.tensor(colors / 255.0).float()
        self.order, self.sharpness = order, sharpness

    def forward(self, pixel_values):
        unit = pixel_values * self.std + self.mean
        distance = (unit[:, None] - self.colors[None, :, :, None, None]).square().sum(2)
        logits = -self.sharpness * distance * self.scale
        return DinoSegOutput(logits=logits if self.order is None else logits[:, self.order])


class Fixed(nn.Module):
    """Queries and masks that do not depend on the image."""

    def __init__(self, class_logits):
        super().__init__()
        self.class_logits = nn.Parameter(torch.tensor(class_logits))

    def forward(self, pixel_values):
        batch, _, height, width = pixel_values.shape
        masks = torch.zeros(batch, len(self.class_logits), height // 4, width // 4)
        return DinoSegOutput(
            class_queries_logits=self.class_logits[None].expand(batch, -1, -1), masks_queries_logits=masks
        )


@pytest.fixture
def pairs(row):
    """Images whose pixels have their class's colour, and a little noise."""

    def make(count=4, colors=COLORS):
        rows = []
        for number in range(count):
            rng = np.random.default_rng(number)
            mask = np.repeat(np.repeat(rng.permutation(np.tile([0, 1, 2, 3], 6)).reshape(4, 6), 10, 0), 10, 1)
            noise = rng.integers(-6, 7, (*mask.shape, 3))
            image = (colors[mask].astype(int) + noise).clip(0, 255).astype(np.uint8)
            rows.append(row(mask.astype(np.uint8), f"p{number}", image))
        return rows

    return make


def judge(model, space, rows, recipe_space=None, processor=None, **settings):
    processor = processor or DinoSegImageProcessor()
    segmenter = Segmenter(model, processor, space, **settings)
    ours = DinoSegImageProcessor().to_dict()
    return {f.code: f for f in examine_checkpoint(segmenter, recipe_space or space, ours, rows).findings}


MEAN, STD = DinoSegImageProcessor.image_mean, DinoSegImageProcessor.image_std


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_good_checkpoint_has_no_finding(pairs, space, mode):
    assert judge(ReadsColors(MEAN, STD), space, pairs(), mode=mode, window=32) == {}


def test_exchanged_channels(pairs, space):
    found = judge(ReadsColors(MEAN, STD, COLORS[:, ::-1].copy()), space, pairs())
    assert (
        found["swapped-channels"].level == "error"
        and "100.0 with pixels red and blue" in found["swapped-channels"].seen
    )
    assert not {"wrong-normalization", "label-shift"} & set(found)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [((0.0,) * 3, (1.0,) * 3, "0..1"), ((0.0,) * 3, (1 / 255,) * 3, "0..255"), ((0.5,) * 3, (0.5,) * 3, "-1..1")],
)
def test_wrong_normalisation_is_named(pairs, space, mean, std, words):
    found = judge(ReadsColors(mean, std, STEPS), space, pairs(colors=STEPS))
    assert words in found["wrong-normalization"].seen and "100.0 with pixels" in found["wrong-normalization"].seen


def test_a_processor_with_other_statistics_than_the_model_learned(pairs, space):
    processor = DinoSegImageProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    found = judge(ReadsColors(MEAN, STD, STEPS), space, pairs(colors=STEPS), processor=processor)
    assert "normalised by ImageNet" in found["wrong-normalization"].seen and "normalization-differs" in found


def test_shifted_labels(pairs, space):
    found = judge(ReadsColors(MEAN, STD, order=[1, 2, 3, 0]), space, pairs())
    assert "0 background → 1 artery" in found["label-shift"].seen
    moved = LabelSpace({1: "background", 2: "artery", 3: "vein", 4: "disc"})
    found = judge(ReadsColors(MEAN, STD), moved, pairs(), recipe_space=space)
    assert set(found) == {"checkpoint-labels-differ"}  # by train id the predictions are right


def test_a_constant_prediction(pairs, space):
    colors = np.vstack([COLORS[:1], np.full((3, 3), 2000)]).astype(np.float64)  # no pixel is near the others
    found = judge(ReadsColors(MEAN, STD, colors), space, pairs())
    assert "as 0 background, which is 25.0 % of the truth" in found["constant-prediction"].seen
    assert "drawn black" in found["constant-prediction"].seen and "label-shift" not in found


def test_a_constant_prediction_is_right_where_the_truth_is_constant(row, space):
    image = np.zeros((40, 60, 3), np.uint8) + COLORS[0]
    rows = [row(np.zeros((40, 60), np.uint8), "p", image)]
    assert judge(ReadsColors(MEAN, STD), space, rows) == {}


def test_collapsed_confidence(pairs, space):
    assert "confidence-collapse" in judge(ReadsColors(MEAN, STD, sharpness=1e-3), space, pairs())


def test_no_object_everywhere(pairs, space):
    found = judge(Fixed([[0.0, 0.0, 0.0, 0.5, 9.0]] * 3), space, pairs())
    assert found["no-object-everywhere"].level == "error" and "constant-prediction" in found
    assert "no-object-everywhere" not in judge(
        Fixed([[0.0, 0.0, 0.0, 9.0, 0.0]] + [[0.0] * 4 + [9.0]] * 2), space, pairs()
    )


def test_no_object_in_one_image_only_is_no_finding(row, space):
    class Sometimes(Fixed):
        def forward(self, pixel_values):
            outputs = super().forward(pixel_values)
            outputs.class_queries_logits = (
                outputs.class_queries_logits + (pixel_values.mean() > 0) * torch.eye(5)[1] * 20
            )
            return outputs

    mask = np.zeros((40, 60), np.uint8)
    rows = [row(mask, name, np.full((40, 60, 3), level, np.uint8)) for name, level in (("bright", 240), ("dark", 10))]
    model = Sometimes([[0.0, 0.0, 0.0, 0.0, 9.0]])
    assert "no-object-everywhere" not in judge(model, space, rows)
    assert "no-object-everywhere" not in judge(model, space, rows[::-1])
    assert "no-object-everywhere" in judge(model, space, rows[1:])


def test_nan(pairs, space):
    model = ReadsColors(MEAN, STD)
    nn.init.constant_(model.scale, float("nan"))
    assert set(judge(model, space, pairs())) == {"nan-prediction"}


def test_background_that_has_no_class(pairs):
    labels = LabelSpace({1: "artery", 2: "vein", 3: "disc"}, reduce_zero_label=True)
    model = ReadsColors(MEAN, STD, COLORS[1:])
    found = judge(model, labels, pairs())
    assert set(found) == {"background-without-class"}
    assert "25.0 % of these images" in found["background-without-class"].seen
    assert judge(model, labels, pairs(), background_threshold=0.5) == {}


def test_pairs_that_cannot_be_read_are_passed_over(pairs, row, space, quarters):
    rows = [row(b"", "empty"), row(np.full((40, 60), 9, np.uint8), "unknown"), row(np.zeros((4, 6), np.uint8), "small")]
    assert judge(ReadsColors(MEAN, STD), space, rows) == {}
    assert judge(ReadsColors(MEAN, STD), space, rows + pairs()) == {}
    assert probe(ReadsColors(MEAN, STD), DinoSegImageProcessor(), space, rows + pairs(2)).images == 2
