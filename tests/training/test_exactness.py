"""One step over four images is the same step however they are spread over processes and accumulation steps."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).with_name("one_step.py"))
STEP = [
    "training.max_steps=1",
    "training.optim=sgd",
    "training.learning_rate=1.0",  # so that the step is the gradient
    "training.lr_scheduler_type=constant",
    "training.warmup_steps=0",
    "training.weight_decay=0.0",
    "training.max_grad_norm=0.0",
    "training.eval_strategy=no",
    "model.drop_path_rate=0.0",
    "model.backbone.pos_embed_rescale=null",  # DINOv3 draws the scale of its positions anew in each forward pass
    "evaluation.panels=0",
]


def _step(recipe, folder, batch, accumulation, processes):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    overrides = [
        *STEP,
        f"training.output_dir={folder}",
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={accumulation}",
    ]
    done = subprocess.run([*launcher, SCRIPT, str(recipe), *overrides], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("batch, accumulation, processes", [(2, 2, 1), (2, 1, 2)])
def test_the_gradient_of_four_images_does_not_depend_on_how_they_are_spread(
    batch, accumulation, processes, tmp_path, write_tiny_recipe
):
    recipe = write_tiny_recipe(tmp_path)
    whole = _step(recipe, tmp_path / "whole", batch=4, accumulation=1, processes=1)
    spread = _step(recipe, tmp_path / "spread", batch, accumulation, processes)
    assert whole.keys() == spread.keys()
    for name, weight in whole.items():
        difference = float((weight - spread[name]).abs().sum())  # no max: without register tokens theirs is empty
        assert difference <= 1e-5 * max(1.0, float(weight.abs().sum())), f"{name}: {difference}"
