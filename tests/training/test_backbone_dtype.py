"""A frozen backbone in half precision under a head in full: trained, saved, loaded, resumed, exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_dinoseg import DinoSegForSemanticSegmentation, Segmenter, load_recipe
from hf_dinoseg.builders import build_model, build_processor
from hf_dinoseg.errors import RecipeError, RunError
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.training import apply_tuning

WriteRecipe = Callable[[Path], Path]
HALF = ("model.tune=head", "model.backbone_dtype=bfloat16")
SPOKEN = ("training.load_best_model_at_end=false", "training.save_total_limit=null", "evaluation.panels=0")


def answers(model: DinoSegForSemanticSegmentation, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.eval()(pixels)
    return outputs.logits if "logits" in outputs else outputs.masks_queries_logits


@pytest.mark.parametrize(
    ("head", "dtype"),
    [
        ("mask2former", "bfloat16"),
        ("eomt", "bfloat16"),
        ("pmt", "bfloat16"),
        ("linear", "bfloat16"),
        ("linear", "float16"),
    ],
)
def test_a_head_in_full_learns_over_a_backbone_in_half_and_is_loaded_so(
    head: str, dtype: str, tmp_path: Path, write_tiny_recipe: WriteRecipe
) -> None:
    half = getattr(torch, dtype)
    choices = [f"model.head={head}", "model.tune=head", *SPOKEN]
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*choices, f"model.backbone_dtype={dtype}"])
    metrics = train(recipe)
    folder = tmp_path / "run"
    history = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert np.isfinite([entry["loss"] for entry in history if "loss" in entry]).all()

    start = load_file(folder / "checkpoint-2" / "model.safetensors")
    end = load_file(folder / "model.safetensors")
    for name, tensor in end.items():
        if tensor.is_floating_point():
            assert tensor.dtype is (half if name.startswith("backbone.") else torch.float32), name
        if name.startswith("backbone."):
            assert torch.equal(tensor, start[name]), name
    assert any(not torch.equal(end[name], start[name]) for name in end if name.startswith("head."))

    loaded = DinoSegForSemanticSegmentation.from_pretrained(folder)
    assert {p.dtype for p in loaded.backbone.parameters()} == {half}
    assert {p.dtype for p in loaded.head.parameters()} == {torch.float32} and loaded.dtype is torch.float32
    assert evaluate(str(folder))["mean_iou"] == metrics["mean_iou"]

    # the same weights in full precision answer nearly the same; what the layout of the ViT makes stays in full
    pixels = torch.randn(2, 3, 64, 48)
    full = build_model(load_recipe(tmp_path / "tiny.yaml", choices))
    full.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in end.items()})
    full.config.attn_mask_probs = loaded.config.attn_mask_probs
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    found, expected = answers(loaded, pixels), answers(full, pixels)
    assert found.dtype is torch.float32 and found.isfinite().all()
    assert torch.corrcoef(torch.stack((found.flatten(), expected.flatten())))[0, 1] > 0.999
    assert all(b.dtype is torch.float32 for b in loaded.backbone.buffers() if b.is_floating_point())

    loaded.save_pretrained(tmp_path / "again")
    again = DinoSegForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert torch.equal(answers(again, pixels), found)


def test_a_run_with_an_average_is_resumed_to_the_same_weights(tmp_path: Path, write_tiny_recipe: WriteRecipe) -> None:
    path = write_tiny_recipe(tmp_path)
    whole, again = tmp_path / "whole", tmp_path / "again"

    def run(folder: Path, resume: bool = False) -> None:
        overrides = [*HALF, *SPOKEN, "model.ema_decay=0.9", f"training.output_dir={folder}"]
        train(load_recipe(path, overrides), resume=resume)

    run(whole)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-4")
    for file in ("model.safetensors", "metrics.json"):
        (again / file).unlink()
    run(again, resume=True)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_pretrained_weights_are_read_in_the_type_and_the_head_sees_images_in_full(
    tmp_path: Path, write_tiny_recipe: WriteRecipe
) -> None:
    path = write_tiny_recipe(tmp_path)
    plain = build_model(load_recipe(path, ["model.tune=head"]))
    plain.backbone.model.save_pretrained(tmp_path / "vit")
    model = build_model(load_recipe(path, [*HALF, f"model.backbone={tmp_path / 'vit'}"]))
    for name, parameter in plain.backbone.named_parameters():
        assert torch.equal(model.backbone.get_parameter(name), parameter.to(torch.bfloat16)), name
    seen: list[torch.Tensor] = []
    model.save_pretrained(tmp_path / "checkpoint")
    build_processor(load_recipe(path)).save_pretrained(tmp_path / "checkpoint")
    segmenter = Segmenter.from_pretrained(tmp_path / "checkpoint")
    segmenter.model.head.adapter.prior.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    segmenter(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    assert seen and all(t.dtype is torch.float32 and not torch.equal(t, t.bfloat16().float()) for t in seen)


@pytest.mark.parametrize("tune", ["last_k", "lora", "llrd", "full"])
def test_weights_that_learn_are_refused_in_half_precision(
    tune: str, tmp_path: Path, write_tiny_recipe: WriteRecipe
) -> None:
    path = write_tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=rf"model.backbone_dtype: bfloat16 .* model.tune is {tune}.*float32"):
        load_recipe(path, ["model.backbone_dtype=bfloat16", f"model.tune={tune}"])
    model = build_model(load_recipe(path, HALF))
    with pytest.raises(RunError, match="bfloat16.*needs backbone_dtype: float32"):
        apply_tuning(model, tune)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="model.backbone_dtype.*float32, bfloat16, float16"):
        load_recipe(path, ["model.tune=head", "model.backbone_dtype=int8"])
