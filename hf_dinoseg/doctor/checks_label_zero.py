"""The most frequent question about a dataset's labels: is 0 void, or a class?"""

from __future__ import annotations

from collections.abc import Mapping

from ..labels import LabelSpace
from .report import Finding, share_text
from .survey import MOSTLY_LINES, Survey, zero_in_lines

_VOID_NAMES = {"void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "not labelled", "not labeled", "none"}
_LARGE = 0.5


def check_zero(surveys: Mapping[str, Survey], space: LabelSpace) -> list[Finding]:
    """Where 0 lies in the masks, and what follows for the number of classes if it is void or a class.

    In index masks only: with `binary` and `rgb`, the recipe says what 0 is.
    """
    pairs = [pair for survey in surveys.values() for pair in survey.pairs if pair.zero is not None]
    if space.encoding != "index" or not pairs:
        return []
    pixels = sum(n for survey in surveys.values() for pair in survey.pairs for n in pair.values.values())
    zero = sum(pair.values[0] for pair in pairs)
    thin = zero_in_lines(pairs)
    frame = sum(pair.zero.frame for pair in pairs if pair.zero) / sum(p.zero.frame_total for p in pairs if p.zero)
    is_void = space.reduce_zero_label or 0 in space.ignore
    others = space.num_labels - (0 in space.original_ids)
    seen = (
        f"0 is {share_text(zero / pixels)} of all pixels and stands in {len(pairs)} of the masks; there it is "
        f"{share_text(thin)} lines between regions, and {share_text(frame)} of the image's rim. As a class there are "
        f"{others + 1} to learn, as void {others}."
    )
    as_void = "take 0 out of `classes` and write `labels.reduce_zero_label: true` (or `ignore: [0]`)"
    as_class = "write `labels.classes: {0: background, …}` and `labels.reduce_zero_label: false`, 0 not in `ignore`"
    if is_void:
        if zero / pixels > _LARGE:
            return [
                Finding(
                    "warning",
                    "zero-looks-background",
                    f"the recipe makes 0 void. {seen}",
                    f"If 0 is what surrounds your objects, {as_class}: a model without background gives every pixel to "
                    "one of the classes.",
                )
            ]
    elif 0 in space.classes:
        name = space.classes[0].strip().casefold()
        if name in _VOID_NAMES:
            return [
                Finding(
                    "warning",
                    "zero-named-void",
                    f"the recipe learns 0 as a class and names it {space.classes[0]!r}. {seen}",
                    f"If it means 'not labelled', {as_void}; if it is a class, name it `background`.",
                )
            ]
        if thin > MOSTLY_LINES and len(space.classes) > 2:
            return [
                Finding(
                    "warning",
                    "zero-looks-void",
                    f"the recipe learns 0 as the class {space.classes[0]!r}, but it is drawn as outlines are. {seen}",
                    f"If it is the undecided seam between regions, {as_void}.",
                )
            ]
    meaning = "void" if is_void else f"the class {space.classes[0]!r}" if 0 in space.classes else "not declared"
    return [
        Finding(
            "info",
            "label-zero",
            f"0 is {meaning} in the recipe. {seen}",
            f"If that is wrong, {as_class if is_void else as_void}.",
        )
    ]
