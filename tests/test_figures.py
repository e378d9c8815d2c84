"""Figures in pages are those that were measured: `docs/fill_figures.py` writes them, from files of results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from fill_figures import PAGES, filled, measured  # noqa: E402

RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_the_figures_that_were_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, *measured()) == text, "run: python docs/fill_figures.py"


def test_every_result_is_marked_in_a_page() -> None:
    """What no page quotes would rot unseen."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [f"{group}.{name}" for group, figures in RESULTS["figures"].items() for name in figures]
    assert [name for name in names if f"<!-- figure {name} " not in pages] == []
    assert [name for name in RESULTS["tables"] if f"<!-- table {name} -->" not in pages] == []


def test_no_table_of_results_is_written_by_hand() -> None:
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    without = re.sub(r"<!-- table .*?<!-- end -->", "", page, flags=re.DOTALL)
    assert [line for line in without.splitlines() if line.startswith("|")] == []


PEERS = {"ours s": ("transformers s", "plain loop s"), "ms": ("model's ms",)}


def test_ratios_of_the_tables_are_those_of_their_columns() -> None:
    """`times faster` is the peer's time over ours; a cell that was changed by hand would show."""
    seen = 0
    for name, table in RESULTS["tables"].items():
        columns = list(table["columns"])
        for ours, peers in PEERS.items():
            peer = next((p for p in peers if p in columns), None)
            if "times faster" not in columns or ours not in columns or peer is None:
                continue
            for row in table["rows"]:
                cells = dict(zip(columns, row, strict=True))
                ratio = pytest.approx(cells[peer] / cells[ours], rel=0.02, abs=0.006)
                assert cells["times faster"] == ratio, (name, row)
                seen += 1
    assert seen > 20


def test_a_page_is_filled_from_the_results_and_from_the_runs_of_the_cards() -> None:
    figures, tables = measured()
    run = json.loads((ROOT / "model_cards" / "camvid_mask2former_tiny.json").read_text(encoding="utf-8"))
    assert figures["camvid_mask2former_tiny.mean_iou"] == 100 * run["mean_iou"]
    assert figures["camvid_mask2former_tiny.minutes"] == run["seconds"] / 60
    sky = run["per_category_iou"]["0 sky"], run["per_category_dice"]["0 sky"], run["per_category_accuracy"]["0 sky"]
    assert tables["camvid_mask2former_tiny"]["rows"][0] == ["0", "sky", *(100 * value for value in sky)]
    text = "A <!-- figure a.b .2f -->9.99<!-- end --> and <!-- figure c d .1e -->?<!-- end -->."
    expected = "A <!-- figure a.b .2f -->1.50<!-- end --> and <!-- figure c d .1e -->1.0e-04<!-- end -->."
    assert filled(text, {"a.b": 1.5, "c d": 1e-4}, {}) == expected
    table = {"columns": {"way": "", "s": ".2f"}, "rows": [["ours", 1], ["theirs", None]]}
    expected = "<!-- table t -->\n| way | s |\n| --- | ---: |\n| ours | 1.00 |\n| theirs |  |\n<!-- end -->"
    assert filled("<!-- table t -->\n| old |\n<!-- end -->", {}, {"t": table}) == expected


@pytest.mark.parametrize(
    "mark", ["<!-- figure a .2f -->1.00", "<!-- figure a -->1.00<!-- end -->", "<!-- table t -->| a |<!-- end -->"]
)
def test_a_mark_that_is_not_one_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="form"):
        filled(mark, {"a": 1.0}, {})
    with pytest.raises(KeyError):
        filled("<!-- figure b .2f -->1.00<!-- end -->", {"a": 1.0}, {})
