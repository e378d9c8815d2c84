"""`dinoseg predict`: which files are taken, where results go, and that nothing of the user's is lost."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image, ImageDraw
from torch import nn
from typer.testing import CliRunner

import hf_dinoseg.inference
from hf_dinoseg.cli import app
from hf_dinoseg.cli._images import find_images, name_results
from hf_dinoseg.errors import DinoSegError
from hf_dinoseg.images import read_image
from hf_dinoseg.inference.download import download
from hf_dinoseg.inference.segmenter import Segmenter, load_image
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegImageProcessor

SPACE = LabelSpace({7: "left", 9: "right"}, colors={7: (200, 0, 0), 9: (0, 0, 200)})


class Halves(nn.Module):
    """Says 7 of the left half and 9 of the right."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        logits = self.gain.new_zeros(len(pixel_values), 2, *pixel_values.shape[-2:])
        half = logits.shape[-1] // 2
        logits[:, 0, :, :half] = logits[:, 1, :, half:] = self.gain
        return SimpleNamespace(logits=logits)


class FakeSegmenter:
    """Notes how the segmenter is made."""

    made: list[tuple[str, dict[str, Any]]] = []
    space = SPACE

    @classmethod
    def from_pretrained(cls, checkpoint: str, **kwargs: Any) -> Segmenter:
        cls.made.append((checkpoint, kwargs))
        return Segmenter(Halves(), DinoSegImageProcessor(), cls.space)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf_dinoseg.inference, "Segmenter", FakeSegmenter)
    monkeypatch.setattr(FakeSegmenter, "made", [])
    Path("checkpoint").mkdir()
    Path("checkpoint/config.json").write_text("{}")
    return tmp_path


def image(name: str, size: tuple[int, int] = (8, 6)) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["predict", "checkpoint", *map(str, arguments)])


def written(folder: str = "o") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_label_maps_hold_original_ids_in_visible_colours(home: Path) -> None:
    result = run(image("a.jpg"), "--output", "o")
    assert result.exit_code == 0, result.output
    assert written() == ["a.png", "a_overlay.jpg"]
    saved = Image.open("o/a.png")
    assert saved.mode == "P" and saved.size == (8, 6)
    ids = np.asarray(saved)
    assert (ids[:, :4] == 7).all() and (ids[:, 4:] == 9).all()
    assert np.asarray(saved.convert("RGB")).max() > 60
    assert Image.open("o/a_overlay.jpg").size == (8, 6)
    assert "1 of 1 images written to o" in result.stdout


def test_options_reach_the_segmenter_and_the_overlay_is_a_choice(home: Path) -> None:
    result = run(image("a.jpg"), "-o", "o", "--no-overlay", "--mode", "slide", "--window", "64", "--stride", "32")
    assert result.exit_code == 0 and written() == ["a.png"]
    background = {"background": None, "background_threshold": None}
    unsaid = dict.fromkeys(("palette", "device", "batch_size", "tta"))
    asked = {"mode": "slide", "window": 64, "stride": 32, **unsaid, **background}
    assert FakeSegmenter.made == [("checkpoint", asked)]
    assert run("a.jpg", "-o", "o", "--mode", "sliding").exit_code == 2
    assert run("a.jpg", "-o", "p", "--palette", "colorblind").exit_code == 0
    assert FakeSegmenter.made[1][1]["palette"] == "colorblind"
    assert run("a.jpg", "-o", "o", "--palette", "rainbow").exit_code == 2


def test_background_is_clear_if_asked_and_a_legend_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSegmenter, "space", LabelSpace({7: "background", 9: "right"}))
    forms = ("--no-overlay", "--format", "ids", "--format", "color")
    assert run(image("a.jpg"), "-o", "o", *forms, "--transparent", "--legend").exit_code == 0
    assert written() == ["a.png", "a_color.png", "legend.png"]
    Path("o/legend.png").unlink()
    assert run(image("a.jpg"), "-o", "o", *forms, "--legend", "--resume").exit_code == 0
    assert Path("o/legend.png").exists()  # asked for later, when all images are done
    ids, color = Image.open("o/a.png"), Image.open("o/a_color.png")
    assert (ids.mode, color.mode) == ("P", "RGBA")
    expected = np.where(np.asarray(ids) == 7, 0, 255)
    assert set(np.unique(expected)) == {0, 255}
    assert np.array_equal(np.asarray(color)[..., 3], expected)
    assert np.array_equal(np.asarray(ids.convert("RGBA"))[..., 3], expected)
    assert run(image("legend.jpg"), "-o", "p", "--legend").exit_code == 2


def test_files_folders_and_patterns_are_each_done_once(home: Path) -> None:
    for name in ("in/b.jpg", "in/deep/c.PNG", "in/a.tif"):
        image(name)
    Path("in/notes.txt").write_text("no image")
    named = image("odd.image.jpg").rename("odd.raw")  # a file named by itself is taken whatever its ending
    found, faults = find_images(["in", "in/*.jpg", "in/**/*.*", str(named), "./in/b.jpg", str(home / "in/b.jpg")])
    assert [p.source for p in found] == ["in/a.tif", "in/b.jpg", "in/deep/c.PNG", "odd.raw"] and faults == []


def test_files_whose_names_begin_with_a_dot_are_passed_over(home: Path) -> None:
    """macOS keeps a `._a.jpg`, which is no image, beside each `a.jpg` on a file system that is not its own."""
    for name in ("in/a.jpg", "in/deep/b.jpg", "in/.thumbnails/c.jpg"):
        image(name)
    for name in ("in/._a.jpg", "in/deep/._b.jpg"):
        Path(name).write_bytes(b"\x00\x05\x16\x07 resource fork")
    assert run("in", "-o", "o", "--no-overlay").exit_code == 0 and written() == ["a.png", "deep/b.png"]
    assert [p.source for p in find_images(["in/*.jpg", "in/._*.jpg"])[0]] == ["in/a.jpg"]
    assert [p.source for p in find_images(["in/._a.jpg"])[0]] == ["in/._a.jpg"]  # named by itself


def test_pages_and_bands_that_are_not_read_are_told_once_a_file(home: Path) -> None:
    pages = [Image.new("L", (8, 6), n) for n in range(4)]
    for name in ("in/stack.tif", "in/moving.gif"):
        Path(name).parent.mkdir(exist_ok=True)
        pages[0].save(name, save_all=True, append_images=pages[1:])
    image("in/plain.tif")
    result = run("in", "-o", "o", "--no-overlay")
    assert result.exit_code == 0 and written() == ["moving.png", "plain.png", "stack.png"]
    told = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(told) == 2 and "plain" not in result.stderr
    assert any("in/stack.tif" in line and "pages 2 to 4" in line for line in told)
    assert any("in/moving.gif" in line and "frames 2 to 4" in line for line in told)


def test_a_folder_that_may_not_be_read_is_told_and_the_rest_is_done(home: Path, forbid: Callable[[Path], None]) -> None:
    for name in ("in/a.jpg", "in/locked/b.jpg"):
        image(name)
    forbid(Path("in/locked"))
    result = run("in", "-o", "o", "--no-overlay")
    assert result.exit_code == 1 and "in/locked: the folder may not be read" in result.stderr
    assert written() == ["a.png"]
    forbid(Path("in"))
    result = run("in", "-o", "p")
    told = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2 and "may not be read" in told and "holds no images" not in told


@pytest.mark.parametrize("verb", ["predict", "doctor", "evaluate", "calibrate", "convert"])
def test_results_do_not_go_to_standard_output(home: Path, verb: str) -> None:
    image("a.jpg")
    arguments = {"predict": ["m", "a.jpg"], "convert": ["eomt", "m"]}.get(verb, ["m"])
    result = CliRunner().invoke(app, [verb, *arguments, "-o", "-"])
    assert result.exit_code == 2 and "standard output" in result.stderr
    assert sorted(p.name for p in home.iterdir()) == ["a.jpg", "checkpoint"]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.jpg", "in/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x/a", "y/a", "b"]),
        (["x/p/a.jpg", "x/q/a.png"], ["p/a", "q/a"]),
        (["x/a.jpg", "x/a.png"], ["a.jpg", "a.png"]),
        (["x/a.jpg", "y/a.jpg", "y/a.png"], ["x/a", "y/a.jpg", "y/a.png"]),
        (["a.jpg", "x/A.jpg"], ["a", "x/A"]),
        (["../a.jpg", "x/a.jpg"], ["a", "{here}/x/a"]),
        (["http://h/x/a.jpg", "b.jpg"], ["a", "b"]),
        (["http://h:1/x/a.jpg", "http://h:1/y/a.jpg"], ["h_1/x/a", "h_1/y/a"]),
        (["http://h/i?id=3", "http://h/i?id=4", "https://h/"], ["i-id=3", "i-id=4", "h"]),
        (["http://h/..%2f..%2Fa.png", "http://h/b/%2e%2e/a.png"], ["h/a", "h/b/a"]),
    ],
)
def test_results_have_names_of_their_own(home: Path, images: list[str], names: list[str]) -> None:
    for name in images:
        if not name.startswith(("http", "..")):
            image(name)
    image("../a.jpg")
    found, _ = find_images(images)
    assert [str(p) for p in name_results(found)] == [name.format(here=home.name) for name in names]


@pytest.mark.parametrize("entry", ["in", "in/**/*.jpg", "./in/", "{here}/in", "{here}/in/**/*.jpg"])
def test_folders_below_a_folder_or_pattern_are_kept(home: Path, entry: str) -> None:
    for name in ("in/b.jpg", "in/x/a.jpg", "in/y/deep/a.jpg"):
        image(name)
    found, _ = find_images([entry.format(here=home)])
    assert sorted(map(str, name_results(found))) == ["b", "x/a", "y/deep/a"]


def test_images_of_one_name_keep_their_folders(home: Path) -> None:
    assert run(image("x/a.jpg"), image("y/a.jpg", (10, 4)), "-o", "o", "--no-overlay").exit_code == 0
    assert written() == ["x/a.png", "y/a.png"]
    assert Image.open("o/y/a.png").size == (10, 4)


def test_a_bad_file_is_listed_and_the_rest_is_done(home: Path) -> None:
    Path("bad.jpg").write_bytes(b"no image")
    result = run("bad.jpg", image("a.jpg"), "none.jpg", "-o", "o", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [item["file"] for item in told["written"]] == ["a.jpg"]
    assert told["written"][0] == {"file": "a.jpg", "label_map": "o/a.png", "overlay": "o/a_overlay.jpg"}
    assert [item["file"] for item in told["failed"]] == [None, "bad.jpg"]
    lines = [line for line in result.stderr.splitlines() if line.startswith("dinoseg: ")]
    assert lines[0].startswith("dinoseg: none.jpg: there is no such file") and lines[1].count("bad.jpg: ") == 1
    assert written() == ["a.png", "a_overlay.jpg"] and "Traceback" not in result.stderr


@pytest.mark.parametrize("space", [{0: "background", 9: "right"}, {7: "left", 9: "right"}])
def test_a_panel_speaks_of_background_only_where_there_is_something_to_say(
    home: Path, space: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    drawn = ImageDraw.ImageDraw.text
    monkeypatch.setattr(FakeSegmenter, "space", LabelSpace(space))

    def note(self: ImageDraw.ImageDraw, xy: Any, text: str, *args: Any, **kwargs: Any) -> None:
        said.append(text)
        drawn(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    assert run(image("a.jpg", (300, 200)), "-o", "o", "--format", "panel").exit_code == 0
    assert "prediction" in said and not [text for text in said if "everywhere" in text]
    said.clear()
    monkeypatch.setattr(FakeSegmenter, "space", LabelSpace({7: "left", 9: "right"}, reduce_zero_label=True))
    assert run(image("a.jpg", (300, 200)), "-o", "o", "--format", "panel", "--overwrite").exit_code == 0
    assert [text for text in said if text.startswith("prediction: ") and "everywhere" in text]


def cut(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("make", [cut, Path.touch, lambda p: p.write_text("x"), lambda p: p.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["bad.jpg", "bad.png", "bad.tif", "bad.gif"])
def test_what_is_said_of_an_unreadable_file_names_it_once(home: Path, name: str, make: Callable[[Path], None]) -> None:
    Path("in").mkdir()
    make(Path("in", name))
    for folder in ("in", "./in", str(home / "in")):
        (told,) = [line for line in run(folder, "-o", "o").stderr.splitlines() if line.startswith("dinoseg: ")]
        assert told.startswith(f"dinoseg: {Path(folder, name)}: ") and told.count(name) == 1
    with pytest.raises(DinoSegError) as raised:
        read_image({"path": str(Path("in", name)), "bytes": None})  # as training reads it
    assert str(raised.value).count(name) == 1


def test_errors_of_the_disk_and_of_the_model_name_the_file_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Image.open

    def fails(path: Any, **options: Any) -> Any:
        if str(path).endswith("a.jpg"):
            raise OSError(5, "Input/output error", str(path))
        return given(path, **options)

    image("a.jpg"), image("b.jpg")
    monkeypatch.setattr(Image, "open", fails)
    monkeypatch.setattr(Halves, "forward", lambda *_, **__: 1 / 0)
    lines = [line for line in run("a.jpg", "b.jpg", "-o", "o").stderr.splitlines() if line.startswith("dinoseg: ")]
    assert [line.count(name) for line, name in zip(lines, ("a.jpg", "b.jpg"), strict=True)] == [1, 1]
    assert "Input/output error" in lines[0] and "division" in lines[1]


def test_nothing_to_do_is_wrong_usage(home: Path) -> None:
    Path("empty").mkdir()
    result = run("empty", "*.jpg", "-o", "o")
    assert result.exit_code == 2 and "holds no images" in result.stderr and "*.jpg" in result.stderr
    assert not Path("o").exists() and FakeSegmenter.made == []


def test_an_image_is_never_written_over(home: Path) -> None:
    original = image("in/a.png").read_bytes()
    image("in/b.jpg")
    for arguments in (["in", "-o", "in"], ["in", "-o", "in", "--overwrite"], ["in", "-o", "./in/../in"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "a.png is one of the images" in result.stderr
    assert Path("in/a.png").read_bytes() == original and written("in") == ["a.png", "b.jpg"]
    Path("link").symlink_to("in")
    assert run("in", "-o", "link").exit_code == 2


def test_files_that_are_there_are_replaced_only_if_asked(home: Path) -> None:
    image("in/a.jpg")
    Path("truth").mkdir()
    Path("truth/a.png").write_text("a week of somebody's work")
    result = run("in", "-o", "truth")
    assert result.exit_code == 2 and "truth/a.png" in result.stderr and "--overwrite" in result.stderr
    assert Path("truth/a.png").read_text() == "a week of somebody's work" and FakeSegmenter.made == []
    assert run("in", "-o", "truth", "--overwrite").exit_code == 0
    assert Image.open("truth/a.png").mode == "P"


def test_output_that_is_a_file_is_wrong_usage(home: Path) -> None:
    Path("o").write_text("")
    assert run(image("a.jpg"), "-o", "o").exit_code == 2


def test_a_large_image_is_done_by_strips_as_ids_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr("hf_dinoseg.inference.large_images.LARGE_PIXELS", 100)
    monkeypatch.setattr(
        "hf_dinoseg.inference.large_images.segment_large",
        lambda segmenter, source, target, transparent: (done.append((str(source), str(target))), target.write_text("")),
    )
    Path("o").mkdir()
    result = run(image("big.png", (20, 20)), image("a.jpg"), "-o", "o", "--json")
    assert result.exit_code == 0, result.output
    assert done == [("big.png", "o/big.png")]
    assert json.loads(result.stdout)["written"][0] == {"file": "big.png", "label_map": "o/big.png"}
    assert written() == ["a.png", "a_overlay.jpg", "big.png"]
    again = run("big.png", "a.jpg", "-o", "o", "--json", "--resume")
    assert again.exit_code == 0 and json.loads(again.stdout)["skipped"] == 2 and len(done) == 1
    refused = run("big.png", "-o", "p", "--format", "color")
    assert refused.exit_code == 1 and "20×20 pixels; of an image that large there are only ids" in refused.stderr


# ---------------------------------------------------------------------- forms


def test_every_form_says_the_same(home: Path) -> None:
    forms = ["ids", "color", "overlay", "panel", "probabilities"]
    result = run(
        image("in/x/a.jpg"), "in", "-o", "o", "--json", *(part for form in forms for part in ("--format", form))
    )
    assert result.exit_code == 0, result.output
    names = ["a.png", "a_color.png", "a_overlay.jpg", "a_panel.png", "a_probabilities.npz"]
    assert written() == names
    told = json.loads(result.stdout)["written"][0]
    assert list(told) == ["file", "label_map", "color", "overlay", "panel", "probabilities"]
    ids = np.asarray(Image.open("o/a.png"))
    color = np.asarray(Image.open("o/a_color.png"))
    assert (
        color.shape == (6, 8, 3) and (color[ids == 7] == (200, 0, 0)).all() and (color[ids == 9] == (0, 0, 200)).all()
    )
    assert Image.open("o/a_panel.png").width > 200
    with np.load("o/a_probabilities.npz", allow_pickle=False) as saved:
        likely, order, called = saved["probabilities"], saved["ids"], saved["names"]
    assert likely.shape == (2, 6, 8) and list(called) == ["left", "right"]
    assert (order[likely.argmax(axis=0)] == ids).all() and np.allclose(likely.sum(axis=0), 1, atol=1e-3)
    sure = 1 / (1 + np.exp(-8.0))  # soft-max of 8 and 0
    assert np.allclose(likely[0, :, :4], sure, atol=1e-3)


def test_ids_above_255_are_16_bit_and_one_form_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSegmenter, "space", LabelSpace({7: "left", 900: "right"}))
    assert run(image("a.jpg"), "-o", "o", "-f", "ids").exit_code == 0
    assert written() == ["a.png"] and Image.open("o/a.png").mode == "I;16"
    assert sorted(np.unique(np.asarray(Image.open("o/a.png")))) == [7, 900]


def test_results_that_would_share_a_file_are_refused(home: Path) -> None:
    result = run(image("in/a.jpg"), image("in/a_color.jpg"), "-o", "o", "-f", "ids", "-f", "color")
    assert result.exit_code == 2 and "would both be written to o/a_color.png" in result.stderr
    assert not Path("o").exists()


# ---------------------------------------------------------------------- again, and half way


def test_resume_does_what_is_missing_and_touches_nothing_else(home: Path) -> None:
    for name in ("in/a.jpg", "in/x/b.jpg", "in/c.jpg"):
        image(name)
    assert run("in", "-o", "o").exit_code == 0
    Path("o/c.png").unlink()
    Path("o/a.png").write_text("mine")
    Path("o/x/b_overlay.jpg").unlink()
    Path("o/x/b.png.part").write_text("left by a killed run")
    before = {name: (Path("o") / name).stat().st_mtime_ns for name in ("a.png", "a_overlay.jpg", "x/b.png")}
    result = run("in", "-o", "o", "--resume", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["skipped"] == 1
    assert [(set(w) - {"file"}, w["file"]) for w in told["written"]] == [
        ({"label_map"}, "in/c.jpg"),
        ({"overlay"}, "in/x/b.jpg"),
    ]
    assert before == {name: (Path("o") / name).stat().st_mtime_ns for name in before}
    FakeSegmenter.made.clear()
    done = run("in", "-o", "o", "--resume")
    assert done.exit_code == 0 and "0 of 3 images written to o, 3 there already" in done.stdout
    assert FakeSegmenter.made == []  # no model is loaded for nothing
    assert run("in", "-o", "o", "--resume", "--overwrite").exit_code == 2


@pytest.mark.parametrize("form", ["ids", "color", "overlay", "panel", "probabilities"])
def test_a_file_that_was_not_written_to_its_end_has_not_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The moment before the new name is given: all is written under another, and what was there stands."""
    image("a.jpg")
    seen = []

    def die(source: str, target: Any) -> None:
        seen.append((Path(source).name, Path(source).stat().st_size > 0, Path(target).exists()))
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("hf_dinoseg.inference.write.os.replace", die)
        result = run("a.jpg", "-o", "o", "-f", form)
    assert result.exit_code == 1 and "no space left" in result.stderr and written() == []
    [(name, full, there)] = seen
    assert name.endswith(".part") and full and not there
    assert run("a.jpg", "-o", "o", "-f", form, "--resume").exit_code == 0 and len(written()) == 1


# ---------------------------------------------------------------------- addresses


class Server(BaseHTTPRequestHandler):
    """Serves an image under /x/a.png and /moved, and a page under /page.html."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/x/a.png")
            self.end_headers()
        elif self.path in ("/x/a.png", "/page.html"):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 6), (10, 20, 30)).save(buffer, "PNG")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue() if self.path == "/x/a.png" else b"<html>")
        else:
            self.send_error(404)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_fetched_and_bad_ones_are_listed(home: Path, address: str) -> None:
    good, moved, page, none = (f"{address}/{name}" for name in ("x/a.png", "moved", "page.html", "none.png"))
    result = run(good, moved, page, none, image("b.jpg"), "-o", "o", "--json", "-f", "ids")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [item["file"] for item in told["written"]] == [good, moved, "b.jpg"]
    assert written() == ["a.png", "b.png", "moved.png"] and Image.open("o/moved.png").size == (8, 6)
    failed = {item["file"]: item["error"] for item in told["failed"]}
    assert "404" in failed[none] and failed[none].startswith(none)
    assert failed[page].startswith(f"{page}: cannot be read as an image") and "dinoseg-" not in failed[page]


def test_a_server_that_is_not_there_and_offline_mode_are_told(
    home: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("http://127.0.0.1:9/a.png", "-o", "o")
    assert result.exit_code == 1 and "http://127.0.0.1:9/a.png: cannot be fetched" in result.stderr
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run(f"{address}/x/a.png", "-o", "o")
    assert result.exit_code == 1 and "HF_HUB_OFFLINE" in result.stderr


def test_a_url_that_goes_on_for_ever_is_left(home: Path, address: str) -> None:
    with pytest.raises(ValueError, match="more than 10 bytes"):
        download(f"{address}/x/a.png", "a.png", max_bytes=10)
    assert load_image(f"{address}/x/a.png").size == (8, 6)


# ---------------------------------------------------------------------- lists, settings, files about all images


def test_names_come_from_lists_and_from_standard_input(home: Path) -> None:
    for name in ("in/a.jpg", "in/b c.jpg", "d.jpg"):
        image(name)
    Path("names.txt").write_text("\ufeffin/a.jpg\n\n in/b c.jpg \n", encoding="utf-8")
    assert run("--list", "names.txt", "-o", "o", "-f", "ids").exit_code == 0
    assert written() == ["a.png", "b c.png"]
    piped = CliRunner().invoke(app, ["predict", "checkpoint", "-", "-o", "p", "-f", "ids"], input="in/a.jpg\nd.jpg\n")
    assert piped.exit_code == 0 and written("p") == ["a.png", "d.png"]
    missing = run("--list", "nowhere.txt", "-o", "q")
    assert missing.exit_code == 2 and "nowhere.txt" in missing.stderr and not Path("q").exists()
    assert run("-o", "q").exit_code == 2


def test_device_batch_and_views_reach_the_segmenter(home: Path) -> None:
    options = ["--device", "cpu", "--batch-size", "3", "--tta-scales", "0.5,1", "--tta-flip"]
    assert run(image("a.jpg"), "-o", "o", *options).exit_code == 0
    ((_, given),) = FakeSegmenter.made
    assert (given["device"], given["batch_size"], given["tta"]) == ("cpu", 3, {"scales": [0.5, 1.0], "flip": True})
    assert run("a.jpg", "-o", "p").exit_code == 0 and FakeSegmenter.made[1][1]["tta"] is None
    for wrong in (["--device", "nonsense"], ["--tta-scales", "1,x"], ["--tta-scales", "0"], ["--pixel-size", "1m"]):
        result = run("a.jpg", "-o", "q", *wrong)
        assert result.exit_code == 2 and wrong[0] in result.stderr, wrong
    assert not Path("q").exists()


def test_quiet_says_only_what_failed(home: Path) -> None:
    image("in/a.jpg")
    result = run("in", "-o", "o", "-q")
    assert (result.exit_code, result.output) == (0, "")
    Path("in/b.jpg").write_bytes(b"no image")
    result = run("in", "-o", "o", "-q", "--resume")
    assert result.exit_code == 1 and result.stdout == "" and "in/b.jpg" in result.stderr


def test_areas_and_coco_are_put_together_and_resumed(home: Path) -> None:
    image("in/x/a.jpg"), image("in/b.jpg", (4, 2))
    forms = ["-f", "areas", "-f", "coco", "--pixel-size", "0.5 mm", "--tolerance", "0"]
    assert run("in", "-o", "o", *forms).exit_code == 0
    assert written() == [
        "annotations.json",
        "areas.csv",
        "areas/b.csv",
        "areas/x/a.csv",
        "coco/b.json",
        "coco/x/a.json",
    ]
    lines = Path("o/areas.csv").read_text().splitlines()
    assert lines[0] == "image,id,class,pixels,share,area_mm2" and len(lines) == 1 + 2 * 3
    assert {"b.jpg,7,left,4,0.500000,1", "x/a.jpg,9,right,24,0.500000,6"} <= set(lines)
    whole = json.loads(Path("o/annotations.json").read_text())
    assert [entry["file_name"] for entry in whole["images"]] == ["b.jpg", "x/a.jpg"]
    assert [(e["image_id"], e["category_id"], e["area"]) for e in whole["annotations"]] == [
        (1, 7, 4),
        (1, 9, 4),
        (2, 7, 24),
        (2, 9, 24),
    ]

    again = run("in", "-o", "o", *forms)
    assert again.exit_code == 2 and "exist already" in again.stderr
    before = Path("o/areas/b.csv").stat().st_mtime_ns
    image("in/c.jpg")
    assert run("in", "-o", "o", *forms, "--resume").exit_code == 0
    assert len(json.loads(Path("o/annotations.json").read_text())["images"]) == 3
    assert len(Path("o/areas.csv").read_text().splitlines()) == 1 + 3 * 3
    assert Path("o/areas/b.csv").stat().st_mtime_ns == before


def test_polygons_leave_out_a_class_and_yolo_names_the_others(home: Path) -> None:
    image("a.jpg")
    assert run("a.jpg", "-o", "o", "-f", "yolo", "-f", "geojson", "--omit", "left").exit_code == 0
    assert Path("o/a.txt").read_text().split()[0] == "9" and len(Path("o/a.txt").read_text().splitlines()) == 1
    assert "9: right" in Path("o/data.yaml").read_text()
    (feature,) = json.loads(Path("o/a.geojson").read_text())["features"]
    assert feature["properties"] == {"id": 9, "name": "right", "pixels": 24}
    wrong = run("a.jpg", "-o", "p", "-f", "yolo", "--omit", "up")
    assert wrong.exit_code == 2 and "left, right" in wrong.stderr


def test_an_image_named_like_a_file_about_all_images_is_refused(home: Path) -> None:
    result = run(image("annotations.jpg"), "-o", "o", "-f", "labelme", "-f", "coco")
    assert result.exit_code == 2 and "annotations.json" in result.stderr


def test_shells_complete_what_is_typed(home: Path) -> None:
    """As a shell asks: words, and the place of the cursor; the answer holds the options that fit."""
    words = {"_DINOSEG_COMPLETE": "complete_bash", "COMP_WORDS": "dinoseg predict --pix", "COMP_CWORD": "2"}
    result = CliRunner().invoke(app, [], prog_name="dinoseg", env=words)
    assert "--pixel-size" in result.stdout.split()


PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import test_predict
import hf_dinoseg.inference
hf_dinoseg.inference.Segmenter = test_predict.FakeSegmenter
from hf_dinoseg.cli import main
main()
"""


def test_processes_share_a_folder(home: Path) -> None:
    """Two processes do each image once, and one of them tells of all, those that failed among them."""
    for number in range(5):
        image(f"in/{number}.jpg")
    Path("in/3.jpg").write_bytes(b"no image")
    Path("process.py").write_text(PROCESS.format(folder=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["process.py", "predict", "checkpoint", "in", "-o", "o", "-f", "ids", "-f", "areas", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    told = json.loads(result.stdout)
    assert sorted(Path(each["file"]).name for each in told["written"]) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    assert [Path(each["file"]).name for each in told["failed"]] == ["3.jpg"] and told["skipped"] == 0
    assert [f"{n}.png" in written() for n in range(5)] == [True, True, True, False, True]
    assert len(Path("o/areas.csv").read_text().splitlines()) == 1 + 4 * 3
    assert result.stderr.count("dinoseg: in/3.jpg") == 1
