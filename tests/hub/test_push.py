"""`dinoseg push` against a Hub that refuses, breaks off or holds something else: one clear message, exit code 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_server import OTHER, READS, WRITES, Fault, HubServer, Repo
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner, Result

from hf_dinoseg.cli import app
from hf_dinoseg.hub.push import shared_files


def push(folder: Path, *arguments: str, repo_id: str = "me/retina") -> Result:
    return CliRunner().invoke(app, ["push", str(folder), repo_id, *arguments])


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A run's folder that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*")))


def test_what_is_meant_to_be_shared_arrives_and_nothing_else(here: HubServer, tiny_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")}
    result = push(tiny_run, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    repo = here.repos["model", "me/retina"]
    files = repo.files()
    assert said["repo_id"] == "me/retina" and said["url"] == f"{here.url}/me/retina"
    assert said["commit"] == repo.branches["main"] and set(said["files"]) == set(files) - {".gitattributes"}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_dinoseg.py"} < set(files)
    assert {"README.md", "metrics.json", "recipe.yaml"} < set(files)
    panels = {path for path in files if path.startswith("panels/")}
    assert panels == {f"panels/final/{p.name}" for p in (tiny_run / "panels" / "final").iterdir()}
    assert not [f for f in files if f.startswith("checkpoint-") or f.endswith((".pt", ".pth", ".bin"))]
    for path in set(files) - {"README.md", ".gitattributes"}:
        assert files[path] == (tiny_run / path).read_bytes(), path
    assert not any(WRITES.encode() in content for content in files.values()) and WRITES not in result.output
    assert {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")} == before


def test_weights_that_the_run_did_not_write_are_not_pushed(here: HubServer, copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    result = push(copy)
    assert result.exit_code == 1 and "model.safetensors is not as the run wrote it" in result.output
    assert ("model", "me/retina") not in here.repos
    (copy / "manifest.json").unlink()  # as the message says
    assert push(copy).exit_code == 0


def test_the_card_there_loads_from_there(here: HubServer, copy: Path) -> None:
    text = (copy / "README.md").read_text() + "\nThe owner's own words.\n"
    (copy / "README.md").write_text(text)
    assert push(copy).exit_code == 0
    there = here.repos["model", "me/retina"].files()["README.md"].decode()
    assert there.count('"me/retina"') == 2 and "dinoseg predict me/retina photo.jpg" in there
    assert (
        str(copy.parent) not in there.split("## How to use")[1].split("## Training")[0]
        and "The owner's own words." in there
    )
    assert (copy / "README.md").read_text() == text
    assert ModelCard(there).data.to_dict() == ModelCard(text).data.to_dict()


def test_a_checkpoint_in_a_run_gets_a_card_from_the_run_s_recipe(here: HubServer, tiny_run: Path) -> None:
    assert push(tiny_run / "checkpoint-2").exit_code == 0
    files = here.repos["model", "me/retina"].files()
    assert files["recipe.yaml"] == (tiny_run / "recipe.yaml").read_bytes()
    assert "Not measured yet." in files["README.md"].decode()
    assert "optimizer.pt" not in files and "trainer_state.json" not in files


def test_a_second_push_sends_nothing_and_old_images_go(here: HubServer, copy: Path) -> None:
    assert push(copy).exit_code == 0
    repo, sent = here.repos["model", "me/retina"], len(here.uploads)
    assert push(copy).exit_code == 0 and len(here.uploads) == sent
    shutil.rmtree(copy / "panels" / "final")
    assert push(copy).exit_code == 0
    assert {p for p in repo.files() if p.startswith("panels/")} == {
        f"panels/step-000004/{p.name}" for p in (copy / "panels" / "step-000004").iterdir()
    }


def test_private_and_branch(here: HubServer, copy: Path) -> None:
    assert push(copy, "--private", "--revision", "v2").exit_code == 0
    repo = here.repos["model", "me/retina"]
    assert repo.private and "model.safetensors" in repo.files("v2") and set(repo.files()) == {".gitattributes"}
    assert push(copy, "--revision", "v2").exit_code == 0  # a branch that is there already
    result = push(copy, "--revision", "refs/pr/7")
    assert result.exit_code == 1 and "no revision refs/pr/7" in result.output


def test_a_name_alone_is_the_user_s(here: HubServer, copy: Path) -> None:
    assert push(copy, repo_id="retina").exit_code == 0 and ("model", "me/retina") in here.repos


REFUSALS = {
    "no token": (None, "me/retina", ["no token", "hf auth login", "HF_TOKEN"]),
    "wrong token": ("hf_" + "z" * 34, "me/retina", ["does not accept the token of HF_TOKEN", "Make one"]),
    "token that reads": (READS, "me/retina", ["may only read", "Make one that writes"]),
    "owner is somebody else": (WRITES, "other/retina", ["may not write there", "'other'", "other"]),
    "existing repository of somebody else": (OTHER, "me/public", ["may not write there", "'me'"]),
    "dataset of that name": (WRITES, "me/camvid", ["a dataset, not a model repository", "another name"]),
    "space of that name": (WRITES, "me/app", ["a space, not a model repository"]),
    "model of another kind": (WRITES, "me/bert", ["holds a model of another kind (bert)", "another name"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_push_that_the_hub_would_refuse(
    case: str, here: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, repo_id, words = REFUSALS[case]
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    here.repos |= {("model", "me/public"): Repo(), ("model", "me/bert"): Repo()}
    here.repos |= {("dataset", "me/camvid"): Repo(), ("space", "me/app"): Repo()}
    here.repos["model", "me/bert"].commit("main", {"config.json": b'{"model_type": "bert"}'}, "bert")
    here.one_name_one_kind = "of that name" in case
    result = push(tiny_run, repo_id=repo_id)
    assert result.exit_code == 1, result.output
    assert all(word in result.output for word in words), result.output
    assert result.output.startswith("dinoseg: ") and "Traceback" not in result.output
    assert not here.uploads and not any("commit" in route for _, route, _ in here.requests)
    assert token is None or token not in result.output


FAULTS = {
    "401 while it runs": (
        Fault("POST", "*/preupload/*", 401, "Invalid credentials in Authorization header"),
        ["token"],
    ),
    "403 at the commit": (Fault("POST", "*/commit/*", 403, "quota of private storage"), ["may not write", "quota"]),
    "404": (Fault("POST", "*/preupload/*", 404), ["no such model repository"]),
    "409": (Fault("POST", "*/commit/*", 409, "ref was moved"), ["in conflict", "ref was moved"]),
    "payment": (Fault("POST", "*/lfs/objects/batch", 402, "over the quota"), ["payment"]),
    "server error": (Fault("POST", "*/commit/*", 500, "oops"), ["HTTP 500", "goes on where this one stopped"]),
    "connection lost": (Fault("POST", "*/commit/*", 0), ["cannot be reached, or broke off", "goes on where"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_after_a_fault_the_same_push_goes_on(case: str, here: HubServer, tiny_run: Path) -> None:
    fault, words = FAULTS[case]
    here.faults.append(Fault(fault.method, fault.path, fault.status, fault.message))
    result = push(tiny_run)
    assert result.exit_code == 1, result.output
    assert all(word in result.output for word in words), result.output
    assert "Traceback" not in result.output and WRITES not in result.output
    again = push(tiny_run)
    assert again.exit_code == 0, again.output
    # the weights, two panels and the curves
    assert len(here.uploads) == len(set(here.uploads)) == 4, "an object was sent twice"
    assert "model.safetensors" in here.repos["model", "me/retina"].files()


def test_an_upload_that_breaks_off_once_is_sent_again(
    here: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    here.faults.append(Fault("PUT", "/storage/*", 0))
    assert push(tiny_run).exit_code == 0
    assert ("PUT", 0) in {(method, status) for method, _, status in here.requests}


def test_a_hub_that_nobody_can_reach(here: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    result = push(tiny_run)
    assert result.exit_code == 1 and "cannot be reached" in result.output
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = push(tiny_run)
    assert result.exit_code == 1 and "HF_HUB_OFFLINE is set" in result.output


def test_a_public_repository_does_not_become_private_silently(here: HubServer, tiny_run: Path) -> None:
    here.repos["model", "me/retina"] = Repo()
    result = push(tiny_run, "--private")
    assert result.exit_code == 1 and "already and public" in result.output and not here.uploads


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "metrics.json", "config.json", "head_linear.py"])
@pytest.mark.parametrize("token", [WRITES, "hf_" + "Ab3" * 12])
def test_a_token_in_a_file_is_never_published(name: str, token: str, here: HubServer, copy: Path) -> None:
    (copy / name).write_text((copy / name).read_text() + f"\n# {token}\n")
    result = push(copy)
    assert result.exit_code == 1 and name in result.output and token not in result.output
    assert here.requests == []


def test_the_client_s_streamed_upload_as_well(here: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With xet, `huggingface_hub` uploads along another path; small files take it without xet's storage."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    here.large = lambda path: False
    here.faults.append(Fault("POST", "*/preupload/*", 403, "storage is full"))
    result = push(tiny_run)
    assert result.exit_code == 1 and "storage is full" in result.output, result.output
    assert push(tiny_run).exit_code == 0
    files = here.repos["model", "me/retina"].files()
    assert files["model.safetensors"] == (tiny_run / "model.safetensors").read_bytes()


def test_a_card_that_the_hub_would_not_take_is_told(here: HubServer, copy: Path) -> None:
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("library_name:", "license: other\nlibrary_name:"))
    result = push(copy)
    assert result.exit_code == 1 and "license_name is required" in result.output and not here.uploads


def test_without_card_and_recipe_nothing_is_published(here: HubServer, copy: Path) -> None:
    (copy / "recipe.yaml").unlink()
    (copy / "README.md").unlink()
    result = push(copy)
    assert result.exit_code == 1 and "README.md" in result.output and here.requests == []


@pytest.mark.parametrize(
    ("folder", "repo_id", "words"),
    [
        ("nowhere", "me/retina", "there is no folder"),
        (".", "me/retina", "no config.json"),
        ("run", "me/retina/x", "owner/name"),
        ("run", "me/", "owner/name"),
        ("run", "datasets/me/retina", "one of the datasets"),
    ],
)
def test_wrong_usage_ends_with_2(
    folder: str, repo_id: str, words: str, here: HubServer, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    result = push(Path(folder), repo_id=repo_id)
    assert result.exit_code == 2 and words in " ".join(result.output.split()), result.output
    assert here.requests == []


def test_hidden_files_and_notes_stay_here(copy: Path) -> None:
    before = shared_files(copy)
    state = ("training_args.bin", "trainer_state.json", "optimizer.pt", "training_weights.safetensors")
    for name in (".env", "notes.txt", ".hidden.py", *state):
        (copy / name).write_text("x")
    assert shared_files(copy) == before
