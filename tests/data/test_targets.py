"""From rows of files to label maps: counted by hand, cached by content, and every fault named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hf_dinoseg.data import load_folder, prepare_targets, sample_digests, targets
from hf_dinoseg.data.label_maps import read_label_map
from hf_dinoseg.data.sources import FEATURES
from hf_dinoseg.doctor import examine
from hf_dinoseg.errors import DataError, LabelError
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models.loss import class_masks

SPACE = LabelSpace({0: "background", 4: "vessel", 7: "disc"}, ignore=(9,), merge={5: 4})
MASKS = [
    np.array([[0, 4, 5], [9, 9, 0]], np.uint8),
    np.array([[9, 9, 9, 9]], np.uint8),
    np.array([[7], [7], [0]], np.uint8),
]


def write_rows(folder: Path, masks: list[np.ndarray] = MASKS) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"m{i}.png")
        Image.new("RGB", mask.shape[::-1], (9, 9, 9)).save(folder / f"i{i}.jpg")
        image, label = str(folder / f"i{i}.jpg"), str(folder / f"m{i}.png")
        rows.append({"id": str(i), "image": {"path": image, "bytes": None}, "mask": {"path": label, "bytes": None}})
    return Dataset.from_list(rows, features=FEATURES)


def test_columns_worked_out_by_hand(tmp_path: Path) -> None:
    prepared = prepare_targets(write_rows(tmp_path), SPACE)
    assert [read_label_map(cell).tolist() for cell in prepared["label_map"]] == [
        [[0, 1, 1], [255, 255, 0]],
        [[255, 255, 255, 255]],
        [[2], [2], [0]],
    ]
    assert prepared["class_labels"][:] == [[0, 1], [], [0, 2]]
    assert prepared["pixel_counts"][:] == [[2, 2], [], [1, 2]]
    assert prepared["void_pixels"][:] == [2, 4, 0]
    assert prepared["height"][:] == [2, 1, 3] and prepared["width"][:] == [3, 4, 1]
    assert prepared["id"][:] == ["0", "1", "2"]
    assert prepared.features["class_labels"].feature.dtype == "int64"


def test_masks_may_be_numpy_arrays_from_the_folder_to_the_doctor(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_rows(tmp_path / "images" / split)
        (tmp_path / "masks" / split).mkdir(parents=True)
        for i, mask in enumerate(MASKS):
            (tmp_path / "images" / split / f"m{i}.png").unlink()
            np.save(tmp_path / "masks" / split / f"i{i}.npy", mask.astype(np.int64))
    source = load_folder(tmp_path, "images/{split}", "masks/{split}", "train", "val")
    prepared = prepare_targets(source["train"], SPACE)
    assert prepared["class_labels"][:] == [[0, 1], [], [0, 2]] and prepared["id"][:] == ["i0", "i1", "i2"]
    assert not [f for f in examine(source, SPACE).findings if f.level == "error"]
    (tmp_path / "masks" / "train" / "i1.npy").write_bytes(b"no array")
    source = load_folder(tmp_path, "images/{split}", "masks/{split}", "train", "val")
    broken = [f for f in examine(source, SPACE).findings if f.code == "broken-file"]
    assert len(broken) == 1 and "i1.npy" in broken[0].seen


def test_more_than_255_classes(tmp_path: Path) -> None:
    space = LabelSpace({i: str(i) for i in range(300)}, ignore=(65535,))
    prepared = prepare_targets(write_rows(tmp_path, [np.array([[0, 255, 299, 65535]], np.uint16)]), space)
    label_map = read_label_map(prepared[0]["label_map"])
    assert label_map.dtype == np.uint16 and label_map.tolist() == [[0, 255, 299, 65535]]
    assert prepared[0]["class_labels"] == [0, 255, 299] and prepared[0]["void_pixels"] == 1


def test_rows_held_as_bytes_and_a_selection_of_rows_keep_their_partners(tmp_path: Path) -> None:
    rows = write_rows(tmp_path).map(
        lambda row: {
            k: {"path": Path(row[k]["path"]).name, "bytes": Path(row[k]["path"]).read_bytes()}
            for k in ("image", "mask")
        }
    )
    prepared = prepare_targets(rows.select([2, 0]), SPACE)
    assert prepared["id"][:] == ["2", "0"] and prepared["class_labels"][:] == [[0, 2], [0, 1]]
    assert prepared[0]["image"]["path"] == "i2.jpg"


def test_several_processes_give_the_same(tmp_path: Path, datasets_cache: Path) -> None:
    rows = write_rows(tmp_path)
    shared = prepare_targets(rows, SPACE, num_proc=2)[:]
    for path in (datasets_cache / "hf_dinoseg").iterdir():
        path.unlink()
    assert prepare_targets(rows, SPACE)[:] == shared


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("read again")


def test_targets_are_read_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_targets(write_rows(tmp_path), SPACE)[:]
    rows = load_rows_again(tmp_path)
    monkeypatch.setattr(targets, "read_mask", refuse)
    assert prepare_targets(rows, SPACE)[:] == first
    assert prepare_targets(rows, SPACE, num_proc=2)[:] == first
    with pytest.raises(AssertionError, match="read again"):  # another label space is another result
        prepare_targets(rows, LabelSpace({0: "background", 4: "vessel", 5: "x", 7: "disc"}, ignore=(9,)))


def load_rows_again(folder: Path) -> Dataset:
    names = [(f"i{i}.jpg", f"m{i}.png") for i in range(len(MASKS))]
    return Dataset.from_list(
        [
            {
                "id": str(i),
                "image": {"path": str(folder / image), "bytes": None},
                "mask": {"path": str(folder / mask), "bytes": None},
            }
            for i, (image, mask) in enumerate(names)
        ],
        features=FEATURES,
    )


def test_an_edited_mask_is_read_again(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    assert prepare_targets(rows, SPACE)["class_labels"][2] == [0, 2]
    path = tmp_path / "m2.png"
    before = path.stat()
    Image.fromarray(np.array([[0], [7], [4]], np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert prepare_targets(rows, SPACE)["class_labels"][2] == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".npy", ".bmp", ".png"])
def test_an_edited_mask_is_read_again_although_size_and_time_were_kept(tmp_path: Path, suffix: str) -> None:
    def write(path: Path, mask: np.ndarray) -> None:
        np.save(path, mask) if suffix == ".npy" else Image.fromarray(mask).save(path)

    rows = write_rows(tmp_path)
    path = tmp_path / f"m2{suffix}"
    write(path, MASKS[2])
    cells = [{**row, "mask": {"path": str(path), "bytes": None}} if row["id"] == "2" else row for row in rows]
    rows = Dataset.from_list(cells, features=FEATURES)
    assert prepare_targets(rows, SPACE)["class_labels"][2] == [0, 2]
    before = path.stat()
    write(path, np.array([[0], [7], [0]], np.uint8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert prepare_targets(rows, SPACE)["pixel_counts"][2] == [2, 1]
    assert prepare_targets(rows, SPACE)["class_labels"][2] == [0, 2]


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("left", [0, 0.01, 0.5, 0.99])
def test_a_cache_file_that_was_cut_off_heals(
    tmp_path: Path, datasets_cache: Path, left: float, num_proc: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_rows(tmp_path)
    whole = prepare_targets(rows, SPACE, num_proc)[:]
    for path in (datasets_cache / "hf_dinoseg").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    for _ in range(2):
        assert prepare_targets(rows, SPACE, num_proc)[:] == whole
    assert caplog.text.count("are broken; masks are read again") == 1


def test_digests_tell_label_maps_apart(tmp_path: Path) -> None:
    masks = [MASKS[0], MASKS[0][:, ::-1].copy(), MASKS[0], MASKS[0].reshape(3, 2)]
    a, mirrored, again, turned = sample_digests(prepare_targets(write_rows(tmp_path, masks), SPACE)).values()
    assert a == again and len({a, mirrored, turned}) == 3


def test_the_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    write_rows(tmp_path)
    code = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from datasets import Dataset
from hf_dinoseg.data.sources import FEATURES
from hf_dinoseg.data.targets import fingerprint
print(fingerprint(Dataset.from_list(json.loads(sys.argv[2]), features=FEATURES), "{}"))
"""
    rows = load_rows_again(tmp_path)
    arguments = [json.dumps(sys.path), json.dumps(rows.to_list())]
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    there = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    assert there.stdout.strip() == targets.fingerprint(rows, "{}")


def test_nothing_is_cached_where_caching_is_off(
    tmp_path: Path, datasets_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "is_caching_enabled", lambda: False)
    assert len(prepare_targets(write_rows(tmp_path), SPACE)) == 3
    assert not list(datasets_cache.rglob("*.arrow"))


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_unknown_id_names_file_and_pixels(tmp_path: Path, num_proc: int | None) -> None:
    rows = write_rows(tmp_path, [MASKS[0], np.array([[0, 3, 3]], np.uint8)])
    with pytest.raises(LabelError, match=r"m1\.png.* 3 \(2 pixels\)"):
        prepare_targets(rows, SPACE, num_proc)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_broken_files_are_named_whichever_of_the_two_it_is(tmp_path: Path, num_proc: int | None) -> None:
    rows = write_rows(tmp_path)
    kept = (tmp_path / "m0.png").read_bytes()
    (tmp_path / "m0.png").write_bytes(kept[:40])
    with pytest.raises(DataError, match=r"m0\.png: cannot be read"):
        prepare_targets(rows, SPACE, num_proc)
    (tmp_path / "m0.png").write_bytes(kept)
    (tmp_path / "i2.jpg").write_bytes((tmp_path / "i2.jpg").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"i2\.jpg: cannot be read"):
        prepare_targets(rows, SPACE, num_proc)
    (tmp_path / "i2.jpg").unlink()
    with pytest.raises(DataError, match=r"i2\.jpg: No such file"):
        prepare_targets(rows, SPACE, num_proc)


def test_sizes_that_differ_are_both_named(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, [MASKS[0]])
    Image.new("RGB", (5, 2)).save(tmp_path / "i0.jpg")
    with pytest.raises(DataError, match=r"i0\.jpg is 5×2 .*m0\.png is 3×2\. Give"):
        prepare_targets(rows, SPACE)


def test_an_image_turned_by_exif_over_an_unturned_mask(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, [MASKS[0]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "i0.jpg", exif=exif)
    with pytest.raises(DataError, match=r"i0\.jpg is 2×3 .*m0\.png is 3×2\. .*EXIF"):
        prepare_targets(rows, SPACE)
    Image.fromarray(MASKS[0]).save(tmp_path / "m0.png", exif=exif)  # both turned: a pair again
    label_map = read_label_map(prepare_targets(rows, SPACE)[0]["label_map"])
    assert label_map.tolist() == [[255, 0], [255, 1], [0, 1]]


def test_a_jpeg_mask_with_unknown_ids_is_told_why(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, [MASKS[0]])
    Image.fromarray(np.array([[3, 3, 3], [3, 3, 3]], np.uint8)).save(tmp_path / "m0.jpg")
    rows = Dataset.from_list(
        [{**rows[0], "mask": {"path": str(tmp_path / "m0.jpg"), "bytes": None}}], features=FEATURES
    )
    with pytest.raises(LabelError, match="JPEG"):
        prepare_targets(rows, SPACE)


# ------------------------------------------------------------------ masks of classes


def masks_and_classes(label_map: torch.Tensor, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    classes = torch.tensor(sorted(set(label_map.flatten().tolist()) - {ignore_index}), dtype=torch.int64)
    return class_masks(label_map, classes), classes


label_maps = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.sampled_from([0, 1, 2, 7, 254, 255])
)


@settings(max_examples=60, deadline=None)
@given(label_maps, st.sampled_from([torch.uint8, torch.int32, torch.int64]))
def test_masks_of_classes_pixel_by_pixel(label_map: np.ndarray, dtype: torch.dtype) -> None:
    masks, classes = masks_and_classes(torch.from_numpy(label_map).to(dtype), ignore_index=255)
    assert masks.dtype == torch.bool and classes.dtype == torch.int64
    assert masks.shape == (len(classes), *label_map.shape)
    for mask, label in zip(masks.tolist(), classes.tolist(), strict=True):
        assert mask == [[value == label for value in row] for row in label_map.tolist()]


def test_masks_of_classes_agrees_with_transformers() -> None:
    from transformers.models.mask2former import image_processing_pil_mask2former as peer

    label_map = np.random.default_rng(0).choice([0, 3, 5, 255], size=(20, 30)).astype(np.uint8)
    masks, classes = masks_and_classes(torch.from_numpy(label_map), 255)
    peer_masks, peer_classes = peer.convert_segmentation_map_to_binary_masks(label_map, ignore_index=255)
    assert classes.tolist() == peer_classes.tolist()
    assert (masks.numpy() == peer_masks.astype(bool)).all()


def test_void_only_and_wide_maps() -> None:
    masks, classes = masks_and_classes(torch.full((4, 3), 255, dtype=torch.uint8), 255)
    assert masks.shape == (0, 4, 3) and masks.dtype == torch.bool and classes.shape == (0,)
    masks, classes = masks_and_classes(torch.tensor([[255, 299, 65535]], dtype=torch.int32), 65535)
    assert classes.tolist() == [255, 299] and masks.int().tolist() == [[[1, 0, 0]], [[0, 1, 0]]]


# ------------------------------------------------------------------ real images


@pytest.fixture
def camvid() -> Path:
    folder = os.environ.get("DINOSEG_TEST_DATA")
    if not folder:
        pytest.skip("DINOSEG_TEST_DATA is not set: it names the folder that holds camvid/")
    return Path(folder) / "camvid"


def test_camvid(camvid: Path) -> None:
    names = {int(k): v for k, v in json.loads((camvid / "classes.json").read_text()).items()}
    space = LabelSpace({k: v for k, v in names.items() if v != "void"}, ignore=(11,))
    data = load_folder(camvid, "images/{split}", "masks/{split}", "train", "val")
    assert [len(data["train"]), len(data["validation"])] == [184, 51]
    prepared = prepare_targets(data["validation"], space)
    for row in list(prepared)[::10]:
        stored = np.asarray(Image.open(row["mask"]["path"]))
        label_map = read_label_map(row["label_map"])
        assert (label_map == np.where(stored == 11, 255, stored)).all()
        assert dict(zip(row["class_labels"], row["pixel_counts"], strict=True)) == {
            i: int((stored == i).sum()) for i in range(11) if (stored == i).any()
        }
        assert (row["height"], row["width"], row["void_pixels"]) == (360, 480, int((stored == 11).sum()))
    with pytest.raises(LabelError, match=r"\.png: ids that the label space does not know: 11 \("):
        prepare_targets(data["validation"], LabelSpace(space.classes))
