"""What heads share: the output they return, the frame they predict for, and the MLP that turns a query into a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .scores import ScoreMap


@dataclass
class DinoSegOutput(ModelOutput):
    """Predictions of a DinoSeg model, in train ids.

    Attributes:
        loss: scalar, where the model was given labels.
        class_queries_logits: (B, Q, C + 1) of the mask heads; the last class is "no object".
        masks_queries_logits: (B, Q, h, w) float32, a quarter of the input's size rounded up; the map's edges are the
            input's edges.
        auxiliary_predictions: while training, or when asked for: predictions of earlier layers, first to last, each a
            dict of the two tensors above. None otherwise.
        logits: (B, C, h, w), scores of the classes whose argmax is the label map; the map's edges are the input's
            edges. The linear head predicts them. Of mask heads they are sums over queries, from 0 up, and no input for
            a soft-max (`scores.py`); they are computed when this attribute is first asked for, and are not among the
            keys.
        hidden_states: where they were asked for: what goes into the backbone's first block, and what comes out of each
            block, for the padded input: (B, tokens, C), or (B, C, h, w) of a hierarchical backbone. With the EoMT head
            queries stand in front of the tokens of the last blocks.
    """

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_predictions: tuple[dict[str, Tensor], ...] | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __getitem__(self, key: Any) -> Any:
        return self.logits if key == "logits" else super().__getitem__(key)

    def __reduce__(self) -> Any:
        """A copy holds what this does: logits that nobody asked for stay away."""
        return type(self), tuple(self.__dict__.get(field.name) for field in fields(self))


def _logits(self: DinoSegOutput) -> Tensor | None:
    given: Tensor | None = self.__dict__.get("logits")
    if given is None:
        given = self.__dict__.get("_semantic_logits")
    if given is None and self.masks_queries_logits is not None:
        height, width = self.masks_queries_logits.shape[-2:]
        given = self.__dict__["_semantic_logits"] = ScoreMap(self, (height, width)).rows(0, height)
    return given


# After the dataclass has been made: its field becomes one that is computed where it was not given.
DinoSegOutput.logits = property(  # type: ignore[assignment]
    _logits, lambda self, value: self.__dict__.__setitem__("logits", value)
)


class Frame(NamedTuple):
    """Height and width of the input, and of the input after padding, in pixels."""

    height: int
    width: int
    padded_height: int
    padded_width: int


def crop_to_frame(maps: Tensor, frame: Frame) -> Tensor:
    """From maps of the padded input to maps whose edges are the input's.

    Args:
        maps: (B, C, h, w) over the padded input.

    Returns:
        (B, C, h', w'), where h' is the input's height over the stride, rounded up. Where the stride divides the input
        this is a slice; elsewhere the maps are resampled (bilinear) so that h' pixels span exactly the input.
    """
    h, w = maps.shape[-2:]
    # integer ceiling of height / stride, with stride = padded_height / h
    rows = -(-frame.height * h // frame.padded_height)
    columns = -(-frame.width * w // frame.padded_width)
    if rows * frame.padded_height == frame.height * h and columns * frame.padded_width == frame.width * w:
        return maps[..., :rows, :columns]
    y = _centres(rows, frame.height / frame.padded_height, maps.device)
    x = _centres(columns, frame.width / frame.padded_width, maps.device)
    grid = torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), dim=-1)
    grid = grid.to(maps.dtype).expand(maps.shape[0], -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(count: int, share: float, device: torch.device) -> Tensor:
    """Centres of `count` pixels that span the first `share` of a frame reaching from -1 to 1."""
    return (torch.arange(count, dtype=torch.float32, device=device) + 0.5) * (2 * share / count) - 1


def mask_logits(embeddings: Tensor, features: Tensor) -> Tensor:
    """Masks of queries: (B, Q, D) × (B, D, h, w) → (B, Q, h, w), in float32 whatever the autocast type."""
    return mask_logits_of_all(embeddings[None], features)[0]


def mask_logits_of_all(embeddings: Tensor, features: Tensor) -> tuple[Tensor, ...]:
    """Masks of several predictions: (P, B, Q, D) × (B, D, h, w) → P of (B, Q, h, w), in float32.

    The predictions are tensors of their own: with views of one product, autograd would copy the gradients of all of
    them together before it can use them.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        if torch.is_grad_enabled() and (embeddings.requires_grad or features.requires_grad):
            masks = _MaskProducts.apply(embeddings.float(), flat)
        else:
            masks = tuple(torch.bmm(embedding, flat) for embedding in embeddings.float())
    return tuple(mask.unflatten(2, features.shape[-2:]) for mask in masks)


class _MaskProducts(torch.autograd.Function):
    """(P, B, Q, D) × (B, D, N) → P of (B, Q, N); the gradient of the features is summed up in place, and a prediction
    that the loss did not use costs nothing."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(embeddings, features)
        ctx.set_materialize_grads(False)
        return tuple(torch.bmm(embedding, features) for embedding in embeddings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        embeddings, features = ctx.saved_tensors
        to_embeddings, to_features = ctx.needs_input_grad
        grad_embeddings = torch.zeros_like(embeddings) if to_embeddings else None
        grad_features = torch.zeros_like(features) if to_features else None
        with torch.autocast(features.device.type, enabled=False):
            for index, grad in enumerate(grads):
                if grad is None:
                    continue
                if grad_embeddings is not None:
                    grad_embeddings[index] = torch.bmm(grad, features.transpose(1, 2))
                if grad_features is not None:
                    grad_features.baddbmm_(embeddings[index].transpose(1, 2), grad)
        return grad_embeddings, grad_features


class MaskMlp(nn.Module):
    """Three linear layers from a query to its mask embedding."""

    def __init__(self, dim: int, out_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, width) for width in (dim, dim, out_dim))
        self.activation = activation

    def init_weights(self) -> None:
        """PyTorch's own initialisation of a linear layer, which the published heads keep here."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
                init.uniform_(layer.bias, -bound, bound)

    def forward(self, queries: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(self.activation(second(self.activation(first(queries)))))


__all__ = ["DinoSegOutput", "Frame"]
