"""Two processes measure what one measures: no image lost, none counted twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
DINOSEG = str(Path(sys.executable).with_name("dinoseg"))


def _run(command, **environment):
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def _evaluate(checkpoint, *launcher):
    done = _run([*launcher, DINOSEG, "evaluate", str(checkpoint), "--json"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_three_images_on_three_processes_give_the_figures_of_one(tiny_run):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "--no-python"]
    three = _evaluate(tiny_run, *launcher)
    one = json.loads((tiny_run / "metrics.json").read_text())
    assert three["num_images"] == one["num_images"] == 3
    differ = {"seconds_per_image", "step", "train_images", "seconds", "hardware"}  # of the run, not of the predictions
    assert {k: v for k, v in three.items() if k not in differ} == {k: v for k, v in one.items() if k not in differ}
    assert one["mean_iou_interval"][0] <= one["mean_iou"] <= one["mean_iou_interval"][1]
    assert 0 < one["mean_boundary_iou"] < 1 and 0 < one["expected_calibration_error"] < 1


def _matrices(checkpoint, folder, batch, *launcher):
    """The confusion matrix of five images, as each process has it in the end."""
    folder.mkdir()
    overrides = ["data.num_validation=5", f"training.per_device_eval_batch_size={batch}"]
    done = _run([*launcher, "tests/training/one_evaluation.py", str(checkpoint), str(folder), *overrides])
    assert done.returncode == 0, done.stderr
    return [np.load(file) for file in sorted(folder.glob("*.npy"))]


@pytest.fixture(scope="module")
def matrix_of_one(tiny_run, tmp_path_factory):
    [matrix] = _matrices(tiny_run, tmp_path_factory.mktemp("matrix") / "one", 1, sys.executable)
    return matrix


@pytest.mark.parametrize("batch", [1, 2])
def test_the_confusion_matrix_of_two_processes_is_that_of_one_bit_for_bit(batch, tiny_run, matrix_of_one, tmp_path):
    assert matrix_of_one.dtype == np.int64 and matrix_of_one.sum() == 5 * 96 * 96  # every pixel of every image once
    first, second = _matrices(tiny_run, tmp_path / "two", batch, *ACCELERATE)
    np.testing.assert_array_equal(first, matrix_of_one)
    np.testing.assert_array_equal(second, matrix_of_one)


def test_what_two_processes_trained_and_measured_is_what_they_saved(tmp_path, write_tiny_recipe):
    overrides = ["training.load_best_model_at_end=false", "training.learning_rate=0.01", "training.max_steps=3"]
    done = _run([*ACCELERATE, "train.py", str(write_tiny_recipe(tmp_path)), *overrides])
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert _evaluate(tmp_path / "run")["per_category_iou"] == measured["per_category_iou"]


def test_processes_that_would_each_train_alone_are_refused(tmp_path, write_tiny_recipe):
    command = [*ACCELERATE, "train.py", str(write_tiny_recipe(tmp_path)), "training.use_cpu=false"]
    done = _run(command, ACCELERATE_USE_CPU="0", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.count("2 processes were started") == 1 and "training.use_cpu=true" in done.stderr
    assert not (tmp_path / "run").exists()
