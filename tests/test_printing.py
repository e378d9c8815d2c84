"""How objects show themselves: short in a session, as tables in a notebook."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np

from hf_dinoseg.doctor import Finding, Report
from hf_dinoseg.evaluation import summarize
from hf_dinoseg.evaluation.metrics import Metrics
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import label_preset, recipe_of


class _Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.rows[-1].append(data)


def test_metrics_are_a_table() -> None:
    """Figures of a matrix worked out by hand: IoU 6/9 and 1/4, accuracies 6/7 and 1/3."""
    space = LabelSpace({0: "background", 5: "<b>"})
    metrics = Metrics(summarize(np.array([[6, 1, 0], [2, 1, 0]]), space))
    lines = [line.split() for line in str(metrics).splitlines()]
    assert ["mean_iou", "45.83"] in lines and ["0", "background", "66.67", "80.00", "85.71"] in lines
    rows = _Cells(metrics._repr_html_()).rows
    assert ["mean_iou", "45.83"] in rows and ["5 <b>", "25.00", "40.00", "33.33"] in rows
    assert "<b>" not in metrics._repr_html_() and json.loads(json.dumps(metrics)) == dict(metrics)
    assert str(Metrics()) == "" and Metrics() == {}


def test_label_spaces_and_recipes_fit_on_a_line() -> None:
    assert (
        repr(LabelSpace({0: "no", 1: "yes"}, encoding="binary"))
        == "LabelSpace(2 classes: 0 no, 1 yes; encoding binary)"
    )
    merged = LabelSpace({1: "a", 2: "b", 3: "c"}, ignore=(0, 255), merge={3: 1})
    assert repr(merged) == "LabelSpace(2 classes: 1 a, 2 b; void 0, 255; 3 read as 1)"
    assert len(repr(LabelSpace(**label_preset("ade20k")))) < 120
    recipe = recipe_of(keywords={"labels": "ade20k", "root": "data/ade", "max_steps": 7, "output_dir": "out/x"})
    backbone = "facebook/dinov3-vits16-pretrain-lvd1689m"
    assert repr(recipe) == f"Recipe(mask2former on {backbone}, 150 classes, folder data/ade, 7 steps to out/x)"
    epochs = recipe_of(
        keywords={"classes": ["a", "b"], "num_train_epochs": 12, "backbone": {"model_type": "dinov2"}}, in_memory=True
    )
    assert repr(epochs) == "Recipe(mask2former on dinov2, 2 classes, memory, 12 epochs to trainer_output)"


def test_a_report_is_short_and_prints_whole() -> None:
    findings = (
        Finding("warning", "void-heavy", "half <is> void.", "Look."),
        Finding("error", "unknown-ids", "9.", "Add."),
    )
    report = Report(findings)
    assert repr(report) == "Report(1 error, 1 warning: unknown-ids, void-heavy)"
    assert str(report) == report.text() and "half &lt;is&gt; void." in report._repr_html_()
    assert repr(Report()) == "Report(no findings)"
