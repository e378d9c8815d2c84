"""Does it matter that the loss leaves void out? Half of the pixels of each training mask are made void, at random, and
two models are trained on them alike: with the loss as it is, and with the usual one, to which void is a negative.

    python benchmarks/void_experiment.py --root data/camvid [--steps 400] [--share 0.5] [--side 1] [key=value ...]

Validation masks stay whole. Same seed, crops, steps and start; it takes as long as two trainings.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_dinoseg import builders as objects
from hf_dinoseg import load_recipe
from hf_dinoseg import run as build
from hf_dinoseg.losses import MaskClassificationLoss

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid" / "mask2former_tiny.yaml"
VOID = 11  # CamVid's id for what nobody labelled


class UsualLoss(MaskClassificationLoss):
    """Void pixels belong to no mask, and are taught so."""

    def forward(self, *args: Any, void_mask: Any = None, **kwargs: Any) -> dict[str, Any]:
        return super().forward(*args, void_mask=None, **kwargs)


def with_holes(root: Path, folder: Path, share: float, side: int) -> None:
    """A copy of the dataset in which this share of the training pixels is void, in squares of `side` pixels."""
    (folder / "images").symlink_to(root.resolve() / "images")
    shutil.copytree(root / "masks" / "val", folder / "masks" / "val")
    (folder / "masks" / "train").mkdir()
    for index, path in enumerate(sorted((root / "masks" / "train").iterdir())):
        mask = np.array(Image.open(path))
        cells = np.random.default_rng([0, index]).random([-(-n // side) for n in mask.shape]) < share
        mask[cells.repeat(side, 0).repeat(side, 1)[: mask.shape[0], : mask.shape[1]]] = VOID
        Image.fromarray(mask).save(folder / "masks" / "train" / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="CamVid: images/{train,val}, masks/{train,val}")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.5, help="of each training mask that is made void")
    parser.add_argument("--side", type=int, default=1, help="void comes in squares of so many pixels")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    ours = objects.MaskClassificationLoss
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        with_holes(arguments.root, data, arguments.share, arguments.side)
        for name, loss in (("void left out", ours), ("void as a negative", UsualLoss)):
            objects.MaskClassificationLoss = loss  # type: ignore[misc]
            recipe = load_recipe(
                RECIPE,
                [
                    f"data.root={data}",
                    f"training.output_dir={Path(scratch, name.replace(' ', '_'))}",
                    f"training.max_steps={arguments.steps}",
                    "training.eval_strategy=no",
                    f"training.save_steps={arguments.steps}",
                    *arguments.overrides,
                ],
            )
            results[name] = build.train(recipe)
    print(f"\n{arguments.steps} steps, {arguments.share:.0%} of training void, in squares of {arguments.side}\n")
    print(f"| | {' | '.join(results)} |\n| --- |{' ---: |' * len(results)}")
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        print(f"| {key} | {' | '.join(f'{100 * r[key]:.2f}' for r in results.values())} |")
    for name in results["void left out"]["per_category_iou"]:
        values = [r["per_category_iou"][name] for r in results.values()]
        print(f"| {name} | {' | '.join(f'{100 * v:.2f}' for v in values)} |")


if __name__ == "__main__":
    main()
