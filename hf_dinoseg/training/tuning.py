"""How much of the backbone learns: one switch for every head."""

from __future__ import annotations

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from ..errors import RunError
from ..models import DinoSegForSemanticSegmentation
from .weights import add_lora

Tune = Literal["head", "last_k", "llrd", "lora", "full"]


def apply_tuning(
    model: DinoSegForSemanticSegmentation, tune: Tune, *, last_blocks: int = 4, lora_rank: int = 16
) -> None:
    """Set what of the backbone learns; the head always does.

    * `head`: nothing.
    * `last_k`: the last `last_blocks` blocks, and the norm after them.
    * `lora`: low-rank updates of every linear map in its blocks (LoRA, arXiv:2106.09685); the weights themselves rest.
    * `llrd`, `full`: everything; they differ in learning rates alone (see `optimizer.parameter_groups`).

    Args:
        model: changed in place.
        last_blocks: for `last_k`, from 1 to the number of blocks.
        lora_rank: for `lora`, the rank of an update; its scale is 1.

    Raises:
        RunError: if the backbone has fewer blocks, its weights are too coarse to learn, or `peft` is not installed.
    """
    backbone = model.backbone
    if tune != "head" and model.config.backbone_dtype not in (None, "float32"):
        raise RunError(
            f"the backbone's weights are {model.config.backbone_dtype}, in which small steps are lost; with model.tune "
            f"{tune} it needs backbone_dtype: float32."
        )
    backbone.freeze(tune == "head")
    if tune == "last_k":
        blocks = backbone_blocks(backbone.model)
        if last_blocks > len(blocks):
            raise RunError(
                f"model.tune_blocks is {last_blocks}, but the backbone has {len(blocks)} blocks; write at most "
                f"{len(blocks)}, or model.tune: full."
            )
        backbone.model.requires_grad_(False)
        first = next(iter(blocks[len(blocks) - last_blocks].parameters()))
        learns = False
        for name, parameter in backbone.model.named_parameters():  # in the order in which they are used
            learns = learns or parameter is first
            parameter.requires_grad_(learns and not name.endswith("mask_token"))
    elif tune == "lora":
        inside = {id(module) for block in backbone_blocks(backbone.model) for module in block.modules()}
        linear = [n for n, m in backbone.model.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
        add_lora(backbone.model, linear, lora_rank)


def backbone_blocks(backbone: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of a ViT, or the blocks of a ConvNeXt's stages, first to last.

    They are the list items that transformers says are never split over devices; where it says nothing, as of ViTDet,
    the items of the longest list.

    Raises:
        RunError: if there is no such list.
    """
    kinds = backbone._no_split_modules or ()
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    found = [block for blocks in lists for block in blocks if type(block).__name__ in kinds]
    if found:
        return found
    if not lists:
        raise RunError(f"{type(backbone).__name__} has no blocks to tell apart; write model.tune: head or full.")
    longest: nn.ModuleList = max(lists, key=len)
    return list(longest)


def block_depths(backbone: PreTrainedModel) -> tuple[dict[int, int], int]:
    """For layer-wise learning rates: the depth of each parameter by its id, and the greatest depth.

    Depth 0 is the embedding, depth i the i-th block with all that stands before it, the greatest the final norm: as in
    BEiT (arXiv:2106.08254) and its followers.
    """
    blocks = backbone_blocks(backbone)
    block_of = {id(p): i for i, block in enumerate(blocks, start=1) for p in block.parameters()}
    ordered = list(backbone.parameters())
    depths: dict[int, int] = {}
    following = len(blocks) + 1
    for parameter in reversed(ordered):
        following = block_of.get(id(parameter), following)
        depths[id(parameter)] = following
    first = next(i for i, parameter in enumerate(ordered) if id(parameter) in block_of)
    for parameter in ordered[:first]:
        depths[id(parameter)] = 0
    return depths, len(blocks) + 1
