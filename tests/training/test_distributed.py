"""Two processes measure what one measures: no image lost, none counted twice."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DINOSEG = str(Path(sys.executable).with_name("dinoseg"))


def _evaluate(checkpoint, *launcher):
    done = subprocess.run(
        [*launcher, DINOSEG, "evaluate", str(checkpoint), "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_three_images_on_two_processes_give_the_figures_of_one(tiny_run):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    two = _evaluate(tiny_run, *launcher)
    one = json.loads((tiny_run / "metrics.json").read_text())
    assert two["num_images"] == one["num_images"] == 3
    differ = {"seconds_per_image", "step", "train_images", "seconds", "hardware"}  # of the run, not of the predictions
    assert {k: v for k, v in two.items() if k not in differ} == {k: v for k, v in one.items() if k not in differ}
    assert one["mean_iou_interval"][0] <= one["mean_iou"] <= one["mean_iou_interval"][1]
    assert 0 < one["mean_boundary_iou"] < 1 and 0 < one["expected_calibration_error"] < 1


def test_what_two_processes_trained_and_measured_is_what_they_saved(tmp_path, write_tiny_recipe):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    overrides = ["training.load_best_model_at_end=false", "training.learning_rate=0.01", "training.max_steps=3"]
    done = subprocess.run(
        [*launcher, str(write_tiny_recipe(tmp_path)), *overrides], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert _evaluate(tmp_path / "run")["per_category_iou"] == measured["per_category_iou"]
