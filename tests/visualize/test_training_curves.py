import numpy as np
from PIL import Image

from hf_dinoseg.visualize import save_curves


def history(steps=40):
    for step in range(1, steps + 1):
        loss = {"loss": 100 / step, "loss_class": 2 / step, "loss_mask": 3 / step, "loss_dice": 5 / step}
        yield {**loss, "learning_rate": 1e-4 * (1 - step / 41), "learning_rate_backbone": 1e-5, "step": step}
        if step % 10 == 0:
            yield {"eval_mean_iou": step / 50, "step": step}


def colored(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return [tuple(c) for c in np.unique(pixels.reshape(-1, 3), axis=0)]


def test_it_draws_losses_scores_and_rates_and_the_evaluation_after_training_apart(tmp_path):
    entries = list(history())
    assert save_curves(entries, tmp_path / "running.png")
    end = [{"train_runtime": 5.0, "step": 40}, {"eval_mean_iou": 0.7, "step": 30}]
    assert save_curves([*entries, *end], tmp_path / "done.png")
    running, done = (Image.open(tmp_path / name) for name in ("running.png", "done.png"))
    assert running.size == done.size and running.size[1] > running.size[0]  # three of them, one below the other
    assert running.tobytes() != done.tobytes()  # the ring
    blue, vermilion = (0, 114, 178), (213, 94, 0)
    assert blue in colored(tmp_path / "done.png") and vermilion in colored(tmp_path / "done.png")


def test_what_was_not_measured_has_no_place_and_nothing_makes_no_file(tmp_path):
    losses = [{"loss": 1.0, "step": 1}, {"loss": float("nan"), "step": 2}]
    assert save_curves(losses, tmp_path / "losses.png")
    assert Image.open(tmp_path / "losses.png").height < Image.open(tmp_path / "losses.png").width
    assert not save_curves([{"eval_mean_iou": 0.5, "step": 0}], tmp_path / "none.png")
    assert not save_curves([], tmp_path / "none.png") and not (tmp_path / "none.png").exists()
