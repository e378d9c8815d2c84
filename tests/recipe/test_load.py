"""The recipe: what is accepted, what is refused and with which words, and that a resolved recipe loads back equal."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from hf_dinoseg.errors import RecipeError
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import FolderData, Recipe, SyntheticRetinaData, load_recipe, seconds, training_arguments
from hf_dinoseg.recipe.schema_training import OWN, training_fields
from hf_dinoseg.recipe.yaml_format import parse_yaml

MINIMAL = """
labels: {classes: {0: background, 1: vessel}, ignore: [255]}
data: {source: folder, root: data/retina}
training: {output_dir: out/retina}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(path) in str(caught.value)
    for fault in caught.value.faults:
        assert fault in str(caught.value)
    return caught.value.faults


def the_fault(path: Path, *overrides: str) -> str:
    faults = faults_of(path, *overrides)
    assert len(faults) == 1, faults
    return faults[0]


# ---------------------------------------------------------------------- what a good recipe becomes


def test_the_shortest_recipe_gets_every_default(minimal: Path) -> None:
    recipe = load_recipe(minimal)
    assert recipe.labels == LabelSpace({0: "background", 1: "vessel"}, ignore=(255,))
    assert isinstance(recipe.data, FolderData)
    assert (recipe.data.image, recipe.data.scale, recipe.data.max_class_share) == ("images/{split}", (0.5, 2.0), 0.75)
    model = recipe.model
    assert model.backbone == "facebook/dinov3-vits16-pretrain-lvd1689m"
    assert (model.head, model.tune, model.backbone_learning_rate_multiplier) == ("mask2former", "head", 0.1)
    assert (model.num_queries, model.hidden_dim, model.num_attention_heads) == (100, 256, 8)
    assert (model.pixel_decoder_layers, model.pixel_decoder_ffn_dim) == (6, 1024)
    assert (model.decoder_layers, model.decoder_ffn_dim, model.drop_path_rate) == (9, 2048, 0.3)
    assert (recipe.evaluation.mode, recipe.evaluation.window, recipe.evaluation.stride) == ("slide", 512, 341)
    loss = recipe.loss
    assert (loss.num_points, loss.oversample_ratio, loss.importance_sample_ratio) == (12544, 3.0, 0.75)
    weights = (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight)
    assert weights == (2.0, 5.0, 5.0, 0.1)
    assert recipe.hub.repo_id is None and recipe.hub.license is None


def test_training_defaults_construct_training_arguments_that_agree_with_themselves(minimal: Path) -> None:
    recipe = load_recipe(minimal, ["training.use_cpu=true"])
    args = TrainingArguments(**training_arguments(recipe.training))
    assert args.metric_for_best_model == "eval_mean_iou" and args.greater_is_better
    assert args.load_best_model_at_end and args.eval_strategy == "steps" and args.save_strategy == "steps"
    assert args.eval_steps == args.save_steps == 0.1
    assert not args.remove_unused_columns and args.batch_eval_metrics
    assert args.lr_scheduler_type == "polynomial" and args.lr_scheduler_kwargs == {"power": 0.9, "lr_end": 0.0}
    assert args.report_to == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.eval_steps=50"], {"save_steps": 50}),
        (["training.save_steps=50"], {"eval_steps": 50}),
        (["training.eval_strategy=epoch"], {"save_strategy": "epoch", "load_best_model_at_end": True}),
        (["training.eval_strategy=no"], {"save_strategy": "steps", "load_best_model_at_end": False}),
        (["training.metric_for_best_model=expected_calibration_error"], {"greater_is_better": False}),
        (["training.metric_for_best_model=", "training.greater_is_better="], {"greater_is_better": True}),
        (["training.lr_scheduler_type=cosine"], {"lr_scheduler_kwargs": None}),
        (["training.eval_steps=0.1"], {"save_steps": 0.1}),
    ],
)
def test_training_defaults_follow_what_was_given(minimal: Path, overrides: list[str], expected: dict[str, Any]) -> None:
    training = load_recipe(minimal, [*overrides, "training.use_cpu=true"]).training
    assert {key: training.get(key) for key in expected} == expected
    TrainingArguments(**training_arguments(training))  # transformers agrees


@pytest.mark.parametrize(
    ("overrides", "processes", "expected"),
    [
        # sqrt(8 / 16) = 0.707, sqrt(16 / 16), sqrt(32 / 16) = 1.414 of 1e-4; held between 4 and 64 images
        ([], "1", {"learning_rate": 7.1e-5, "warmup_steps": 0.05, "eval_steps": 0.1, "save_steps": 0.1}),
        (["training.gradient_accumulation_steps=2"], "1", {"learning_rate": 1e-4}),
        ([], "4", {"learning_rate": 1.4e-4}),
        (["training.per_device_train_batch_size=1"], "1", {"learning_rate": 5e-5}),
        (["training.per_device_train_batch_size=64"], "8", {"learning_rate": 2e-4}),
        (["training.per_device_train_batch_size=64", "training.learning_rate=3e-4"], "8", {"learning_rate": 3e-4}),
        (
            ["training.max_steps=20000"],
            "1",
            {"warmup_steps": 1000, "eval_steps": 2000, "save_steps": 2000, "logging_steps": 50},
        ),
        (["training.max_steps=90000"], "1", {"warmup_steps": 1500, "eval_steps": 5000}),
        (["training.max_steps=90"], "1", {"warmup_steps": 5, "eval_steps": 9, "save_steps": 9, "logging_steps": 4}),
        (["training.max_steps=4"], "1", {"warmup_steps": 1, "eval_steps": 1, "logging_steps": 1}),
        (
            ["training.max_steps=90", "training.warmup_steps=0", "training.eval_steps=30", "training.logging_steps=7"],
            "1",
            {"warmup_steps": 0, "eval_steps": 30, "save_steps": 30, "logging_steps": 7},
        ),
        (["training.max_steps=90", "training.eval_strategy=no"], "1", {"save_steps": 9}),
        (["training.max_steps=1000", "training.lr_scheduler_type=one_cycle"], "1", {"warmup_steps": 300}),
        (["training.early_stopping_patience=3"], "1", {"restore_callback_states_from_checkpoint": True}),
    ],
)
def test_numbers_that_follow_from_batch_and_steps_and_what_is_written_wins(
    minimal: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], processes: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    recipe = load_recipe(minimal, overrides)
    assert {key: recipe.training.get(key) for key in expected} == expected
    monkeypatch.setenv("WORLD_SIZE", "2")  # the numbers stand in the resolved recipe, and no longer follow
    assert Recipe.from_dict(recipe.to_dict()).training == recipe.training


def test_durations() -> None:
    assert [seconds(text) for text in ("90s", "1.5m", "3.5h", "1d 12h", None)] == [90, 90, 12600, 129600, None]


def test_every_field_of_training_arguments_is_known() -> None:
    ours, theirs = set(training_fields()), {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    elsewhere = {"hub_token", "resume_from_checkpoint", "local_rank", "parallelism_config"}
    assert theirs - ours == elsewhere | {"bf16_full_eval", "fp16_full_eval"}  # these are evaluation.autocast
    assert ours - theirs == set(OWN)


def test_every_default_of_training_arguments_is_accepted(minimal: Path) -> None:
    """What transformers itself holds in a field must be a value that the field takes."""
    names = set(training_fields()) - {"output_dir", "load_best_model_at_end"}
    defaults = {f.name: f.default for f in dataclasses.fields(TrainingArguments) if f.name in names}
    settled = {"remove_unused_columns", "batch_eval_metrics", "eval_do_concat_batches", "label_names"}
    data = parse_yaml(MINIMAL, "text")
    data["training"] |= {"load_best_model_at_end": False, "include_for_metrics": []} | {
        k: v for k, v in defaults.items() if k not in settled and isinstance(v, (int, float, str, type(None)))
    }
    training = Recipe.from_dict(data).training
    assert training["learning_rate"] == 5e-5 and training["lr_scheduler_type"] == "linear"


def test_a_backbone_from_scratch_learns_as_fast_as_the_head_unless_told_otherwise(minimal: Path) -> None:
    scratch = "model.backbone={model_type: dinov3_vit, hidden_size: 64, num_attention_heads: 4}"
    model = load_recipe(minimal, [scratch]).model
    assert (model.tune, model.backbone_learning_rate_multiplier) == ("full", 1.0)
    told = load_recipe(minimal, [scratch, "model.freeze_backbone=true"]).model
    assert (told.tune, told.backbone_learning_rate_multiplier) == ("head", 1.0)


def test_evaluation_windows_follow_the_crop(minimal: Path) -> None:
    evaluation = load_recipe(minimal, ["data.crop_size=300"]).evaluation
    assert (evaluation.window, evaluation.stride) == (300, 200)
    assert load_recipe(minimal, ["evaluation.window=90"]).evaluation.stride == 60


def test_evaluation_resizes_to_the_base_size_unless_it_says_otherwise(minimal: Path) -> None:
    def edge(*overrides: str) -> int | None:
        recipe = load_recipe(minimal, overrides)
        again = Recipe.from_dict(recipe.to_dict())
        assert again == recipe  # whether a size was written or followed
        return recipe.evaluation.shortest_edge

    assert edge() is None and edge("data.base_size=448") == 448
    assert edge("data.base_size=448", "evaluation.shortest_edge=512") == 512
    assert edge("data.base_size=448", "evaluation.shortest_edge=null") is None
    assert edge("evaluation.shortest_edge=512") == 512  # recipes from before there was a base size


def test_overrides_take_yaml_values_nest_and_make_what_is_missing(minimal: Path) -> None:
    recipe = load_recipe(
        minimal,
        [
            "data.root=/x=y",
            "model.backbone.model_type=dinov3_vit",
            "model.backbone.hidden_size=96",
            "labels.ignore=[254, 255]",
            "labels.classes.2=disc",
            "labels.classes.1=artery",
            "training.learning_rate=2e-5",
            "training.max_steps=10",
            "training.max_steps=20",
            "hub.repo_id=",
        ],
    )
    assert recipe.data.root == "/x=y"  # type: ignore[union-attr]
    assert recipe.model.backbone == {"model_type": "dinov3_vit", "hidden_size": 96}
    assert recipe.labels.ignore == (254, 255)
    assert recipe.labels.classes == {0: "background", 1: "artery", 2: "disc"}
    assert recipe.training["learning_rate"] == 2e-5 and recipe.training["max_steps"] == 20


def test_a_whole_number_does_for_a_number(minimal: Path) -> None:
    recipe = load_recipe(minimal, ["training.learning_rate=1", "data.scale=[1, 2]", "training.num_train_epochs=3"])
    assert recipe.training["learning_rate"] == 1 and recipe.data.scale == (1.0, 2.0)


ROUND_TRIPS = [
    [],
    ["data={source: synthetic-retina, num_train: 3, seed: 5}"],
    ["data={source: folder, root: r, image: photos, mask: labels, validation: 0.2}"],
    ["data={source: table, file: 'x/{split}.csv', root: r, id_column: nr}"],
    ["data={source: hub, repo_id: me/eyes, revision: v1, mask_column: label, validation: 0.1}"],
    ["data={source: arrow, root: r, train: training, validation: test}"],
    ["data={source: mixture, sources: [{source: folder, root: r, weight: 2}, {source: parquet, root: q}]}"],
    [
        "model.backbone={model_type: dinov3_vit, hidden_size: 64, num_attention_heads: 4}",
        "model.out_layers=[1, 2, 3, 4]",
    ],
    ["labels={classes: {1: wall, 2: sky, 3: 'no'}, reduce_zero_label: true, merge: {3: 2}, colors: {1: [1, 2, 3]}}"],
    ["labels={classes: {0: 'yes', 1: '1e-4'}, encoding: rgb, colors: {0: [0, 0, 0], 1: [255, 0, 0]}}"],
    ["training.lr_scheduler_type=cosine", "training.learning_rate=1e-5", "training.report_to=[tensorboard, wandb]"],
    ["training.eval_strategy=no", "training.warmup_steps=0.1", "training.accelerator_config={split_batches: true}"],
    ["loss={num_points: 3136, no_object_weight: 1}"],
    ["evaluation={mode: whole, panels: 0, max_samples: 7}", "hub={repo_id: me/x, private: true, license: mit}"],
]


@pytest.mark.parametrize("overrides", ROUND_TRIPS)
def test_a_resolved_recipe_loads_back_equal(minimal: Path, tmp_path: Path, overrides: list[str]) -> None:
    recipe = load_recipe(minimal, overrides)
    again = tmp_path / "resolved.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(again) == recipe
    assert load_recipe(again).to_yaml() == recipe.to_yaml()
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    json.dumps(recipe.to_dict())  # plain data only


# ---------------------------------------------------------------------- what a bad recipe is told


def test_all_faults_of_all_sections_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        """
labels: {classes: {0: background, x: vein, 3: 5}, reduce_zero_label: no}
data: {source: folder, crop_size: "512", scael: [1, 2]}
model: {head: mask2fromer, num_queries: -1, backbone: {model_type: dinov3_vit, hiden_size: 3}}
training: {max_steps: 1.5, learning_rat: 1e-4, bf16: no}
evaluation: {mode: slid}
hub: {repo_id: a/b/c}
learning_rate: 3
"""
    )
    faults = faults_of(path, "training.max_steps")
    fields = {fault.split(":")[0] for fault in faults}
    assert fields == {
        "learning_rate",
        "labels.classes",
        "labels.classes.3",
        "labels.reduce_zero_label",
        "data.crop_size",
        "data.scael",
        "data.root",
        "model.head",
        "model.num_queries",
        "model.backbone.hiden_size",
        "training.output_dir",
        "training.max_steps",
        "training.learning_rat",
        "training.bf16",
        "evaluation.mode",
        "hub.repo_id",
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # unknown keys: nearest spelling, or the section that has it
        ("model.num_querys=5", ["model.num_querys: unknown field (given 5)", "Did you mean model.num_queries?"]),
        ("training.evaluation_strategy=no", ["Did you mean training.eval_strategy?"]),
        ("model.learning_rate=1e-4", ["`learning_rate` belongs to `training`: write training.learning_rate."]),
        ("data.num_train=5", ["`num_train` belongs to source synthetic-retina; here the source is folder."]),
        ("modle={}", ["modle: unknown section", "Did you mean model?"]),
        ("labels.clases={0: a}", ["labels.clases: unknown field", "Did you mean labels.classes?"]),
        ("evaluation.zzz=1", ["evaluation.zzz: unknown field", "Known fields: mode, window, stride"]),
        # types: no text for numbers, no words for truth values
        ('training.learning_rate="1e-4"', ['"1e-4" is not accepted', "a number, more than 0", "take them off"]),
        ("training.max_steps=1.5", ["training.max_steps: 1.5 is not accepted; write a whole number."]),
        ("training.per_device_train_batch_size=8.0", ["a whole number, at least 1"]),
        ("training.bf16=yes", ["training.bf16", "write true or false", "the value is `true`"]),
        ("labels.reduce_zero_label=no", ["labels.reduce_zero_label", "the value is `false`"]),
        ("labels.ignore=255", ["labels.ignore: 255 is not accepted; write a list of whole numbers."]),
        ("labels.classes.x=y", ['labels.classes: the key "x" is not accepted', "whole numbers to words"]),
        ("data.scale=[0.5]", ["data.scale: [0.5] is not accepted; write a list of 2 numbers."]),
        ("data.scale=[2, 0.5]", ["data.scale", "smaller first"]),
        ("training.learning_rate=.nan", ["training.learning_rate: NaN is not accepted"]),
        ("training.output_dir=", ["training.output_dir: null is not accepted; write text, not empty."]),
        ("hub=3", ["hub: 3 is not accepted; write a mapping of fields."]),
        ("model.out_layers=[0, 3]", ["a list of whole numbers, each at least 1"]),
        ("model.out_layers=[3, 1]", ["model.out_layers", "ascending"]),
        ("model.hidden_dim=100", ["model.hidden_dim: 100"]),
        ("loss.mask_weigth=5", ["loss.mask_weigth: unknown field (given 5). Did you mean loss.mask_weight?"]),
        # choices, with the accepted ones
        ("model.head=mask2fromer", ["one of eomt, linear, mask2former, pmt.", "Did you mean `mask2former`?"]),
        ("data.source=foldr", ['data.source: "foldr" is not accepted', "imagefolder, voc, coco", "`folder`?"]),
        ("training.eval_strategy=false", ["training.eval_strategy: false", "one of no, steps, epoch."]),
        ("training.lr_scheduler_type=polynomail", ["linear, cosine,", "Did you mean `polynomial`?"]),
        ("training.optim=adamw", ["adamw_torch,"]),
        ("training.report_to=[wandbb]", ["training.report_to", "tensorboard"]),
        ("training.train_sampling_strategy=group_by_length", ["one of random, sequential."]),
        # backbones from scratch
        ("model.backbone={hidden_size: 3}", ["model.backbone.model_type: missing"]),
        ("model.backbone={model_type: dinov3_vitt}", ["model.backbone.model_type", "Did you mean `dinov3_vit`?"]),
        (
            "model.backbone={model_type: dinov3_vit, hiden_size: 3}",
            ["model.backbone.hiden_size: unknown field (given 3). Did you mean model.backbone.hidden_size?"],
        ),
        ("model.backbone={model_type: dinov3_vit, hidden_size: a}", ["model.backbone.hidden_size", "whole number"]),
        ("model.backbone=3", ["model.backbone: 3 is not accepted; write text or a mapping."]),
        # fields that are not the recipe's to choose
        ("training.remove_unused_columns=true", ["true is not possible; it is false, because"]),
        ("training.batch_eval_metrics=false", ["training.batch_eval_metrics", "because"]),
        ("training.label_smoothing_factor=0.1", ["training.label_smoothing_factor", "because"]),
        ("training.resume_from_checkpoint=true", ["training.resume_from_checkpoint", "--resume"]),
        ("training.warmup_ratio=0.1", ["training.warmup_ratio", "warmup_steps"]),
        ("training.max_time=3 hours", ["training.max_time", "no duration", "3.5h"]),
        ("training.stop_within=0s", ["training.stop_within", "no duration"]),
        # sections that contradict themselves or one another
        ("model.num_labels=3", ["model.num_labels: 3", "2 classes", "[255] are void"]),
        ("labels.reduce_zero_label=true", ["labels: `reduce_zero_label: true` makes id 0 void"]),
        ("evaluation={window: 100, stride: 200}", ["evaluation: stride 200 is larger than window 100"]),
        ("data.validation=train", ["data: train and validation are both"]),
        ("data.image=images", ["data: only one of image and mask holds {split}"]),
        ("training.push_to_hub=true", ["hub.repo_id: missing, though training.push_to_hub is true"]),
        ("training.hub_model_id=a/b", ["training.hub_model_id", "contradicts hub.repo_id null"]),
        ("training={output_dir: o, bf16: true, fp16: true}", ["training.bf16, training.fp16: both are true"]),
        ("training={output_dir: o, eval_steps: 200, save_steps: 300}", ["training.save_steps: 300 is no multiple"]),
        (
            "training={output_dir: o, save_strategy: epoch}",
            ["training.save_strategy: epoch beside eval_strategy steps"],
        ),
        (
            "training={output_dir: o, eval_steps: 20.5, save_steps: 41}",
            ["training.eval_steps: 20.5 is no number of steps"],
        ),
        (
            "training={output_dir: o, eval_strategy: no, early_stopping_patience: 2}",
            ["training.early_stopping_patience: counts evaluations, but eval_strategy is no"],
        ),
        ("training.early_stopping_patience=0", ["training.early_stopping_patience", "1"]),
        (
            "training={output_dir: o, lr_scheduler_type: one_cycle, lr_scheduler_kwargs: {max_lr: 1}}",
            ["training.lr_scheduler_kwargs.max_lr: unknown with one_cycle; it takes anneal_strategy, cycle_momentum"],
        ),
        ("model={norm: group, head: eomt}", ["model.norm: group changes nothing, since the eomt head has layer norms"]),
        ("model={norm: group, adapter: pyramid}", ["model.norm: group", "pyramid"]),
        ("training.dataloader_prefetch_factor=2", ["training.dataloader_prefetch_factor: needs workers"]),
        # overrides that are none
        ("training.max_steps", ["training.max_steps: not an override; write section.key=value"]),
        ("labels.ignore=[1", ['labels.ignore: "[1" is not YAML']),
        ("training.output_dir.x=1", ['training.output_dir is "out/retina", not a mapping']),
    ],
)
def test_one_wrong_thing_is_one_line_that_says_what_is_accepted(minimal: Path, override: str, words: list[str]) -> None:
    fault = the_fault(minimal, override)
    for word in words:
        assert word in fault


def test_a_warm_up_in_two_stages_decays_polynomially(minimal: Path) -> None:
    two_stages = ["model.tune=full", "model.backbone_warmup_steps=10"]
    load_recipe(minimal, two_stages)
    fault = the_fault(minimal, *two_stages, "training.lr_scheduler_type=cosine")
    assert "training.lr_scheduler_type: cosine contradicts model.backbone_warmup_steps" in fault


def test_a_missing_section_shows_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {}")
    told = {fault.split(":")[0]: fault for fault in faults_of(path)}
    assert set(told) == {"labels", "data", "training"}
    for fault in told.values():  # the example in the message is itself YAML that means the section
        example = parse_yaml(fault.partition("e.g. ")[2].rstrip("."), "example")
        assert list(example) == [fault.split(":")[0]]


def test_the_num_labels_fault_gives_both_numbers_and_the_reason(minimal: Path) -> None:
    labels = "labels={classes: {1: wall, 2: sky, 3: cloud}, reduce_zero_label: true, merge: {3: 2}, ignore: [255]}"
    fault = the_fault(minimal, labels, "model.num_labels=4")
    for word in ("4 contradicts", "2 classes", "reduce_zero_label", "1 are merged", "[255]"):
        assert word in fault
    assert load_recipe(minimal, [labels, "model.num_labels=2"]).model.num_labels == 2


def test_a_token_is_refused_and_not_shown(minimal: Path) -> None:
    fault = the_fault(minimal, "training.hub_token=hf_secret")
    assert "hf_secret" not in fault and "hf auth login" in fault


def test_a_long_value_is_shortened(minimal: Path) -> None:
    assert len(the_fault(minimal, f"model.num_queries={'x' * 5000}")) < 300


def test_checking_a_recipe_constructs_no_training_arguments(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise AssertionError("the constructor touches devices")

    monkeypatch.setattr(TrainingArguments, "__post_init__", refuse)
    load_recipe(minimal, ["training.bf16=true"])


def test_synthetic_data_has_its_own_fields(minimal: Path) -> None:
    data = load_recipe(minimal, ["data={source: synthetic-retina, size: 64}"]).data
    assert isinstance(data, SyntheticRetinaData) and data.size == 64
    assert "belongs to source folder" in the_fault(minimal, "data={source: synthetic-retina, root: x}")
    assert "data.source: missing; write one of folder, table, hub, parquet" in the_fault(minimal, "data={root: x}")


def test_a_share_of_all_images_needs_no_name_for_them(minimal: Path) -> None:
    data = load_recipe(minimal, ["data.image=photos", "data.mask=labels", "data.validation=0.2"]).data
    assert isinstance(data, FolderData) and data.train is None and data.validation == 0.2
    assert load_recipe(minimal, ["data.validation=0.2"]).data.train == "train"  # type: ignore[union-attr]
    table = load_recipe(minimal, ["data={source: table, file: t.csv, validation: 0.2}"]).data
    assert table.train is None  # type: ignore[union-attr]
    one_of = load_recipe(minimal, ["data={source: table, file: t.csv, split_column: s, validation: 0.2}"]).data
    assert one_of.train == "train"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{source: folder, root: r, validation: 1.5}", ["data.validation: 1.5", "text or a number", "less than 1"]),
        ("{source: folder, root: r, train: null}", ["data: train is null, but there are splits"]),
        ("{source: folder, root: r, image: a, mask: b, train: null}", ["data: train is null and validation", "0.2"]),
        ("{source: table, file: t.csv}", ["data: train is", "nothing divides the rows", "split_column"]),
        ("{source: table, file: '{split}.csv', split_column: s}", ["data: file holds {split} and there is a split"]),
        ("{source: table, root: r}", ["data.file: missing; write the .csv, .tsv or .jsonl file"]),
        (
            "{source: hub, repo_id: a/b, root: r}",
            ["data.root: unknown field", "belongs to source folder, table, parquet"],
        ),
        ("{source: hub, repo_id: a/b, mask_column: image}", ["image_column and mask_column are both"]),
        ("{source: mixture, sources: []}", ["data.sources: [] is not accepted", "not empty"]),
        ("{source: mixture, sources: [{source: folder}]}", ["data.sources.0.root: missing; write the folder"]),
        (
            "{source: mixture, sources: [{source: folder, root: r}, {source: foldr, root: r}]}",
            ['data.sources.1.source: "foldr" is not accepted', "Did you mean `folder`?"],
        ),
        (
            "{source: mixture, sources: [{source: folder, root: r, wieght: 2}]}",
            ["data.sources.0.wieght: unknown field (given 2). Did you mean data.sources.0.weight?"],
        ),
        (
            "{source: mixture, sources: [{source: folder, root: r, weight: 0}]}",
            ["data.sources.0.weight: 0 is not accepted; write a number, more than 0."],
        ),
        (
            "{source: mixture, sources: [{source: folder, root: r, crop_size: 64}]}",
            ["data.sources.0.crop_size: unknown field", "write data.crop_size"],
        ),
    ],
)
def test_wrong_sources_are_told_of_in_place(minimal: Path, data: str, words: list[str]) -> None:
    fault = the_fault(minimal, f"data={data}")
    for word in words:
        assert word in fault, fault


def test_importing_the_recipe_and_reporting_a_broken_file_needs_no_torch(tmp_path: Path) -> None:
    """Only what is imported by the recipe itself counts, so the package's own __init__ is left out."""
    root = Path(__file__).parents[2] / "hf_dinoseg"
    code = (
        "import sys, types; package = types.ModuleType('hf_dinoseg'); "
        f"package.__path__ = [{str(root)!r}]; sys.modules['hf_dinoseg'] = package; "
        "import hf_dinoseg.recipe; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
