"""There and back: pushed from one process, loaded by others that have never seen the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

STRANGER = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hf_dinoseg", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
image, result = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained("me/retina", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("me/retina", trust_remote_code=True)
with torch.no_grad():
    outputs = model(**processor(images=torch.load(image).numpy(), return_tensors="pt"))
maps = processor.post_process_semantic_segmentation(outputs, [(70, 90)], original_ids=True)
torch.save({"masks": outputs.masks_queries_logits, "classes": outputs.class_queries_logits, "map": maps[0]}, result)
"""


def start(environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def dinoseg(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return start(environment, "-c", "from hf_dinoseg.cli import main; main()", *arguments)


def test_pushed_interrupted_pushed_again_and_loaded(hub: HubServer, tiny_run: Path, tmp_path: Path) -> None:
    owner = os.environ | hub.environment(tmp_path / "owner")
    weights = (tiny_run / "model.safetensors").read_bytes()

    # the machine goes down in the middle of the weights
    hub.stall = lambda size: size == len(weights)
    process = dinoseg(owner, "push", str(tiny_run), "me/retina")
    assert hub.stalled.wait(120), process.communicate(timeout=10)
    process.kill()
    process.communicate(timeout=60)
    assert set(hub.repos["model", "me/retina"].files()) == {".gitattributes"}
    images = len(hub.uploads)

    # the same command goes on: only what had not arrived is sent
    hub.stall = lambda size: False
    process = dinoseg(owner, "push", str(tiny_run), "me/retina")
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"{hub.url}/me/retina" in printed and owner["HF_TOKEN"] not in printed + said
    sent = [name for name in hub.repos["model", "me/retina"].files() if name.endswith((".safetensors", ".png"))]
    assert {"model.safetensors", "curves.png"} < set(sent)
    assert len(hub.uploads) == len(set(hub.uploads)) == len(sent) and images < len(sent)

    # a process without the package, without a token and with an empty cache
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.save(image, tmp_path / "image.pt")
    (tmp_path / "stranger.py").write_text(STRANGER)
    stranger = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_TOKEN")}
    stranger |= hub.environment(tmp_path / "stranger", token=None)
    process = start(stranger, str(tmp_path / "stranger.py"), str(tmp_path / "image.pt"), str(tmp_path / "out.pt"))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found = torch.load(tmp_path / "out.pt")

    model = AutoModelForSemanticSegmentation.from_pretrained(tiny_run)
    processor = AutoImageProcessor.from_pretrained(tiny_run)
    with torch.no_grad():
        expected = model(**processor(images=image.numpy(), return_tensors="pt"))
    assert torch.equal(found["masks"], expected.masks_queries_logits)
    assert torch.equal(found["classes"], expected.class_queries_logits)
    (label_map,) = processor.post_process_semantic_segmentation(expected, [(70, 90)], original_ids=True)
    assert torch.equal(found["map"], label_map)


def test_with_the_package_the_repository_is_a_checkpoint_like_a_folder(
    here: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segmenter, card and evaluation, on a branch that is loaded by its name and by its commit."""
    from hf_dinoseg import Segmenter
    from hf_dinoseg.hub.push import push

    pushed = push(tiny_run, "me/retina")
    monkeypatch.delenv("HF_TOKEN")
    image: Any = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    there = Segmenter.from_pretrained("me/retina")(image).label_map
    assert np.array_equal(there, Segmenter.from_pretrained(str(tiny_run))(image).label_map)
    model = AutoModelForSemanticSegmentation.from_pretrained("me/retina", revision=pushed.commit)
    assert type(model).__module__.startswith("hf_dinoseg.")
    card = ModelCard.load("me/retina")
    assert card.data.pipeline_tag == "image-segmentation" and card.data.eval_results
