"""Writes measured figures into the pages: python docs/fill_figures.py [--check]

A page marks a figure and names where it stands, or has a whole table filled:

    <!-- figure head.inference, fp32.times faster .2f -->2.11<!-- end -->

    <!-- table head -->
    <!-- end -->

What was measured stands in two places. `benchmarks/results.json` holds `figures`, and `tables` of rows with the number
format of each column; a cell is named by table, row and column. The metrics of the runs that are kept lie in
`model_cards/`: `camvid_mask2former_tiny.mean_iou` is in per cent, `camvid_mask2former_tiny.minutes` the run's time,
and `camvid_mask2former_tiny` the table of its classes.
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
_TABLE = re.compile(r"<!-- table (?P<name>[^>]+?) -->\n(?P<text>[^<]*)<!-- end -->")

#: {"columns": {heading: number format, "" for text}, "rows": [[cell, …], …]}; a cell of null is left empty
Table = dict[str, Any]


def measured() -> tuple[dict[str, float], dict[str, Table]]:
    """Every figure by its dotted name, and every table by its name."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    tables: dict[str, Table] = results["tables"]
    figures = _flat(results["figures"])
    for name, table in tables.items():
        for row in table["rows"]:
            label = ", ".join(cell for cell, form in zip(row, table["columns"].values(), strict=True) if not form)
            numbers = {k: v for k, v in zip(table["columns"], row, strict=True) if isinstance(v, (int, float))}
            figures |= {f"{name}.{label}.{column}": value for column, value in numbers.items()}
    for path in (ROOT / "model_cards").glob("*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        figures |= {name: 100 * value for name, value in _flat({path.stem: run}).items()}
        figures[f"{path.stem}.minutes"] = run["seconds"] / 60
        tables[path.stem] = _classes(run)
    return figures, tables


def _flat(data: Any, name: str = "") -> dict[str, float]:
    if isinstance(data, dict):
        return {k: v for key, value in data.items() for k, v in _flat(value, f"{name}.{key}".strip(".")).items()}
    return {name: data} if isinstance(data, (int, float)) and not isinstance(data, bool) else {}


def _classes(run: dict[str, Any]) -> Table:
    """A run's figures of each class in per cent, and their means."""
    kinds = {"IoU": "iou", "Dice": "dice", "accuracy": "accuracy"}
    rows: list[list[Any]] = []
    for key in run["per_category_iou"]:
        figures = (run[f"per_category_{kind}"][key] for kind in kinds.values())
        rows.append([*key.split(" ", 1), *(None if figure is None else 100 * figure for figure in figures)])
    rows.append(["", "mean", *(100 * run[f"mean_{kind}"] for kind in kinds.values())])
    return {"columns": {"id": "", "class": "", **dict.fromkeys(kinds, ".2f")}, "rows": rows}


def drawn(table: Table) -> str:
    """A table in Markdown, numbers to the right."""
    forms = list(table["columns"].values())
    lines = [list(table["columns"]), ["---:" if form else "---" for form in forms]]
    for row in table["rows"]:
        cells = zip(row, forms, strict=True)
        lines.append([f"{cell:{form}}" if isinstance(cell, (int, float)) else cell or "" for cell, form in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str, figures: dict[str, float], tables: dict[str, Table]) -> str:
    """A page with each marked figure and table as it was measured; `KeyError` for one that was not."""
    for kind, mark in (("figure", _FIGURE), ("table", _TABLE)):
        if text.count(f"<!-- {kind} ") != len(mark.findall(text)):
            raise ValueError(f"a {kind}'s mark is not of the form that docs/fill_figures.py gives")
    text = _FIGURE.sub(
        lambda m: f"<!-- figure {m['name']} {m['form']} -->{figures[m['name']]:{m['form']}}<!-- end -->", text
    )
    return _TABLE.sub(lambda m: f"<!-- table {m['name']} -->\n{drawn(tables[m['name']])}<!-- end -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a figure is another")
    check = parser.parse_args().check
    results = measured()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text, *results)
        if check and new != text:
            sys.exit(f"{page} has other figures than were measured; run this script.")
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
