"""What a recipe asks of the computer: where it lacks, a training says so in one message, and an evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hf_dinoseg import builders, load_recipe
from hf_dinoseg.cli import app
from hf_dinoseg.errors import RunError
from hf_dinoseg.recipe import Recipe
from hf_dinoseg.run import evaluate, train

Write = Callable[[Path], Path]

FOR_TRAINING_ONLY = [
    "bf16=true",
    "fp16=true",
    "tf32=true",
    "optim=adamw_bnb_8bit",
    "optim=adamw_torch_fused",
    "torch_compile=true",
    "deepspeed=nowhere.json",
    "fsdp=full_shard",
    "gradient_checkpointing=true",
    "report_to=all",
    "dataloader_pin_memory=true",
    "lr_scheduler_type=reduce_lr_on_plateau",
    "accelerator_config={split_batches: true, gradient_accumulation_kwargs: {num_steps: 3}}",
    "use_liger_kernel=true",
    "neftune_noise_alpha=0.1",
    "full_determinism=true",
    "ddp_backend=nccl",
    "push_to_hub=true",
    "load_best_model_at_end=false",
    "early_stopping_patience=2",
]


@pytest.fixture(autouse=True)
def no_word_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


def on_its_own(recipe: Recipe, entries: list[str]) -> Recipe:
    """The recipe with entries of `training`, and without `use_cpu`."""
    from hf_dinoseg.recipe.yaml_format import apply_overrides

    data = recipe.to_dict()
    del data["training"]["use_cpu"]
    data["hub"]["repo_id"] = "me/it"
    assert apply_overrides(data, [f"training.{entry}" for entry in entries]) == []
    return Recipe.from_dict(data)


@pytest.mark.parametrize("entry", FOR_TRAINING_ONLY)
def test_what_is_for_training_only_stays_out_of_an_evaluation(
    entry: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(tiny_run / "recipe.yaml")
    args = builders.build_evaluation_arguments(on_its_own(recipe, [entry]), str(tmp_path))
    plain = builders.build_evaluation_arguments(on_its_own(recipe, []), str(tmp_path))
    assert args.to_dict() == plain.to_dict()


def test_the_figures_are_those_of_the_run_whatever_training_asks_for(tiny_run: Path) -> None:
    recipe = load_recipe(tiny_run / "recipe.yaml")
    entries = [entry for entry in FOR_TRAINING_ONLY if entry not in ("bf16=true", "optim=adamw_torch_fused")]
    metrics = evaluate(str(tiny_run), on_its_own(recipe, entries))
    stored = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["mean_iou"] == stored["mean_iou"] and metrics["per_category_iou"] == stored["per_category_iou"]


def test_where_an_evaluation_runs_is_heeded(tiny_run: Path, tmp_path: Path) -> None:
    entries = ["use_cpu=true", "per_device_eval_batch_size=3", "dataloader_num_workers=2", "seed=7"]
    args = builders.build_evaluation_arguments(
        on_its_own(load_recipe(tiny_run / "recipe.yaml"), entries), str(tmp_path)
    )
    assert (args.use_cpu, args.per_device_eval_batch_size, args.dataloader_num_workers, args.seed) == (True, 3, 2, 7)
    assert args.batch_eval_metrics and not args.remove_unused_columns and args.report_to == []


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about computers without an accelerator")
class TestWithoutAnAccelerator:
    def recipe(self, folder: Path, write: Write, *entries: str) -> Recipe:
        return on_its_own(load_recipe(write(folder)), list(entries))

    def test_training_in_bfloat16_needs_no_more_than_being_asked_for(
        self, tmp_path: Path, write_tiny_recipe: Write
    ) -> None:
        recipe = self.recipe(tmp_path, write_tiny_recipe, "bf16=true", "max_steps=2")
        metrics = train(recipe)
        assert metrics["step"] == 2
        stored = load_recipe(tmp_path / "run" / "recipe.yaml")
        assert stored.training["bf16"] and not stored.training.get("use_cpu")  # no word of this computer travels
        assert evaluate(str(tmp_path / "run"))["mean_iou"] == metrics["mean_iou"]

    def test_a_processor_without_bfloat16_is_one_message(
        self, tmp_path: Path, write_tiny_recipe: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(builders, "is_torch_bf16_available_on_device", lambda device: device != "cpu")
        with pytest.raises(RunError, match=r"^training\.bf16:.*training\.bf16=false"):
            train(self.recipe(tmp_path, write_tiny_recipe, "bf16=true"))

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ("fp16=true", ["training.fp16:", "training.fp16=false"]),
            ("tf32=true", ["training.tf32:", "Ampere"]),
            ("deepspeed=nowhere.json", ["training.deepspeed:"]),
            ("accelerator_config={unheard_of: 1}", ["training", "unheard_of"]),
            ("debug=nonsense", ["training", "nonsense"]),
        ],
    )
    def test_what_it_does_not_have_is_one_message(
        self, entry: str, words: list[str], tmp_path: Path, write_tiny_recipe: Write
    ) -> None:
        path = tmp_path / "own.yaml"
        path.write_text(self.recipe(tmp_path, write_tiny_recipe, entry).to_yaml(), encoding="utf-8")
        result = CliRunner().invoke(app, ["train", str(path), "hub.repo_id="])
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.stderr and result.stderr.count("dinoseg: ") == 1
        assert all(word in result.stderr for word in words), result.stderr
        assert not (tmp_path / "run").exists()
