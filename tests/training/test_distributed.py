"""Two processes measure what one measures: no image lost, none counted twice."""

import json
import subprocess
import sys
from pathlib import Path

DINOSEG = str(Path(sys.executable).with_name("dinoseg"))


def _evaluate(checkpoint, *launcher):
    done = subprocess.run(
        [*launcher, DINOSEG, "evaluate", str(checkpoint), "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_three_images_on_two_processes_give_the_figures_of_one(tiny_run):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    two = _evaluate(tiny_run, *launcher)
    one = json.loads((tiny_run / "metrics.json").read_text())
    assert two["num_images"] == one["num_images"] == 3
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "mean_dice"):
        assert two[key] == one[key], key
    for key in ("per_category_iou", "per_category_accuracy", "per_category_dice"):
        assert two[key] == one[key], key
