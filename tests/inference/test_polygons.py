"""Polygons of a label map: filled again they give it back, exactly or within the tolerance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import ndimage

from hf_dinoseg import LabelSpace
from hf_dinoseg.data import load_source
from hf_dinoseg.images import read_mask
from hf_dinoseg.inference.polygons import joined, outlines, regions, simplified
from hf_dinoseg.inference.segmenter import SegmentationResult
from hf_dinoseg.inference.write import Format, Writing, write_result

LABELS = LabelSpace({2: "field", 5: "lake", 300: "road"}, ignore=(255,))


def blobs(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth regions with holes, islands in holes, and some single pixels; ids of `LABELS`, void among them."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(4, height, width)), (0, 2.5, 2.5)).argmax(axis=0)
    label_map = np.array([2, 5, 300, 255])[smooth]
    label_map[rng.random(label_map.shape) < 0.02] = 5
    return label_map


def even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Whether centres of pixels lie in an odd number of simple rings, as matplotlib judges."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([x, y], -1).reshape(-1, 2) + 0.5
    inside = sum(Outline(np.concatenate([r, r[:1]])).contains_points(centres).astype(int) for r in rings)
    return np.reshape(inside, shape) % 2 == 1


def test_outlines_of_a_ring_with_an_island() -> None:
    grid = np.array([[c == "#" for c in row] for row in ("#####", "#...#", "#.#.#", "#...#", "#####")])
    found = regions(np.where(grid, 2, 255), LABELS)
    assert [[ring.tolist() for ring in region.rings] for region in found] == [
        [[[0, 0], [5, 0], [5, 5], [0, 5]], [[1, 4], [4, 4], [4, 1], [1, 1]]],
        [[[2, 2], [3, 2], [3, 3], [2, 3]]],
    ]
    assert [region.pixels for region in found] == [16, 1]


def test_pixels_that_touch_at_a_corner_are_two_regions_or_one_ring() -> None:
    apart = regions(np.array([[2, 255], [255, 2]]), LABELS)
    assert [region.rings[0].tolist() for region in apart] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[1, 1], [2, 1], [2, 2], [1, 2]],
    ]
    # a piece that meets itself at a corner: what is outside reaches in between
    meets = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    assert len(outlines(meets)) == 1
    assert (even_odd(outlines(meets), (3, 3)) == meets).all()


@pytest.mark.parametrize("seed", range(6))
def test_outlines_are_exact_and_each_region_is_one_piece(seed: int) -> None:
    label_map = blobs(seed)
    found = regions(label_map, LABELS)
    again = np.full_like(label_map, 255)
    for region in found:
        inside = even_odd(region.rings, label_map.shape)
        assert inside.sum() == region.pixels and ndimage.label(inside)[1] == 1
        again[inside] = region.label_id
    assert (again == label_map).all()
    assert any(len(region.rings) > 2 for region in found)


@pytest.mark.parametrize("tolerance", [0.6, 1.0, 2.5])
def test_corners_left_out_are_near_what_is_left(tolerance: float) -> None:
    fewer = 0
    for region, exact in zip(regions(blobs(1), LABELS, tolerance), regions(blobs(1), LABELS), strict=True):
        for ring, whole in zip(region.rings, exact.rings, strict=True):
            assert {tuple(corner) for corner in ring.tolist()} <= {tuple(corner) for corner in whole.tolist()}
            ends = np.concatenate([ring, ring[:1]]).astype(float)
            samples = np.concatenate(
                [a + (b - a) * np.linspace(0, 1, 200)[:, None] for a, b in zip(ends, ends[1:], strict=False)]
            )
            away = np.sqrt(np.square(whole[:, None] - samples[None]).sum(axis=2)).min(axis=1)
            assert away.max() <= tolerance + 0.1
            fewer += len(whole) - len(ring)
    assert fewer > 100
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    assert (simplified(square, 9) == square).all()


def test_a_ring_with_bridges_holds_the_same_pixels() -> None:
    from hf_dinoseg.images.shapes import fill

    for region in regions(blobs(2), LABELS):
        for rings in (region.rings, [joined(region.rings)]):
            assert fill([ring.ravel().tolist() for ring in rings], 56, 40)[2].sum() == region.pixels


# ---------------------------------------------------------------------- the files, read again


def write(root: Path, form: Format, label_map: np.ndarray, tolerance: float, names: list[str]) -> dict[str, Any]:
    """Images and predictions of a training and a validation split, and the recipe's fields that read them."""
    from hf_dinoseg.cli._results import Form, result_files, write_together

    height, width = label_map.shape
    for split, name in zip(("train", "val"), names, strict=True):
        image = Image.new("RGB", (width, height))
        (root / "images" / split).mkdir(parents=True)
        image.save(root / "images" / split / f"{name}.png")
        result = SegmentationResult(label_map, np.zeros((height, width)), image, LABELS)
        files = result_files(Path(name), root / split, [Form(form)])
        source = root / "images" / split / f"{name}.png"
        write_result(result, form, files[Form(form)], str(source), f"{name}.png", how=Writing(tolerance=tolerance))
        write_together([files], [Form(form)], root / split, LABELS)
    place = {"coco": "{split}/annotations.json", "yolo": "{split}", "labelme": "{split}"}[form]
    rules = {"unlabelled": 255, "overlap": "last", "train": "train", "validation": "val"}
    return {"source": form, "root": str(root), "image": "images/{split}", "annotations": place, **rules}


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
@pytest.mark.parametrize("tolerance", [0.0, 1.5])
def test_the_sources_read_back_what_was_predicted(form: Format, tolerance: float, tmp_path: Path) -> None:
    label_map = blobs(3)
    fields = write(tmp_path, form, label_map, tolerance, ["a", "b"])
    for rows in load_source(labels=LABELS, **fields).values():
        again = read_mask(rows[0]["mask"])
        if not tolerance:
            assert (again == label_map).all()
            continue
        edge = np.zeros(label_map.shape, bool)
        edge[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
        edge[1:] |= label_map[1:] != label_map[:-1]
        # what changed lies within the tolerance of an outline, which runs half a pixel beside its pixels' centres
        away = ndimage.distance_transform_edt(~edge)
        assert 0 < (again != label_map).mean() < 0.15
        assert away[again != label_map].max() <= tolerance + 1


def test_geojson_holds_rings_and_holes(tmp_path: Path) -> None:
    label_map = blobs(4)
    result = SegmentationResult(label_map, label_map * 0.0, Image.new("RGB", (56, 40)), LABELS)
    write_result(result, "geojson", tmp_path / "a.geojson", how=Writing(tolerance=0, omit=frozenset({300})))
    again = np.where(label_map == 300, 300, 255)
    for feature in json.loads((tmp_path / "a.geojson").read_text())["features"]:
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in rings)
        again[even_odd([np.array(ring[:-1]) for ring in rings], label_map.shape)] = feature["properties"]["id"]
        assert LABELS.classes[feature["properties"]["id"]] == feature["properties"]["name"] != "road"
    assert (again == label_map).all()


def test_coco_says_area_box_and_ids(tmp_path: Path) -> None:
    label_map = np.full((6, 8), 255)
    label_map[1:4, 2:7], label_map[2, 3] = 300, 255
    write(tmp_path, "coco", label_map, 0, ["a", "b"])
    content = json.loads((tmp_path / "train/annotations.json").read_text())
    (entry,) = content["annotations"]
    assert (entry["area"], entry["bbox"], entry["category_id"], entry["iscrowd"]) == (14, [2, 1, 5, 3], 300, 0)
    assert content["categories"][-1] == {"id": 300, "name": "road"}
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}]


def test_areas_are_counted_and_measured(tmp_path: Path) -> None:
    label_map = np.array([[2, 2, 2, 5], [2, 2, 255, 255]])
    result = SegmentationResult(label_map, label_map * 0.0, Image.new("RGB", (4, 2)), LABELS)
    write_result(result, "areas", tmp_path / "a.csv", name="x/a.jpg", how=Writing(pixel_size=(0.5, "m")))
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "image,id,class,pixels,share,area_m2",
        "x/a.jpg,2,field,5,0.625000,1.25",
        "x/a.jpg,5,lake,1,0.125000,0.25",
        "x/a.jpg,300,road,0,0.000000,0",
        "x/a.jpg,255,(no class),2,0.250000,0.5",
    ]
