"""Real runs: what each leaves can be overwritten, and what is somebody else's is never touched."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_dinoseg import load_recipe
from hf_dinoseg.errors import RunError
from hf_dinoseg.hub.push import shared_files
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.testing.dry_run import dry_run
from hf_dinoseg.training import DinoSegTrainer
from hf_dinoseg.training.checkpoints import CheckpointManifest
from hf_dinoseg.training.manifest import LOCK_FILE, MANIFEST_FILE, Manifest, record_file
from hf_dinoseg.training.output_folder import claim, inspect

ROOT = Path(__file__).parents[2]


def _files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _bytes(folder):
    return {name: (folder / name).read_bytes() for name in _files(folder)}


def _assert_all_is_listed(folder):
    manifest = Manifest.load(folder)
    assert set(manifest.files) | {MANIFEST_FILE, LOCK_FILE} == _files(folder)
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name
    assert manifest.holder is None and manifest.in_progress == [] and manifest.begun and manifest.strangers() == []


# ---------------------------------------------------------------------- a user's files


@pytest.fixture
def project(tmp_path, write_tiny_recipe, monkeypatch):
    """A folder as people have it: recipe, notes, images, masks and a repository; the command runs in it."""
    folder = tmp_path / "proj"
    rng = np.random.default_rng(0)
    for split, names in {"train": ["a", "b"], "val": ["c"]}.items():
        for kind, size in (("images", (80, 70, 3)), ("masks", (80, 70))):
            (folder / kind / split).mkdir(parents=True)
            for name in names:
                drawn = rng.integers(0, 4 if kind == "masks" else 256, size, dtype=np.uint8)
                Image.fromarray(drawn).save(folder / kind / split / f"{name}.png")
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path).read_text())
    recipe["data"] = {"source": "folder", "root": ".", "crop_size": 64}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "notes.txt").write_text("a year of work")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    lines = [f"images/{s}/{n}.png,masks/{s}/{n}.png,{s}" for s, n in (("train", "a"), ("train", "b"), ("val", "c"))]
    (folder / "table.csv").write_text("\n".join(["image,mask,split", *lines]) + "\n")
    monkeypatch.chdir(folder)
    return folder


TABLE = "data={source: table, file: table.csv, split_column: split, crop_size: 64}"
MIXTURE = "data={source: mixture, sources: [{source: synthetic-retina}, {source: folder, root: .}], crop_size: 64}"
CASES = {
    "the project itself": ["training.output_dir=."],
    "by its whole path": ["training.output_dir={folder}"],
    "above the project": ["training.output_dir=.."],
    "the images": ["training.output_dir=images"],
    "the masks of a split": ["training.output_dir=masks/val"],
    "a folder of a template": [
        "training.output_dir=masks",
        "data={{source: folder, root: ., image: '{{split}}/../images/{{split}}/{{stem}}.png', "
        "mask: 'masks/{{split}}/{{stem}}.png', crop_size: 64}}",
    ],
    "a table": ["training.output_dir=.", TABLE.replace("{", "{{").replace("}", "}}")],
    "one of a mixture": ["training.output_dir=.", MIXTURE.replace("{", "{{").replace("}", "}}")],
}


@pytest.mark.parametrize("case", CASES)
def test_an_output_folder_with_data_in_it_is_refused_from_the_recipe_alone(project, case, monkeypatch):
    recipe = load_recipe("recipe.yaml", [text.format(folder=project) for text in CASES[case]])
    before = _bytes(project)
    monkeypatch.setattr("hf_dinoseg.run.build_source", lambda recipe: pytest.fail("data was loaded"))
    ways = [{}, {"overwrite": True}, {"resume": True}]
    for start in [*(lambda way=way: train(recipe, **way) for way in ways), lambda: dry_run(recipe)]:
        with pytest.raises(RunError, match=r"training\.output_dir.*data\."):
            start()
    assert _bytes(project) == before


def test_data_inside_an_older_run_s_folder_survives(project):
    """The second situation: data.root lies in the folder of a run, and the advice of the message is followed."""
    recipe = load_recipe("recipe.yaml", ["training.output_dir=out", "training.max_steps=2", "evaluation.panels=0"])
    train(recipe)
    for name in ("images", "masks"):
        shutil.move(name, "out")
    inside = load_recipe("out/recipe.yaml", ["data.root=out"])
    before = _bytes(project)
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"data\.root"):
            train(inside, overwrite=overwrite)
    with pytest.raises(RunError, match=r"images/.*Nothing was deleted"):  # by a recipe that reads other data
        claim(Path("out"), resume=False, overwrite=True)
    assert _bytes(project) == before


def test_images_that_a_table_lists_inside_the_output_folder_are_found(project):
    (project / "out").mkdir()
    shutil.move("masks", "out")
    table = (project / "table.csv").read_text()
    (project / "table.csv").write_text(
        table.replace("masks/val", f"{project}/out/masks/val").replace(",masks", ",out/masks")
    )
    before = _bytes(project)
    recipe = load_recipe("recipe.yaml", ["training.output_dir=out/masks", TABLE])
    for way in ({}, {"overwrite": True}, {"resume": True}):
        listed = {"val/c.png": record_file(project / "out" / "masks" / "val" / "c.png")}
        Manifest(project / "out" / "masks", files=listed, begun="resume" in way).save()
        if "resume" in way:
            checkpoint = project / "out" / "masks" / "checkpoint-2"
            checkpoint.mkdir()
            (checkpoint / "trainer_state.json").write_text("{}")
            CheckpointManifest("a", 2, 1, settings=recipe.to_dict()).seal(checkpoint)
        with pytest.raises(RunError, match=r"(masks of|strangers|did not make)"):
            train(recipe, **way)
    assert {name: data for name, data in _bytes(project).items() if name in before} == before


# ---------------------------------------------------------------------- a run's own files


def test_all_that_a_run_leaves_is_listed_and_goes(tmp_path, write_tiny_recipe):
    pytest.importorskip("tensorboard")
    (tmp_path / "other").mkdir()
    overrides = ["training.report_to=tensorboard", "data.on_bad_sample=skip", "model.ema_decay=0.9"]
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*overrides, "training.save_total_limit=1"])
    folder = tmp_path / "run"
    train(recipe)
    _assert_all_is_listed(folder)
    assert {"recipe.yaml", "skipped.json", "report.html", "README.md", "curves.png"} <= _files(folder)
    assert (folder / "runs").is_dir() and len(list(folder.glob("checkpoint-*"))) == 1
    first = Manifest.load(folder).run_id
    assert MANIFEST_FILE not in {path.name for path in shared_files(folder)}  # it is of this folder, not of the model
    assert [path.parent for path in folder.glob(f"*/**/{MANIFEST_FILE}")] == list(folder.glob("checkpoint-*"))
    evaluate(str(folder), output=str(tmp_path / "measured"))
    assert not (tmp_path / "measured" / MANIFEST_FILE).exists()

    train(recipe, overwrite=True)
    _assert_all_is_listed(folder)
    assert Manifest.load(folder).run_id != first

    (folder / "notes.txt").write_text("x")
    before = _bytes(folder)
    with pytest.raises(RunError, match=r"notes\.txt"):
        train(recipe, overwrite=True)
    assert _bytes(folder) == before


def _start(recipe, folder, *more):
    command = [sys.executable, "train.py", str(recipe), f"training.output_dir={folder}", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(process, happened):
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)


MOMENTS = {
    "before the first step": lambda f: (f / MANIFEST_FILE).exists() and Manifest.load(f).in_progress,
    "while a checkpoint is saved": lambda f: (f / "checkpoint-4").exists(),
    "while panels are drawn": lambda f: any(f.glob("panels/step-000004/*.png")),
    "at the end": lambda f: (f / "config.json").exists(),
}


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_can_be_overwritten(tmp_path, write_tiny_recipe, moment):
    recipe, folder = write_tiny_recipe(tmp_path), tmp_path / "run"
    process = _start(recipe, folder, "training.save_total_limit=1", "training.report_to=tensorboard")
    _wait(process, lambda: MOMENTS[moment](folder))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    manifest = Manifest.load(folder)
    assert manifest.strangers() == [], moment
    assert manifest.in_progress
    assert inspect(folder, resume=False, overwrite=True) is None
    if moment == "before the first step":
        assert not manifest.begun
        assert inspect(folder, resume=False, overwrite=False) is None
    elif moment == "while panels are drawn":
        train(load_recipe(recipe, ["training.save_total_limit=1"]), resume=True)
        left = Manifest.load(folder)
        assert left.run_id == manifest.run_id and left.strangers() == []
        assert "model.safetensors" in left.files and left.in_progress == []
    claim(folder, resume=False, overwrite=True)
    assert _files(folder) == {MANIFEST_FILE, LOCK_FILE}


# ---------------------------------------------------------------------- what fails before the first step


def test_what_fails_before_the_first_step_leaves_no_run(tmp_path, write_tiny_recipe, monkeypatch):
    recipe = load_recipe(write_tiny_recipe(tmp_path))

    def fails(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(DinoSegTrainer, "compute_loss", fails)
    with pytest.raises(MemoryError):
        train(recipe)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "recipe.yaml").exists()  # it says what training ran with
    train(recipe)  # without --overwrite
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_images"] == 3
    _assert_all_is_listed(tmp_path / "run")
