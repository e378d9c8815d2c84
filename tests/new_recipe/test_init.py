"""`dinoseg init`: its recipe is accepted and rehearses, reads every mask, and the doctor finds no error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.builders import build_source
from hf_dinoseg.cli import app
from hf_dinoseg.data.synthetic import draw_fundus
from hf_dinoseg.images import read_mask
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import Recipe, load_recipe
from hf_dinoseg.testing.dry_run import dry_run

SIZE = 96


def _write(folder: Path, change: Callable[[np.ndarray], np.ndarray], count: int = 8, ending: str = ".png") -> None:
    """Drawn retina images with masks of the ids 0 to 3, changed."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        image, mask = draw_fundus(index, size=SIZE)
        image.save(folder / "images" / f"eye{index}.png")
        Image.fromarray(change(mask)).save(folder / "masks" / f"eye{index}{ending}")


def _init(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["init", *arguments, "--yes", "--no-measure"])
    assert result.exit_code == code, result.output
    return result.output


COLOURS = np.array([[0, 0, 0], [200, 30, 30], [30, 30, 200], [250, 250, 0]], dtype=np.uint8)
# what is done to the ids, and the original ids that the recipe must end with
KINDS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]] = {
    "ids": (lambda m: m.astype(np.uint8), (0, 1, 2, 3)),
    "two classes": (lambda m: (m > 0).astype(np.uint8), (0, 1)),
    "black and white": (lambda m: ((m > 0) * 255).astype(np.uint8), (0, 1)),
    "colours": (lambda m: COLOURS[m], (0, 1, 2, 3)),
    "16 bits": (lambda m: m.astype(np.uint16) * 1000, (0, 1000, 2000, 3000)),
    "spread greys": (lambda m: (m * 85).astype(np.uint8), (0, 85, 170, 255)),
    "void at 255": (lambda m: np.where(m == 3, 255, m).astype(np.uint8), (0, 1, 2)),
    # 0 beside so many classes, and rare: as in ADE20K, where it is void
    "300 classes": (lambda m: (np.arange(m.size).reshape(m.shape) % 300).astype(np.uint16), tuple(range(1, 300))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_many_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    change, ids = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "eyes", change)
    _init("eyes")
    recipe = load_recipe("recipe.yaml")
    assert recipe.labels.original_ids == ids
    for row in (row for split in build_source(recipe).values() for row in split):
        recipe.labels.encode(read_mask(row["mask"], recipe.labels.encoding))  # an id that is not known would raise
    if kind == "colours":
        assert dry_run(recipe)["num_labels"] == len(ids)


def test_smooth_masks_are_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "eyes", lambda m: (m * 80).astype(np.uint8), ending=".jpg")
    for index in range(8):  # as exported from a drawing program: smoothed
        place = tmp_path / "eyes" / "masks" / f"eye{index}.jpg"
        Image.open(place).resize((SIZE * 2, SIZE * 2)).resize((SIZE, SIZE)).save(place, quality=50)
    assert "different values" in _init("eyes", code=1)
    assert not Path("recipe.yaml").exists()


def test_five_images_with_one_mask_missing_and_one_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "eyes", lambda m: m.astype(np.uint8), count=7)
    (tmp_path / "eyes/masks/eye2.png").unlink()
    broken = tmp_path / "eyes/images/eye4.png"
    broken.write_bytes(broken.read_bytes()[:200])
    told = _init("eyes", "--classes", "background,artery,vein,disc")
    assert "eye2" in told and "eye4" in told
    source = build_source(load_recipe("recipe.yaml"))
    found = {row["id"] for split in source.values() for row in split}
    assert found == {"eye0", "eye1", "eye3", "eye5", "eye6"} and len(source["validation"]) == 1
    assert load_recipe("recipe.yaml").labels.classes[3] == "disc"


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "eyes", lambda m: m.astype(np.uint8), count=3)
    Path("recipe.yaml").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    _init("eyes", code=2)
    assert Path("recipe.yaml").read_text() == "mine" and sorted(tmp_path.rglob("*")) == before


def test_images_of_many_sizes_are_brought_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for index, side in enumerate((128, 200, 300, 420, 500, 640)):
        image, mask = draw_fundus(index, size=side)
        image.save(tmp_path / "set/images" / f"{index}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "set/masks" / f"{index}.png")
    _init("set")
    recipe = load_recipe("recipe.yaml")
    assert recipe.data.base_size == 256 == recipe.evaluation.shortest_edge and recipe.data.crop_size == 128


def test_the_question_of_zero_is_asked_and_its_answer_taken(tmp_path: Path) -> None:
    from hf_dinoseg.doctor.survey import survey
    from hf_dinoseg.new_recipe.read_labels import read_labels

    _write(tmp_path, lambda m: m.astype(np.uint8), count=2)
    rows = [
        {
            "id": str(i),
            "image": {"path": str(tmp_path / f"images/eye{i}.png"), "bytes": None},
            "mask": {"path": str(tmp_path / f"masks/eye{i}.png"), "bytes": None},
        }
        for i in range(2)
    ]
    read = survey(rows, "index")
    questions = []

    def ask(question, answers):
        questions.append(question)
        return "not labelled"

    labels = read_labels(read, ask)
    assert len(questions) == 1
    assert labels.space == LabelSpace({1: "class_1", 2: "class_2", 3: "class_3"}, reduce_zero_label=True)
    assert read_labels(read, ask, ["background", "a", "b", "c"]).space.classes[0] == "background"


@pytest.mark.skipif("DINOSEG_TEST_DATA" not in os.environ, reason="needs CamVid's images in DINOSEG_TEST_DATA")
def test_camvid_keeps_its_splits_and_joined_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    camvid = Path(os.environ["DINOSEG_TEST_DATA"]) / "camvid"
    _init(str(camvid / "images"), str(camvid / "masks"), "-o", "split.yaml")
    recipe = load_recipe("split.yaml")
    assert recipe.labels.original_ids[:3] == (0, 1, 2) and {11} & (
        set(recipe.labels.ignore) | set(recipe.labels.classes)
    )
    for kind in ("images", "masks"):
        (tmp_path / "all" / kind).mkdir(parents=True)
        for path in sorted((camvid / kind / "train").iterdir())[:40]:
            shutil.copy(path, tmp_path / "all" / kind)
    _init("all", "-o", "all.yaml")
    held = [row["id"] for row in build_source(load_recipe("all.yaml"))["validation"]]
    everything = sorted(path.stem for path in (tmp_path / "all/images").iterdir())
    places = [everything.index(name) for name in held]
    assert places == list(range(places[0], places[0] + len(held)))  # one stretch of the drive


def test_time_and_memory_are_measured_by_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_dinoseg.new_recipe import measure

    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "eyes", lambda m: m.astype(np.uint8), count=4)
    _init("eyes")
    plain = load_recipe("recipe.yaml").to_dict()
    plain["training"] |= {"max_steps": 40, "eval_steps": 20, "save_steps": 20, "use_cpu": True}
    recipe = Recipe.from_dict(plain)
    before = sorted(tmp_path.rglob("*"))
    cost = measure(recipe)
    assert sorted(tmp_path.rglob("*")) == before
    # 40 steps, and 1 of the 4 images at 2 evaluations and the last
    assert cost.total == pytest.approx(40 * cost.step + 3 * cost.image) and cost.memory > 0
