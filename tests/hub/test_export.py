"""Exported files answer as the model does, at sizes and batches other than those they were written with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.hub import export as exporting
from hf_dinoseg.hub.export import (
    METADATA_KEY,
    ExportError,
    export_program,
    plan_export,
    quantize_onnx,
    write_onnx,
    write_torch,
)
from hf_dinoseg.hub.export_check import Agreement, check_export, open_onnx, open_torch, refuse_disagreement
from hf_dinoseg.inference import Segmenter
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

SPACE = LabelSpace({7: "sky", 21: "road", 200: "tree"}, reduce_zero_label=True)
VIT: dict[str, Any] = {
    "model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 48, "num_register_tokens": 2,
}  # fmt: skip
CONVNEXT: dict[str, Any] = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
HEAD: dict[str, Any] = {
    "hidden_dim": 32, "num_attention_heads": 2, "adapter_attention_heads": 2, "pixel_decoder_layers": 1,
    "pixel_decoder_ffn_dim": 32, "decoder_layers": 1, "decoder_ffn_dim": 32, "num_queries": 6, "decoder_blocks": 2,
}  # fmt: skip


def make_segmenter(backbone: dict[str, Any] = VIT, **fields: Any) -> Segmenter:
    """Random weights, none at a start where everything is alike."""
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(backbone, **{**HEAD, "label_space": SPACE.to_dict(), **fields})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    return Segmenter(model, DinoSegImageProcessor(label_space=SPACE.to_dict()), SPACE)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape,), dtype=np.uint8)


def expected_of(segmenter: Segmenter, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label maps and winning scores from `Segmenter`, image by image."""
    results = [segmenter(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    return np.stack([r.label_map for r in results]), np.stack([r.scores for r in results])


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"head": "mask2former"}, (50, 70)),
        ({"head": "mask2former", "adapter": "pyramid"}, "dynamic"),
        ({"head": "mask2former", "backbone": CONVNEXT}, (64, 96)),
        ({"head": "eomt"}, "dynamic"),
        ({"head": "pmt"}, "dynamic"),
        ({"head": "linear"}, "dynamic"),
        ({"head": "linear", "backbone": CONVNEXT}, "dynamic"),
    ],
    ids=["mask2former", "pyramid", "convnext", "eomt", "pmt", "linear", "convnext-linear"],
)
def test_a_program_answers_as_segmenter_does_in_original_ids(fields: dict[str, Any], size: Any) -> None:
    segmenter = make_segmenter(**fields)
    captured = export_program(plan_export(segmenter, size))
    called = {str(node.target) for node in captured.graph.nodes if node.op == "call_function"}
    assert not any("embedding_bag" in name for name in called)  # which few runtimes know
    program = captured.module()
    shapes = [size] if size != "dynamic" else [(64, 64), (64, 128)]
    for batch, shape in zip((1, 3), [shapes[0], shapes[-1]], strict=True):
        images = random_images(batch, 3, *shape)
        with torch.no_grad():
            label_map, score = program(torch.from_numpy(images))
        labels, scores = expected_of(segmenter, images)
        assert label_map.dtype == torch.uint8 and set(np.unique(label_map)) <= {7, 21, 200}
        assert np.abs(score.numpy() - scores).max() < 1e-4
        assert (label_map.numpy() == labels).mean() > 0.999


def test_files_carry_what_their_numbers_mean(tmp_path: Path) -> None:
    segmenter = make_segmenter(head="linear")
    segmenter.background_threshold = 0.4
    plan = plan_export(segmenter, (32, 48))
    write_torch(plan, tmp_path / "a.pt2")
    write_onnx(plan, tmp_path / "a.onnx")
    images = random_images(2, 3, 32, 48)
    labels, scores = expected_of(segmenter, images)
    assert (labels == 0).any() and (labels != 0).any()
    for run, description in (open_torch(tmp_path / "a.pt2"), open_onnx(tmp_path / "a.onnx")):
        assert description["original_ids"] == [7, 21, 200] and description["names"] == ["sky", "road", "tree"]
        assert description["void_id"] == 0 and description["background_threshold"] == 0.4
        assert LabelSpace.from_dict(description["label_space"]) == SPACE
        found = run(images)
        assert np.array_equal(found[0], labels) and np.abs(found[1] - scores).max() < 1e-5
    assert all(one.equal_labels == 1 for one in check_export(plan, tmp_path / "a.onnx", "onnx"))


def test_onnx_runs_a_head_of_queries_and_int8_says_what_it_costs(tmp_path: Path) -> None:
    segmenter = make_segmenter(adapter="pyramid")
    plan = plan_export(segmenter, (64, 64), preprocess=False, output_kind="scores")
    write_onnx(plan, tmp_path / "full.onnx")
    quantize_onnx(tmp_path / "full.onnx", tmp_path / "int8.onnx")
    full = check_export(plan, tmp_path / "full.onnx", "onnx")
    int8 = check_export(plan, tmp_path / "int8.onnx", "onnx")
    assert all(one.max_score_difference < 1e-3 and one.equal_labels > 0.999 for one in full)
    assert int8[0].max_score_difference > 10 * full[0].max_score_difference
    run, description = open_onnx(tmp_path / "int8.onnx")
    assert description["int8"] and description["input"] == "pixel_values" and description["outputs"] == ["scores"]
    assert run(np.zeros((1, 3, 64, 64), dtype=np.float32))[0].shape == (1, 3, 64, 64)


def test_a_file_of_another_model_is_found_out(tmp_path: Path) -> None:
    other = make_segmenter(head="linear")
    with torch.no_grad():
        other.model.head.classify.bias.roll(1)  # another answer at some pixels
        other.model.head.classify.weight.mul_(-1)
    write_torch(plan_export(other, (32, 32)), tmp_path / "a.pt2")
    found = check_export(plan_export(make_segmenter(head="linear"), (32, 32)), tmp_path / "a.pt2", "torch")
    with pytest.raises(ExportError, match="does not answer as the model does: on random noise"):
        refuse_disagreement(found, int8=False)


@pytest.mark.parametrize(
    ("figures", "int8", "refused"),
    [
        ((1e-5, 1.0), False, False),
        ((1e-2, 1.0), False, True),
        ((1e-5, 0.99), False, True),
        ((float("nan"), 1.0), False, True),
        ((0.2, 0.95), True, False),
        ((0.2, 0.85), True, True),
    ],
)
def test_limits(figures: tuple[float, float], int8: bool, refused: bool) -> None:
    found = [Agreement("drawn images", 1, *figures)]
    if refused:
        with pytest.raises(ExportError):
            refuse_disagreement(found, int8)
    else:
        refuse_disagreement(found, int8)


# ---------------------------------------------------------------------- the verb


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    segmenter = make_segmenter(head="linear")
    segmenter.model.config.inference = {"mode": "slide", "window": 48, "stride": 32}
    segmenter.model.save_pretrained(folder)
    segmenter.processor.save_pretrained(folder)
    return folder


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_verb_writes_checks_and_reports(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(random_images(60, 80, 3)).save(tmp_path / "photo.png")
    target = tmp_path / "deep" / "m.pt2"
    options = ["--format", "torch", "-o", target, "--images", tmp_path / "photo.png"]
    result = run(checkpoint, *options, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["size"] == [48, 48]  # the window of its evaluation
    assert [one["images"] for one in report["check"]] == ["random noise", "given images"]
    assert all(one["equal_labels"] > 0.999 and one["max_score_difference"] < 1e-4 for one in report["check"])
    assert report["bytes"] == target.stat().st_size
    extra: dict[str, Any] = {METADATA_KEY: ""}
    torch.export.load(target, extra_files=extra)
    assert json.loads(extra[METADATA_KEY])["names"] == ["sky", "road", "tree"]
    assert run(checkpoint, *options).exit_code == 2 and "--overwrite" in run(checkpoint, *options).stderr


def test_a_check_that_fails_is_exit_1(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting.write_torch

    def write_another(plan: Any, path: Path) -> None:
        with torch.no_grad():
            plan.graph.model.head.classify.weight.mul_(-1)
            write(plan, path)
            plan.graph.model.head.classify.weight.mul_(-1)

    monkeypatch.setattr(exporting, "write_torch", write_another)
    result = run(checkpoint, "--format", "torch", "-o", tmp_path / "m.pt2")
    assert result.exit_code == 1 and "does not answer as the model does" in result.stderr
    assert "equal labels" in result.stdout  # the figures are shown all the same


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-o", "m.pt2"], "*.onnx"),
        (["--format", "torch", "-o", "m.onnx"], "*.pt2"),
        (["--format", "torch", "-o", "m.pt2", "--int8"], "onnx only"),
        (["-o", "m.onnx", "--size", "0"], "no size"),
        (["-o", "m.onnx", "--size", "12x"], "no size"),
        (["-o", "m.onnx", "--images", "none.jpg"], "none.jpg"),
    ],
)
def test_wrong_usage_is_told_before_any_work(checkpoint: Path, options: list[str], told: str) -> None:
    result = run(checkpoint, *options)
    assert result.exit_code == 2 and told in " ".join(result.stderr.split()).replace("│ ", ""), result.stderr


def test_missing_packages_are_named_with_their_cure(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_ONNX_PACKAGES", ("onnx", "no_such_package"))
    result = run(checkpoint, "-o", tmp_path / "m.onnx")
    assert result.exit_code == 1 and "no_such_package" in result.stderr
    assert "pip install onnx onnxscript onnxruntime" in result.stderr and not (tmp_path / "m.onnx").exists()


def test_the_command_line_starts_without_what_only_these_verbs_need() -> None:
    code = "import hf_dinoseg.cli, sys; print({'gradio', 'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
