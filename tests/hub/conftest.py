"""A Hub on loopback, for processes that a test starts and for this one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import HubServer  # noqa: E402


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub without a repository."""
    with HubServer() as server:
        yield server


@pytest.fixture
def here(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The same, for pushes of this process, which is logged in as `me`."""
    hub.stand_in(monkeypatch, tmp_path)
    return hub
