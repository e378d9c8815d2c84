"""The model card: README.md of a checkpoint folder, and the page of its repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..figures import is_figure, percent, void_text
from ..labels import LabelSpace
from ..models import head_class
from ..recipe import Recipe, deviations, plain, protocol_file, write_yaml
from ..visualize import class_colors

TEMPLATE = Path(__file__).with_name("card_template.md")

DINOV3_LICENSE = {
    "license": "other",
    "license_name": "dinov3-license",
    "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}

_MEANS = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "overall accuracy",
}

_DINOV3_CITATION = """@misc{simeoni2025dinov3,
  title         = {{DINOv3}},
  author        = {Sim{\\'e}oni, Oriane and Vo, Huy V. and Seitzer, Maximilian and others},
  year          = {2025},
  eprint        = {2508.10104},
  archivePrefix = {arXiv}
}"""


def model_card(
    label_space: Mapping[str, Any],
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any],
    *,
    base_model: str | None = None,
    license: str | None = None,
    panel: str | None = None,
    curves: str | None = None,
) -> str:
    """Write the card.

    Args:
        label_space: `LabelSpace.to_dict()`.
        metrics: what the evaluation measured, as in `metrics.json`; figures may be NaN or None, or all be missing.
        recipe: `Recipe.to_dict()`.
        base_model: Hub id of the backbone. None takes the recipe's, if that is a Hub id.
        license: identifier of the checkpoint's licence. None takes the recipe's `hub.license`, and where that is null
            `default_license`.
        panel, curves: images to show, as paths inside the checkpoint folder.

    Returns:
        Markdown that begins with the metadata that the Hub reads.
    """
    space = LabelSpace.from_dict(label_space)
    head = head_class(recipe["model"]["head"])
    backbone = recipe["model"]["backbone"]
    if base_model is None and isinstance(backbone, str) and _is_hub_id(backbone):
        base_model = backbone
    license = license or recipe["hub"]["license"] or default_license(base_model or backbone)
    derived = default_license(base_model or backbone) == DINOV3_LICENSE["license"]
    dinov3 = ["dinov3"] if "dinov3" in str(base_model or backbone).lower() else []
    checkpoint = recipe["hub"]["repo_id"] or recipe["training"]["output_dir"]
    title = Path(checkpoint).name or "dinoseg"
    dataset = _dataset_name(recipe["data"])
    # What the figures were measured with: `dinoseg calibrate` stores a threshold that the recipe does not know.
    threshold = (metrics.get("background") or {}).get("threshold", recipe["evaluation"].get("background_threshold"))
    card_data = ModelCardData(
        license=None if license == "unknown" else license,
        license_name=DINOV3_LICENSE["license_name"] if license == "other" and derived else None,
        license_link=DINOV3_LICENSE["license_link"] if license == "other" and derived else None,
        base_model=base_model,
        pipeline_tag="image-segmentation",
        library_name="transformers",
        tags=["image-segmentation", "semantic-segmentation", *dinov3, recipe["model"]["head"], "hf-dinoseg"],
        datasets=_hub_datasets(recipe["data"]) or None,
        metrics=["mean_iou"],
        model_name=title,
        eval_results=_eval_results(metrics, recipe["data"]) or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=title,
        checkpoint=checkpoint,
        head_name=head.title,
        backbone_text=_backbone_text(backbone, base_model),
        trained="fine-tuned" if isinstance(backbone, str) else "trained from scratch",
        dataset_name=dataset,
        num_labels=space.num_labels,
        panel=panel,
        curves=curves,
        labels=_label_rows(space),
        zero_text=_zero_text(space),
        void_text=_void_text(space, threshold),
        threshold=threshold,
        merge_text=", ".join(f"{a} is learned and answered as {b}" for a, b in space.merge.items()),
        results_text=_results_text(metrics, dataset),
        means=_mean_rows(metrics),
        per_class=_class_rows(space, metrics),
        interval_text=_interval_text(metrics),
        void_share_text=void_text(metrics),
        inference_text=_inference_text(recipe["evaluation"]),
        training_text=_training_text(recipe, metrics),
        protocol=_protocol(recipe),
        recipe_yaml=write_yaml(recipe).rstrip(),
        versions=", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items()),
        license_text=_license_text(license, derived),
        citations="\n\n".join(filter(None, (_DINOV3_CITATION if dinov3 else "", head.citation))),
    )
    return str(card)


def default_license(backbone: str | Mapping[str, Any] | None) -> str:
    """The licence of a checkpoint whose owner chose none.

    Weights derived from DINOv3's stay under its licence, which the Hub lists as `other`. A backbone from scratch (a
    mapping) or another one leaves the choice to the owner: `unknown`.
    """
    return DINOV3_LICENSE["license"] if isinstance(backbone, str) and "dinov3" in backbone.lower() else "unknown"


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and name[0] not in "._" and not Path(name).exists()


def _dataset_name(data: Mapping[str, Any]) -> str:
    if data["source"] == "mixture":
        return " + ".join(dict.fromkeys(_dataset_name(entry) for entry in data["sources"]))
    if data["source"] == "hub" and not Path(data["repo_id"]).exists():
        return str(data["repo_id"])
    if data["source"] == "memory":
        return "a dataset given in Python"
    place = data.get("root") or data.get("repo_id") or (Path(data["file"]).parent if "file" in data else None)
    return Path(place).resolve().name if place is not None else str(data["source"])


def _hub_datasets(data: Mapping[str, Any]) -> list[str]:
    """The Hub ids of the datasets, for the repositories' links to one another."""
    if data["source"] == "mixture":
        return list(dict.fromkeys(name for entry in data["sources"] for name in _hub_datasets(entry)))
    return [data["repo_id"]] if data["source"] == "hub" and _is_hub_id(data["repo_id"]) else []


def _eval_results(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[EvalResult]:
    dataset, on_hub = _dataset_name(data), _hub_datasets(data)
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=on_hub[0] if [dataset] == on_hub else re.sub(r"[^\w.-]+", "-", dataset).lower(),
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=key,
            metric_name=name,
            metric_value=round(float(metrics[key]), 6),
        )
        for key, name in _MEANS.items()
        if is_figure(metrics.get(key))  # NaN is no value that the Hub's metadata can hold
    ]


def _span(interval: Any) -> str:
    """An interval in per cent, or nothing where there is none."""
    known = isinstance(interval, (list, tuple)) and len(interval) == 2 and all(map(is_figure, interval))
    return f"{percent(interval[0])} to {percent(interval[1])}" if known else ""


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _label_rows(space: LabelSpace) -> list[dict[str, Any]]:
    colors = class_colors(space)
    return [
        {
            "id": i,
            "name": _cell(name),
            "color": "#{:02x}{:02x}{:02x}".format(*colors[i]),
            "train_id": space.train_ids[i],
        }
        for i, name in space.classes.items()
    ]


def _mean_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (name, percent(metrics[key]), _span(metrics.get(f"{key}_interval")))
        for key, name in _MEANS.items()
        if key in metrics
    ]


def _class_rows(space: LabelSpace, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for i in space.original_ids:
        key = f"{i} {space.classes[i]}"
        figures = {
            name: percent((metrics.get(f"per_category_{name}") or {}).get(key)) for name in ("iou", "dice", "accuracy")
        }
        span = _span((metrics.get("per_category_iou_interval") or {}).get(key))
        rows.append({"id": i, "name": _cell(space.classes[i]), "span": span, **figures})
    return rows


def _interval_text(metrics: Mapping[str, Any]) -> str:
    """What the intervals are; empty where none was computed."""
    if not _span(metrics.get("mean_iou_interval")):
        return ""
    level, times = round(100 * metrics["interval"]["level"]), metrics["interval"]["resamples"]
    return (
        f"Intervals of {level} % by bootstrap over the images: the set drawn again from itself {times} times. They "
        "say how the figures vary with the choice of images, and nothing about another training run."
    )


def _zero_text(space: LabelSpace) -> str:
    if space.reduce_zero_label:
        return (
            "void (`reduce_zero_label`). It means *not labelled*, is never learned, and every other id moves down by "
            "one inside the network; label maps are given back with the ids of the table."
        )
    if 0 in space.classes:
        return f"a class, *{space.classes[0]}*, that is learned, predicted and measured like any other."
    return "void, not a class." if 0 in space.ignore else "not used by this dataset."


def _void_text(space: LabelSpace, threshold: float | None) -> str:
    ids = [i for i in sorted({*space.ignore, *([0] if space.reduce_zero_label else [])})]
    if not ids:
        return "this dataset has none: every pixel of its masks is labelled."
    named = ", ".join(f"{i}" for i in ids)
    answer = (
        f"Pixels whose best score is below {threshold} are answered as {space.void_id}."
        if threshold is not None
        else f"The model never answers void by itself; with a `background_threshold`, pixels of low score become "
        f"{space.void_id}."
    )
    return f"{named}. Such pixels took no part in training or measurement. {answer}"


def _backbone_text(backbone: str | Mapping[str, Any], base_model: str | None) -> str:
    if base_model:
        return f"[{base_model}](https://huggingface.co/{base_model})"
    if isinstance(backbone, str):
        return f"`{Path(backbone).name}`"
    return f"a `{backbone['model_type']}`"


def _results_text(metrics: Mapping[str, Any], dataset: str) -> str:
    if not any(is_figure(metrics.get(key)) for key in _MEANS):
        return ""
    images = f"{metrics['num_images']} images of the" if metrics.get("num_images") else "The"
    step = f", checkpoint of step {metrics['step']}" if metrics.get("step") else ""
    return f"{images} validation split of {dataset}, at original resolution{step}."


def _inference_text(evaluation: Mapping[str, Any]) -> str:
    if evaluation["mode"] == "whole":
        text = "each image at once"
    else:
        text = f"windows of {evaluation['window']} pixels, {evaluation['stride']} apart"
        text += ", fading towards their borders" if evaluation["blend"] == "smooth" else ""
    sizes, flip = evaluation["tta"]["scales"], evaluation["tta"]["flip"]
    if list(sizes) != [1.0]:
        text += f", averaged over the sizes {', '.join(f'{size:g}' for size in sizes)}"
    return text + (", averaged with the mirrored image" if flip else "")


_TUNED = {
    "head": "frozen",
    "last_k": "trained in its last {tune_blocks} blocks",
    "llrd": "trained along, at rates that fall by {layer_decay} from block to block",
    "lora": "trained by low-rank updates (rank {lora_rank}), which are merged into its weights",
    "full": "trained along",
}


def _training_text(recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    training, model = recipe["training"], recipe["model"]
    steps = training.get("max_steps") or -1
    length = f"{steps} steps" if steps > 0 else f"{training.get('num_train_epochs', 3)} epochs"
    if stopped := metrics.get("stopped_at"):
        length = f"{stopped} {f'of {length}' if steps > 0 else 'steps'}, where it got no better,"
    tuned = _TUNED[model["tune"]].format(**model)
    images = f" on {metrics['train_images']} images" if metrics.get("train_images") else ""
    time = ""
    if is_figure(metrics.get("seconds")):
        where = f" on {metrics['hardware']}" if metrics.get("hardware") else ""
        time = f" It took {_duration(metrics['seconds'])} in all{where}."
    start = f" It began from the weights of `{model['init_from']}`." if model.get("init_from") else ""
    again = "`dinoseg train recipe.yaml`"
    if recipe["data"]["source"] == "memory":
        again = "`hf_dinoseg.train('recipe.yaml', dataset=…)`, with the dataset given again,"
    return (
        f"{length}{images} with crops of {recipe['data']['crop_size']} pixels, learning rate "
        f"{training.get('learning_rate')}, backbone {tuned}.{start}{time} The run is repeated by "
        f"{again} with the file of that name beside this card."
    )


def _protocol(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The published protocol that a recipe follows: its name, title, source, what was published, what is other."""
    name = recipe.get("protocol")
    if name is None:
        return None
    about = protocol_file(name)["about"]
    found = [
        f"{figure['mean_iou']} mean IoU on ADE20K ({figure['source']}; head: {figure['head']}; "
        f"{'steps not published' if figure['steps'] is None else str(figure['steps']) + ' steps'}; views averaged: "
        f"{figure['views']})"
        for figure in about["figures"]
        if figure["backbone"] == recipe["model"]["backbone"]
    ]
    return {
        "name": name,
        "title": about["title"],
        "source": about["source"],
        "unpublished": about.get("unpublished"),
        "figures": found,
        "deviations": [
            {"field": d.field, "published": _cell(plain(d.published)), "here": _cell(plain(d.here))}
            for d in deviations(Recipe.from_dict(recipe))
        ],
    }


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"


def _license_text(license: str, derived: bool) -> str:
    chosen = "Its owner has not chosen a licence for this checkpoint." if license == "unknown" else ""
    if license not in ("unknown", "other"):
        chosen = f"This checkpoint: `{license}`."
    if derived:
        link = f"[DINOv3 License]({DINOV3_LICENSE['license_link']})"
        chosen = f"{chosen} The weights derive from DINOv3's and are used under the {link}.".strip()
    elif license == "other":
        chosen = "See the owner's terms."
    return f"{chosen} The code of `hf-dinoseg` in this repository is under Apache-2.0."
