"""What ids that a recipe does not name may mean: every reading that explains all ids found, the likeliest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd

from ..labels import MOST_ID, LabelSpace
from .report import some

# What a reading takes for granted about a recipe, in one unit: the less, the likelier it is.
_VOID = 0.5  # it forgot to call 0, 255 or a negative id void, as datasets often do
_VOID_AT_END = 1.0  # … or the one id that follows the classes
_CLASS = 1.5  # it left out a class
_MOVED = 1.5  # it counts from another number than the masks, or the masks were multiplied
_CLASS_255 = 2.5  # … which stands at 255, far above the others
_VOID_ELSEWHERE = 2.0  # it forgot to call an id void that stands among the classes
_EACH_FURTHER = 0.5  # … and each id more that is taken for something
_MANY_VOID = 2.0  # times the share of pixels that would become void
_SEAMS = 2.0  # 0 would be a class, but is drawn as seams between regions are

_ALSO = 1.5  # a reading is told as well if it takes this much more than the best
_MOST_TOLD = 3

_LEAST_STRETCH = 3  # times
_SMOOTH = 12  # more unknown values than this, and more than classes, are no ids
_LISTED = 6


@dataclass(frozen=True)
class Reading:
    """One explanation of all ids in the masks.

    Attributes:
        code: of the finding.
        doubt: how much must have gone wrong for this reading to be true.
        seen: what was seen, the start of a sentence that the ids complete.
        cure: what to write in that case.
    """

    code: str
    doubt: float
    seen: str
    cure: str


def readings(found: Counter[int], space: LabelSpace, seams: bool) -> list[Reading]:
    """What the ids may mean, the likeliest first; at least one.

    Each reading says which ids are classes, which are void, and what the recipe got wrong. Its doubt grows with the
    errors it blames on the recipe, with the pixels it makes void, and with the classes it leaves without any mask. A
    class without a mask counts more if most other classes occur.

    Args:
        found: pixels of each id, of which some are not known.
        space: what the recipe says.
        seams: whether 0 is drawn in lines between regions.
    """
    ranked = sorted(_all(found, space, seams), key=lambda reading: reading.doubt)
    return [r for r in ranked[:_MOST_TOLD] if r.doubt <= ranked[0].doubt + _ALSO]


def _all(found: Counter[int], space: LabelSpace, seams: bool) -> Iterator[Reading]:
    declared = set(space.original_ids) | set(space.merge)
    void = set(space.train_ids) - declared
    unknown = set(found) - declared - void
    present = len(declared & set(found)) / len(declared)

    def doubt(taken: float, classes: set[int], voids: set[int]) -> float:
        lost = sum(found[i] for i in voids - void) / found.total()
        drawn = _SEAMS if seams and 0 in classes else 0.0
        return taken + present * len(classes - set(found)) + _MANY_VOID * lost + drawn

    most = max(_SMOOTH, len(declared | void))
    if len(unknown) > most:
        yield Reading(
            "masks-smoothed",
            _CLASS + _EACH_FURTHER * most,
            f"{len(unknown)} different values that the recipe does not know; labels have few values, and so many come "
            "from resizing with smoothing, from a grey image, or from instance ids",
            "Export the masks at their own size, or resize them by nearest neighbour; check `data.mask`.",
        )
    seen = "ids that the recipe does not know"
    price = {i: _price_of_void(i, unknown, declared) for i in unknown}
    likely = frozenset(i for i in unknown if price[i] < _VOID_ELSEWHERE)
    for forgotten in dict.fromkeys((likely, frozenset(unknown), frozenset[int]())):
        voids, named = set(forgotten), unknown - forgotten
        prices = [price[i] for i in voids] + [_CLASS_255 if i == 255 and 254 not in found else _CLASS for i in named]
        taken = max(prices) + _EACH_FURTHER * (len(prices) - 1)
        yield Reading("unknown-ids", doubt(taken, declared | named, void | voids), seen, _add(voids, named, space))
    for shift in (1, -1) if len(declared) > 1 else ():
        moved = {i + shift for i in declared}
        for voids, more in ((void, 0.0), ({i + shift for i in void}, 0.0), (void | {0}, _EACH_FURTHER)):
            if set(found) <= moved | voids and len(found.keys() & moved) > 1 and not moved & voids & set(found):
                yield Reading(
                    "ids-off-by-one",
                    doubt(_MOVED + more, moved, voids),
                    f"the recipe declares ids {_range(space.original_ids)}, the masks seem to hold "
                    f"{_range([i + shift for i in space.original_ids])}",
                    _move(shift, found, space),
                )
                break
    if (step := _stretch(set(found), space)) is not None:
        greys = {i: v for i in space.classes for v in (round(i * step), int(i * step)) if v in found}
        rest = set(found) - set(greys.values())
        absences = present * len(set(space.classes) - set(greys))
        yield Reading(
            "masks-stretched",
            _MOVED + absences + _EACH_FURTHER * len(rest),
            f"the masks hold evenly spread greys, as if each id had been multiplied by {_plain(step)}",
            _divide(greys, rest, step, space),
        )


def _price_of_void(i: int, unknown: set[int], declared: set[int]) -> float:
    if i <= 0 or i == 255:
        return _VOID
    above = {j for j in unknown if j > max(declared) and j != 255}
    return _VOID_AT_END if above == {i} else _VOID_ELSEWHERE


def _add(voids: set[int], named: set[int], space: LabelSpace) -> str:
    """The names stay with their ids, and ids are added."""
    told = []
    if voids:
        # 0 has a setting of its own, and `ignore` serves where 0 is a name already merged away
        by_zero = 0 in voids and 0 not in space.merge
        listed = sorted((set(space.ignore) | set(_first(voids))) - ({0} if by_zero else set()))
        written = ["`labels.reduce_zero_label: true`"] if by_zero else []
        if voids - {0} or not by_zero:
            written.append(f"`labels.ignore: [{', '.join(map(str, listed))}{_more(voids)}]`")
        means = f"{some(sorted(voids), _LISTED)} mean{'s' if len(voids) == 1 else ''} 'not labelled'"
        told.append(f"If {means}, write {' and '.join(written)}.")
    is_class = f"{some(sorted(named), _LISTED)} {'is a class' if len(named) == 1 else 'are classes'}"
    if any(not 0 <= i <= MOST_ID for i in named):
        told.append(
            f"If {is_class}, save the masks again with ids from 0 to {MOST_ID}: predictions are written as label "
            "images, which hold no others."
        )
    elif named:
        listing = ", ".join(f"{i}: …" for i in _first(named)) + _more(named)
        told.append(
            f"If {is_class} that the recipe leaves out, name {'it' if len(named) == 1 else 'them'}, "
            f"`labels.classes: {{{listing}}}`, and see that the other names still belong to their ids."
        )
    return " ".join(told)


def _move(shift: int, found: Counter[int], space: LabelSpace) -> str:
    ids = sorted(space.original_ids)
    renamed = ", ".join(f"{i + shift}: {space.classes[i]}" for i in ids[:3]) + (", …" if len(ids) > 3 else "")
    write = f"write `labels.classes: {{{renamed}}}`"
    belong = f"each name belongs to the id one {'higher' if shift == 1 else 'lower'}"
    if shift == 1 and 0 in found:
        return f"If {belong} and 0 means 'not labelled', {write} and `labels.reduce_zero_label: true`."
    reduced = " The masks were reduced already, so also write `labels.reduce_zero_label: false`."
    return f"If {belong}, {write}; ids in `ignore` may have moved along." + (
        reduced if shift == -1 and space.reduce_zero_label else ""
    )


def _divide(greys: dict[int, int], rest: set[int], step: float, space: LabelSpace) -> str:
    renamed = ", ".join(f"{greys[i]}: {space.classes[i]}" for i in list(greys)[:4]) + (", …" if len(greys) > 4 else "")
    also = f"; and `labels.ignore: {sorted(rest)}` for what is void" if rest else ""
    return (
        f"Write the greys as ids, `labels.classes: {{{renamed}}}`{also}. Or save the masks again, divided by "
        f"{_plain(step)} and rounded."
    )


def _stretch(found: set[int], space: LabelSpace) -> float | None:
    """The factor by which declared ids seem to have been multiplied, as for masks that are to look good: 85 where 0,
    85, 170, 255 stand for 0 to 3. Three such values at least, and none but 0 and 255 that is a class as it is."""
    classes = set(space.classes)
    if len(found) < 3 or found & classes - {0, 255}:
        return None
    ids = sorted(classes | set(space.merge))
    for step in (255 / max(1, ids[-1]), 255 / (ids[-1] + 1), float(gcd(*found))):
        moved = {rounded(i * step) for i in (0, *ids) for rounded in (round, int)}
        if step >= _LEAST_STRETCH and found - {255} <= moved and len(found & moved) >= 3:
            return step
    return None


def _first(ids: Iterable[int]) -> list[int]:
    return sorted(ids)[:_LISTED]


def _more(ids: set[int]) -> str:
    return ", …" if len(ids) > _LISTED else ""


def _range(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return f"{ordered[0]} to {ordered[-1]}"


def _plain(number: float) -> str:
    """21845, 42.5, 23.18."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
