"""Confusion matrix: ours against the two ways that NumPy is used for it, on the same label maps.

    python benchmarks/bench_metrics.py [--maps 64] [--rounds 7] [--threads 1]

Maps of 512 × 683 with 150 classes and void (255), in regions as label maps have them; predictions differ from the truth
in about a quarter of the regions. Predictions are int64, as an argmax gives them, truth is uint8, as files hold it.

* histogram: `np.histogram` of the right pixels, of the prediction and of the truth, with a bin for each class, as in
  evaluate's mean_iou. It gives what IoU needs, not the matrix.
* bincount: `np.bincount` of `classes * truth + prediction` off void: the matrix.
* ours: `confusion_matrix`, which also tells values that are no train ids and counts pixels without an answer.

All take turns in each round; milliseconds are medians of rounds, and so are the ratios, theirs over ours. The results
are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_dinoseg.evaluation.confusion import confusion_matrix  # noqa: E402

HEIGHT, WIDTH, CLASSES, VOID, REGION = 512, 683, 150, 255, 32


def make_maps(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth, (H, W) uint8."""
    random = np.random.default_rng(index)
    rows, columns = -(-HEIGHT // REGION), -(-WIDTH // REGION)
    truth = random.integers(0, CLASSES, (rows, columns))
    prediction = np.where(random.random(truth.shape) < 0.25, random.integers(0, CLASSES, truth.shape), truth)
    truth[random.random(truth.shape) < 0.05] = VOID
    grown = (np.kron(ids, np.ones((REGION, REGION), int))[:HEIGHT, :WIDTH] for ids in (prediction, truth))
    predicted, labelled = (np.ascontiguousarray(ids.astype(np.uint8)) for ids in grown)
    return predicted, labelled


def histogram(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(3, C): pixels of each class that are right, predicted, true."""
    known = truth != VOID
    predicted, labelled = prediction[known], truth[known]
    right = predicted[predicted == labelled]
    return np.stack(
        [np.histogram(ids, bins=CLASSES, range=(0, CLASSES - 1))[0] for ids in (right, predicted, labelled)]
    )


def bincount(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(C, C) int64, rows truth."""
    known = truth != VOID
    pairs = CLASSES * truth[known].astype(np.int64) + prediction[known]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def ours(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    matrix = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), CLASSES, VOID)
    return matrix[:, :CLASSES].numpy()


WAYS = {"histogram": histogram, "bincount": bincount, "ours": ours}


def seconds(count: Callable[[np.ndarray, np.ndarray], np.ndarray], maps: list[tuple[np.ndarray, np.ndarray]]) -> float:
    started = time.perf_counter()
    for prediction, truth in maps:
        count(prediction, truth)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    maps = [(prediction.astype(np.int64), truth) for prediction, truth in map(make_maps, range(arguments.maps))]
    for prediction, truth in maps:  # warms up too
        matrix = ours(prediction, truth)
        assert (matrix == bincount(prediction, truth)).all()
        areas = np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)])
        assert (areas == histogram(prediction, truth)).all()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(arguments.rounds):
        for name in list(WAYS)[:: 1 if turn % 2 else -1]:
            times[name].append(1000 * seconds(WAYS[name], maps) / arguments.maps)
    sys.stdout.write(f"torch {torch.__version__}, numpy {np.__version__}, threads {arguments.threads}\n\n")
    sys.stdout.write("| method | ms a map | over ours |\n| --- | --- | --- |\n")
    for name, taken in times.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(taken, times["ours"], strict=True))
        sys.stdout.write(f"| {name} | {statistics.median(taken):.2f} | {ratio:.2f} |\n")


if __name__ == "__main__":
    main()
