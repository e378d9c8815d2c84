"""A run that is killed and resumed ends where the undisturbed run ends, to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _start(recipe, folder, *flags):
    overrides = [f"training.output_dir={folder}", "training.max_steps=8", "training.save_total_limit=null"]
    overrides += ["training.load_best_model_at_end=false"]  # or an early step, the same in both, might be compared
    command = [sys.executable, "train.py", str(recipe), *flags, *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: metrics[k] for k in ("mean_iou", "per_category_iou", "overall_accuracy", "step", "num_images")}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is sent")
def test_a_killed_run_resumed_in_mid_epoch_equals_the_undisturbed_one(tmp_path, write_tiny_recipe):
    recipe = write_tiny_recipe(tmp_path)  # three steps an epoch, a checkpoint every second step
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = _start(recipe, whole)

    victim = _start(recipe, killed)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoint-4" / "trainer_state.json").exists():
        assert victim.poll() is None, victim.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (killed / "metrics.json").exists(), "the run was over before it could be killed"

    for later in ("checkpoint-6", "checkpoint-8"):  # epochs have three steps: only 4 lies within one
        shutil.rmtree(killed / later, ignore_errors=True)

    refused = _start(recipe, killed)
    message, _ = refused.communicate(timeout=300)
    assert refused.returncode == 1 and "--resume" in message and "Traceback" not in message

    _finish(_start(recipe, killed, "--resume"))
    _finish(undisturbed)
    assert _figures(killed) == _figures(whole)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
