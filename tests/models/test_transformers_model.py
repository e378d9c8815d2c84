"""What transformers' common tests ask of a model (`ModelTesterMixin`), as far as it can be asked of this one.

Not asked, since there is nothing to ask: attention maps (`output_attentions`: the decoders' fused attention never has
them), resizing of embeddings, generation, tied weights, heads of attention that are pruned, TorchScript.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from head_tester import TINY_HEAD, TINY_VIT, tiny_model
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegOutput, outputs
from hf_dinoseg.models.loss import class_masks

HEADS = pytest.mark.parametrize("head", ["linear", "eomt", "mask2former", "pmt"])
MASK_HEADS = pytest.mark.parametrize("head", ["eomt", "mask2former", "pmt"])


def images(size: tuple[int, int] = (48, 64), batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def truth(size: tuple[int, int] = (48, 64), batch: int = 2, void: bool = True) -> torch.Tensor:
    """Blocks of classes 0 to 4, some of them void."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 6 if void else 5, (batch, size[0] // 16, size[1] // 16), generator=generator)
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return labels.masked_fill(labels == 5, 255)


def masks_of(labels: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    classes = [torch.tensor([c for c in range(5) if (one == c).any()]) for one in labels]
    return [class_masks(one, c) for one, c in zip(labels, classes, strict=True)], classes


def loss_of(model: DinoSegForSemanticSegmentation, **given: Any) -> torch.Tensor:
    torch.manual_seed(5)  # the points
    return model(images(), **given).loss


# ---------------------------------------------------------------------- the loss


def test_the_loss_of_the_linear_head_is_torchs_cross_entropy() -> None:
    model, labels = tiny_model(head="linear"), truth()
    resized = F.interpolate(model(images()).logits, size=(48, 64), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(resized, labels, ignore_index=255)
    torch.testing.assert_close(model(images(), labels).loss, expected)
    masks, classes = masks_of(labels)  # whose pixels in no mask are void
    torch.testing.assert_close(model(images(), mask_labels=masks, class_labels=classes).loss, expected)


@MASK_HEADS
def test_without_void_the_loss_of_mask_heads_is_transformers_own(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the points, which both draw: where every point is the same one, there is nothing to draw."""
    model, labels = tiny_model(head=head), truth(void=False)

    def in_the_middle(*shape: int, device: Any = None, **_: Any) -> torch.Tensor:
        return torch.full(shape, 0.4, device=device)

    masks, classes = masks_of(labels)
    model.criterion.uniform = in_the_middle
    monkeypatch.setattr(torch, "rand", in_the_middle)
    output = model(images(), labels, output_auxiliary=True)
    config = Mask2FormerConfig(num_labels=5, train_num_points=12544)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    auxiliary = [dict(one) for one in output.auxiliary_predictions or ()]
    terms = Mask2FormerLoss(config, weights)(
        output.masks_queries_logits, output.class_queries_logits, [m.float() for m in masks], classes, auxiliary
    )
    expected = sum(
        weights["loss_" + name.removeprefix("loss_").rsplit("_", 1)[0]] * terms[name]
        if name[-1].isdigit()
        else weights[name] * terms[name]
        for name in terms
    )
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-4)


@HEADS
def test_labels_and_masks_teach_the_same_and_void_teaches_nothing(head: str) -> None:
    model, labels = tiny_model(head=head), truth()
    masks, classes = masks_of(labels)
    expected = loss_of(model, labels=labels)
    assert expected.isfinite() and expected > 0
    assert torch.equal(loss_of(model, labels=labels.byte()), expected)
    assert torch.equal(loss_of(model, mask_labels=[m.float() for m in masks], class_labels=classes), expected)
    assert torch.equal(loss_of(model, labels=labels, mask_labels=masks, class_labels=classes), expected)
    nothing = loss_of(model.train(), labels=torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@HEADS
def test_evaluation_reports_the_loss_with_all_its_terms(head: str) -> None:
    """Or it could not be compared with that of training."""
    model, labels = tiny_model(head=head), truth()
    output = model(images(), labels)
    assert output.auxiliary_predictions is None
    torch.manual_seed(5)
    again = model(images(), labels, output_auxiliary=True)
    torch.testing.assert_close(loss_of(model, labels=labels), again.loss)
    assert (again.auxiliary_predictions is None) == (head == "linear")


def test_the_settings_of_the_loss_are_those_of_the_configuration(tmp_path: Path) -> None:
    model, labels = tiny_model(head="linear", loss={"ce_weight": 3.0, "class_weights": [1, 1, 1, 1, 0.5]}), truth()
    resized = F.interpolate(model(images()).logits, size=(48, 64), mode="bilinear", align_corners=False)
    weights = torch.tensor([1, 1, 1, 1, 0.5])
    expected = 3 * F.cross_entropy(resized, labels, weight=weights, ignore_index=255)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images(), labels).loss, expected)
    with pytest.raises(ValueError, match="config.loss has no_object_weight; PixelLoss.*ce_weight"):
        tiny_model(head="linear", loss={"no_object_weight": 0.2})(images(), labels)


def test_a_model_in_half_precision_keeps_the_weights_of_its_loss() -> None:
    model = tiny_model(loss={"no_object_weight": 0.1})
    model.criterion.to(torch.device("cpu"))
    assert model.half().criterion.class_term_weights[-1] == torch.tensor(0.1)
    assert not any("criterion" in name for name, _ in model.named_modules())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"labels": torch.zeros(2, 1, 48, 64, dtype=torch.long)},
            r"labels: found shape \(2, 1, 48, 64\), wanted .*"
            r"\(2, 48, 64\)",
        ),
        ({"labels": torch.zeros(2, 24, 64, dtype=torch.long)}, r"labels: found shape \(2, 24, 64\)"),
        ({"labels": torch.zeros(2, 48, 64)}, r"labels: found float32, wanted whole numbers"),
        ({"labels": torch.zeros(2, 48, 64, dtype=torch.bool)}, r"labels: found bool, wanted whole numbers"),
        ({"labels": torch.full((2, 48, 64), 5)}, r"labels: found 5 \(6144 times\), wanted train ids 0 to 4, and 255"),
        ({"labels": torch.full((2, 48, 64), -100)}, r"labels: found -100"),
        ({"labels": [[0]]}, r"labels: found <class 'list'>"),
        ({"mask_labels": [torch.zeros(0, 48, 64)] * 2}, r"mask_labels: found without class_labels"),
        ({"class_labels": [torch.zeros(0)] * 2}, r"class_labels: found without mask_labels"),
        (
            {"mask_labels": [torch.zeros(1, 48, 64)], "class_labels": [torch.zeros(1, dtype=torch.long)]},
            r"found 1 and 1 entries, wanted one for each of 2 images",
        ),
        (
            {"mask_labels": [torch.zeros(2, 48, 64)] * 2, "class_labels": [torch.zeros(1, dtype=torch.long)] * 2},
            r"mask_labels\[0\]: found shape \(2, 48, 64\), wanted \(1, 48, 64\)",
        ),
        (
            {"mask_labels": [torch.zeros(1, 48, 64)] * 2, "class_labels": [torch.full((1,), 9)] * 2},
            r"class_labels\[0\]: found 9",
        ),
        ({"mask_labels": [torch.ones(2, 48, 64)] * 2, "class_labels": [torch.arange(2)] * 2}, "overlap in 3072 pixels"),
        ({"pixel_values": torch.zeros(3, 48, 64)}, r"pixel_values: found shape \(3, 48, 64\), wanted .*\(B, 3, H, W\)"),
        ({"pixel_values": torch.zeros(1, 48, 64, 3)}, r"pixel_values: found shape \(1, 48, 64, 3\)"),
        ({"pixel_values": torch.zeros(1, 3, 48, 64, dtype=torch.uint8)}, r"pixel_values: found uint8, wanted norm"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        tiny_model(head="linear")(**{"pixel_values": images(), **given})
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- logits


@MASK_HEADS
def test_logits_are_made_when_they_are_asked_for(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(head=head)
    output = model(images())
    made = []
    plain = outputs.ScoreMap
    monkeypatch.setattr(outputs, "ScoreMap", lambda *given: made.append(1) or plain(*given))
    copies = [
        copy.copy(output),
        pickle.loads(pickle.dumps(output)),
        DinoSegOutput(dict(output.items())),
        DinoSegOutput((key, value) for key, value in output.items()),
    ]  # as accelerate and DataParallel make them
    assert [list(one.keys()) for one in copies] == [list(output.keys())] * 4
    assert len(model(images(), return_dict=False)) == len(output.to_tuple()) == 2
    model(images(), truth())
    assert made == []
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    expected = torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())
    for one in (output, *copies):
        torch.testing.assert_close(one.logits, expected)
    assert output["logits"] is output.logits and len(made) == 5
    assert list(output.keys()) == ["class_queries_logits", "masks_queries_logits"]
    output.logits.sum().backward()  # somebody's own loss
    assert next(model.head.parameters()).grad is not None


# ---------------------------------------------------------------------- transformers' common tests


@HEADS
def test_hidden_states_are_those_of_the_backbone(head: str) -> None:
    model = tiny_model(head=head).train()
    output = model(images(), truth(), output_hidden_states=True)
    assert len(output.hidden_states) == 5 and model(images()).hidden_states is None
    assert not any(module._forward_pre_hooks for module in model.backbone.modules())
    if head not in ("eomt", "pmt"):  # whose queries join the tokens
        output = model(images((64, 64)), output_hidden_states=True)  # whose size needs no padding
        expected = model.backbone.model(images((64, 64)), output_hidden_states=True).hidden_states
        for found, state in zip(output.hidden_states, expected, strict=True):
            torch.testing.assert_close(found, state)
    model.config.output_hidden_states = True
    assert len(model(images()).hidden_states) == 5


@HEADS
def test_attention_implementations_give_the_same(head: str, tmp_path: Path) -> None:
    tiny_model(head=head).save_pretrained(tmp_path)
    found = {}
    for kind in ("eager", "sdpa"):
        model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation=kind)
        assert model.backbone.model.config._attn_implementation == kind
        found[kind] = model(images()).logits
    torch.testing.assert_close(found["eager"], found["sdpa"], rtol=1e-3, atol=1e-4)
    model.set_attn_implementation("eager")
    assert model.backbone.model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(images()).logits, found["eager"])


@HEADS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predicts_and_trains(head: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_model(head=head).save_pretrained(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype).train()
    assert {p.dtype for p in model.parameters()} == {dtype}
    output = model(images().to(dtype), truth())
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and output.loss.isfinite() and output.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@HEADS
@pytest.mark.parametrize("stored", [True, False], ids=["with a label space", "without"])
def test_other_classes_make_a_new_classifier_and_keep_the_rest(head: str, stored: bool, tmp_path: Path) -> None:
    space = LabelSpace({0: "ground", 3: "sky", 9: "tree"})
    labels = {"label_space": space} if stored else {"num_labels": 3}
    fields = {key: value for key, value in TINY_HEAD.items() if key != "num_labels"}
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, head=head, **labels, **fields)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        DinoSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=7)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == 7 and loaded.config.label_space is None
    assert loaded(images(), truth()).logits.shape[1] == 7
    other = LabelSpace({i: f"class {i}" for i in range(300)})
    wide = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, label_space=other, ignore_mismatched_sizes=True)
    assert wide.config.id2label == other.id2label and wide.config.ignore_index == 65535
    assert LabelSpace.from_dict(wide.config.label_space) == other
    new = [name for name, p in loaded.named_parameters() if p.shape != dict(model.named_parameters())[name].shape]
    assert new and all("classify" in name for name in new)
    for name, parameter in loaded.named_parameters():
        assert name in new or torch.equal(parameter, dict(model.named_parameters())[name]), name
    same = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3)
    assert (same.config.label_space is not None) == stored


def test_names_of_classes_may_be_given_anew(tmp_path: Path) -> None:
    space = LabelSpace({0: "ground", 3: "sky"})
    DinoSegConfig(label_space=space).save_pretrained(tmp_path)
    kept = DinoSegConfig.from_pretrained(tmp_path, id2label={0: "ground", 1: "sky"})
    assert kept.label_space == space.to_dict()
    other = DinoSegConfig.from_pretrained(tmp_path, id2label={0: "sky", 1: "ground"}, label2id={"sky": 0, "ground": 1})
    assert other.label_space is None and other.id2label == {0: "sky", 1: "ground"}
