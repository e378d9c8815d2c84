"""A running average and LoRA: what learns differs from what is evaluated and saved."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hf_dinoseg import DinoSegForSemanticSegmentation, load_recipe
from hf_dinoseg.builders import build_model
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.training.weights import TRAINING_WEIGHTS_FILE as FILE
from hf_dinoseg.training.weights import WeightAverage, merge_lora, merged_state_dict


def test_the_average_is_the_sum_written_out():
    model = torch.nn.Linear(2, 1, bias=False)
    history = [model.weight.detach().clone()]
    average = WeightAverage(model, decay=0.6)
    expected = history[0]
    for step in range(1, 9):
        torch.nn.init.normal_(model.weight)
        average.update(step)
        kept = min(0.6, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * model.weight.detach()
    own = model.weight.detach().clone()
    with average.swapped_in():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, own)


@pytest.mark.parametrize(
    "settings",
    [
        ["model.ema_decay=0.9", "training.lr_scheduler_type=one_cycle", "model.norm=group"],
        ["model.tune=lora"],
        ["model.tune=lora", "model.ema_decay=0.9"],
    ],
)
def test_a_resumed_run_ends_like_the_undisturbed_one_and_its_folder_is_plain(settings, tmp_path, write_tiny_recipe):
    recipe = write_tiny_recipe(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = [*settings, "training.load_best_model_at_end=false", "training.save_total_limit=null"]

    def run(folder, resume=False):
        return train(load_recipe(recipe, [*settings, f"training.output_dir={folder}"]), resume=resume)

    measured = run(whole)
    run(parts)
    for name in ("checkpoint-4", "model.safetensors", "metrics.json"):
        target = parts / name
        if target.is_dir():
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        else:
            target.unlink()
    run(parts, resume=True)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    # the last checkpoint was saved after the last step: its plain weights are the final ones
    final, last = load_file(whole / "model.safetensors"), load_file(whole / "checkpoint-4" / "model.safetensors")
    assert final.keys() == last.keys() and not any("lora" in name for name in final)
    for name, tensor in final.items():
        torch.testing.assert_close(last[name], tensor, rtol=1e-5, atol=1e-6)
    assert (whole / "checkpoint-4" / FILE).exists() and not (whole / FILE).exists()
    # and what was measured is what is loaded
    assert evaluate(str(whole))["mean_iou"] == pytest.approx(measured["mean_iou"], abs=1e-9)
    DinoSegForSemanticSegmentation.from_pretrained(whole)
    json.loads((whole / "metrics.json").read_text())


def test_the_best_checkpoint_comes_back_although_the_model_had_updates(tmp_path, write_tiny_recipe):
    metrics = train(load_recipe(write_tiny_recipe(tmp_path), ["model.tune=lora", "model.ema_decay=0.9"]))
    best = load_file(tmp_path / "run" / f"checkpoint-{metrics['step']}" / "model.safetensors")
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(best[name], final[name]) for name in final) and best.keys() == final.keys()


def test_merged_weights_predict_as_the_updates_did(tmp_path, write_tiny_recipe):
    plain_names = set(build_model(load_recipe(write_tiny_recipe(tmp_path))).state_dict())
    model = build_model(load_recipe(tmp_path / "tiny.yaml", ["model.tune=lora"])).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        updated = model(pixels).masks_queries_logits
        state = merged_state_dict(model)
        merge_lora(model)
        merged = model(pixels).masks_queries_logits
    assert set(state) == set(model.state_dict()) == plain_names
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(merged, updated, rtol=1e-4, atol=1e-4)
