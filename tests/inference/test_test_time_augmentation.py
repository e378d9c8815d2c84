from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dinoseg.inference.test_time_augmentation import View, views


def test_views_are_all_scales_plain_and_mirrored():
    assert views(None) == views({}) == views({"scales": [1.0], "flip": False}) == [View()]
    assert views({"flip": True}) == [View(1.0, False), View(1.0, True)]
    assert views({"scales": [0.5, 2], "flip": True}) == [View(s, f) for s in (0.5, 2.0) for f in (False, True)]


@pytest.mark.parametrize(
    ("tta", "told"), [({"scales": []}, "numbers above 0"), ({"scales": [0]}, "above 0"), ({"scale": [1]}, "'scale'")]
)
def test_what_is_no_setting_is_refused(tta, told):
    with pytest.raises(ValueError, match=told):
        views(tta)


def test_a_view_is_resized_as_pillow_does_it_and_then_mirrored():
    image = np.random.default_rng(0).random((20, 31), dtype=np.float32)
    pixel_values = torch.from_numpy(image).expand(1, 3, -1, -1)
    for scale in (0.5, 0.75, 1.0, 1.25):
        size = (round(31 * scale), round(20 * scale))
        expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        assert np.allclose(View(scale).of(pixel_values)[0, 1].numpy(), expected, atol=1e-5)
        assert np.allclose(View(scale, True).of(pixel_values)[0, 1].numpy(), expected[:, ::-1], atol=1e-5)
    assert View().of(pixel_values) is pixel_values
