"""Published checkpoints to checkpoint folders of this package, and heads to start training from.

Files are read by `checkpoint_files` and `eomt_checkpoints`, names translated by `convert`; here sizes are read off the
tensors, and models built and saved.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from ..checkpoint import model_errors
from ..labels import LabelSpace
from ..models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegImageProcessor, default_out_layers
from ..models.backbone import load_backbone_config, load_backbone_weights
from ..models.head_mask2former import Mask2FormerHead
from ..recipe import label_preset
from .convert_eomt import authors_file, read_eomt
from .convert_names import (
    ConversionError,
    check_fit,
    convert_eomt_state_dict,
    convert_mask2former_state_dict,
    convert_meta_linear_state_dict,
    convert_meta_m2f_state_dict,
    convert_pmt_state_dict,
)
from .weight_files import checked_tensor, count_layers, from_transformers, read_state_dict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windows:
    """How the checkpoint predicts: images with `window` pixels on the shorter side, seen through square windows."""

    window: int
    stride: int


#: of the evaluations on ADE20K that DINOv3's authors publish: `config-ade20k-m2f-inference.yaml` and
#: `config-ade20k-linear-training.yaml` of https://github.com/facebookresearch/dinov3 (shorter side, window and stride)
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


@model_errors()
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


@model_errors()
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
    kernel = checked_tensor(converted, "head.classify.weight", "conv.weight", 4)
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


@model_errors()
def convert_eomt(
    checkpoint: str,
    output: str | Path,
    backbone: str | None = None,
    label_space: LabelSpace | None = None,
    window: int | None = None,
) -> None:
    """A checkpoint of EoMT on DINOv3 to a checkpoint folder: whole, or of differences to a backbone's weights.

    Windows stand side by side along an image's longer side, the last one moved back to end with it; so does the
    paper's evaluation for images up to twice as long as they are wide.

    Args:
        checkpoint: Hub id or local folder of one of transformers; or the authors' own `pytorch_model.bin`, or a Hub id
            or folder with that.
        backbone: Hub id or local folder of the backbone. It is needed for differences (see
            `eomt_checkpoints.holds_differences`), and for the authors' files, which tell no sizes.
        label_space: the classes; None takes the checkpoint's names, or numbers.
        window: side of the windows; None takes the checkpoint's image size, or ADE20K's 512.

    Raises:
        ConversionError, BackboneError: as `convert_meta_m2f`, and if there are differences and no backbone.
    """
    folder = _free_folder(output)
    found = read_eomt(checkpoint, backbone)
    count = found.weights["class_predictor.bias"].shape[0] - 1
    space = _labels(label_space or (LabelSpace(found.names) if found.names else None), count, checkpoint)
    side = window or found.image_size or LINEAR_WINDOWS.window
    windows = Windows(side, side)
    extra: dict[str, Any] = {"inference": _inference(windows)}
    model = DinoSegForSemanticSegmentation(
        DinoSegConfig(
            backbone_config=found.backbone_config,
            head="eomt",
            label_space=space.to_dict(),
            num_queries=found.weights["query.weight"].shape[0],
            # the authors' differences tell of 1, with which training began: annealed to 0 is -1
            attn_mask_probs=found.weights["attn_mask_probs"].clamp(0, 1).tolist(),
            **extra,
        )
    )
    converted, origin = convert_eomt_state_dict(found.weights)
    # plays a part in pre-training only, so EoMT has none
    wanted = {name: t for name, t in model.state_dict().items() if not name.endswith("mask_token")}
    check_fit(converted, wanted, origin)
    if found.differences and backbone is not None:
        base = load_backbone_weights(backbone, load_backbone_config(backbone)).state_dict()
        base = {f"backbone.model.{name}": t for name, t in base.items() if not name.endswith("mask_token")}
        check_fit(base, {n: t for n, t in wanted.items() if n.startswith("backbone.")}, {n: n for n in base})
        converted |= {name: converted[name] + tensor for name, tensor in base.items()}
        logger.info("%s holds differences; they are added to the weights of %s", checkpoint, backbone)
    model.load_state_dict(converted, strict=False)
    _save(model, folder, space, windows)


@model_errors()
def convert_pmt(
    checkpoint: str,
    backbone: str,
    output: str | Path,
    label_space: LabelSpace | None = None,
    window: int = LINEAR_WINDOWS.window,
) -> None:
    """A decoder of PMT, as its authors publish them, and the backbone that it was trained on to a checkpoint folder.

    Windows lie as `convert_eomt` lays them. Attention is not masked, as in the authors' inference.

    Args:
        checkpoint: the `pytorch_model.bin`, or a Hub id or local folder with that. It holds the decoder alone.
        backbone: Hub id or local folder.
        label_space: the classes; None names them by number.
        window: side of the windows.

    Raises:
        ConversionError, BackboneError: as `convert_meta_m2f`.
    """
    folder = _free_folder(output)
    file = authors_file(checkpoint)
    if file is None:
        raise ConversionError(
            f"{checkpoint} has no decoder of PMT: it is neither a file, nor a Hub id or folder with a "
            "pytorch_model.bin, or it is a checkpoint of transformers. Pass what PMT's authors publish."
        )
    weights = read_state_dict(file)
    converted = convert_pmt_state_dict(weights)
    queries = checked_tensor(converted, "head.queries", "network.decoder.q.weight", 2)
    classify = checked_tensor(converted, "head.classify.weight", "network.decoder.class_head.weight", 2)
    sub_config: Any = load_backbone_config(backbone)
    found = getattr(sub_config, "hidden_size", "of several widths")
    if found != queries.shape[1]:
        raise ConversionError(
            f"network.decoder.q.weight is {queries.shape[1]} wide, the backbone {backbone} is {found}; name the "
            "backbone that the decoder was trained on."
        )
    space = _labels(label_space, classify.shape[0] - 1, str(file))
    blocks = count_layers(converted, "head.blocks.")
    model = _from_backbone(
        backbone,
        space,
        Windows(window, window),
        head="pmt",
        num_queries=queries.shape[0],
        decoder_blocks=blocks,
        attn_mask_probs=[0.0] * blocks,
    )
    _load_head(model, convert_pmt_state_dict(weights, model.state_dict()))
    _save(model, folder, space, Windows(window, window))


@model_errors()
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
    peer, state_dict = from_transformers(Mask2FormerForUniversalSegmentation, checkpoint, "mask2former", complete=False)
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
        num_attention_heads=config.num_attention_heads,
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
    if not isinstance(model.head, Mask2FormerHead):
        raise ConversionError(
            f"model.init_from starts a head from transformers' Mask2Former; the model's head is "
            f"{model.config.head!r}. Take it out, or choose model.head: mask2former."
        )
    _, state_dict = from_transformers(Mask2FormerForUniversalSegmentation, checkpoint, "mask2former", complete=False)
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


def _m2f_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    adapter, head = "segmentation_model.0.", "segmentation_model.1."
    encoder = f"{head}pixel_decoder.encoder.encoder.layers."
    feed_forward = f"{head}predictor.transformer_ffn_layers."

    def rows(name: str, ndim: int = 2) -> int:
        return checked_tensor(weights, name, name, ndim).shape[0]

    checked_tensor(weights, f"{adapter}level_embed", f"{adapter}level_embed", 2)
    return {
        "hidden_dim": rows(f"{head}pixel_decoder.mask_feature.weight", 4),
        # x and y of four points on each of three levels, and of one in the adapter, a head
        "num_attention_heads": rows(f"{encoder}0.self_attn.sampling_offsets.weight") // 24,
        "adapter_attention_heads": rows(f"{adapter}interactions.0.extractor.attn.sampling_offsets.weight") // 8,
        "pixel_decoder_layers": count_layers(weights, encoder),
        "pixel_decoder_ffn_dim": rows(f"{encoder}0.linear1.weight"),
        "decoder_layers": count_layers(weights, feed_forward),
        "decoder_ffn_dim": rows(f"{feed_forward}0.linear1.weight"),
        "num_queries": rows(f"{head}predictor.query_feat.weight"),
        "num_labels": rows(f"{head}predictor.class_embed.weight") - 1,
    }


def _labels(label_space: LabelSpace | None, num_labels: int, where: str) -> LabelSpace:
    if label_space is None:
        return LabelSpace({i: f"class {i}" for i in range(num_labels)})
    if label_space.num_labels != num_labels:
        raise ConversionError(
            f"{where} tells {num_labels} classes apart, the labels have {label_space.num_labels}. Give the labels that "
            "it was trained with, in their order."
        )
    return label_space


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
