"""`dinoseg predict`: which files are taken, where results go, and that nothing of the user's is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import hf_dinoseg.inference
from hf_dinoseg.cli import app
from hf_dinoseg.cli.predict import find_pictures, name_results
from hf_dinoseg.inference.segmenter import SegmentationResult, read_picture
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({7: "left", 9: "right"})


class FakeSegmenter:
    """Says 7 of the left half and 9 of the right, and notes how it was made."""

    made: list[tuple[str, dict[str, Any]]] = []

    @classmethod
    def from_pretrained(cls, checkpoint: str, **kwargs: Any) -> FakeSegmenter:
        cls.made.append((checkpoint, kwargs))
        return cls()

    def __call__(self, picture: Path) -> SegmentationResult:
        image = read_picture(picture)
        label_map = np.full((image.height, image.width), 7, dtype=np.uint8)
        label_map[:, image.width // 2 :] = 9
        return SegmentationResult(label_map, np.ones_like(label_map, dtype=np.float32), image, SPACE)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf_dinoseg.inference, "Segmenter", FakeSegmenter)
    monkeypatch.setattr(FakeSegmenter, "made", [])
    Path("checkpoint").mkdir()
    Path("checkpoint/config.json").write_text("{}")
    return tmp_path


def picture(name: str, size: tuple[int, int] = (8, 6)) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["predict", "checkpoint", *map(str, arguments)])


def written(folder: str = "o") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_label_maps_hold_original_ids_in_visible_colours(home: Path) -> None:
    result = run(picture("a.jpg"), "--output", "o")
    assert result.exit_code == 0, result.output
    assert written() == ["a.png", "a_overlay.jpg"]
    saved = Image.open("o/a.png")
    assert saved.mode == "P" and saved.size == (8, 6)
    ids = np.asarray(saved)
    assert (ids[:, :4] == 7).all() and (ids[:, 4:] == 9).all()
    assert np.asarray(saved.convert("RGB")).max() > 60
    assert Image.open("o/a_overlay.jpg").size == (8, 6)
    assert "1 of 1 pictures written to o" in result.stdout


def test_options_reach_the_segmenter_and_the_overlay_is_a_choice(home: Path) -> None:
    result = run(picture("a.jpg"), "-o", "o", "--no-overlay", "--mode", "slide", "--window", "64", "--stride", "32")
    assert result.exit_code == 0 and written() == ["a.png"]
    assert FakeSegmenter.made == [("checkpoint", {"mode": "slide", "window": 64, "stride": 32})]
    assert run("a.jpg", "-o", "o", "--mode", "sliding").exit_code == 2


def test_files_folders_and_patterns_are_each_done_once(home: Path) -> None:
    for name in ("in/b.jpg", "in/deep/c.PNG", "in/a.tif"):
        picture(name)
    Path("in/notes.txt").write_text("no picture")
    named = picture("odd.picture.jpg").rename("odd.raw")  # a file named by itself is taken whatever its ending
    found, faults = find_pictures(["in", "in/*.jpg", "in/**/*.*", str(named), "./in/b.jpg", str(home / "in/b.jpg")])
    assert [str(p) for p in found] == ["in/a.tif", "in/b.jpg", "in/deep/c.PNG", "odd.raw"] and faults == []


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["a.jpg", "in/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x/a", "y/a", "b"]),
        (["x/p/a.jpg", "x/q/a.png"], ["p/a", "q/a"]),
        (["x/a.jpg", "x/a.png"], ["a.jpg", "a.png"]),
        (["x/a.jpg", "y/a.jpg", "y/a.png"], ["x/a", "y/a.jpg", "y/a.png"]),
        (["a.jpg", "x/A.jpg"], ["a", "x/A"]),
        (["../a.jpg", "x/a.jpg"], ["a", "{here}/x/a"]),
    ],
)
def test_results_have_names_of_their_own(home: Path, pictures: list[str], names: list[str]) -> None:
    found = name_results([Path(p) for p in pictures])
    assert [str(p) for p in found] == [name.format(here=home.name) for name in names]
    assert not any(p.is_absolute() or ".." in p.parts for p in found)


def test_pictures_of_one_name_keep_their_folders(home: Path) -> None:
    assert run(picture("x/a.jpg"), picture("y/a.jpg", (10, 4)), "-o", "o", "--no-overlay").exit_code == 0
    assert written() == ["x/a.png", "y/a.png"]
    assert Image.open("o/y/a.png").size == (10, 4)


def test_a_bad_file_is_listed_and_the_rest_is_done(home: Path) -> None:
    Path("bad.jpg").write_bytes(b"no picture")
    result = run("bad.jpg", picture("a.jpg"), "none.jpg", "-o", "o", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [item["file"] for item in told["written"]] == ["a.jpg"]
    assert told["written"][0] == {"file": "a.jpg", "label_map": "o/a.png", "overlay": "o/a_overlay.jpg"}
    assert [item["file"] for item in told["failed"]] == [None, "bad.jpg"]
    lines = [line for line in result.stderr.splitlines() if line.startswith("dinoseg: ")]
    assert lines[0].startswith("dinoseg: none.jpg: there is no such file") and lines[1].count("bad.jpg: ") == 1
    assert written() == ["a.png", "a_overlay.jpg"] and "Traceback" not in result.stderr


def test_nothing_to_do_is_wrong_usage(home: Path) -> None:
    Path("empty").mkdir()
    result = run("empty", "*.jpg", "-o", "o")
    assert result.exit_code == 2 and "holds no pictures" in result.stderr and "*.jpg" in result.stderr
    assert not Path("o").exists() and FakeSegmenter.made == []


def test_a_picture_is_never_written_over(home: Path) -> None:
    original = picture("in/a.png").read_bytes()
    picture("in/b.jpg")
    for arguments in (["in", "-o", "in"], ["in", "-o", "in", "--overwrite"], ["in", "-o", "./in/../in"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "a.png is one of the pictures" in result.stderr
    assert Path("in/a.png").read_bytes() == original and written("in") == ["a.png", "b.jpg"]
    Path("link").symlink_to("in")
    assert run("in", "-o", "link").exit_code == 2


def test_files_that_are_there_are_replaced_only_if_asked(home: Path) -> None:
    picture("in/a.jpg")
    Path("truth").mkdir()
    Path("truth/a.png").write_text("a week of somebody's work")
    result = run("in", "-o", "truth")
    assert result.exit_code == 2 and "truth/a.png" in result.stderr and "--overwrite" in result.stderr
    assert Path("truth/a.png").read_text() == "a week of somebody's work" and FakeSegmenter.made == []
    assert run("in", "-o", "truth", "--overwrite").exit_code == 0
    assert Image.open("truth/a.png").mode == "P"


def test_output_that_is_a_file_is_wrong_usage(home: Path) -> None:
    Path("o").write_text("")
    assert run(picture("a.jpg"), "-o", "o").exit_code == 2


def test_a_large_picture_is_done_by_strips_without_an_overlay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr("hf_dinoseg.inference.is_large", lambda path: path.name == "big.png")
    monkeypatch.setattr("hf_dinoseg.inference.segment_large", lambda *arguments: done.append(arguments[1:]))
    result = run(picture("big.png"), picture("a.jpg"), "-o", "o", "--json")
    assert result.exit_code == 0, result.output
    assert done == [(Path("big.png"), Path("o/big.png"))]
    assert json.loads(result.stdout)["written"][0] == {"file": "big.png", "label_map": "o/big.png"}
    assert written() == ["a.png", "a_overlay.jpg"]
