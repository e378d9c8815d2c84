"""A run goes on with other settings, or data, or processes: they take effect and are written down, or are refused by
name."""

import dataclasses
import json
import logging
import shutil

import pytest
import yaml
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_dinoseg import load_recipe, run
from hf_dinoseg.errors import RunError
from hf_dinoseg.recipe import resume
from hf_dinoseg.recipe.schema_training import OWN
from hf_dinoseg.run import train
from hf_dinoseg.training import DinoSegTrainer
from hf_dinoseg.training.checkpoints import CheckpointManifest
from hf_dinoseg.training.fingerprint import differences, fingerprint
from hf_dinoseg.training.manifest import Manifest


def _copy(tiny_run, tmp_path, write_tiny_recipe):
    """(recipe file, folder): a copy of a run of four steps, checkpoints of steps 2 and 4."""
    shutil.copytree(tiny_run, tmp_path / "run")
    return write_tiny_recipe(tmp_path), tmp_path / "run"


def _history(folder, step):
    return json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]


# ---------------------------------------------------------------------- settings


def test_settings_that_may_change_do_from_the_step_on(tiny_run, tmp_path, write_tiny_recipe, monkeypatch):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    overrides = [
        *(
            "training.max_steps=8",
            "training.learning_rate=0.004",
            "training.warmup_steps=2",
            "training.weight_decay=0.2",
        ),
        *("training.logging_steps=2", "training.eval_steps=4", "training.save_steps=4", "loss.no_object_weight=0.9"),
        *("training.adam_beta2=0.99", "evaluation.panels=0", "training.save_total_limit=null"),
    ]
    seen = []
    step = DinoSegTrainer.training_step

    def spy(trainer, *args, **kwargs):
        [group] = [g for g in trainer.optimizer.param_groups if g["name"] == "head"]
        seen.append((group["lr"], group["weight_decay"], group["betas"][1], trainer.criterion.no_object_weight))
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(DinoSegTrainer, "training_step", spy)
    train(load_recipe(path, overrides), resume=True)
    # the polynomial schedule of power 0.9, by hand: steps 4 to 7 of 8, after 2 of warm-up
    rates = [0.004 * (1 - (done - 2) / 6) ** 0.9 for done in (4, 5, 6, 7)]
    assert seen == [(pytest.approx(rate), 0.2, 0.99, 0.9) for rate in rates]
    entries = _history(folder, 8)
    assert [e["step"] for e in entries if "loss" in e and e["step"] > 4] == [6, 8]
    assert [e["step"] for e in entries if "eval_mean_iou" in e and e["step"] > 4] == [8]
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["training"]["learning_rate"] == 0.004
    first, then = Manifest.load(folder).settings
    assert first["from_step"] == 0 and first["settings"]["training"]["max_steps"] == 4
    assert then["from_step"] == 4 and then["changed"]["loss.no_object_weight"] == [0.1, 0.9]
    assert then["changed"]["training.learning_rate"][1] == 0.004
    assert CheckpointManifest.load(folder / "checkpoint-8").settings["training"]["weight_decay"] == 0.2


@pytest.mark.parametrize(
    "override, words",
    [
        ("training.seed=99", r"training\.seed: the run has 42, the recipe now says 99"),
        ("training.optim=sgd", r"training\.optim: .*state of the other"),
        ("model.num_queries=9", r"model\.num_queries: the run has 8"),
        ("data.crop_size=32", r"data\.crop_size"),
        ("labels.ignore=[254]", r"labels\.ignore"),
        ("evaluation.window=48", r"evaluation\.window"),
        ("training.metric_for_best_model=mean_dice", r"metric_for_best_model"),
        ("training.max_steps=2", r"max_steps: 2, and step 4 is done"),
        ("training.lr_scheduler_type=greedy", r"lr_scheduler_type: .*evaluations so far"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_written(
    override, words, tiny_run, tmp_path, write_tiny_recipe, monkeypatch
):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    monkeypatch.setattr(run, "build_source", lambda *_: pytest.fail("data was loaded"))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=words):
        train(load_recipe(path, [override]), resume=True)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_what_a_recipe_file_says_by_now_does_not_hide_what_the_checkpoint_learned_with(
    tiny_run, tmp_path, write_tiny_recipe
):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    recipe = load_recipe(path, ["training.seed=99"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(RunError, match=r"training\.seed"):
        train(recipe, resume=True)


def test_what_may_change_is_there(write_tiny_recipe, tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path)).to_dict()
    known = {field.name for field in dataclasses.fields(TrainingArguments)} | set(OWN)
    for section, names in resume.MAY_CHANGE.items():
        if section not in ("data", "training"):  # fields of data are those of its source
            assert set(names) <= set(recipe[section]), section
    assert set(resume.MAY_CHANGE["training"]) <= known
    assert resume.changes(recipe, recipe) == []
    # a field that is not written is its default
    written = {**recipe, "training": {**recipe["training"], "adam_beta1": 0.9, "output_dir": "elsewhere"}}
    assert resume.changes(recipe, written) == []


def test_rates_do_not_change_under_a_schedule_that_evaluations_move():
    change = resume.Change("training.learning_rate", 1e-4, 2e-4)
    assert resume.refusals([change], "cosine") == []
    [refused] = resume.refusals([change], "reduce_lr_on_plateau")
    assert "training.learning_rate" in refused


# ---------------------------------------------------------------------- folders that were moved, data, processes


def test_a_copied_run_goes_on_with_its_own_best_checkpoint(tiny_run, tmp_path, write_tiny_recipe, monkeypatch, caplog):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    best = CheckpointManifest.load(folder / "checkpoint-4").best
    assert best in ("checkpoint-2", "checkpoint-4") and Manifest.load(folder).best == best
    loaded = []
    monkeypatch.setattr(
        DinoSegTrainer, "_load_best_model", lambda self: loaded.append(self.state.best_model_checkpoint)
    )
    record = CheckpointManifest.load(folder / "checkpoint-4")
    record.processes = 2
    record.save(folder / "checkpoint-4")
    metrics = train(load_recipe(path, ["evaluation.panels=0"]), resume=True)
    assert loaded == [str(folder / best)] and metrics["step"] == int(best.split("-")[1])
    assert "The run had 2 processes until step 4 and goes on with 1." in caplog.text


def test_a_best_checkpoint_that_is_damaged_is_forgotten(tiny_run, tmp_path, write_tiny_recipe, caplog):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    record = CheckpointManifest.load(folder / "checkpoint-4")
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    record.replace(folder / "checkpoint-4", "trainer_state.json", json.dumps({**state, "best_global_step": 2}))
    (folder / "checkpoint-2" / "model.safetensors").unlink()
    metrics = train(load_recipe(path, ["evaluation.panels=0"]), resume=True)
    assert metrics["step"] == 4 and "checkpoint-2, the best checkpoint so far, is damaged" in caplog.text
    weights = load_file(folder / "model.safetensors")
    assert all((weights[name] == w).all() for name, w in load_file(folder / "checkpoint-4/model.safetensors").items())


SAMPLES = {"train": {"a": "4x4 1", "b": "4x4 2", "c": "5x4 3"}, "validation": {"v": "4x4 9"}}
LABELS = {"classes": {0: "x"}}


@pytest.mark.parametrize(
    "train_now, words",
    [
        ({"a": "4x4 1", "b": "4x4 2", "c": "5x4 3"}, None),
        ({"a": "4x4 1", "c": "5x4 3"}, "train: 1 gone (b)"),
        ({"a": "4x4 2", "b": "4x4 1", "c": "5x4 3"}, "train: 2 with another mask (a, b)"),
        ({"a": "4x4 1", "b": "4x4 2", "c": "4x4 3", "d": "4x4 1"}, "train: 1 new (d), 1 with another mask (c)"),
        ({"b": "4x4 2", "a": "4x4 1", "c": "5x4 3"}, "train: in another order"),
    ],
)
def test_differences_of_data_are_named(train_now, words):
    now = {**SAMPLES, "train": train_now}
    old, new = fingerprint(SAMPLES, LABELS), fingerprint(now, LABELS)
    assert differences(old, new, SAMPLES, now) == ([] if words is None else [words])
    if words is not None:  # where the names of the old ones are not known
        [said] = differences(old, new, None, now)
        assert f"3 images then, {len(train_now)} now" in said
    assert "label space" in differences(old, fingerprint(SAMPLES, {}), SAMPLES, SAMPLES)[0]


def test_other_data_is_refused_and_taken_by_force(tiny_run, tmp_path, write_tiny_recipe, monkeypatch, caplog):
    path, folder = _copy(tiny_run, tmp_path, write_tiny_recipe)
    digests = run.sample_digests

    def otherwise(split):
        rows = digests(split)
        return rows if len(rows) == 3 else dict(list(rows.items())[1:])

    monkeypatch.setattr(run, "sample_digests", otherwise)
    recipe = load_recipe(path, ["evaluation.panels=0"])
    with pytest.raises(RunError, match=r"train: 1 gone \(.*--force"):
        train(recipe, resume=True)
    with caplog.at_level(logging.WARNING):
        train(recipe, resume=True, force=True)
    assert "Going on with this data" in caplog.text
    assert Manifest.load(folder).data["train"]["images"] == 5
