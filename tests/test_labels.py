"""LabelSpace against a translation written pixel by pixel, hand-computed tables, and generated label spaces."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dinoseg.errors import LabelError
from hf_dinoseg.labels import LabelSpace


def encode_by_hand(space: LabelSpace, mask: np.ndarray) -> np.ndarray:
    """The rules once more, a pixel at a time, from the fields only."""
    kept = sorted(set(space.classes) - set(space.merge))
    void = 255 if len(kept) <= 255 else 65535
    out = np.empty(mask.shape, np.int64)
    for position, value in np.ndenumerate(mask):
        label_id = int(value)
        if label_id in space.ignore or (label_id == 0 and space.reduce_zero_label):
            out[position] = void
        else:
            out[position] = kept.index(space.merge.get(label_id, label_id))
    return out


@st.composite
def spaces_and_masks(draw: st.DrawFn) -> tuple[LabelSpace, np.ndarray]:
    wide = draw(st.booleans())
    top = 100_000 if wide else 300
    ids = draw(st.lists(st.integers(0, top), min_size=1, max_size=12, unique=True))
    reduce_zero = draw(st.booleans())
    if reduce_zero:
        ids = [i for i in ids if i] or [1]
    kept = draw(st.integers(1, len(ids)))
    merge = {i: draw(st.sampled_from(ids[:kept])) for i in ids[kept:]}
    unused = st.integers(0, top).filter(lambda i: i not in ids)
    ignore = draw(st.lists(unused, max_size=3, unique=True))
    named = ids if draw(st.booleans()) else ids[:kept]  # a merged id may be named in `classes` or not
    space = LabelSpace({i: f"class {i}" for i in named}, tuple(ignore), reduce_zero, merge)
    known = ids + ignore + ([0] if reduce_zero else [])
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    mask = np.array([draw(st.sampled_from(known)) for _ in range(shape[0] * shape[1])]).reshape(shape)
    types = [t for t in (np.uint8, np.uint16, np.int32, np.int64) if np.iinfo(t).max >= mask.max()]
    return space, mask.astype(draw(st.sampled_from(types)))


@settings(max_examples=150, deadline=None)
@given(spaces_and_masks())
def test_encode_follows_the_rules_and_decode_undoes_it(case: tuple[LabelSpace, np.ndarray]) -> None:
    space, mask = case
    encoded = space.encode(mask)
    assert encoded.dtype == space.dtype
    assert (encoded == encode_by_hand(space, mask)).all()
    decoded = space.decode(encoded)
    void = encoded == space.ignore_index
    merged = np.isin(mask, list(space.merge))
    assert (decoded[~void & ~merged] == mask[~void & ~merged]).all()
    for i, j in space.merge.items():
        assert (decoded[mask == i] == j).all()
    assert (decoded[void] == space.void_id).all()
    if space.void_id in space.ignore or space.reduce_zero_label:  # or masks have no way to say void
        assert (space.encode(decoded) == encoded).all()


@settings(max_examples=60, deadline=None)
@given(spaces_and_masks())
def test_a_label_space_survives_json_and_pickle(case: tuple[LabelSpace, np.ndarray]) -> None:
    space, _ = case
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert pickle.loads(pickle.dumps(space)) == space


@settings(max_examples=60, deadline=None)
@given(spaces_and_masks())
def test_void_never_decodes_to_a_class(case: tuple[LabelSpace, np.ndarray]) -> None:
    space, _ = case
    assert space.void_id not in space.original_ids
    assert space.void_id not in space.merge


def test_tables_of_a_small_space_worked_out_by_hand() -> None:
    space = LabelSpace({7: "road", 8: "pavement", 11: "building", 26: "car", 27: "truck"}, (0, 255), merge={27: 26})
    assert space.original_ids == (7, 8, 11, 26)
    assert space.num_labels == 4
    assert space.ignore_index == 255
    assert space.void_id == 255
    assert space.id2label == {0: "road", 1: "pavement", 2: "building", 3: "car"}
    assert space.label2id == {"road": 0, "pavement": 1, "building": 2, "car": 3}
    assert space.train_ids == {7: 0, 8: 1, 11: 2, 26: 3, 27: 3, 0: 255, 255: 255}
    mask = np.array([[0, 7, 8], [27, 26, 255]], np.uint8)
    assert space.encode(mask).tolist() == [[255, 0, 1], [3, 3, 255]]
    assert space.decode(np.array([[0, 1, 2], [3, 255, 0]])).tolist() == [[7, 8, 11], [26, 255, 7]]


def test_ade20k_style_zero_is_void_and_the_rest_move_down_once() -> None:
    space = LabelSpace({i: str(i) for i in range(1, 151)}, reduce_zero_label=True)
    mask = np.array([[0, 1, 2, 150]], np.uint8)
    encoded = space.encode(mask)
    assert encoded.tolist() == [[255, 0, 1, 149]]
    assert space.decode(encoded).tolist() == [[0, 1, 2, 150]]
    with pytest.raises(LabelError, match=r"255 \(1 pixels\)"):  # 255 never turns into 254
        space.encode(np.array([[255]], np.uint8))


def test_merges_do_not_chain_through_ids_that_train_ids_happen_to_equal() -> None:
    # Applied entry by entry, 2 would become 1 and then 0's neighbour; each id is to be looked up once.
    space = LabelSpace({0: "a", 1: "b", 2: "c", 3: "d"}, merge={1: 0, 3: 2})
    assert space.encode(np.array([[0, 1, 2, 3]], np.uint8)).tolist() == [[0, 0, 1, 1]]
    assert space.decode(np.array([[0, 1]])).tolist() == [[0, 2]]


@pytest.mark.parametrize("num_labels, ignore_index, dtype", [(254, 255, "u1"), (255, 255, "u1"), (256, 65535, "u2")])
def test_void_moves_to_65535_only_above_255_classes(num_labels: int, ignore_index: int, dtype: str) -> None:
    space = LabelSpace({i: str(i) for i in range(num_labels)}, ignore=(1000,))
    mask = np.array([[*range(num_labels), 1000]], np.uint16)
    encoded = space.encode(mask)
    assert space.ignore_index == ignore_index and encoded.dtype == dtype
    assert encoded[0, :-1].tolist() == list(range(num_labels)) and encoded[0, -1] == ignore_index
    assert (space.decode(encoded) == mask).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_decode_takes_any_whole_numbers(dtype: Any) -> None:
    space = LabelSpace({i: str(i) for i in range(3, 303)})
    assert space.decode(np.array([[0, 100]], dtype)).tolist() == [[3, 103]]


def test_decode_refuses_what_is_no_train_id() -> None:
    space = LabelSpace({0: "a", 5: "b"})
    for bad in ([[2]], [[-1]], [[254]]):  # 2 is the index of "no object" in a query's scores
        with pytest.raises(LabelError, match="no train ids"):
            space.decode(np.array(bad))
    with pytest.raises(LabelError, match="argmax"):
        space.decode(np.array([[0.5]]))


def test_decode_gives_the_smallest_type_that_holds_every_id() -> None:
    assert LabelSpace({0: "a", 3: "b"}).decode(np.array([[1]])).dtype == np.uint8
    assert LabelSpace({0: "a", 300: "b"}).decode(np.array([[1]])).dtype == np.uint16
    negative = LabelSpace({-2: "a", 1: "b"}, ignore=(-1,))
    assert negative.decode(np.array([[0, 1, 255]])).tolist() == [[-2, 1, 255]]


@pytest.mark.parametrize(
    "space, void_id",
    [
        (LabelSpace({1: "a"}, reduce_zero_label=True, ignore=(9,)), 0),
        (LabelSpace({1: "a"}, ignore=(9, 4)), 4),
        (LabelSpace({1: "a"}, ignore=(9, 255, 4)), 255),
        (LabelSpace({1: "a"}), 255),
        (LabelSpace({1: "a"}, ignore=(-1, 70000)), 255),  # neither of which a label image holds
        (LabelSpace({1: "a"}, ignore=(-1, 9)), 9),
        (LabelSpace({0: "a", 255: "b"}), 254),
        (LabelSpace({i: str(i) for i in range(256)}), 65535),
    ],
)
def test_void_id(space: LabelSpace, void_id: int) -> None:
    assert space.void_id == void_id


def test_binary_reads_0_and_255() -> None:
    space = LabelSpace({0: "background", 1: "vessel"}, encoding="binary")
    assert space.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert space.encode(np.array([[0, 255]], np.int32)).tolist() == [[0, 1]]
    assert space.encode(np.array([[False, True]])).tolist() == [[0, 1]]
    loose = np.array([[0, 255]], np.uint8).view(bool)  # true is any byte but 0
    assert space.encode(loose).tolist() == [[0, 1]]
    assert LabelSpace({0: "background", 1: "vessel"}).encode(loose).tolist() == [[0, 1]]
    with pytest.raises(LabelError, match=r"1 \(2 pixels\).*encoding: index"):
        space.encode(np.array([[0, 1, 1]], np.uint8))


def test_binary_with_void_zero_keeps_only_the_foreground() -> None:
    space = LabelSpace({1: "vessel"}, reduce_zero_label=True, encoding="binary")
    assert space.encode(np.array([[0, 255]], np.uint8)).tolist() == [[255, 0]]


def test_rgb_reads_colours_exactly() -> None:
    space = LabelSpace(
        {0: "sky", 3: "road"}, ignore=(9,), encoding="rgb", colors={0: (1, 2, 3), 3: (128, 64, 128), 9: (0, 0, 0)}
    )
    mask = np.array([[(1, 2, 3), (128, 64, 128), (0, 0, 0)]], np.uint8)
    assert space.encode(mask).tolist() == [[0, 1, 255]]
    alpha = np.concatenate([mask, np.full((1, 3, 1), 7, np.uint8)], axis=2)
    assert space.encode(alpha).tolist() == [[0, 1, 255]]
    mask[0, 0] = (3, 2, 1)  # the same bytes in another order are another colour
    with pytest.raises(LabelError, match=r"street\.png.*\(3, 2, 1\) \(1 pixels\)"):
        space.encode(mask, where="street.png")
    with pytest.raises(LabelError, match="encoding: index"):
        space.encode(np.zeros((2, 2), np.uint8))


def test_unknown_colours_are_read_as_the_nearest_only_on_request() -> None:
    colors = {0: (0, 0, 0), 3: (200, 0, 0), 9: (0, 200, 0)}
    fields: dict[str, Any] = {"classes": {0: "sky", 3: "road"}, "ignore": (9,), "encoding": "rgb", "colors": colors}
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    with pytest.raises(LabelError, match=r"\(\d+, \d+, \d+\) \(1 pixels\).* and \d+ more.*unknown_colors: nearest"):
        LabelSpace(**fields).encode(noise)
    space = LabelSpace(**fields, unknown_colors="nearest")
    encoded = space.encode(noise)
    for place in np.ndindex(20, 30):
        distances = {i: sum((int(a) - b) ** 2 for a, b in zip(noise[place], c, strict=True)) for i, c in colors.items()}
        nearest = min(distances, key=lambda i: (distances[i], i))
        assert encoded[place] == {0: 0, 3: 1, 9: 255}[nearest]
    tie = np.array([[(100, 0, 0), (100, 100, 0), (0, 100, 0)]], np.uint8)  # half-way: the lowest id
    assert space.encode(tie).tolist() == [[0, 0, 0]]
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))).unknown_colors == "nearest"


def test_dropping_a_class_is_to_ignore_its_id() -> None:
    everything = LabelSpace({0: "a", 1: "b", 2: "c", 3: "d"}, ignore=(255,))
    dropped = LabelSpace({0: "a", 2: "c", 3: "d"}, ignore=(1, 255))
    mask = np.array([[0, 1, 2, 3, 255]], np.uint8)
    assert everything.encode(mask).tolist() == [[0, 1, 2, 3, 255]]
    assert dropped.encode(mask).tolist() == [[0, 255, 1, 2, 255]]
    assert dropped.num_labels == 3 and dropped.id2label == {0: "a", 1: "c", 2: "d"}
    # where the model gives no answer, predictions hold the id of void, not that of a class somebody chose to drop
    assert dropped.decode(np.array([[0, 1, 2, 255]])).tolist() == [[0, 2, 3, 255]]


def test_unknown_ids_are_named_with_file_and_counts_and_never_void() -> None:
    space = LabelSpace({0: "a", 1: "b"})
    for dtype in (np.uint8, np.uint16, np.int32):
        with pytest.raises(LabelError, match=r"m\.png.* 2 \(1 pixels\), 7 \(3 pixels\)\. It knows 0, 1"):
            space.encode(np.array([[0, 1, 2], [7, 7, 7]], dtype), where="m.png")
    with pytest.raises(LabelError, match="encoding: binary"):
        space.encode(np.array([[0, 255]], np.uint8))
    with pytest.raises(LabelError, match="and 2 more"):
        space.encode(np.arange(10, 20, dtype=np.uint8)[None])


def test_masks_of_the_wrong_kind_are_refused() -> None:
    space = LabelSpace({0: "a", 1: "b"})
    with pytest.raises(LabelError, match="encoding: rgb"):
        space.encode(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(LabelError, match="whole numbers"):
        space.encode(np.zeros((2, 2), np.float32))


def test_encode_takes_views_that_are_not_contiguous() -> None:
    space = LabelSpace({0: "a", 1: "b"})
    mask = np.array([[0, 1, 0, 1], [1, 1, 0, 0]], bool)[:, ::-2]
    assert space.encode(mask).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"classes": {}}, "classes is empty"),
        ({"classes": {0: "a"}, "ignore": [0]}, "ids 0 are in `classes` and in `ignore`"),
        ({"classes": {0: "a", 1: "b"}, "reduce_zero_label": True}, "write `reduce_zero_label: false`"),
        ({"classes": {0: "a"}, "merge": {1: 2}}, "goes into 2, which is not in `classes`"),
        ({"classes": {0: "a", 1: "b", 2: "c"}, "merge": {2: 1, 1: 0}}, "write `2: 0`"),
        ({"classes": {0: "a", 1: "b"}, "merge": {0: 1, 1: 0}}, "name an id that is itself not merged"),
        ({"classes": {0: "a", 1: "b"}, "merge": {1: 1}}, "name an id that is itself not merged"),
        ({"classes": {0: "a"}, "ignore": [3], "merge": {3: 0}}, "id 3 is void"),
        ({"classes": {1: "a"}, "reduce_zero_label": True, "merge": {0: 1}}, "id 0 is void"),
        ({"classes": {0: "a", 2: "b"}, "encoding": "binary"}, "ids 2 cannot occur"),
        ({"classes": {0: "a"}, "unknown_colors": "nearest"}, "is for `encoding: rgb`"),
        ({"classes": {0: "a"}, "unknown_colors": "closest"}, "one of error, nearest"),
        ({"classes": {0: "a"}, "encoding": "colour"}, "one of index, binary, rgb"),
        ({"classes": {0: "a", 1: "b"}, "encoding": "rgb", "colors": {0: [0, 0, 0]}}, "ids 1 have none"),
        ({"classes": {0: "a", 1: "b"}, "encoding": "rgb", "colors": {0: [1, 1, 1], 1: [1, 1, 1]}}, "same colour"),
        ({"classes": {0: "a"}, "encoding": "rgb", "colors": {0: [0, 0, 0], 5: [1, 1, 1]}}, "ids 5 have a colour"),
        ({"classes": {0: "a"}, "colors": {0: [0, 0, 256]}}, "three whole numbers"),
        ({"classes": {"x": "a"}}, "'x' is not a whole number"),
        ({"classes": {1.5: "a"}}, "1.5 is not a whole number"),
        ({"classes": {True: "a"}}, "True is not a whole number"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message.replace("(", r"\(")):
        LabelSpace(**fields)


def test_from_dict_refuses_unknown_keys_and_derived_values_that_disagree() -> None:
    data = LabelSpace({0: "a", 4: "b"}).to_dict()
    with pytest.raises(LabelError, match="unknown keys"):
        LabelSpace.from_dict({**data, "num_classes": 2})
    with pytest.raises(LabelError, match="original_ids"):
        LabelSpace.from_dict({**data, "original_ids": [0, 1]})
    assert data["original_ids"] == [0, 4] and data["void_id"] == 255 and data["ignore_index"] == 255


def test_a_label_space_cannot_be_changed() -> None:
    space = LabelSpace({0: "a"})
    with pytest.raises(AttributeError):
        space.ignore = (1,)  # type: ignore[misc]


@pytest.mark.parametrize(
    "space",
    [
        LabelSpace({0: "a", 3: "b", 7: "c"}, merge={9: 3}, ignore=(255,)),
        LabelSpace({1: "a", 2: "b"}, reduce_zero_label=True, ignore=(255,)),
        LabelSpace({5: "a", 70000: "b"}),
        LabelSpace({-4: "a", 2: "b"}, ignore=(-1,)),
    ],
)
def test_places_lead_back_through_the_one_table(space: LabelSpace) -> None:
    """By hand: each class to itself, a merged one to where it went, void to the id that void decodes to."""
    ids = [*space.original_ids, *space.merge, space.void_id]
    expected = [space.merge.get(i, i) for i in ids]
    places = space.places(np.array([ids]))
    assert space.decode_table[places].tolist() == [expected]
    assert places[0, -1] == space.num_labels and places[0, : space.num_labels].tolist() == list(range(space.num_labels))
    assert np.array_equal(space.decode(np.arange(space.num_labels)), space.original_ids)
    with pytest.raises(LabelError, match="12345"):
        space.places(np.array([12345]))


def test_a_void_id_that_was_chosen_otherwise_before_is_taken() -> None:
    stored = {**LabelSpace({0: "a"}, ignore=(-1, 255)).to_dict(), "void_id": -1}
    assert LabelSpace.from_dict(stored) == LabelSpace({0: "a"}, ignore=(-1, 255))
    with pytest.raises(LabelError, match="void_id 7"):
        LabelSpace.from_dict({**stored, "void_id": 7})
