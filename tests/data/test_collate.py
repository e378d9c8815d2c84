"""Batches: compact between processes, whole where they are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_dinoseg.data import collate, collate_eval, expand_batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def items(dtype: torch.dtype = torch.uint8, void: int = 255) -> list[dict]:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.choice([0, 2, 5, void], (3, 6, 4))).to(dtype)
    labels[1] = void  # no class at all
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 3, 6, 4), np.uint8))
    classes = [torch.tensor(sorted(set(m.flatten().tolist()) - {void}), dtype=torch.int64) for m in labels]
    return [
        {"index": 7 + i, "pixel_values": pixels[i], "labels": labels[i], "class_labels": classes[i]} for i in range(3)
    ]


@pytest.mark.parametrize("dtype, void, bytes_a_pixel", [(torch.uint8, 255, 4), (torch.int32, 65535, 7)])
def test_a_batch_is_compact(dtype: torch.dtype, void: int, bytes_a_pixel: int) -> None:
    batch = collate(items(dtype, void))
    assert list(batch) == ["index", "pixel_values", "labels", "class_labels"]
    assert batch["index"].tolist() == [7, 8, 9] and batch["index"].dtype == torch.int64
    assert batch["pixel_values"].shape == (3, 3, 6, 4) and batch["labels"].shape == (3, 6, 4)
    size = sum(t.numel() * t.element_size() for key, t in batch.items() if key in ("pixel_values", "labels"))
    assert size == 3 * 6 * 4 * bytes_a_pixel


@pytest.mark.parametrize("dtype, void", [(torch.uint8, 255), (torch.int32, 65535)])
def test_expanding_pixel_by_pixel(dtype: torch.dtype, void: int) -> None:
    samples = items(dtype, void)
    batch = expand_batch(collate(samples), MEAN, STD)
    assert batch["pixel_values"].dtype == torch.float32 and batch["labels"].dtype == torch.int64
    assert batch["index"].tolist() == [7, 8, 9]
    for i, sample in enumerate(samples):
        for channel in range(3):
            expected = (sample["pixel_values"][channel].double() / 255 - MEAN[channel]) / STD[channel]
            assert torch.allclose(batch["pixel_values"][i, channel].double(), expected, atol=1e-6)
        assert batch["labels"][i].tolist() == sample["labels"].tolist()
        assert batch["mask_labels"][i].dtype == torch.bool and batch["class_labels"][i].dtype == torch.int64
        assert batch["class_labels"][i].tolist() == sorted(set(sample["labels"].flatten().tolist()) - {void})
        for mask, label in zip(batch["mask_labels"][i], batch["class_labels"][i], strict=True):
            assert (mask == (sample["labels"] == label)).all()
    assert batch["mask_labels"][1].shape == (0, 6, 4)


def test_expanding_leaves_the_compact_batch_as_it_was() -> None:
    batch = collate(items())
    before = {key: value.clone() for key, value in batch.items() if key != "class_labels"}
    expand_batch(batch, MEAN, STD)
    assert all((batch[key] == before[key]).all() for key in before)


def test_pixels_are_normalised_as_transformers_does_it() -> None:
    from transformers import ViTImageProcessorPil

    batch = collate(items())
    processor = ViTImageProcessorPil(do_resize=False, image_mean=list(MEAN), image_std=list(STD))
    expected = processor(list(batch["pixel_values"].numpy()), return_tensors="pt", input_data_format="channels_first")
    assert torch.allclose(expand_batch(batch, MEAN, STD)["pixel_values"], expected["pixel_values"], atol=1e-6)


def test_evaluation_batches_hold_any_sizes() -> None:
    samples = [
        {"index": i, "pixel_values": torch.zeros(3, 8, 8 + i), "labels": torch.zeros(5, 5 + i, dtype=torch.uint8)}
        for i in range(2)
    ]
    batch = collate_eval(samples)
    assert list(batch) == ["index", "pixel_values", "labels"] and batch["index"].tolist() == [0, 1]
    assert [tuple(p.shape) for p in batch["pixel_values"]] == [(3, 8, 8), (3, 8, 9)]
    assert [tuple(p.shape) for p in batch["labels"]] == [(5, 5), (5, 6)]
