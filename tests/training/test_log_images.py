"""What a run shows while it goes: figures in its log, images in its folder and in TensorBoard."""

import io
import json
import sys
import time

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TrackioCallback, WandbCallback

from hf_dinoseg import load_recipe
from hf_dinoseg.run import train
from hf_dinoseg.training.log_images import report_images
from hf_dinoseg.training.step_log import StepLog


def test_a_run_draws_its_curves_and_tensorboard_holds_the_panels_of_every_evaluation(
    tmp_path, write_tiny_recipe, monkeypatch
):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    recipe = load_recipe(write_tiny_recipe(tmp_path), ["training.report_to=tensorboard"])
    started = time.monotonic()
    train(recipe)
    seconds = time.monotonic() - started
    folder = tmp_path / "run"
    assert Image.open(folder / "curves.png").size[0] > 500 and (folder / "confusion.png").is_file()
    assert "](curves.png)" in (folder / "README.md").read_text()

    log = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in log if "loss" in entry]
    assert len(entries) == 4
    kinds = ("loss_class", "loss_mask", "loss_dice", "matched_queries", "nonfinite_costs")
    for entry in entries:
        assert set(kinds) | {"learning_rate", "learning_rate_backbone", "images_per_second"} <= entry.keys()
        assert entry["images_per_second"] > 2 / seconds  # a step of two images took less than the whole run
        assert "gpu_memory_gb" not in entry  # a CPU counts none

    boards = [
        EventAccumulator(str(path.parent), size_guidance={"images": 0}) for path in tmp_path.glob("board/events*")
    ]
    board = boards[0].Reload()
    panels = {f"panels/{path.stem}": path for path in (folder / "panels" / "step-000002").glob("*.png")}
    assert len(panels) == 2 and {*panels, "confusion", "curves"} == set(board.Tags()["images"])
    assert {"train/loss_dice", "train/images_per_second", "eval/mean_iou"} <= set(board.Tags()["scalars"])
    for name, path in panels.items():  # the same images at each evaluation, as they lie in the folder
        events = board.Images(name)
        assert [event.step for event in events][:2] == [2, 4]
        shown = np.asarray(Image.open(io.BytesIO(events[0].encoded_image_string)).convert("RGB"))
        assert np.array_equal(shown, np.asarray(Image.open(path).convert("RGB")))


class Recorder:
    """Stands for the modules wandb and trackio, as far as images go: `Image(path, caption=…)` and `log({…})`."""

    def __init__(self):
        self.logged = []

    def Image(self, path, caption):
        return ("image", path, caption)

    def log(self, values):
        self.logged.append(values)


def test_wandb_and_trackio_are_given_the_images_by_their_own_calls(tmp_path, monkeypatch):
    Image.new("RGB", (4, 3)).save(tmp_path / "one.png")
    for kind, name in ((WandbCallback, "wandb"), (TrackioCallback, "trackio")):
        callback, module = kind.__new__(kind), Recorder()  # their constructors look for the libraries
        monkeypatch.setitem(sys.modules, name, module)
        report_images([callback], {"panels/one": tmp_path / "one.png"}, step=7)
        image = ("image", str(tmp_path / "one.png"), "one")
        assert module.logged == [{"panels/one": image, "train/global_step": 7}]
        report_images([callback], {}, step=8)
        assert len(module.logged) == 1


def test_images_per_second_are_of_all_processes_and_leave_pauses_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    log = StepLog(torch.device("cpu"), accumulation_steps=2, processes=3)
    assert log.entries() == {}
    log.start()
    for _ in range(4):  # two steps of two batches of 5 images, on each of three processes: 60 images
        now[0] += 2.0
        log.add({"loss": torch.tensor(9.0), "loss_mask": torch.tensor(1.5), "matched_queries": 3}, images=5)
    with log.paused():
        now[0] += 50.0
    with log.paused():  # as the Trainer does: it logs, then evaluates
        entries = log.entries()
        now[0] += 70.0
    # 8 seconds of training; terms add up over the two batches of a step
    assert entries == {"loss_mask": 3.0, "matched_queries": 6.0, "images_per_second": 7.5}
    now[0] += 4.0
    log.add({"loss": torch.tensor(9.0)}, images=4)
    assert log.entries() == {"images_per_second": 3.0}


def test_a_device_that_counts_its_memory_is_asked(monkeypatch):
    class Module:
        @staticmethod
        def max_memory_allocated(device):
            return 2_345_600_000

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    log = StepLog(torch.device("meta"), 1, 1)
    log.add({}, images=1)
    assert log.entries() == {"gpu_memory_gb": 2.346}
