"""A name of a checkpoint that leads nowhere is answered after one question to the Hub at most."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Fault, HubServer, Repo
from huggingface_hub import constants, hf_hub_download

from hf_dinoseg.checkpoint import NoCheckpointError, check_place, load_checkpoint


@pytest.fixture
def empty(here: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub, and a working folder in which nothing is."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return here


def test_a_name_that_is_neither_a_folder_nor_a_repository(empty: HubServer) -> None:
    with pytest.raises(NoCheckpointError, match="no folder you/quickstart here, and the Hub shows you no such repo"):
        load_checkpoint("you/quickstart")
    assert [path for method, path, _ in empty.requests if method == "HEAD"] == [
        "/you/quickstart/resolve/main/config.json"
    ]


def test_a_repository_that_is_no_checkpoint(empty: HubServer) -> None:
    empty.repos["model", "you/data"] = Repo()
    with pytest.raises(NoCheckpointError, match="no folder you/data here, .* holds no config.json"):
        load_checkpoint("you/data")
    assert [method for method, *_ in empty.requests].count("HEAD") == 1


def test_a_hub_that_cannot_be_reached(empty: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(NoCheckpointError, match="no folder you/quickstart here, and the Hub cannot be reached"):
        load_checkpoint("you/quickstart")


def test_offline_nothing_is_asked_and_what_was_downloaded_is_there(
    empty: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = empty.repos["model", "you/model"] = Repo()
    repo.commit("main", {"config.json": b"{}"}, "a model")
    check_place("you/model")
    hf_hub_download("you/model", "config.json")
    asked = len(empty.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_place("you/model")
    with pytest.raises(NoCheckpointError, match="no folder you/other here, .*offline"):
        check_place("you/other")
    assert len(empty.requests) == asked


def test_a_busy_hub_is_left_to_those_who_try_again(empty: HubServer) -> None:
    empty.faults.append(Fault("HEAD", "*config.json", 503))
    check_place("you/model")
    assert [status for method, _, status in empty.requests if method == "HEAD"] == [503]
