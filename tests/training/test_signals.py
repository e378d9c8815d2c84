"""What ends a run in order, within one process; test_resume.py sends signals to whole groups."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file

from hf_dinoseg import load_recipe
from hf_dinoseg.run import train
from hf_dinoseg.training import DinoSegTrainer
from hf_dinoseg.training.checkpoints import CheckpointManifest, fault_of
from hf_dinoseg.training.signals import SIGNALS, Preempted, Stopper, shield_workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent")


def _evaluations(folder, step):
    entries = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
    timed = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in e.items() if k not in timed} for e in entries if "eval_mean_iou" in e]


@pytest.mark.parametrize("ended", ["SIGTERM", "SIGKILL"])
def test_an_evaluation_that_is_interrupted_costs_no_step_and_is_made_good_for(
    ended, tiny_run, tmp_path, write_tiny_recipe, monkeypatch
):
    class Killed(BaseException):
        pass

    recipe, folder = load_recipe(write_tiny_recipe(tmp_path)), tmp_path / "run"
    predicted, predict = [], DinoSegTrainer.prediction_step

    def interrupted(trainer, *args, **kwargs):
        predicted.append(trainer.state.global_step)
        if ended == "SIGKILL":
            raise Killed
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(trainer, *args, **kwargs)

    monkeypatch.setattr(DinoSegTrainer, "prediction_step", interrupted)
    with pytest.raises(Preempted if ended == "SIGTERM" else Killed):
        train(recipe)
    monkeypatch.undo()
    assert predicted == [2]  # one image of three
    assert fault_of(folder / "checkpoint-2") is None
    assert CheckpointManifest.load(folder / "checkpoint-2").evaluation_due
    train(recipe, resume=True)
    assert _evaluations(folder, 4) == _evaluations(tiny_run, 4)
    ended_as, whole = load_file(folder / "model.safetensors"), load_file(tiny_run / "model.safetensors")
    assert all((ended_as[name] == weight).all() for name, weight in whole.items())


def test_the_last_evaluation_can_be_interrupted_too(tiny_run, tmp_path, write_tiny_recipe, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    predict = DinoSegTrainer.prediction_step

    def interrupted(trainer, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR1)
        return predict(trainer, *args, **kwargs)

    monkeypatch.setattr(DinoSegTrainer, "prediction_step", interrupted)
    with pytest.raises(Preempted, match=r"SIGUSR1 while the finished model was measured.*--resume") as raised:
        train(load_recipe(write_tiny_recipe(tmp_path)), resume=True)
    assert raised.value.exit_code == 128 + signal.SIGUSR1
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_time_that_is_up_ends_a_run_with_a_checkpoint(tmp_path, write_tiny_recipe):
    recipe = load_recipe(write_tiny_recipe(tmp_path), ["training.max_time=0.01s", "training.save_total_limit=1"])
    for step in (1, 2):  # each time it is started it gets its time anew
        with pytest.raises(Preempted, match=rf"ended by training\.max_time after step {step}.*--resume") as raised:
            train(recipe, resume=step > 1)
        assert raised.value.exit_code == 124
        assert fault_of(tmp_path / "run" / f"checkpoint-{step}") is None
    assert CheckpointManifest.load(tmp_path / "run" / "checkpoint-2").evaluation_due


class _Pids(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return os.getpid(), os.environ["begun"]


def _mark(worker):
    os.environ["begun"] = str(worker)


@pytest.mark.parametrize("prepared", [False, True])
def test_workers_let_signals_pass_but_for_those_of_the_run(prepared):
    loader = torch.utils.data.DataLoader(
        _Pids(), num_workers=2, worker_init_fn=_mark, collate_fn=list, persistent_workers=True
    )
    loader = prepare_data_loader(loader) if prepared else loader  # as accelerate does for the Trainer
    for _ in range(2):
        shield_workers(loader)
    first = [batch[0] for batch in loader]
    assert [begun for _, begun in first] == ["0", "1", "0", "1"] and "begun" not in os.environ
    pids = {pid for pid, _ in first}
    for number in SIGNALS:  # sent by another process, as `kill` and `scancel` do
        subprocess.run(["kill", f"-{int(number)}", *map(str, pids)], check=True)
    assert [batch[0] for batch in loader] == first
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    workers = [child for child in multiprocessing.active_children() if child.pid in pids]
    for worker in workers:
        worker.terminate()
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    try:
        with Stopper() as stopper:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not stopper._told
            assert signal.getsignal(signal.SIGTERM) == stopper._hear
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", sorted(SIGNALS))
def test_each_signal_is_heard_once_and_handlers_come_back(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stopper() as stopper, stopper:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stopper._told == number
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                time.sleep(1)
    assert [signal.getsignal(each) for each in SIGNALS] == before
