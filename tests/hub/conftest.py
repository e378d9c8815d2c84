"""A Hub on loopback, for processes that a test starts and for this one; and a backbone to convert heads onto."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

sys.path.insert(0, str(Path(__file__).parent))
from conversion import WIDTH  # noqa: E402
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


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of width 96, saved by the full model class as the published ones are."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, num_register_tokens=4
    )
    path = tmp_path_factory.mktemp("vit")
    DINOv3ViTModel(config).save_pretrained(path)
    return path
