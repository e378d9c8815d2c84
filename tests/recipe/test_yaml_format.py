"""Recipe files as text: YAML 1.2's scalars, keys that stand twice, files that are no recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dinoseg.errors import RecipeError
from hf_dinoseg.recipe import load_recipe, write_yaml, yaml_format
from hf_dinoseg.recipe.yaml_format import parse_yaml


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def the_fault(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.faults) == 1 and str(path) in str(caught.value)
    return caught.value.faults[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2e-5", 2e-5),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", float("inf")),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ("0.9.1", "0.9.1"),
        ("[1, 2e-1]", [1, 0.2]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "text")
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_still_work_and_are_no_duplicates() -> None:
    text = "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: {<<: *b}"
    assert parse_yaml(text, "text") == {"base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}}


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
    | st.sampled_from(["1e-4", "no", "010", "0o10", "1_0", "12:30", "null", "~", "=", "<<", "2024-01-01", "1.", "e1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_é", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("klm", min_size=1) | st.integers(0, 300).map(str), plain_values, max_size=4))
def test_written_yaml_reads_back_as_the_same_data(data: dict[str, Any]) -> None:
    assert parse_yaml(write_yaml(data), "text") == data
    # a reader of YAML 1.1 sees the same texts (numbers such as 1e-05 are always written so that it does)
    assert yaml.safe_load(write_yaml(data)) == data


def test_a_key_that_stands_twice_is_refused_with_both_lines(path: Path) -> None:
    path.write_text("training:\n  learning_rate: 1\n  max_steps: 5\n  learning_rate: 2\n")
    fault = the_fault(path)
    assert "line 4" in fault and "`learning_rate` stands twice" in fault and "line 2" in fault


def test_the_same_label_id_as_number_and_as_text_is_a_key_that_stands_twice(path: Path) -> None:
    path.write_text('labels: {classes: {0: background, "0": other}}')
    assert "`0` stands twice" in the_fault(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds nothing"),
        ("- a\n- b", 'holds ["a", "b"]'),
        ("labels: {classes: [", "line 1"),
        ("a: &x {b: *x}", "refers to itself"),
        ("x: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("data: {image: images/{split}}", 'image: "images/{split}"'),
        ("? [1, 2]\n: 3", "a key must be a word or a number"),
        ("data:\n  a: {b: 1\n", "line 2, column 6: what begins here is not closed"),
        ("data: [1,\n  2\n", "line 1, column 7: what begins here is not closed"),
        ("data: 'a\n\n", "line 1, column 7: what begins here is not closed"),
        ('data: "a\n', "line 1, column 7: what begins here is not closed"),
        ("data: [1,\n", "ends before it is complete"),
        ("a: {b\nc: 1\n", "begins at line 1, column 4"),
        ("a: !!float ''", "line 1, column 4: this is no float"),
        ("a: !!bool maybe", "this is no bool"),
        ("a: !!timestamp soon", "this is no timestamp"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_so(path: Path, content: str, words: str) -> None:
    path.write_text(content)
    assert words in the_fault(path)


QUICKSTART = Path(__file__).parents[2] / "recipes" / "synthetic_retina" / "mask2former_tiny.yaml"


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_recipe_that_was_cut_off_anywhere_is_yaml_or_a_fault(end: str) -> None:
    text = QUICKSTART.read_text(encoding="utf-8")
    text = text[text.index("\nlabels:") :]  # without the comment above
    refused = 0
    for length in range(len(text)):
        try:
            parse_yaml(text[:length] + end, "cut")
        except RecipeError as error:
            refused += 1
            assert error.faults[0].startswith("line ")
    assert refused > 50


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(list("{}[],:'\"-?&*!|>#% \n\tab1") + ["\r\n", "\x85", "\u2028", "!!int ", "<<: "])))
def test_no_text_is_anything_but_data_or_a_fault(parts: list[str]) -> None:
    try:
        parse_yaml("".join(parts), "any")
    except RecipeError as error:
        assert len(error.faults) == 1


def test_missing_file_folder_and_binary_are_told_apart(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "UTF-8" in the_fault(path)
    missing = the_fault(path.with_name("receipt.yaml"))
    assert "no such file" in missing and "recipe.yaml" in missing  # what the folder does hold
    assert "comes before the overrides" in the_fault(Path("training.max_steps=3"))
    assert "folder" in the_fault(path.parent)


def laughs(layers: int, times: int, merge: bool = False) -> str:
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [1]"]
    for n in range(1, layers):
        many = ", ".join([f"*a{n - 1}"] * times)
        lines.append(f"a{n}: &a{n} " + (f"{{<<: [{many}], y{n}: 1}}" if merge else f"[{many}]"))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_that_multiply_are_refused_before_anything_walks_through_them(path: Path, merge: bool) -> None:
    path.write_text(laughs(10, 10, merge))  # 10**9 values
    assert "aliases" in the_fault(path)


def test_aliases_that_repeat_little_are_read() -> None:
    text = "one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: [*one, *one]\n" + laughs(4, 10)
    data = parse_yaml(text, "recipe")
    assert data["two"] == {"a": 1, "b": 3} and data["three"] == [{"a": 1, "b": 2}] * 2 and len(data["a3"][9][9]) == 10


def test_only_what_aliases_repeat_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_format, "_MOST_REPEATED", 10)
    assert len(parse_yaml("[" + "1, " * 100 + "1]", "recipe")) == 101
    assert len(parse_yaml("[&a [1], " + "*a, " * 5 + "1]", "recipe")) == 7
    with pytest.raises(RecipeError, match="aliases repeat more than 10 values"):
        parse_yaml("[&a [1], " + "*a, " * 6 + "1]", "recipe")


def test_a_file_that_is_no_recipe_by_its_size_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 32)
    assert "bytes" in the_fault(path)
