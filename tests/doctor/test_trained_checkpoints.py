"""A model that was really trained, and each fault planted in it or in what it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_dinoseg import DinoSegForSemanticSegmentation, DinoSegImageProcessor, LabelSpace
from hf_dinoseg.doctor import examine_checkpoint
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
        found = examine_checkpoint(segmenter, space, DinoSegImageProcessor().to_dict(), rows)
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
