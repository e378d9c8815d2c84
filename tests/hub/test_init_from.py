"""A checkpoint as a start: what the new model answers for the classes that both know."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_dinoseg.builders import build_model, build_processor, check_start
from hf_dinoseg.errors import ModelError
from hf_dinoseg.recipe import Recipe, load_recipe, recipe_of

NEW = {0: "background", 2: "disc", 3: "Artery", 5: "optic vein", 7: "cup"}
# by hand: background 0 and disc 3 by name, Artery is artery 1; the old 2 (vein) is no id of a class left over; 5 and 7
# are no ids of old classes
SHARED, FRESH = {0: 0, 1: 3, 2: 1}, [3, 4]


@pytest.fixture(scope="module", params=["linear", "mask2former", "eomt"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_tiny_recipe: Callable[[Path], Path]
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = load_recipe(write_tiny_recipe(folder), [f"model.head={request.param}", "model.image_mean=[0.4, 0.4, 0.4]"])
    torch.manual_seed(0)
    model = build_model(recipe)
    with torch.no_grad():  # batch norms of a fresh model would hide that statistics are carried over
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(0.1)
    model.save_pretrained(folder / "base")
    build_processor(recipe).save_pretrained(folder / "base")
    return folder / "base"


def started(base: Path, **keywords: Any) -> Recipe:
    labels = {"labels": {"classes": NEW}, "source": "synthetic-retina"}
    return recipe_of(keywords={**labels, "init_from": str(base), **keywords})


def test_shared_classes_are_answered_as_before(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = started(base)
    torch.manual_seed(1)
    with caplog.at_level(logging.INFO):
        new = build_model(recipe).eval()
    old = type(new).from_pretrained(base).eval()
    image = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mine, theirs = new(pixel_values=image), old(pixel_values=image)
    field = "logits" if recipe.model.head == "linear" else "class_queries_logits"
    axis = 1 if field == "logits" else 2
    here, there = getattr(mine, field), getattr(theirs, field)
    for ours, before in SHARED.items():
        assert torch.allclose(here.select(axis, ours), there.select(axis, before), atol=1e-6)
    for ours in FRESH:
        assert not any(torch.allclose(here.select(axis, ours), there.select(axis, c), atol=1e-3) for c in range(4))
    if axis == 2:
        assert torch.allclose(here[..., -1], there[..., -1], atol=1e-6)  # no object
        assert torch.allclose(mine.masks_queries_logits, theirs.masks_queries_logits, atol=1e-5)
    assert "carried over: background, disc, Artery; new: optic vein, cup." in caplog.text
    assert recipe.model.image_mean == (0.4, 0.4, 0.4)  # of the processor


def test_a_class_of_another_name_keeps_its_id(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"classes": {0: "rest", 1: "artery", 3: "optic disc", 4: "vein"}}
    with caplog.at_level(logging.INFO):
        build_model(started(base, labels=labels))
    renamed = "rest from background, of the same id 0, optic disc from disc, of the same id 3."
    assert f"artery, vein, {renamed}" in caplog.text


def test_what_the_checkpoint_is_need_not_be_said(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    recipe = started(tmp_path / "base")
    assert recipe.model.head == base.parent.name.rstrip("0123456789")
    backbone = recipe.model.backbone
    assert isinstance(backbone, dict) and backbone["hidden_size"] == 32 and backbone["num_hidden_layers"] == 4
    settings = recipe.model.model_dump()
    assert recipe.model.head == "linear" or settings["num_queries"] == 8
    assert recipe.model.tune == "head"  # it is not from scratch
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml())
    shutil.rmtree(tmp_path / "base")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe  # as `evaluate` reads it, long after


def test_what_does_not_fit_is_one_sentence(base: Path, tmp_path: Path) -> None:
    head = base.parent.name.rstrip("0123456789")
    other = "linear" if head != "linear" else "mask2former"
    wider = {"model_type": "dinov3_vit", "hidden_size": 64, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    faults: list[tuple[dict[str, Any], str]] = [
        ({"head": other}, f"has the head {head}, and model.head is {other}; take model.head out"),
        ({"backbone": wider}, "another backbone than model.backbone asks for"),
        ({"init_from": str(tmp_path / "nowhere")}, "there is no folder"),
        ({"init_from": str(tmp_path)}, "is a checkpoint of 'vit'"),
    ]
    for keywords, told in faults:
        with pytest.raises(ModelError, match=told) as raised:
            check_start(started(base, **keywords))
        assert "\n" not in str(raised.value)
    if head != "linear":
        with pytest.raises(ModelError, match="of other sizes: model.num_queries is 5, there it is 8"):
            build_model(started(base, num_queries=5))
