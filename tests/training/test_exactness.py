"""One step over four images is the same step however they are spread over processes and accumulation steps.

Processes are started by `accelerate launch` with the settings that are shipped for CPUs, and talk over gloo. (What
accelerate calls MULTI_CPU, and its `--cpu`, start one process unless mpirun is there.)
"""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).with_name("one_step.py"))
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCHER += ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu.yaml")]
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
    launcher = [sys.executable] if processes == 1 else [*LAUNCHER, "--num_processes", str(processes)]
    overrides = [
        *STEP,
        f"training.output_dir={folder}",
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={accumulation}",
    ]
    done = subprocess.run([*launcher, SCRIPT, str(recipe), *overrides], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "model.safetensors"), float((folder / "loss.txt").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_tiny_recipe):
    folder = tmp_path_factory.mktemp("whole")
    return _step(write_tiny_recipe(folder), folder / "run", batch=4, accumulation=1, processes=1)


@pytest.mark.parametrize("batch, accumulation, processes", [(2, 2, 1), (2, 1, 2)])
def test_loss_and_gradient_of_four_images_do_not_depend_on_how_they_are_spread(
    batch, accumulation, processes, tmp_path, whole, write_tiny_recipe
):
    weights, loss = whole
    spread, spread_loss = _step(write_tiny_recipe(tmp_path), tmp_path / "spread", batch, accumulation, processes)
    assert spread_loss == pytest.approx(loss, rel=1e-5)
    assert weights.keys() == spread.keys()
    for name, weight in weights.items():
        difference = float((weight - spread[name]).abs().sum())  # no max: without register tokens theirs is empty
        assert difference <= 1e-5 * max(1.0, float(weight.abs().sum())), f"{name}: {difference}"
