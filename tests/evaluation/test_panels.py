"""What the panels of an evaluation show of background, and that they say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dinoseg.evaluation import panels as panel_writer
from hf_dinoseg.inference import Background
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({1: "artery", 2: "vein"}, reduce_zero_label=True)  # train ids 0 and 1; void is 255 inside, 0 outside


@pytest.mark.parametrize(
    ("background", "shown", "said"),
    [
        (Background("truth"), [[0, 1], [0, 1]], "background from the truth"),
        (Background("none"), [[2, 1], [2, 1]], "best class everywhere"),
    ],
)
def test_truth_is_drawn_as_background_only_if_that_is_the_policy_and_the_image_says_so(
    background: Background, shown: list[list[int]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []

    def note_and_draw(*args: Any, **kwargs: Any) -> Image.Image:
        drawn.append((*args[1:3], kwargs["note"]))
        return panel(*args, **kwargs)

    panel = panel_writer.panel
    monkeypatch.setattr(panel_writer, "panel", note_and_draw)
    writer = panel_writer.PanelWriter(tmp_path, ["a/b"], 1, SPACE, (0.5,) * 3, (0.5,) * 3, background)
    truth, prediction = torch.tensor([[255, 0], [255, 1]]), torch.tensor([[1, 0], [1, 0]])
    writer.write(0, torch.zeros(3, 2, 2), truth, prediction)
    [(its_truth, its_prediction, note)] = drawn
    assert np.array_equal(its_truth, [[0, 1], [0, 2]]) and np.array_equal(its_prediction, shown) and note == said
    with Image.open(tmp_path / "a_b.png") as image:
        grey = {(70, 70, 70), (170, 170, 170)} <= {tuple(p) for p in np.asarray(image).reshape(-1, 3).tolist()}
    assert grey  # void is hatched
