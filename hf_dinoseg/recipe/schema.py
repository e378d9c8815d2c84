"""The sections of a recipe that are this package's own: their fields, types, defaults and bounds. `data` has a file of
its own, `schema_data.py`.

Types are checked in pydantic's strict mode, so a whole number does for a number, but no text does, and no word does for
true or false. Descriptions stand in error messages and in the documentation.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator

from .messages import SectionError, nearest, show
from .start import start_fields
from .strict import PositiveInt, Section, backbone_faults

Std = Annotated[float, Field(gt=0)]


class Model(Section):
    """Backbone, head and which of them learns."""

    # The settings of heads are fields too: `model_section` adds them.

    backbone: str | dict[str, Any] = Field(
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        description="Hub id or local folder; or a transformers config (with model_type) to train from scratch",
    )
    head: str = Field(
        "mask2former",
        description="what turns features into masks: mask2former, pmt, eomt, linear, or another one",
    )
    tune: Literal["head", "last_k", "llrd", "lora", "full"] = Field(
        "head",
        description="what of the backbone learns: nothing, its last blocks, all at rates that fall from block to "
        "block, low-rank updates, all; full for one from scratch",
    )
    backbone_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="the type of a backbone's weights that rest (tune: head); half the memory below float32"
    )
    tune_blocks: PositiveInt = Field(4, description="last_k: so many blocks")
    layer_decay: float = Field(0.8, gt=0, le=1, description="llrd: a block's learning rate over that of the next")
    lora_rank: PositiveInt = Field(16, description="lora: rank of the updates; they are merged where a model is saved")
    backbone_learning_rate_multiplier: float = Field(
        0.1,
        gt=0,
        description="the backbone's learning rate over training.learning_rate; 1 for llrd, lora and one from scratch",
    )
    backbone_warmup_steps: PositiveInt | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="the backbone rests while the head warms up, then warms up for so many steps; below 1 it is a "
        "share of all steps; null: together",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="a running average of the weights is evaluated and saved, e.g. 0.999; null: none"
    )
    num_labels: PositiveInt | None = Field(None, description="only checked: the number follows from labels")
    out_layers: list[PositiveInt] | None = Field(
        None, min_length=1, description="backbone layers that the head sees, from 1; null is even quarters"
    )
    image_mean: tuple[float, float, float] | None = Field(
        None, description="red, green, blue of 0 to 1, subtracted as in the backbone's training; null is ImageNet's"
    )
    image_std: tuple[Std, Std, Std] | None = Field(None, description="what is divided by then; null is ImageNet's")
    init_from: str | None = Field(
        None,
        min_length=1,
        description="a checkpoint to begin from, folder or Hub id: its backbone and head, and the classes that it "
        "shares with labels, by name or id; or a Mask2Former of transformers, for a mask2former head to begin from",
    )

    @model_validator(mode="before")
    @classmethod
    def _what_learns(cls, values: Any) -> Any:
        """A backbone with random weights learns, and as fast as the head, unless the recipe says otherwise.

        `freeze_backbone` is the short way to say `tune: head` (true) or `tune: full` (false).
        """
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "freeze_backbone" in values:
            frozen = values.pop("freeze_backbone")
            if not isinstance(frozen, bool):
                raise ValueError(f"freeze_backbone {show(frozen)} is not accepted; write `true` or `false`, or tune.")
            said = values.setdefault("tune", "head" if frozen else "full")
            if frozen != (said == "head"):
                raise ValueError(f"freeze_backbone {show(frozen)} contradicts tune {said!r}; keep tune.")
        start = values.get("init_from")
        follows = start_fields(start, values) if isinstance(start, str) and start else {}
        values = {**follows, **values}
        scratch = isinstance(values.get("backbone"), dict) and not follows
        if scratch:
            values.setdefault("tune", "full")
        if scratch or values.get("tune") in ("llrd", "lora"):
            values.setdefault("backbone_learning_rate_multiplier", 1.0)
        # after this validator pydantic takes the data for Python's and no longer for JSON's, whose lists are tuples too
        listed = {k: tuple(v) for k, v in values.items() if k in ("image_mean", "image_std") and isinstance(v, list)}
        return values | listed

    @field_validator("backbone")
    @classmethod
    def _known_config(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("empty; write a Hub id, a local folder, or a mapping with model_type.")
            return value
        if faults := backbone_faults(value):
            raise SectionError(faults)
        return value

    @field_validator("head")
    @classmethod
    def _known_head(cls, value: str) -> str:
        from ..models import HEADS  # takes seconds

        if value not in HEADS:
            guess = nearest(value, list(HEADS))
            hint = f" Did you mean `{guess}`?" if guess else ""
            raise ValueError(f"{show(value)} is not accepted; write one of {', '.join(HEADS)}.{hint}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        from ..models import head_class

        head, settings = head_class(self.head), self.model_dump()
        told = head.faults(settings) + head.unused(settings)
        faults = [f"model.{fault.replace(' is ', ': ', 1)}" for fault in told]
        if self.backbone_warmup_steps and self.tune == "head":
            faults.append("model.backbone_warmup_steps: nothing of the backbone learns with tune: head; take it out.")
        if self.backbone_dtype != "float32" and self.tune != "head":
            faults.append(
                f"model.backbone_dtype: {self.backbone_dtype} is for a backbone that rests, and model.tune is "
                f"{self.tune}: steps of the optimiser, and LoRA's updates where they are merged, are smaller than what "
                "such weights can tell apart. Write float32 (training.bf16: true computes in bfloat16), or tune: head."
            )
        if self.out_layers and sorted(set(self.out_layers)) != self.out_layers:
            faults.append(f"model.out_layers: {self.out_layers} is not accepted; write each once, in ascending order.")
        if faults:
            raise SectionError(faults)
        return self


def model_section() -> type[Model]:
    """The `model` section with the settings of every head that is registered now."""
    from ..models import HEADS

    return _with_settings(tuple(HEADS))


@cache
def _with_settings(heads: tuple[str, ...]) -> type[Model]:
    from ..models import head_settings

    fields: dict[str, Any] = {}
    for name, setting in head_settings().items():
        if setting.in_recipe:
            bounds: dict[str, Any] = dict(setting.bounds)
            fields[name] = (Annotated[setting.type, Field(**bounds)], Field(setting.default, description=setting.help))
    section: type[Model] = create_model("Model", __base__=Model, __doc__=Model.__doc__, **fields)
    return section


class Loss(Section):
    """Mask classification, as Mask2Former publishes it (arXiv:2112.01527); for the linear head a loss over pixels."""

    per_class_weights: Literal["auto"] | dict[int, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="weights of the classes by original id, the others 1; auto: from how often they occur, rare ones "
        "more; null: all 1",
    )
    pixel_ce_weight: float = Field(1.0, ge=0, description="linear head: weight of the cross-entropy over pixels")
    pixel_ce_divisor: Literal["valid", "all"] = Field(
        "valid", description="linear head: cross-entropy is divided by the pixels that are not void, or by all of them"
    )
    pixel_dice_weight: float = Field(0.0, ge=0, description="linear head: weight of the Dice term; both can be on")

    num_points: PositiveInt = Field(12544, description="points per mask; more than a crop's mask has pixels is waste")
    oversample_ratio: float = Field(3.0, ge=1, description="candidates per point where uncertain points are chosen")
    importance_sample_ratio: float = Field(0.75, ge=0, le=1, description="share of points chosen for uncertainty")
    class_weight: float = Field(2.0, ge=0, description="weight of the class term, in loss and matching")
    mask_weight: float = Field(5.0, ge=0, description="weight of the cross-entropy of masks")
    dice_weight: float = Field(5.0, ge=0, description="weight of the Dice term")
    no_object_weight: float = Field(0.1, ge=0, description="weight of queries that match nothing, in the class term")
    void_query_threshold: float = Field(
        0.5, ge=0, le=1, description="a query with more than this share of its mask in void is taught nothing"
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Loss:
        if not self.pixel_ce_weight + self.pixel_dice_weight:
            raise ValueError("pixel_ce_weight and pixel_dice_weight are both 0; one must be above.")
        return self


class TestTimeAugmentation(Section):
    """Views of an image whose scores are averaged."""

    scales: list[Annotated[float, Field(gt=0, le=16)]] = Field(
        default=[1.0], min_length=1, description="sizes over the image's own, such as [0.75, 1, 1.25]"
    )
    flip: bool = Field(default=False, description="each size mirrored as well")
    from_file: bool = Field(
        default=False, description="each size is made of the stored image, and not of the one at shortest_edge"
    )
    multiple: PositiveInt | None = Field(
        default=None, description="with from_file: shorter sides of sizes below 1 are rounded up to multiples of this"
    )

    @model_validator(mode="after")
    def _multiple_of_files(self) -> TestTimeAugmentation:
        if self.multiple and not self.from_file:
            raise ValueError(
                f"multiple {self.multiple} is of use with from_file: true only; write that, or take it out."
            )
        return self


class Evaluation(Section):
    """How an image is predicted and measured, during training and after."""

    mode: Literal["slide", "whole"] = Field("slide", description="overlapping windows, or the image at once")
    window: PositiveInt | None = Field(None, description="side of a window, in pixels; null is data.crop_size")
    stride: PositiveInt | None = Field(None, description="step from window to window; null is two thirds of window")
    batch_size: PositiveInt = Field(4, description="windows that go through the model together")
    blend: Literal["mean", "smooth"] = Field(
        "mean", description="windows that overlap count the same, or fade towards their borders"
    )
    even_windows: bool = Field(
        False, description="as many windows as stride asks for, spread evenly, instead of the last one moved back"
    )
    join: Literal["scores", "logits"] = Field(
        "scores",
        description="what windows that overlap are averaged as: probabilities, or what comes before the last soft-max, "
        "which then each view is put through once it is at the image's size",
    )
    tta: TestTimeAugmentation = Field(
        TestTimeAugmentation(), description="test-time augmentation, e.g. {scales: [0.75, 1, 1.25], flip: true}"
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None,
        description="the model runs in this type where that is safe, faster on accelerators that have it; null is full "
        "precision, whatever training.bf16 says",
    )
    background: Literal["none", "threshold", "truth"] | None = Field(
        None,
        description="what is answered where no class is likely: the best class all the same, none below a threshold, "
        "or (in images only) what the truth says; null is threshold if there is one, else none",
    )
    background_threshold: float | None = Field(
        None, gt=0, description="best scores below it are no class; null is the checkpoint's, see dinoseg calibrate"
    )
    max_samples: PositiveInt | None = Field(
        None, description="images per evaluation while training, spread over the set; null is all"
    )
    beta: float = Field(2.0, gt=0, description="of F-beta: how many times as much recall weighs as precision")
    boundary_iou: bool = Field(True, description="measure outlines too; false saves its time")
    panels: int = Field(4, ge=0, description="images drawn at each evaluation")
    palette: Literal["dataset", "colorblind"] = Field(
        "dataset",
        description="colours of images: those of labels.colors, and distinct ones for classes without; or for all "
        "classes ones that stay apart for colour-blind eyes",
    )
    shortest_edge: PositiveInt | None = Field(
        None,
        description="shorter side that images are resized to; left out, it is data.base_size; null is the stored size",
    )

    @model_validator(mode="after")
    def _windows_touch(self) -> Evaluation:
        if self.window and self.stride and self.stride > self.window:
            raise ValueError(f"stride {self.stride} is larger than window {self.window}, so pixels would be left out.")
        return self

    @model_validator(mode="after")
    def _threshold_is_used(self) -> Evaluation:
        if self.background_threshold is not None and self.background in ("none", "truth"):
            raise ValueError(
                f"background_threshold {self.background_threshold} is not used with background {self.background}; "
                "write background: threshold, or take it out."
            )
        return self


class Hub(Section):
    """Where the checkpoint is published, if at all."""

    repo_id: str | None = Field(None, description="repository on the Hub, name or owner/name")
    license: str | None = Field(None, description="licence of the checkpoint; null follows from the backbone")
    private: bool = Field(False, description="create the repository as private")

    @field_validator("repo_id")
    @classmethod
    def _valid(cls, value: str | None) -> str | None:
        if value is not None:
            from huggingface_hub.errors import HFValidationError
            from huggingface_hub.utils import validate_repo_id

            try:
                validate_repo_id(value)
            except HFValidationError:
                raise ValueError(
                    f"{show(value)} is no repository name; write owner/name, of letters, digits, `-`, `_` and `.`."
                ) from None
        return value
