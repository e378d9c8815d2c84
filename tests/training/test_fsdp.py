"""FSDP 2 on two CPU processes: sharded while it trains, whole when it is saved, and the steps are those of DDP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_dinoseg import load_recipe
from hf_dinoseg.run import evaluate

ROOT = Path(__file__).parents[2]
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    # not the embeddings, which transformers counts among them: accelerate wraps what is inside those itself
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "DINOv3ViTLayer,Mask2FormerHead",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}
# plain descent: a sum in another order would turn Adam's first steps round where a gradient is nearly nothing.
# FSDP takes no empty tensors, which no register tokens are.
SETTINGS = ["training.optim=sgd", "training.max_grad_norm=0", "training.load_best_model_at_end=false"]
SETTINGS += ["training.learning_rate=0.001", "training.max_steps=2", "training.save_steps=1"]
SETTINGS += ["model.backbone.num_register_tokens=2", "model.backbone.pos_embed_rescale=null", "model.drop_path_rate=0"]


def _train(script, recipe, folder, environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script, str(recipe)]
    done = subprocess.run(
        [*command, *SETTINGS, f"training.output_dir={folder}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_tiny_recipe):
    folder = tmp_path_factory.mktemp("fsdp")
    recipe = write_tiny_recipe(folder)
    together = _train("train.py", recipe, folder / "ddp", {})
    sharded = _train("tests/training/fsdp_on_cpu.py", recipe, folder / "fsdp", FSDP)
    return folder, together, sharded


def test_the_steps_are_those_of_ddp(runs):
    folder, together, sharded = runs
    assert (folder / "fsdp" / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()  # it was sharded
    assert sharded.keys() == together.keys()
    for name in together:
        if "running_" in name:  # DDP hands the first process's on at each step, FSDP does not
            continue
        torch.testing.assert_close(sharded[name], together[name], rtol=1e-4, atol=1e-6)


def test_the_output_folder_is_whole_and_measured_as_it_is(runs):
    folder = runs[0] / "fsdp"
    assert (folder / "modeling_dinoseg.py").is_file() and not list(folder.glob("_fsdp*"))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["DinoSegForSemanticSegmentation"]
    measured = json.loads((folder / "metrics.json").read_text())
    recipe = load_recipe(folder / "recipe.yaml")
    assert evaluate(str(folder), recipe)["per_category_iou"] == pytest.approx(measured["per_category_iou"], abs=1e-3)


def test_a_run_goes_on_from_its_shards(runs, write_tiny_recipe):
    folder, _, whole = runs
    for file in (folder / "fsdp" / "checkpoint-2").rglob("*"):
        if file.is_file():
            file.unlink()
    (folder / "fsdp" / "model.safetensors").unlink()
    SETTINGS.append("--resume")
    try:
        resumed = _train("tests/training/fsdp_on_cpu.py", folder / "tiny.yaml", folder / "fsdp", FSDP)
    finally:
        SETTINGS.remove("--resume")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-6)
