from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from hf_dinoseg import LabelSpace
from hf_dinoseg.doctor import DoctorError, Finding, Report, examine
from hf_dinoseg.doctor.report import share_text, some

WARNING = Finding("warning", "much-void", "much", "less")
ERROR = Finding("error", "unknown-ids", "9 is seen", "write 9")


def test_errors_come_first_in_text_and_json():
    report = Report((WARNING,)).with_findings([ERROR])
    assert report.findings == (ERROR, WARNING) and report.errors == (ERROR,)
    assert report.text() == (
        "error: unknown-ids\n  9 is seen\n  write 9\n\nwarning: much-void\n  much\n  less\n\n1 error, 1 warning."
    )
    plain = json.loads(report.to_json())
    assert plain["errors"] == 1 and plain["warnings"] == 1
    assert plain["findings"][0] == {"level": "error", "code": "unknown-ids", "seen": "9 is seen", "cure": "write 9"}


def test_only_errors_stop():
    Report((WARNING,)).raise_on_error()
    with pytest.raises(DoctorError, match="9 is seen\n  write 9\ngo on with --force"):
        Report((WARNING, ERROR)).raise_on_error("go on with --force")


def test_shares_and_lists_for_reading():
    assert [share_text(s) for s in (0, 1, 0.1234, 0.00004, 0.001)] == ["0 %", "100.0 %", "12.3 %", "0.004 %", "0.1 %"]
    assert some([1, 2], 2) == "1, 2" and some([1, 2, 3], 2) == "1, 2 and 1 more"


def test_the_overview_holds_every_id_with_its_share_by_split(row, quarters):
    labels = LabelSpace({0: "a", 1: "b", 5: "c"}, ignore=(3,))
    data = {"train": [row(quarters(), "t")], "validation": [row(quarters((0, 0, 0, 1)), "v")]}
    overview = examine(data, labels).overview
    shares = {entry["id"]: (entry["name"], entry["shares"]) for entry in overview["ids"]}
    assert shares["0"] == ("a", {"train": 0.25, "validation": 0.75})
    assert shares["3"] == ("(void)", {"train": 0.25}) and shares["5"] == ("c", {})
    assert shares["2"] == ("(unknown)", {"train": 0.25})
    assert overview["num_labels"] == 3 and "(unknown)" in examine(data, labels).text()


def test_every_finding_is_listed_in_the_docs():
    """Codes as the source writes them: the second argument of a Finding, the first of a Repair or a Reading."""
    places = {"Finding": 1, "Repair": 0, "Reading": 0}
    root = Path(__file__).parents[2]
    codes = set()
    for path in (root / "hf_dinoseg" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in places:
                place = places[node.func.id]
                if len(node.args) > place and isinstance(code := node.args[place], ast.Constant):
                    codes.add(code.value)
    page = (root / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert len(codes) > 30 and [code for code in sorted(codes) if f"`{code}`" not in page] == []
