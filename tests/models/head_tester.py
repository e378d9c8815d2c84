"""What every head must do. A head's own test file subclasses `HeadTester` and adds its oracle."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegOutput

TINY_VIT: dict[str, Any] = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_register_tokens": 2,
    "pos_embed_rescale": None,
}
TINY_HEAD: dict[str, Any] = {
    "hidden_dim": 32,
    "num_attention_heads": 4,
    "pixel_decoder_layers": 2,
    "pixel_decoder_ffn_dim": 48,
    "decoder_layers": 4,
    "decoder_ffn_dim": 48,
    "num_queries": 6,
    "num_labels": 5,
}


def tiny_model(seed: int = 0, backbone: dict[str, Any] | None = None, **fields: Any) -> DinoSegForSemanticSegmentation:
    """A model of a few thousand weights, all of them random (none at a symmetric start)."""
    torch.manual_seed(seed)
    model = DinoSegForSemanticSegmentation.from_backbone(backbone or TINY_VIT, **{**TINY_HEAD, **fields})
    randomize(model)
    return model.eval()


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    """Weights and norm statistics that make every part of a network matter in a comparison."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif name.endswith("weight"):
            parameter.normal_(mean=1.0, std=0.1)
        else:
            parameter.normal_(std=0.1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)


def all_tensors(output: DinoSegOutput) -> list[Tensor]:
    """Every prediction's tensors, final and auxiliary."""
    names = ("logits", "class_queries_logits", "masks_queries_logits")  # logits of mask heads are no prediction
    tensors = [output[name] for name in names if name in output]
    for auxiliary in output.auxiliary_predictions or ():
        tensors += [auxiliary["class_queries_logits"], auxiliary["masks_queries_logits"]]
    return tensors


def some_loss(output: DinoSegOutput) -> Tensor:
    """A scalar that depends on every element of every prediction, each with its own weight."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [(t.float() * torch.randn(t.shape, generator=generator)).mean() for t in all_tensors(output)]
    ).sum()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def assert_gradients_agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Relative error at most 1e-4, tensor by tensor. A tensor whose true gradient is zero (a bias that a norm or
    soft-max takes away again) holds rounding only; it must be as small on both sides."""
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        if max(float(gradient.abs().max()), float(found[name].abs().max())) > 1e-6 * scale:
            assert relative_error(found[name], gradient) < 1e-4, name


class HeadTester:
    """Subclasses set `fields` (of the configuration) and `stride` (of the predicted maps)."""

    fields: dict[str, Any]
    stride: int

    def model(self, seed: int = 0, **fields: Any) -> DinoSegForSemanticSegmentation:
        return tiny_model(seed=seed, **{**self.fields, **fields})

    @pytest.mark.parametrize("size", [(1, 1), (64, 96), (33, 50)])
    def test_predicts_for_images_of_any_size(self, size: tuple[int, int]) -> None:
        model = self.model()
        with torch.no_grad():
            output = model(torch.randn(2, 3, *size))
        shape = tuple(-(-length // self.stride) for length in size)
        if "logits" in output:
            assert output.logits.shape == (2, 5, *shape)
        else:
            assert output.masks_queries_logits.shape == (2, 6, *shape)
            assert output.class_queries_logits.shape == (2, 6, 6)
        assert output.auxiliary_predictions is None
        assert all(t.isfinite().all() for t in all_tensors(output))

    @pytest.mark.parametrize("frozen", [True, False])
    def test_backward_reaches_every_trainable_parameter_and_no_other(self, frozen: bool) -> None:
        model = self.model(freeze_backbone=frozen, drop_path_rate=0.0).train()
        some_loss(model(torch.randn(2, 3, 64, 64))).backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        # a key bias shifts all scores of a row alike, so soft-max takes its gradient away but for rounding
        assert [name for name in without if not name.endswith("k_proj.bias")] == []
        trained_backbone = [n for n, p in model.named_parameters() if n.startswith("backbone") and p.grad is not None]
        assert bool(trained_backbone) is not frozen

    def test_a_saved_model_predicts_the_same(self, tmp_path: Any) -> None:
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded = DinoSegForSemanticSegmentation.from_pretrained(tmp_path)
        image = torch.randn(1, 3, 40, 64)
        with torch.no_grad():
            for found, expected in zip(all_tensors(loaded(image)), all_tensors(model(image)), strict=True):
                assert torch.equal(found, expected)

    def test_bf16_autocast_stays_close_to_fp32(self) -> None:
        # Random weights make masks without margin, so now and then bits of an attention mask flip, and which ones
        # depends on the processor: the middle of several models tells a wrong computation from such a flip.
        worst = [min(self.bf16_correlations(seed)) for seed in range(7)]
        assert statistics.median(worst) > 0.95, worst

    def bf16_correlations(self, seed: int) -> list[float]:
        model = self.model(seed=seed)
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(image)
            with torch.autocast("cpu", torch.bfloat16):
                found = model(image)
        pairs = zip(all_tensors(found), all_tensors(expected), strict=True)
        return [
            torch.corrcoef(torch.stack((half.float().flatten(), full.flatten())))[0, 1].item() for half, full in pairs
        ]

    def test_bf16_autocast_trains(self) -> None:
        model = self.model(freeze_backbone=False).train()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(torch.randn(2, 3, 64, 64))
        some_loss(output).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_gradient_checkpointing_gives_the_same_gradients(self) -> None:
        model = self.model(freeze_backbone=False).train()
        images = torch.randn(2, 3, 64, 64)
        gradients = []
        for checkpointing in (False, True):
            twin = copy.deepcopy(model)
            if checkpointing:
                twin.activation_checkpointing_enable()
            torch.manual_seed(3)  # for stochastic depth and dropout
            some_loss(twin(images)).backward()
            gradients.append({n: p.grad for n, p in twin.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        scale = max(float(g.abs().max()) for g in gradients[0].values())
        for name, gradient in gradients[0].items():
            assert torch.allclose(gradients[1][name], gradient, rtol=1e-3, atol=1e-6 * scale), name

    def test_compiles_without_graph_breaks(self) -> None:
        model = self.model(pixel_decoder_layers=1, decoder_layers=2)
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(image)
            # graph capture is what can break; the eager backend skips minutes of code generation
            found = torch.compile(model, fullgraph=True, backend="eager")(image)
        for compiled, plain in zip(all_tensors(found), all_tensors(expected), strict=True):
            assert torch.allclose(compiled, plain, atol=1e-5)

    def test_evaluation_is_deterministic_and_training_covers_deep_supervision(self) -> None:
        model = self.model()
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            first, second = model(images), model(images)
            asked = model(images, output_auxiliary=True)
        for a, b in zip(all_tensors(first), all_tensors(second), strict=True):
            assert torch.equal(a, b)
        trained = model.train()(images)
        if "logits" not in first:
            assert len(asked.auxiliary_predictions) == len(trained.auxiliary_predictions) == 4
            assert torch.allclose(asked.masks_queries_logits, first.masks_queries_logits, atol=1e-4)
        else:
            assert asked.auxiliary_predictions is None

    def test_batch_norms_convert_to_synchronised_ones(self) -> None:
        model = self.model()
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(images)
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            found = converted.eval()(images)
        for a, b in zip(all_tensors(found), all_tensors(expected), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
