"""EoMT's mask annealing: queries learn inside their masks first, and without any mask in the end.

"Your ViT is Secretly an Image Segmentation Model", https://arxiv.org/abs/2503.19108.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

POWER = 0.9


def masking_probabilities(step: int, max_steps: int, num_blocks: int) -> list[float]:
    """For each of the last blocks, first to last, the probability that a query is held inside its mask there.

    Training is divided into 3·L + 3 equal parts for L blocks, which is how the published schedules divide theirs: two
    parts with full masking, then for each block in turn two parts in which its probability falls from 1 to 0 and one
    of rest, and a last part. Every block is let off by (3·L + 1) / (3·L + 3) of training, 87 % for four blocks.

    Args:
        step: optimiser steps done.
        max_steps: optimiser steps of the whole training.
        num_blocks: blocks that the queries take part in.

    Example:
        >>> [round(p, 3) for p in masking_probabilities(450, 1500, 4)]
        [0.287, 1.0, 1.0, 1.0]
        >>> masking_probabilities(1300, 1500, 4)
        [0.0, 0.0, 0.0, 0.0]
    """
    parts_done = step * (3 * num_blocks + 3) / max_steps
    probabilities = []
    for block in range(num_blocks):
        progress = (parts_done - (2 + 3 * block)) / 2
        probabilities.append((1.0 - min(max(progress, 0.0), 1.0)) ** POWER)
    return probabilities


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
