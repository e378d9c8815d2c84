"""Annotations of labelling tools: the same scene in each format, against a mask written out by hand; what the recipe
must settle; what is refused."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.data import load_source, prepare_targets
from hf_dinoseg.data.label_maps import read_label_map
from hf_dinoseg.data.sources.coco import decode_counts
from hf_dinoseg.data.sources.label_studio import decode_brush
from hf_dinoseg.errors import DataError, RecipeError
from hf_dinoseg.images import read_mask
from hf_dinoseg.recipe import Recipe

LABELS = LabelSpace({0: "background", 3: "disc", 7: "vessel"}, ignore=(255,))
SIZE = (10, 8)
DISC, VESSEL = [1, 1, 6, 1, 6, 5, 1, 5], [4, 3, 8, 3, 8, 7, 4, 7]
SCENE = """
..........
.33333....
.33333....
.3337777..
.3337777..
....7777..
....7777..
..........
"""


def grid(text: str, unlabelled: int = 0) -> np.ndarray:
    rows = [[unlabelled if c == "." else int(c) for c in line] for line in text.split()]
    return np.array(rows)


def save_image(path: Path, size: tuple[int, int] = SIZE, orientation: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", size, "grey").save(path, exif=exif)


def pairs(ring: list[float]) -> list[list[float]]:
    return [list(point) for point in zip(ring[::2], ring[1::2], strict=True)]


# ---------------------------------------------------------------------- the formats


def coco(root: Path, images: dict[str, list[dict[str, Any]]], split: str = "train") -> dict[str, Any]:
    entries = [{"id": n, "file_name": f"{name}.png", "width": 10, "height": 8} for n, name in enumerate(images, 5)]
    shapes = [
        {"id": len(images) * n + m, "image_id": n, "iscrowd": 0, **shape}
        for n, listed in enumerate(images.values(), 5)
        for m, shape in enumerate(listed)
    ]
    categories = [{"id": 3, "name": "disc"}, {"id": 7, "name": "vessel"}]
    content = {"images": entries, "annotations": shapes, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(content))
    return {"source": "coco", "annotations": "{split}.json"}


def write_coco(root: Path, names: list[str], split: str) -> dict[str, Any]:
    shapes = [{"category_id": 3, "segmentation": [DISC]}, {"category_id": 7, "segmentation": [VESSEL]}]
    return coco(root, {name: shapes for name in names}, split)


def write_yolo(root: Path, names: list[str], split: str) -> dict[str, Any]:
    for name in names:
        shares = [[value / SIZE[place % 2] for place, value in enumerate(ring)] for ring in (DISC, VESSEL)]
        lines = [f"{label} {' '.join(map(repr, ring))}" for label, ring in zip((3, 7), shares, strict=True)]
        (root / f"labels/{split}").mkdir(parents=True, exist_ok=True)
        (root / f"labels/{split}/{name}.txt").write_text("\n".join(lines))
    return {"source": "yolo", "annotations": "labels/{split}"}


def write_labelme(root: Path, names: list[str], split: str) -> dict[str, Any]:
    for name in names:
        mask = io.BytesIO()
        Image.fromarray(np.full((4, 4), 255, np.uint8)).save(mask, "PNG")
        shapes = [
            {"label": "disc", "points": pairs(DISC), "shape_type": "polygon"},
            {
                "label": "vessel",
                "points": [[4, 3], [7, 6]],
                "shape_type": "mask",
                "mask": base64.b64encode(mask.getvalue()).decode(),
            },
        ]
        content = {"shapes": shapes, "imagePath": f"{name}.png", "imageWidth": 10, "imageHeight": 8, "imageData": None}
        (root / f"images/{split}/{name}.json").write_text(json.dumps(content))
    return {"source": "labelme", "annotations": "images/{split}"}


def write_cvat(root: Path, names: list[str], split: str) -> dict[str, Any]:
    """The vessel stands first and is above all the same; the disc is runs of pixels."""
    images = "".join(
        f'<image id="{n}" name="{name}.png" width="10" height="8">'
        f'<polygon label="vessel" points="{";".join(f"{x},{y}" for x, y in pairs(VESSEL))}" z_order="2"/>'
        '<mask label="disc" rle="0,20" left="1" top="1" width="5" height="4" z_order="1"/></image>'
        for n, name in enumerate(names)
    )
    (root / f"{split}.xml").write_text(f"<?xml version='1.0'?><annotations><meta/>{images}</annotations>")
    return {"source": "cvat", "annotations": "{split}.xml"}


def write_label_studio(root: Path, names: list[str], split: str) -> dict[str, Any]:
    def result(kind: str, label: str, **value: Any) -> dict[str, Any]:
        size = {"original_width": 10, "original_height": 8}
        return {"type": kind, "value": {kind: [label], **value}, **size}

    percent = [[100 * x / 10, 100 * y / 8] for x, y in pairs(DISC)]
    brush = brush_stroke(grid(SCENE) == 7)
    tasks = [
        {
            "id": n,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.png"},
            "annotations": [
                {"result": [result("polygonlabels", "disc", points=percent)]},
                {
                    "result": [
                        result("polygonlabels", "disc", points=percent),
                        result("brushlabels", "vessel", rle=brush, format="rle"),
                    ]
                },
                {"was_cancelled": True, "result": []},
            ],
        }
        for n, name in enumerate(names)
    ]
    (root / f"{split}.json").write_text(json.dumps(tasks))
    return {"source": "label-studio", "annotations": "{split}.json", "several": "last"}


def brush_stroke(pixels: np.ndarray) -> list[int]:
    """Label Studio's packing in its simplest form: all values written out, 256 in a block."""
    values = np.repeat(pixels.ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    for start in range(0, len(values), 256):
        block = values[start : start + 256]
        bits += "0" + "10" + f"{len(block) - 1:08b}" + "".join(f"{value:08b}" for value in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


FORMATS: dict[str, Callable[[Path, list[str], str], dict[str, Any]]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
}


def scene(root: Path, source: str, names: tuple[list[str], list[str]] = (["a", "b"], ["c"])) -> dict[str, Any]:
    """The fields of a recipe whose images all show the scene."""
    fields: dict[str, Any] = {}
    for split, listed in zip(("train", "val"), names, strict=True):
        for name in listed:
            save_image(root / f"images/{split}/{name}.png")
        fields = FORMATS[source](root, listed, split)
    return {"root": str(root), "unlabelled": 0, "overlap": "last", **fields}


def load(fields: dict[str, Any], labels: LabelSpace = LABELS) -> Any:
    """Through the recipe, as a user does."""
    plain = {name: getattr(labels, name) for name in ("classes", "ignore", "merge", "reduce_zero_label")}
    plain["ignore"] = list(labels.ignore)
    recipe = Recipe.from_dict({"labels": plain, "data": fields, "training": {"output_dir": "out", "max_steps": 1}})
    return load_source(labels=labels, **recipe.data.source_fields())


# ---------------------------------------------------------------------- what they hold


@pytest.mark.parametrize("source", FORMATS)
def test_every_format_gives_the_same_mask(source: str, tmp_path: Path) -> None:
    data = load(scene(tmp_path, source))
    assert (data["train"]["id"][:], data["validation"]["id"][:]) == (["a", "b"], ["c"])
    for row in (*data["train"], *data["validation"]):
        assert (read_mask(row["mask"]) == grid(SCENE)).all()
        assert row["image"]["path"].endswith(f"{row['id']}.png")


@pytest.mark.parametrize("source", FORMATS)
def test_every_format_holds_out_a_share(source: str, tmp_path: Path) -> None:
    for name in "abcd":
        save_image(tmp_path / f"images/all/{name}.png")
    fields = FORMATS[source](tmp_path, list("abcd"), "all")
    fields["annotations"] = fields["annotations"].replace("{split}", "all")
    place = {"root": str(tmp_path), "image": "images/all", "validation": 0.25}
    data = load({**fields, **place, "unlabelled": 255, "overlap": "last"})
    assert sorted((*data["train"]["id"], *data["validation"]["id"])) == list("abcd") and len(data["validation"]) == 1
    assert (read_mask(data["train"][0]["mask"]) == grid(SCENE, unlabelled=255)).all()


def test_targets_are_drawn_once_into_the_cache(tmp_path: Path) -> None:
    data = load({**scene(tmp_path, "coco"), "unlabelled": 255})
    row = prepare_targets(data["train"], LABELS)[0]
    expected = LABELS.encode(grid(SCENE, unlabelled=255))
    assert (read_label_map(row["label_map"]) == expected).all()
    assert row["void_pixels"] == (grid(SCENE, 255) == 255).sum()


def test_the_order_of_overlap(tmp_path: Path) -> None:
    fields = scene(tmp_path, "coco")
    first = read_mask(load({**fields, "overlap": "first"})["train"][0]["mask"])
    smallest = read_mask(load({**fields, "overlap": "smallest"})["train"][0]["mask"])
    assert first[3, 4] == 3 and smallest[3, 4] == 7  # 20 pixels and 16
    assert (first == 7).sum() == 16 - 4


# ---------------------------------------------------------------------- COCO's runs


def test_compressed_runs_are_those_of_pycocotools() -> None:
    """Text that pycocotools 2.0.11 wrote, `encode(asfortranarray(mask))["counts"]`."""
    big = np.zeros((300, 400), np.uint8)
    big[5:290, 3:390] = 1
    big[100:120, 30:300] = 0
    text = "Yl0m8?" + "0" * 51
    counts = decode_counts(text)
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    assert (flat == big.T.ravel()[: len(flat)]).all() and len(flat) > 20 * 300
    # lengths that fall and rise again: differences below 0
    text = "01o10`N040m20RM0;j0^OO0\\OG<9DG<9DG<9DG<9DG<9DG<9800000000FWO40g0080Y20XO0eM0S10oN0g00P20dM0V10lN0Z10UN0Z10"
    counts = decode_counts(text + "R10D0RN0I0e10SO0[O080E0R10XO0[10A0kN0T2")
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    mask = flat.reshape(53, 37).T  # fails unless they add up
    assert mask.sum() == 364 and mask[4:10, 7:20].all() and mask[0, 0] == mask[33, 50] == 1


@pytest.mark.parametrize("counts", [[33, 4, 4, 4, 4, 4, 4, 4, 19], "damaged\x7f"])
def test_runs_of_coco(counts: Any, tmp_path: Path) -> None:
    save_image(tmp_path / "images/train/a.png")
    save_image(tmp_path / "images/val/c.png")
    shape = {"category_id": 7, "segmentation": {"size": [8, 10], "counts": counts}, "iscrowd": 1}
    coco(tmp_path, {"a": [shape]})
    fields = coco(tmp_path, {"c": [shape]}, "val")
    fields |= {"root": str(tmp_path), "unlabelled": 0, "overlap": "last", "crowd": 255}
    (row,) = load(fields)["train"]
    if isinstance(counts, str):
        with pytest.raises(DataError, match=r"annotation 5 of .*a\.png cannot be read"):
            read_mask(row["mask"])
        return
    expected = np.zeros((10, 8), int)  # columns first
    for column, row_from in ((4, 1), (5, 1), (6, 1), (7, 1)):
        expected[column, row_from : row_from + 4] = 255
    assert (read_mask(row["mask"]) == expected.T).all()


def test_brush_strokes_of_label_studio() -> None:
    """Bytes that label-studio-sdk 2.1.2 wrote: a ring of 14 pixels in 9 × 6."""
    packed = [0, 0, 0, 216, 57, 27, 254, 43, 0, 194, 127, 247, 192, 39, 255, 140, 2, 127, 251, 224, 24, 79, 255, 39]
    alpha = decode_brush([*packed, 128, 0])[3::4].reshape(6, 9)
    expected = np.zeros((6, 9), int)
    expected[1:4, 2:7], expected[2, 4] = 255, 0
    assert (alpha == expected).all()
    with pytest.raises(ValueError, match="cut off"):
        decode_brush(packed[:15])


# ---------------------------------------------------------------------- what only the user knows


def test_what_annotations_leave_open_is_asked_in_one_error(tmp_path: Path) -> None:
    for name in "abc":
        save_image(tmp_path / f"images/train/{name}.png")
    save_image(tmp_path / "images/val/d.png")
    nested = {"category_id": 3, "segmentation": [DISC, [2, 2, 4, 2, 4, 4, 2, 4]]}
    apart = {"category_id": 7, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1], [7, 6, 9, 6, 9, 8, 7, 8]]}
    box = {"category_id": 7, "segmentation": [], "bbox": [7, 0, 2, 3]}
    crowd = {"category_id": 7, "segmentation": {"size": [8, 10], "counts": [72, 8]}, "iscrowd": 1}
    coco(tmp_path, {"a": [nested, apart], "b": [box, crowd], "c": []})
    fields = coco(tmp_path, {"d": [apart]}, "val")
    fields |= {"root": str(tmp_path), "unlabelled": 0, "overlap": "last"}
    with pytest.raises(DataError) as error:
        load(fields)
    for asked in ("holes: cut", "holes: fill", "boxes: fill", "boxes: skip", "crowd: class", "empty: keep"):
        assert asked in str(error.value)

    rows = load({**fields, "holes": "cut", "boxes": "skip", "crowd": 255, "empty": "skip"})["train"]
    cut, crowded = (read_mask(row["mask"]) for row in rows)
    assert (cut == 3).sum() == 20 - 4 and (cut == 7).sum() == 1 + 4
    assert (crowded == 7).sum() == 0 and (crowded[:, 9] == 255).all()
    rows = load({**fields, "holes": "fill", "boxes": "fill", "crowd": "class", "empty": "keep"})["train"]
    filled, boxed, empty = (read_mask(row["mask"]) for row in rows)
    assert (filled == 3).sum() == 20 and (boxed == 7).sum() == 6 + 8 and not empty.any()


@pytest.mark.parametrize("missing", ["unlabelled", "overlap"])
def test_unlabelled_and_overlap_must_be_said(missing: str, tmp_path: Path) -> None:
    fields = scene(tmp_path, "yolo")
    del fields[missing]
    with pytest.raises(RecipeError, match=rf"data\.{missing}: missing; write"):
        load(fields)


def test_ids_that_the_labels_do_not_hold(tmp_path: Path) -> None:
    fields = scene(tmp_path, "coco")
    with pytest.raises(RecipeError, match=r"data\.unlabelled: 254 is neither"):
        load({**fields, "unlabelled": 254})
    with pytest.raises(DataError, match=r"7 \(3 shapes\)"):
        load(fields, LabelSpace({0: "background", 3: "disc"}, ignore=(255,)))
    named = scene(tmp_path / "named", "labelme")
    fewer = LabelSpace({0: "background", 3: "disc"}, ignore=(255,))
    with pytest.raises(DataError, match=r"vessel \(3 shapes\).*data\.names: \{vessel: 255\}"):
        load(named, fewer)
    mask = read_mask(load({**named, "names": {"vessel": 255}}, fewer)["train"][0]["mask"])
    assert (mask == np.where(grid(SCENE) == 7, 255, grid(SCENE))).all()


def test_shapes_have_ids_and_no_encoding(tmp_path: Path) -> None:
    plain = {"classes": {0: "a", 1: "b"}, "encoding": "binary"}
    with pytest.raises(RecipeError, match=r"labels\.encoding"):
        Recipe.from_dict(
            {"labels": plain, "data": scene(tmp_path, "yolo"), "training": {"output_dir": "out", "max_steps": 1}}
        )


# ---------------------------------------------------------------------- shapes of other kinds


def test_boxes_circles_and_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / f"images/{split}/a{split}.png", (40, 30))
        shapes = [
            {"label": "disc", "points": [[20, 15], [20, 5]], "shape_type": "circle"},
            {"label": "vessel", "points": [[39, 29], [36, 27]], "shape_type": "rectangle"},
            {"label": "vessel", "points": [[1, 1], [9, 9]], "shape_type": "linestrip"},
        ]
        content = {"shapes": shapes, "imageWidth": 40, "imageHeight": 30}
        (tmp_path / f"images/{split}/a{split}.json").write_text(json.dumps(content))
    fields = {"source": "labelme", "root": str(tmp_path), "annotations": "images/{split}", "boxes": "fill"}
    mask = read_mask(load({**fields, "unlabelled": 0, "overlap": "last"})["train"][0]["mask"])
    y, x = np.mgrid[:30, :40] + 0.5
    distance = np.hypot(x - 20, y - 15)
    assert (mask[distance < 9.9] == 3).all() and (mask[distance > 10] != 3).all()
    assert (mask == 7).sum() == 3 * 2 and (mask[27:29, 36:39] == 7).all()
    assert "2 points and lines" in caplog.text


def test_a_turned_box_and_ellipse_of_cvat(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / f"images/{split}/a.png", (40, 30))
        (tmp_path / f"{split}.xml").write_text(
            '<annotations><image id="0" name="a.png" width="40" height="30">'
            '<box label="vessel" xtl="2" ytl="4" xbr="12" ybr="8" rotation="90.0"/>'
            '<ellipse label="disc" cx="28" cy="15" rx="10" ry="4" rotation="90"/></image></annotations>'
        )
    fields = {"source": "cvat", "root": str(tmp_path), "annotations": "{split}.xml", "boxes": "fill"}
    mask = read_mask(load({**fields, "unlabelled": 0, "overlap": "last"})["train"][0]["mask"])
    box = np.zeros((30, 40), bool)
    box[1:11, 5:9] = True  # about its centre (7, 6)
    assert ((mask == 7) == box).all()
    y, x = np.mgrid[:30, :40] + 0.5
    inside = ((x - 28) / 4) ** 2 + ((y - 15) / 10) ** 2
    assert (mask[inside < 0.95] == 3).all() and (mask[inside > 1] != 3).all()


def test_images_turned_by_their_tag(tmp_path: Path) -> None:
    """YOLO's shares are of the image as it is shown."""
    for split in ("train", "val"):
        save_image(tmp_path / f"images/{split}/{split}.jpg", (SIZE[1], SIZE[0]), orientation=6)
    fields = {}
    for split in ("train", "val"):
        fields = write_yolo(tmp_path, [split], split)
    data = load({**fields, "root": str(tmp_path), "unlabelled": 0, "overlap": "last"})
    assert (read_mask(data["train"][0]["mask"]) == grid(SCENE)).all()
    prepare_targets(data["train"], LABELS)  # the sizes agree


def test_voc(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in (("train", "ab"), ("val", "c")):
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
        for name in names:
            save_image(tmp_path / f"JPEGImages/{name}.jpg")
            (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
            Image.fromarray(grid(SCENE).astype(np.uint8)).save(tmp_path / f"SegmentationClass/{name}.png")
    data = load({"source": "voc", "root": str(tmp_path)})
    assert data["train"]["id"][:] == ["a", "b"]
    assert (read_mask(data["validation"][0]["mask"]) == grid(SCENE)).all()


# ---------------------------------------------------------------------- what is refused


def bad_json(root: Path) -> None:
    (root / "train.json").write_text("{")


def other_layout(root: Path) -> None:
    (root / "train.json").write_text(json.dumps({"shapes": []}))


def wrong_folder(root: Path) -> None:
    (root / "images").rename(root / "photos")


def leads_out(root: Path) -> None:
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text.replace("a.png", "../../../a.png"))


@pytest.mark.parametrize("harm", [bad_json, other_layout, wrong_folder, leads_out], ids=lambda harm: harm.__name__)
def test_files_that_cannot_be_used(harm: Callable[[Path], None], tmp_path: Path) -> None:
    fields = scene(tmp_path, "coco")
    harm(tmp_path)
    with pytest.raises(DataError, match=r"data\.|lies outside") as error:
        load(fields)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("source", "file"), [("yolo", "labels/train/a.txt"), ("labelme", "images/train/a.json")])
def test_one_broken_file_is_one_bad_sample(source: str, file: str, tmp_path: Path) -> None:
    fields = scene(tmp_path, source)
    (tmp_path / file).write_text("3 0.1 0.2 nonsense")
    train = load(fields)["train"]
    with pytest.raises(DataError, match=Path(file).name):
        prepare_targets(train, LABELS)
    assert prepare_targets(train, LABELS, on_bad_sample="skip")["fault"][1] is None


def test_xml_with_entities_is_not_read(tmp_path: Path) -> None:
    fields = scene(tmp_path, "cvat")
    text = (tmp_path / "train.xml").read_text()
    (tmp_path / "train.xml").write_text(text.replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>'))
    with pytest.raises(DataError, match="entities"):
        load(fields)


def test_a_dry_run_of_every_format(tmp_path: Path) -> None:
    """Nothing of the annotations is there yet."""
    from hf_dinoseg.testing.generated_data import mimic_source

    for source in (*FORMATS, "voc"):
        fields: dict[str, Any] = {"source": source, "root": "nowhere"}
        if source != "voc":
            fields |= {"annotations": "{split}", "unlabelled": 0, "overlap": "last"}
        text = yaml.safe_dump(
            {"labels": {"classes": {0: "a", 3: "b"}}, "data": fields, "training": {"output_dir": "o"}}
        )
        recipe = Recipe.from_dict(yaml.safe_load(text))
        made = load_source(**mimic_source(recipe.data.source_fields(), recipe.labels, tmp_path / source))
        assert len(made["train"]) == 2 and set(np.unique(read_mask(made["train"][0]["mask"]))) == {0, 3}
