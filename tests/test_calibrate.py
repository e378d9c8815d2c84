"""What a threshold would do to a checkpoint that knows no background; the checkpoint never gets worse unasked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from typer.testing import CliRunner, Result

from hf_dinoseg import Segmenter, load_recipe
from hf_dinoseg import calibrate as calibration
from hf_dinoseg.builders import build_data
from hf_dinoseg.cli import app
from hf_dinoseg.errors import RunError
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.training.manifest import Manifest

LABELS = "labels={classes: {1: artery, 2: vein, 3: disc}, reduce_zero_label: true, ignore: [255]}"
AS_CLASS = ("--by", "mean_iou_id0_as_class")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_tiny_recipe) -> Path:
    """A run to which label 0 is void; leave it as it is."""
    folder = tmp_path_factory.mktemp("calibrated")
    train(load_recipe(write_tiny_recipe(folder), [LABELS]))
    return folder / "run"


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory) -> Path:
    """The run with the threshold that is best with 0 as a class; leave it as it is."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("written") / "run"))
    done = run("calibrate", folder, "--write", *AS_CLASS)
    assert done.exit_code == 0, done.stderr
    return folder


def run(*arguments) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def images(folder):
    for row in build_data(load_recipe(folder / "recipe.yaml"))["validation"]:
        yield read_image(row["image"]), read_mask(row["mask"], "index")


def counted_by_hand(folder, threshold):
    """The three figures from label maps and masks."""
    both, answered, true, answered_known = np.zeros((4, 4))
    segmenter = Segmenter.from_pretrained(folder, background="none")
    for image, mask in images(folder):
        result = segmenter(image)
        ids = np.where(result.scores < np.float32(threshold or 0), 0, result.label_map)
        for i in range(4):
            both[i] += np.sum((ids == i) & (mask == i))
            answered[i] += np.sum((ids == i) & (mask != 255))
            answered_known[i] += np.sum((ids == i) & (mask != 255) & (mask != 0))
            true[i] += np.sum(mask == i)

    def iou(answers):
        union = true + answers - both
        return np.where(union > 0, both / np.maximum(union, 1), np.nan)

    everything = iou(answered)
    return {
        "id0_iou": everything[0],
        "mean_iou_id0_as_class": np.nanmean(everything),
        "mean_iou": np.nanmean(iou(answered_known)[1:]),
    }


def test_it_measures_and_writes_nothing_into_the_checkpoint(checkpoint, tmp_path):
    before = hashes(checkpoint)
    done = run("calibrate", checkpoint, "--json", "-o", tmp_path / "looked_at")
    assert done.exit_code == 0, done.stderr
    assert hashes(checkpoint) == before
    found = json.loads(done.stdout)
    assert {**read(tmp_path / "looked_at" / "calibration.json"), "kept": None} == found
    with Image.open(tmp_path / "looked_at" / "calibration.png") as curves:
        assert min(curves.size) > 300
    assert [row["threshold"] for row in found["table"]][0] is None and len(found["table"]) > 3
    for row in found["table"]:
        expected = counted_by_hand(checkpoint, row["threshold"])
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    stored = read(checkpoint / "metrics.json")
    assert found["table"][0]["mean_iou"] == pytest.approx(stored["mean_iou"])
    best = max(found["table"], key=lambda row: row["threshold"] == found["best"])
    assert found["chosen"] == found["best"] == best["threshold"] and found["current"] is None

    told = run("calibrate", checkpoint)
    assert told.exit_code == 0 and hashes(checkpoint) == before
    assert f"{found['best']:.3f}" in told.stdout and "--write" in told.stdout and "--output" in told.stdout


def test_a_threshold_that_costs_what_the_checkpoint_is_judged_by_is_refused(checkpoint):
    before = hashes(checkpoint)
    done = run("calibrate", checkpoint, "--write", "--json")
    assert done.exit_code == 1 and hashes(checkpoint) == before
    found = json.loads(done.stdout)
    none, chosen = (
        next(row for row in found["table"] if row["threshold"] == threshold) for threshold in (None, found["chosen"])
    )
    assert found["kept"] is None and chosen["mean_iou"] < none["mean_iou"]
    for row in (none, chosen):
        assert f"{100 * row['mean_iou']:.2f}" in done.stderr
    assert "mean IoU" in done.stderr and AS_CLASS[1] in done.stderr


def test_judged_by_the_other_view_a_threshold_can_be_refused_too(checkpoint):
    before = hashes(checkpoint)
    assert run("calibrate", checkpoint, "--write", "--threshold", 0.448, *AS_CLASS).exit_code == 0
    assert run("calibrate", checkpoint, "--write", "--background", "none", *AS_CLASS).exit_code == 1
    assert run("calibrate", checkpoint, "--write", "--background", "none").exit_code == 0  # mean IoU gets better
    assert read(checkpoint / "config.json").get("background_threshold") is None
    assert read(checkpoint / "metrics.json")["background"]["policy"] == "none"
    assert run("calibrate", checkpoint, "--undo").exit_code == run("calibrate", checkpoint, "--undo").exit_code == 0
    assert hashes(checkpoint) == before
    told = run("calibrate", checkpoint, "--undo")
    assert told.exit_code == 1 and "nothing to put back" in told.stderr


def card_figures(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    headline = float(re.search(r"^\| mean IoU \| ([\d.]+)", text, flags=re.MULTILINE)[1])
    [in_metadata] = re.findall(r"type: mean_iou\n\s+value: ([\d.e-]+)", text)
    return text, headline, float(in_metadata)


def test_what_is_written_is_true_of_the_checkpoint_as_it_is(trained, written, tmp_path):
    before, metrics = read(trained / "metrics.json"), read(written / "metrics.json")
    threshold = read(written / "config.json")["background_threshold"]
    assert threshold == read(written / "preprocessor_config.json")["background_threshold"] > 0
    again = evaluate(str(written), output=str(tmp_path))
    same = {"versions", "seconds_per_image", "inference"} ^ again.keys()
    assert {k: metrics[k] for k in same} == {k: read(tmp_path / "metrics.json")[k] for k in same}
    assert metrics["background"]["policy"] == "threshold" and metrics["background"]["threshold"] == threshold
    assert metrics["step"] == before["step"] and metrics["hardware"] == before["hardware"]
    text, headline, in_metadata = card_figures(written)
    assert headline == pytest.approx(100 * again["mean_iou"], abs=5e-3) != 100 * before["mean_iou"]
    assert in_metadata == pytest.approx(again["mean_iou"], abs=1e-6)
    assert f"below {threshold} are answered as 0" in text
    for name in ("per_class.csv", "per_image.csv"):
        assert (written / name).read_bytes() == (tmp_path / name).read_bytes()
    assert (written / "curves.png").read_bytes() == (trained / "curves.png").read_bytes()
    old = {name for name in hashes(trained) if (trained / name).read_bytes() != (written / name).read_bytes()}
    assert {"config.json", "preprocessor_config.json", "metrics.json", "README.md"} < old
    assert old - {"manifest.json"} <= {name for name in hashes(written / "calibration" / "before-1")}
    assert any(name.startswith("panels") for name in old) and not any("safetensors" in name for name in old)


def test_all_that_predicts_uses_it_unless_told_otherwise(written):
    threshold = read(written / "config.json")["background_threshold"]
    assert AutoImageProcessor.from_pretrained(written).background_threshold == threshold
    image, _ = next(images(written))
    everywhere = Segmenter.from_pretrained(written, background="none")(image)
    told = Segmenter.from_pretrained(written)(image)
    assert 0 not in everywhere.label_map
    assert np.array_equal(told.label_map, np.where(told.scores < threshold, 0, everywhere.label_map))


def test_what_was_there_comes_back(checkpoint):
    before = hashes(checkpoint)
    done = run("calibrate", checkpoint, "--write", *AS_CLASS)
    assert done.exit_code == 0 and "--undo" in done.stdout and "before-1" in done.stdout
    assert hashes(checkpoint) != before
    done = run("calibrate", checkpoint, "--undo")
    assert done.exit_code == 0 and "README.md" in done.stdout
    assert hashes(checkpoint) == before


def test_what_is_kept_is_the_run_s_own(checkpoint):
    assert run("calibrate", checkpoint, "--write", *AS_CLASS).exit_code == 0
    manifest = Manifest.load(checkpoint)
    # so --overwrite takes the folder, and push the model
    assert manifest.strangers() == [] and manifest.changed() == []


def test_what_changed_since_is_not_replaced(written, tmp_path):
    folder = Path(shutil.copytree(written, tmp_path / "run"))
    (folder / "config.json").write_text("{}")
    before = hashes(folder)
    done = run("calibrate", folder, "--undo")
    assert done.exit_code == 1 and "config.json" in done.stderr and hashes(folder) == before


@pytest.mark.parametrize("at", [1, 3, "last"])
def test_a_disk_that_fails_in_the_middle_leaves_the_checkpoint_as_it_was(checkpoint, monkeypatch, at):
    before, real, seen = hashes(checkpoint), os.replace, []

    def failing(source, target):
        seen.append(Path(target))
        wanted = Path(target).name == "per_image.csv" if at == "last" else len(seen) == at
        if wanted and failing.armed:
            failing.armed = False
            raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    failing.armed = True
    monkeypatch.setattr("hf_dinoseg.hub.replace_files.os.replace", failing)
    done = run("calibrate", checkpoint, "--write", *AS_CLASS)
    assert done.exit_code == 1 and "No space left" in done.stderr and not failing.armed
    assert hashes(checkpoint) == before


def test_an_evaluation_that_fails_or_finds_less_than_the_curve_leaves_it_as_it_was(checkpoint, monkeypatch):
    before, real = hashes(checkpoint), calibration.evaluate

    def worse(*arguments):
        metrics = real(*arguments)
        return {**metrics, "background": {**metrics["background"], AS_CLASS[1]: 0.0}}

    monkeypatch.setattr(calibration, "evaluate", worse)
    done = run("calibrate", checkpoint, "--write", *AS_CLASS)
    assert done.exit_code == 1 and "to 0.00" in done.stderr and hashes(checkpoint) == before

    def broken(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(calibration, "evaluate", broken)
    assert run("calibrate", checkpoint, "--write", *AS_CLASS).exit_code == 1 and hashes(checkpoint) == before


def test_figures_of_other_images_never_replace_those_that_are_published(checkpoint):
    before = hashes(checkpoint)
    done = run("calibrate", checkpoint, "data.num_validation=2", "--write", *AS_CLASS)
    assert done.exit_code == 1 and "3 images" in done.stderr and "2 images" in done.stderr
    assert hashes(checkpoint) == before
    (checkpoint / "recipe.yaml").rename(checkpoint.parent / "recipe.yaml")
    before = hashes(checkpoint)
    done = run("calibrate", checkpoint, checkpoint.parent / "recipe.yaml", "--write", *AS_CLASS)
    assert done.exit_code == 1 and "recipe.yaml" in done.stderr and hashes(checkpoint) == before
    for name in ("metrics.json", "README.md"):  # then there is nothing that could become untrue
        (checkpoint / name).unlink()
    done = run("calibrate", checkpoint, checkpoint.parent / "recipe.yaml", "--write", *AS_CLASS)
    assert done.exit_code == 0, done.stderr
    assert read(checkpoint / "config.json")["background_threshold"] > 0


def test_a_recipe_with_a_policy_of_its_own_says_the_new_one(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "recipe.yaml").write_text(
        load_recipe(folder / "recipe.yaml", ["evaluation.background=none"]).to_yaml(), encoding="utf-8"
    )
    assert run("calibrate", folder, "--write", *AS_CLASS).exit_code == 0
    stored = read(folder / "metrics.json")
    assert evaluate(str(folder))["mean_iou"] == stored["mean_iou"] and stored["background"]["policy"] == "threshold"


def test_evaluate_tries_a_choice_without_writing(trained, written):
    before = hashes(written)

    def measured(folder, *options):
        done = run("evaluate", folder, "--json", *options)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    none, with_it = read(trained / "metrics.json")["mean_iou"], read(written / "metrics.json")["mean_iou"]
    assert none != with_it
    threshold = read(written / "config.json")["background_threshold"]
    assert measured(written)["mean_iou"] == with_it
    assert measured(written, "--background", "none")["mean_iou"] == none
    truth = measured(written, "--background", "truth")
    assert truth["mean_iou"] == none and truth["background"]["policy"] == "truth"
    assert measured(trained, "--threshold", threshold)["mean_iou"] == with_it
    asked = measured(written, "evaluation.background=none", "--background", "threshold", "--threshold", threshold)
    assert asked["mean_iou"] == with_it
    own = measured(written, "evaluation.background_threshold=0.9", "--background", "none")
    assert own["mean_iou"] == none  # the option wins over the field that it makes useless
    assert hashes(written) == before


def test_predict_tries_a_choice_without_writing(trained, written, tmp_path):
    before = hashes(written)
    image, _ = next(images(written))
    image.save(tmp_path / "a.png")
    result = Segmenter.from_pretrained(written, background="none")(image)

    def predicted(folder, name, *options):
        done = run("predict", folder, tmp_path / "a.png", "-o", tmp_path / name, "--no-overlay", *options)
        assert done.exit_code == 0, done.stderr
        return np.asarray(Image.open(tmp_path / name / "a.png"))

    assert np.array_equal(predicted(written, "none", "--background", "none"), result.label_map)
    middle = float(np.median(result.scores))
    silent = np.where(result.scores < np.float32(middle), 0, result.label_map)
    assert np.array_equal(predicted(written, "other", "--threshold", middle), silent)
    assert np.array_equal(predicted(trained, "own", "--background", "threshold", "--threshold", middle), silent)
    assert hashes(written) == before
    missing = run("predict", trained, tmp_path / "a.png", "-o", tmp_path / "x", "--background", "threshold")
    assert missing.exit_code == 1 and "calibrate" in missing.stderr and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--background", "none", "--threshold", "0.3"),
        ("--threshold", "0"),
        ("--threshold", "nan"),
        ("--background", "x"),
    ],
)
@pytest.mark.parametrize("verb", ["predict", "evaluate", "calibrate"])
def test_choices_that_contradict_one_another_are_wrong_usage(trained, tmp_path, verb, options):
    more = (tmp_path / "a.png", "-o", tmp_path / "out") if verb == "predict" else ()
    done = run(verb, trained, *more, *options)
    assert done.exit_code == 2 and "--background" in done.stderr


def test_where_there_is_nothing_to_calibrate_it_says_why(tiny_run, trained, tmp_path):
    with pytest.raises(RunError, match="id 0 is the class 'background'"):
        calibration.calibrate(str(tiny_run), load_recipe(tiny_run / "recipe.yaml"))
    recipe = load_recipe(trained / "recipe.yaml")
    found = calibration.calibrate(str(trained), recipe, calibration.Background("none"))
    with pytest.raises(RunError, match="is no folder"):
        calibration.write("someone/checkpoint", recipe, found)
    with pytest.raises(RunError, match="Nothing was written"):  # it has no threshold already
        calibration.write(str(trained), recipe, found)
    assert run("calibrate", trained, "--undo", "--write").exit_code == 2
