"""DinoSegConfig: everything that rebuilds a DinoSeg model, label space included."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


def default_out_layers(num_layers: int) -> list[int]:
    """The backbone layers (1-based) that the published DINOv3 segmentor reads.

    Even quarters of the depth, except at 24 layers.

    Example:
        >>> default_out_layers(12)
        [3, 6, 9, 12]
        >>> default_out_layers(24)
        [5, 12, 18, 24]

    Raises:
        ValueError: if there are fewer than four layers, so that four different ones cannot be chosen.
    """
    if num_layers < 4:
        raise ValueError(f"the backbone has {num_layers} layers; features are read from four, so it needs at least 4.")
    if num_layers == 24:
        return [5, 12, 18, 24]
    return [num_layers * quarter // 4 for quarter in (1, 2, 3, 4)]


class DinoSegConfig(PreTrainedConfig):
    """Configuration of `DinoSegForSemanticSegmentation`.

    Args:
        backbone_config: a transformers backbone configuration, or its dict with `model_type`. Its output layers are
            set from `out_layers`. None: a DINOv3 ViT of default size.
        head: `mask2former`, `eomt` or `linear`.
        label_space: the plain dict of a label space (`classes`, `original_ids`, `void_id`, `ignore_index` …). When it
            is given, `id2label` follows from it; it restores original ids after prediction.
        ignore_index: the train id of void pixels; taken from `label_space` where that is given.
        background_threshold: default threshold of the image processor's post-processing; None for none.
        palette: the colours of pictures: `dataset` for the label space's, `colorblind` for ones that everybody can
            tell apart.
        freeze_backbone: the backbone is not trained: no gradient, evaluation mode.
        backbone_dtype: `float32`, `bfloat16` or `float16`: the type of the backbone's weights, saved and loaded so,
            while the head's are those of the model. None: the model's.
        out_layers: backbone layers (1-based) whose features are used. None: the published choice for the depth (the
            last layer alone for the linear head; all four stages of a hierarchical backbone).
        num_queries: queries of a mask head.
        hidden_dim: width of the Mask2Former head and of its masks, a multiple of 32 and of `head_attention_heads`.
        head_attention_heads: attention heads in pixel decoder and transformer decoder.
        pixel_decoder_layers, pixel_decoder_ffn_dim: depth and feed-forward width of the deformable encoder.
        decoder_layers, decoder_ffn_dim: depth and feed-forward width of the masked-attention decoder.
        adapter: what gives the Mask2Former head strides 4 to 32 on a plain ViT: `vit_adapter`, the published one, or
            `pyramid`, which is much cheaper and reads the last layer only. A hierarchical backbone needs neither.
        adapter_attention_heads: heads of the ViT adapter's deformable attention; they divide half the backbone's width.
        drop_path_rate: stochastic depth of the adapter while training.
        norm: of the maps in the ViT adapter and the linear head: `batch` as published, or `group`, which does not
            depend on the other images of a batch. The other parts have group or layer norms in any case.
        attn_mask_probs: EoMT head: for each of the last backbone blocks that the queries take part in, the probability
            that a query attends only inside its mask; a schedule brings it to zero. None: 1 for the last four blocks.

    Raises:
        ValueError: on sizes that do not fit together, or labels that contradict the label space.
    """

    model_type = "dinoseg"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov3_vit")}

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    head: str = "mask2former"
    label_space: dict[str, Any] | None = None
    ignore_index: int = 255
    background_threshold: float | None = None
    palette: str = "dataset"
    freeze_backbone: bool = True
    backbone_dtype: str | None = None
    out_layers: list[int] | None = None
    num_queries: int = 100
    hidden_dim: int = 256
    head_attention_heads: int = 8
    pixel_decoder_layers: int = 6
    pixel_decoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    adapter: str = "vit_adapter"
    adapter_attention_heads: int = 16
    drop_path_rate: float = 0.3
    norm: str = "batch"
    attn_mask_probs: list[float] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> DinoSegConfig:
        """
        Raises:
            ValueError: on the configuration of another model; transformers alone would go on with defaults.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"{config_dict.get('_name_or_path') or 'this'} is a checkpoint of {kind!r}, not of {cls.model_type!r}. "
                "Heads of others are read by `dinoseg convert`; a recipe names its backbone in model.backbone."
            )
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.label_space is not None:
            self._take_labels(kwargs)
        super().__post_init__(**kwargs)
        self._choose_out_layers()
        if self.backbone_dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"backbone_dtype is {self.backbone_dtype!r}; choose float32, bfloat16 or float16.")
        if self.adapter not in ("vit_adapter", "pyramid"):
            raise ValueError(f"adapter is {self.adapter!r}; choose vit_adapter or pyramid.")
        if self.norm not in ("batch", "group"):
            raise ValueError(f"norm is {self.norm!r}; choose batch or group.")
        if self.head == "eomt":
            self._check_mask_probs()
        if self.head == "mask2former" and (self.hidden_dim % 32 or self.hidden_dim % self.head_attention_heads):
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}; it must be a multiple of 32 (group norm) and of "
                f"head_attention_heads, {self.head_attention_heads}."
            )

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

    def _check_mask_probs(self) -> None:
        probabilities = [1.0] * 4 if self.attn_mask_probs is None else [float(p) for p in self.attn_mask_probs]
        backbone: Any = self.backbone_config
        depth = len(backbone.stage_names) - 1
        if not 1 <= len(probabilities) <= depth or any(not 0 <= p <= 1 for p in probabilities):
            raise ValueError(
                f"attn_mask_probs is {probabilities}; it takes one probability, 0 to 1, for each of the last blocks "
                f"that queries join, and the backbone has {depth}."
            )
        self.attn_mask_probs = probabilities

    def _choose_out_layers(self) -> None:
        """Point the backbone's outputs at the layers that the head reads, each through the final norm."""
        backbone: Any = self.backbone_config
        depth = len(backbone.stage_names) - 1
        pyramid = self.head == "mask2former" and self.adapter == "pyramid" and not hasattr(backbone, "depths")
        if self.out_layers is None:
            layers = [depth] if pyramid or self.head in ("linear", "eomt") else default_out_layers(depth)
        else:
            layers = [int(layer) for layer in self.out_layers]
        wanted = (1, 4) if self.head == "linear" else (1,) if pyramid or self.head == "eomt" else (4,)
        if len(layers) not in wanted or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= depth:
            raise ValueError(
                f"out_layers is {layers}; head {self.head!r}{' with a pyramid' if pyramid else ''} reads "
                f"{' or '.join(map(str, wanted))} different layers, ascending, between 1 and {depth}."
            )
        backbone.out_indices = layers
        for switch in ("apply_layernorm", "reshape_hidden_states"):
            if hasattr(backbone, switch):
                setattr(backbone, switch, True)


__all__ = ["DinoSegConfig", "default_out_layers"]
