"""A loss whose gradient is worked out during the forward pass, so that nothing of the forward pass has to be kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, gradient: Tensor, index: tuple[Tensor, ...]) -> Tensor:
        ctx.shape, ctx.dtype = source.shape, source.dtype
        ctx.save_for_backward(gradient, *index)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, *index = ctx.saved_tensors
        dense = gradient.new_zeros(ctx.shape, dtype=ctx.dtype)
        dense[tuple(index)] = (gradient * upstream).to(ctx.dtype)
        return dense, None, None, None


def attach_gradient(source: Tensor, value: Tensor, gradient: Tensor, index: tuple[Tensor, ...]) -> Tensor:
    """Return `value` as a function of `source` whose gradient is known already.

    A mask loss samples tens of thousands of points per mask and layer; kept for the backward pass, these outweigh the
    masks themselves. Their gradient with respect to the few rows that take part is much smaller, and is all that the
    backward pass needs. `source` is part of the graph even when no row takes part, so that a distributed wrapper sees
    every parameter used. First derivatives only.

    Args:
        source: the tensor to be differentiated by, any shape.
        value: scalar, the loss.
        gradient: d value / d source[index], in the shape of `source[index]`.
        index: index tensors into the leading dimensions of `source`; must address no row twice.
    """
    return _Attach.apply(source, value.detach(), gradient.detach(), index)
