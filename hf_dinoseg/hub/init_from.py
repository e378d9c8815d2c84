"""A checkpoint as a start: its backbone and head in a new model, and the classes that both know."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoint import checkpoint_json, checkpoint_recipe, load_checkpoint
from ..errors import DinoSegError, ModelError
from ..labels import LabelSpace
from ..models import DinoSegConfig, DinoSegForSemanticSegmentation
from ..models.backbone import load_backbone_config
from ..recipe.start import architecture
from ..recipe.yaml_format import read_yaml

logger = logging.getLogger(__name__)


def check_start(name: str, head: str, backbone: str | Mapping[str, Any]) -> str:
    """Whether training can begin from a checkpoint, by its config alone.

    Args:
        name: folder or Hub id.
        head, backbone: of the model that is to begin from it.

    Returns:
        `dinoseg`, or `mask2former` for one of transformers.

    Raises:
        ModelError: if not: what the checkpoint has, and what was asked for.
    """
    config = checkpoint_json(name, "config.json")
    kind = config.get("model_type")
    if kind == "mask2former":
        if head != "mask2former":
            raise ModelError(
                f"model.init_from: {name} is a Mask2Former of transformers, which only a mask2former head starts from, "
                f"and model.head is {head}."
            )
        return "mask2former"
    if kind != DinoSegConfig.model_type:
        raise ModelError(
            f"model.init_from: {name} is a checkpoint of {kind!r}; training begins from one of this package, or from a "
            "folder that `dinoseg convert` made. A backbone alone is named by model.backbone."
        )
    if config.get("head", "mask2former") != head:
        raise ModelError(
            f"model.init_from: {name} has the head {config.get('head')}, and model.head is {head}; take model.head out."
        )
    if not _same_backbone(name, config["backbone_config"], backbone):
        raise ModelError(
            f"model.init_from: {name} has another backbone than model.backbone asks for; take model.backbone out, or "
            "begin from a checkpoint of that backbone."
        )
    return DinoSegConfig.model_type


def _same_backbone(name: str, config: Mapping[str, Any], backbone: str | Mapping[str, Any]) -> bool:
    there = architecture(config)
    if not isinstance(backbone, str):
        wanted = architecture(backbone)
        return all(there.get(key) == value for key, value in wanted.items())
    try:
        if read_yaml(checkpoint_recipe(name))["model"]["backbone"] == backbone:
            return True
    except (DinoSegError, LookupError, TypeError):
        pass  # a converted folder has no recipe
    try:
        return architecture(load_backbone_config(backbone).to_dict()) == there
    except ValueError:
        return False


def start_from(model: DinoSegForSemanticSegmentation, name: str) -> None:
    """Give a new model the weights of a checkpoint with the same backbone and head. Of the classes, those that both
    know by name, or else by original id, keep what the checkpoint learned of them; the log says which.

    Args:
        model: changed in place; its configuration has a label space.
        name: folder or Hub id.

    Raises:
        ModelError: if the two are of different sizes.
    """
    base = load_checkpoint(name)
    new, old = LabelSpace.from_dict(model.config.label_space or {}), base.label_space
    found, own = base.model.state_dict(), model.state_dict()
    rows = class_rows(model)
    shapes = {key: tensor.shape[1:] if key in rows else tensor.shape for key, tensor in own.items()}
    there = {key: tensor.shape[1:] if key in rows else tensor.shape for key, tensor in found.items()}
    if shapes != there:
        raise ModelError(f"model.init_from: {name} is of other sizes: {_differences(model.config, base.model.config)}.")
    shared = shared_classes(new, old)
    with torch.no_grad():
        for key, tensor in own.items():
            if key not in rows:
                tensor.copy_(found[key])
                continue
            for here, where in shared.items():
                tensor[here] = found[key][where].to(tensor.dtype)
            tensor[new.num_labels :] = found[key][old.num_labels :].to(tensor.dtype)  # "no object", of mask heads
    logger.info("%s", told(name, new, old, shared))


def class_rows(model: DinoSegForSemanticSegmentation) -> set[str]:
    """Names of the tensors whose first axis counts classes: those that become longer with one class more."""
    config: Any = copy.deepcopy(model.config)
    count: int = config.num_labels
    config.label_space = None
    shapes: list[dict[str, torch.Size]] = []
    for labels in (count, count + 1):
        config.num_labels = labels
        with torch.device("meta"):
            shapes.append({key: tensor.shape for key, tensor in type(model)(config).state_dict().items()})
    fewer, more = shapes
    return {key for key, shape in more.items() if shape != fewer[key]}


def shared_classes(new: LabelSpace, old: LabelSpace) -> dict[int, int]:
    """`{train id: train id in the old one}` of the classes that both know: of the same name, whatever its letters'
    case; of the rest, of the same original id.

    Example:
        >>> old = LabelSpace({0: "background", 1: "vessel", 2: "disc"})
        >>> shared_classes(LabelSpace({0: "background", 1: "disc", 2: "cup", 3: "vein"}), old)
        {0: 0, 1: 2}
        >>> shared_classes(LabelSpace({0: "rest", 2: "optic disc"}), old)
        {0: 0, 1: 2}
    """
    names: dict[str, int] = {}
    for train_id, name in old.id2label.items():
        names.setdefault(name.casefold(), train_id)
    shared = {i: names[name.casefold()] for i, name in new.id2label.items() if name.casefold() in names}
    for train_id, original in enumerate(new.original_ids):
        if train_id not in shared and original in old.original_ids:
            where = old.original_ids.index(original)
            if where not in shared.values():
                shared[train_id] = where
    return dict(sorted(shared.items()))


def told(name: str, new: LabelSpace, old: LabelSpace, shared: Mapping[int, int]) -> str:
    """What became of the classes, in words."""
    kept, renamed = [], []
    for here, where in shared.items():
        mine, theirs = new.id2label[here], old.id2label[where]
        if mine.casefold() == theirs.casefold():
            kept.append(mine)
        else:
            renamed.append(f"{mine} from {theirs}, of the same id {new.original_ids[here]}")
    fresh = [label for here, label in new.id2label.items() if here not in shared]
    text = f"The model begins from {name}. Classes carried over: {', '.join([*kept, *renamed]) or 'none'}"
    return f"{text}; new: {', '.join(fresh)}." if fresh else f"{text}."


def _differences(mine: Any, theirs: Any) -> str:
    from ..models import head_class

    names = ["out_layers", *head_class(mine.head).settings]
    pairs = [(name, getattr(mine, name, None), getattr(theirs, name, None)) for name in names]
    if mine.out_layers is None or theirs.out_layers is None:
        pairs = pairs[1:]
    found = [f"model.{name} is {here}, there it is {there}" for name, here, there in pairs if here != there]
    return "; ".join(found) or "its tensors have other shapes"


__all__ = ["check_start", "class_rows", "shared_classes", "start_from"]
