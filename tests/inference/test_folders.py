"""Many images through a segmenter: what is on its way is bounded, what is written is whole, an error stays alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hf_dinoseg.inference import Job, Segmenter, segment_files
from hf_dinoseg.inference import folders as pipeline
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegImageProcessor

SPACE = LabelSpace({4: "dark", 9: "bright"})


class Brightness(nn.Module):
    """Two classes, pixels below and above mid-grey; notes how many images it is shown at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))
        self.shown: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.shown.append(len(pixel_values))
        bright = self.gain * pixel_values.mean(1, keepdim=True)
        return SimpleNamespace(logits=torch.cat((-bright, bright), dim=1))


def segmenter(model: nn.Module | None = None, **settings: object) -> Segmenter:
    processor = DinoSegImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Segmenter(model or Brightness(), processor, SPACE, **settings)


def make_jobs(folder: Path, count: int, sizes: tuple[tuple[int, int], ...] = ((9, 7),)) -> list[Job]:
    random = np.random.default_rng(0)
    jobs = []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        source = folder / f"in{number}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(source)
        jobs.append(Job(str(source), {"ids": folder / "out" / f"{number}.png"}))
    return jobs


def check(jobs: list[Job]) -> None:
    """Each result is that of its own image: brighter than mid-grey or not, worked out from the file."""
    for job in jobs:
        mean = np.asarray(Image.open(job.source)).astype(float).mean(axis=2)
        ids = np.asarray(Image.open(job.files["ids"]))
        clear = np.abs(mean - 127.5) > 0.4
        assert np.array_equal(ids[clear], np.where(mean > 127.5, 9, 4)[clear])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("pixels_at_once", [0, 200, 10**6])
def test_every_image_gets_its_own_answer(tmp_path, threads, mode, pixels_at_once):
    jobs = make_jobs(tmp_path, 17, sizes=((9, 7), (7, 9), (9, 7), (12, 5)))
    ours = segmenter(mode=mode, window=6, stride=4)
    outcomes = list(segment_files(ours, jobs, threads=threads, pixels_at_once=pixels_at_once))
    assert sorted(o.number for o in outcomes) == list(range(17)) and all(o.error is None for o in outcomes)
    check(jobs)
    if mode == "whole":
        assert sum(ours.model.shown) == 17 and max(ours.model.shown) <= max(1, pixels_at_once // 60)
        assert pixels_at_once or set(ours.model.shown) == {1}


def test_images_of_one_size_are_shown_together_once_they_are_there(tmp_path, monkeypatch):
    """The first image keeps the model until all the others are read: they then come in full batches of four."""
    jobs = make_jobs(tmp_path, 9)
    ours = segmenter(batch_size=8)
    read = threading.Semaphore(0)
    prepare, forward = ours.prepare, ours.model.forward

    def prepared(image):
        item = prepare(image)
        read.release()
        return item

    def slow(pixel_values):
        if not ours.model.shown:
            for _ in range(9):
                assert read.acquire(timeout=20)
            time.sleep(0.05)  # from read to queued
        return forward(pixel_values)

    monkeypatch.setattr(ours, "prepare", prepared)
    monkeypatch.setattr(ours.model, "forward", slow)
    outcomes = list(segment_files(ours, jobs, threads=1, pixels_at_once=4 * 63))
    assert all(o.error is None for o in outcomes) and sum(ours.model.shown) == 9
    assert 4 in ours.model.shown and max(ours.model.shown) == 4
    check(jobs)


def test_what_is_on_its_way_is_bounded_while_writing_is_slow(tmp_path, monkeypatch):
    jobs, ours = make_jobs(tmp_path, 40), segmenter()
    prepared, written, most = [], [], []
    prepare, write = ours.prepare, pipeline.write_result

    def counted(image):
        prepared.append(image)
        most.append(len(prepared) - len(written))
        return prepare(image)

    def slow(*arguments, **named):
        time.sleep(0.005)
        write(*arguments, **named)
        written.append(arguments[2])

    monkeypatch.setattr(ours, "prepare", counted)
    monkeypatch.setattr(pipeline, "write_result", slow)
    list(segment_files(ours, jobs, threads=2, pixels_at_once=0))
    assert len(written) == 40 and 2 <= max(most) <= 6  # two read, two are written, two wait


def test_size_bounds_what_is_on_its_way_and_one_alone_may_be_larger():
    room = pipeline._Room(images=10, size=100)
    assert room.enter(500)  # nobody else is there
    entered = threading.Event()
    thread = threading.Thread(target=lambda: room.enter(60) and entered.set(), daemon=True)
    thread.start()
    assert not entered.wait(0.05)
    room.leave(500)
    assert entered.wait(10)
    assert room.enter(40)
    refused = []
    thread = threading.Thread(target=lambda: refused.append(room.enter(1)), daemon=True)
    thread.start()
    room.close()
    thread.join(10)
    assert refused == [False]


def test_an_error_of_the_model_costs_its_own_image(tmp_path):
    class Choosy(Brightness):
        def forward(self, pixel_values):
            if (pixel_values[:, :, 0, 0] == 1).all(dim=1).any():
                raise RuntimeError("I do not like this one")
            return super().forward(pixel_values)

    jobs = make_jobs(tmp_path, 6)
    Image.new("RGB", (9, 7), (255, 255, 255)).save(jobs[3].source)
    outcomes = {o.number: o for o in segment_files(segmenter(Choosy()), jobs, threads=2, pixels_at_once=10**6)}
    assert outcomes.pop(3).error == f"{jobs[3].source}: I do not like this one" and not jobs[3].files["ids"].exists()
    assert all(o.error is None for o in outcomes.values())
    check([job for number, job in enumerate(jobs) if number != 3])


def test_leaving_early_ends_the_threads(tmp_path):
    before = threading.active_count()
    run = segment_files(segmenter(), make_jobs(tmp_path, 30), threads=2)
    next(run)
    run.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(list((tmp_path / "out").iterdir())) < 30


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_folders import make_jobs, segmenter
from hf_dinoseg.inference import segment_files
jobs = make_jobs(Path(sys.argv[2]), 60, sizes=((300, 300),))
print("ready", flush=True)
for outcome in segment_files(segmenter(), jobs, threads=2):
    print(outcome.number, flush=True)
"""


def test_a_killed_run_leaves_whole_files_only(tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(6):  # ready, and five images
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    done = sorted((tmp_path / "out").glob("*.png"))
    assert len(done) >= 5
    for path in done:
        assert np.asarray(Image.open(path)).shape == (300, 300)
