from __future__ import annotations

import json

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
