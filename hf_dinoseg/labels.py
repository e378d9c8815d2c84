"""LabelSpace: the one owner of label ids.

Masks on disk hold *original ids*. Networks, losses and metrics work on *train ids* 0..num_labels-1. This file is the
only place that translates between the two; everything else asks it.

Three things are kept apart everywhere:

* **void**: a pixel nobody labelled. It takes no part in loss, matching or metrics (`ignore_index` as a train id).
* **background**: a class like any other, when the dataset has one.
* **no object**: the class of a *query* that found nothing; it is never the label of a pixel.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from .errors import LabelError

Encoding = Literal["index", "binary", "rgb"]
UnknownColors = Literal["error", "nearest"]
Color = tuple[int, int, int]

#: the highest id that a label image (a PNG) holds; the lowest is 0
MOST_ID = 65535

#: ids of classes lie within it, below and above 0: masks are of 32 bits at most
LARGEST_ID = 2**31 - 1

_LUT_SIZE = 1 << 16  # masks of up to 16 bits are translated through a table, larger ids through their unique values


def _plain_int(value: Any, what: str) -> int:
    """An int from an int or its text (JSON object keys are text); anything else is an error."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise LabelError(
            f"labels.{what}: {_short(value)} is not a whole number; label ids are whole numbers."
        ) from None
    if abs(number) > LARGEST_ID:
        raise LabelError(f"labels.{what}: {_short(number)} is beyond the ids of 32-bit masks.")
    return number


def _plain_mapping(value: Any, what: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise LabelError(f"labels.{what} is {_short(value)}; write a mapping of ids.")
    if len(value) > MOST_ID:
        raise LabelError(f"labels.{what} has {len(value)} entries; label maps tell at most {MOST_ID} classes apart.")
    return dict(value)


def _plain_name(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise LabelError(f"labels.classes: {_short(value)} is no name; write text.")
    return str(value)


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _plain_color(value: Any, what: str) -> Color:
    channels = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(channels) != 3 or not all(
        isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in channels
    ):
        raise LabelError(
            f"labels.{what}: {_short(value)} is not a colour; write three whole numbers 0 to 255: [R, G, B]."
        )
    return channels[0], channels[1], channels[2]


@dataclass(frozen=True)
class LabelSpace:
    """What the numbers (or colours) of a dataset's masks mean.

    Args:
        classes: `{original id: name}` of every class that is to be learned or merged.
        ignore: original ids that are void: not labelled, or dropped. To drop a class, move its id from `classes` to
            here (its name may stay beside it as a comment): its pixels then take no part in loss, matching, metrics.
        reduce_zero_label: id 0 is void and every other id moves down one in training (ADE20K). 0 may then not be a
            class.
        merge: `{original id: into id}`. Applied all at once, so an entry never feeds another; a merged class decodes
            to the id that it was merged into.
        encoding: how a mask stores ids. `index`: the pixel value is the id; `binary`: 0 is id 0 and 255 is id 1;
            `rgb`: the pixel's colour names the id, see `colors`.
        colors: `{original id: (R, G, B)}`, used to draw, and to read masks when `encoding` is `rgb`.
        unknown_colors: what becomes of a colour that `colors` does not hold, when `encoding` is `rgb`. `error` names
            it; `nearest` reads it as the listed colour at the smallest distance in RGB (of equals the lowest id), for
            masks that JPEG or resizing has blurred.

    Raises:
        LabelError: if the fields contradict one another.

    Example:
        >>> space = LabelSpace({1: "wall", 2: "sky"}, ignore=(255,), reduce_zero_label=True)
        >>> space
        LabelSpace(2 classes: 1 wall, 2 sky; void 255; reduce_zero_label)
        >>> space.encode(np.array([[0, 1, 2, 255]], dtype=np.uint8))
        array([[255,   0,   1, 255]], dtype=uint8)
        >>> space.decode(np.array([[0, 1]]))
        array([[1, 2]], dtype=uint8)
        >>> space.id2label
        {0: 'wall', 1: 'sky'}
    """

    classes: dict[int, str]
    ignore: tuple[int, ...] = ()
    reduce_zero_label: bool = False
    merge: dict[int, int] = field(default_factory=dict)
    encoding: Encoding = "index"
    colors: dict[int, Color] = field(default_factory=dict)
    unknown_colors: UnknownColors = "error"

    __hash__ = None  # type: ignore[assignment]  # holds dicts
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}  # recipe.py validates this class as a section

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        classes, merge, colors = (_plain_mapping(getattr(self, name), name) for name in ("classes", "merge", "colors"))
        if not isinstance(self.ignore, Iterable) or isinstance(self.ignore, (str, bytes, Mapping)):
            raise LabelError(f"labels.ignore is {_short(self.ignore)}; write a list of ids: ignore: [255].")
        if not isinstance(self.reduce_zero_label, bool):
            raise LabelError(f"labels.reduce_zero_label is {_short(self.reduce_zero_label)}; it is true or false.")
        set_field(self, "classes", {_plain_int(k, "classes"): _plain_name(v) for k, v in classes.items()})
        set_field(self, "ignore", tuple(sorted({_plain_int(i, "ignore") for i in self.ignore})))
        set_field(self, "merge", {_plain_int(k, "merge"): _plain_int(v, "merge") for k, v in merge.items()})
        set_field(
            self,
            "colors",
            {_plain_int(k, "colors"): _plain_color(v, f"colors.{k}") for k, v in colors.items()},
        )
        set_field(self, "classes", dict(sorted(self.classes.items())))
        self._check()

    def _check(self) -> None:
        classes, void = set(self.classes), set(self.ignore)
        if not classes:
            raise LabelError("labels.classes is empty; name at least one class: classes: {0: background, 1: vessel}.")
        if self.encoding not in ("index", "binary", "rgb"):
            raise LabelError(f"labels.encoding is {_short(self.encoding)}; it is one of index, binary, rgb.")
        if both := classes & void:
            raise LabelError(
                f"labels: ids {_list(both)} are in `classes` and in `ignore`. Keep them in `classes` if the model is "
                "to learn them, in `ignore` if they mean 'not labelled' or are to be left out."
            )
        if self.reduce_zero_label and 0 in classes:
            raise LabelError(
                f"labels: `reduce_zero_label: true` makes id 0 void, but `classes` names it {self.classes[0]!r}. If 0 "
                "is a class you want, write `reduce_zero_label: false`; if it means 'not labelled', take it out of "
                "`classes`."
            )
        for source, target in self.merge.items():
            if target not in classes:
                raise LabelError(f"labels.merge: {source} goes into {target}, which is not in `classes`.")
            if target in self.merge:
                end = self.merge[target]
                cure = f"write `{source}: {end}`" if end not in self.merge else "name an id that is itself not merged"
                raise LabelError(
                    f"labels.merge: {source} goes into {target}, and {target} into {end}. Entries do not chain: {cure}."
                )
            if source in void or (source == 0 and self.reduce_zero_label):
                raise LabelError(f"labels.merge: id {source} is void and cannot be merged into a class.")
        if self.unknown_colors not in ("error", "nearest"):
            raise LabelError(f"labels.unknown_colors is {_short(self.unknown_colors)}; it is one of error, nearest.")
        if self.unknown_colors == "nearest" and self.encoding != "rgb":
            raise LabelError(
                f"labels.unknown_colors: nearest is for `encoding: rgb`; by `encoding: {self.encoding}` no colours are "
                "read. Take it out."
            )
        if self.encoding == "binary" and (extra := (classes | void | set(self.merge)) - {0, 1}):
            raise LabelError(
                f"labels: `encoding: binary` reads 0 as id 0 and 255 as id 1, so ids {_list(extra)} cannot occur; "
                "remove them, or use `encoding: index`."
            )
        if self.encoding == "rgb":
            if missing := (classes | set(self.merge)) - set(self.colors):
                raise LabelError(
                    f"labels: `encoding: rgb` needs a colour for every class; ids {_list(missing)} have none in "
                    "`colors`."
                )
            seen: dict[Color, int] = {}
            for label_id, color in self.colors.items():
                if color in seen:
                    raise LabelError(f"labels.colors: ids {seen[color]} and {label_id} have the same colour {color}.")
                seen[color] = label_id
            if (
                unknown := set(self.colors)
                - classes
                - void
                - set(self.merge)
                - ({0} if self.reduce_zero_label else set())
            ):
                raise LabelError(
                    f"labels.colors: ids {_list(unknown)} have a colour but are neither in `classes` nor in `ignore`."
                )

    def __repr__(self) -> str:
        """Short: the first classes, and what differs from the defaults."""
        learned = [f"{i} {self.classes[i]}" for i in self.original_ids]
        told = [", ".join(learned if len(learned) <= 6 else [*learned[:4], "…", learned[-1]])]
        told += [f"void {', '.join(map(str, self.ignore))}"] if self.ignore else []
        told += ["reduce_zero_label"] if self.reduce_zero_label else []
        told += [f"{source} read as {target}" for source, target in list(self.merge.items())[:4]]
        told += [f"{len(self.merge) - 4} merged more"] if len(self.merge) > 4 else []
        told += [f"encoding {self.encoding}"] if self.encoding != "index" else []
        return f"LabelSpace({self.num_labels} classes: {'; '.join(told)})"

    # ------------------------------------------------------------------ what follows from the fields

    @cached_property
    def original_ids(self) -> tuple[int, ...]:
        """The original id of each train id, in order: `original_ids[train_id]`."""
        return tuple(i for i in self.classes if i not in self.merge)

    @property
    def num_labels(self) -> int:
        """How many classes the model has; void and "no object" are not counted."""
        return len(self.original_ids)

    @property
    def ignore_index(self) -> int:
        """The train id of void: 255 while train ids fit in a byte beside it, else 65535."""
        return 255 if self.num_labels <= 255 else 65535

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The type of encoded label maps."""
        return np.uint8 if self.num_labels <= 255 else np.uint16

    @property
    def void_id(self) -> int:
        """The original id that void decodes to: 0 when `reduce_zero_label`; else of `ignore` the one that equals
        `ignore_index`, or the first (others may be dropped classes); else `ignore_index`, or the id nearest below it
        (then above) that no class has. Of `ignore`, ids that a label image cannot hold are passed over."""
        if self.reduce_zero_label:
            return 0
        if writable := [i for i in self.ignore if 0 <= i <= MOST_ID]:
            return self.ignore_index if self.ignore_index in writable else writable[0]
        candidates = (*range(self.ignore_index, -1, -1), *range(self.ignore_index + 1, 2 * _LUT_SIZE))
        return next(i for i in candidates if i not in self.train_ids)

    @cached_property
    def id2label(self) -> dict[int, str]:
        """`{train id: name}`, as in every transformers config."""
        return {train_id: self.classes[i] for train_id, i in enumerate(self.original_ids)}

    @property
    def label2id(self) -> dict[str, int]:
        return {name: train_id for train_id, name in self.id2label.items()}

    @cached_property
    def train_ids(self) -> dict[int, int]:
        """`{original id: train id}` of every id that may stand in a mask, void and merged ids among them."""
        table = {i: train_id for train_id, i in enumerate(self.original_ids)}
        table.update({source: table[target] for source, target in self.merge.items()})
        table.update(dict.fromkeys(self.ignore, self.ignore_index))
        if self.reduce_zero_label:
            table[0] = self.ignore_index
        return table

    @cached_property
    def decode_table(self) -> np.ndarray:
        """(num_labels + 1,) the original id of each train id, `void_id` last, in the smallest unsigned type that holds
        every one (int32 when an id is negative). Whatever restores ids by indexing takes this table."""
        ids = (*self.original_ids, self.void_id)
        return np.array(ids, dtype=np.int32 if min(ids) < 0 else np.min_scalar_type(max(ids)))

    # ------------------------------------------------------------------ masks

    def encode(self, mask: np.ndarray, where: str = "mask") -> np.ndarray:
        """Original ids (or colours) to train ids.

        Args:
            mask: (H, W) integers or bool; (H, W, 3) or (H, W, 4) uint8 when `encoding` is `rgb`, alpha unused.
            where: what to call the mask in an error, usually its file name.

        Returns:
            (H, W) train ids 0..num_labels-1 with `ignore_index` for void; uint8, or uint16 above 255 classes.

        Raises:
            LabelError: if the mask holds an id or a colour that the label space does not know. Nothing unknown is
                ever silently void.
        """
        mask = np.asarray(mask)
        if self.encoding == "rgb":
            return self._encode_colors(mask, where)
        if mask.ndim != 2:
            raise LabelError(
                f"{where}: the mask has shape {mask.shape}; ids are read from one channel (H, W). If its colours name "
                "the classes, write `labels.encoding: rgb` and list them in `labels.colors`."
            )
        if mask.dtype != bool and not np.issubdtype(mask.dtype, np.integer):
            raise LabelError(f"{where}: the mask holds {mask.dtype} values; label ids are whole numbers.")
        if self.encoding == "binary" and mask.dtype != bool:
            return self._translate(mask, {0: self.train_ids.get(0), 255: self.train_ids.get(1)}, where)
        if mask.dtype == bool:  # Pillow hands out 1-bit images as bools whose bytes are 0 and 255
            mask = (mask.view(np.uint8) != 0).astype(np.uint8)
        return self._translate(mask, self.train_ids, where)

    def decode(self, train_ids: np.ndarray) -> np.ndarray:
        """Train ids to original ids; void becomes `void_id`.

        Args:
            train_ids: any shape, values 0..num_labels-1 or `ignore_index`.

        Returns:
            The same shape in the smallest unsigned type that holds every id (int32 when an id is negative).

        Raises:
            LabelError: on a value that is no train id.
        """
        train_ids = np.asarray(train_ids)
        if not np.issubdtype(train_ids.dtype, np.integer):
            raise LabelError(f"decode: train ids are whole numbers, not {train_ids.dtype}; take the argmax first.")
        if train_ids.dtype.itemsize == 1:  # int8 and uint8 do not hold every `num_labels`
            train_ids = train_ids.astype(np.int32)
        void = train_ids == self.ignore_index
        if (bad := (train_ids < 0) | (train_ids >= self.num_labels) & ~void).any():
            raise LabelError(
                f"decode: {_list(np.unique(train_ids[bad]))} are no train ids; they run from 0 to "
                f"{self.num_labels - 1}, void is {self.ignore_index}."
            )
        return self.decode_table[np.where(void, self.num_labels, train_ids)]

    def places(self, label_map: np.ndarray) -> np.ndarray:
        """Places in `decode_table` of a label map in original ids, as predictions and decoded masks are: train ids,
        merged classes where they went, void at the end.

        Args:
            label_map: integers of any shape.

        Returns:
            The same shape, 0..num_labels, in the type of encoded label maps or a wider one.

        Raises:
            LabelError: on an id that the label space does not know.
        """
        table = {self.void_id: self.ignore_index, **self.train_ids}
        train_ids = self._translate(np.asarray(label_map), table, "label map").astype(np.int32)
        return np.where(train_ids == self.ignore_index, self.num_labels, train_ids)

    def _translate(self, mask: np.ndarray, table: Mapping[int, int | None], where: str) -> np.ndarray:
        if mask.dtype in (np.uint8, np.uint16):
            lut = np.full(256 if mask.dtype == np.uint8 else _LUT_SIZE, -1, dtype=np.int32)
            for original, train in table.items():
                if train is not None and 0 <= original < len(lut):
                    lut[original] = train
            encoded = lut[mask]
        else:  # wide ids: as many look-ups as there are different ids
            values, inverse = np.unique(mask, return_inverse=True)
            found = [table.get(int(v)) for v in values]
            encoded = np.array([-1 if t is None else t for t in found], dtype=np.int32)[inverse].reshape(mask.shape)
        if (unknown := encoded < 0).any():
            raise LabelError(self._unknown_ids(mask[unknown], where))
        return encoded.astype(self.dtype)

    def _unknown_ids(self, values: np.ndarray, where: str) -> str:
        ids, counts = np.unique(values, return_counts=True)
        seen = ", ".join(f"{i} ({n} pixels)" for i, n in list(zip(ids.tolist(), counts.tolist(), strict=True))[:8])
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        if self.encoding == "binary":
            cure = "`encoding: binary` takes 0 and 255; for masks of 0 and 1 write `labels.encoding: index`."
        else:
            cure = "Add them to `labels.classes`, or to `labels.ignore` if they mean 'not labelled'."
            if ids.tolist() == [255]:
                cure += " If the masks hold only 0 and 255, write `labels.encoding: binary`."
        known = _list(self.train_ids)
        return f"{where}: ids that the label space does not know: {seen}{more}. It knows {known}. {cure}"

    def _encode_colors(self, mask: np.ndarray, where: str) -> np.ndarray:
        if mask.ndim != 3 or mask.shape[2] not in (3, 4) or mask.dtype != np.uint8:
            raise LabelError(
                f"{where}: `encoding: rgb` reads (H, W, 3) bytes, this mask has shape {mask.shape} and type "
                f"{mask.dtype}. If its pixel values are ids, write `labels.encoding: index`."
            )
        packed = mask[..., 0].astype(np.uint32) << 16 | mask[..., 1].astype(np.uint32) << 8 | mask[..., 2]
        encoded = np.full(packed.shape, -1, dtype=np.int32)
        for label_id, (r, g, b) in self.colors.items():
            if label_id in self.train_ids:
                encoded[packed == (r << 16 | g << 8 | b)] = self.train_ids[label_id]
        if (unknown := encoded < 0).any():
            values, inverse, counts = np.unique(packed[unknown], return_inverse=True, return_counts=True)
            if self.unknown_colors == "error":
                raise LabelError(self._unknown_colors(values, counts, where))
            encoded[unknown] = self._nearest(values)[inverse]
        return encoded.astype(self.dtype)

    def _nearest(self, packed: np.ndarray) -> np.ndarray:
        """(N,) packed colours to the train ids of the listed colours nearest to them."""
        colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.int32)
        train_ids = np.empty(len(colors), dtype=np.int32)
        least = np.full(len(colors), np.iinfo(np.int32).max, dtype=np.int32)
        for label_id, color in sorted(self.colors.items()):
            distance = np.square(colors - np.array(color, dtype=np.int32)).sum(axis=1, dtype=np.int32)
            closer = distance < least
            least[closer], train_ids[closer] = distance[closer], self.train_ids[label_id]
        return train_ids

    @staticmethod
    def _unknown_colors(values: np.ndarray, counts: np.ndarray, where: str) -> str:
        order = np.argsort(-counts)[:8]
        seen = ", ".join(
            f"({v >> 16}, {v >> 8 & 255}, {v & 255}) ({n} pixels)"
            for v, n in zip(values[order].tolist(), counts[order].tolist(), strict=True)
        )
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        return (
            f"{where}: colours that the label space does not know: {seen}{more}. Add them to `labels.colors` (and "
            "their ids to `labels.classes` or `labels.ignore`). If JPEG or resizing has blurred them, export the masks "
            "again, or write `labels.unknown_colors: nearest`."
        )

    # ------------------------------------------------------------------ plain dict in and out

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, stored as `config.label_space`. `original_ids` follows from the rest and is stored too:
        code that travels with a checkpoint then restores ids by indexing, without a copy of the rules."""
        return {
            "classes": {str(k): v for k, v in self.classes.items()},
            "ignore": list(self.ignore),
            "reduce_zero_label": self.reduce_zero_label,
            "merge": {str(k): v for k, v in self.merge.items()},
            "encoding": self.encoding,
            "colors": {str(k): list(v) for k, v in self.colors.items()},
            "unknown_colors": self.unknown_colors,
            "original_ids": list(self.original_ids),
            "void_id": self.void_id,
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """The inverse of `to_dict`. Keys may be text (JSON).

        Raises:
            LabelError: on an unknown key, or derived values that disagree with the fields.
        """
        if not isinstance(data, Mapping):
            raise LabelError(f"labels: {_short(data)} is no label space; give what to_dict() returned.")
        names = {f.name for f in fields(cls)}
        derived = {"original_ids", "void_id", "ignore_index"}
        if extra := set(data) - names - derived:
            raise LabelError(f"labels: unknown keys {sorted(extra)}; known are {sorted(names)}.")
        space = cls(**{k: v for k, v in data.items() if k in names})
        for key in derived & set(data):
            expected = space.to_dict()[key]
            if key == "void_id" and data[key] in space.ignore:
                continue  # 0.1 chose among them without looking at what a PNG can hold
            if data[key] != expected:
                raise LabelError(
                    f"labels: stored {key} {_short(data[key])} disagrees with {_short(expected)}, which follows from "
                    "the fields."
                )
        return space


def _list(ids: Iterable[Any]) -> str:
    """Ids in order, shortened: `0, 1, 2, … 149`."""
    ordered = sorted(int(i) for i in ids)
    if len(ordered) > 12:
        return f"{', '.join(map(str, ordered[:3]))}, … {ordered[-1]} ({len(ordered)} ids)"
    return ", ".join(map(str, ordered))
