from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import class_colors, panel
from hf_dinoseg.visualize.panels import WRONG_COLOR

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"}, ignore=(255,), merge={3: 2})
COLORS = class_colors(SPACE)


def colors_in(photo: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.unique(photo.reshape(-1, 3), axis=0).tolist()}


def cells(photo: Image.Image, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Cut the cells out where the first (a plain blue image) shows that they stand."""
    pixels = np.asarray(photo)
    rows, columns = np.nonzero((pixels == (0, 0, 255)).all(-1))
    top, left = rows.min(), columns.min()
    width, height = size
    return [pixels[top : top + height, left + i * (width + 8) : left + i * (width + 8) + width] for i in range(count)]


def draw(truth, prediction, **kwargs):
    height, width = np.shape(prediction)
    image = Image.new("RGB", (width, height), (0, 0, 255))
    truth = None if truth is None else np.asarray(truth)
    return panel(image, truth, np.asarray(prediction), SPACE, **kwargs)


def test_cells_show_truth_prediction_and_error():
    truth = np.zeros((90, 160), np.uint8)
    truth[:, 80:] = 1
    prediction = truth.copy()
    prediction[:30] = 2
    image, drawn_truth, drawn_prediction, error = cells(draw(truth, prediction), 4, (480, 270))
    assert colors_in(image) == {(0, 0, 255)}
    assert colors_in(drawn_truth[:, :240]) == {COLORS[0]} and colors_in(drawn_truth[:, 240:]) == {COLORS[1]}
    assert colors_in(drawn_prediction[:90]) == {COLORS[2]}
    assert colors_in(error[:90]) == {WRONG_COLOR}
    (dimmed,) = colors_in(error[90:])
    assert len(set(dimmed)) == 1 and dimmed[0] < 64


def test_void_truth_is_hatched_and_is_no_error():
    truth = np.full((90, 160), 255, np.uint8)
    truth[45:] = 1
    _, drawn_truth, _, error = cells(draw(truth, np.ones((90, 160), int)), 4, (480, 270))
    for cell in (drawn_truth, error):
        assert len(colors_in(cell[:135])) == 2  # the two greys of the stripes
        assert all(r == g == b for r, g, b in colors_in(cell[:135]))
        assert len(colors_in(cell[135:])) == 1
    assert WRONG_COLOR not in colors_in(error)


def test_unanswered_prediction_is_hatched_and_wrong():
    _, _, drawn_prediction, error = cells(draw(np.ones((90, 160), int), np.full((90, 160), 255)), 4, (480, 270))
    assert len(colors_in(drawn_prediction)) == 2
    assert colors_in(error) == {WRONG_COLOR}


def test_merged_class_in_the_truth_is_no_error():
    *_, error = cells(draw(np.full((90, 160), 3), np.full((90, 160), 2)), 4, (480, 270))
    assert WRONG_COLOR not in colors_in(error)


def test_without_truth_there_are_two_cells():
    photo = draw(None, np.ones((90, 160), int))
    image, drawn_prediction = cells(photo, 2, (480, 270))
    assert colors_in(drawn_prediction) == {COLORS[1]}
    assert photo.width == 2 * (480 + 8) + 8
    assert WRONG_COLOR not in colors_in(np.asarray(photo))


def test_legend_names_exactly_the_classes_that_occur(monkeypatch):
    written: list[str] = []
    original = ImageDraw.ImageDraw.text

    def note(self, xy, text, *args, **kwargs):
        written.append(text)
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    truth = np.zeros((90, 160), np.uint8)
    truth[:9] = 255
    truth[9:18] = 3
    draw(truth, np.zeros((90, 160), int), title="eye 7")
    headings = ["eye 7", "image", "truth", "prediction", "error: 11.1 % of labelled pixels"]
    assert written == [*headings, "0 background", "2 vein", "void", "wrong"]


def test_thin_lines_survive_shrinking():
    truth = np.zeros((1440, 1920), np.uint8)
    truth[:, 1001] = 1
    _, drawn_truth, _, error = cells(draw(truth, np.zeros((1440, 1920), int)), 4, (480, 360))
    assert (drawn_truth.max(axis=(1, 2)) > 40).all()  # a quarter of (230, 159, 0) at least, in every row
    assert (error[..., 0].astype(int) - error[..., 1] > 40).any(axis=1).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (400, 20), (2000, 1500), (64, 64)])
def test_any_shape_fits_and_stays_small(shape):
    ids = np.zeros(shape, np.uint8)
    photo = draw(ids, ids, title="a very long name " * 40)
    assert photo.mode == "RGB"
    assert photo.width <= 4 * 488 + 8 and photo.height <= 360 + 200


def test_many_classes_do_not_overflow():
    space = LabelSpace({i: f"a class with a rather long name {i}" for i in range(150)}, colors={149: (0, 255, 0)})
    ids = np.arange(150).reshape(10, 15).repeat(4, 0).repeat(4, 1)
    photo = panel(Image.new("RGB", (60, 40)), ids, ids, space)
    assert photo.height < 2000


def test_nothing_labelled_is_drawn_without_a_share():
    photo = draw(np.full((90, 160), 255), np.zeros((90, 160), int))
    assert WRONG_COLOR not in colors_in(np.asarray(photo)[: 270 + 20])


def test_maps_of_another_size_are_refused():
    image = Image.new("RGB", (4, 3))
    with pytest.raises(ValueError, match="the prediction has shape"):
        panel(image, None, np.zeros((4, 3), int), SPACE)
    with pytest.raises(ValueError, match="the truth has shape"):
        panel(image, np.zeros((4, 3), int), np.zeros((3, 4), int), SPACE)


@pytest.mark.parametrize(
    ("size", "policy", "own_line"),
    [((90, 160), "background below 0.3", False), ((90, 45), "background from the truth", True)],
)
def test_what_is_done_with_background_can_always_be_read(size, policy, own_line, monkeypatch):
    written: list[tuple[float, str]] = []
    original = ImageDraw.ImageDraw.text

    def note(self, xy, text, *args, **kwargs):
        written.append((xy[1], text))
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    ids = np.zeros(size, np.uint8)
    photo = panel(Image.new("RGB", size[::-1], (9, 9, 9)), ids, ids, SPACE, "eye 7", policy)
    rows = {text: y for y, text in written}
    assert f"prediction: {policy}" in rows
    assert (rows[f"prediction: {policy}"] < rows["image"]) == own_line
    assert ("prediction" in rows) == own_line
    left, top, right, bottom, *_ = map(int, photo.info["dinoseg:image"].split())
    assert (np.asarray(photo)[top:bottom, left:right] == 9).all()
