from __future__ import annotations

import pytest
import torch

from hf_dinoseg.inference import Background
from hf_dinoseg.labels import LabelSpace

LABELS = torch.tensor([[0, 1, 2]])
SCORES = torch.tensor([[0.2, 0.5, 0.8]])
TRUTH = torch.tensor([[0, 255, 1]])
NO_BACKGROUND = LabelSpace({1: "artery", 2: "vein"}, reduce_zero_label=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Background("none")),
        ({"stored": 0.4}, Background("threshold", 0.4)),
        ({"threshold": 0.3, "stored": 0.4}, Background("threshold", 0.3)),
        ({"policy": "threshold", "stored": 0.4}, Background("threshold", 0.4)),
        ({"policy": "none", "stored": 0.4}, Background("none")),
        ({"policy": "truth", "stored": 0.4}, Background("truth")),
    ],
)
def test_what_is_asked_for_is_completed_by_the_checkpoint(asked, expected):
    assert Background.resolve(**asked) == expected


@pytest.mark.parametrize("fields", [("threshold", None), ("none", 0.3), ("truth", 0.3), ("black", None)])
def test_contradictions_are_refused(fields):
    with pytest.raises(ValueError, match="background is"):
        Background(*fields)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_is_a_number_above_0(threshold):
    with pytest.raises(ValueError, match="above 0"):
        Background("threshold", threshold)


@pytest.mark.parametrize("policy", ["none", "truth"])
def test_a_threshold_that_is_asked_for_and_not_used_is_refused(policy):
    with pytest.raises(ValueError, match="background is"):
        Background.resolve(policy, 0.3, 0.4)


def test_each_policy_answers_and_draws_as_it_says():
    answers = {
        Background("none"): ([[0, 1, 2]], [[0, 1, 2]]),
        Background("threshold", 0.5): ([[255, 1, 2]], [[255, 1, 2]]),  # a score equal to the threshold is enough
        Background("truth"): ([[0, 1, 2]], [[0, 255, 2]]),
    }
    for background, (answer, drawn) in answers.items():
        labels = background.apply(LABELS, SCORES, 255)
        assert labels.tolist() == answer
        assert background.drawn(labels, TRUTH, 255).tolist() == drawn
    assert LABELS.tolist() == [[0, 1, 2]]
    assert [background.caption(NO_BACKGROUND) for background in answers] == [
        "best class everywhere",
        "no class below score 0.5",
        "background from the truth",
    ]


def test_the_best_class_everywhere_is_no_news_where_background_is_a_class():
    for space in (LabelSpace({0: "background", 1: "vessel"}), LabelSpace({1: "left", 2: "right"})):
        assert Background("none").caption(space) == ""
        assert "0.5" in Background("threshold", 0.5).caption(space)
    assert Background("none").caption(NO_BACKGROUND) != ""
