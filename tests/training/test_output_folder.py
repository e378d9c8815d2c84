import json
import os

import pytest
import torch
from safetensors.torch import save

from hf_dinoseg.errors import RunError
from hf_dinoseg.training.checkpoints import CheckpointManifest
from hf_dinoseg.training.manifest import LOCK_FILE, MANIFEST_FILE, Manifest
from hf_dinoseg.training.output_folder import check_apart, claim, inspect

WEIGHTS = save({"w": torch.zeros(3)})
OWN = {MANIFEST_FILE, LOCK_FILE}


def _run(folder, steps):
    folder.mkdir()
    (folder / "recipe.yaml").write_text("labels: {}\n")
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(WEIGHTS)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        CheckpointManifest("a", step, 1).seal(checkpoint)
    manifest = Manifest(folder, begun=True)
    manifest.refresh(["recipe.yaml", *(f"checkpoint-{step}" for step in steps)])
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


def test_resume_without_a_checkpoint_says_how_to_start(tmp_path):
    with pytest.raises(RunError, match="without --resume"):
        inspect(tmp_path / "none", resume=True, overwrite=False)


def _everything(folder):
    """What lies below a folder, byte for byte; links as what they say."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_overwrite_deletes_a_run_and_leaves_nothing_but_a_new_list(tmp_path):
    folder = _run(tmp_path / "run", [10, 20])
    begun = Manifest.load(folder)
    assert inspect(folder, resume=False, overwrite=True) is None
    assert (folder / "checkpoint-10").exists()
    manifest = claim(folder, resume=False, overwrite=True)
    assert {path.name for path in folder.iterdir()} == OWN
    assert manifest.run_id != begun.run_id and not manifest.files and not manifest.begun


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "checkpoint-10/mine.txt", "panels/step-5/a.png"])
def test_overwrite_deletes_nothing_where_something_is_not_listed(tmp_path, name):
    folder = _run(tmp_path / "run", [10])
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")
    before = _everything(folder)
    with pytest.raises(RunError, match=rf"{name.split('/')[0]}.*Nothing was deleted.*training\.output_dir"):
        claim(folder, resume=False, overwrite=True)
    assert _everything(folder) == before


def test_a_link_is_never_followed(tmp_path):
    folder = _run(tmp_path / "run", [10, 20])
    (folder / "checkpoint-20").rename(tmp_path / "elsewhere")  # moved to a larger disk, say
    (folder / "checkpoint-20").symlink_to(tmp_path / "elsewhere")
    before = _everything(tmp_path)
    with pytest.raises(RunError, match="checkpoint-20"):
        claim(folder, resume=False, overwrite=True)
    assert _everything(tmp_path) == before


def test_a_folder_without_a_manifest_is_never_emptied(tmp_path):
    for name, words in {"thesis.tex": "no run of this package", "recipe.yaml": "0.1"}.items():
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_text("x")
        for overwrite in (False, True):
            with pytest.raises(RunError, match=words):
                claim(folder, resume=False, overwrite=overwrite)
        assert _everything(folder) == {name: b"x"}


def test_what_a_killed_run_was_writing_is_its_own(tmp_path):
    folder = _run(tmp_path / "run", [10])
    manifest = Manifest.load(folder)
    manifest.begin("checkpoint-20", "runs", "model*.safetensors", ".push-*")
    for name in (
        "checkpoint-20/a/b.bin",
        "runs/events",
        "model-1.safetensors",
        ".push-x1/model/c",
        ".manifest.json.tmp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "checkpoint-20" / "empty").mkdir()
    assert inspect(folder, resume=False, overwrite=True) is None
    (folder / "model_notes.txt").write_text("x")
    (folder / "checkpoint-200").mkdir()
    (folder / "checkpoint-200" / "x").write_text("x")
    assert Manifest.load(folder).strangers() == ["model_notes.txt", "checkpoint-200/"]
    (folder / "model_notes.txt").unlink()
    (folder / "checkpoint-200" / "x").unlink()
    claim(folder, resume=False, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {*OWN, "checkpoint-200"}  # an empty folder of a user's


def test_what_is_finished_is_listed_file_by_file(tmp_path):
    manifest = Manifest(tmp_path)
    with manifest.filling("checkpoint-5"):
        assert Manifest.load(tmp_path).in_progress == ["checkpoint-5"]
        (tmp_path / "checkpoint-5").mkdir()
        (tmp_path / "checkpoint-5" / "w").write_bytes(b"abc")
        (tmp_path / "notes").write_text("x")
    read = Manifest.load(tmp_path)
    # of the three bytes abc, as FIPS 180-2 gives it
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert read.files == {"checkpoint-5/w": {"size": 3, "sha256": digest}}
    assert (read.in_progress, read.run_id) == ([], manifest.run_id)
    with pytest.raises(OSError), manifest.filling("checkpoint-6"):
        raise OSError
    assert Manifest.load(tmp_path).in_progress == ["checkpoint-6"]
    (tmp_path / "checkpoint-5" / "w").unlink()
    manifest.finish("checkpoint-6")
    assert Manifest.load(tmp_path).files == {}


def test_a_broken_manifest_permits_nothing(tmp_path):
    for text in ("{", "[]", '{"files": {}}', '{"run_id": "a", "begun": true, "files": [], "in_progress": []}'):
        (tmp_path / MANIFEST_FILE).write_text(text)
        with pytest.raises(RunError, match=MANIFEST_FILE):
            claim(tmp_path, resume=False, overwrite=True)


def test_a_manifest_that_names_files_elsewhere_reaches_nothing(tmp_path):
    (tmp_path / "precious").write_text("x")
    folder = _run(tmp_path / "run", [])
    files = dict.fromkeys(("../precious", "recipe.yaml"), {"size": 1, "sha256": ""})
    Manifest(folder, files=files, in_progress=["..", "../*"], begun=True).save()
    claim(folder, resume=False, overwrite=True)
    assert (tmp_path / "precious").exists()


def test_a_run_that_came_to_no_step_gives_its_folder_up(tmp_path):
    folder = tmp_path / "run"
    manifest = claim(folder, resume=False, overwrite=False)
    manifest.begin("recipe.yaml")
    (folder / "recipe.yaml").write_text("x")
    manifest.release()
    claim(folder, resume=False, overwrite=False)
    assert {path.name for path in folder.iterdir()} == OWN
    (folder / "notes.txt").write_text("x")
    with pytest.raises(RunError, match=r"notes\.txt"):
        claim(folder, resume=False, overwrite=False)


@pytest.mark.parametrize("place", ["data", "data/images", "data/table.csv", "link", "data/../data/x"])
def test_a_folder_above_what_is_read_is_refused(tmp_path, place):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "images")
    with pytest.raises(RunError, match=r"training\.output_dir.*data\.root"):
        check_apart(tmp_path / "data", {"data.root": tmp_path / place})
    check_apart(tmp_path / "data" / "out", {"data.root": tmp_path / place})
    check_apart(tmp_path / "dat", {"data.root": tmp_path / place})


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        claim(tmp_path / "out", resume=False, overwrite=False)
