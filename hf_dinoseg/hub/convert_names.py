"""Published weights to this package's names, shape by shape checked.

`converters` makes whole checkpoint folders with these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import ModelError

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

#: transformers' EoMT on DINOv3 → name here; the longest beginnings first
_EOMT_STARTS: Sequence[tuple[str, str]] = (
    ("layers.", "backbone.model.model.layer."),
    ("layernorm.", "backbone.model.norm."),
    ("embeddings.", "backbone.model.embeddings."),
    ("query.weight", "head.queries"),
    ("class_predictor.", "head.classify."),
    ("mask_head.fc1.", "head.mask_mlp.layers.0."),
    ("mask_head.fc2.", "head.mask_mlp.layers.1."),
    ("mask_head.fc3.", "head.mask_mlp.layers.2."),
    ("upscale_block.block.", "head.upscale."),
)
_EOMT_PARTS: Sequence[tuple[str, str]] = (("conv1", "expand"), ("conv2", "depthwise"), ("layernorm2d", "norm"))

#: The authors' PMT, after `network.` → name here
_PMT_RULES: Sequence[tuple[str, str]] = (
    (r"bn\.(\d+)\.(.+)", r"levels.\1.norm.\2"),
    (r"decoder\.lateral_projections\.(\d+)\.0\.(.+)", r"levels.\1.down.\2"),
    (r"decoder\.lateral_projections\.(\d+)\.2\.(.+)", r"levels.\1.up.\2"),
    (r"decoder\.scalers\.(\d+)", r"levels.\1.scale"),
    (r"decoder\.q\.weight", r"queries"),
    (r"decoder\.blocks\.(\d+\.norm[12]\..+)", r"blocks.\1"),
    (r"decoder\.blocks\.(\d+)\.attention\.([qkv]_proj\..+)", r"blocks.\1.\2"),
    (r"decoder\.blocks\.(\d+)\.attention\.o_proj\.(.+)", r"blocks.\1.out_proj.\2"),
    (r"decoder\.blocks\.(\d+\.layer_scale[12])\.lambda1", r"blocks.\1"),
    (r"decoder\.blocks\.(\d+)\.mlp\.up_proj\.(.+)", r"blocks.\1.fc1.\2"),
    (r"decoder\.blocks\.(\d+)\.mlp\.down_proj\.(.+)", r"blocks.\1.fc2.\2"),
    (r"decoder\.decoder_norm\.(.+)", r"norm.\1"),
    (r"decoder\.upscale\.(\d)\.conv1\.(.+)", r"upscale.\1.expand.\2"),
    (r"decoder\.upscale\.(\d)\.conv2\.(.+)", r"upscale.\1.depthwise.\2"),
    (r"decoder\.upscale\.(\d)\.norm\.(.+)", r"upscale.\1.norm.\2"),
    (r"decoder\.mask_head\.0\.(.+)", r"mask_mlp.layers.0.\1"),
    (r"decoder\.mask_head\.2\.(.+)", r"mask_mlp.layers.1.\1"),
    (r"decoder\.mask_head\.4\.(.+)", r"mask_mlp.layers.2.\1"),
    (r"decoder\.class_head\.(.+)", r"classify.\1"),
)  # fmt: skip
#: in the authors' files and not in the head: the loss, the state of the annealing, a backbone that rested
_PMT_UNUSED = re.compile(r"criterion\..+|network\.encoder\..+|network\.decoder\.attn_mask_probs")

#: transformers' Mask2Former → name here
_MASK2FORMER_RULES: Sequence[tuple[str, str]] = (
    (r"model\.pixel_level_module\.decoder\.input_projections\.(.+)", r"pixel_decoder.inputs.\1"),
    (r"model\.pixel_level_module\.decoder\.adapter_1\.(.+)", r"pixel_decoder.lateral.\1"),
    (r"model\.pixel_level_module\.decoder\.layer_1\.(.+)", r"pixel_decoder.output.\1"),
    (r"model\.pixel_level_module\.decoder\.encoder\.layers\.(.+)", r"pixel_decoder.layers.\1"),
    (r"model\.pixel_level_module\.decoder\.(level_embed|mask_projection\..+)", r"pixel_decoder.\1"),
    (r"model\.transformer_module\.queries_features\.weight", r"decoder.query_features"),
    (r"model\.transformer_module\.queries_embedder\.weight", r"decoder.query_places"),
    (r"model\.transformer_module\.level_embed\.weight", r"decoder.level_embed"),
    (r"model\.transformer_module\.decoder\.layers\.(.+)", r"decoder.layers.\1"),
    (r"model\.transformer_module\.decoder\.layernorm\.(.+)", r"decoder.norm.\1"),
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.(.+)",
     r"decoder.mask_mlp.layers.\1.\2"),
    (r"class_predictor\.(.+)", r"decoder.classify.\1"),
)  # fmt: skip
_MASK2FORMER_PARTS: dict[str, Sequence[tuple[str, str]]] = {
    "pixel_decoder": (
        ("self_attn", "attention"),
        ("self_attn_layer_norm", "attention_norm"),
        ("final_layer_norm", "ffn_norm"),
    ),
    "decoder": (
        ("cross_attn", "cross_attention"),
        ("cross_attn_layer_norm", "cross_norm"),
        ("self_attn", "self_attention"),
        ("self_attn_layer_norm", "self_norm"),
        ("final_layer_norm", "ffn_norm"),
    ),
}


class ConversionError(ModelError):
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
        else:
            table[key] = _unpacked(name)
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
    converted, origin = _rename(state_dict, meta_m2f_key_map(list(state_dict)))
    if expected is not None:
        check_fit(converted, {k: v for k, v in expected.items() if k.startswith("head.")}, origin)
    return converted


def convert_meta_linear_state_dict(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A published DINOv3 linear head (`batchnorm_layer.*`, `conv.*`) under this package's names.

    Names may stand behind `module.`, `decoder.` or `segmentation_model.1.`, as wrappers and training runs save them.
    Arguments, result and errors as `convert_meta_m2f_state_dict`.
    """
    table: dict[str, tuple[str, ...]] = {}
    unknown = []
    for key in state_dict:
        match = re.fullmatch(r"(?:(?:module|decoder|segmentation_model(?:\.1)?)\.)*(batchnorm_layer|conv)\.(\w+)", key)
        if match is None:
            unknown.append(key)
        else:
            table[key] = ({"batchnorm_layer": "head.norm.", "conv": "head.classify."}[match[1]] + match[2],)
    if unknown:
        raise ConversionError(
            f"not a published DINOv3 linear head: unknown tensors {_some(unknown)}. It holds batchnorm_layer.* and "
            "conv.* only."
        )
    converted, origin = _rename(state_dict, table)
    if expected is not None:
        check_fit(converted, {k: v for k, v in expected.items() if k.startswith("head.")}, origin)
    return converted


def convert_pmt_state_dict(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A decoder of PMT as its authors save it (`network.decoder.*`, `network.bn.*`) under this package's names.

    What belongs to the loss, the annealing or the backbone is left out. Arguments, result and errors as
    `convert_meta_m2f_state_dict`.
    """
    table: dict[str, tuple[str, ...]] = {}
    unknown = []
    for key in state_dict:
        if _PMT_UNUSED.fullmatch(key):
            continue
        name = key.removeprefix("network.")
        ours = next((re.sub(p, r, name) for p, r in _PMT_RULES if re.fullmatch(p, name)), None)
        if ours is None:
            unknown.append(key)
        else:
            table[key] = (f"head.{ours}",)
    if unknown:
        raise ConversionError(
            f"not a decoder of PMT as its authors save it: unknown tensors {_some(unknown)}. Their tensors are called "
            "network.decoder.q.weight, network.bn.0.weight and so on."
        )
    converted, origin = _rename(state_dict, table)
    if expected is not None:
        check_fit(converted, {k: v for k, v in expected.items() if k.startswith("head.")}, origin)
    return converted


def convert_eomt_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of transformers' `EomtDinov3ForUniversalSegmentation` under this package's names, and for each of these
    the name it had. What belongs to its loss or its annealing is left out; an unknown name is kept, so that a check
    against the model finds it."""
    table: dict[str, tuple[str, ...]] = {}
    for key in state_dict:
        if key.startswith("criterion.") or key == "attn_mask_probs":
            continue
        name = key
        for theirs, ours in _EOMT_STARTS:
            if key.startswith(theirs):
                name = ours + key.removeprefix(theirs)
                break
        if name.startswith("head.upscale."):
            for theirs, ours in _EOMT_PARTS:
                name = name.replace(f".{theirs}.", f".{ours}.")
        table[key] = (name,)
    return _rename(state_dict, table)


def convert_mask2former_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Head weights of transformers' `Mask2FormerForUniversalSegmentation` under this package's names; its backbone,
    its loss and what has no counterpart are left out."""
    table: dict[str, tuple[str, ...]] = {}
    for key in state_dict:
        name = next((re.sub(p, r, key) for p, r in _MASK2FORMER_RULES if re.fullmatch(p, key)), None)
        if name is None:
            continue
        if ".layers." in name and ".mask_mlp." not in name:
            for theirs, ours in _MASK2FORMER_PARTS[name.partition(".")[0]]:
                name = name.replace(f".{theirs}.", f".{ours}.")
        table[key] = _unpacked(f"head.{name}")
    return _rename(state_dict, table)[0]


def _unpacked(name: str) -> tuple[str, ...]:
    """The name, or the three names that a packed query-key-value projection comes apart into."""
    if packed := re.fullmatch(r"(.+)\.in_proj_(weight|bias)", name):
        stem, leaf = packed.groups()
        return tuple(f"{stem}.{part}_proj.{leaf}" for part in "qkv")
    return (name,)


def _rename(
    state_dict: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under their new names, and for each new name the old one."""
    converted: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, names in table.items():
        tensor = state_dict[key]
        if len(names) > 1 and (tensor.ndim == 0 or tensor.shape[0] % len(names)):
            raise ConversionError(
                f"{key} has shape {list(tensor.shape)}; query, key and value need a first dimension that three divides."
            )
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        for name, part in zip(names, parts, strict=True):
            if name in origin:
                raise ConversionError(f"{origin[name]} and {key} are the same tensor of the model, {name}.")
            converted[name], origin[name] = part, key
    return converted, origin


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: Mapping[str, str]) -> None:
    """Same names, same shapes, or a `ConversionError` that names the tensors.

    Args:
        found: tensors under the model's names.
        wanted: the model's.
        origin: for each name in `found` the name it had in the checkpoint.
    """
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
