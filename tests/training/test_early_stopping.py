"""A run that gets no better ends before its last step."""

import json
import shutil

from hf_dinoseg import load_recipe
from hf_dinoseg.run import train

# so high a threshold that no evaluation but the first is better than the best before it
STOP = ["training.early_stopping_patience=2", "training.early_stopping_threshold=2", "training.save_total_limit=null"]
MANY = ["training.max_steps=12", "training.eval_steps=1", "training.save_steps=1", "evaluation.panels=0"]


def steps_evaluated(folder):
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return [entry["step"] for entry in state["log_history"] if "eval_mean_iou" in entry]


def test_it_stops_after_so_many_evaluations_and_goes_on_counting_when_resumed(tmp_path, write_tiny_recipe):
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*STOP, *MANY])
    metrics = train(recipe)
    folder = tmp_path / "run"
    # the first evaluation sets the mark, the second and third do not better it
    assert steps_evaluated(folder) == [1, 2, 3]
    assert metrics["stopped_at"] == 3 and metrics["step"] in (1, 2, 3)
    assert "3 of 12 steps" in (folder / "README.md").read_text()
    shutil.rmtree(folder / "checkpoint-3")
    train(recipe, resume=True)
    assert steps_evaluated(folder) == [1, 2, 3]


def test_without_patience_it_goes_to_the_end(tiny_run):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert "stopped_at" not in metrics and steps_evaluated(tiny_run) == [2, 4]
