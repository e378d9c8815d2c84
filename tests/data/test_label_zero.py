from __future__ import annotations

import numpy as np

from hf_dinoseg.data import zero_is_void, zero_mask
from hf_dinoseg.labels import LabelSpace

COLORS = {0: (0, 0, 0), 1: (9, 9, 9)}
RGB = np.array([[[0, 0, 0], [9, 9, 9], [2, 2, 2]]], dtype=np.uint8)


def test_zero_is_void_only_where_it_may_occur_and_is_no_class():
    assert zero_is_void(LabelSpace({1: "a"}, reduce_zero_label=True))
    assert zero_is_void(LabelSpace({1: "a"}, ignore=(0, 7)))
    assert not zero_is_void(LabelSpace({0: "a"}, ignore=(255,)))
    assert not zero_is_void(LabelSpace({1: "a"}))


def test_zero_is_told_from_other_void_in_every_encoding():
    index = LabelSpace({1: "a"}, ignore=(0, 255))
    assert zero_mask(np.array([[0, 1, 255]], dtype=np.uint8), index).tolist() == [[True, False, False]]
    binary = LabelSpace({1: "a"}, encoding="binary", reduce_zero_label=True)
    assert zero_mask(np.array([[0, 255]], dtype=np.uint8), binary).tolist() == [[True, False]]
    rgb = LabelSpace({1: "a"}, encoding="rgb", colors=COLORS, reduce_zero_label=True)
    assert zero_mask(RGB[:, :2], rgb).tolist() == [[True, False]]
    nearest = LabelSpace({1: "a"}, encoding="rgb", colors=COLORS, reduce_zero_label=True, unknown_colors="nearest")
    assert zero_mask(RGB, nearest).tolist() == [[True, False, True]]
    uncoloured = LabelSpace({1: "a"}, encoding="rgb", colors={1: (9, 9, 9)}, reduce_zero_label=True)
    assert not zero_mask(RGB, uncoloured).any()
