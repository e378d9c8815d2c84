"""DinoSegForSemanticSegmentation: a backbone and a head, and the loss that teaches them."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .backbone import Backbone, load_backbone_config, load_backbone_weights, pad_to_multiple
from .configuration_dinoseg import DinoSegConfig
from .heads import head_class
from .loss import Loss
from .losses import build_loss, check_images, checked_truth
from .outputs import DinoSegOutput, Frame

logger = logging.getLogger(__name__)


class DinoSegPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = DinoSegConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["backbone"]  # heads are given the module, which stays on its own device
    accepts_loss_kwargs = False  # the Trainer's count of items is one of tokens

    @property
    def dtype(self) -> torch.dtype:
        """The type of the head's weights, in which pixel values come; the backbone's may be another."""
        head: Any = self.head
        return next(parameter.dtype for parameter in head.parameters() if parameter.is_floating_point())

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """For code from outside transformers, the library passes over modules that hold no parameter directly, in case
        `_init_weights` writes without looking. Ours looks, and has schemes for such modules."""
        super()._initialize_weights(module, is_custom_code=False)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`. The code that is saved along is that of the model's class, and FSDP
        gives a model a class made of torch's: it is laid aside meanwhile. The file of a head from outside this folder
        is saved too."""
        given, own = type(self), next(cls for cls in type(self).__mro__ if cls.__module__ == __name__)
        self.__class__ = own
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = given
        _save_code_of_head(type(self.head), Path(save_directory))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear and convolution layers small and normal, norms to one; parts with a scheme of their own, or bare
        parameters, have `init_weights` and come after the layers inside them. Loaded tensors are left alone (the
        functions of `transformers.initialization` see to it), and the backbone initialises itself."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, PreTrainedModel):
            return
        if (scheme := getattr(module, "init_weights", None)) is not None:
            scheme()


def _save_code_of_head(head: type, folder: Path) -> None:
    """Put the file of a head from elsewhere among the code that was saved, and let that code read it.

    In a checkpoint all code lies in one folder, so the file's imports from this package's `models` become imports of
    files beside it.
    """
    registry = folder / "heads.py"
    if head.__module__.rpartition(".")[0] == __name__.rpartition(".")[0] or not registry.is_file():
        return
    name = f"head_{head.name}"  # type: ignore[attr-defined]
    code = Path(inspect.getfile(head)).read_text(encoding="utf-8")
    code = re.sub(r"^(\s*from )hf_dinoseg\.models\.(\w+ import)", r"\1.\2", code, flags=re.MULTILINE)
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    line = f"\nfrom .{name} import {head.__name__}  # noqa: E402, F401 (registers itself)\n"
    if line not in (text := registry.read_text(encoding="utf-8")):
        registry.write_text(text + line, encoding="utf-8")


class DinoSegForSemanticSegmentation(DinoSegPreTrainedModel):
    """Semantic segmentation on a (DINOv3) backbone.

    Args:
        config: the model's configuration.
        backbone_model: an already loaded backbone, used as it is; None builds one from the configuration.

    Raises:
        ValueError: on an unknown head.
    """

    def __init__(self, config: DinoSegConfig, backbone_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = Backbone(config, backbone_model)
        self.head = head_class(config.head)(config, self.backbone)
        self._no_split_modules = [type(self.head).__name__]
        # in a tuple, since it is no part of the model: a loss has no weights, and stays float32 when they do not
        self._criterion: tuple[Loss] | None = None
        self.post_init()
        # blocks that are not there would be looked for in vain by FSDP
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = [name for name in self._no_split_modules or () if name in present]

    @property
    def criterion(self) -> Loss:
        """The loss of `config.loss`, made when it is first asked for."""
        if self._criterion is None:
            config: Any = self.config
            self._criterion = (build_loss(config),)
        return self._criterion[0]

    def set_criterion(self, loss: Loss) -> None:
        """Be taught by another loss, whose settings `config.loss` keeps. (No setter: `nn.Module` would not call it, and
        take the loss for a part of the model.)"""
        self._criterion = (loss,)
        self.config.loss = loss.to_dict()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        mask_labels: Sequence[Tensor] | None = None,
        class_labels: Sequence[Tensor] | None = None,
        output_auxiliary: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> DinoSegOutput:
        """Predict, and compute the loss where there is something to compare with.

        The loss is that of the batch at hand: its sums are divided by the masks (or pixels) of this batch. Over several
        processes or accumulation steps that is a mean of means; `DinoSegTrainer` divides by the counts of all of them.

        Args:
            pixel_values: (B, 3, H, W) normalised images; any H, W from 1.
            labels: (B, H, W) train ids of any integer type, `config.ignore_index` for void, which is left out.
            mask_labels, class_labels: in place of `labels`, B of (N_i, H, W) masks and B of (N_i,) train ids, as
                Mask2Former takes them; a pixel in no mask is void. Beside `labels`, which then only say what is void,
                these are what is taught.
            output_auxiliary: also return the predictions of earlier layers; None means while training.
            output_hidden_states: also return the backbone's; None means what the configuration says.
            return_dict: False for a tuple of what is not None.

        Returns:
            See `DinoSegOutput`; all maps span exactly the input, whatever padding was needed inside. The loss has the
            terms of earlier layers in evaluation too.

        Raises:
            ValueError: on arguments of a wrong shape, type or range.
        """
        check_images(pixel_values)
        truth: dict[str, Any] = {}
        if not (labels is None and mask_labels is None and class_labels is None):
            config: Any = self.config
            truth = checked_truth(config, pixel_values, labels, mask_labels, class_labels)
        if output_auxiliary is None:
            output_auxiliary = self.training
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        height, width = pixel_values.shape[-2:]
        padded = pad_to_multiple(pixel_values, self.head.pad_multiple)
        frame = Frame(height, width, padded.shape[-2], padded.shape[-1])
        states: list[Tensor] | None = None
        if output_hidden_states:
            with self.backbone.recording() as states:
                outputs = self.head(padded, frame, output_auxiliary or bool(truth), backbone=self.backbone)
        else:
            outputs = self.head(padded, frame, output_auxiliary or bool(truth), backbone=self.backbone)
        if truth:
            criterion = self.criterion.to(pixel_values.device)
            truth = {name: _moved(value, pixel_values.device) for name, value in truth.items()}
            outputs.loss = criterion(outputs, **criterion.targets(truth))["loss"]
        if states is None and (output_auxiliary or not truth):
            return outputs
        kept = {name: value for name, value in outputs.items() if output_auxiliary or name != "auxiliary_predictions"}
        return DinoSegOutput(**kept, hidden_states=None if states is None else tuple(states))

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.model.get_input_embeddings()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Mapping[str, Any] | PreTrainedConfig,
        *,
        dtype: torch.dtype = torch.float32,
        hub_options: Mapping[str, Any] | None = None,
        **config_fields: Any,
    ) -> DinoSegForSemanticSegmentation:
        """A new model: pretrained backbone, freshly initialised head.

        Args:
            backbone: Hub id or local folder of a pretrained backbone, saved by its backbone class or by the full
                model; or a dict with `model_type` (or a configuration) to start from random weights.
            dtype: type of the weights; of the head's alone where `backbone_dtype` is given.
            hub_options: passed to `from_pretrained` (`revision`, `token`, `cache_dir` …).
            config_fields: fields of `DinoSegConfig`.

        Raises:
            BackboneError: if the backbone cannot be had; the message says what to do.
            ValueError: on fields that contradict each other.
        """
        hub = dict(hub_options or {})
        sub_config = load_backbone_config(backbone, **hub)
        config = DinoSegConfig(backbone_config=sub_config, **config_fields)
        loaded = None
        if isinstance(backbone, str):
            kept = getattr(torch, config.backbone_dtype) if config.backbone_dtype else dtype
            loaded = load_backbone_weights(backbone, sub_config, dtype=kept, **hub)
        model = cls(config, loaded)
        nn.Module.to(model.head if config.backbone_dtype else model, dtype=dtype)
        return model


def _moved(value: Tensor | Sequence[Tensor], device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else [tensor.to(device) for tensor in value]


# The Trainer takes every argument of `forward` with "label" in its name for one that each evaluation batch has to hold,
# and where one is missing computes neither loss nor metrics, without a word. Batches have `labels`; whoever has masks
# instead names them in `TrainingArguments(label_names=["mask_labels", "class_labels"], remove_unused_columns=False)`.
_FORWARD: Any = DinoSegForSemanticSegmentation.forward
_SIGNATURE = inspect.signature(_FORWARD)
_FORWARD.__signature__ = _SIGNATURE.replace(
    parameters=[p for p in _SIGNATURE.parameters.values() if p.name not in ("mask_labels", "class_labels")]
)


__all__ = ["DinoSegForSemanticSegmentation", "DinoSegOutput"]
