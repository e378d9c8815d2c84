"""What a person reads of a run: lines, tables, a word on classes that are never right; nothing twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.training.console import Unseen, clock, step_line


def test_a_line_says_what_a_log_entry_holds() -> None:
    logs = {
        "loss": 20.7134,
        "grad_norm": 3.0,
        "learning_rate": 6.7e-4,
        "epoch": 1.5,
        "loss_class": 2.2,
        "loss_mask": 1.6,
        "loss_dice": 1.6,
        "images_per_second": 13.62,
    }
    line = "step 60/150  loss 20.7 (class 2.2, mask 1.6, dice 1.6)  lr 6.7e-4  13.6 images/s  0:52 left"
    assert step_line(60, 150, logs, left=52.3) == line
    assert step_line(1, 2, {"loss": 1234.5, "learning_rate": 1e-4}) == "step 1/2  loss 1234  lr 1e-4"
    assert [clock(s) for s in (0, 59.6, 3599, 3600, 93784)] == ["0:00", "1:00", "59:59", "1:00:00", "26:03:04"]


def test_a_class_that_is_never_right_is_told_once_and_late() -> None:
    unseen = Unseen(patience=2, share=0.3)
    assert unseen.note(10, 100, {"sky": 0.0, "road": 0.5}) is None
    assert unseen.note(20, 100, {"sky": 0.0, "road": 0.5}) is None  # two, but early
    told = unseen.note(40, 100, {"sky": 0.0, "road": 0.0})
    assert told is not None and "sky" in told and "road" not in told and "step 40 of 100" in told
    assert unseen.note(50, 100, {"sky": 0.0, "road": 0.1}) is None  # told already; the other was right again
    assert unseen.note(60, 100, {"sky": 0.0, "road": float("nan")}) is None
    assert unseen.note(70, 100, {"sky": 0.0, "road": 0.0}) is None
    assert "road" in str(unseen.note(80, 100, {"sky": 0.0, "road": 0.0}))


def test_a_run_says_each_thing_once(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]) -> None:
    recipe = write_tiny_recipe(tmp_path)
    result = CliRunner().invoke(app, ["train", str(recipe), "model.head=linear", "training.disable_tqdm=false"])
    assert result.exit_code == 0, result.output
    log = result.stderr
    assert re.findall(r"^step (\d)/4  loss .* lr .* images/s  .* left$", log, flags=re.MULTILINE) == list("1234")
    assert re.findall(r"^step (\d)/4: mean IoU [\d.]+ % on 3 images$", log, flags=re.MULTILINE) == ["2", "4"]
    assert log.count("overall accuracy") == 2 and result.stdout.count("overall_accuracy") == 1
    for noise in ("{'", "Flattening", "Writing model", "it/s", "eval_", "train_runtime"):
        assert noise not in result.output, noise
    folder = tmp_path / "run"
    for said in (
        f"checkpoint: {folder} (weights of step ",
        f"report:     {folder}/report.html",
        f"dinoseg demo {folder}",
    ):
        assert said in result.stdout
    assert (folder / "report.html").is_file()
