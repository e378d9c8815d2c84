"""Figures in pages are those that were measured: `docs/fill_figures.py` writes them, from files of results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from fill_figures import PAGES, filled, measured  # noqa: E402


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_the_figures_that_were_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, measured()) == text, "run: python docs/fill_figures.py"


def test_every_result_is_marked_in_a_page() -> None:
    """What no page quotes would rot unseen."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in measured() if "_mask2former_" not in name and f"<!-- figure {name} " not in pages] == []


def test_a_page_is_filled_from_the_results_and_from_the_runs_of_the_cards() -> None:
    figures = measured()
    run = json.loads((ROOT / "model_cards" / "camvid_mask2former_tiny.json").read_text(encoding="utf-8"))
    assert figures["camvid_mask2former_tiny.mean_iou"] == 100 * run["mean_iou"]
    text = "A <!-- figure a.b .2f -->9.99<!-- end --> and <!-- figure c d .1e -->?<!-- end -->."
    expected = "A <!-- figure a.b .2f -->1.50<!-- end --> and <!-- figure c d .1e -->1.0e-04<!-- end -->."
    assert filled(text, {"a.b": 1.5, "c d": 1e-4}) == expected


@pytest.mark.parametrize("mark", ["<!-- figure a .2f -->1.00", "<!-- figure a -->1.00<!-- end -->"])
def test_a_mark_that_is_not_one_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="form"):
        filled(mark, {"a": 1.0})
    with pytest.raises(KeyError):
        filled("<!-- figure b .2f -->1.00<!-- end -->", {"a": 1.0})
