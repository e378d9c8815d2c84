"""The model card: metadata that the Hub can read, and text that says what the numbers mean."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_dinoseg.hub import default_license, model_card
from hf_dinoseg.recipe import Recipe

NAN = float("nan")
DINOV3 = "facebook/dinov3-vits16-pretrain-lvd1689m"


def recipe(**changes: Any) -> Recipe:
    data: dict[str, Any] = {
        "labels": {
            "classes": {0: "background", 3: "artery|vein", 7: "disc"},
            "ignore": [255],
            "colors": {7: [1, 2, 255]},
        },
        "data": {"source": "folder", "root": "data/retina"},
        "training": {"output_dir": "out/retina", "max_steps": 200},
    }
    for name, section in changes.items():
        data[name] = section if name == "labels" else data.get(name, {}) | section
    return Recipe.from_dict(data)


METRICS: dict[str, Any] = {
    "mean_iou": 0.51234,
    "mean_dice": NAN,
    "mean_accuracy": None,
    "overall_accuracy": 0.9,
    "per_category_iou": {"0 background": 0.75, "3 artery|vein": 0.25, "7 disc": NAN},
    "per_category_dice": {"0 background": 0.8, "3 artery|vein": 0.4, "7 disc": None},
    "num_images": 51,
    "step": 150,
    "seconds": 300.0,
    "versions": {"torch": "2.13.0"},
}


def card(of: Recipe, metrics: dict[str, Any] | None = None, **more: Any) -> str:
    measured = METRICS if metrics is None else metrics
    return model_card(label_space=of.labels.to_dict(), metrics=measured, recipe=of.to_dict(), **more)


def metadata(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_metadata_is_what_the_hub_reads() -> None:
    text = card(recipe(model={"backbone": DINOV3}, hub={"repo_id": "me/retina-s"}))
    data = metadata(text)
    assert data["license"] == "other" and data["license_name"] == "dinov3-license"
    assert data["license_link"] == "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
    assert data["base_model"] == DINOV3
    assert data["pipeline_tag"] == "image-segmentation" and data["library_name"] == "transformers"
    assert {"image-segmentation", "dinov3", "mask2former"} <= set(data["tags"])
    results = {r.metric_type: r.metric_value for r in ModelCard(text).data.eval_results}
    assert results == {"mean_iou": 0.51234, "overall_accuracy": 0.9}  # no NaN, no null
    assert ModelCard(text).data.model_name == "retina-s"


@pytest.mark.parametrize("metrics", [{}, {"mean_iou": NAN, "per_category_iou": {}}, {"mean_iou": None}])
def test_without_a_figure_the_card_is_valid_and_says_so(metrics: dict[str, Any]) -> None:
    text = card(recipe(), metrics)
    assert "model-index" not in metadata(text)
    assert "Not measured yet." in section(text, "Results")
    assert "nan" not in section(text, "Results").lower()


@pytest.mark.parametrize(
    ("backbone", "chosen", "expected"),
    [
        (DINOV3, None, ("other", "dinov3-license")),
        ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", None, ("other", "dinov3-license")),
        ("models/dinov3-vits16/", None, ("other", "dinov3-license")),
        (DINOV3, "mit", ("mit", None)),
        ("facebook/dinov2-small", None, (None, None)),
        ("facebook/dinov2-small", "other", ("other", None)),
        ({"model_type": "dinov3_vit"}, None, (None, None)),
        ({"model_type": "dinov3_vit"}, "apache-2.0", ("apache-2.0", None)),
    ],
)
def test_licence_follows_the_weights_unless_chosen(
    backbone: Any, chosen: str | None, expected: tuple[Any, Any]
) -> None:
    text = card(recipe(model={"backbone": backbone}, hub={"license": chosen}))
    data = metadata(text)
    assert (data.get("license"), data.get("license_name")) == expected
    derived = isinstance(backbone, str) and "dinov3" in backbone
    assert ("dinov3-license/" in section(text, "Licence")) == derived  # told even where the owner chose another
    assert default_license(backbone) == ("other" if derived else "unknown")


def test_a_local_backbone_is_no_base_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/mine").mkdir(parents=True)
    for folder in ("models/mine", "./mine", "/models/mine", str(tmp_path)):
        assert "base_model" not in metadata(card(recipe(model={"backbone": folder})))
    assert metadata(card(recipe(model={"backbone": "models/mine"}), base_model=DINOV3))["base_model"] == DINOV3


def test_labels_come_with_original_ids_and_colours() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \| `(#[0-9a-f]{6})` \| (\d+) \|$", card(recipe()), flags=re.M)
    assert [(i, name, train) for i, name, _, train in rows] == [
        ("0", "background", "0"),
        ("3", "artery\\|vein", "1"),  # a bar would break the table
        ("7", "disc", "2"),
    ]
    assert rows[2][2] == "#0102ff"
    assert len({color for _, _, color, _ in rows}) == 3


def test_results_are_listed_by_class_with_dashes_where_there_is_none() -> None:
    results = section(card(recipe()), "Results")
    assert "51 images" in results and "step 150" in results
    assert "| mean IoU | 51.23 |" in results and "| mean Dice | - |" in results
    assert "| 0 | background | 75.00 | 80.00 | - |" in results
    assert "| 3 | artery\\|vein | 25.00 | 40.00 | - |" in results
    assert "| 7 | disc | - | - | - |" in results


@pytest.mark.parametrize(
    ("labels", "zero", "void"),
    [
        ({"classes": {0: "sky", 1: "sea"}, "ignore": [255]}, "a class, *sky*", "255. Such pixels"),
        ({"classes": {1: "sky"}, "reduce_zero_label": True}, "void (`reduce_zero_label`)", "0. Such pixels"),
        ({"classes": {1: "sky"}, "ignore": [0]}, "void, not a class.", "become 0."),
        ({"classes": {1: "sky"}}, "not used by this dataset.", "has none"),
    ],
)
def test_label_zero_and_void_are_told_apart(labels: dict[str, Any], zero: str, void: str) -> None:
    text = section(card(recipe(labels=labels), {}), "Labels")
    assert zero in text.split("**Label 0**")[1].split("**Void**")[0]
    assert void in text.split("**Void**")[1]


def test_merged_classes_are_named() -> None:
    labels = {"classes": {0: "sky", 1: "cloud"}, "merge": {1: 0}}
    text = section(card(recipe(labels=labels), {}), "Labels")
    assert "1 is learned and answered as 0" in text and "| 1 | cloud |" in text


def test_three_ways_to_use_it_name_the_checkpoint_and_are_python() -> None:
    use = section(card(recipe(hub={"repo_id": "me/retina-s"})), "How to use")
    blocks = re.findall(r"```python\n(.*?)```", use, flags=re.S)
    for block in blocks:
        ast.parse(block)
    assert len(blocks) == 2 and all("me/retina-s" in block for block in blocks)
    assert "trust_remote_code=True" in blocks[0] and "Segmenter" in blocks[1]
    assert "dinoseg predict me/retina-s photo.jpg --output" in use
    assert "out/retina" in section(card(recipe()), "How to use")  # where there is no repository


def test_the_recipe_in_the_card_is_the_recipe() -> None:
    of = recipe(model={"backbone": {"model_type": "dinov3_vit", "hidden_size": 96}})
    text = section(card(of), "Training")
    assert Recipe.from_dict(yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.S)[0])) == of
    assert "200 steps" in text and "5 minutes" in text and "torch 2.13.0" in text


def test_panel_limits_and_citations() -> None:
    text = card(recipe(), panel="panels/final/1.png")
    assert "](panels/final/1.png)" in text and "](panels" not in card(recipe())
    assert "no other" in section(text, "Limits")
    citation = section(text, "Citation")
    assert "2508.10104" in citation and "cheng2022mask2former" in citation
    assert "kerssies2025eomt" in section(card(recipe(model={"head": "eomt"})), "Citation")
    assert "cavagnero2026pmt" in section(card(recipe(model={"head": "pmt"})), "Citation")
    assert "{{ " not in text and "{%" not in text


def test_names_from_outside_cannot_run_or_break_the_card() -> None:
    labels = {"classes": {0: "{{ 7*7 }}", 1: "a\n---\nb: c"}}
    text = card(recipe(labels=labels), {})
    assert "{{ 7*7 }}" in text and "| 49 |" not in text
    assert "| 1 | a --- b: c |" in text
    assert metadata(text)["pipeline_tag"] == "image-segmentation"


INTERVALS: dict[str, Any] = {
    "mean_iou_interval": [0.47, 0.561],
    "per_category_iou_interval": {
        "0 background": [0.7, 0.8],
        "3 artery|vein": [0.2, 0.31],
        "7 disc": [NAN, NAN],
    },
    "interval": {"level": 0.95, "resamples": 1000},
}


def test_intervals_stand_beside_what_they_belong_to() -> None:
    results = section(card(recipe(), METRICS | INTERVALS), "Results")
    assert "| mean IoU | 51.23 | 47.00 to 56.10 |" in results and "| mean Dice | - |  |" in results
    assert "| 0 | background | 75.00 | 70.00 to 80.00 | 80.00 | - |" in results
    assert "| 7 | disc | - |  | - | - |" in results
    assert "95 % by bootstrap over the images" in results and "1000 times" in results
    for table in re.findall(r"(?:^\|.*\|\n)+", results, flags=re.M):
        assert len({row.replace("\\|", "").count("|") for row in table.splitlines()}) == 1, table
    assert "interval" not in section(card(recipe()), "Results")


def test_hardware_time_and_a_head_taken_over() -> None:
    measured = METRICS | {"hardware": "8 × NVIDIA H100 80GB HBM3", "seconds": 3 * 3600.0}
    text = section(card(recipe(model={"init_from": "me/older"}), measured), "Training")
    assert "It took 3.0 hours in all on 8 × NVIDIA H100 80GB HBM3." in text and "weights of `me/older`" in text


def hub_recipe(repo_id: str) -> Recipe:
    data = {k: v for k, v in recipe().to_dict().items() if k != "data"}
    return Recipe.from_dict(data | {"data": {"source": "hub", "repo_id": repo_id}})


def test_data_sets_of_the_hub_are_linked() -> None:
    text = card(hub_recipe("me/retina-photos"))
    data = metadata(text)
    assert data["datasets"] == ["me/retina-photos"]
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "me/retina-photos"
    assert "datasets" not in metadata(card(recipe()))


def test_dinov3_is_named_where_it_is_the_backbone() -> None:
    other = card(recipe(model={"backbone": "facebook/dinov2-small"}))
    assert "dinov3" not in metadata(other)["tags"] and "2508.10104" not in section(other, "Citation")
    scratch = card(recipe(model={"backbone": {"model_type": "dinov3_vit"}}))
    assert "dinov3" in metadata(scratch)["tags"] and "2508.10104" in section(scratch, "Citation")


def test_how_images_were_predicted_is_told_in_full() -> None:
    asked = {"window": 300, "stride": 200, "blend": "smooth", "tta": {"scales": [0.75, 1.0], "flip": True}}
    told = "windows of 300 pixels, 200 apart, fading towards their borders, averaged over the sizes 0.75, 1"
    assert told + ", averaged with the mirrored image" in " ".join(card(recipe(evaluation=asked), METRICS).split())
    whole = " ".join(card(recipe(evaluation={"mode": "whole"}), METRICS).split())
    assert "each image at once" in whole and "averaged over" not in whole


def test_a_threshold_for_background_is_told() -> None:
    labels = {"classes": {1: "sky"}, "ignore": [0]}
    text = card(recipe(labels=labels, evaluation={"background": "threshold", "background_threshold": 0.4}), {})
    assert "Pixels whose best score is below 0.4 are answered as 0." in section(text, "Labels")
    assert "whose score reaches the threshold gets one of them" in section(text, "Limits")
    found = {"background": {"policy": "threshold", "threshold": 0.7}}  # calibrated after training
    assert "below 0.7 are answered" in section(card(recipe(labels=labels), found), "Labels")


#: What a reader finds in every card, in this order.
PARTS = r"""
pipeline_tag: image-segmentation
model-index:
^# \S+$
^!\[.+\]\(.+\.png\)$
^## Labels$
^\| id \| name \| colour \| train id \|$
^- \*\*Label 0\*\*: .+
^- \*\*Void\*\*: .+
^## Results$
^\d+ images of the validation split of .+
^\| mean IoU \|
^\| id \| class \| IoU \|
^## How to use$
trust_remote_code=True
Segmenter\.from_pretrained
^dinoseg predict
^## Training$
learning rate .+ backbone .+ It took .+
```yaml\nlabels:
^Versions: .*torch
^## Limits$
^## Licence$
Apache-2\.0
^## Citation$
```bibtex\n@misc{simeoni2025dinov3
@inproceedings{
""".strip().splitlines()


def test_every_card_has_every_part(tiny_run: Path) -> None:
    written = (tiny_run / "README.md").read_text()
    for text in (written, card(recipe(model={"backbone": DINOV3}), METRICS | INTERVALS, panel="panels/final/1.png")):
        place = 0
        for part in PARTS:
            found = re.compile(part, flags=re.MULTILINE).search(text, place)
            assert found, f"no {part} after {text[max(0, place - 200) : place]!r}"
            place = found.end()
    assert "CPU thread" in section(written, "Training")


CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.mark.parametrize("name", sorted(path.stem for path in CARDS.glob("*.md")))
def test_the_rendered_examples_are_what_the_code_renders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the list of every default, which grows with the package; the fields that it names are the recipe's."""
    monkeypatch.syspath_prepend(str(CARDS))
    from render import CARDS as RENDERED
    from render import RECIPES, render

    from hf_dinoseg import load_recipe

    block = re.compile(r"```yaml\n(.*?)```", flags=re.DOTALL)
    kept, rendered = (CARDS / f"{name}.md").read_text(encoding="utf-8"), render(name)
    assert block.sub("", kept) == block.sub("", rendered), "run: python model_cards/render.py"
    (resolved,) = block.findall(kept)
    assert Recipe.from_dict(yaml.safe_load(resolved)) == load_recipe(RECIPES / RENDERED[name][0], RENDERED[name][1])
    assert ModelCard(kept).data.eval_results
