"""Cropping predictions of a padded image to the image."""

from __future__ import annotations

import pytest
import torch

from hf_dinoseg.models.outputs import Frame, crop_to_frame, mask_logits_of_all


def pixel_ramp(length: int, stride: float, count: int) -> torch.Tensor:
    """Centres of `count` map pixels, in image pixels."""
    return (torch.arange(count) + 0.5) * stride


@pytest.mark.parametrize(("height", "width"), [(40, 52), (64, 64)])
def test_where_the_stride_divides_the_image_it_is_a_slice(height: int, width: int) -> None:
    maps = torch.randn(1, 2, 16, 16)
    cropped = crop_to_frame(maps, Frame(height, width, 64, 64))
    assert torch.equal(cropped, maps[..., : height // 4, : width // 4])


@pytest.mark.parametrize("height", [37, 61, 2, 1])
def test_elsewhere_the_map_spans_exactly_the_image(height: int) -> None:
    """A map that holds each pixel's own y coordinate still does so after the crop, up to the border pixel."""
    ramp = pixel_ramp(64, 4, 16)[:, None].expand(1, 1, 16, 16)
    cropped = crop_to_frame(ramp, Frame(height, 64, 64, 64))
    rows = -(-height // 4)
    expected = pixel_ramp(height, height / rows, rows).clamp(min=2.0)
    assert cropped.shape == (1, 1, rows, 16)
    assert torch.allclose(cropped[0, 0, :, 3], expected, atol=1e-4)


def test_strides_that_are_no_whole_number() -> None:
    """Patches of 14 pixels upscaled four times: stride 3.5."""
    ramp = pixel_ramp(70, 3.5, 20).expand(1, 1, 20, 20)
    cropped = crop_to_frame(ramp, Frame(70, 63, 70, 70))
    assert cropped.shape == (1, 1, 20, 18) and torch.equal(cropped, ramp[..., :18])
    cropped = crop_to_frame(ramp, Frame(70, 64, 70, 70))
    assert cropped.shape == (1, 1, 20, 19)
    assert torch.allclose(cropped[0, 0, 0], pixel_ramp(64, 64 / 19, 19).clamp(min=1.75), atol=1e-4)


@pytest.mark.parametrize("used", [[0, 1, 2], [2], [0, 2]])
def test_gradients_of_several_predictions_masks_are_those_of_a_plain_product(used: list[int]) -> None:
    """Also where the loss leaves predictions out."""
    embeddings = torch.randn(3, 2, 4, 5, requires_grad=True)
    features = torch.randn(2, 5, 6, 7, requires_grad=True)
    weights = torch.randn(3, 2, 4, 6, 7)
    plain = torch.einsum("pbqd,bdhw->pbqhw", embeddings, features)
    expected = torch.autograd.grad((plain * weights)[used].sum(), (embeddings, features))
    masks = mask_logits_of_all(embeddings, features)
    assert torch.allclose(torch.stack(masks), plain, atol=1e-5)
    total = torch.stack([(masks[index] * weights[index]).sum() for index in used]).sum()
    for found, wanted in zip(torch.autograd.grad(total, (embeddings, features)), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
