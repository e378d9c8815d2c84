"""The backbone: any transformers backbone, frozen or trained, behind one small interface."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from .bounds import check_backbone, shown

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

logger = logging.getLogger(__name__)


class BackboneError(ValueError):
    """A backbone that cannot be had or does not fit; the message says what to do."""


class BackboneFeatures(NamedTuple):
    """Feature maps of one forward pass.

    Attributes:
        maps: one (B, C, h, w) per output layer.
        extent: height and width in pixels that every map covers; beyond the image when it was padded to whole patches.
    """

    maps: tuple[Tensor, ...]
    extent: tuple[int, int]

    def on(self, device: torch.device) -> BackboneFeatures:
        """The maps on another device; the same ones where they are there already."""
        return BackboneFeatures(tuple(level.to(device) for level in self.maps), self.extent)


class TokenStream(NamedTuple):
    """A plain ViT taken apart, for a head that runs its blocks itself.

    Attributes:
        tokens: (B, prefix + h·w, C) embedded patches, class and register tokens first.
        position: keyword arguments that every block takes besides the tokens (rotary positions), may be empty.
        blocks: the transformer blocks, in order.
        norm: the final norm.
        num_prefix: class and register tokens at the front.
        grid: h and w in patches.
    """

    tokens: Tensor
    position: dict[str, Any]
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix: int
    grid: tuple[int, int]


class Backbone(nn.Module):
    """Runs the backbone; when it is frozen, without gradient and in evaluation mode, whatever the model's mode.

    Args:
        config: the model's configuration; `backbone_config`, `backbone_dtype` and `freeze_backbone` are read.
        model: a loaded backbone to wrap; None builds one from the configuration.
    """

    def __init__(self, config: DinoSegConfig, model: PreTrainedModel | None = None) -> None:
        super().__init__()
        sub_config: Any = config.backbone_config
        wrapped: Any = _build(sub_config) if model is None else model
        self.model = wrapped
        if config.backbone_dtype:
            _cast_weights(wrapped, getattr(torch, config.backbone_dtype))
        # transformers gathers these from direct children, for device maps
        self._no_split_modules = set(wrapped._no_split_modules or ())
        self._skip_keys_device_placement = set(wrapped._skip_keys_device_placement or ())
        self.channels: list[int] = list(wrapped.channels)
        #: four native scales (strides 4 to 32) rather than one
        self.hierarchical: bool = hasattr(sub_config, "depths")
        self.patch_size: int = 32 if self.hierarchical else _square(sub_config.patch_size)
        self.frozen = config.freeze_backbone
        self.register_load_state_dict_pre_hook(_translate_saved_keys)
        self.freeze(self.frozen)

    def freeze(self, frozen: bool = True) -> None:
        """Freeze or release the backbone's weights."""
        self.frozen = frozen
        self.model.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, but a frozen backbone stays in evaluation mode. `from_pretrained` makes every loaded
        weight trainable and ends with `eval()`, so the freeze is renewed here."""
        super().train(mode and not self.frozen)
        if self.frozen:
            self.model.requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            if name.endswith("mask_token"):  # plays a part in pre-training only; a parameter without use upsets DDP
                parameter.requires_grad_(False)
        return self

    def forward(self, pixel_values: Tensor) -> BackboneFeatures:
        """Features of (B, 3, H, W) images of any size; padded with zeros (the mean colour) to whole patches."""
        pixel_values = pad_to_multiple(pixel_values, self.patch_size).to(next(self.model.parameters()).dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.model(pixel_values).feature_maps
        return BackboneFeatures(tuple(maps), (pixel_values.shape[-2], pixel_values.shape[-1]))

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Within it, what goes into the first block and what comes out of each is put into the list that it gives.

        Raises:
            ValueError: if it is not known what the blocks of this backbone are.
        """
        kind: Any = (getattr(self.model, "_can_record_outputs", None) or {}).get("hidden_states")
        blocks: list[Any] = []
        if isinstance(kind, type):
            blocks = [module for module in self.model.modules() if isinstance(module, kind)]
        if not blocks:
            raise ValueError(
                f"output_hidden_states: found a {type(self.model).__name__}, which does not say what its blocks are; "
                "wanted a DINOv3 or DINOv2 backbone."
            )
        states: list[Tensor] = []
        hooks = [blocks[0].register_forward_pre_hook(lambda _, given: states.append(given[0]))]
        hooks += [block.register_forward_hook(lambda _, given, made: states.append(made)) for block in blocks]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def drop_recorders(self) -> None:
        """Take out the hooks with which transformers records every layer's output. `forward` needs them; a head that
        lives on `token_stream` does not, and there they would break graph capture by `torch.compile`."""
        for module in self.model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]

    def token_stream(self, pixel_values: Tensor) -> TokenStream:
        """Take a plain ViT apart after its patch embedding; see `check_token_stream`."""
        model: Any = self.model
        grid = (pixel_values.shape[-2] // self.patch_size, pixel_values.shape[-1] // self.patch_size)
        num_prefix = 1 + getattr(model.config, "num_register_tokens", 0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pixel_values = pixel_values.to(next(model.parameters()).dtype)
            if hasattr(model, "rope_embeddings"):
                position = {"position_embeddings": model.rope_embeddings(pixel_values)}
                return TokenStream(
                    model.embeddings(pixel_values), position, model.model.layer, model.norm, num_prefix, grid
                )
            return TokenStream(
                model.embeddings(pixel_values), {}, model.encoder.layer, model.layernorm, num_prefix, grid
            )

    def check_token_stream(self) -> None:
        """
        Raises:
            BackboneError: if the backbone is no ViT of a known layout (DINOv3 ViT, DINOv2 with or without registers),
                so that `token_stream` cannot take it apart.
        """
        model: Any = self.model
        dinov2 = hasattr(model, "layernorm") and hasattr(getattr(model, "encoder", None), "layer")
        if not hasattr(model, "rope_embeddings") and not dinov2:
            raise BackboneError(
                f"this head runs the blocks of a plain ViT; {type(model).__name__} has none. Take a DINOv3 ViT or "
                "DINOv2 backbone, or a head that reads feature maps, such as mask2former."
            )


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone as its configuration describes it.

    Raises:
        BackboneError: if transformers can make none of it.
    """
    try:
        model: PreTrainedModel = AutoBackbone.from_config(config)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BackboneError(f"backbone: no model can be made of its configuration ({shown(reason)}).") from error
    return model


def pad_to_multiple(pixel_values: Tensor, multiple: int) -> Tensor:
    """Zeros right and below until height and width are multiples."""
    height, width = pixel_values.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(pixel_values, (0, right, 0, below)) if below or right else pixel_values


def _cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model's weights a type, and leave what it computes from its sizes as it is: rotary frequencies."""
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def load_backbone_config(backbone: str | Mapping[str, Any] | PreTrainedConfig, **hub: Any) -> PreTrainedConfig:
    """The configuration of a backbone given as Hub id, local folder, dict with `model_type`, or configuration.

    Raises:
        BackboneError: if it cannot be had, or is no backbone.
    """
    if isinstance(backbone, PreTrainedConfig):
        config: PreTrainedConfig = copy.deepcopy(backbone)
    elif isinstance(backbone, Mapping):
        fields = dict(backbone)
        model_type = fields.pop("model_type", None)
        try:
            check_backbone(backbone)
            config = AutoConfig.for_model(model_type, **fields)
        except Exception as error:  # each configuration of transformers checks its fields in its own way
            raise BackboneError(
                f"backbone: {dict(backbone)!r} does not describe a transformers backbone: {error}. Give `model_type`, "
                "for example dinov3_vit, and the fields of its configuration."
            ) from error
    else:
        try:
            config = AutoConfig.from_pretrained(backbone, **hub)
        except Exception as error:  # every transport and file error ends here, with one way out for the user
            raise BackboneError(_cure(backbone, error)) from error
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise BackboneError(
            f"backbone: model type {config.model_type!r} has no backbone in transformers. Use a DINOv3, DINOv2 or "
            "other model that AutoBackbone knows."
        )
    return config


def load_backbone_weights(backbone: str, config: PreTrainedConfig, **hub: Any) -> PreTrainedModel:
    """A backbone with its pretrained weights, whether they were saved by the backbone or by the full model class.

    Raises:
        BackboneError: if the files cannot be had, or weights are missing in them.
    """
    # AutoBackbone.from_pretrained asks the Hub about local folders; the class itself does not.
    model_class: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    try:
        model, report = model_class.from_pretrained(backbone, config=config, output_loading_info=True, **hub)
    except Exception as error:
        raise BackboneError(_cure(backbone, error)) from error
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise BackboneError(f"backbone {backbone}: the checkpoint lacks weights of {model_class.__name__}: {shown}.")
    logger.info("backbone weights of %s loaded from %s", model_class.__name__, backbone)
    return model


def _cure(backbone: str, error: Exception) -> str:
    """What to do about a backbone that could not be loaded. Transformers wraps the Hub's errors, so the chain tells."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    story = " | ".join(chain)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    local = "or point at a local folder that holds config.json and model.safetensors"
    licence = f"accept its licence on https://huggingface.co/{backbone}, log in with `hf auth login`"
    if "GatedRepo" in story or "gated repo" in story or "401 Client" in story or "403 Client" in story:
        cure = f"The model is gated: {licence}, {local}."
    elif any(sign in story for sign in ("OfflineMode", "HF_HUB_OFFLINE", "onnect", "Timeout", "LocalEntryNotFound")):
        cure = (
            "The Hub could not be reached and the model is not in the local cache: check the connection and that "
            f"HF_HUB_OFFLINE is not set; if the model is gated, as DINOv3 is, {licence}; {local}."
        )
    elif "RepositoryNotFound" in story or "is not a local folder" in story:
        cure = f"Check the spelling of the Hub id, log in with `hf auth login` if it is private, {local}."
    else:
        cure = f"Give a Hub id of a transformers vision backbone, {local}."
    return f"backbone {backbone!r} could not be loaded ({reason}). {cure}"


def _translate_saved_keys(module: Backbone, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let `load_state_dict` read the names under which `save_pretrained` writes the backbone.

    Transformers saves some backbones under their older parameter names and translates back in `from_pretrained`
    only; `Trainer` resumes with a plain, non-strict `load_state_dict`, which would skip those weights in silence.
    """
    model_prefix = f"{prefix}model."
    own = set(module.model.state_dict())
    renamings = get_model_conversion_mapping(module.model, add_legacy=False)
    for key in [key for key in state_dict if key.startswith(model_prefix)]:
        name = renamed = key.removeprefix(model_prefix)
        if name in own:
            continue
        for renaming in renamings:
            renamed, _source = renaming.rename_source_key(renamed)
        if renamed in own:
            state_dict[model_prefix + renamed] = state_dict.pop(key)


def _square(size: int | list[int] | tuple[int, int]) -> int:
    if isinstance(size, int):
        return size
    if size[0] != size[1]:
        raise BackboneError(f"backbone: patches of {size[0]} x {size[1]} are not square; square patches are supported.")
    return size[0]


__all__ = ["Backbone", "BackboneError", "BackboneFeatures"]
