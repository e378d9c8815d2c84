"""A checkpoint that knows no background is given a threshold, and everything that predicts uses it."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from typer.testing import CliRunner

from hf_dinoseg import Segmenter, load_recipe
from hf_dinoseg.build import evaluate, train
from hf_dinoseg.calibrate import calibrate
from hf_dinoseg.cli import app
from hf_dinoseg.errors import RunError
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.objects import build_data

LABELS = "labels={classes: {1: artery, 2: vein, 3: disc}, reduce_zero_label: true, ignore: [255]}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, write_tiny_recipe):
    folder = tmp_path_factory.mktemp("calibrated")
    train(load_recipe(write_tiny_recipe(folder), [LABELS]))
    before = json.loads((folder / "run" / "metrics.json").read_text())
    assert before["background"]["policy"] == "none" and before["background"]["id0_iou"] == 0
    assert before["background"]["mean_iou"] == before["mean_iou"]
    done = CliRunner().invoke(app, ["calibrate", str(folder / "run"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return folder / "run", before, json.loads(done.stdout)


def pictures(folder):
    for row in build_data(load_recipe(folder / "recipe.yaml"))["validation"]:
        yield read_image(row["image"]), read_mask(row["mask"], "index")


def id0_iou(segmenter, threshold):
    both = either = silenced = classes = 0
    for image, mask in pictures(segmenter.folder):
        result = segmenter(image)
        silent = result.scores < threshold
        both += np.sum(silent & (mask == 0))
        either += np.sum((silent | (mask == 0)) & (mask != 255))
        labelled = (mask > 0) & (mask < 255)
        silenced, classes = silenced + np.sum(silent & labelled), classes + np.sum(labelled)
    return both / either if silenced <= classes / 2 else 0  # half of the classes' pixels keep a class


def test_the_stored_threshold_is_the_best_and_its_figure_that_of_label_maps_counted_by_hand(checkpoint):
    folder, _, result = checkpoint
    assert json.loads((folder / "calibration.json").read_text()) == result
    segmenter = Segmenter.from_pretrained(folder)
    segmenter.folder = folder
    threshold = result["threshold"]
    assert segmenter.background_threshold == threshold and result["policy"] == "threshold"
    both = either = 0
    for image, mask in pictures(folder):
        predicted = segmenter(image).label_map
        both += np.sum((predicted == 0) & (mask == 0))
        either += np.sum(((predicted == 0) | (mask == 0)) & (mask != 255))
    assert result["id0_iou"] == pytest.approx(both / either, abs=1e-4)
    for other in (threshold - 0.05, threshold - 0.005, threshold + 0.005, threshold + 0.05):
        assert id0_iou(segmenter, other) <= result["id0_iou"] + 1e-4


def test_metrics_are_reported_with_and_without_and_evaluate_repeats_them(checkpoint, tmp_path):
    folder, before, result = checkpoint
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["background"] == {key: value for key, value in result.items() if key in metrics["background"]}
    assert metrics["step"] == before["step"] and metrics["mean_iou"] == result["mean_iou"]
    assert result["without"]["mean_iou"] == pytest.approx(before["mean_iou"])
    again = evaluate(str(folder), output=str(tmp_path))
    assert again["background"]["id0_iou"] == result["id0_iou"] and again["background"]["policy"] == "threshold"
    without = evaluate(str(folder), load_recipe(folder / "recipe.yaml", ["evaluation.background=none"]))
    assert without["background"]["policy"] == "none"
    assert without["mean_iou"] == pytest.approx(before["mean_iou"])


def test_post_processing_and_segmenter_use_it_unless_told_otherwise(checkpoint):
    folder, _, result = checkpoint
    assert AutoImageProcessor.from_pretrained(folder).background_threshold == result["threshold"]
    image, _ = next(pictures(folder))
    everywhere = Segmenter.from_pretrained(folder, background="none")(image)
    told = Segmenter.from_pretrained(folder)(image)
    assert 0 not in everywhere.label_map
    assert np.array_equal(told.label_map, np.where(told.scores < result["threshold"], 0, everywhere.label_map))


def test_the_curve_is_a_picture(checkpoint):
    with Image.open(checkpoint[0] / "calibration.png") as curve:
        assert min(curve.size) > 300


def test_where_there_is_nothing_to_calibrate_it_says_why(tiny_run, tmp_path):
    recipe = load_recipe(tiny_run / "recipe.yaml")
    with pytest.raises(RunError, match="id 0 is the class 'background'"):
        calibrate(str(tiny_run), recipe)
    with pytest.raises(RunError, match="is no folder"):
        calibrate(str(tmp_path / "nowhere"), recipe)
