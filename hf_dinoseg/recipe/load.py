"""The recipe: one file that says what is trained, on what, and how it is measured.

Seven sections: `labels`, `data`, `model`, `loss`, `training`, `evaluation`, `hub`; and the name of a published
`protocol`, if it follows one. The loader is strict. An unknown
key, a wrong type or a bad choice fails before anything is loaded, and the error lists every fault at once.

Example:
    >>> recipe = load_recipe("recipes/camvid/mask2former_tiny.yaml", ["training.max_steps=100"])
    >>> recipe.training["max_steps"]
    100
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..errors import RecipeError
from ..labels import LabelSpace
from .base import KEY as BASE
from .base import read_layers
from .messages import SectionError, list_faults, nearest, show
from .presets import with_preset
from .protocols import KEY as PROTOCOL
from .protocols import protocol_sections, with_protocol
from .schema import Evaluation, Hub, Loss, Model, model_section
from .schema_data import SECTIONS, Data, DataSection, shape_faults
from .schema_training import best_metric_faults, check_training, images_a_step, training_fields
from .yaml_format import apply_overrides, write_yaml

logger = logging.getLogger(__name__)

#: Names of version 0.1 and what they are now; the recipes of its checkpoints have them.
_RENAMED = {
    "model": {"head_attention_heads": "num_attention_heads", "init_head_from": "init_from"},
    "loss": {"class_weights": "per_class_weights"},
}
_REQUIRED = {
    "labels": "a mapping, or {preset: ade20k}, e.g. labels: {classes: {0: background, 1: vessel}, ignore: [255]}",
    "data": "a mapping, e.g. data: {source: folder, root: data/retina}",
    "training": "a mapping, e.g. training: {output_dir: out/retina, max_steps: 20000}",
}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe with every default filled in. Made by `load_recipe` or `Recipe.from_dict`.

    `training` is a plain dict, `TrainingArguments(**training_arguments(recipe.training))` what it asks for. `protocol`
    names the published one whose fields the recipe started from; see `deviations`.
    """

    labels: LabelSpace
    data: DataSection
    model: Model
    loss: Loss
    training: dict[str, Any]
    evaluation: Evaluation
    hub: Hub
    protocol: str | None = None

    __hash__ = None  # type: ignore[assignment]  # holds dicts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Check plain data, as read from YAML.

        Raises:
            RecipeError: with every fault.
        """
        return _check(dict(data), where, [])

    def __repr__(self) -> str:
        """One line; `print(recipe.to_yaml())` shows it all."""
        backbone = self.model.backbone if isinstance(self.model.backbone, str) else self.model.backbone["model_type"]
        data = self.data.source_fields()
        place = next((f" {data[key]}" for key in ("root", "repo_id", "file", "kind") if data.get(key)), "")
        steps = self.training.get("max_steps") or -1
        length = f"{steps} steps" if steps > 0 else f"{self.training.get('num_train_epochs') or 3} epochs"
        return (
            f"Recipe({self.model.head} on {backbone}, {self.labels.num_labels} classes, {data['source']}{place}, "
            f"{length} to {self.training['output_dir']})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every default written out; `Recipe.from_dict` gives an equal recipe back."""
        labels = {f.name: getattr(self.labels, f.name) for f in dataclasses.fields(LabelSpace)}
        sections = {name: getattr(self, name).model_dump() for name in ("data", *_models())}
        sections["data"] = {"source": self.data.source, **sections["data"]}  # first, as one would write it
        order = [name for name in _section_names() if name != PROTOCOL]
        named = {PROTOCOL: self.protocol} if self.protocol else {}
        return named | {name: _plain({"labels": labels, "training": self.training, **sections}[name]) for name in order}

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, which loads back equal."""
        return write_yaml(self.to_dict())


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, and the `base` that it names, if any.

    Args:
        path: the YAML file.
        overrides: `section.key=value` entries, in order; the value is read as YAML.

    Raises:
        RecipeError: naming every fault: the dotted field, its value, what is accepted, the nearest spelling.
    """
    layers = read_layers(path)
    data = layers.merged()
    faults = apply_overrides(data, overrides)
    try:
        return _check(data, str(path), faults)
    except RecipeError as error:
        raise RecipeError([layers.with_file(fault, overrides) for fault in error.faults], error.where) from None


def _check(data: dict[str, Any], where: str, faults: list[str]) -> Recipe:
    names = _section_names()
    faults = list(faults)
    try:
        data = with_protocol(data)
    except SectionError as error:
        faults += error.faults
        data = {key: value for key, value in data.items() if key != PROTOCOL}
    for key in (k for k in data if k not in names):
        found = other_sections(str(key))
        exact = [name for name in found if name.rsplit(".", 1)[1] == key]
        if key == BASE:
            hint = "A base is named in a recipe file; neither an override nor a resolved recipe has one."
        elif exact:
            hint = f"It belongs to a section: write {exact[0]}."
        elif guess := nearest(str(key), names) or next(iter(found), None):
            hint = f"Did you mean {guess}?"
        else:
            hint = f"The sections: {', '.join(names[:-1])}; and {PROTOCOL}."
        faults.append(f"{key}: unknown section (given {show(data[key])}). {hint}")
    done: dict[str, Any] = {PROTOCOL: data.get(PROTOCOL)}
    for name in names:
        if name == PROTOCOL:
            continue
        given = data.get(name)
        if given is None and name in _REQUIRED:
            faults.append(f"{name}: missing; write {_REQUIRED[name]}.")
            continue
        try:
            done[name] = (
                check_training(given, other_sections)
                if name == "training"
                else _section(name, with_preset(given) if name == "labels" else {} if given is None else given)
            )
        except RecipeError as error:
            faults += error.faults
        except SectionError as error:
            faults += error.faults
    if {"data", "evaluation"} <= done.keys():
        done["evaluation"] = _with_sizes(done["evaluation"], done["data"])
    faults += _contradictions(done)
    if faults:
        raise RecipeError(faults, where)
    return Recipe(**done)


def _section_names() -> list[str]:
    return [f.name for f in dataclasses.fields(Recipe)]


class Deviation(NamedTuple):
    """A field that a recipe has otherwise than its protocol; None in a value is null, or nothing."""

    field: str
    published: Any
    here: Any


#: What a run reads, writes and shows, and how it is spread over machines: fields that decide no figure.
_NO_FIGURE = {
    "data": ("on_bad_sample", "max_pixels", "streaming", "shuffle_buffer", "num_proc"),
    "model": ("num_labels",),
    "evaluation": ("batch_size", "max_samples", "beta", "boundary_iou", "panels", "palette"),
}
#: Of `training`, what decides one. How a batch is made up does not: it is compared as images a step.
_LEARNING = (
    "max_steps",
    "num_train_epochs",
    "optim",
    "learning_rate",
    "weight_decay",
    "weight_decay_on",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
)


def deviations(recipe: Recipe) -> list[Deviation]:
    """Every field that decides a figure and that a recipe has otherwise than its protocol; none without a protocol.

    Steps are compared as shares of the schedule; the batch as images a step, over all processes.
    """
    if recipe.protocol is None:
        return []
    own = recipe.to_dict()
    fields = protocol_sections(recipe.protocol)
    where = {key: own["data"][key] for key in ("source", *recipe.data.source_fields())}
    published = Recipe.from_dict(
        {
            **fields,
            "labels": own["labels"],
            "data": {**fields["data"], **where},
            "model": {"backbone": own["model"]["backbone"], **fields["model"]},
            "training": {**fields["training"], "output_dir": own["training"]["output_dir"]},
        }
    ).to_dict()
    scaled = protocol_sections(recipe.protocol, own["training"])
    for section in ("training", "model"):
        published[section] |= {
            k: v for k, v in scaled[section].items() if k in ("warmup_steps", "backbone_warmup_steps")
        }
    found = []
    for section in ("data", "model", "loss", "training", "evaluation"):
        left_out = {*_NO_FIGURE.get(section, ()), *(where if section == "data" else ())}
        keys = _LEARNING if section == "training" else [key for key in own[section] if key not in left_out]
        for key in keys:
            theirs, ours = published[section].get(key), own[section].get(key)
            if key == "num_train_epochs" and (own[section].get("max_steps") or -1) > 0:
                continue
            if theirs != ours and (theirs or ours):  # false, null and not there are the same
                found.append(Deviation(f"{section}.{key}", theirs, ours))
    theirs, ours = images_a_step(published["training"]), images_a_step(own["training"])
    if theirs != ours:
        found.append(Deviation("images a step", theirs, ours))
    return found


def plain(value: Any) -> str:
    """A value in one line, as it stands in a recipe."""
    return json.dumps(value, ensure_ascii=False)


def _models() -> dict[str, type[BaseModel]]:
    """The sections that are one pydantic model each."""
    return {"model": model_section(), "loss": Loss, "evaluation": Evaluation, "hub": Hub}


def _section(name: str, given: Any) -> Any:
    schema: Any = {"labels": LabelSpace, "data": Data, **_models()}[name]
    if isinstance(given, Mapping):
        renamed = _RENAMED.get(name, {})
        for key in (key for key in renamed if given.get(key) is not None):
            logger.warning("%s.%s is called %s.%s now; write that.", name, key, name, renamed[key])
        given = {renamed.get(key, key) if renamed.get(key) not in given else key: v for key, v in given.items()}
    try:
        return _adapter(schema).validate_json(json.dumps(given, default=repr), strict=True)
    except ValidationError as error:
        raise SectionError(list_faults(error, schema, given, name, other_sections)) from error


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def other_sections(key: str) -> list[str]:
    """Fields of any section that are spelt like `key`: equal ones first."""
    fields: dict[str, list[str]] = {"labels": [f.name for f in dataclasses.fields(LabelSpace)]}
    fields["data"] = list(dict.fromkeys(name for section in SECTIONS for name in section.model_fields))
    fields |= {name: list(section.model_fields) for name, section in _models().items()}
    fields["training"] = training_fields()
    exact = [f"{section}.{key}" for section, names in fields.items() if key in names]
    close = [f"{section}.{guess}" for section, names in fields.items() if (guess := nearest(key, names))]
    return exact or close


def _with_sizes(evaluation: Evaluation, data: DataSection) -> Evaluation:
    """Evaluation looks as training does unless it says otherwise: windows of a crop, images at the same base size."""
    from ..inference.windows import default_stride  # needs torch, which a broken recipe is told of without

    window = evaluation.window or max(data.crop_size, evaluation.stride or 0)
    stride = evaluation.stride or default_stride(window)
    edge = evaluation.shortest_edge if "shortest_edge" in evaluation.model_fields_set else data.base_size
    return evaluation.model_copy(update={"window": window, "stride": stride, "shortest_edge": edge})


def _contradictions(done: Mapping[str, Any]) -> list[str]:
    """Sections that are right in themselves but contradict one another."""
    faults = []
    labels, model, hub, training = (done.get(k) for k in ("labels", "model", "hub", "training"))
    if (data := done.get("data")) and data.streaming and training:
        if not (training.get("max_steps") or -1) > 0:
            faults.append(
                "training.max_steps: missing, and data.streaming is true; a stream has no known length, so write how "
                "many steps to train."
            )
        if data.rare_class_crops:
            faults.append(
                "data.rare_class_crops: rare classes are counted beforehand, which a stream (data.streaming) does not "
                "do; take one of the two out."
            )
        if (loss := done.get("loss")) and loss.per_class_weights == "auto":
            faults.append(
                "loss.per_class_weights: auto counts classes beforehand, which a stream (data.streaming) does not do; "
                "write a weight for each class that needs one: {3: 2.5}."
            )
    if labels and data:
        faults += shape_faults(data, labels)
    evaluation = done.get("evaluation")
    if evaluation and evaluation.tta.from_file and evaluation.shortest_edge is None:
        faults.append(
            "evaluation.tta.from_file: sizes count from evaluation.shortest_edge (or data.base_size), and there is "
            "none; write one, or take from_file out."
        )
    if labels and training:
        faults += best_metric_faults(training, labels)
    schedule = training["lr_scheduler_type"] if training else "polynomial"
    if model and model.backbone_warmup_steps and schedule != "polynomial":
        faults.append(
            f"training.lr_scheduler_type: {schedule} contradicts model.backbone_warmup_steps, whose schedule decays "
            "polynomially; take one of the two out."
        )
    if labels and model and model.num_labels not in (None, labels.num_labels):
        reasons = []
        if labels.reduce_zero_label:
            reasons.append("id 0 is void because of reduce_zero_label")
        if labels.merge:
            reasons.append(f"{len(labels.merge)} are merged into others")
        if labels.ignore:
            reasons.append(f"{list(labels.ignore)} are void, and void is no class")
        because = f" ({'; '.join(reasons)})" if reasons else ""
        faults.append(
            f"model.num_labels: {model.num_labels} contradicts `labels`, which makes {labels.num_labels} classes"
            f"{because}. Take model.num_labels out, or correct labels.classes."
        )
    weights = done["loss"].per_class_weights if "loss" in done else None
    if labels and isinstance(weights, dict) and (unknown := sorted(set(weights) - set(labels.original_ids))):
        faults.append(
            f"loss.per_class_weights: {unknown} are no classes that learn; the ids are {list(labels.original_ids)}."
        )
    if hub and training:
        for mine, theirs in (("repo_id", "hub_model_id"), ("private", "hub_private_repo")):
            one, other = getattr(hub, mine), training.get(theirs)
            if other is not None and other != one:
                faults.append(f"training.{theirs}: {show(other)} contradicts hub.{mine} {show(one)}; keep hub.{mine}.")
        if training.get("push_to_hub") and not hub.repo_id:
            faults.append("hub.repo_id: missing, though training.push_to_hub is true; write owner/name.")
    return faults


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
