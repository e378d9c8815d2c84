"""A run that is killed or told to end, again and again, and resumed ends where the undisturbed run ends, to the last
bit."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_dinoseg import load_recipe
from hf_dinoseg.errors import RunError
from hf_dinoseg.run import train
from hf_dinoseg.training import DinoSegTrainer
from hf_dinoseg.training.checkpoints import fault_of, newest_whole_checkpoint
from hf_dinoseg.training.lock import is_alive
from hf_dinoseg.training.manifest import Manifest
from hf_dinoseg.training.output_folder import claim

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("DINOSEG_TEST_KILLS", "3"))  # 20 in the long form
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent")


def _start(recipe, folder, *flags, more=(), program=("train.py",), **settings):
    overrides = [f"training.output_dir={folder}", "training.max_steps=16", "training.save_total_limit=null"]
    # or an early step, the same in both, might be compared; and panels cost time
    overrides += ["training.load_best_model_at_end=false", "evaluation.panels=0"]
    command = [sys.executable, *program, str(recipe), *flags, *overrides, *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def _finish(process, code=0):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def _figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: metrics[k] for k in ("mean_iou", "per_category_iou", "overall_accuracy", "step", "num_images")}


def _wait(process, happened):
    deadline = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _checkpoints(folder, whole):
    return {p.name for p in folder.glob("checkpoint-*") if (p / "manifest.json").exists() == whole}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, write_tiny_recipe):
    """(recipe, output folder): three steps an epoch, a checkpoint every second step."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_tiny_recipe(folder)
    _finish(_start(recipe, folder / "whole"))
    return recipe, folder / "whole"


def _assert_same_end(folder, whole):
    assert _figures(folder) == _figures(whole)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_run_killed_again_and_again_equals_the_undisturbed_one(tmp_path, undisturbed):
    recipe, whole = undisturbed
    folder = tmp_path / "killed"
    dice = random.Random(0)
    flags = []
    for kill in range(KILLS):
        number = SIGNALS[kill % len(SIGNALS)]
        more = [f"training.dataloader_num_workers={2 * (kill % 2)}"]
        process = _start(recipe, folder, *flags, more=more, start_new_session=True)
        before = _checkpoints(folder, whole=True)
        if kill == 0:  # within an epoch
            _wait(process, lambda: "checkpoint-4" in _checkpoints(folder, whole=True))
        elif kill % 2:  # while a checkpoint is being written
            torn = _checkpoints(folder, whole=False)
            _wait(process, lambda torn=torn: _checkpoints(folder, whole=False) - torn)
        else:  # anywhere
            _wait(process, lambda before=before: _checkpoints(folder, whole=True) - before)
            time.sleep(dice.uniform(0, 0.5))
        os.killpg(process.pid, number)
        _finish(process, code=-number if number == signal.SIGKILL else 128 + number)
        assert not (folder / "metrics.json").exists(), "the run was over before it could be killed"
        # so that there is always something left to do, and that it begins within an epoch now and then
        for step in range(4 + 2 * dice.randrange(1, 5), 17, 2):
            shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
        flags = ["--resume"]
    refused = _start(recipe, folder)
    message = _finish(refused, code=1)
    assert "--resume" in message and "Traceback" not in message
    _finish(_start(recipe, folder, "--resume"))
    _assert_same_end(folder, whole)


def test_sigterm_saves_after_the_step_and_says_so_by_its_exit_code(tmp_path, undisturbed):
    recipe, whole = undisturbed
    folder = tmp_path / "told"
    process = _start(recipe, folder)
    _wait(process, lambda: "checkpoint-2" in _checkpoints(folder, whole=True))
    process.send_signal(signal.SIGTERM)
    output = _finish(process, code=143)
    assert "SIGTERM" in output and "--resume" in output and "Traceback" not in output
    assert not (folder / "metrics.json").exists()
    newest = max(int(name.split("-")[1]) for name in _checkpoints(folder, whole=True))
    assert f"after step {newest};" in output
    _finish(_start(recipe, folder, "--resume"))
    _assert_same_end(folder, whole)


def _start_step_without_end(recipe, tmp_path, **settings):
    begun = tmp_path / "begun"
    program = f"""
import runpy, sys, time
from pathlib import Path
from hf_dinoseg.training import DinoSegTrainer

def compute_loss(*args, **kwargs):
    Path({str(begun)!r}).touch()
    while True:
        time.sleep(0.05)

DinoSegTrainer.compute_loss = compute_loss
runpy.run_path("train.py", run_name="__main__")
"""
    return _start(recipe, tmp_path / "told", program=["-c", program], **settings), begun


def _wait_for_step(process, folder):
    _wait(process, lambda: "checkpoint-2" in _checkpoints(folder, whole=True))


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_to_the_whole_group_saves_after_the_step_and_names_resume(tmp_path, undisturbed, name, code):
    recipe, _ = undisturbed
    folder = tmp_path / "told"
    # as from a terminal, a batch system or a service manager: those that load data are told too
    more = ["training.dataloader_num_workers=2", "training.dataloader_persistent_workers=true"]
    process = _start(recipe, folder, more=more, start_new_session=True)
    _wait_for_step(process, folder)
    os.killpg(process.pid, getattr(signal, name))
    output = _finish(process, code=code)
    assert ("Ctrl-C" if name == "SIGINT" else name) in output and "--resume" in output and "Traceback" not in output
    newest = max(int(name.split("-")[1]) for name in _checkpoints(folder, whole=True))
    assert f"after step {newest};" in output and fault_of(folder / f"checkpoint-{newest}") is None
    assert not (folder / "metrics.json").exists()


def test_a_step_without_end_is_ended_within_the_time_that_is_given(tmp_path, undisturbed):
    recipe, _ = undisturbed
    process, begun = _start_step_without_end(recipe, tmp_path, more=["training.stop_within=1s"])
    _wait(process, begun.exists)
    process.send_signal(signal.SIGTERM)
    output = _finish(process, code=143)
    assert "training.stop_within" in output and "Traceback" not in output
    assert not _checkpoints(tmp_path / "told", whole=True)


def test_a_process_ends_in_order_when_its_launcher_is_killed(tmp_path, undisturbed):
    recipe, _ = undisturbed
    folder, log = tmp_path / "told", tmp_path / "log"
    launcher = f"""
import subprocess, sys
with open({str(log)!r}, "w") as log:
    subprocess.Popen(sys.argv[1:], stdout=log, stderr=log).wait()
"""
    more = ["training.max_steps=1000", "training.save_steps=100", "training.eval_steps=100"]
    process = _start(
        recipe,
        folder,
        more=more,
        program=["-c", launcher, sys.executable, "train.py"],
        env={**os.environ, "ACCELERATE_MIXED_PRECISION": "no"},  # as `accelerate launch` sets it
    )
    _wait(process, lambda: (folder / "recipe.yaml").exists())  # a step is done
    worker = Manifest.load(folder).holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 300
    while is_alive(worker):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    assert "the death of its launcher" in log.read_text()
    assert newest_whole_checkpoint(folder) is not None
    claim(folder, resume=True, overwrite=False).release()


def test_a_second_ctrl_c_stops_at_once(tmp_path, undisturbed):
    recipe, _ = undisturbed
    process, begun = _start_step_without_end(recipe, tmp_path)
    _wait(process, begun.exists)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output = _finish(process, code=130)
    assert "Traceback" not in output and "interrupted" in output
    assert not _checkpoints(tmp_path / "told", whole=True)


def test_handlers_are_those_from_before_however_training_ends(tmp_path, write_tiny_recipe, monkeypatch):
    def fails(*args, **kwargs):
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RunError("no")

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(DinoSegTrainer, "compute_loss", fails)
    with pytest.raises(RunError, match="no"):
        train(load_recipe(write_tiny_recipe(tmp_path)))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path, write_tiny_recipe, monkeypatch):
    saved = DinoSegTrainer._save_optimizer_and_scheduler

    def on_a_disk_that_is_nearly_full(trainer, folder):
        if trainer.state.global_step == 4:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            try:
                return saved(trainer, folder)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return saved(trainer, folder)

    monkeypatch.setattr(DinoSegTrainer, "_save_optimizer_and_scheduler", on_a_disk_that_is_nearly_full)
    recipe = load_recipe(write_tiny_recipe(tmp_path))
    with pytest.raises(RunError, match=r"checkpoint-4 could not be written.*--resume from checkpoint-2"):
        train(recipe)
    assert _checkpoints(tmp_path / "run", whole=True) == {"checkpoint-2"}
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    monkeypatch.undo()
    assert train(recipe, resume=True)["num_images"] == 3


def test_an_unwritable_disk_is_an_error_of_the_system_s_words(tmp_path, write_tiny_recipe, monkeypatch):
    def refuses(*args):
        raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")

    monkeypatch.setattr(DinoSegTrainer, "_save", refuses)
    with pytest.raises(RunError, match=r"could not be written.*Permission denied.*no checkpoint was saved before"):
        train(load_recipe(write_tiny_recipe(tmp_path)))
