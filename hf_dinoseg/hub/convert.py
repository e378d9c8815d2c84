"""Published weights to this package's names, shape by shape checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

#: Published name → name here. `segmentation_model.0.*` is the adapter, `.1.*` the head; the first pattern that matches
#: the whole of what follows `segmentation_model.` applies.
_META_M2F_RULES: Sequence[tuple[str, str]] = (
    # adapter: convolutional prior. The stem numbers convolution, norm and activation through: 0 1 2 | 3 4 5 | 6 7 8
    (r"0\.spm\.stem\.0\.(.+)", r"adapter.prior.stem.0.0.\1"),
    (r"0\.spm\.stem\.1\.(.+)", r"adapter.prior.stem.0.1.\1"),
    (r"0\.spm\.stem\.3\.(.+)", r"adapter.prior.stem.1.0.\1"),
    (r"0\.spm\.stem\.4\.(.+)", r"adapter.prior.stem.1.1.\1"),
    (r"0\.spm\.stem\.6\.(.+)", r"adapter.prior.stem.2.0.\1"),
    (r"0\.spm\.stem\.7\.(.+)", r"adapter.prior.stem.2.1.\1"),
    (r"0\.spm\.conv2\.(.+)", r"adapter.prior.down.0.\1"),
    (r"0\.spm\.conv3\.(.+)", r"adapter.prior.down.1.\1"),
    (r"0\.spm\.conv4\.(.+)", r"adapter.prior.down.2.\1"),
    (r"0\.spm\.fc1\.(.+)", r"adapter.prior.project.0.\1"),
    (r"0\.spm\.fc2\.(.+)", r"adapter.prior.project.1.\1"),
    (r"0\.spm\.fc3\.(.+)", r"adapter.prior.project.2.\1"),
    (r"0\.spm\.fc4\.(.+)", r"adapter.prior.project.3.\1"),
    # adapter: interactions; the last one carries two extractors more
    (r"0\.interactions\.(\d)\.extractor\.(.+)", r"adapter.extractors.\1.\2"),
    (r"0\.interactions\.3\.extra_extractors\.0\.(.+)", r"adapter.extractors.4.\1"),
    (r"0\.interactions\.3\.extra_extractors\.1\.(.+)", r"adapter.extractors.5.\1"),
    (r"0\.norm1\.(.+)", r"adapter.norms.0.\1"),
    (r"0\.norm2\.(.+)", r"adapter.norms.1.\1"),
    (r"0\.norm3\.(.+)", r"adapter.norms.2.\1"),
    (r"0\.norm4\.(.+)", r"adapter.norms.3.\1"),
    (r"0\.(level_embed|up\..+)", r"adapter.\1"),
    # pixel decoder
    (r"1\.pixel_decoder\.input_convs\.(.+)", r"pixel_decoder.inputs.\1"),
    (r"1\.pixel_decoder\.encoder\.level_encoding", r"pixel_decoder.level_embed"),
    (r"1\.pixel_decoder\.encoder\.encoder\.layers\.(.+)", r"pixel_decoder.layers.\1"),
    (r"1\.pixel_decoder\.lateral_convs\.0\.weight", r"pixel_decoder.lateral.0.weight"),
    (r"1\.pixel_decoder\.lateral_convs\.0\.norm\.(.+)", r"pixel_decoder.lateral.1.\1"),
    (r"1\.pixel_decoder\.output_convs\.0\.weight", r"pixel_decoder.output.0.weight"),
    (r"1\.pixel_decoder\.output_convs\.0\.norm\.(.+)", r"pixel_decoder.output.1.\1"),
    (r"1\.pixel_decoder\.mask_feature\.(.+)", r"pixel_decoder.mask_projection.\1"),
    # transformer decoder
    (r"1\.predictor\.transformer_cross_attention_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.cross_norm.\2"),
    (r"1\.predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
     r"decoder.layers.\1.cross_attention.\2"),
    (r"1\.predictor\.transformer_self_attention_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.self_norm.\2"),
    (r"1\.predictor\.transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
     r"decoder.layers.\1.self_attention.\2"),
    (r"1\.predictor\.transformer_ffn_layers\.(\d+)\.norm\.(.+)", r"decoder.layers.\1.ffn_norm.\2"),
    (r"1\.predictor\.transformer_ffn_layers\.(\d+)\.linear1\.(.+)", r"decoder.layers.\1.fc1.\2"),
    (r"1\.predictor\.transformer_ffn_layers\.(\d+)\.linear2\.(.+)", r"decoder.layers.\1.fc2.\2"),
    (r"1\.predictor\.post_norm\.(.+)", r"decoder.norm.\1"),
    (r"1\.predictor\.query_feat\.weight", r"decoder.query_features"),
    (r"1\.predictor\.query_embed\.weight", r"decoder.query_places"),
    (r"1\.predictor\.level_embed\.weight", r"decoder.level_embed"),
    (r"1\.predictor\.class_embed\.(.+)", r"decoder.classify.\1"),
    (r"1\.predictor\.mask_embed\.(.+)", r"decoder.mask_mlp.\1"),
)  # fmt: skip

#: parts of a name that are called otherwise here, wherever they stand
_META_M2F_PARTS: Sequence[tuple[str, str]] = (
    ("feat_norm", "patch_norm"),
    ("attn", "attention"),
    ("dwconv.dwconv", "depthwise"),
    ("linear1", "fc1"),
    ("linear2", "fc2"),
    ("norm1", "attention_norm"),
    ("norm2", "ffn_norm"),
)


class ConversionError(ValueError):
    """Weights that do not fit; the message names the tensors."""


def meta_m2f_key_map(keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of a published DINOv3 Mask2Former head checkpoint to names in `DinoSegForSemanticSegmentation`.

    Args:
        keys: the checkpoint's tensor names, `segmentation_model.0.*` and `segmentation_model.1.*`.

    Returns:
        For each name the names here: one, or three where a packed query-key-value projection is taken apart (in that
        order, equal parts of the first dimension).

    Raises:
        ConversionError: on names that such a checkpoint does not have.
    """
    table: dict[str, tuple[str, ...]] = {}
    unknown = []
    for key in keys:
        name = _meta_m2f_name(key)
        if name is None:
            unknown.append(key)
        elif packed := re.fullmatch(r"(.+)\.in_proj_(weight|bias)", name):
            stem, leaf = packed.groups()
            table[key] = tuple(f"{stem}.{part}_proj.{leaf}" for part in "qkv")
        else:
            table[key] = (name,)
    if unknown:
        raise ConversionError(
            f"not a published DINOv3 Mask2Former head: unknown tensors {_some(unknown)}. Their names start with "
            "segmentation_model.0. (adapter) and segmentation_model.1. (head)."
        )
    return table


def convert_meta_m2f_state_dict(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A published DINOv3 Mask2Former head checkpoint under this package's names.

    Args:
        state_dict: adapter and head tensors, without the backbone (the published files hold none).
        expected: the state dict of the model to load into; its `head.*` tensors are checked against the result.

    Returns:
        `head.*` tensors; views of the given ones.

    Raises:
        ConversionError: on unknown names, and against `expected` on missing, extra or misshapen tensors.
    """
    converted: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, names in meta_m2f_key_map(list(state_dict)).items():
        tensor = state_dict[key]
        if len(names) > 1 and (tensor.ndim == 0 or tensor.shape[0] % len(names)):
            raise ConversionError(
                f"{key} has shape {list(tensor.shape)}; query, key and value need a first dimension that three divides."
            )
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        for name, part in zip(names, parts, strict=True):
            converted[name], origin[name] = part, key
    if expected is not None:
        _check(converted, {k: v for k, v in expected.items() if k.startswith("head.")}, origin)
    return converted


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: Mapping[str, str]) -> None:
    """Same names, same shapes, or an error that names the tensors."""
    faults = []
    if missing := sorted(set(wanted) - set(found)):
        faults.append(f"missing: {_some(missing)}")
    if extra := sorted({origin[name] for name in set(found) - set(wanted)}):
        faults.append(f"not in the model: {_some(extra)}")
    misshapen = [
        f"{origin[name]} is {list(found[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in sorted(set(found) & set(wanted))
        if found[name].shape != wanted[name].shape
    ]
    if misshapen:
        faults.append(f"shapes that differ: {'; '.join(misshapen[:5])}{_more(misshapen)}")
    if faults:
        raise ConversionError(f"the checkpoint does not fit the model. {'. '.join(faults)}.")


def _meta_m2f_name(key: str) -> str | None:
    prefix = "segmentation_model."
    if not key.startswith(prefix):
        return None
    for pattern, replacement in _META_M2F_RULES:
        if re.fullmatch(pattern, key.removeprefix(prefix)):
            name = re.sub(pattern, replacement, key.removeprefix(prefix))
            return "head." + _rename_parts(name)
    return None


def _rename_parts(name: str) -> str:
    if ".layers." in name and name.startswith("pixel_decoder") or ".extractors." in name:
        name = name.replace("self_attn.", "attn.")
        for theirs, ours in _META_M2F_PARTS:
            name = name.replace(f".{theirs}.", f".{ours}.")
    return name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + _more(names)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""
