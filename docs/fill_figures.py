"""Writes measured figures into the pages: python docs/fill_figures.py [--check]

A page marks a figure and names where it stands:

    <!-- figure head.inference.times_faster .2f -->2.11<!-- end -->

The figures are those of `benchmarks/results.json`, and of the runs whose metrics lie in `model_cards/`, in per cent:
`camvid_mask2former_tiny.mean_iou`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", ROOT / "recipes" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
_FIGURE = re.compile(r"<!-- figure (?P<name>[^>]+?) (?P<form>\.\d[fe]) -->(?P<text>[^<]*)<!-- end -->")


def measured() -> dict[str, float]:
    """Every figure by its dotted name."""
    figures = _flat(json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8")))
    for path in (ROOT / "model_cards").glob("*.json"):
        run = _flat({path.stem: json.loads(path.read_text(encoding="utf-8"))})
        figures |= {name: 100 * value for name, value in run.items()}
    return figures


def _flat(data: Any, name: str = "") -> dict[str, float]:
    if isinstance(data, dict):
        return {k: v for key, value in data.items() for k, v in _flat(value, f"{name}.{key}".strip(".")).items()}
    return {name: data} if isinstance(data, (int, float)) and not isinstance(data, bool) else {}


def filled(text: str, figures: dict[str, float]) -> str:
    """A page with each marked figure as it was measured; `KeyError` for one that was not."""
    if text.count("<!-- figure ") != len(_FIGURE.findall(text)):
        raise ValueError("a mark is not of the form <!-- figure NAME .2f -->1.23<!-- end -->")
    return _FIGURE.sub(
        lambda m: f"<!-- figure {m['name']} {m['form']} -->{figures[m['name']]:{m['form']}}<!-- end -->", text
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a figure is another")
    check = parser.parse_args().check
    figures = measured()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text, figures)
        if check and new != text:
            sys.exit(f"{page} has other figures than were measured; run this script.")
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
