from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.doctor import DoctorError, Finding, Report, contact_sheet, examine
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


def test_the_contact_sheet_shows_classes_unknown_ids_and_faults(row, quarters):
    labels = LabelSpace({0: "background", 1: "b", 2: "c"}, colors={1: (255, 0, 0), 2: (0, 0, 255)})
    white = np.full((40, 60, 3), 255, np.uint8)
    rows = [row(quarters(), "known", white), row(b"", "broken", white), row(quarters()[:9], "small", white)]
    rows.append(row(quarters(), "gone", b""))
    sheet = np.asarray(contact_sheet(rows, labels, examine({"train": rows}, labels)))
    tile = sheet[10 : 10 + 270, 10 : 10 + 360]  # a picture of 60 by 40 is drawn at 360 by 240, in the middle
    assert tuple(tile[50, 50]) == (255, 255, 255)  # background leaves the photograph
    assert tuple(tile[50, 300]) == (255, 128, 128)  # half red
    assert tuple(tile[220, 50]) == (128, 128, 255)
    assert tuple(tile[220, 300]) == (255, 0, 255)  # id 3 is unknown
    assert sheet.shape[1] == 4 * 370 + 10


@pytest.mark.parametrize(("encoding", "mask"), [("binary", (0, 255, 255, 0)), ("index", (0, 1, 1, 0))])
def test_the_contact_sheet_reads_masks_by_their_encoding(row, quarters, encoding, mask):
    labels = LabelSpace({0: "background", 1: "b"}, encoding=encoding, colors={1: (255, 0, 0)})
    rows = [row(quarters(mask), "a", np.full((40, 60, 3), 255, np.uint8))]
    sheet = np.asarray(contact_sheet(rows, labels, examine({"train": rows}, labels)))
    assert tuple(sheet[60, 310]) == (255, 128, 128) and tuple(sheet[60, 60]) == (255, 255, 255)
    one_bit = row(Image.fromarray(quarters((0, 255, 255, 0))).convert("1"), "a", np.full((40, 60, 3), 255, np.uint8))
    sheet = np.asarray(contact_sheet([one_bit], labels, examine({"train": [one_bit]}, labels)))
    assert tuple(sheet[60, 310]) == (255, 128, 128)


def test_the_contact_sheet_of_hundreds_of_classes_stays_of_a_size(row):
    labels = LabelSpace({i: f"class {i}" for i in range(300)})
    rows = [row(np.arange(2400, dtype=np.uint16).reshape(40, 60) % 300, "a")]
    assert contact_sheet(rows, labels, examine({"train": rows}, labels)).height < 3000
