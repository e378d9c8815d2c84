"""Checkpoints of EoMT on DINOv3: in two forms, whole and as differences, against transformers' own answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conversion import WIDTH, failure, run
from torch import Tensor
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtImageProcessorPil,
)
from transformers.image_utils import SizeDict

from hf_dinoseg import Segmenter
from hf_dinoseg.inference import window_positions
from hf_dinoseg.models import DinoSegForSemanticSegmentation


@pytest.fixture(scope="module")
def eomt() -> EomtDinov3ForUniversalSegmentation:
    torch.manual_seed(1)
    config = EomtDinov3Config(
        hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, num_register_tokens=4,
        image_size=64, num_blocks=3, num_queries=7, id2label={0: "ground", 1: "sky", 2: "tree"},
        layer_norm_eps=1e-5,  # as in the backbone, whose configuration the authors' files are read with
    )  # fmt: skip
    peer = EomtDinov3ForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        peer.attn_mask_probs.zero_()
    return peer


def differences(eomt: EomtDinov3ForUniversalSegmentation, vit: Path) -> dict[str, Tensor]:
    """The model's weights, the backbone's of them without those of `vit`."""
    weights = dict(eomt.state_dict())
    for name, tensor in DINOv3ViTModel.from_pretrained(vit).state_dict().items():
        theirs = name.removeprefix("model.").replace("layer.", "layers.", 1) if "layer." in name else name
        theirs = f"layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else theirs
        if "mask_token" not in name:
            weights[theirs] = weights[theirs] - tensor
    return weights


def authors_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of the authors' files, with what else stands in them. Annealed to 0, the probabilities are told
    as a difference to the 1 that training began with."""
    starts = {
        "embeddings.": "encoder.backbone.patch_embed.", "layers.": "encoder.backbone.blocks.",
        "layernorm.": "encoder.backbone.norm.", "query.": "q.", "class_predictor.": "class_head.",
        "mask_head.fc1.": "mask_head.0.", "mask_head.fc2.": "mask_head.2.", "mask_head.fc3.": "mask_head.4.",
        "upscale_block.block.": "upscale.",
    }  # fmt: skip
    renamed = {"network.encoder.pixel_mean": torch.zeros(3, 1, 1), "criterion.empty_weight": torch.zeros(4)}
    renamed["network.attn_mask_probs"] = weights["attn_mask_probs"] - 1
    for name, tensor in weights.items():
        if start := next((s for s in starts if name.startswith(s)), None):
            theirs = name.replace(start, starts[start], 1).replace(".layernorm2d.", ".norm.")
            renamed[f"network.{theirs}"] = tensor
    return renamed


@pytest.mark.parametrize("form", ["transformers", "authors"])
@pytest.mark.parametrize("deltas", [False, True])
def test_an_eomt_checkpoint_computes_the_same_here(
    form: str, deltas: bool, eomt: EomtDinov3ForUniversalSegmentation, vit: Path, tmp_path: Path
) -> None:
    weights = differences(eomt, vit) if deltas else dict(eomt.state_dict())
    options: tuple[str | Path, ...] = ("--backbone", vit) if deltas or form == "authors" else ()
    if form == "authors":
        (tmp_path / "peer").mkdir()
        torch.save(authors_names(weights), tmp_path / "peer" / "pytorch_model.bin")
        options += ("--window", "64")
    else:
        eomt.save_pretrained(tmp_path / "peer", state_dict=weights)
    result = run("eomt", "--checkpoint", tmp_path / "peer", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    segmenter = Segmenter.from_pretrained(tmp_path / "out")
    names = ["ground", "sky", "tree"] if form == "transformers" else ["class 0", "class 1", "class 2"]
    assert segmenter.label_space.classes == dict(enumerate(names))
    assert (segmenter.mode, segmenter.window, segmenter.stride) == ("slide", 64, 64)
    assert segmenter.model.config.attn_mask_probs == [0.0] * 3
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = segmenter.model(image), eomt(image)
    for name in ("class_queries_logits", "masks_queries_logits"):
        error = (getattr(found, name) - getattr(expected, name)).abs().max() / getattr(expected, name).abs().max()
        assert error < 1e-4, name


def test_windows_of_an_eomt_lie_where_transformers_cuts_an_image() -> None:
    """Up to twice as long as wide, which is as the paper's own evaluation cuts."""
    processor = EomtImageProcessorPil()
    for longer in (64, 65, 96, 100, 127, 128):
        for shape in ((3, 64, longer), (3, longer, 64)):
            _, offsets = processor._split_image(np.zeros(shape), SizeDict(shortest_edge=64), 0)
            assert window_positions(longer, 64, 64) == sorted({start for _, start, _ in offsets}), shape


def test_differences_are_told_from_weights_and_need_their_backbone(
    eomt: EomtDinov3ForUniversalSegmentation, vit: Path, tmp_path: Path
) -> None:
    def message(weights: dict[str, Tensor]) -> str:
        eomt.save_pretrained(tmp_path / "peer", state_dict=weights)
        return failure("eomt", "--checkpoint", tmp_path / "peer", "-o", tmp_path / "out")

    told = message(differences(eomt, vit))
    assert "holds differences to the weights of a backbone" in told and "Pass --backbone" in told
    # what training hardly changed, not at all, or only shrank by weight decay, at the least of spreads
    for changed in (lambda t: 1e-6 * torch.randn_like(t), torch.zeros_like, lambda t: -0.1 * t.abs()):
        backbone = ("embeddings.", "layers.", "layernorm.")
        told = message({n: changed(t) if n.startswith(backbone) else t for n, t in eomt.state_dict().items()})
        assert "Pass --backbone" in told
    # weights of a small scale are weights, and with --backbone are still not taken for differences
    small = {n: 0.02 * t if "norm" in n else t for n, t in eomt.state_dict().items()}
    eomt.save_pretrained(tmp_path / "peer", state_dict=dict(small))
    for number, options in enumerate([(), ("--backbone", vit)]):
        output = tmp_path / f"out-{number}"
        assert run("eomt", "--checkpoint", tmp_path / "peer", "-o", output, *options).exit_code == 0
        model = DinoSegForSemanticSegmentation.from_pretrained(output)
        assert torch.equal(model.backbone.model.norm.weight, small["layernorm.weight"])


def test_an_authors_file_needs_the_backbone_it_was_trained_from(
    eomt: EomtDinov3ForUniversalSegmentation, vit: Path, tmp_path: Path
) -> None:
    file = tmp_path / "eomt.bin"

    def message(weights: dict[str, Tensor], *options: str | Path) -> str:
        torch.save({"state_dict": authors_names(weights)}, file)
        return failure("eomt", "--checkpoint", file, "-o", tmp_path / "out", *options)

    assert "holds differences" in message(differences(eomt, vit))
    assert "no configuration beside it; pass --backbone" in message(dict(eomt.state_dict()))
    DINOv3ViTModel(DINOv3ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)).save_pretrained(
        tmp_path / "narrow"
    )
    assert "96 wide; the backbone" in message(differences(eomt, vit), "--backbone", tmp_path / "narrow")
    torch.save({"network.encoder.stem.weight": torch.zeros(1)}, file)
    told = failure("eomt", "--checkpoint", file, "-o", tmp_path / "out", "--backbone", vit)
    assert "unknown tensors network.encoder.stem.weight" in told
    assert not (tmp_path / "out").exists()


def test_eomt_checkpoints_that_do_not_fit_are_refused(
    eomt: EomtDinov3ForUniversalSegmentation, vit: Path, tmp_path: Path
) -> None:
    def message(changes: dict[str, Tensor | None], *options: str | Path) -> str:
        weights = {k: v for k, v in (dict(eomt.state_dict()) | changes).items() if v is not None}
        eomt.save_pretrained(tmp_path / "peer", state_dict=weights)
        return failure("eomt", "--checkpoint", tmp_path / "peer", "-o", tmp_path / "out", *options)

    assert "lacks tensors: query.weight" in message({"query.weight": None})
    assert "tensors that the model lacks: stranger" in message({"stranger": torch.zeros(1)})
    assert "query.weight" in message({"query.weight": torch.zeros(3, WIDTH)})
    assert "tells 3 classes apart, the labels have 150" in message({}, "--labels", "ade20k")
    assert "'dinov3_vit'; one of 'eomt_dinov3'" in failure("eomt", "--checkpoint", vit, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
