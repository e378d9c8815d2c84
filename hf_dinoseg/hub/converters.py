"""Published checkpoints to checkpoint folders of this package, and heads to start training from.

Names are translated by `convert`; here files are read, sizes read off the tensors, and models built and saved.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, EomtDinov3ForUniversalSegmentation, Mask2FormerForUniversalSegmentation

from ..labels import LabelSpace
from ..models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegImageProcessor, default_out_layers
from ..models.backbone import load_backbone_config, load_backbone_weights
from ..recipe import label_preset
from .convert import (
    ConversionError,
    check_fit,
    convert_eomt_state_dict,
    convert_mask2former_state_dict,
    convert_meta_linear_state_dict,
    convert_meta_m2f_state_dict,
)

logger = logging.getLogger(__name__)
_VIT_FIELDS = (
    "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "attention_dropout", "initializer_range", "layer_norm_eps", "image_size", "num_channels", "query_bias", "key_bias",
    "value_bias", "proj_bias", "mlp_bias", "layerscale_value", "drop_path_rate", "use_gated_mlp",
    "num_register_tokens", "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale",
)  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """How the checkpoint predicts: pictures with `window` pixels on the shorter side, seen through square windows."""

    window: int
    stride: int


#: of the published evaluations
M2F_WINDOWS, LINEAR_WINDOWS = Windows(896, 596), Windows(512, 341)


@dataclass(frozen=True)
class HeadReport:
    """What a head took from a checkpoint: names of tensors, and for each of the others why it was not taken."""

    taken: tuple[str, ...]
    left: dict[str, str]


def ade20k() -> LabelSpace:
    """ADE20K's 150 classes; 0 is void and ids run from 1."""
    return LabelSpace(**label_preset("ade20k"))


# ---------------------------------------------------------------------- checkpoint folders


def convert_meta_m2f(
    head: str | Path,
    backbone: str,
    output: str | Path,
    label_space: LabelSpace | None = None,
    windows: Windows = M2F_WINDOWS,
) -> None:
    """A published DINOv3 Mask2Former head (adapter and head in one file) and its backbone to a checkpoint folder.

    Args:
        head: the `.pth` file, a bare state dict or one under `model`. Sizes are read off its tensors; the transformer
            decoder's attention heads, which no tensor tells, are as many as the pixel decoder's.
        backbone: Hub id or local folder.
        output: a folder that does not exist or is empty.
        label_space: the classes; None names them by number.

    Raises:
        ConversionError: on files, names, shapes or labels that do not fit.
        BackboneError: if the backbone cannot be had.
    """
    folder = _free_folder(output)
    weights = read_state_dict(head)
    fields = _m2f_sizes(weights)
    width = weights["segmentation_model.0.level_embed"].shape[-1]
    sub_config: Any = load_backbone_config(backbone)
    found = getattr(sub_config, "hidden_size", "of several widths")
    if found != width:
        raise ConversionError(
            f"segmentation_model.0.level_embed is {width} wide, the backbone {backbone} is {found}; name the backbone "
            "that the head was trained on."
        )
    space = _labels(label_space, fields.pop("num_labels"), str(head))
    model = _from_backbone(backbone, space, windows, head="mask2former", **fields)
    _load_head(model, convert_meta_m2f_state_dict(weights, model.state_dict()))
    _save(model, folder, space, windows)


def convert_meta_linear(
    head: str | Path,
    backbone: str,
    output: str | Path,
    label_space: LabelSpace | None = None,
    windows: Windows = LINEAR_WINDOWS,
) -> None:
    """A published DINOv3 linear head, batch norm and 1×1 convolution, and its backbone to a checkpoint folder.

    It reads the last layer's features or, where it is four times as wide as the backbone, those of the four layers of
    `default_out_layers`. Arguments and errors as `convert_meta_m2f`.
    """
    folder = _free_folder(output)
    weights = read_state_dict(head)
    converted = convert_meta_linear_state_dict(weights)
    kernel = _tensor(converted, "head.classify.weight", "conv.weight", 4)
    sub_config: Any = load_backbone_config(backbone)
    depth, width = len(sub_config.stage_names) - 1, getattr(sub_config, "hidden_size", 0)
    layers = {width: [depth], 4 * width: default_out_layers(depth)}.get(kernel.shape[1])
    if layers is None:
        raise ConversionError(
            f"conv.weight is {list(kernel.shape)}: {kernel.shape[1]} channels, where the backbone {backbone} has "
            f"{width} a layer. The head reads one layer or four ({4 * width}); name the backbone it was trained on."
        )
    space = _labels(label_space, kernel.shape[0], str(head))
    model = _from_backbone(backbone, space, windows, head="linear", out_layers=layers)
    _load_head(model, convert_meta_linear_state_dict(weights, model.state_dict()))
    _save(model, folder, space, windows)


def convert_eomt(
    checkpoint: str, output: str | Path, backbone: str | None = None, label_space: LabelSpace | None = None
) -> None:
    """A checkpoint of transformers' EoMT on DINOv3 to a checkpoint folder.

    Args:
        checkpoint: Hub id or local folder.
        backbone: Hub id or local folder of the backbone, if the checkpoint holds what is to be added to the backbone's
            weights (as checkpoints without DINOv3's own weights do); None for a full checkpoint.
        label_space: the classes; None takes the checkpoint's names.

    Raises:
        ConversionError, BackboneError: as `convert_meta_m2f`.
    """
    folder = _free_folder(output)
    peer, state_dict = _from_transformers(EomtDinov3ForUniversalSegmentation, checkpoint, "eomt_dinov3", complete=True)
    config = peer.config
    names = {int(i): str(name) for i, name in config.id2label.items()}
    space = _labels(label_space or LabelSpace(names), len(names), checkpoint)
    vit = {name: getattr(config, name) for name in _VIT_FIELDS}
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    windows = Windows(side, side * 2 // 3)
    extra: dict[str, Any] = {"inference": _inference(windows)}
    model = DinoSegForSemanticSegmentation(
        DinoSegConfig(
            backbone_config={"model_type": "dinov3_vit", "rope_theta": config.rope_parameters["rope_theta"], **vit},
            head="eomt",
            label_space=space.to_dict(),
            num_queries=config.num_queries,
            attn_mask_probs=state_dict["attn_mask_probs"].tolist(),
            **extra,
        )
    )
    converted, origin = convert_eomt_state_dict(state_dict)
    # plays a part in pre-training only, so EoMT has none
    wanted = {name: t for name, t in model.state_dict().items() if not name.endswith("mask_token")}
    check_fit(converted, wanted, origin)
    if backbone is not None:
        base = load_backbone_weights(backbone, load_backbone_config(backbone)).state_dict()
        base = {f"backbone.model.{name}": t for name, t in base.items() if not name.endswith("mask_token")}
        check_fit(base, {n: t for n, t in wanted.items() if n.startswith("backbone.")}, {n: n for n in base})
        converted |= {name: converted[name] + tensor for name, tensor in base.items()}
    model.load_state_dict(converted, strict=False)
    _save(model, folder, space, windows)


def convert_mask2former(
    checkpoint: str,
    backbone: str,
    output: str | Path,
    label_space: LabelSpace | None = None,
    windows: Windows = LINEAR_WINDOWS,
) -> HeadReport:
    """A new Mask2Former model on a backbone whose head starts from transformers' Mask2Former; see `init_head_from`.

    The head has the checkpoint's sizes; the adapter, and the projections that read it, are new. So the result is a
    start for training, not a model to predict with. Arguments and errors as `convert_eomt`.
    """
    folder = _free_folder(output)
    peer, state_dict = _from_transformers(
        Mask2FormerForUniversalSegmentation, checkpoint, "mask2former", complete=False
    )
    config = peer.config
    names = {int(i): str(name) for i, name in config.id2label.items()}
    space = label_space or LabelSpace(names)
    model = _from_backbone(
        backbone,
        space,
        windows,
        head="mask2former",
        num_queries=config.num_queries,
        hidden_dim=config.hidden_dim,
        head_attention_heads=config.num_attention_heads,
        pixel_decoder_layers=config.encoder_layers,
        pixel_decoder_ffn_dim=config.encoder_feedforward_dim,
        decoder_layers=config.decoder_layers - 1,  # transformers counts the prediction before the first layer
        decoder_ffn_dim=config.dim_feedforward,
    )
    report = _take(model, state_dict)
    _save(model, folder, space, windows)
    return report


# ---------------------------------------------------------------------- a head to start from


def init_head_from(model: DinoSegForSemanticSegmentation, checkpoint: str) -> HeadReport:
    """Copy into a Mask2Former head what fits of a checkpoint of transformers' Mask2Former; what was taken is logged.

    Args:
        model: changed in place.
        checkpoint: Hub id or local folder.

    Raises:
        ConversionError: if the model has another head, or the checkpoint is no Mask2Former or fits nowhere.
    """
    if model.config.head != "mask2former":
        raise ConversionError(
            f"model.init_head_from starts a head from transformers' Mask2Former; the model's head is "
            f"{model.config.head!r}. Take it out, or set model.head to mask2former."
        )
    _, state_dict = _from_transformers(Mask2FormerForUniversalSegmentation, checkpoint, "mask2former", complete=False)
    report = _take(model, state_dict)
    if not report.taken:
        raise ConversionError(f"{checkpoint}: no tensor of its head has the shape of the model's; sizes differ.")
    logger.info("head: %d tensors taken from %s", len(report.taken), checkpoint)
    for name, reason in report.left.items():
        logger.info("head: %s is new (%s)", name, reason)
    return report


@torch.no_grad()
def _take(model: DinoSegForSemanticSegmentation, state_dict: Mapping[str, Tensor]) -> HeadReport:
    found = convert_mask2former_state_dict(state_dict)
    taken, left = [], {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("head."):
            continue
        if name not in found:
            left[name] = "not in the checkpoint"
        elif found[name].shape != tensor.shape:
            left[name] = f"{list(found[name].shape)} there, {list(tensor.shape)} here"
        else:
            tensor.copy_(found[name])
            taken.append(name)
    return HeadReport(tuple(taken), left)


# ---------------------------------------------------------------------- parts


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.pth` file, bare or under `model`. Nothing but tensors is ever unpickled.

    Raises:
        ConversionError: if there is no such file, or other things than tensors are in it.
    """
    file = Path(path)
    if not file.is_file():
        raise ConversionError(f"{file}: there is no such file.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn archive, foreign bytes and pickled code each raise their own
        raise ConversionError(
            f"{file} cannot be read as weights ({str(error).splitlines()[0]}). It must be a state dict as torch.save "
            "writes it, with tensors only."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise ConversionError(f"{file} holds no state dict, bare or under `model`.")
    if strangers := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        raise ConversionError(f"{file} holds entries that are no tensors: {', '.join(strangers[:5])}.")
    return {str(key): value for key, value in content.items()}


def _m2f_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    adapter, head = "segmentation_model.0.", "segmentation_model.1."
    encoder = f"{head}pixel_decoder.encoder.encoder.layers."
    feed_forward = f"{head}predictor.transformer_ffn_layers."

    def rows(name: str, ndim: int = 2) -> int:
        return _tensor(weights, name, name, ndim).shape[0]

    _tensor(weights, f"{adapter}level_embed", f"{adapter}level_embed", 2)
    return {
        "hidden_dim": rows(f"{head}pixel_decoder.mask_feature.weight", 4),
        # x and y of four points on each of three levels, and of one in the adapter, a head
        "head_attention_heads": rows(f"{encoder}0.self_attn.sampling_offsets.weight") // 24,
        "adapter_attention_heads": rows(f"{adapter}interactions.0.extractor.attn.sampling_offsets.weight") // 8,
        "pixel_decoder_layers": _count(weights, encoder),
        "pixel_decoder_ffn_dim": rows(f"{encoder}0.linear1.weight"),
        "decoder_layers": _count(weights, feed_forward),
        "decoder_ffn_dim": rows(f"{feed_forward}0.linear1.weight"),
        "num_queries": rows(f"{head}predictor.query_feat.weight"),
        "num_labels": rows(f"{head}predictor.class_embed.weight") - 1,
    }


def _tensor(weights: Mapping[str, Tensor], name: str, shown: str, ndim: int) -> Tensor:
    if name not in weights:
        raise ConversionError(f"the checkpoint lacks {shown}.")
    if weights[name].ndim != ndim:
        raise ConversionError(f"{shown} has shape {list(weights[name].shape)}; {ndim} dimensions are expected.")
    return weights[name]


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({m[1] for key in weights if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))})


def _labels(label_space: LabelSpace | None, num_labels: int, where: str) -> LabelSpace:
    if label_space is None:
        return LabelSpace({i: f"class {i}" for i in range(num_labels)})
    if label_space.num_labels != num_labels:
        raise ConversionError(
            f"{where} tells {num_labels} classes apart, the labels have {label_space.num_labels}. Give the labels that "
            "it was trained with, in their order."
        )
    return label_space


def _from_transformers(
    model_class: Any, checkpoint: str, model_type: str, *, complete: bool
) -> tuple[Any, dict[str, Tensor]]:
    """A model of transformers, and those of its tensors that are in the checkpoint: all of them if it has to be
    `complete`; no tensor may be left over."""
    try:
        found = AutoConfig.from_pretrained(checkpoint).model_type
        if found != model_type:
            raise ConversionError(f"it is a checkpoint of {found!r}; one of {model_type!r} is converted here.")
        model, report = model_class.from_pretrained(checkpoint, output_loading_info=True, ignore_mismatched_sizes=True)
    except Exception as error:  # the Hub, files and shapes each raise their own; all of them end the conversion
        raise ConversionError(f"{checkpoint} cannot be loaded: {error}") from error
    misshapen = [
        f"{name} is {list(there)}, its configuration says {list(here)}"
        for name, there, here in report["mismatched_keys"]
    ]
    if misshapen:
        raise ConversionError(f"{checkpoint}: {'; '.join(misshapen[:5])}.")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("criterion."))
    if complete and missing:
        raise ConversionError(f"{checkpoint} lacks tensors: {', '.join(missing[:5])} ({len(missing)} in all).")
    if extra := sorted(report["unexpected_keys"]):
        raise ConversionError(f"{checkpoint} has tensors that the model lacks: {', '.join(extra[:5])} ({len(extra)}).")
    return model.eval(), {name: t for name, t in model.state_dict().items() if name not in missing}


def _inference(windows: Windows) -> dict[str, Any]:
    return {"mode": "slide", "window": windows.window, "stride": windows.stride, "batch_size": 4}


def _from_backbone(backbone: str, space: LabelSpace, windows: Windows, **fields: Any) -> DinoSegForSemanticSegmentation:
    return DinoSegForSemanticSegmentation.from_backbone(
        backbone, label_space=space.to_dict(), inference=_inference(windows), **fields
    )


def _load_head(model: DinoSegForSemanticSegmentation, weights: Mapping[str, Tensor]) -> None:
    model.load_state_dict(dict(weights), strict=False)  # strict in fact: the names were checked against the head's


def _free_folder(output: str | Path) -> Path:
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConversionError(f"{folder} is in use; name a folder that does not exist or is empty.")
    return folder


def _save(model: DinoSegForSemanticSegmentation, folder: Path, space: LabelSpace, windows: Windows) -> None:
    model.save_pretrained(folder)
    DinoSegImageProcessor(
        label_space=space.to_dict(), do_resize=True, size={"shortest_edge": windows.window}
    ).save_pretrained(folder)
