"""The image processor, without torchvision, and its label maps."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegImageProcessor, DinoSegOutput

SPACE = LabelSpace({1: "wall", 5: "sky", 700: "road"}, reduce_zero_label=True)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def processor() -> DinoSegImageProcessor:
    return DinoSegImageProcessor(label_space=SPACE.to_dict())


def photo(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_normalised_and_not_resized(processor: DinoSegImageProcessor) -> None:
    array = photo()
    expected = ((array / 255 - MEAN) / STD).transpose(2, 0, 1)
    for image in (Image.fromarray(array), array, array.transpose(2, 0, 1), torch.from_numpy(array)):
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 5, 7) and pixels.dtype == torch.float32
        assert np.allclose(pixels[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_any_image_mode_becomes_three_channels(processor: DinoSegImageProcessor, mode: str) -> None:
    image = Image.fromarray(photo()).convert(mode)
    expected = ((np.asarray(image.convert("RGB")) / 255 - MEAN) / STD).transpose(2, 0, 1)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert np.allclose(pixels.numpy(), expected, atol=1e-5)


def test_lists_and_grey_arrays(processor: DinoSegImageProcessor) -> None:
    pixels = processor(images=[Image.fromarray(photo()), photo()], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 5, 7)
    different = processor(images=[photo(5, 7), photo(6, 9)])["pixel_values"]
    assert [image.shape for image in different] == [(3, 5, 7), (3, 6, 9)]
    grey = photo()[..., 0]
    pixels = processor(images=grey, return_tensors="pt")["pixel_values"]
    assert np.allclose(pixels[0, 1].numpy(), (grey / 255 - MEAN[1]) / STD[1], atol=1e-5)


def test_it_resizes_when_asked(processor: DinoSegImageProcessor) -> None:
    image = Image.fromarray(photo(20, 40))
    pixels = processor(images=image, do_resize=True, size={"shortest_edge": 10}, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 10, 20)
    square = DinoSegImageProcessor(do_resize=True, size={"height": 8, "width": 6})
    assert square(images=image, return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 6)


@pytest.mark.parametrize(
    ("width", "height", "shortest", "expected"),
    [
        (400, 300, 512, (512, 683)),  # 682.67; DINOv3's own example
        (300, 400, 512, (683, 512)),
        (500, 375, 512, (512, 683)),  # 682.67
        (683, 512, 896, (896, 1195)),  # 1195.25
        (2100, 1403, 512, (512, 766)),  # 766.36
        (640, 427, 896, (896, 1343)),  # 1342.95
        (1501, 1024, 512, (512, 751)),  # 750.5: DINOv3 rounds up
        (7, 7, 10, (10, 10)),
        (512, 700, 512, (700, 512)),
    ],
)
def test_the_longer_side_is_rounded_as_in_the_published_code(
    width: int, height: int, shortest: int, expected: tuple[int, int]
) -> None:
    processor = DinoSegImageProcessor(do_resize=True, size={"shortest_edge": shortest})
    for image in (Image.new("RGB", (width, height)), np.zeros((height, width, 3), np.uint8)):
        assert processor(images=image, return_tensors="pt")["pixel_values"].shape[-2:] == expected


def test_it_survives_saving_and_is_found_by_the_auto_class(processor: DinoSegImageProcessor, tmp_path: Path) -> None:
    processor.background_threshold = 0.25
    processor.save_pretrained(tmp_path)
    for loaded in (AutoImageProcessor.from_pretrained(tmp_path), DinoSegImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is DinoSegImageProcessor
        assert LabelSpace.from_dict(loaded.label_space) == SPACE
        assert loaded.background_threshold == 0.25 and loaded.do_resize is False


def outputs() -> DinoSegOutput:
    """Two images of 2 × 2; three queries, each sure of its class, each owning some pixels. Best scores: 0.9 or 0.3."""
    masks = torch.tensor([[0, 1], [2, 2]])
    owned = torch.stack([masks == q for q in range(3)]).float()
    logits = torch.logit(owned * 0.9 + (1 - owned) * 1e-4)
    weak = torch.logit(owned * 0.3 + (1 - owned) * 1e-4)
    classes = 50 * torch.eye(4)[:3]
    return DinoSegOutput(
        class_queries_logits=torch.stack([classes] * 2), masks_queries_logits=torch.stack([logits, weak])
    )


def test_label_maps_in_train_ids_and_original_ids(processor: DinoSegImageProcessor) -> None:
    train = processor.post_process_semantic_segmentation(outputs())
    assert [m.tolist() for m in train] == [[[0, 1], [2, 2]]] * 2
    original = processor.post_process_semantic_segmentation(outputs(), original_ids=True)
    assert original[0].tolist() == [[1, 5], [700, 700]] and original[0].dtype == torch.int64


def test_sizes_differ_image_by_image(processor: DinoSegImageProcessor) -> None:
    sizes: Any
    for sizes in ([(4, 4), (6, 2)], torch.tensor([[4, 4], [6, 2]])):
        first, second = processor.post_process_semantic_segmentation(outputs(), target_sizes=sizes)
        assert first.shape == (4, 4) and second.shape == (6, 2)
        assert first[0, 0] == 0 and first[0, 3] == 1 and first[3].tolist() == [2] * 4
    with pytest.raises(ValueError, match="1 target sizes for a batch of 2"):
        processor.post_process_semantic_segmentation(outputs(), target_sizes=[(4, 4)])


def test_what_is_below_the_threshold_becomes_void(processor: DinoSegImageProcessor) -> None:
    sure, unsure = processor.post_process_semantic_segmentation(outputs(), original_ids=True, background_threshold=0.5)
    assert sure.tolist() == [[1, 5], [700, 700]] and unsure.tolist() == [[0, 0], [0, 0]]  # reduce_zero_label: void is 0
    _, unsure = processor.post_process_semantic_segmentation(outputs(), background_threshold=0.5)
    assert unsure.unique().tolist() == [SPACE.ignore_index]
    processor.background_threshold = 0.5
    assert processor.post_process_semantic_segmentation(outputs())[1].unique().tolist() == [SPACE.ignore_index]


def test_original_ids_need_a_label_space() -> None:
    with pytest.raises(ValueError, match="needs the label space"):
        DinoSegImageProcessor().post_process_semantic_segmentation(outputs(), original_ids=True)


def test_linear_logits_are_post_processed_too(processor: DinoSegImageProcessor) -> None:
    logits = torch.tensor([[[[3.0, 0.0]], [[0.0, 3.0]], [[0.0, 0.0]]]])
    maps = processor.post_process_semantic_segmentation(DinoSegOutput(logits=logits), [(2, 4)], original_ids=True)
    assert maps[0].tolist() == [[1, 1, 5, 5]] * 2


# ---------------------------------------------------------------------- masks


def mask(height: int = 5, width: int = 7) -> np.ndarray:
    """Original ids of `SPACE`, 0 (void) among them."""
    return np.random.default_rng(1).choice(np.array([0, 1, 5, 700], np.uint16), (height, width))


def test_masks_become_labels_by_the_label_space(processor: DinoSegImageProcessor) -> None:
    found = processor([photo(), photo()], [mask(), mask()[::-1].copy()], return_tensors="pt")
    assert found["pixel_values"].shape == (2, 3, 5, 7) and found["labels"].dtype == torch.int64
    by_hand = {0: 255, 1: 0, 5: 1, 700: 2}
    assert found["labels"][0].tolist() == [[by_hand[i] for i in row] for row in mask().tolist()]
    assert torch.equal(found["labels"][1], found["labels"][0].flip(0))
    small = np.where(mask() == 700, 5, mask()).astype(np.uint8)
    one: Any
    for one in (small, Image.fromarray(small), Image.fromarray(small, "P"), torch.from_numpy(small), small[None]):
        for given in (one, [one]) if not isinstance(one, np.ndarray) or one.ndim == 2 else (one,):
            labels = processor(Image.fromarray(photo()), segmentation_maps=given, return_tensors="pt")["labels"]
            assert labels.tolist() == [[[by_hand[i] for i in row] for row in small.tolist()]]
    different = processor([photo(5, 7), photo(6, 9)], [mask(5, 7), mask(6, 9)])
    assert [labels.shape for labels in different["labels"]] == [(5, 7), (6, 9)]
    assert "labels" not in processor(photo())


def test_labels_follow_their_image_and_what_is_added_is_void() -> None:
    space = LabelSpace({i: f"class {i}" for i in range(400)})
    ids = np.arange(16, dtype=np.uint16).reshape(4, 4) * 20  # beyond a byte
    processor = DinoSegImageProcessor(label_space=space, do_resize=True, size={"height": 8, "width": 8})
    labels = processor(Image.fromarray(photo(4, 4)), ids, return_tensors="pt")["labels"]
    assert labels[0].tolist() == ids.repeat(2, 0).repeat(2, 1).tolist()
    padded = processor(
        Image.fromarray(photo(4, 4)), ids, do_resize=False, do_pad=True, pad_size={"height": 5, "width": 6}
    )
    assert padded["pixel_values"][0].shape == (3, 5, 6)
    assert padded["labels"][0][:4, :4].tolist() == ids.tolist()
    assert (padded["labels"][0][4:] == 65535).all() and (padded["labels"][0][:, 4:] == 65535).all()


def test_colours_and_two_values_are_read_as_the_label_space_says() -> None:
    colors = {0: (0, 0, 0), 3: (255, 0, 0)}
    rgb = DinoSegImageProcessor(label_space=LabelSpace({0: "a", 3: "b"}, encoding="rgb", colors=colors))
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 1] = 255, 0, 0
    for one in (picture, Image.fromarray(picture), Image.fromarray(picture).quantize(4)):
        assert rgb(Image.fromarray(photo(2, 2)), one)["labels"][0].tolist() == [[0, 1], [0, 0]]
    binary = DinoSegImageProcessor(label_space=LabelSpace({0: "a", 1: "b"}, encoding="binary"))
    assert binary(Image.fromarray(photo(1, 2)), np.array([[0, 255]], np.uint8))["labels"][0].tolist() == [[0, 1]]
    plain = DinoSegImageProcessor()
    assert plain(Image.fromarray(photo(1, 2)), np.array([[3, 255]], np.uint8))["labels"][0].tolist() == [[3, 255]]


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        (np.full((5, 7), 9, np.uint8), r"segmentation_maps\[0\].*9 \(35 pixels\)"),
        (np.zeros((7, 5), np.uint8), r"segmentation_maps\[0\]: found shape \(7, 5\), wanted \(5, 7\)"),
        (np.zeros((5, 7)), r"segmentation_maps\[0\].*float64"),
        (np.zeros((5, 7, 3), np.uint8), r"segmentation_maps\[0\].*\(5, 7, 3\)"),
        ([np.zeros((5, 7), np.uint8)] * 2, "segmentation_maps: found 2, wanted one for each of 1 images"),
        (["mask.png"], r"segmentation_maps\[0\]: found <class 'str'>, wanted a PIL image"),
    ],
)
def test_masks_that_do_not_fit_are_told_in_one_sentence(
    processor: DinoSegImageProcessor, masks: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        processor(photo(), masks)


def test_arguments_have_transformers_order(processor: DinoSegImageProcessor) -> None:
    from transformers import SegformerImageProcessorPil

    names = [
        list(inspect.signature(kind.post_process_semantic_segmentation).parameters)
        for kind in (SegformerImageProcessorPil, DinoSegImageProcessor)
    ]
    assert names[1][: len(names[0])] == names[0]
    maps = processor.post_process_semantic_segmentation(outputs(), [(4, 4), (6, 2)])
    with_scores = processor.post_process_semantic_segmentation(outputs(), [(4, 4), (6, 2)], True)
    for found, label_map in zip(with_scores, maps, strict=True):
        assert torch.equal(found.segmentation, label_map) and torch.equal(found["segmentation"], label_map)
        assert torch.equal(found.segmentation_scores.argmax(0), label_map)
    with pytest.raises(TypeError):
        processor.post_process_semantic_segmentation(outputs(), None, False, True)
