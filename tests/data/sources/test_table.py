"""Tables of paths to rows, and the paths that are not followed."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_dinoseg.data import load_table
from hf_dinoseg.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        for folder in ("photos", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("L", (3, 2)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def table(root: Path, text: str, name: str = "pairs.csv") -> str:
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


def paths(rows: Any, root: Path) -> list[tuple[str, str, str]]:
    def relative(cell: dict[str, Any]) -> str:
        assert cell["bytes"] is None
        return Path(cell["path"]).relative_to(root).as_posix()

    return [(row["id"], relative(row["image"]), relative(row["mask"])) for row in rows]


ROWS = [("photos/a", "photos/a.png", "labels/a.png"), ("photos/c", "photos/c.png", "labels/c.png")]


def test_a_column_divides_one_table(root: Path) -> None:
    file = table(
        root,
        "image,mask,fold\nphotos/a.png,labels/a.png,train\nphotos/b.png,./labels/b.png,val\n\n"
        "photos/c.png,labels/x/../c.png,train\n",
    )
    data = load_table(file, "train", "val", split_column="fold")
    assert paths(data["train"], root) == ROWS
    assert paths(data["validation"], root) == [("photos/b", "photos/b.png", "labels/b.png")]


def test_a_table_a_split_with_columns_of_other_names(root: Path) -> None:
    table(
        root, "eye;fundus;vessels;note\nOD;photos/a.png;labels/a.png;x, y\nOS;photos/c.png;labels/c.png;\n", "t_1.csv"
    )
    table(root, '\ufeffeye\tfundus\tvessels\nOD\t"photos/b.png"\tlabels\\b.png\n', "t_2.csv")
    columns = {"image_column": "fundus", "mask_column": "vessels", "id_column": "eye"}
    data = load_table(str(root / "t_{split}.csv"), "1", "2", **columns)
    assert paths(data["train"], root) == [("OD", *ROWS[0][1:]), ("OS", *ROWS[1][1:])]
    assert paths(data["validation"], root) == [("OD", "photos/b.png", "labels/b.png")]


def test_json_lines_and_a_held_out_share(root: Path) -> None:
    rows = [{"image": f"photos/{n}.png", "mask": f"labels/{n}.png", "age": 70} for n in "abc"]
    file = table(root, "\n".join(map(json.dumps, rows)) + "\n\n", "pairs.jsonl")
    data = load_table(file, None, 0.3)
    assert [len(data["train"]), len(data["validation"])] == [2, 1]
    assert sorted([*data["train"]["id"], *data["validation"]["id"]]) == ["photos/a", "photos/b", "photos/c"]


def test_paths_start_from_the_root_and_absolute_ones_are_taken(root: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("lists")
    mask = tmp_path_factory.mktemp("masks") / "far.png"
    file = table(elsewhere, f"image,mask\nphotos/a.png,{mask}\nphotos/b.png,labels/b.png\n")
    data = load_table(file, None, 0.5, root=str(root))
    found = {row["id"]: row["mask"]["path"] for split in data.values() for row in split}
    assert found == {"photos/a": str(mask), "photos/b": str(root / "labels/b.png")}


@pytest.mark.parametrize("name", ["../secret.png", "photos/../../secret.png", "..\\secret.png", "photos\x00.png", "."])
def test_a_relative_path_never_leaves_the_root(root: Path, name: str) -> None:
    (root / "data").mkdir()
    Image.new("L", (3, 2)).save(root / "secret.png")
    file = table(root / "data", json.dumps({"image": name, "mask": "m.png"}), "pairs.jsonl")
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 1, image: .* leads out of .*data"):
        load_table(file, None, 0.5)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_paths_are_found_in_another_unicode_form(root: Path, forms: tuple[str, str]) -> None:
    """A table written on one system lists files that another has stored: names look the same and are not equal."""
    stored, written = (unicodedata.normalize(form, "été") for form in forms)
    (root / stored).mkdir()
    for name in (f"{stored}.png", "b.png"):
        Image.new("L", (3, 2)).save(root / stored / name)
    file = table(
        root, f"image,mask\n{written}/{written}.png,labels/a.png\n{root}/{written}/b.png,labels/{written}.png\n"
    )
    rows = load_table(file, None, 0.5)
    cells = {
        Path(row[kind]["path"]).relative_to(root).as_posix()
        for split in rows.values()
        for row in split
        for kind in ("image", "mask")
    }
    # what is not there at all stays as it was written, for the doctor to name
    assert cells == {f"{stored}/{stored}.png", f"{stored}/b.png", "labels/a.png", f"labels/{written}.png"}


def test_the_same_image_twice_has_two_ids(root: Path) -> None:
    file = table(root, "image,mask\nphotos/a.png,labels/a.png\nphotos/a.png,labels/b.png\n")
    data = load_table(file, None, 0.5)
    assert sorted([*data["train"]["id"], *data["validation"]["id"]]) == ["photos/a", "photos/a#2"]


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        ("p.csv", "image,masks\na,b\n", {}, r"p\.csv has no column 'mask'; it has image, masks\."),
        ("p.csv", "image,mask\nphotos/a.png\nphotos/b.png,x\n", {}, r"mask is empty in 1 rows, on line 2\."),
        ("p.csv", "image,mask\n", {}, r"lists nothing below its first line"),
        ("p.csv", "", {}, r"lists nothing"),
        ("p.csv", "image,mask\nno/a.png,b\n", {}, r"data\.root: .*none of these is there\. Paths start from "),
        ("p.csv", "image,mask\nhttps://x/a.png,b\n", {}, r"line 2, image: https://x/a\.png is an address"),
        ("p.xlsx", "", {}, r"p\.xlsx is none of \.csv, \.tsv"),
        ("p.jsonl", '{"image": "a"}\n[1]\n', {}, r"p\.jsonl, line 2 is no JSON object"),
        (
            "p.csv",
            "image,mask,s\nphotos/a.png,labels/a.png,t\n",
            {"split_column": "s", "validation": "v"},
            r"data\.train: no row of .* has s 'train'; it holds 't' \(1 rows\)",
        ),
        (
            "p.csv",
            "image,mask,k\nphotos/a.png,labels/a.png,1\nphotos/b.png,labels/b.png,1\n",
            {"id_column": "k"},
            r"data\.id_column: .* holds in k more than once: 1\.",
        ),
    ],
)
def test_tables_that_are_wrong(root: Path, name: str, text: str, fields: dict[str, Any], message: str) -> None:
    arguments = {"train": "train" if "split_column" in fields else None, "validation": 0.5, **fields}
    with pytest.raises(DataError, match=message):
        load_table(table(root, text, name), **arguments)


def test_a_table_that_is_no_text_or_not_there(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.file: there is no file .*none\.csv"):
        load_table(str(root / "none.csv"), None, 0.5)
    (root / "p.csv").write_bytes(b"image,mask\n\xff\xfe,\x00\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_table(str(root / "p.csv"), None, 0.5)
