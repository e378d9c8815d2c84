"""A whole run on generated images, from recipe to checkpoint folder."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dinoseg import LabelSpace, Segmenter, load_recipe
from hf_dinoseg.builders import build_criterion, build_data, build_train_dataset
from hf_dinoseg.data.label_maps import read_label_map
from hf_dinoseg.errors import RecipeError, RunError
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.run import evaluate, train


@pytest.fixture
def run(tiny_run):
    """(folder of a finished run, what it measured)."""
    return tiny_run, json.loads((tiny_run / "metrics.json").read_text())


def _truths(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    for row in build_data(recipe)["validation"]:
        yield row["id"], read_image(row["image"]), read_mask(row["mask"], "index")


def test_the_output_folder_is_a_checkpoint_folder_with_nothing_pickled_in_it(run):
    folder, metrics = run
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "recipe.yaml"):
        assert (folder / name).is_file(), name
    assert (folder / "modeling_dinoseg.py").is_file()
    assert len(list((folder / "panels" / "final").glob("*.png"))) == 2
    assert {p.name for p in (folder / "panels").iterdir()} == {"step-000002", "step-000004", "final"}
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt*")) + list(folder.glob("*.pkl"))
    assert metrics["num_images"] == 3 and metrics["step"] in (2, 4)
    assert load_recipe(folder / "recipe.yaml").training["max_steps"] == 4


def test_reported_iou_is_that_of_segmenter_label_maps_against_the_masks_on_disk(run):
    """The deployment path, in original ids, counted here by hand, gives the figure that training reported."""
    folder, metrics = run
    segmenter = Segmenter.from_pretrained(folder)
    inter, union = np.zeros(4), np.zeros(4)
    for _, image, mask in _truths(folder):
        predicted = segmenter(image).label_map
        for c in range(4):
            inter[c] += np.sum((predicted == c) & (mask == c))
            union[c] += np.sum((predicted == c) | (mask == c))
    assert metrics["mean_iou"] == pytest.approx(np.mean(inter[union > 0] / union[union > 0]), abs=1e-9)
    assert metrics["num_images"] == 3


def test_evaluate_on_the_checkpoint_repeats_the_figure(run, tmp_path):
    folder, metrics = run
    again = evaluate(str(folder), output=str(tmp_path / "report"))
    assert again["mean_iou"] == metrics["mean_iou"]
    assert again["per_category_iou"] == pytest.approx(metrics["per_category_iou"], nan_ok=True)
    assert len(list((tmp_path / "report" / "panels").glob("*.png"))) == 2
    names = {"metrics.json", "per_class.csv", "per_image.csv", "confusion.png", "panels", "report.html"}
    assert {p.name for p in (tmp_path / "report").iterdir()} == names
    assert names - {"panels"} | {"curves.png"} <= {p.name for p in folder.iterdir()}  # training leaves them too
    with (tmp_path / "report" / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["background", "artery", "vein", "disc"]
    assert float(rows[0]["iou"]) == pytest.approx(metrics["per_category_iou"]["0 background"], abs=1e-6)
    with (tmp_path / "report" / "per_image.csv").open(newline="") as file:
        scores = [float(row["mean_iou"]) for row in csv.DictReader(file)]
    assert scores == sorted(scores) and len(scores) == 3
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<article") == 3 and f"{100 * metrics['mean_iou']:.1f} %" in page


def test_evaluate_without_an_output_folder_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in run[0].rglob("*")}
    evaluate(str(run[0].resolve()))
    assert list(tmp_path.iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in run[0].rglob("*")} == before


def test_evaluate_refuses_labels_that_mean_something_else(run, tmp_path):
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", ["labels.classes={0: background, 1: artery, 2: vein, 4: disc}"])
    with pytest.raises(RunError, match="answers in the ids"):
        evaluate(str(folder), recipe)


def test_evaluate_refuses_names_that_changed_places_and_tells_of_other_names(run, caplog):
    folder, metrics = run
    classes = "labels.classes={{0: background, 1: {}, 2: {}, 3: disc}}"
    with pytest.raises(RunError, match=r"1 is 'vein' in the recipe and 'artery' in the checkpoint; 2 is 'artery'"):
        evaluate(str(folder), load_recipe(folder / "recipe.yaml", [classes.format("vein", "artery")]))
    again = evaluate(str(folder), load_recipe(folder / "recipe.yaml", [classes.format("arteriole", "vein")]))
    assert again["mean_iou"] == metrics["mean_iou"]
    assert "1 is 'arteriole' in the recipe and 'artery' in the checkpoint" in caplog.text


def test_a_second_run_into_the_folder_is_refused_before_anything_is_touched(run):
    folder, _ = run
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(RunError, match="already holds a run"):
        train(load_recipe(folder / "recipe.yaml"))
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_overwrite_with_missing_data_keeps_the_finished_run(run, tmp_path):
    folder, _ = run
    broken = load_recipe(folder / "recipe.yaml", [f"data={{source: folder, root: {tmp_path / 'nowhere'}}}"])
    with pytest.raises(ValueError, match="nowhere"):
        train(broken, overwrite=True)
    assert (folder / "model.safetensors").is_file()


def test_resume_refuses_another_model_or_other_labels(run):
    folder, _ = run
    with pytest.raises(RunError, match=r"model\.num_queries: the run has 8, .*9"):
        train(load_recipe(folder / "recipe.yaml", ["model.num_queries=9"]), resume=True)


def test_original_ids_come_back_where_zero_is_void(tmp_path, write_tiny_recipe):
    """ADE20K's rule end to end: 0 is void, ids 1..3 are learned as 0..2 and answered as 1..3."""
    recipe = load_recipe(
        write_tiny_recipe(tmp_path),
        ["labels={classes: {1: artery, 2: vein, 3: disc}, reduce_zero_label: true, ignore: [255]}"],
    )
    metrics = train(recipe)
    assert [key.split()[0] for key in metrics["per_category_iou"]] == ["1", "2", "3"]
    segmenter = Segmenter.from_pretrained(tmp_path / "run")
    assert segmenter.model.config.id2label == {0: "artery", 1: "vein", 2: "disc"}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50, 3), dtype=np.uint8))
    label_map = segmenter(image).label_map
    assert label_map.shape == (70, 50) and set(np.unique(label_map)) <= {1, 2, 3}
    # an untrained answer would pass the above too, so: the confusion matrix counts no void pixel
    space = LabelSpace.from_dict(segmenter.model.config.label_space)
    labelled = sum(int((mask > 0).sum()) for _, _, mask in _truths(tmp_path / "run"))
    from hf_dinoseg.builders import build_processor
    from hf_dinoseg.data import EvalDataset
    from hf_dinoseg.evaluation import ConfusionMatrix
    from hf_dinoseg.inference import predict_best

    matrix = ConfusionMatrix(space.num_labels, space.ignore_index)
    for item in EvalDataset(build_data(recipe)["validation"], build_processor(recipe)):
        size = tuple(item["labels"].shape)
        with torch.no_grad():
            predicted = predict_best(segmenter.model, item["pixel_values"][None], size)[0][0]
        matrix.update(predicted, item["labels"])
    assert int(matrix.matrix.sum()) == labelled


def test_auto_classes_and_pipeline_load_the_folder_without_a_question(run, monkeypatch, tmp_path):
    """With the package installed nobody is asked to trust the code beside the weights, which is the same code."""
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    folder, _ = run
    segmenter = Segmenter.from_pretrained(folder, mode="whole")
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")

    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(model) is type(segmenter.model) and type(processor) is type(segmenter.processor)
    answers = pipeline("image-segmentation", model=str(folder))(str(tmp_path / "photo.png"))
    assert asked == []
    label_map = np.full((50, 70), -1)
    for answer in answers:
        label_map[np.asarray(answer["mask"]) > 0] = model.config.label2id[answer["label"]]
    assert (label_map == segmenter(photo).label_map).all()  # here original and train ids are the same


def test_class_weights_are_counted_in_masks_or_pixels_or_given(tmp_path, write_tiny_recipe):
    recipe = load_recipe(write_tiny_recipe(tmp_path), ["loss.per_class_weights=auto"])
    split = build_data(recipe)["train"]
    maps = [read_label_map(cell) for cell in split["label_map"]]
    pixels = np.stack([[(m == c).sum() for c in range(4)] for m in maps])

    def expected(counts):  # the root of the frequency, 1 on average over what occurs
        roots = counts.sum() / counts**0.5
        return torch.from_numpy(roots * counts.sum() / (roots * counts).sum()).float()

    torch.testing.assert_close(build_criterion(recipe, split).class_term_weights[:4], expected((pixels > 0).sum(0)))
    linear = load_recipe(
        tmp_path / "tiny.yaml", ["loss.per_class_weights=auto", "model.head=linear", "loss.pixel_dice_weight=1"]
    )
    criterion = build_criterion(linear, split)
    torch.testing.assert_close(criterion.ce_class_weights, expected(pixels.sum(0)))
    assert (criterion.ce_weight, criterion.dice_weight) == (1.0, 1.0)
    given = load_recipe(tmp_path / "tiny.yaml", ["loss.per_class_weights={2: 3.5}"])
    assert build_criterion(given).class_term_weights.tolist() == pytest.approx([1, 1, 3.5, 1, 0.1])
    with pytest.raises(RecipeError, match=r"loss.per_class_weights: \[7\] are no classes"):
        load_recipe(tmp_path / "tiny.yaml", ["loss.per_class_weights={7: 3.5}"])


def test_every_augmentation_of_the_recipe_reaches_the_transform(write_tiny_recipe, tmp_path):
    overrides = ["data.rotation=30", "data.vertical_flip=true", "data.flip=false", "data.rare_class_crops=0.5"]
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*overrides, "data.scale=[0.1, 2.0]", "data.photometric=false"])
    data = build_train_dataset(recipe, build_data(recipe)["train"])
    transform = data.transform
    assert (transform.rotation, transform.vertical_flip, transform.scale) == (30, True, (0.1, 2.0))
    assert not transform.flip and not transform.photometric
    assert data.rare is not None and data.rare.share == 0.5
    assert data.rare.classes.tolist() == [0, 1, 2, 3] and data.rare.probabilities.argmin() == 0  # most is background
    assert data[0]["pixel_values"].shape == (3, 64, 64)


def test_a_run_of_one_step_needs_no_other_settings(tmp_path, write_tiny_recipe):
    recipe = load_recipe(write_tiny_recipe(tmp_path), ["training.max_steps=1", "training.eval_steps=1"])
    assert train(recipe)["step"] == 1
