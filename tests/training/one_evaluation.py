"""Run by test_distributed.py in processes of its own: evaluates a checkpoint and keeps each process's matrix."""

import sys
from pathlib import Path

import numpy as np

from hf_dinoseg import builders, load_recipe, run


class Trainer(builders.DinoSegTrainer):
    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        np.save(Path(folder, f"{self.args.process_index}.npy"), self.streamed.matrix.numpy())
        return metrics


checkpoint, folder, *overrides = sys.argv[1:]
builders.DinoSegTrainer = Trainer
run.evaluate(checkpoint, load_recipe(Path(checkpoint, "recipe.yaml"), overrides))
