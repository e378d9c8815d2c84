"""A recipe held against what its data holds, by a sample and once every mask was read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import builders as building
from hf_dinoseg import load_recipe
from hf_dinoseg.data import TrainTransform
from hf_dinoseg.data.magnification import Magnification, parted
from hf_dinoseg.doctor import DoctorError, examine, quick_checks
from hf_dinoseg.errors import RunError
from hf_dinoseg.run import check_recipe, train


@pytest.fixture
def recipe(tmp_path: Path, write_tiny_recipe: Any) -> Any:
    path = write_tiny_recipe(tmp_path)
    return lambda *overrides: load_recipe(path, overrides)


def codes(rows: Any, recipe: Any) -> dict[str, str]:
    both = [look(rows, recipe.labels, recipe=recipe).findings for look in (examine, quick_checks)]
    found = [{f.code: f.level for f in one if "quer" in f.code or "crops" in f.code} for one in both]
    assert found[0] == found[1]
    return found[0]


def test_queries_for_the_classes_of_an_image(recipe: Any, splits: Any, quarters: Any) -> None:
    four, two = splits(quarters()), splits(quarters((0, 1, 0, 255)))
    small = "data.crop_size=32"
    assert codes(four, recipe(small, "model.num_queries=4")) == {}
    assert codes(four, recipe(small, "model.num_queries=3")) == {"too-few-queries": "error"}
    assert codes(two, recipe(small, "model.num_queries=3")) == {"fewer-queries-than-classes": "warning"}
    assert codes(two, recipe(small, "model.num_queries=1")) == {"too-few-queries": "error"}
    one = splits(np.zeros((40, 60), np.uint8))
    assert codes(one, recipe(small, "model.num_queries=2")) == {"fewer-queries-than-classes": "info"}
    assert codes(four, recipe(small, "model.num_queries=1", "model.head=linear")) == {}  # it has none


def test_crops_that_are_mostly_padding(recipe: Any, splits: Any, quarters: Any) -> None:
    rows = splits(quarters())  # 60 × 40
    assert codes(rows, recipe("data.crop_size=40")) == {}
    assert codes(rows, recipe("data.crop_size=640")) == {"crops-mostly-padding": "warning"}
    report = examine(rows, recipe().labels, recipe=recipe("data.crop_size=600", "data.scale=[1, 1]"))
    [found] = [f for f in report.findings if f.code == "crops-mostly-padding"]
    assert "60 × 40" in found.seen and "99.3 % of an average crop" in found.seen  # 1 - 60 · 40 / 600²


@pytest.mark.parametrize(("crop", "scale"), [(64, (0.5, 2.0)), (100, (0.5, 1.5)), (32, (1.0, 1.0))])
def test_the_share_of_padding_is_that_of_crops_that_were_drawn(crop: int, scale: tuple[float, float]) -> None:
    transform = TrainTransform(crop, scale, photometric=False)
    labels, rng = np.zeros((40, 60), np.uint8), np.random.default_rng(0)
    drawn = [transform(Image.new("RGB", (60, 40)), labels, rng)[1] == 255 for _ in range(400)]
    measured = Magnification(crop, scale).measure([(60, 40)])
    assert measured["padding"] == pytest.approx(np.mean(drawn), abs=0.03)


@pytest.mark.parametrize(
    ("rule", "size", "training", "evaluation", "padding"),
    [
        # what ADE20K's recipes were: counted from the file in training, from 512 in evaluation
        (Magnification(512, (0.5, 2.0), shortest_edge=512), (400, 300), 1.25, 512 / 300, None),
        # DINOv3 and Mask2Former count from the crop, by the shorter side; EoMT by the longer
        (Magnification(512, (0.5, 2.0), 512, shortest_edge=512), (400, 300), 1.25 * 512 / 300, 512 / 300, None),
        (Magnification(512, (0.5, 2.0), 512, "longer", 512), (300, 400), 1.25 * 512 / 400, 512 / 300, None),
        # a square: sides of 448 to 1792 in crops of 896. ∫ s² from 0.5 to 1, and 1 from 1 to 2, over 1.5
        (
            Magnification(896, (0.5, 2.0), 896, shortest_edge=896),
            (256, 256),
            1.25 * 3.5,
            3.5,
            1 - (0.875 / 3 + 1) / 1.5,
        ),
        # and of its stored size: never as large as the crop. The mean of s² is 1.75
        (Magnification(896, (0.5, 2.0)), (256, 256), 1.25, 1.0, 1 - 1.75 * (256 / 896) ** 2),
        (Magnification(896, (0.5, 2.0), shortest_edge=512), (2800, 2100), 1.25, 512 / 2100, 0.0),
    ],
)
def test_magnification_is_what_a_hand_finds(
    rule: Magnification, size: tuple[int, int], training: float, evaluation: float, padding: float | None
) -> None:
    measured = rule.measure([size])
    assert measured["training"] == pytest.approx(training) and measured["evaluation"] == pytest.approx(evaluation)
    assert measured["training_range"] == pytest.approx([training / 1.25 * 0.5, training / 1.25 * 2])
    if padding is not None:
        assert measured["padding"] == pytest.approx(padding, abs=2e-3)
    assert parted(measured) == (max(training / evaluation, evaluation / training) > 1.25 + 1e-6)


def test_training_that_shows_another_size_than_evaluation_is_told(recipe: Any, splits: Any, quarters: Any) -> None:
    """A mean of 1.25 and 1.2 times are alike; 1.25 and 0.5 times are not, and one base size for both settles it."""
    rows = splits(quarters())  # 60 × 40
    size = "data.crop_size=40"
    for edge, told in ((48, {}), (20, {"magnification-differs": "warning"})):
        found = examine(rows, recipe().labels, recipe=recipe(size, f"evaluation.shortest_edge={edge}"))
        assert {f.code: f.level for f in found.findings if "magnif" in f.code} == told
        assert found.overview["magnification"]["evaluation"] == pytest.approx(edge / 40)
    report = examine(rows, recipe().labels, recipe=recipe(size, "data.base_size=20"))
    assert "magnification-differs" not in report.codes
    assert report.overview["magnification"]["training"] == pytest.approx(1.25 / 2)
    assert "0.62 times as large in training (mean; 0.25 to 1.00) and 0.50 times in evaluation" in report.text()


def test_crops_that_no_memory_holds_are_refused_before_anything_is_read(
    recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(building, "_host_memory", lambda: 64 * 2**30)
    # 2 crops of 100000 × 100000 pixels, of 16 bytes each: 298 GiB
    with pytest.raises(RunError, match=r"data\.crop_size.* 298 GiB, and this computer has 64 GiB"):
        train(recipe("data.crop_size=100000"))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(building, "_host_memory", lambda: 299 * 2**30)
    building.check_memory(recipe("data.crop_size=100000"))
    check_recipe(recipe())


@pytest.fixture
def folder(tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Any:
    """A recipe of 40 training pairs, more than are looked at beforehand, and 2 of validation."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def write(train: list[list[int]], validation: list[int], *overrides: str) -> Any:
        rng = np.random.default_rng(0)
        for split, masks in (("train", train), ("val", [validation] * 2)):
            for number, values in enumerate(masks):
                for kind in ("images", "masks"):
                    (tmp_path / "data" / kind / split).mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
                image.save(tmp_path / "data" / "images" / split / f"{number:02}.png")
                mask = np.repeat(np.array(values, np.uint8), 64 // len(values))[None].repeat(48, 0)
                Image.fromarray(mask).save(tmp_path / "data" / "masks" / split / f"{number:02}.png")
        source = f"data={{source: folder, root: {tmp_path / 'data'}, crop_size: 64}}"
        return recipe(source, "training.max_steps=1", "training.save_steps=1", "training.eval_strategy=no", *overrides)

    return write


def test_classes_that_no_training_mask_holds_are_told_whatever_the_number_of_masks(
    folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hf_dinoseg"):
        train(folder([[0, 1]] * 40, [0, 1, 2, 2]))
    assert "class-only-in-validation" in caplog.text and "2 vein" in caplog.text
    assert "class-absent: declared, but in no mask: 3 disc" in caplog.text


def test_a_class_of_one_mask_among_many_is_no_absent_class(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_dinoseg"):
        train(folder([[0, 1]] * 39 + [[0, 1, 2, 3]], [0, 1, 2, 3]))
    assert "class-" not in caplog.text


def test_queries_are_counted_in_all_masks(folder: Any) -> None:
    """The first look at 32 pairs need not see the one mask of four classes; what `prepare_targets` counted does."""
    for place in (1, 38):
        masks = [[0, 1]] * 40
        masks[place] = [0, 1, 2, 3]
        recipe = folder(masks, [0, 1, 2, 3], "model.num_queries=3")
        with pytest.raises(DoctorError, match=r"too-few-queries(?s:.*)holds 4 classes(?s:.*)--force"):
            train(recipe)
    assert not Path(recipe.training["output_dir"]).exists()


def test_what_the_first_look_told_is_not_told_again(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_dinoseg"):
        train(folder([[0, 1]] * 4, [0, 1]))
    assert caplog.text.count("class-absent") == 1
