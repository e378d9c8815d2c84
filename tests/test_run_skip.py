"""A whole run on files of which some are bad: what is left out is counted and listed."""

import json

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import load_recipe
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.training import DinoSegTrainer


@pytest.fixture
def faulty(tmp_path, write_tiny_recipe):
    """A recipe on eight images in folders, one broken in each split, and what breaks one more."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(
                tmp_path / f"images/{split}/{i}.jpg"
            )
            Image.fromarray(rng.integers(0, 4, (80, 70), dtype=np.uint8)).save(tmp_path / f"masks/{split}/{i}.png")
    (tmp_path / "images/train/1.jpg").write_bytes(b"\xff\xd8 no image")
    Image.fromarray(np.full((80, 70), 9, np.uint8)).save(tmp_path / "masks/val/0.png")
    source = f"data={{source: folder, root: {tmp_path}, crop_size: 64, on_bad_sample: skip}}"
    return load_recipe(
        write_tiny_recipe(tmp_path), [source, "training.max_steps=2", "training.load_best_model_at_end=false"]
    )


def test_skipped_samples_are_counted_and_listed_and_batches_stay_full(faulty, tmp_path, monkeypatch, caplog):
    sizes = []

    class Watching(DinoSegTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            sizes.append(len(inputs["index"]))
            if self.state.global_step == 0:  # breaks when targets have been prepared
                (tmp_path / "images/val/2.jpg").write_bytes(b"")
            return super().training_step(model, inputs, num_items_in_batch)

    monkeypatch.setattr("hf_dinoseg.builders.DinoSegTrainer", Watching)
    metrics = train(faulty)
    assert sizes == [2, 2]
    assert (metrics["num_images"], metrics["num_skipped"], metrics["train_images"]) == (1, 2, 4)
    listed = json.loads((tmp_path / "run" / "skipped.json").read_text())
    ids = {part: [one["id"] for one in ones] for part, ones in listed.items()}
    assert ids == {"train": ["1"], "validation": ["0"], "while_running": ["2"]}
    assert "1.jpg" in listed["train"][0]["reason"] and "9" in listed["validation"][0]["reason"]
    again = evaluate(str(tmp_path / "run"))  # the image that broke later is now found when the set is prepared
    assert (again["num_images"], again["num_skipped"]) == (1, 2)
    assert again["mean_iou"] == metrics["mean_iou"]
