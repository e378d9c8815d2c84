from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_dinoseg.models.loss_points import (
    ValidPixels,
    corner_codes,
    draw_points,
    draw_uncertain_points,
    sample_logits,
    sample_masks,
    void_cells,
)


def grid_sample(maps: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(maps[:, None], (2 * points - 1)[:, :, None], align_corners=False)[:, 0, :, 0]


def brute_force(values: Tensor, void: Tensor, x: float, y: float) -> float:
    """Bilinear reading in double precision; pixels outside the image are valid zeros."""
    height, width = values.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = weight_sum = 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            weight = (1 - abs(row - r)) * (1 - abs(column - c))
            if not (0 <= r < height and 0 <= c < width):
                weight_sum += weight
            elif not void[r, c]:
                weight_sum += weight
                total += weight * float(values[r, c])
    return total / weight_sum


def valid_points(void: Tensor, number: int) -> tuple[Tensor, ValidPixels]:
    valid = ValidPixels.from_void(void)
    return draw_points(len(void), number, torch.arange(len(void)), valid, torch.rand), valid


@pytest.mark.parametrize("size", [(24, 32), (5, 7), (1, 1), (1, 9), (513, 300)])
def test_mask_readings_equal_grid_sample_on_float_masks(size):
    torch.manual_seed(0)
    masks = torch.rand(3, *size) > 0.5
    points = torch.rand(4, 500, 2)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    rows = torch.tensor([2, 0, 1, 2])
    readings = sample_masks(corner_codes(masks), rows, points, torch.zeros(4, dtype=torch.int64), None)
    # grid_sample fuses a multiplication and an addition: one rounding of the position, up to 2^-15 pixels at 513.
    atol = 4e-5 if max(size) > 100 else 1e-6
    torch.testing.assert_close(readings, grid_sample(masks[rows].float(), points), rtol=0, atol=atol)


def test_mask_readings_with_void_equal_brute_force():
    torch.manual_seed(1)
    masks = torch.rand(2, 6, 5) > 0.5
    void = torch.rand(2, 6, 5) > 0.5
    points, valid = valid_points(void, 200)
    codes = torch.cat([corner_codes(masks[i : i + 1], void[i]) for i in range(2)])
    readings = sample_masks(codes, torch.arange(2), points, torch.arange(2), valid)
    expected = [[brute_force(masks[i], void[i], *point) for point in points[i].tolist()] for i in range(2)]
    torch.testing.assert_close(readings, torch.tensor(expected), rtol=0, atol=1e-5)


def test_logit_readings_with_void_equal_brute_force_and_grid_sample_without():
    torch.manual_seed(2)
    logits = torch.randn(2, 3, 6, 5)
    void = torch.rand(2, 6, 5) > 0.5
    points, _ = valid_points(void, 100)
    readings = sample_logits(logits, points, void)
    expected = [
        [[brute_force(logits[i, k], void[i], *point) for point in points[i].tolist()] for k in range(3)]
        for i in range(2)
    ]
    torch.testing.assert_close(readings, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    nowhere = torch.zeros_like(void)
    assert torch.equal(sample_logits(logits, points, nowhere), sample_logits(logits, points, None))
    torch.testing.assert_close(sample_logits(logits, points, None)[:, 1], grid_sample(logits[:, 1], points))


def test_points_are_drawn_uniformly_from_valid_pixels_only():
    torch.manual_seed(3)
    void = torch.ones(2, 8, 8, dtype=torch.bool)
    void[0, 3, 2] = void[0, 6, 7] = void[0, 0, 0] = False  # three valid pixels
    void[1] = False
    void[1, :4] = True
    points, _ = valid_points(void, 12000)
    column, row = (points * 8).long().unbind(-1)
    assert not void[torch.arange(2)[:, None], row, column].any()
    counts = torch.bincount((row * 8 + column)[0], minlength=64)
    # Each of three pixels expects 4000 of 12000 points; 6 standard deviations are 310.
    assert counts.count_nonzero() == 3 and (counts[counts > 0] - 4000).abs().max() < 310
    counts = torch.bincount((row * 8 + column)[1], minlength=64)[32:].float()
    assert ((counts - 375) ** 2 / 375).sum() < 80  # chi-square, 31 degrees of freedom
    inside = (points * 8).frac()  # and uniform inside the pixel
    assert (inside.mean((0, 1)) - 0.5).abs().max() < 0.02 and inside.min() < 0.01 and inside.max() > 0.99


def test_points_on_valid_pixels_stay_to_the_bit_and_void_free_images_are_untouched():
    torch.manual_seed(4)
    void = torch.zeros(2, 9, 13, dtype=torch.bool)
    void[0] = torch.rand(9, 13) > 0.5
    points = torch.rand(2, 700, 2)
    moved = ValidPixels.from_void(void).move_points(points, torch.arange(2), torch.rand)
    assert torch.equal(moved[1], points[1])
    column, row = (points[0] * torch.tensor([13, 9])).long().unbind(-1)
    stays = ~void[0, row, column]
    assert torch.equal(moved[0][stays], points[0][stays]) and not torch.equal(moved[0], points[0])


def test_moving_in_parts_equals_moving_at_once(monkeypatch):
    void = torch.rand(3, 9, 13) > 0.5
    points, starts = torch.rand(3, 50, 2), torch.rand(3, 1)
    valid = ValidPixels.from_void(void)
    at_once = valid.move_points(points, torch.arange(3), lambda *shape, device: starts)
    monkeypatch.setattr("hf_dinoseg.models.loss_points._POINTS_AT_ONCE", 60)
    assert torch.equal(valid.move_points(points, torch.arange(3), lambda *shape, device: starts), at_once)


def test_all_void_image_draws_finite_points_and_zero_targets():
    void = torch.ones(1, 4, 4, dtype=torch.bool)
    points, valid = valid_points(void, 30)
    assert valid.has_any().tolist() == [0.0]
    codes = corner_codes(torch.ones(1, 4, 4, dtype=torch.bool), void[0])
    zero = torch.zeros(1, dtype=torch.int64)
    assert points.isfinite().all() and not sample_masks(codes, zero, points, zero, valid).any()


@pytest.mark.parametrize("size", [(24, 32), (23, 30), (7, 5)])
def test_void_cells_are_those_with_no_valid_pixel_in_reach(size):
    torch.manual_seed(5)
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    void = (torch.rand(2, height + 1, width + 1) > 0.4).repeat_interleave(4, 1).repeat_interleave(4, 2)
    void = void[:, 2 : 2 + size[0], 1 : 1 + size[1]]
    wholly, share = void_cells(void, height, width)
    for i in range(height):
        for j in range(width):
            rows = slice(i * size[0] // height, -(-(i + 1) * size[0] // height))
            columns = slice(j * size[1] // width, -(-(j + 1) * size[1] // width))
            part = void[:, rows, columns].flatten(1)
            assert torch.equal(wholly[:, i, j], part.all(1))
            torch.testing.assert_close(share[:, i, j], part.float().mean(1))


def test_uncertain_points_are_the_candidates_of_smallest_logit_and_a_random_rest():
    torch.manual_seed(6)
    logits = torch.randn(2, 8, 8)
    drawn = []

    def uniform(*shape, device):
        drawn.append(torch.rand(*shape))
        return drawn[-1]

    points = draw_uncertain_points(logits, 40, 3.0, 0.75, torch.zeros(2, dtype=torch.int64), None, None, uniform)
    candidates, rest = drawn
    assert candidates.shape == (2, 120, 2) and torch.equal(points[:, 30:], rest)
    order = grid_sample(logits, candidates).abs().argsort(1)[:, :30]
    for row in range(2):
        expected = {tuple(point) for point in candidates[row, order[row]].tolist()}
        assert {tuple(point) for point in points[row, :30].tolist()} == expected


def test_masks_that_share_points_read_as_if_each_had_its_own():
    torch.manual_seed(7)
    masks, void = torch.rand(5, 6, 5) > 0.5, torch.rand(2, 6, 5) > 0.5
    points, valid = valid_points(void, 50)
    owner = torch.tensor([1, 0, 0, 1, 1])
    codes = torch.cat([corner_codes(mask[None], void[image]) for mask, image in zip(masks, owner, strict=True)])
    rows = torch.arange(5)
    shared = sample_masks(codes, rows, points, torch.arange(2), valid, owner=owner)
    assert torch.equal(shared, sample_masks(codes, rows, points[owner], owner, valid))
