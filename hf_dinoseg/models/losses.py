"""Which loss teaches a model, and what may be given to it as truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .heads import head_class
from .loss import Loss
from .loss_mask_classification import MaskClassificationLoss
from .loss_pixel import PixelLoss

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

#: Losses by the name that a head gives in `Head.loss`.
LOSSES: dict[str, type[Loss]] = {"mask_classification": MaskClassificationLoss, "pixel": PixelLoss}


def build_loss(config: DinoSegConfig) -> Loss:
    """The loss of a configuration: that of its head, with the settings in `config.loss`.

    Raises:
        ValueError: on settings that the loss does not have, or whose values it does not take.
    """
    kind = LOSSES[head_class(config.head).loss]
    settings = dict(config.loss or {})
    known = [*kind.settings.values(), "class_weights"]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"config.loss has {', '.join(unknown)}; {kind.__name__}, of head {config.head!r}, takes {', '.join(known)}."
        )
    return kind(config.num_labels or 0, ignore_index=config.ignore_index, **settings)


def check_images(pixel_values: Tensor) -> None:
    """
    Raises:
        ValueError: if this is no batch of images as the image processor makes it.
    """
    if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        found = f"shape {tuple(pixel_values.shape)}" if isinstance(pixel_values, Tensor) else type(pixel_values)
        raise ValueError(f"pixel_values: found {found}, wanted a tensor (B, 3, H, W), as the image processor makes it.")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values: found {_dtype(pixel_values)}, wanted normalised floats, as the image processor makes them."
        )


def checked_truth(
    config: DinoSegConfig,
    pixel_values: Tensor,
    labels: Tensor | None,
    mask_labels: Sequence[Tensor] | None,
    class_labels: Sequence[Tensor] | None,
) -> dict[str, Any]:
    """A batch for `Loss.targets`. Looking at the values waits for the device.

    Args:
        labels: (B, H, W) train ids, `config.ignore_index` for void, of any integer type.
        mask_labels: B of (N_i, H, W), bool or 0 and 1.
        class_labels: B of (N_i,) train ids.

    Returns:
        What is given of `labels`, `mask_labels` and `class_labels`.

    Raises:
        ValueError: naming the argument, what was found and what is wanted.
    """
    images, num_labels = len(pixel_values), config.num_labels or 0
    size = tuple(pixel_values.shape[-2:])
    truth: dict[str, Any] = {}
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.shape != (images, *size):
            found = f"shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels)
            raise ValueError(
                f"labels: found {found}, wanted a tensor {(images, *size)}, for pixel_values of shape "
                f"{tuple(pixel_values.shape)}."
            )
        _check_ids("labels", labels, num_labels, config.ignore_index)
        truth["labels"] = labels.long()
    if (mask_labels is None) != (class_labels is None):
        given, lacking = ("mask_labels", "class_labels") if class_labels is None else ("class_labels", "mask_labels")
        raise ValueError(f"{given}: found without {lacking}, wanted both, or labels alone.")
    if mask_labels is None or class_labels is None:
        return truth
    if not len(mask_labels) == len(class_labels) == images:
        raise ValueError(
            f"mask_labels, class_labels: found {len(mask_labels)} and {len(class_labels)} entries, wanted one for each "
            f"of {images} images."
        )
    for image, (masks, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        if masks.shape != (len(classes), *size):
            raise ValueError(
                f"mask_labels[{image}]: found shape {tuple(masks.shape)}, wanted {(len(classes), *size)}: a mask of "
                "the image's size for each of its class_labels."
            )
        _check_ids(f"class_labels[{image}]", classes, num_labels, None)
    truth["mask_labels"] = [masks.bool() for masks in mask_labels]
    truth["class_labels"] = [classes.long() for classes in class_labels]
    return truth


def _check_ids(name: str, ids: Tensor, num_labels: int, ignore_index: int | None) -> None:
    wanted = f"train ids 0 to {num_labels - 1}" + ("" if ignore_index is None else f", and {ignore_index} for void")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name}: found {_dtype(ids)}, wanted whole numbers: {wanted}.")
    ids = ids.long()
    wrong = (ids < 0) | (ids >= num_labels)
    if ignore_index is not None:
        wrong &= ids != ignore_index
    if bool(wrong.any()):
        values, counts = ids[wrong].unique(return_counts=True)
        seen = ", ".join(f"{v} ({n} times)" for v, n in list(zip(values.tolist(), counts.tolist(), strict=True))[:5])
        raise ValueError(
            f"{name}: found {seen}{' and others' if len(values) > 5 else ''}, wanted {wanted}. The image processor "
            "makes them of masks: processor(images, segmentation_maps=masks)."
        )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


__all__ = ["LOSSES", "build_loss", "check_images", "checked_truth"]
