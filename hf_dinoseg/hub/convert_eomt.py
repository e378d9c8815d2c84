"""Checkpoints of EoMT on DINOv3, in transformers' form and in the authors' own, whole or as differences.

Because of DINOv3's licence, EoMT's authors publish differences to its weights (the model zoo of
https://github.com/tue-mps/eomt: "deltas with respect to DINOv3 weights"). Nothing in such a file says that it holds
differences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EomtDinov3ForUniversalSegmentation, PreTrainedConfig
from transformers.utils import cached_file

from ..models.backbone import load_backbone_config
from .convert_names import ConversionError
from .weight_files import from_transformers, read_state_dict

_VIT_FIELDS = (
    "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "attention_dropout", "initializer_range", "layer_norm_eps", "image_size", "num_channels", "query_bias", "key_bias",
    "value_bias", "proj_bias", "mlp_bias", "layerscale_value", "drop_path_rate", "use_gated_mlp",
    "num_register_tokens", "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale",
)  # fmt: skip

#: The authors' names → transformers', as its script `convert_eomt_dinov3_to_hf.py` has them
_AUTHORS_NAMES: Sequence[tuple[str, str]] = (
    (r"encoder\.backbone\.patch_embed\.(.+)", r"embeddings.\1"),
    (r"encoder\.backbone\.blocks\.(.+)", r"layers.\1"),
    (r"encoder\.backbone\.norm\.(.+)", r"layernorm.\1"),
    (r"q\.(weight)", r"query.\1"),
    (r"class_head\.(.+)", r"class_predictor.\1"),
    (r"mask_head\.0\.(.+)", r"mask_head.fc1.\1"),
    (r"mask_head\.2\.(.+)", r"mask_head.fc2.\1"),
    (r"mask_head\.4\.(.+)", r"mask_head.fc3.\1"),
    (r"upscale\.(\d+\.conv[12]\..+)", r"upscale_block.block.\1"),
    (r"upscale\.(\d+)\.norm\.(.+)", r"upscale_block.block.\1.layernorm2d.\2"),
    (r"attn_mask_probs", "attn_mask_probs"),
)  # fmt: skip
_AUTHORS_FILE = "pytorch_model.bin"
_UNUSED = re.compile(r".*criterion\..+|.*\.pixel_(mean|std)|.*\.mask_token")

#: DINOv3's ViTs by width, and whether their MLP is gated
_PUBLISHED = {
    (384, False): "vits16", (384, True): "vits16plus", (768, False): "vitb16", (1024, False): "vitl16",
    (1280, True): "vith16plus", (4096, True): "vit7b16",
}  # fmt: skip


@dataclass(frozen=True)
class EomtCheckpoint:
    """A checkpoint that was read.

    Attributes:
        weights: under transformers' names.
        backbone_config: of its ViT, as a dict with `model_type`.
        differences: the backbone's weights are still to be added to those in `weights`.
        names: of the classes by id; None if the checkpoint has none.
        image_size: side of the images that it was trained on; None if the checkpoint does not tell.
    """

    weights: dict[str, Tensor]
    backbone_config: dict[str, Any]
    differences: bool
    names: dict[int, str] | None = None
    image_size: int | None = None


def read_eomt(checkpoint: str, backbone: str | None = None) -> EomtCheckpoint:
    """Read a checkpoint of EoMT on DINOv3.

    Args:
        checkpoint: Hub id or local folder of one of transformers; or the authors' own `pytorch_model.bin`, or a Hub id
            or folder with that.
        backbone: Hub id or local folder of the backbone, whose configuration the authors' files need.

    Raises:
        ConversionError: on files and names that do not fit, and where a backbone is needed and none is given.
        BackboneError: if the backbone cannot be had.
    """
    file = authors_file(checkpoint)
    if file is not None:
        return _readauthors_file(file, backbone)
    peer, weights = from_transformers(EomtDinov3ForUniversalSegmentation, checkpoint, "eomt_dinov3", complete=True)
    config = peer.config
    differences = holds_differences(weights)
    if differences and backbone is None:
        raise _needs_backbone(checkpoint, config.hidden_size, config.use_gated_mlp)
    vit = {"model_type": "dinov3_vit", "rope_theta": config.rope_parameters["rope_theta"]}
    vit |= {name: getattr(config, name) for name in _VIT_FIELDS}
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    return EomtCheckpoint(weights, vit, differences, {int(i): str(n) for i, n in config.id2label.items()}, side)


def holds_differences(weights: Mapping[str, Tensor]) -> bool:
    """Whether the backbone's weights are differences to another's.

    The weights of layer norms tell. They start at 1 in pre-training and stay nearly all positive. Differences made by
    fine-tuning are negative about half of the time, or 0. The limit is nine tenths positive.

    Args:
        weights: under transformers' names.
    """
    norm = re.compile(r"layers\.\d+\.norm[12]\.weight|layernorm\.weight")
    scales = torch.cat([tensor.flatten() for name, tensor in weights.items() if norm.fullmatch(name)])
    return bool((scales > 0).float().mean() < 0.9)


def _needs_backbone(checkpoint: str, width: int, gated: bool) -> ConversionError:
    size = _PUBLISHED.get((width, gated), "…")
    return ConversionError(
        f"{checkpoint} holds differences to the weights of a backbone, and no backbone: many weights of its layer "
        "norms are negative or 0. Pass --backbone and the DINOv3 that it was trained from, Hub id or folder, such as "
        f"facebook/dinov3-{size}-pretrain-lvd1689m for its width of {width}."
    )


def authors_file(checkpoint: str) -> Path | None:
    """The authors' own file, EoMT's or PMT's, where the checkpoint is one and not of transformers."""
    if Path(checkpoint).is_file():
        return Path(checkpoint)
    try:
        if PreTrainedConfig.get_config_dict(checkpoint)[0].get("model_type"):
            return None
    except OSError:
        pass  # their repositories have no configuration
    try:
        return Path(str(cached_file(checkpoint, _AUTHORS_FILE)))
    except OSError:
        return None  # neither; transformers says what is wrong


def _readauthors_file(file: Path, backbone: str | None) -> EomtCheckpoint:
    weights: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in read_state_dict(file).items():
        if _UNUSED.fullmatch(key):
            continue
        name = key.removeprefix("network.")
        theirs = next((re.sub(p, r, name) for p, r in _AUTHORS_NAMES if re.fullmatch(p, name)), None)
        if theirs is None:
            unknown.append(key)
        else:
            weights[theirs] = tensor
    needed = ("query.weight", "class_predictor.bias", "attn_mask_probs", "layernorm.weight")
    missing = [name for name in needed if name not in weights]
    if unknown or missing:
        told = f"unknown tensors {', '.join(unknown[:5])}" if unknown else f"it lacks {', '.join(missing)}"
        raise ConversionError(
            f"{file} is no EoMT on DINOv3 as its authors save it: {told}. Their tensors are called network.q.weight, "
            "network.encoder.backbone.blocks.0.norm1.weight and so on."
        )
    width = len(weights["layernorm.weight"])
    differences = holds_differences(weights)
    if backbone is None and differences:
        raise _needs_backbone(str(file), width, any(".gate_proj." in name for name in weights))
    if backbone is None:
        raise ConversionError(
            f"{file} has no configuration beside it; pass --backbone and the DINOv3 that it was trained from, for its "
            "sizes."
        )
    config: Any = load_backbone_config(backbone)
    if config.model_type != "dinov3_vit" or config.hidden_size != width:
        raise ConversionError(
            f"{file} is of a DINOv3 ViT {width} wide; the backbone {backbone} is a {config.model_type} of width "
            f"{getattr(config, 'hidden_size', 'more than one')}. Pass the one that it was trained from."
        )
    return EomtCheckpoint(weights, config.to_dict(), differences)
