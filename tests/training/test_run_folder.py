import json

import pytest
import torch
from safetensors.torch import save

from hf_dinoseg.errors import RunError
from hf_dinoseg.training.run_folder import claim, inspect, newest_whole_checkpoint

WEIGHTS = save({"w": torch.zeros(3)})


def _run(folder, steps, torn=()):
    folder.mkdir()
    (folder / "recipe.yaml").write_text("labels: {}\n")
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(WEIGHTS)
        state = json.dumps({"global_step": step})
        (checkpoint / "trainer_state.json").write_text(state[: len(state) // 2] if step in torn else state)
    return folder


def test_a_new_folder_is_created_and_starts_from_nothing(tmp_path):
    assert inspect(tmp_path / "a" / "b", resume=False, overwrite=False) is None
    assert not (tmp_path / "a").exists()
    claim(tmp_path / "a" / "b", resume=False, overwrite=False)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_with_a_run_is_refused_and_left_as_it_is(tmp_path):
    folder = _run(tmp_path / "run", [10])
    with pytest.raises(RunError, match=r"--resume.*--overwrite"):
        claim(folder, resume=False, overwrite=False)
    assert (folder / "checkpoint-10" / "model.safetensors").read_bytes() == WEIGHTS


def test_resume_takes_the_newest_step_by_number_not_by_name(tmp_path):
    folder = _run(tmp_path / "run", [900, 1000])
    assert inspect(folder, resume=True, overwrite=False) == folder / "checkpoint-1000"
    claim(folder, resume=True, overwrite=False)
    assert (folder / "checkpoint-900" / "model.safetensors").exists()


def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog):
    folder = _run(tmp_path / "run", [10, 20, 30], torn=[30])
    (folder / "checkpoint-20" / "trainer_state.json").unlink()
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-10"
    assert "checkpoint-30" in caplog.text and "checkpoint-20" in caplog.text


def test_a_checkpoint_that_lost_its_weights_is_not_whole(tmp_path):
    folder = _run(tmp_path / "run", [10, 20, 30])
    (folder / "checkpoint-30" / "model.safetensors").write_bytes(WEIGHTS[:-1])
    (folder / "checkpoint-20" / "model.safetensors").unlink()
    assert newest_whole_checkpoint(folder) == folder / "checkpoint-10"


def test_resume_without_a_checkpoint_says_how_to_start(tmp_path):
    with pytest.raises(RunError, match="without --resume"):
        inspect(tmp_path / "none", resume=True, overwrite=False)


def test_overwrite_deletes_a_run_but_never_a_folder_of_something_else(tmp_path):
    folder = _run(tmp_path / "run", [10])
    assert inspect(folder, resume=False, overwrite=True) is None
    assert (folder / "checkpoint-10").exists()
    claim(folder, resume=False, overwrite=True)
    assert list(folder.iterdir()) == []
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("x")
    with pytest.raises(RunError, match="no run of this package"):
        claim(thesis, resume=False, overwrite=True)
    assert (thesis / "chapter1.tex").exists()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        claim(tmp_path / "out", resume=False, overwrite=False)
