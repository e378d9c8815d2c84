"""The command line as a user meets it: exit codes, one clear message, results apart from logs."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import hf_dinoseg
from hf_dinoseg import DinoSegConfig
from hf_dinoseg.checkpoint import load_checkpoint
from hf_dinoseg.cli import app
from hf_dinoseg.cli._errors import message_for
from hf_dinoseg.errors import DataError, InputError, LabelError, ModelError
from hf_dinoseg.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPE = "labels: {classes: {0: a, 1: b}}\ndata: {source: folder, root: r}\ntraining: {output_dir: out/x}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A build module that notes how it is called."""
    module = ModuleType("hf_dinoseg.run")
    module.calls = []  # type: ignore[attr-defined]
    metrics = {"mean_iou": 0.5, "mean_dice": float("nan"), "per_category_iou": {"0 a": 1.0, "1 b": float("nan")}}

    def train(recipe: Recipe, *, resume: bool, overwrite: bool, force: bool) -> dict[str, Any]:
        module.calls.append((recipe, resume, overwrite))  # type: ignore[attr-defined]
        print("noise of a library")
        return metrics

    def evaluate(checkpoint: str, recipe: Recipe, output: str | None) -> dict[str, Any]:
        module.calls.append((checkpoint, recipe, output))  # type: ignore[attr-defined]
        print("noise of a library")
        return metrics

    module.train, module.evaluate = train, evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hf_dinoseg.run", module)
    monkeypatch.setattr(hf_dinoseg, "run", module, raising=False)
    return module


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def raising(error: BaseException) -> Callable[..., Any]:
    def work(*args: Any, **kwargs: Any) -> Any:
        raise error

    return work


# ---------------------------------------------------------------------- help and usage


def test_help_lists_the_verbs_and_each_verb_explains_itself() -> None:
    assert run("--help").exit_code == 0
    for verb in ("train", "evaluate", "predict"):
        assert verb in run("--help").stdout
        told = run(verb, "--help")
        assert told.exit_code == 0 and "--debug" in told.stdout
    assert run("--version").stdout.strip()[0].isdigit()


def test_help_needs_no_heavy_library() -> None:
    code = """
import sys
import hf_dinoseg.cli
assert not {"torch", "transformers", "pydantic", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train"], ["predict", "x"], ["train", "r.yaml", "--resum"], ["train", "r", "--training.x=1"]],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr and "Traceback" not in result.stderr


# ---------------------------------------------------------------------- train


def test_train_hands_the_checked_recipe_on(recipe: Path, build: Any) -> None:
    result = run("train", recipe, "training.max_steps=7", "labels.ignore=[255]", "--resume")
    assert result.exit_code == 0, result.output
    [(given, resume, overwrite)] = build.calls
    assert given.training["max_steps"] == 7 and given.labels.ignore == (255,)
    assert (resume, overwrite) == (True, False)
    assert "50.00" in result.stdout and "checkpoint: out/x" in result.stdout
    assert json.loads(run("train", recipe, "--json").stdout)["mean_iou"] == 0.5


def test_train_resume_and_overwrite_exclude_each_other(recipe: Path, build: Any) -> None:
    result = run("train", recipe, "--resume", "--overwrite")
    assert result.exit_code == 2 and "give one of them" in result.stderr and build.calls == []


def test_print_shows_the_resolved_recipe_and_does_nothing(recipe: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {recipe}\ntraining: {{max_steps: 7}}")
    before = sorted(tmp_path.rglob("*"))
    result = run("train", child, "training.logging_steps=3", "--print")
    assert result.exit_code == 0 and sorted(tmp_path.rglob("*")) == before
    expected = load_recipe(child, ["training.logging_steps=3"])
    assert result.stdout == expected.to_yaml() and "base" not in yaml.safe_load(result.stdout)
    assert json.loads(run("train", child, "--print", "--json").stdout)["training"]["max_steps"] == 7
    assert run("train", child, "--print", "--dry-run").exit_code == 2
    child.write_text(f"base: {recipe}\nmodel: {{head: nothing}}")
    assert run("train", child, "--print").exit_code == 2


def test_dry_run_prints_the_resolved_recipe_and_trains_nothing(recipe: Path, tmp_path: Path) -> None:
    result = run("train", recipe, "training.max_steps=7", "--dry-run")
    assert result.exit_code == 0 and not Path("out/x").exists()
    assert "# Dry run: 2 steps on generated images" in result.stdout and "dinov3-vits16" in result.stdout
    told = json.loads(run("train", recipe, "--dry-run", "--json").stdout)
    assert told["dry_run"]["steps"] == 2 and told["recipe"]["data"]["source"] == "folder"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(result.stdout)
    assert "max_steps: 7" in result.stdout and "learning_rate: 7.1e-05" in result.stdout  # 8 images a step
    assert run("train", resolved, "--dry-run").stdout == result.stdout


def test_a_wrong_recipe_is_exit_2_and_lists_every_fault(recipe: Path, build: Any) -> None:
    result = run("train", recipe, "training.max_step=7", "model.head=x")
    assert result.exit_code == 2 and build.calls == [] and result.stdout == ""
    assert "2 faults" in result.stderr
    assert "training.max_steps" in result.stderr and "model.head" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_recipe_is_exit_2(tmp_path: Path, build: Any) -> None:
    result = run("train", tmp_path / "none.yaml")
    assert result.exit_code == 2 and "no such file" in result.stderr


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("mask.png: the file is empty."), "mask.png: the file is empty."),
        (LabelError("mask.png: ids that the label space does not know: 7."), "does not know: 7"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "data/x"), "data/x: No such file or directory."),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "out/x: No space left on device."),
        (OSError("You are trying to access a gated repo."), "gated repo"),
        (type("OutOfMemoryError", (RuntimeError,), {})("tried to allocate 2 GiB"), "per_device_train_batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "per_device_train_batch_size"),
        (InputError("the stride is too wide"), "the stride is too wide"),
    ],
)
def test_a_foreseen_error_is_one_message_and_exit_1(recipe: Path, build: Any, error: Exception, words: str) -> None:
    build.train = raising(error)
    result = run("train", recipe)
    assert result.exit_code == 1
    assert result.stderr.startswith("dinoseg: ") and words in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_debug_shows_the_traceback_beside_the_message(recipe: Path, build: Any) -> None:
    build.train = raising(DataError("mask.png: the file is empty."))
    result = run("train", recipe, "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr and result.stderr.rstrip().endswith("dinoseg: mask.png: the file is empty.")
    wrong = run("train", recipe, "model.head=x", "--debug")
    assert wrong.exit_code == 2 and "Traceback" in wrong.stderr


@pytest.mark.parametrize(
    "error", [TypeError("bad"), ValueError("of a library"), RuntimeError("bad"), BrokenPipeError()]
)
def test_an_unforeseen_error_keeps_its_traceback(recipe: Path, build: Any, error: Exception) -> None:
    """It is a fault of the program, and after hours of training its traceback must not be lost."""
    assert message_for(error) is None
    build.train = raising(error)
    result = run("train", recipe)
    assert result.exit_code == 1
    if not isinstance(error, BrokenPipeError):
        assert result.exception is error


def test_an_interrupt_is_exit_130(recipe: Path, build: Any) -> None:
    build.train = raising(KeyboardInterrupt())
    result = run("train", recipe)
    assert result.exit_code == 130 and "interrupted" in result.stderr and "Traceback" not in result.stderr


def test_processes_of_one_launch_say_the_same_thing_once_but_nothing_is_lost(
    recipe: Path, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = []
    for rank, message in enumerate(["the folder is missing", "the folder is missing", "b.png is broken"]):
        folder = tmp_path / "attempt_0" / str(rank)
        folder.mkdir(parents=True)
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
        build.train = raising(DataError(message))
        result = run("train", recipe)
        assert result.exit_code == 1
        told.append(result.stderr)
    assert "the folder is missing" in told[0] and told[1] == "" and "process 2 of 3" in told[2]
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    build.train = raising(DataError("the folder is missing"))
    assert "process 2 of 3" in run("train", recipe).stderr  # better twice than never


def test_only_the_first_process_prints_results(recipe: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert "mean_iou" not in run("train", recipe).stdout


def test_logs_go_to_standard_error(recipe: Path, build: Any) -> None:
    def train(*args: Any, **kwargs: Any) -> dict[str, Any]:
        log = logging.getLogger("hf_dinoseg.training.trainer")
        log.info("step 1")
        log.warning("odd")
        log.debug("detail")
        return {}

    build.train = train
    result = run("train", recipe)
    assert "step 1\n" in result.stderr and "warning: odd\n" in result.stderr and "detail" not in result.stderr
    assert "step 1" not in result.stdout and result.stderr.count("step 1") == 1
    assert "detail" in run("train", recipe, "--debug").stderr


# ---------------------------------------------------------------------- evaluate


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_evaluate_takes_the_checkpoints_own_recipe_and_overrides(checkpoint: Path, build: Any) -> None:
    (checkpoint / "recipe.yaml").write_text(RECIPE)
    result = run("evaluate", checkpoint, "data.root=/elsewhere", "evaluation.mode=whole", "--output", "o")
    assert result.exit_code == 0, result.output
    [(given, recipe, output)] = build.calls
    assert (given, output) == (str(checkpoint), "o")
    assert recipe.data.root == "/elsewhere" and recipe.evaluation.mode == "whole"
    assert run("evaluate", checkpoint).exit_code == 0
    assert build.calls[1][1].data.root == "r" and build.calls[1][2] is None
    assert run("evaluate", checkpoint, "--palette", "colorblind").exit_code == 0
    assert build.calls[2][1].evaluation.palette == "colorblind"


def test_evaluate_with_another_recipe(checkpoint: Path, recipe: Path, build: Any) -> None:
    assert run("evaluate", checkpoint, recipe, "data.root=q").exit_code == 0
    assert build.calls[0][1].data.root == "q"


def test_evaluate_json_is_all_that_is_on_standard_output(checkpoint: Path, recipe: Path, build: Any) -> None:
    result = run("evaluate", checkpoint, recipe, "--json")
    assert json.loads(result.stdout) == {
        "mean_iou": 0.5,
        "mean_dice": None,
        "per_category_iou": {"0 a": 1.0, "1 b": None},
    }
    assert "noise of a library" in result.stderr


def test_evaluate_prints_a_table(checkpoint: Path, recipe: Path, build: Any) -> None:
    lines = run("evaluate", checkpoint, recipe).stdout.splitlines()
    assert lines[0].split() == ["mean_iou", "50.00"] and lines[1].split() == ["mean_dice", "-"]
    assert [line.split() for line in lines[3:]] == [["class", "IoU"], ["0", "a", "100.00"], ["1", "b", "-"]]


def test_evaluate_says_what_a_checkpoint_lacks(tmp_path: Path, checkpoint: Path, build: Any) -> None:
    assert "no recipe.yaml" in run("evaluate", checkpoint).stderr
    assert "no config.json" in run("evaluate", tmp_path).stderr
    assert "checkpoint." in run("evaluate", tmp_path).stderr  # and which folder in it has one
    assert "there is no folder" in run("evaluate", tmp_path / "none").stderr
    assert "is a file" in run("evaluate", checkpoint / "config.json").stderr
    assert run("evaluate", tmp_path / "none").exit_code == 2 and build.calls == []


# ---------------------------------------------------------------------- train.py


def test_train_py_is_the_train_verb(recipe: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), str(recipe), "training.max_steps=7", "model.head=x"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and done.stdout == ""
    assert "1 fault" in done.stderr and "model.head" in done.stderr and "Traceback" not in done.stderr


def test_weights_that_were_cut_short_are_told(tmp_path: Path) -> None:
    DinoSegConfig(num_labels=2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 7)
    with pytest.raises(ModelError, match="its weights are broken .* anew"):
        load_checkpoint(tmp_path)


def test_a_misspelt_path_is_told_at_once_and_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "quickstart").mkdir(parents=True)
    (tmp_path / "out" / "quickstart" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", lambda *a, **k: pytest.fail("asked the Hub"))
    with pytest.raises(ModelError, match="there is no folder out/quickstrat.*quickstart"):
        load_checkpoint("out/quickstrat")
