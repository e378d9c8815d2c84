"""DinoSegConfig: everything that rebuilds a DinoSeg model, label space included."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .bounds import LARGEST, check, check_backbone, check_label_space, check_names, check_threshold, is_whole, shown

# every head registers itself when its file is read; here, so that a configuration alone knows them all
from .head_eomt import EomtHead  # noqa: F401
from .head_linear import LinearHead  # noqa: F401
from .head_mask2former import Mask2FormerHead  # noqa: F401
from .head_pmt import PmtHead  # noqa: F401
from .heads import head_class, head_settings

logger = logging.getLogger(__name__)

#: Names of version 0.1 and what they are now.
_RENAMED = {"head_attention_heads": "num_attention_heads"}


class DinoSegConfig(PreTrainedConfig):
    """Configuration of `DinoSegForSemanticSegmentation`.

    Args:
        backbone_config: a transformers backbone configuration, or its dict with `model_type`. Its output layers are
            set from `out_layers`. None: a DINOv3 ViT of default size.
        head: `mask2former`, `pmt`, `eomt` or `linear`, or another registered one (`heads.register_head`).
        label_space: a label space, or its plain dict (`classes`, `original_ids`, `void_id`, `ignore_index` …), which is
            what is kept. When it is given, `id2label` follows from it; it restores original ids after prediction.
        ignore_index: the train id of void pixels; taken from `label_space` where that is given.
        background_threshold: default threshold of the image processor's post-processing; None for none.
        palette: the colours of images: `dataset` for the label space's, `colorblind` for ones that everybody can
            tell apart.
        freeze_backbone: the backbone is not trained: no gradient, evaluation mode.
        backbone_dtype: `float32`, `bfloat16` or `float16`: the type of the backbone's weights, saved and loaded so,
            while the head's are those of the model. None: the model's.
        out_layers: backbone layers (1-based) whose features are used. None: the published choice for the depth (the
            last layer alone for the linear head and eomt; all four stages of a hierarchical backbone).
        loss: settings of the head's loss, by the names of its constructor's arguments, such as `no_object_weight` of
            `MaskClassificationLoss` or `ce_weight` of `PixelLoss`; `class_weights` are a list, one for each train id.
            What is left out has the loss's default.
        settings: by name, the settings of the heads, such as `num_queries`, `hidden_dim` and `num_attention_heads`:
            see `settings` of each head's class.

    Raises:
        ValueError: on sizes that do not fit together, or labels that contradict the label space.
    """

    model_type = "dinoseg"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov3_vit")}

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    head: str = "mask2former"
    label_space: Any = None
    ignore_index: int = 255
    background_threshold: float | None = None
    palette: str = "dataset"
    freeze_backbone: bool = True
    backbone_dtype: str | None = None
    out_layers: list[int] | None = None
    loss: dict[str, Any] | None = None

    if TYPE_CHECKING:  # the dataclass that transformers makes of this class takes settings of heads too

        def __init__(self, *args: Any, **fields: Any) -> None: ...

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> DinoSegConfig:
        """As `PreTrainedConfig.from_dict`. Who asks for another number of labels, or for other names, or for another
        label space, gets a configuration for these classes; the label space that was stored is left out then.

        Raises:
            ValueError: on the configuration of another model; transformers alone would go on with defaults.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"{config_dict.get('_name_or_path') or 'this'} is a checkpoint of {kind!r}, not of {cls.model_type!r}. "
                "Heads of others are read by `dinoseg convert`; a recipe names its backbone in model.backbone."
            )
        stored = config_dict.get("label_space") or {}
        names = [stored["classes"][str(original)] for original in stored.get("original_ids", ())]
        wanted, count = kwargs.get("id2label"), kwargs.get("num_labels")
        other_names = wanted is not None and [wanted[key] for key in sorted(wanted, key=int)] != names
        if kwargs.get("label_space") is not None or other_names or count not in (None, len(names)):
            of_classes = {"label_space", "id2label", "label2id", "num_labels"} | ({"ignore_index"} if stored else set())
            given = {key: kwargs.pop(key) for key in ("label_space", "id2label", "label2id") if key in kwargs}
            config_dict = {key: value for key, value in config_dict.items() if key not in of_classes} | given
            if stored and "label_space" not in given:
                logger.warning(
                    "The checkpoint's label space has the classes %s; other classes are asked for, so it is left out. "
                    "label_space=… gives another.",
                    ", ".join(names),
                )
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        head = head_class(self.head)
        if hasattr(self.label_space, "to_dict"):
            self.label_space = self.label_space.to_dict()
        self._check_fields(kwargs)
        for old, new in _RENAMED.items():
            if old in kwargs:
                kwargs.setdefault(new, kwargs.pop(old))
        for name, setting in head_settings().items():
            setattr(self, name, kwargs.pop(name, setting.default))
        if self.label_space is not None:
            self._take_labels(kwargs)
        self._build_backbone_config(kwargs)
        settings = {name: getattr(self, name) for name in head_settings()}
        backbone: Any = self.backbone_config
        depth = len(backbone.stage_names) - 1
        faults = [fault for name, value in settings.items() if (fault := head_settings()[name].fault(name, value))]
        if faults := faults or head.faults(settings, depth):
            raise ValueError(" ".join(faults))
        self._choose_out_layers(*head.layers(settings, depth, hasattr(backbone, "depths")), depth)

    def _check_fields(self, kwargs: dict[str, Any]) -> None:
        """Types and sizes, before anything is made of them."""
        if self.label_space is not None:
            check_label_space(self.label_space)
        if self.id2label is not None:
            check_names(self.id2label)
        count = kwargs.get("num_labels")
        check(count is None or is_whole(count, 0), "num_labels", count, f"a whole number of at most {LARGEST}")
        check(is_whole(self.ignore_index), "ignore_index", self.ignore_index, f"a whole number of at most {LARGEST}")
        check_threshold(self.background_threshold)
        check(isinstance(self.freeze_backbone, bool), "freeze_backbone", self.freeze_backbone, "true or false")
        layers = self.out_layers
        fine = layers is None or (isinstance(layers, (list, tuple)) and all(is_whole(layer) for layer in layers))
        check(fine, "out_layers", layers, "a list of layers, or null")
        if self.backbone_dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"backbone_dtype is {shown(self.backbone_dtype)}; choose float32, bfloat16 or float16.")
        if self.backbone_config is not None and not isinstance(self.backbone_config, PreTrainedConfig):
            check_backbone(self.backbone_config)

    def _build_backbone_config(self, kwargs: dict[str, Any]) -> None:
        """What transformers makes of the fields. Its configurations check their own, each in its way."""
        try:
            super().__post_init__(**kwargs)
            depth = len(self.backbone_config.stage_names)  # type: ignore[union-attr]
        except ValueError:
            raise
        except Exception as error:  # KeyError for a model type, StrictDataclassError for a field, and more
            reason = f"{error} is not known" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(f"backbone_config describes no backbone of transformers ({reason}).") from error
        if depth < 2:
            raise ValueError("backbone_config has no layers; it needs at least one.")

    def _take_labels(self, kwargs: dict[str, Any]) -> None:
        """`id2label`, `label2id` and `ignore_index` as the label space has them."""
        space = self.label_space or {}
        classes = {int(original): name for original, name in space["classes"].items()}
        id2label = {train_id: classes[int(original)] for train_id, original in enumerate(space["original_ids"])}
        given = kwargs.pop("num_labels", None)
        if self.id2label is not None and len(self.id2label) != len(id2label):
            given = len(self.id2label)
        if given is not None and given != len(id2label):
            raise ValueError(
                f"the model is asked for {given} labels, but its label space has {len(id2label)} classes. Leave out "
                "num_labels and id2label: they follow from the label space."
            )
        self.id2label = id2label
        self.label2id = {name: train_id for train_id, name in id2label.items()}
        self.ignore_index = int(space["ignore_index"])

    def _choose_out_layers(self, default: list[int], counts: tuple[int, ...], depth: int) -> None:
        """Point the backbone's outputs at the layers that the head reads, each through the final norm."""
        backbone: Any = self.backbone_config
        layers = default if self.out_layers is None else list(self.out_layers)
        if len(layers) not in counts or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
            raise ValueError(
                f"out_layers is {shown(layers)}; head {self.head!r} as it is set reads {' or '.join(map(str, counts))} "
                f"different layers, ascending, between 1 and {depth}."
            )
        backbone.out_indices = layers
        for switch in ("apply_layernorm", "reshape_hidden_states"):
            if hasattr(backbone, switch):
                setattr(backbone, switch, True)


__all__ = ["DinoSegConfig"]
