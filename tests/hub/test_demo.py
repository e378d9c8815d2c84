"""The demo page, in a browser: what is drawn is what the model said, and the controls act on it."""

from __future__ import annotations

import asyncio
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.hub import demo as demo_app
from hf_dinoseg.hub.demo import Demo, build_app, example_images, has_background, launch_options, view_data
from hf_dinoseg.inference import Segmenter
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegImageProcessor
from hf_dinoseg.visualize import class_colors, panel, save_panel

SPACE = LabelSpace({7: "red", 9: "green", 11: "blue"}, reduce_zero_label=True, colors={7: (255, 255, 0)})
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (120, 120, 120)]


class Strongest(nn.Module):
    """The class of a pixel is its strongest colour; grey leaves it undecided."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=pixel_values * self.sharpness)


def make_segmenter() -> Segmenter:
    processor = DinoSegImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Segmenter(Strongest(), processor, SPACE, mode="slide", window=48, stride=32)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Four upright stripes: red, green, blue, grey; 120 wide and 60 high."""
    stripes = np.repeat(np.array(COLORS, dtype=np.uint8), 30, axis=0)
    path = tmp_path / "stripes.png"
    Image.fromarray(np.broadcast_to(stripes, (60, 120, 3)).copy()).save(path)
    return path


def test_a_threshold_answers_no_class_where_no_class_is_likely(image: Path) -> None:
    demo = Demo(make_segmenter())
    result = demo.segment(str(image), "whole", 48, 32, True)
    for threshold, grey in ((0.0, 7), (0.5, 0)):
        data, file = demo.show(result, threshold, "stripes")
        saved = np.asarray(Image.open(file))
        assert [int(saved[30, x]) for x in (15, 45, 75, 105)] == [7, 9, 11, grey]
        shares = {one["label"]: one["share"] for one in json.loads(data)["classes"]}
        assert shares == pytest.approx(
            {"7 red": 0.5 if grey else 0.25, "9 green": 0.25, "11 blue": 0.25, "no class": 0.0 if grey else 0.25}
        )
    assert Path(file).name == "stripes_labels.png"


def test_large_images_are_shown_smaller_with_classes_intact() -> None:
    space = LabelSpace({i: f"class {i}" for i in range(300)})
    label_map = np.zeros((10, 2560), dtype=np.uint16)
    label_map[:, 1280:] = 299
    data = json.loads(view_data(Image.new("RGB", (2560, 10)), label_map, space))
    with urllib.request.urlopen(data["labels"]) as stream:
        shown = np.asarray(Image.open(io.BytesIO(stream.read()))).astype(int)
    assert shown.shape == (5, 1280, 3)
    assert set(np.unique(shown[..., 0] + 256 * shown[..., 1])) == {0, 299}


def test_only_a_model_without_background_has_a_threshold() -> None:
    assert not has_background(SPACE) and has_background(LabelSpace({0: "Background", 1: "a"}))


@pytest.mark.parametrize(("size", "shown"), [((40, 30), (40, 30)), ((300, 200), (300, 200)), ((960, 720), (480, 360))])
def test_examples_are_the_images_of_the_panels(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert example_images(str(tmp_path), tmp_path) == []
    panels = tmp_path / "panels" / "final"
    panels.mkdir(parents=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    label_map = np.full(size[::-1], 9)
    save_panel(panel(image, label_map, label_map, SPACE, title="one"), panels / "a.png")
    panel(image, label_map, label_map, SPACE).save(panels / "b.png")  # does not say where its image is
    (found,) = example_images(str(tmp_path), tmp_path)
    expected = image if shown == size else image.resize(shown, Image.Resampling.BOX)
    assert np.array_equal(np.asarray(Image.open(found)), np.asarray(expected))


def test_without_gradio_the_verb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(demo_app.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["demo", str(tmp_path)])
    assert result.exit_code == 1 and "pip install gradio" in result.stderr


def test_an_upload_that_is_no_image_is_answered_by_what_is_wrong(tmp_path: Path) -> None:
    """Through all that Gradio does with an upload."""
    gradio = pytest.importorskip("gradio")
    blocks = build_app(make_segmenter(), "Stripes")
    (run,) = {fn.fn: fn for fn in blocks.fns.values() if fn.name == "run"}.values()
    for name, content in (("notes.jpg", b"no image"), ("empty.png", b"")):
        upload = Path(blocks.GRADIO_CACHE) / "dinoseg-test" / name
        upload.parent.mkdir(parents=True, exist_ok=True)
        upload.write_bytes(content)
        file = {"path": str(upload), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(gradio.Error) as raised:
            asyncio.run(blocks.process_api(run, [file, "whole", 48, 32, False, 0]))
        assert str(raised.value.message).startswith(f"{name}: ") and str(upload.parent) not in raised.value.message


@pytest.mark.parametrize(
    ("window", "stride", "said"),
    [(1, 1, "windows are 1 pixels"), (10**9, 64, "windows are 1e"), (256, 1, "the step"), (256, 257, "the step"),
     (float("nan"), 32, "windows are nan"), (64, float("nan"), "the step")],
)  # fmt: skip
def test_windows_that_would_starve_others_are_refused(image: Path, window: float, stride: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Demo(make_segmenter()).segment(str(image), "slide", window, stride, False)


def test_what_the_checkpoint_was_evaluated_with_may_be_asked_for(image: Path) -> None:
    demo = Demo(Segmenter(Strongest(), make_segmenter().processor, SPACE, mode="slide", window=16, stride=1))
    assert demo.segment(str(image), "slide", 16, 1, False).label_map.shape == (60, 120)


class Sleeping(Strongest):
    """Three layers, each of which takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Nap() for _ in range(3)))

    def forward(self, pixel_values: Tensor) -> Any:
        return super().forward(self.layers(pixel_values))


class Nap(nn.Module):
    ran = 0

    def forward(self, pixel_values: Tensor) -> Tensor:
        Nap.ran += 1
        time.sleep(0.2)
        return pixel_values


def test_a_request_that_takes_too_long_ends_within_the_model_and_the_next_is_answered(image: Path) -> None:
    Nap.ran = 0
    demo = Demo(Segmenter(Sleeping(), make_segmenter().processor, SPACE), seconds=0.3)
    with pytest.raises(ValueError, match="stopped after 0.3 seconds"):
        demo.segment(str(image), "whole", 512, 341, False)
    assert Nap.ran < 3
    demo.seconds = 100
    assert demo.segment(str(image), "whole", 512, 341, False).label_map.shape == (60, 120)


def test_files_that_were_made_do_not_pile_up(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_app, "_KEPT_FILES", 2)
    demo = Demo(make_segmenter())
    result = demo.segment(str(image), "whole", 48, 32, False)
    files = [Path(demo.show(result, None, "x" * 300)[1]) for _ in range(4)]
    assert [file.exists() for file in files] == [False, False, True, True]


def test_uploads_and_the_queue_are_bounded() -> None:
    """A server takes no file that is larger, and refuses it while it comes."""
    pytest.importorskip("gradio")
    blocks = build_app(make_segmenter(), "Stripes")
    assert blocks._queue.max_size == demo_app.MAX_WAITING and blocks._queue.default_concurrency_limit == 1
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        answers = []
        for size in (1 << 10, demo_app.MAX_UPLOAD + (1 << 10)):
            head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            request = urllib.request.Request(f"{url}gradio_api/upload", head + bytes(size) + b"\r\n--x--\r\n")
            request.add_header("Content-Type", "multipart/form-data; boundary=x")
            try:
                with urllib.request.urlopen(request) as answer:
                    answers.append(answer.status)
            except urllib.error.HTTPError as error:
                answers.append(error.code)
        assert answers == [200, 413]
    finally:
        blocks.close()


# ---------------------------------------------------------------------- in the browser


@pytest.fixture
def page(image: Path) -> Iterator[str]:
    blocks = build_app(make_segmenter(), "Stripes", [image])
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield url
    blocks.close()


def wait_for(what: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.1)
    return found


def test_the_page_shows_what_the_model_said_and_its_controls_act_on_it(page: str, browser: Any, image: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def find(selector: str) -> Any:
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found else None

    def color(x: int) -> list[int]:
        context = "document.querySelector('#view canvas').getContext('2d')"
        return browser.execute_script(f"return [...{context}.getImageData({x}, 30, 1, 1).data]")[:3]

    def near(found: list[int], expected: tuple[float, ...]) -> bool:
        return bool(np.abs(np.array(found) - expected).max() < 12)  # the image came as JPEG

    browser.get(page)
    wait_for(lambda: find("#image input[type=file]")).send_keys(str(image))
    canvas = wait_for(lambda: find("#view canvas"))
    wait_for(lambda: near(color(15), (255, 0.6 * 255, 0)))  # yellow over red, 60 %

    slider = find("#view input[type=range]")
    slider.send_keys(Keys.END)
    assert near(color(15), (255, 255, 0))
    slider.send_keys(Keys.HOME)
    assert [near(color(x), c) for x, c in zip((15, 45, 75, 105), COLORS, strict=True)] == [True] * 4
    slider.send_keys(Keys.END)

    red = find("#view .legend button[data-id='7']")
    assert red.text.split("\n") == ["7 red", "50.0 %"]
    red.send_keys(Keys.SPACE)
    assert near(color(15), (255, 0, 0)) and red.get_attribute("aria-pressed") == "false"
    assert near(color(45), class_colors(SPACE)[9])  # the others stay
    red.send_keys(Keys.SPACE)
    assert near(color(15), (255, 255, 0))

    width = canvas.size["height"] * 2  # the image is twice as wide as high; margins fill the rest
    for stripe, name in enumerate(("7 red", "9 green", "11 blue")):
        offset = round((stripe - 1.5) * min(width, canvas.size["width"]) / 4)
        ActionChains(browser).move_to_element_with_offset(canvas, offset, 0).perform()
        assert find("#view .readout").text == name
    canvas.send_keys(Keys.ARROW_LEFT)  # from the middle, which is where blue begins
    assert find("#view .readout").text == "9 green"

    folder = image.parent / "downloads"
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    wait_for(lambda: find("button#download, #download button").is_enabled())
    find("button#download, #download button").click()
    saved = Image.open(wait_for(lambda: next(folder.glob("*.png"), None)))
    assert saved.mode == "P" and [saved.getpixel((x, 30)) for x in (15, 45, 75)] == [7, 9, 11]

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith((page, "data:", "blob:"))] == []
