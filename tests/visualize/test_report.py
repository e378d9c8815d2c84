"""The report in a browser, as a reader uses it: by mouse, by keyboard, on a phone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import ReportImage, render_report, save_confusion

EVIL = "<script>alert(1)</script> & \"quoted\" 'name'"
SPACE = LabelSpace({0: "background", 4: EVIL, 300: "vein", 7: "never"}, ignore=(255,))
KEYS = ["0 background", f"4 {EVIL}", "7 never", "300 vein"]
MATRIX = np.array([[80, 10, 0, 10, 0], [5, 15, 0, 0, 0], [0, 0, 0, 0, 0], [2, 0, 0, 17, 1]])


def metrics() -> dict[str, Any]:
    figures = {
        "iou": [0.9, 0.5, math.nan, 0.7],
        "dice": [0.95, 0.6, math.nan, 0.8],
        "precision": [0.9, 0.6, math.nan, 0.63],
    }
    return {
        "mean_iou": 0.7,
        "mean_iou_interval": [0.612, 0.787],
        "overall_accuracy": 0.8,
        "num_absent_classes": 1,
        "num_images": 2,
        "per_category_iou_interval": {key: [0.5, 0.6] for key in KEYS[:2]} | {key: [math.nan] * 2 for key in KEYS[2:]},
        "versions": {"torch": "2.0"},
        **{f"per_category_{kind}": dict(zip(KEYS, values, strict=True)) for kind, values in figures.items()},
    }


@pytest.fixture
def page(tmp_path: Path) -> str:
    truth = np.zeros((30, 40), dtype=np.int64)
    truth[:, 20:] = 300
    truth[:10] = 255
    prediction = np.where(truth == 255, 0, truth)
    prediction[15:, 20:30] = 4
    photo = Image.new("RGB", (40, 30), (10, 200, 40))
    images = [ReportImage(EVIL, photo, truth, prediction, 0.4), ReportImage("b", photo, truth, truth, 1.0)]
    path = tmp_path / "report.html"
    recipe = "labels: {x: </pre><script>alert(2)</script>}"
    path.write_text(
        render_report(EVIL, metrics(), MATRIX, SPACE, images, recipe, "no class below 0.3", [(EVIL, "because")])
    )
    return path.as_uri()


def pixel(browser: Any, image: int, kind: str, x: int, y: int) -> list[int]:
    return browser.execute_script(
        f"return [...document.querySelectorAll('article')[{image}].querySelector('[data-kind={kind}]')"
        f".getContext('2d').getImageData({x}, {y}, 1, 1).data].slice(0, 3)"
    )


def open_page(browser: Any, page: str, width: int = 1280) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")


def settle(browser: Any) -> None:
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


def test_the_page_shows_everything_and_asks_nobody(browser: Any, page: str) -> None:
    open_page(browser, page)
    text = browser.execute_script("return document.body.innerText")
    for shown in (
        "70.0 %",
        "61.2 to 78.7",
        "80.0 %",
        "2 validation images",
        "no class below 0.3",
        EVIL,
        "because",
        "torch 2.0",
    ):
        assert shown in text, shown
    assert "alert(2)" in browser.execute_script("return document.querySelector('pre').textContent")
    assert len(browser.find_elements("css selector", "article canvas")) == 8
    requests = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    )
    assert requests == [] and browser.get_log("browser") == []
    assert not browser.execute_script("return document.querySelectorAll('script').length > 2")


def test_the_table_sorts_by_click_and_by_keyboard(browser: Any, page: str) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)

    def order() -> list[str]:
        return browser.execute_script(
            "return [...document.querySelectorAll('#per-class tbody tr')].map(r => r.children[0].innerText)"
        )

    assert order() == ["0", "4", "7", "300"]
    heading = browser.find_elements("css selector", "#per-class thead th")[2]
    button = heading.find_element("tag name", "button")
    button.click()
    assert order() == ["0", "300", "4", "7"] and heading.get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.ENTER)
    assert order() == ["4", "300", "0", "7"] and heading.get_attribute("aria-sort") == "ascending"  # absent stays last
    name = browser.find_elements("css selector", "#per-class thead button")[1]
    name.send_keys(Keys.SPACE)
    assert order() == ["4", "0", "7", "300"] and heading.get_attribute("aria-sort") is None


def test_a_confusion_cell_tells_what_it_is(browser: Any, page: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    matrix, told = browser.find_element("id", "matrix"), browser.find_element("id", "cell")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", matrix)
    width, height = matrix.size["width"], matrix.size["height"]
    gutter = 120
    side = (width - gutter) / 5  # four classes and "no answer"
    ActionChains(browser).move_to_element_with_offset(
        matrix, round(gutter + 4.5 * side - width / 2), round(gutter + 3.5 * side - height / 2)
    ).perform()
    assert told.text == "vein, left without an answer: 5.0 % of its pixels (1)."
    matrix.send_keys(Keys.ARROW_LEFT)
    assert told.text == "vein, rightly named: 85.0 % of its pixels (17)."
    matrix.send_keys(Keys.ARROW_UP)
    assert told.text == "never: not in the truth."
    matrix.send_keys(*[Keys.ARROW_UP] * 9, *[Keys.ARROW_LEFT] * 2)
    assert told.text.startswith(f"background, taken for {EVIL}: 10.0 % of its pixels (10)")
    browser.find_element("css selector", "#mistakes button").click()
    assert "10.0 %" in told.text


def test_mistakes_are_ranked_by_the_share_that_is_shown(browser: Any, page: str) -> None:
    """140 labelled pixels; the rarer class's mistakes weigh more in its own share and stand lower all the same."""
    open_page(browser, page)
    shown = [item.text for item in browser.find_elements("css selector", "#mistakes li")]
    assert shown == [
        f"background → {EVIL}: 7.1 % (10.0 % of background)",
        "background → vein: 7.1 % (10.0 % of background)",
        f"{EVIL} → background: 3.6 % (25.0 % of {EVIL})",
        "vein → background: 1.4 % (10.0 % of vein)",
        "vein → no answer: 0.7 % (5.0 % of vein)",
    ]


def test_slider_and_toggles_change_the_images(browser: Any, page: str) -> None:
    open_page(browser, page)
    from selenium.webdriver.common.keys import Keys

    photo = pixel(browser, 0, "image", 35, 25)
    tinted = pixel(browser, 0, "prediction", 35, 25)  # vein
    assert photo != tinted and pixel(browser, 0, "truth", 5, 25) == photo  # background is off at first
    assert pixel(browser, 0, "error", 25, 25) == [255, 48, 48] != pixel(browser, 0, "error", 35, 25)
    assert len({tuple(pixel(browser, 0, "error", x, 3)) for x in range(8)}) == 2  # void is hatched
    slider = browser.find_element("id", "opacity")
    slider.send_keys(Keys.END)
    settle(browser)
    opaque = pixel(browser, 0, "prediction", 35, 25)
    colors = json.loads(browser.find_element("id", "data").get_attribute("textContent"))["colors"]
    assert opaque == colors[3] and opaque != tinted
    vein = browser.find_element("css selector", "#toggles input[value='3']")
    vein.send_keys(Keys.SPACE)
    settle(browser)
    assert pixel(browser, 0, "prediction", 35, 25) == photo == pixel(browser, 0, "truth", 35, 25)
    browser.find_element("id", "none").click()
    settle(browser)
    assert pixel(browser, 0, "error", 25, 25) != [255, 48, 48]
    browser.find_element("id", "all").click()
    slider.send_keys(Keys.HOME)
    settle(browser)
    assert pixel(browser, 0, "prediction", 25, 25) == photo
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Any, page: str) -> None:
    open_page(browser, page, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.execute_script("return document.querySelector('meta[name=viewport]') !== null")


def test_confusion_image_grows_with_the_classes(tmp_path: Path) -> None:
    save_confusion(MATRIX, SPACE, tmp_path / "few.png")
    many = LabelSpace({i: f"class number {i} $x$" for i in range(150)})
    save_confusion(np.eye(150, 151, dtype=np.int64), many, tmp_path / "many.png")
    few, large = (Image.open(tmp_path / name).size for name in ("few.png", "many.png"))
    assert large[0] > 2500 > few[0] > 400
    drawn = np.asarray(Image.open(tmp_path / "few.png").convert("RGB")).reshape(-1, 3)
    assert (drawn.max(axis=1) < 140).any() and len(np.unique(drawn, axis=0)) > 50
