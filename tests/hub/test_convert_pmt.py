"""Decoders of PMT as their authors save them, against what the authors' code computes with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from conversion import failure, run
from torch import Tensor

from hf_dinoseg import Segmenter

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from reference_weights import TINY_BACKBONE, expected_outputs, head_checkpoint  # noqa: E402


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A folder as the authors' repositories on the Hub, with what else may stand in the file."""
    weights = head_checkpoint("pmt")
    weights |= {"criterion.empty_weight": torch.ones(8), "network.encoder.pixel_mean": torch.zeros(3, 1, 1)}
    (tmp_path / "decoder").mkdir()
    torch.save(weights, tmp_path / "decoder" / "pytorch_model.bin")
    return tmp_path / "decoder"


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_published_decoder_computes_the_same_here(given: str, decoder: Path, tmp_path: Path) -> None:
    source = decoder if given == "folder" else decoder / "pytorch_model.bin"
    result = run("pmt", "--checkpoint", source, "--backbone", TINY_BACKBONE, "-o", tmp_path / "out", "--window", "128")
    assert result.exit_code == 0, result.output
    segmenter = Segmenter.from_pretrained(tmp_path / "out")
    assert (segmenter.mode, segmenter.window, segmenter.stride) == ("slide", 128, 128)
    assert segmenter.model.config.attn_mask_probs == [0.0] * 3
    expected = expected_outputs("pmt")
    with torch.no_grad():
        found = segmenter.model(expected["pixel_values"])
    pairs = ((found.class_queries_logits, "pred_logits"), (found.masks_queries_logits, "pred_masks"))
    for tensor, name in pairs:
        assert (tensor - expected[name]).abs().max() / expected[name].abs().max() < 1e-4, name


def test_files_that_are_no_decoder_of_this_backbone_are_refused(decoder: Path, vit: Path, tmp_path: Path) -> None:
    def message(changes: dict[str, Tensor | None], backbone: str | Path = TINY_BACKBONE, *options: str) -> str:
        weights = {k: v for k, v in (head_checkpoint("pmt") | changes).items() if v is not None}
        torch.save(weights, tmp_path / "decoder.bin")
        given = ("--checkpoint", tmp_path / "decoder.bin", "--backbone", backbone, "-o", tmp_path / "out", *options)
        return failure("pmt", *given)

    assert "unknown tensors network.stranger" in message({"network.stranger": torch.zeros(1)})
    assert "lacks network.decoder.q.weight" in message({"network.decoder.q.weight": None})
    assert "missing: head.norm.bias" in message({"network.decoder.decoder_norm.bias": None})
    assert "network.decoder.class_head.bias is [3]" in message({"network.decoder.class_head.bias": torch.zeros(3)})
    assert "64 wide, the backbone" in message({}, vit)
    assert "tells 7 classes apart, the labels have 150" in message({}, TINY_BACKBONE, "--labels", "ade20k")
    nothing = failure("pmt", "--checkpoint", tmp_path, "--backbone", vit, "-o", tmp_path / "out")
    assert "has no decoder of PMT" in nothing
    assert not (tmp_path / "out").exists()
