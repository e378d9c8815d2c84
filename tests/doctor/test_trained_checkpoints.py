"""A model that was really trained, and each fault planted in it or in what it is given."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_dinoseg import DinoSegForSemanticSegmentation, DinoSegImageProcessor, LabelSpace
from hf_dinoseg.doctor import examine_checkpoint
from hf_dinoseg.doctor.repairs import Stored, find_movement
from hf_dinoseg.inference import Segmenter

COLORS = np.array([[60, 80, 120], [170, 60, 50], [70, 160, 80], [190, 170, 90]])
CLASSES = {0: "background", 1: "artery", 2: "vein", 3: "disc"}


def patchwork(count, seed):
    """Images of 96 by 96 pixels in the colours of their classes, with noise; regions are as large as patches."""
    rng = np.random.default_rng(seed)
    masks = np.kron(rng.integers(0, 4, (count, 6, 6)), np.ones((1, 16, 16), int)).astype(np.uint8)
    images = (COLORS[masks] + rng.normal(0, 8, (*masks.shape, 3))).clip(0, 255).astype(np.uint8)
    return images, masks


@pytest.fixture(scope="module")
def weights():
    """Those of a tiny ViT with a linear head that learned to tell the colours apart."""
    torch.manual_seed(0)
    model = new_model()
    processor = DinoSegImageProcessor()
    images, masks = patchwork(32, 0)
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    truth = torch.tensor(masks[:, 8::16, 8::16].astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(120):
        batch = torch.arange(8) + 8 * (step % 4)
        loss = F.cross_entropy(model(pixels[batch]).logits, truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    return model.state_dict()


def new_model():
    backbone = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return DinoSegForSemanticSegmentation.from_backbone(
        {"model_type": "dinov3_vit", **backbone}, head="linear", num_labels=4, freeze_backbone=False
    )


@pytest.fixture
def model(weights):
    model = new_model()
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture
def judge(row):
    """Codes of the findings on a checkpoint, and what each saw."""

    def look(model, processor=None, channels=slice(None), space=None):
        space = space or LabelSpace(CLASSES, ignore=(255,))
        images, masks = patchwork(6, 1)
        rows = [
            row(mask, f"p{n}", image[..., channels]) for n, (image, mask) in enumerate(zip(images, masks, strict=True))
        ]
        segmenter = Segmenter(model, processor or DinoSegImageProcessor(), space)
        found = examine_checkpoint(segmenter, space, DinoSegImageProcessor().to_dict(), rows).findings
        return {finding.code: finding.seen for finding in found}

    return look


class Around(nn.Module):
    """The model with its logits changed."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, pixel_values):
        outputs = self.model(pixel_values)
        outputs.logits = self.change(outputs.logits)
        return outputs


def test_nothing_is_found_on_a_sound_checkpoint(model, judge):
    assert judge(model) == {}


def test_channels_that_change_places(model, judge):
    found = judge(model, channels=slice(None, None, -1))
    assert set(found) == {"swapped-channels"}, found


@pytest.mark.parametrize(
    "fault",
    [
        {"do_rescale": False},
        {"rescale_factor": 1 / 255**2},
        {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "do_rescale": False},
    ],
)
def test_pixels_prepared_otherwise_than_learned(model, judge, fault):
    found = judge(model, DinoSegImageProcessor(**fault))
    assert "normalised by ImageNet" in found["wrong-normalization"] and "normalization-differs" in found
    assert not {"label-shift", "swapped-channels"} & set(found)


@pytest.mark.parametrize(
    ("order", "words"),
    [([1, 0, 2, 3], "in another order"), ([3, 2, 1, 0], "in another order"), ([1, 2, 3, 0], "1 artery → 2 vein")],
)
def test_ids_that_moved(model, judge, order, words):
    found = judge(Around(model, lambda logits: logits[:, order]))
    assert set(found) == {"label-shift"} and words in found["label-shift"]


def test_one_class_everywhere(model, judge):
    found = judge(Around(model, lambda logits: logits + 50 * F.one_hot(torch.tensor(0), 4)[:, None, None]))
    assert set(found) == {"constant-prediction"} and "0 background" in found["constant-prediction"]


def test_a_model_that_is_sure_of_nothing(model, judge):
    assert "confidence-collapse" in judge(Around(model, lambda logits: 1e-3 * logits))
    torch.manual_seed(0)
    untrained = set(judge(new_model().eval()))
    assert "confidence-collapse" in untrained
    assert not untrained & {"label-shift", "wrong-normalization", "swapped-channels"}


def test_a_background_that_has_no_class(model, judge):
    space = LabelSpace({i: CLASSES[i] for i in (1, 2, 3)}, reduce_zero_label=True)
    found = judge(Around(model, lambda logits: logits[:, 1:]), space=space)
    assert set(found) == {"background-without-class"}


def moved(mask, down, right):
    """What lies beyond the edge is filled with void."""
    height, width = mask.shape
    out = np.full_like(mask, 255)
    out[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = mask[
        max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return out


def planted(fault):
    """The same images and masks, with the fault."""
    images, masks = patchwork(6, 1)
    light = np.arange(256)
    return {
        "none": lambda: (images, masks),
        "left to right": lambda: (images, masks[:, :, ::-1]),
        "top to bottom": lambda: (images, masks[:, ::-1]),
        "by 180": lambda: (images, masks[:, ::-1, ::-1]),
        "next": lambda: (images, np.roll(masks, -1, axis=0)),
        "previous": lambda: (images, np.roll(masks, 1, axis=0)),
        "moved": lambda: (images, np.stack([moved(mask, 8, 0) for mask in masks])),
        "moved both ways": lambda: (images, np.stack([moved(mask, -5, 9) for mask in masks])),
        "dark": lambda: ((light / 3).astype(np.uint8)[images], masks),
        "bgr": lambda: (images[..., ::-1], masks),
        "noise": lambda: (images, np.random.default_rng(2).permuted(masks.reshape(6, -1), axis=1).reshape(masks.shape)),
    }[fault]()


@pytest.fixture
def examine_planted(model, row):
    def look(fault, metrics=None, model=model):
        space = LabelSpace(CLASSES, ignore=(255,))
        pairs = zip(*planted(fault), strict=True)
        rows = [row(np.ascontiguousarray(m), f"p{n}", np.ascontiguousarray(i)) for n, (i, m) in enumerate(pairs)]
        segmenter = Segmenter(model, DinoSegImageProcessor(), space)
        ours = DinoSegImageProcessor().to_dict()
        return examine_checkpoint(segmenter, space, ours, rows, metrics=metrics)

    return look


METRICS = {"mean_iou": 0.95, "mean_iou_interval": [0.93, 0.97], "num_images": 40}


@pytest.mark.parametrize("metrics", [METRICS, None])
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("left to right", "masks-mirrored", "masks mirrored left to right"),
        ("top to bottom", "masks-mirrored", "masks mirrored top to bottom"),
        ("by 180", "masks-mirrored", "masks turned by 180 degrees"),
        ("next", "pairs-shifted", "the mask of the pair before it"),
        ("previous", "pairs-shifted", "the mask of the pair after it"),
        ("moved", "masks-moved", "masks moved 8 pixels up"),
        ("moved both ways", "masks-moved", "masks moved 5 pixels down and 9 pixels to the left"),
        ("dark", "brightness-differs", "images 3 times as bright"),
        ("bgr", "swapped-channels", "red and blue exchanged"),
    ],
)
def test_what_the_data_got_wrong_is_found_by_undoing_it(examine_planted, fault, code, words, metrics):
    report = examine_planted(fault, metrics)
    [finding] = report.findings
    assert (finding.level, finding.code) == ("error", code) and words in finding.seen, finding
    here, repaired = map(float, re.search(r"is ([\d.]+), and ([\d.]+) with", finding.seen).groups())
    assert here == pytest.approx(100 * report.overview["checkpoint"]["mean_iou"], abs=0.06)
    assert repaired > 85 and repaired > here + 25


@pytest.mark.parametrize("metrics", [METRICS, None, {}, {"mean_iou": None}, {**METRICS, "mean_iou": 0.999}])
def test_good_data_has_no_finding_whatever_is_stored(examine_planted, metrics):
    report = examine_planted("none", metrics)
    assert report.findings == ()
    measured = report.overview["checkpoint"]
    assert measured["mean_iou"] > 0.9 and measured["images"] == 6
    assert measured["stored_mean_iou"] == (metrics or {}).get("mean_iou")


def test_the_mean_iou_stands_beside_the_stored_one(examine_planted):
    report = examine_planted("left to right", METRICS)
    here = report.overview["checkpoint"]["mean_iou"]
    assert f"mean IoU {100 * here:.1f} on 6 images of this dataset, 95.0 on 40 images in its metrics" in report.text()
    assert "none in its metrics.json" in examine_planted("none").text()


def test_masks_that_nothing_explains(examine_planted):
    """Masks of other places altogether: no cause is made up."""
    for metrics in (METRICS, None):
        [finding] = examine_planted("noise", metrics).findings
        assert finding.code == "knows-nothing"


def test_worse_than_stored_and_no_cause(examine_planted, model):
    def confuse(logits):  # half of the pixels are answered as the next class
        other = logits.roll(1, dims=1)
        return torch.where(torch.arange(logits.shape[-1]) % 2 == 0, logits, other)

    [finding] = examine_planted("none", METRICS, Around(model, confuse)).findings
    assert (finding.level, finding.code) == ("warning", "below-stored") and "95.0 in the" in finding.seen
    assert examine_planted("none", {"mean_iou": 0.4}, Around(model, confuse)).findings == ()


def test_a_model_that_learned_nothing(examine_planted, model):
    torch.manual_seed(0)
    noise = torch.randn(1, 4, 6, 6) * 8  # as sure as any, and of nothing
    found = examine_planted("none", {"mean_iou": 0.15}, Around(model, lambda logits: 0 * logits + noise))
    assert found.codes == {"knows-nothing"}


def test_movement_is_found_as_by_trying_every_one():
    rng = np.random.default_rng(0)
    for down, right in ((0, 0), (3, -2), (-16, 16), (0, 7)):
        truths = [np.kron(rng.integers(0, 3, (5, 7)), np.ones((11, 9), int)).astype(np.uint8) for _ in range(2)]
        pairs = [(truth, moved(truth, down, right)) for truth in truths]
        assert find_movement(pairs, 3) == (down, right)


def test_how_far_a_few_images_may_fall_below_the_stored_figure():
    known = Stored.of({"mean_iou": 0.8, "mean_iou_interval": [0.74, 0.85], "num_images": 100})
    assert known.least(100) == pytest.approx(0.74) and known.least(25) == pytest.approx(0.8 - 0.06 * 2)
    assert Stored.of({"mean_iou": 0.8, "mean_iou_interval": [0.79, 0.81], "num_images": 8}).least(8) == 0.75
    assert Stored.of({"mean_iou": 0.8}).least(8) == pytest.approx(0.6)
    assert Stored.of({"mean_iou": 0.8, "mean_iou_interval": [None, None], "num_images": 1}).least(8) == pytest.approx(
        0.6
    )
    assert Stored.of(None) is None and Stored.of({"mean_iou": float("nan")}) is None
