"""Pushes during training: every `hub_strategy`, and what happens to a run when the Hub does not answer."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import READS, WRITES, Fault, HubServer
from transformers import TrainerControl, TrainerState
from typer.testing import CliRunner, Result

from hf_dinoseg import load_recipe
from hf_dinoseg.builders import build_pushes
from hf_dinoseg.cli import app
from hf_dinoseg.hub.push_callback import PushCallback
from hf_dinoseg.training.manifest import Manifest

RESUMING = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
PUSH = ["hub.repo_id=me/retina", "training.push_to_hub=true"]


@pytest.fixture
def train(here: HubServer, tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]) -> Callable[..., Result]:
    recipe = write_tiny_recipe(tmp_path)
    return lambda *more: CliRunner().invoke(app, ["train", str(recipe), *PUSH, *more])


def test_a_run_is_pushed_at_every_save_and_at_its_end(
    train: Callable[..., Result], here: HubServer, tmp_path: Path
) -> None:
    result = train(
        "training.hub_strategy=all_checkpoints",
        "training.hub_always_push=true",
        "training.load_best_model_at_end=false",
        "hub.private=true",
    )
    assert result.exit_code == 0, result.output
    repo, run = here.repos["model", "me/retina"], tmp_path / "run"
    steps = [f"Training in progress, step {step}" for step in (2, 4) for _ in range(2)]
    assert repo.private and repo.messages[1:] == [*steps, "End of training, weights of step 4"]

    # a step is a checkpoint of its own: it can be loaded before training has ended
    step = list(repo.commits.values())[1]
    panels = {path for path in step if path.startswith("panels/")}
    assert panels == {f"panels/step-000002/{p.name}" for p in (run / "panels" / "step-000002").iterdir()}
    assert step["model.safetensors"] != repo.files()["model.safetensors"]
    assert set(step) > {"README.md", "recipe.yaml", "metrics.json", "modeling_dinoseg.py", "scores.py"}
    card = step["README.md"].decode()
    assert "checkpoint of step 2" in card and 'checkpoint = "me/retina"' in card and f"]({min(panels)})" in card

    # the end: what lies in the folder, and the state that was asked for, apart from it
    files = repo.files()
    for path in ("model.safetensors", "metrics.json", "recipe.yaml", "config.json", "scores.py"):
        assert files[path] == (run / path).read_bytes()
    assert {p.split("/")[0] for p in files if "/" in p} == {"panels", "checkpoint-2", "checkpoint-4"}
    assert {f"checkpoint-2/{name}" for name in RESUMING} < set(files)
    assert not {path for path in files if "/" not in path} & {*RESUMING, "training_args.bin"}
    assert {p for p in files if p.startswith("panels")} == {
        f"panels/final/{p.name}" for p in (run / "panels" / "final").iterdir()
    }

    # the token is nowhere, here or there, and nothing is left lying about
    assert WRITES not in result.output
    assert not any(WRITES.encode() in content for commit in repo.commits.values() for content in commit.values())
    assert not any(WRITES.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert not list(run.glob(".push-*")) and not list(run.rglob("training_args.bin"))


def save(callback: PushCallback, run: Path, step: int) -> None:
    """What the Trainer does when it has saved a checkpoint."""
    args: Any = SimpleNamespace(output_dir=str(run))
    callback.on_save(args, TrainerState(global_step=step), TrainerControl())


@pytest.mark.parametrize(
    ("strategy", "commits", "folder"),
    [("end", 0, None), ("every_save", 1, None), ("checkpoint", 2, "last-checkpoint")],
)
def test_the_other_strategies(
    strategy: str, commits: int, folder: str | None, here: HubServer, tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    callback = PushCallback("me/retina", strategy=strategy, always=True)
    callback.describe = lambda stage: (stage / "README.md").write_text("---\nlicense: mit\n---\n") and None
    for step in (2, 4):
        save(callback, run, step)
        shutil.rmtree(run / f"checkpoint-{step}")  # as the Trainer may, long before the push has ended
    pushed = callback.finish(run, "the end")
    repo = here.repos["model", "me/retina"]
    assert len(repo.messages) == 1 + 2 * commits + 1
    there = {path.split("/")[0] for path in pushed.files if "/" in path}
    assert there == {"panels"}
    files = repo.files()
    assert {path.split("/")[0] for path in files if "/" in path} == {"panels", *([folder] if folder else [])}
    assert not {path for path in files if "/" not in path} & RESUMING
    if folder:
        assert {f"{folder}/{name}" for name in (*RESUMING, "model.safetensors")} <= set(files)


def test_a_push_that_fails_or_has_not_ended_does_not_stop_training(
    here: HubServer, tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hf_dinoseg")
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    callback = PushCallback("me/retina", strategy="every_save")
    callback.describe = lambda stage: (stage / "README.md").write_text("---\nlicense: mit\n---\n") and None
    here.faults.append(Fault("POST", "*/commit/*", 503, "maintenance"))
    with here.lock:  # the Hub does not answer
        save(callback, run, 2)
        save(callback, run, 4)
    callback.finish(run, "the end")
    assert "step 4 is not pushed: the push before it has not ended." in caplog.text
    assert "step 2 was not pushed; training goes on." in caplog.text and "maintenance" in caplog.text
    assert here.repos["model", "me/retina"].messages[1:] == ["the end"]
    assert not list(run.glob(".push-*"))


def test_a_run_that_cannot_be_pushed_at_its_end_is_whole(
    train: Callable[..., Result], here: HubServer, tmp_path: Path
) -> None:
    here.faults.append(Fault("POST", "*/commit/*", 403, "storage is full"))
    result = train("training.hub_strategy=end", "training.hub_revision=v1")
    run = tmp_path / "run"
    assert result.exit_code == 1 and "storage is full" in result.output
    said = f"dinoseg push {run} me/retina --revision v1"
    assert said in result.output and "is whole" in result.output
    again = CliRunner().invoke(app, said.split()[1:])
    assert again.exit_code == 0, again.output
    repo = here.repos["model", "me/retina"]
    assert "README.md" in repo.files("v1") and len(repo.messages) == 2


def test_a_wrong_token_is_known_before_training_and_before_anything_is_deleted(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "run"
    before.mkdir()
    (before / "recipe.yaml").write_text("labels: {}\n")
    (before / "model.safetensors").write_bytes(b"an earlier run")
    Manifest(before, begun=True).refresh(["recipe.yaml", "model.safetensors"])
    monkeypatch.setenv("HF_TOKEN", READS)
    result = train("--overwrite")
    assert result.exit_code == 1 and "may only read" in result.output
    assert (before / "model.safetensors").read_bytes() == b"an earlier run"


def test_a_token_has_no_place_in_a_recipe(train: Callable[..., Result], tmp_path: Path) -> None:
    result = train(f"training.hub_token={WRITES}")
    assert result.exit_code == 2 and "training.hub_token" in result.output and "hf auth login" in result.output
    assert WRITES not in result.output and not (tmp_path / "run").exists()


def test_nothing_is_pushed_unasked(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path], here: HubServer) -> None:
    assert build_pushes(load_recipe(write_tiny_recipe(tmp_path), PUSH[:1])) is None
    assert here.requests == []
