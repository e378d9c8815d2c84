from __future__ import annotations

import io
from types import SimpleNamespace

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import nn

from hf_dinoseg.errors import DinoSegError
from hf_dinoseg.inference import SegmentationResult, Segmenter, predict_best
from hf_dinoseg.inference.segmenter import load_image
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import colorize, overlay

SPACE = LabelSpace({4: "dark", 9: "bright"}, ignore=(200,))


class Brightness(nn.Module):
    """Two queries, one per class: pixels below and above mid-grey, surer the farther away."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        bright = self.gain * (pixel_values.mean(1, keepdim=True) - 0.5)
        classes = torch.tensor([[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]]).to(bright)
        return SimpleNamespace(
            class_queries_logits=classes.expand(len(bright), 2, 3),
            masks_queries_logits=torch.cat((-bright, bright), dim=1),
        )


def process(images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
    assert return_tensors == "pt"
    return {"pixel_values": torch.from_numpy(np.array(images)).permute(2, 0, 1)[None] / 255}


def process_at_half_size(images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
    return process(images.resize((images.width // 2, images.height // 2), Image.Resampling.BOX), return_tensors)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Brightness(), process, SPACE)


def half_and_half(height: int = 6, width: int = 8) -> np.ndarray:
    """Left half dark, right half bright, and a top row of middling pixels."""
    photo = np.full((height, width, 3), 20, np.uint8)
    photo[:, width // 2 :] = 230
    photo[0] = 130
    return photo


def expected_ids(photo: np.ndarray) -> np.ndarray:
    return np.where(photo[..., 0] < 128, 4, 9)


def test_answers_in_original_ids_with_scores(segmenter):
    photo = half_and_half()
    result = segmenter(photo)
    assert np.array_equal(result.label_map, expected_ids(photo))
    assert result.label_map.dtype == np.uint8
    assert result.scores.dtype == np.float32 and result.scores.shape == result.label_map.shape
    assert (result.scores[1:] > 0.9).all() and (result.scores[0] < 0.6).all()


def test_path_image_array_and_list_give_the_same(segmenter, tmp_path):
    photo = half_and_half()
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    results = segmenter([file, str(file), Image.fromarray(photo), photo])
    assert isinstance(results, list)
    for result in (*results, segmenter(file)):
        assert np.array_equal(result.label_map, expected_ids(photo))
        assert np.array_equal(np.asarray(result.image), photo)
    assert segmenter([]) == []


def test_tensors_and_bytes_give_the_same_as_the_array(segmenter, tmp_path):
    photo = half_and_half()
    Image.fromarray(photo).save(tmp_path / "a.png")
    tensor = torch.from_numpy(photo)
    first = tensor.permute(2, 0, 1)
    inputs = [first, tensor, first.float() / 255, (first.double() / 255).requires_grad_(), first.contiguous()]
    inputs += [(tmp_path / "a.png").read_bytes(), tensor[..., 0]]
    expected = segmenter(photo)
    for given in inputs:
        result = segmenter(given)
        assert np.array_equal(result.label_map, expected.label_map)
        assert np.array_equal(np.asarray(result.image)[..., 0], photo[..., 0])
    assert torch.equal(first, torch.from_numpy(photo).permute(2, 0, 1))  # none is written to


def test_every_grey_level_of_a_float_tensor_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        back = np.asarray(load_image((levels.double() / 255).to(dtype)))
        difference = np.abs(back.astype(int) - levels.permute(1, 2, 0).numpy()).max()
        assert difference <= (1 if dtype is torch.bfloat16 else 0), dtype  # bfloat16 has 8 bits


def test_an_iterator_is_read_no_further_than_asked(segmenter):
    taken = []

    def images():
        for number in range(100):
            taken.append(number)
            yield half_and_half(4 + number)

    results = segmenter(images())
    assert taken == []
    assert next(results).label_map.shape == (4, 8) and next(results).label_map.shape == (5, 8) and taken == [0, 1]
    assert [r.label_map.shape for r in segmenter(iter([half_and_half(), half_and_half(9)]))] == [(6, 8), (9, 8)]


def test_pages_that_are_not_read_are_told(segmenter, tmp_path, caplog):
    pages = [Image.new("L", (8, 6), n) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for given in (tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes(), np.zeros((6, 8, 3), np.uint8)):
        segmenter(given)
    assert [("pages 2 to 3" in r.message, "a.tif" in r.message) for r in caplog.records] == [
        (True, True),
        (True, False),
    ]


def test_exif_orientation_is_applied_to_files_and_images(segmenter, tmp_path):
    upright = half_and_half()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: the viewer turns it 90 degrees clockwise
    file = tmp_path / "photo.png"
    Image.fromarray(np.rot90(upright, 1).copy()).save(file, exif=exif)
    for photo in (file, Image.open(file)):
        result = segmenter(photo)
        assert np.array_equal(result.label_map, expected_ids(upright))
        assert np.array_equal(np.asarray(result.image), upright)


def test_grey_and_transparent_images_are_taken(segmenter):
    photo = half_and_half()
    for image in (photo[..., 0], Image.fromarray(photo[..., 0]), Image.fromarray(photo).convert("RGBA")):
        assert np.array_equal(segmenter(image).label_map, expected_ids(photo))


def test_label_map_has_the_images_size_whatever_the_processor_does():
    photo = half_and_half(24, 32)
    photo[0] = photo[1]
    segmenter = Segmenter(Brightness(), process_at_half_size, SPACE)
    assert np.array_equal(segmenter(photo).label_map, expected_ids(photo))


@pytest.mark.parametrize(("mode", "window", "stride"), [("whole", None, None), ("slide", 8, 5)])
def test_same_answer_as_evaluation(mode, window, stride):
    photo = np.random.default_rng(0).integers(0, 256, (21, 19, 3), dtype=np.uint8)
    model = Brightness()
    result = Segmenter(model, process_at_half_size, SPACE, mode, window, stride)(photo)
    pixel_values = process_at_half_size(Image.fromarray(photo), "pt")["pixel_values"][0]
    labels = predict_best(model, pixel_values, (21, 19), mode=mode, window=window, stride=stride)[0]
    assert np.array_equal(result.label_map, SPACE.decode(labels[0].numpy()))


def test_unsure_pixels_become_void_below_the_threshold():
    photo = half_and_half()
    result = Segmenter(Brightness(), process, SPACE, background_threshold=0.7)(photo)
    assert (result.label_map[0] == 200).all()
    assert np.array_equal(result.label_map[1:], expected_ids(photo)[1:])


def test_model_is_put_into_evaluation_mode():
    model = Brightness().train()
    Segmenter(model, process, SPACE)
    assert not model.training


def test_saved_file_holds_the_ids_and_is_visible(segmenter, tmp_path):
    result = segmenter(half_and_half())
    file = result.save(tmp_path / "new" / "photo.png")
    read = Image.open(file)
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), result.label_map)
    assert np.array_equal(np.asarray(read.convert("RGB")), colorize(result.label_map, SPACE))


def test_lossy_formats_are_refused(segmenter, tmp_path):
    with pytest.raises(ValueError, match="saved as PNG"):
        segmenter(half_and_half()).save(tmp_path / "photo.jpg")


def test_overlay_is_that_of_visualize(segmenter):
    result = segmenter(half_and_half())
    expected = overlay(result.image, result.label_map, SPACE, 0.3)
    assert np.array_equal(np.asarray(result.overlay(alpha=0.3)), np.asarray(expected))


def test_ids_beyond_a_byte_are_saved_too(tmp_path):
    space = LabelSpace({4: "dark", 999: "bright"})
    result = SegmentationResult(np.array([[4, 999]]), np.ones((1, 2), np.float32), Image.new("RGB", (2, 1)), space)
    assert np.asarray(Image.open(result.save(tmp_path / "a.png"))).tolist() == [[4, 999]]


def test_what_is_no_image_is_refused(segmenter, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jpg: there is no such file"):
        segmenter("nowhere.jpg")
    broken = tmp_path / "broken.png"
    Image.fromarray(half_and_half(60, 60)).save(broken)
    broken.write_bytes(broken.read_bytes()[:120])
    with pytest.raises(ValueError, match="broken.png: cannot be read as an image"):
        segmenter(broken)
    for array in (np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="is no image"):
            segmenter(array)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "NoneType"),
        (3, "int"),
        ({"image": "a.png"}, "dict"),
        (bytearray(b"x"), "bytearray"),
        (io.BytesIO(b"x"), "BytesIO"),
        (b"", "empty"),
        (b"no image", "cannot be read as an image"),
        ([None], "NoneType"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        (torch.zeros(0, 4, 3, dtype=torch.uint8), "(0, 4, 3)"),
        (torch.zeros(2, 3, 4, 4), "(2, 3, 4, 4)"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), "(4, 4, 4)"),
        (torch.zeros(4, 4, 3), "float32"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "bool"),
        (torch.full((3, 4, 4), 200.0), "200"),
        (torch.full((3, 4, 4), -0.5), "-0.5"),
        (torch.full((3, 4, 4), float("nan")), "nan"),
    ],
)
def test_wrong_input_is_one_sentence_that_says_what_was_found(segmenter, given, found):
    with pytest.raises(DinoSegError) as raised:
        segmenter(given)
    assert found in str(raised.value) and "\n" not in str(raised.value)


def test_bad_window_is_refused_before_any_image():
    with pytest.raises(ValueError, match="would be left out"):
        Segmenter(Brightness(), process, SPACE, "slide", window=8, stride=9)


def test_a_batch_is_what_neighbours_of_one_size_are_shown_in():
    shapes = [(6, 8), (6, 8), (9, 8), (6, 8), (6, 8), (6, 8), (6, 8)]
    photos = [half_and_half(*shape) for shape in shapes]
    seen = []

    class Counting(Brightness):
        def forward(self, pixel_values):
            seen.append(len(pixel_values))
            return super().forward(pixel_values)

    segmenter = Segmenter(Counting(), process, SPACE)
    results = segmenter(photos, batch_size=3)
    assert seen == [2, 1, 3, 1]  # of (0, 1, 2), (3, 4, 5), (6)
    for result, photo in zip(results, photos, strict=True):
        assert np.array_equal(result.label_map, expected_ids(photo))
    taken = []
    stream = segmenter((taken.append(1) or photo for photo in photos), batch_size=3)
    assert taken == [] and next(stream).label_map.shape == (6, 8) and len(taken) == 3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_cannot_be_read_costs_no_other(segmenter, batch_size):
    results = segmenter(iter([half_and_half(), "nowhere.jpg", half_and_half(9)]), batch_size=batch_size)
    assert next(results).label_map.shape == (6, 8)
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        next(results)
    assert next(results).label_map.shape == (9, 8) and list(results) == []


def test_collections_of_other_libraries_are_taken_as_lists(segmenter, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path in paths:
        Image.fromarray(half_and_half()).save(path)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, place):
            return half_and_half()

    column = datasets.Dataset.from_dict({"image": [str(p) for p in paths]}).cast_column("image", datasets.Image())
    for given in (pandas.Series(map(str, paths)), column["image"], Images(), dict(enumerate(paths)).values()):
        results = segmenter(given)
        assert isinstance(results, list) and [r.label_map.shape for r in results] == [(6, 8)] * 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
        ({"batch_size": 0}, "batch_size is 0; it is a whole number from 1"),
        ({"label_space": [1, 2]}, "label_space is a list; give a LabelSpace"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, told):
    with pytest.raises(DinoSegError) as raised:
        Segmenter(Brightness(), process, **{"label_space": SPACE, **settings})
    assert told in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(DinoSegError, match="batch_size is True"):
        Segmenter(Brightness(), process, SPACE)([], batch_size=True)
    model = Brightness()
    model.config = SimpleNamespace(num_labels=5)
    with pytest.raises(DinoSegError, match="the model tells 5 classes apart, and label_space has 2"):
        Segmenter(model, process, SPACE)


def test_a_result_is_a_picture_in_a_notebook(segmenter):
    result = segmenter(half_and_half(1500, 40))
    drawn = Image.open(io.BytesIO(result._repr_png_()))
    assert drawn.format == "PNG" and max(drawn.size) == 1024 and result.overlay().size == (40, 1500)
    assert repr(segmenter(half_and_half())) == "SegmentationResult(8×6 pixels: bright 58.3 %, dark 41.7 %)"
    assert repr(segmenter) == "Segmenter(Brightness, 2 classes, whole images, on cpu)"
    assert Segmenter(Brightness(), process, SPACE.to_dict(), device="cpu").label_space == SPACE
