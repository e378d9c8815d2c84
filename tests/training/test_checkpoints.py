"""Which checkpoint is whole, which is the newest, which go; a folder has one run at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from hf_dinoseg.errors import RunError
from hf_dinoseg.training import checkpoints, manifest
from hf_dinoseg.training.checkpoints import CheckpointManifest, fault_of, newest_whole_checkpoint, rotate
from hf_dinoseg.training.lock import is_alive, this_process
from hf_dinoseg.training.manifest import MANIFEST_FILE, Manifest
from hf_dinoseg.training.output_folder import claim, inspect

FILES = {
    "model.safetensors": save({"w": torch.arange(64.0)}),
    "optimizer.pt": bytes(range(256)) * 4,
    "scheduler.pt": b"s" * 400,
    "rng_state.pth": b"r" * 300,
    "trainer_state.json": json.dumps({"global_step": 0, "log_history": []}).encode(),
    "parts/0/shard.distcp": b"d" * 500,
}


def _run(folder, steps, sealed=True):
    for step in steps:
        for name, content in FILES.items():
            path = folder / f"checkpoint-{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if sealed:
            CheckpointManifest("a", step, 1).seal(folder / f"checkpoint-{step}")
    if sealed:
        Manifest(folder, begun=True).refresh([f"checkpoint-{step}" for step in steps])
    return folder


def _missing(path):
    path.unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _half_zeroed(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def _one_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [_missing, _cut, _half_zeroed, _one_bit])
@pytest.mark.parametrize("name", FILES)
def test_any_file_that_is_not_as_it_was_written_makes_a_checkpoint_unusable(tmp_path, caplog, name, harm):
    folder = _run(tmp_path, [10, 20])
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-20" and not caplog.text
    harm(folder / "checkpoint-20" / name)
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-10"
    assert name in caplog.text and "checkpoint-20" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"version": 99}'])
def test_a_checkpoint_without_a_manifest_was_not_written_to_its_end(tmp_path, caplog, text):
    folder = _run(tmp_path, [10, 20])
    path = folder / "checkpoint-20" / MANIFEST_FILE
    path.unlink() if text is None else path.write_text(text)
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-10"
    assert ("not written to its end" if text is None else MANIFEST_FILE) in caplog.text


def test_a_checkpoint_that_is_a_model_only_is_not_gone_on_from(tmp_path):
    folder = _run(tmp_path, [10])
    CheckpointManifest("a", 10, 1, resumable=False).seal(folder / "checkpoint-10")
    assert newest_whole_checkpoint(folder) is None


def test_checkpoints_of_a_run_without_manifests_are_looked_at_from_outside(tmp_path):
    """As version 0.1 wrote them."""
    folder = _run(tmp_path, [10, 20, 30, 40, 50, 60, 70], sealed=False)
    for path in folder.glob("checkpoint-*/parts"):
        (path / "0" / "shard.distcp").unlink(), (path / "0").rmdir(), path.rmdir()
    (folder / "checkpoint-70" / "optimizer.pt").unlink()
    (folder / "checkpoint-60" / "scheduler.pt").unlink()
    (folder / "checkpoint-50" / "rng_state.pth").unlink()
    (folder / "checkpoint-40" / "trainer_state.json").write_text("{}")
    (folder / "checkpoint-30" / "model.safetensors").unlink()
    _cut(folder / "checkpoint-20" / "model.safetensors")
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-10"
    claim(folder, resume=True, overwrite=False)  # and from now on it has manifests
    assert fault_of(folder / "checkpoint-10") is None


@pytest.mark.parametrize("kill", range(5))
def test_a_checkpoint_is_whole_at_any_moment_while_a_file_is_replaced(tmp_path, monkeypatch, kill):
    folder = _run(tmp_path, [10])
    checkpoint, calls = folder / "checkpoint-10", []

    def killed(original):
        def write(*args, **kwargs):
            if len(calls) == kill:
                raise KeyboardInterrupt
            calls.append(original)
            return original(*args, **kwargs)

        return write

    monkeypatch.setattr(os, "replace", killed(os.replace))
    monkeypatch.setattr(checkpoints, "write_whole", killed(checkpoints.write_whole))
    monkeypatch.setattr(Path, "replace", killed(Path.replace))
    record = CheckpointManifest.load(checkpoint)
    try:
        record.replace(checkpoint, "trainer_state.json", '{"global_step": 10, "log_history": [1, 2, 3]}')
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert fault_of(checkpoint) is None
    left = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert left == [] or left == [1, 2, 3]


# ---------------------------------------------------------------------- rotation


def _there(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def test_the_earliest_steps_go_whatever_the_clock_said(tmp_path):
    folder = _run(tmp_path, [900, 1000, 1100, 1200])
    for age, step in enumerate([1200, 1100, 1000, 900]):  # the clock was set back again and again
        os.utime(folder / f"checkpoint-{step}", (1e9 + 1000 * age, 1e9 + 1000 * age))
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-1200"
    rotate(folder, 3, 1200, None, Manifest.load(folder))
    assert _there(folder) == [1000, 1100, 1200]
    assert set(Manifest.load(folder).files) == {
        f"checkpoint-{step}/{name}" for step in (1000, 1100, 1200) for name in [*FILES, MANIFEST_FILE]
    }


@pytest.mark.parametrize(
    "keep, newest, best, left",
    [
        (None, 40, None, [10, 20, 30, 40]),
        (2, 40, None, [30, 40]),
        (3, 40, 10, [10, 30, 40]),
        (1, 40, 10, [10, 40]),
        (1, 20, None, [20, 30, 40]),  # those after the step were passed over when the run was resumed
        (2, 30, 40, [20, 30, 40]),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_how_many_stay(tmp_path, keep, newest, best, left, listed):
    folder = _run(tmp_path, [10, 20, 30, 40])
    rotate(folder, keep, newest, best, Manifest.load(folder) if listed else None)
    assert _there(folder) == left


def test_rotation_deletes_nothing_that_is_not_the_run_s(tmp_path):
    folder = _run(tmp_path, [10, 20, 30])
    (folder / "checkpoint-10" / "mine.txt").write_text("x")
    rotate(folder, 2, 30, None, Manifest.load(folder))
    assert [path.name for path in (folder / "checkpoint-10").iterdir()] == ["mine.txt"]
    for name in FILES:
        path = folder / "checkpoint-40" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
    CheckpointManifest("a", 40, 1).seal(folder / "checkpoint-40")
    listed = Manifest.load(folder)
    listed.refresh(["checkpoint-40"])
    rotate(folder, 2, 40, None, listed)  # what is left of the first does not count as a checkpoint
    assert _there(folder) == [10, 30, 40]


# ---------------------------------------------------------------------- one run at a time

HOLD = """
import os, sys, time
from pathlib import Path
from hf_dinoseg.training.output_folder import claim
manifest = claim(Path(sys.argv[1]), resume=True, overwrite=False)
if len(sys.argv) > 2 and os.fork() == 0:  # as a worker that loads data: it has all that its parent has open
    time.sleep(2)
    os._exit(0)
print("held", flush=True)
time.sleep(600)
"""


def _hold(folder, *more):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_one_process_s_until_that_ends_however_it_ends(tmp_path):
    folder = _run(tmp_path, [10])
    process = _hold(folder, "with a worker")
    for way in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        for use in (inspect, claim):
            with pytest.raises(RunError, match=rf"in use by process {process.pid} on .*training\.output_dir"):
                use(folder, **way)
    assert (folder / "checkpoint-10" / "model.safetensors").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    own = claim(folder, resume=True, overwrite=False)
    assert own.holder["pid"] == os.getpid()
    own.release()
    assert Manifest.load(folder).holder is None


def test_a_number_that_was_given_again_is_another_process():
    me = this_process()
    assert is_alive(me)
    assert not is_alive({**me, "started": me["started"] - 60})
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not is_alive({**me, "pid": gone.pid})
    assert is_alive({**me, "host": "elsewhere", "pid": gone.pid})  # nothing is known of it


def test_what_another_host_left_unfinished_is_taken_over_with_a_word(tmp_path, caplog):
    folder = _run(tmp_path, [10])
    left = Manifest.load(folder)
    left.holder = {"host": "node17", "pid": 4, "started": time.time()}
    left.save()
    claim(folder, resume=True, overwrite=False).release()
    assert "node17" in caplog.text


def test_without_locks_the_manifest_decides(tmp_path, monkeypatch, caplog):
    folder = _run(tmp_path, [10])
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: (_ for _ in ()).throw(OSError(38, "no locks")))
    claim(folder, resume=True, overwrite=False)
    assert "no locks" in caplog.text
    with pytest.raises(RunError, match=f"process {os.getpid()}"):
        claim(folder, resume=True, overwrite=False)


def test_a_manifest_knows_what_changed_since(tmp_path):
    folder = _run(tmp_path, [10])
    listed = Manifest.load(folder)
    assert listed.changed() == []
    _one_bit(folder / "checkpoint-10" / "model.safetensors")
    _missing(folder / "checkpoint-10" / "optimizer.pt")
    assert listed.changed() == ["checkpoint-10/model.safetensors", "checkpoint-10/optimizer.pt"]
    assert listed.changed(["*.safetensors"]) == ["checkpoint-10/model.safetensors"]


def test_settings_of_steps_that_are_done_again_are_noted_again():
    noted = manifest.Manifest(Path("nowhere"))
    for step, rate in ((0, 1), (40, 2), (80, 3), (40, 4)):
        noted.note_settings(step, {"rate": rate})
    assert [(entry["from_step"], entry["rate"]) for entry in noted.settings] == [(0, 1), (40, 4)]
