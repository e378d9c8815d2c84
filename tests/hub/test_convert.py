"""Checkpoint folders made of published weights: converted, loaded, run against what the originals compute."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversion import WIDTH, failure, run
from PIL import Image
from torch import Tensor
from transformers import (
    DINOv3ViTModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
)

from hf_dinoseg import Segmenter, load_recipe
from hf_dinoseg.builders import build_model
from hf_dinoseg.hub.convert import ade20k, init_head_from
from hf_dinoseg.models import DinoSegForSemanticSegmentation

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from reference_weights import REFERENCE, head_tensor  # noqa: E402

HIDDEN, FFN = 128, 160


def m2f_shape(key: str, shape: list[int]) -> list[int]:
    """A shape of the reference head (backbone 64, hidden 64, FFN 4096, 16 heads, 7 classes) at our sizes: backbone 96,
    hidden 128, FFN 160, 8 heads, 150 classes. Adapter: the prior's own 64 to 256 channels stay."""
    if key.startswith("segmentation_model.0."):
        stem = ".spm." in key and ".fc" not in key
        if stem:
            return shape
        if ".spm.fc" in key:
            return [WIDTH, *shape[1:]]
        if "sampling_offsets" in key or "attention_weights" in key:
            return [shape[0], *[WIDTH for _ in shape[1:]]]
        sizes = {64: WIDTH, 32: WIDTH // 2, 16: WIDTH // 4}
        return [sizes.get(size, size) for size in shape]
    if ".input_convs." in key and len(shape) == 4 or "lateral_convs.0.weight" in key:
        return [HIDDEN, WIDTH, 1, 1]
    if "sampling_offsets" in key or "attention_weights" in key:
        return [shape[0] // 2, *[HIDDEN for _ in shape[1:]]]
    return [{64: HIDDEN, 192: 3 * HIDDEN, 4096: FFN, 8: 151}.get(size, size) for size in shape]


@pytest.fixture(scope="module")
def m2f_weights() -> dict[str, Tensor]:
    shapes = json.loads((REFERENCE / "dinov3_m2f_state_dict_shapes.json").read_text())
    return {key: head_tensor(key, m2f_shape(key, shape)) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def m2f_folder(vit: Path, m2f_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("m2f")
    torch.save({"model": m2f_weights, "step": 3}, path / "head.pth")
    result = run(
        "meta-m2f", "--backbone", vit, "--head", path / "head.pth", "--output", path / "out", "--labels", "ade20k",
        "--window", "64", "--stride", "48",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert str(path / "out") in result.stdout
    return path / "out"


# ---------------------------------------------------------------------- meta-m2f


def test_a_published_m2f_head_of_another_size_converts_reloads_and_runs(m2f_folder: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(m2f_folder)
    config = segmenter.model.config
    assert (config.hidden_dim, config.num_attention_heads, config.num_queries, config.num_labels) == (128, 8, 100, 150)
    assert (config.pixel_decoder_ffn_dim, config.decoder_ffn_dim, config.decoder_layers) == (FFN, FFN, 9)
    assert (segmenter.mode, segmenter.window, segmenter.stride) == ("slide", 64, 48)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    first = segmenter(image)
    assert first.label_map.shape == (80, 100) and first.label_map.min() >= 1 and first.label_map.max() <= 150
    segmenter.model.save_pretrained(tmp_path)
    segmenter.processor.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)(image)
    assert np.array_equal(again.label_map, first.label_map) and np.array_equal(again.scores, first.scores)


def test_every_published_tensor_lies_in_the_folder(m2f_folder: Path, m2f_weights: dict[str, Tensor], vit: Path) -> None:
    """By content, whatever its name: each tensor, or the three parts of a packed one, is one of the head's."""
    model = DinoSegForSemanticSegmentation.from_pretrained(m2f_folder)
    ours: dict[tuple[Any, ...], int] = {}
    for name, tensor in model.head.state_dict().items():
        ours[fingerprint(tensor)] = ours.get(fingerprint(tensor), 0) + 1
        assert tensor.isfinite().all(), name
    for key, tensor in m2f_weights.items():
        for part in tensor.chunk(3) if "in_proj" in key else (tensor,):
            ours[fingerprint(part)] = ours.get(fingerprint(part), 0) - 1
    assert set(ours.values()) == {0}
    original = DINOv3ViTModel.from_pretrained(vit)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = original(image).last_hidden_state[:, 5:].transpose(1, 2).unflatten(2, (4, 4))
        assert torch.allclose(model.eval().backbone(image).maps[-1], expected, atol=1e-5)


def fingerprint(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), *tensor.flatten()[:4].tolist(), float(tensor.double().sum()))


def test_ade20k_names_and_ids(m2f_folder: Path) -> None:
    space = ade20k()
    assert space.num_labels == 150 and space.reduce_zero_label and space.id2label[0] == "wall"
    assert space.classes[150] == "flag" and space.encode(np.array([[0, 1, 150]])).tolist() == [[255, 0, 149]]
    assert Segmenter.from_pretrained(m2f_folder).label_space == space


def lose(weights: dict[str, Tensor]) -> str:
    del weights["segmentation_model.1.predictor.transformer_ffn_layers.4.norm.bias"]
    return "missing: head.decoder.layers.4.ffn_norm.bias"


def lose_a_size(weights: dict[str, Tensor]) -> str:
    del weights["segmentation_model.1.predictor.query_feat.weight"]
    return "lacks segmentation_model.1.predictor.query_feat.weight"


def add(weights: dict[str, Tensor]) -> str:
    weights["segmentation_model.2.weight"] = torch.zeros(1)
    return "unknown tensors segmentation_model.2.weight"


def misshape(weights: dict[str, Tensor]) -> str:
    weights["segmentation_model.0.up.bias"] = torch.zeros(7)
    return "segmentation_model.0.up.bias is [7], the model has [96]"


def narrow(weights: dict[str, Tensor]) -> str:
    weights["segmentation_model.0.level_embed"] = torch.zeros(3, 64)
    return "level_embed is 64 wide, the backbone"


def misclass(weights: dict[str, Tensor]) -> str:
    for leaf in ("weight", "bias"):
        key = f"segmentation_model.1.predictor.class_embed.{leaf}"
        weights[key] = weights[key][:20]
    return "tells 19 classes apart, the labels have 150"


@pytest.mark.parametrize("damage", [lose, lose_a_size, add, misshape, narrow, misclass])
def test_damaged_weights_are_refused_by_name(
    damage: Callable[[dict[str, Tensor]], str], m2f_weights: dict[str, Tensor], vit: Path, tmp_path: Path
) -> None:
    weights = dict(m2f_weights)
    expected = damage(weights)
    torch.save(weights, tmp_path / "head.pth")
    message = failure(
        "meta-m2f", "--backbone", vit, "--head", tmp_path / "head.pth", "-o", tmp_path / "out", "--labels", "ade20k"
    )
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_weights_and_folders_in_use_are_refused(vit: Path, tmp_path: Path) -> None:
    def message(content: Any, output: str = "out") -> str:
        torch.save(content, tmp_path / "head.pth")
        return failure("meta-m2f", "--backbone", vit, "--head", tmp_path / "head.pth", "-o", tmp_path / output)

    assert "cannot be read as weights" in message({"a": Path("pickled code")})
    assert "no tensors: step" in message({"a": torch.zeros(1), "step": 3})
    assert "no state dict" in message([1, 2])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    assert "used is in use" in message({}, "used")
    (tmp_path / "head.pth").write_bytes(b"not an archive")
    assert "cannot be read as weights" in failure(
        "meta-m2f", "--backbone", vit, "--head", tmp_path / "head.pth", "-o", tmp_path / "out"
    )
    assert "does not exist" in failure(
        "meta-m2f", "--backbone", vit, "--head", tmp_path / "no.pth", "-o", tmp_path / "o"
    )


# ---------------------------------------------------------------------- meta-linear


@pytest.mark.parametrize(("prefix", "layers"), [("", 1), ("module.decoder.", 1), ("segmentation_model.1.", 4)])
def test_a_published_linear_head_computes_batch_norm_and_a_product(
    prefix: str, layers: int, vit: Path, tmp_path: Path
) -> None:
    width = layers * WIDTH
    names = {f"batchnorm_layer.{leaf}": [width] for leaf in ("weight", "bias", "running_mean", "running_var")}
    names |= {"conv.weight": [6, width, 1, 1], "conv.bias": [6], "batchnorm_layer.num_batches_tracked": []}
    weights = {name: head_tensor(name, shape) for name, shape in names.items()}
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "head.pth")
    arguments = ("--backbone", vit, "--head", tmp_path / "head.pth")
    result = run("meta-linear", *arguments, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"checkpoint": str(tmp_path / "out")}, result.output
    model = Segmenter.from_pretrained(tmp_path / "out").model
    original = DINOv3ViTModel.from_pretrained(vit)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        hidden = original(image, output_hidden_states=True).hidden_states
        chosen = [hidden[-1]] if layers == 1 else hidden[1:]
        tokens = torch.cat([original.norm(state)[:, 5:] for state in chosen], dim=-1)
        norm = {leaf: weights[f"batchnorm_layer.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
        scaled = (tokens - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
        expected = scaled @ weights["conv.weight"].flatten(1).T + weights["conv.bias"]
        found = model(image).logits.flatten(2).transpose(1, 2)
    assert torch.allclose(found, expected, atol=1e-4)

    del weights["batchnorm_layer.running_var"]
    torch.save(weights | {"extra": torch.zeros(1)}, tmp_path / "head.pth")
    assert "unknown tensors extra" in failure("meta-linear", *arguments, "-o", tmp_path / "other")
    torch.save(weights, tmp_path / "head.pth")
    assert "missing: head.norm.running_var" in failure("meta-linear", *arguments, "-o", tmp_path / "other")
    torch.save(weights | {"conv.weight": torch.zeros(6, 33, 1, 1)}, tmp_path / "head.pth")
    assert "33 channels, where the backbone" in failure("meta-linear", *arguments, "-o", tmp_path / "other")


# ---------------------------------------------------------------------- mask2former


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mask2FormerForUniversalSegmentation, Path]:
    torch.manual_seed(2)
    swin = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    config = Mask2FormerConfig(
        backbone_config={**swin, "out_features": [f"stage{i}" for i in range(1, 5)]}, feature_size=64,
        mask_feature_size=64, hidden_dim=64, encoder_feedforward_dim=48, dim_feedforward=40, encoder_layers=2,
        decoder_layers=4, num_attention_heads=4, num_queries=9, id2label={0: "ground", 1: "sky", 2: "tree"},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    path = tmp_path_factory.mktemp("mask2former")
    model.save_pretrained(path)
    return model, path


def test_a_mask2former_head_is_taken_over_but_for_what_reads_the_backbone(
    peer: tuple[Mask2FormerForUniversalSegmentation, Path], vit: Path, tmp_path: Path
) -> None:
    """After transplanting the projections too, both heads compute the same from the same pyramid."""
    original, folder = peer
    result = run("mask2former", "--checkpoint", folder, "--backbone", vit, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    kept_out = {name for name in report["new"] if not name.startswith("head.adapter.")}
    inputs = {f"head.pixel_decoder.inputs.{level}.0.weight" for level in range(3)}
    assert kept_out == inputs | {"head.pixel_decoder.lateral.0.weight"}
    model = DinoSegForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    assert set(report["taken"]) | set(report["new"]) == {n for n in model.state_dict() if n.startswith("head.")}

    pixel = original.model.pixel_level_module.decoder
    decoder = model.head.pixel_decoder
    for mine, theirs in [
        *zip(decoder.inputs, pixel.input_projections, strict=True),
        (decoder.lateral, pixel.adapter_1),
    ]:
        mine[0] = theirs[0]
    pyramid = [torch.randn(1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]
    with torch.no_grad():
        mask_features, levels, shapes = decoder(pyramid)
        logits, embeddings = model.head.decoder(mask_features, levels, shapes, False)
        theirs = pixel(pyramid, output_hidden_states=False)
        output = original.model.transformer_module(list(theirs.multi_scale_features), theirs.mask_features)
        expected = original.class_predictor(output.intermediate_hidden_states[-1].transpose(0, 1))
        masks = torch.einsum("bqd,bdhw->bqhw", embeddings[-1], mask_features)
    assert torch.allclose(logits[-1], expected, atol=1e-4)
    assert torch.allclose(masks, output.masks_queries_logits[-1], atol=1e-3)


def test_a_recipe_starts_its_head_from_a_mask2former(
    peer: tuple[Mask2FormerForUniversalSegmentation, Path], tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]
) -> None:
    original, folder = peer
    sizes = ["model.hidden_dim=64", "model.num_attention_heads=4", "model.pixel_decoder_ffn_dim=48"]
    sizes += ["model.num_queries=9"]
    path = write_tiny_recipe(tmp_path)
    model = build_model(load_recipe(path, [*sizes, f"model.init_from={folder}"]))
    theirs = original.model.pixel_level_module.decoder.encoder.layers[0].fc1.weight
    assert torch.equal(model.head.pixel_decoder.layers[0].fc1.weight, theirs)
    assert model.head.decoder.classify.weight.shape[0] == 5  # three classes there, four here: new, and no error
    lacking = {k: v for k, v in original.state_dict().items() if "queries_features" not in k}
    original.save_pretrained(tmp_path / "lacking", state_dict=lacking)
    report = init_head_from(model, str(tmp_path / "lacking"))  # transformers fills it with random numbers
    assert report.left["head.decoder.query_features"] == "not in the checkpoint"
    renamed = load_recipe(path, [f"model.init_head_from={folder}"])  # as 0.1 called it
    assert renamed.model.init_from == str(folder)
    with pytest.raises(ValueError, match="only a mask2former head starts from, and model.head is linear"):
        build_model(load_recipe(path, ["model.head=linear", f"model.init_from={folder}"]))
    fresh = build_model(load_recipe(path, ["model.head=linear"]))
    with pytest.raises(ValueError, match="'linear'"):
        init_head_from(fresh, str(folder))
