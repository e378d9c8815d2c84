from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


class Batch:
    """Random predictions and overlapping random targets for images of `size`, masks at `mask_size`."""

    def __init__(
        self,
        counts: tuple[int, ...],
        num_labels: int = 5,
        queries: int = 7,
        size: tuple[int, int] = (24, 32),
        mask_size: tuple[int, int] = (6, 8),
        auxiliary: int = 2,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch = len(counts)
        self.classes = [
            torch.randn(batch, queries, num_labels + 1, generator=generator).requires_grad_()
            for _ in range(auxiliary + 1)
        ]
        self.masks = [
            (3 * torch.randn(batch, queries, *mask_size, generator=generator)).requires_grad_()
            for _ in range(auxiliary + 1)
        ]
        self.mask_labels = [torch.rand(count, *size, generator=generator) > 0.5 for count in counts]
        self.class_labels = [torch.randint(0, num_labels, (count,), generator=generator) for count in counts]

    @property
    def auxiliary(self) -> list[dict[str, Tensor]]:
        pairs = zip(self.classes[1:], self.masks[1:], strict=True)
        return [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in pairs]

    @property
    def outputs(self) -> SimpleNamespace:
        return SimpleNamespace(
            class_queries_logits=self.classes[0],
            masks_queries_logits=self.masks[0],
            auxiliary_predictions=self.auxiliary or None,
        )

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.classes, *self.masks]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.leaves, retain_graph=True))


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return Batch


@pytest.fixture
def make_uniform() -> Callable[..., Callable[..., Tensor]]:
    """A source of "random" numbers that depends on the row and on the number of columns only.

    With `same_rows`, also rows agree, so that a row's numbers do not depend on where it stands in a batch.
    """
    rand = torch.rand

    def make(same_rows: bool | int = True) -> Callable[..., Tensor]:
        def uniform(rows: int, columns: int, *rest: int, device: object = None) -> Tensor:
            generator = torch.Generator().manual_seed(columns)
            numbers = rand(64, columns, *rest, generator=generator)
            # An int names the one number of columns for which rows agree.
            agree = same_rows if isinstance(same_rows, bool) else columns == same_rows
            return numbers[:1].expand(rows, *numbers.shape[1:]).clone() if agree else numbers[:rows].clone()

        return uniform

    return make
