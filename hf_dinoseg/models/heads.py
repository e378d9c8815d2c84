"""What a head is, and the registry of heads.

A head is one class in one file. Everything else that depends on it follows from that class: its loss, its settings in
a recipe, the layers that it reads, its schedule, its name and citation on a model card. To add a head, write
`head_<name>.py` with a subclass of `Head` under `@register_head("<name>")`. A head may also live outside this package:
whoever imports its file can train, load and save it, and its file travels with the checkpoint.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from .bounds import LARGEST, MOST_LAYERS, is_number, is_whole, shown

if TYPE_CHECKING:
    from .backbone import Backbone
    from .outputs import DinoSegOutput, Frame


class Setting(NamedTuple):
    """One setting of a head: a field of `DinoSegConfig` and, unless `in_recipe` is off, of a recipe's `model` section.

    Attributes:
        type: its annotation: int, float, str, bool, a Literal, a list of one of these, or one of all these or None.
        default: its value where nothing is said.
        help: what it is, in a few words, for messages and pages.
        bounds: among `ge`, `gt`, `le`, `lt`, as pydantic's `Field` has them.
        in_recipe: whether a recipe may set it.
    """

    type: Any
    default: Any
    help: str
    bounds: Mapping[str, float] = {}
    in_recipe: bool = True

    def fault(self, name: str, value: Any) -> str | None:
        """What is wrong with a value, in one sentence; None if it will do."""
        fits = _fits(self.type, value)
        bound = is_number(value) and self.bounds
        if fits and not (bound and any(not _KEPT[key](value, limit) for key, limit in self.bounds.items())):
            return None
        if typing.get_origin(self.type) is Literal:
            return f"{name} is {shown(value)}; choose {' or '.join(map(str, typing.get_args(self.type)))}."
        limits = " and ".join(f"{_WORDS[bound]} {limit:g}" for bound, limit in self.bounds.items())
        kind = {int: "a whole number", float: "a number"}.get(self.type, str(self.type))
        return f"{name} is {shown(value)}; it is {kind}{' ' + limits if limits else ''}."


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotation that `Setting.type` may have."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(part, value) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, (list, tuple)) and len(value) <= MOST_LAYERS and all(_fits(parts[0], v) for v in value)
    if kind is int:
        return is_whole(value, -_LONG, _LONG)
    return is_number(value) if kind is float else isinstance(value, kind)


_LONG = 2**63 - 1  # what a tensor holds


_KEPT: dict[str, Callable[[float, float], bool]] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
}
_WORDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}

NUM_QUERIES = Setting(int, 100, "object queries of the head", {"ge": 1, "le": LARGEST})
NORM = Setting(
    Literal["batch", "group"],
    "batch",
    "of the ViT adapter, the pmt head's levels and the linear head: batch norm as published, or group norm, for "
    "batches of one or two images a process",
)


class Head(nn.Module):
    """From a backbone's features to predictions.

    Built as `Head(config, backbone)`.

    Attributes:
        name: under which it is registered.
        title: what people call it.
        citation: BibTeX, for model cards.
        loss: which of `losses.LOSSES` teaches it.
        settings: its fields of the configuration and of recipes. Two heads may share a setting, but not its name alone.
        small: settings of a rehearsal, with which it trains in a moment on a CPU.
        fits_frozen_backbone: whether it learns well while the backbone rests (`tune: head`).
        pad_multiple: images are padded to a multiple of so many pixels.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str] = ""
    loss: ClassVar[str] = "mask_classification"
    settings: ClassVar[Mapping[str, Setting]] = {}
    small: ClassVar[Mapping[str, Any]] = {}
    fits_frozen_backbone: ClassVar[bool] = True
    pad_multiple: int

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        """What does not fit together among the settings, one sentence each, beginning with the setting's name.

        Args:
            settings: of all heads, by name.
            depth: layers of the backbone; None where it is not known yet.
        """
        return []

    @classmethod
    def unused(cls, settings: Mapping[str, Any]) -> list[str]:
        """What a recipe asks of this head in vain, one sentence each, beginning with the setting's name."""
        return []

    @classmethod
    def layers(cls, settings: Mapping[str, Any], depth: int, hierarchical: bool) -> tuple[list[int], tuple[int, ...]]:
        """The backbone layers (1-based) that the head reads by default, and how many it can read instead.

        Args:
            settings: of the head.
            depth: layers of the backbone; stages, of a hierarchical one.
            hierarchical: whether the backbone has several scales.
        """
        return [depth], (1,)

    def set_progress(self, progress: float) -> None:
        """Called before each training step.

        Args:
            progress: optimiser steps done over steps of the whole training, 0 to 1.
        """

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        """Predict.

        Args:
            pixel_values: (B, 3, H, W), padded to `pad_multiple`.
            frame: sizes before and after padding.
            output_auxiliary: also return predictions of earlier layers, if there are any.
            backbone: what the features come from.

        Returns:
            Maps that span the unpadded image.
        """
        raise NotImplementedError


#: Heads by name.
HEADS: dict[str, type[Head]] = {}


def register_head(name: str) -> Callable[[type[Head]], type[Head]]:
    """Class decorator: make a head known by a name.

    Raises:
        ValueError: if another head has the name, or the class lacks something.
    """

    def register(head: type[Head]) -> type[Head]:
        known = HEADS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (head.__module__, head.__qualname__):
            raise ValueError(f"a head named {name!r} is registered already: {known.__module__}.{known.__qualname__}.")
        if not getattr(head, "title", ""):
            raise ValueError(f"head {name!r} needs a `title`, which model cards show.")
        for key, setting in head.settings.items():
            for other in HEADS.values():
                if key in other.settings and other.settings[key] != setting:
                    raise ValueError(f"setting {key!r} of head {name!r} is another one than that of {other.name!r}.")
        head.name = name
        HEADS[name] = head
        return head

    return register


def head_class(name: str) -> type[Head]:
    """The head of a name.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(name, str) or name not in HEADS:
        raise ValueError(
            f"head is {shown(name)}; choose one of {', '.join(HEADS)}. A head from outside the package is known once "
            "its file is imported; a checkpoint of it holds that file as head_<name>.py."
        )
    return HEADS[name]


def head_settings() -> dict[str, Setting]:
    """The settings of all heads. Every configuration has all of them, whatever its head."""
    return {name: setting for head in HEADS.values() for name, setting in head.settings.items()}


__all__ = ["HEADS", "Head", "Setting", "head_class", "head_settings", "register_head"]
