"""A rehearsal of a recipe: all that training does, in seconds, on generated images and with a tiny backbone.

Data, weights and the output folder of the recipe are not touched; what the rehearsal writes goes into a temporary
folder that is removed. What it shows: that the parts of the recipe fit together. What it cannot show: that the data is
there, that the weights can be had, that memory suffices.
"""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from transformers.utils import logging as transformers_logging

from ..data.magnification import parted
from ..doctor.checks_training import magnification
from ..doctor.report import share_text
from ..inference.windows import default_stride
from ..models import HEADS
from ..recipe import Recipe
from ..run import check_recipe, train
from .generated_data import IMAGE_SIZE, mimic_source

STEPS = 2

_CROP = 64
_USUAL = (4, 3)  # the shape of most images; only ratios count
_LAYERS = 4
_SMALL_VIT = {"hidden_size": 32, "num_hidden_layers": _LAYERS, "num_attention_heads": 2}
_SMALL: dict[str, dict[str, Any]] = {
    "dinov3_vit": {**_SMALL_VIT, "intermediate_size": 64},
    "dinov3_convnext": {"hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "dinov2": {**_SMALL_VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**_SMALL_VIT, "mlp_ratio": 2},
}
_SHAPE = ("patch_size", "image_size", "num_register_tokens", "use_gated_mlp", "use_swiglu_ffn", "hidden_act")
#: of `training`: what steps do. The rest says where they run, how often they are saved, and who is told.
_KEPT = (
    "learning_rate",
    "weight_decay",
    "weight_decay_on",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "seed",
)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Train two steps by a shrunken copy of the recipe on the CPU, evaluate one image, and leave nothing behind.

    Returns:
        `steps`, `losses` (one a step), `num_labels`, `backbone` (the tiny one's type), `in_place_of`, `head`, `tune`,
        `image_size` (width, height), `magnification` (how large training and evaluation show images, and a warning if
        they part by more than a quarter whatever the images), `mean_iou` of the one image (it means nothing),
        `seconds`.

    Raises:
        What `build.train` raises.
    """
    started = time.time()
    check_recipe(recipe)
    with TemporaryDirectory() as scratch, in_silence():
        small = rehearsal(recipe, Path(scratch))
        metrics = train(small, force=True)  # generated masks need not look as masks do
        run = Path(small.training["output_dir"])
        state = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text(encoding="utf-8"))
    backbone = recipe.model.backbone
    return {
        "steps": STEPS,
        "losses": [entry["loss"] for entry in state["log_history"] if "loss" in entry],
        "num_labels": recipe.labels.num_labels,
        "backbone": small.model.backbone["model_type"] if isinstance(small.model.backbone, dict) else "",
        "in_place_of": backbone if isinstance(backbone, str) else backbone["model_type"],
        "head": recipe.model.head,
        "tune": recipe.model.tune,
        "image_size": list(IMAGE_SIZE),
        "magnification": _magnification(recipe),
        "mean_iou": metrics["mean_iou"],
        "seconds": round(time.time() - started, 1),
    }


def _magnification(recipe: Recipe) -> str:
    rule = magnification(recipe)
    if (rule.base_size is None) != (rule.shortest_edge is None):
        return f"{rule.text()} How far they part depends on the images: dinoseg doctor tells."
    # both count from the stored size, or neither does: images of one shape tell for all sizes
    measured = rule.measure([_USUAL])
    told = rule.text()
    if rule.base_size is not None:
        told += f" Of images of {_USUAL[0]}:{_USUAL[1]}, {share_text(measured['padding'])} of the crops is padding."
    if parted(measured):
        ratio = measured["training"] / measured["evaluation"]
        told += f" Warning: the mean in training is {ratio:.2f} times what evaluation shows; see magnification-differs."
    return told


def rehearsal(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, shrunken: its labels, its choices, its layout of files, in small; everything below one folder."""
    data, model, loss, evaluation = (
        section.model_dump() for section in (recipe.data, recipe.model, recipe.loss, recipe.evaluation)
    )
    given = recipe.data.source_fields()
    crops = {key: value for key, value in data.items() if key not in given}
    small = {
        "backbone": small_backbone(model["backbone"]),
        "num_queries": min(8, model["num_queries"]),
        "tune_blocks": min(2, model["tune_blocks"]),
        "backbone_warmup_steps": 1 if model["backbone_warmup_steps"] else None,
        "out_layers": _last_layers(model["out_layers"]),
        "init_from": None,
        "mask_annealing": model["mask_annealing"][:2] if model["mask_annealing"] else None,  # of as many blocks
        **{name: size for head in HEADS.values() for name, size in head.small.items()},
    }
    windows = {"window": _CROP, "stride": default_stride(_CROP), "max_samples": 1, "panels": 0}
    windows |= {"shortest_edge": 48} if evaluation["shortest_edge"] else {}
    crops |= {"base_size": 48} if data["base_size"] else {}
    training = {key: value for key, value in recipe.training.items() if key in _KEPT and value is not None}
    training |= {
        "output_dir": str(folder / "run"),
        "max_steps": STEPS,
        "warmup_steps": 1 if recipe.training["warmup_steps"] else 0,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_steps": STEPS,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Recipe.from_dict(
        {
            **recipe.to_dict(),
            "protocol": None,  # its steps and its precision are not those of a rehearsal
            "data": {
                **crops,
                "crop_size": _CROP,
                "num_proc": None,
                **mimic_source(given, recipe.labels, folder / "data"),
            },
            "model": {**model, **small},
            "loss": {**loss, "num_points": min(256, loss["num_points"])},
            "training": training,
            "evaluation": {**evaluation, **windows},
            "hub": {},
        },
        "dry run",
    )


def small_backbone(backbone: str | dict[str, Any]) -> dict[str, Any]:
    """A configuration of the same family with a few thousand weights. A family that is not known here stays as it is
    if the recipe has its configuration; of a name that does not tell, a DINOv3 ViT is made."""
    config: dict[str, Any] = {}
    if isinstance(backbone, dict):
        config, family = backbone, backbone["model_type"]
        if family not in _SMALL:
            return backbone
    elif (path := Path(backbone).expanduser() / "config.json").is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        family = config.get("model_type", "")
    else:
        name = backbone.lower()
        family = "dinov3_convnext" if "convnext" in name else "dinov2" if "dinov2" in name else "dinov3_vit"
        family = "dinov2_with_registers" if family == "dinov2" and "register" in name else family
    family = family if family in _SMALL else "dinov3_vit"
    return {"model_type": family, **{key: config[key] for key in _SHAPE if key in config}, **_SMALL[family]}


def _last_layers(layers: list[int] | None) -> list[int] | None:
    return None if layers is None else list(range(_LAYERS + 1 - min(len(layers), _LAYERS), _LAYERS + 1))


@contextmanager
def in_silence() -> Iterator[None]:
    """No progress bars, no log and no advice on generated data; nothing goes into the cache of datasets."""
    cached, bars = datasets.is_caching_enabled(), not datasets.are_progress_bars_disabled()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if transformers_bars:
            transformers_logging.enable_progress_bar()
        logging.disable(logging.NOTSET)
        if cached:
            datasets.enable_caching()
        if bars:
            datasets.enable_progress_bars()
