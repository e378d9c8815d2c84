"""EoMT's mask annealing: queries learn inside their masks first, and without any mask in the end.

"Your ViT is Secretly an Image Segmentation Model", https://arxiv.org/abs/2503.19108.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

POWER = 0.9


def masking_probabilities(step: int, max_steps: int, num_blocks: int) -> list[float]:
    """For each of the last blocks, first to last, the probability that a query is held inside its mask there.

    It falls from 1 to 0 over a sixth of training, as (1 - progress) to the power of 0.9: for the first block from one
    sixth of training on, for the last from four sixths, for those between from places evenly spread. So do the paper's
    trainings, with 3, 4 and 5 blocks (the step lists in the `configs/` of https://github.com/tue-mps/eomt); the last
    sixth has no masks. A single block, which they have none of, is let off in the middle.

    Args:
        step: optimiser steps done.
        max_steps: optimiser steps of the whole training.
        num_blocks: blocks that the queries take part in.

    Example:
        >>> [round(p, 3) for p in masking_probabilities(450, 1200, 4)]
        [0.0, 0.772, 1.0, 1.0]
        >>> masking_probabilities(1000, 1200, 4)
        [0.0, 0.0, 0.0, 0.0]
    """
    sixths = 6 * step / max_steps
    starts = [1 + 3 * block / (num_blocks - 1) for block in range(num_blocks)] if num_blocks > 1 else [2.5]
    return [(1.0 - min(max(sixths - start, 0.0), 1.0)) ** POWER for start in starts]


class MaskAnnealing(TrainerCallback):
    """Sets the EoMT head's masking probabilities after every step.

    They follow from the step alone, so that a resumed run goes on where it was; which queries are let off is drawn from
    the device's random numbers, whose state the Trainer restores. A checkpoint carries the probabilities of its step in
    its configuration, and a run that ends with its best checkpoint ends with that one's probabilities: predictions
    are then masked as they were when it was measured.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._set(state.global_step, state.max_steps, kwargs["model"])

    on_step_end = on_train_begin

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loaded = state.best_global_step if args.load_best_model_at_end else None
        self._set(loaded or state.global_step, state.max_steps, kwargs["model"])

    @staticmethod
    def _set(step: int, max_steps: int, model: Any) -> None:
        config = model.config
        config.attn_mask_probs = masking_probabilities(step, max_steps, len(config.attn_mask_probs))
