"""Images and masks that are objects in memory: PIL images, arrays, tensors; to pixels, and to the bytes of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from .opening import upright, upright_rgb

_KEPT_BY_PNG = ("1", "L", "LA", "P", "RGB", "RGBA")  # modes whose values a PNG holds as they are


def image_of(value: Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """An upright RGB image.

    Args:
        value: a PIL image; an array (H, W, 3) or (H, W) of uint8, values 0 to 255; or a tensor (3, H, W), (H, W, 3) or
            (H, W) of uint8, or (3, H, W) of floats from 0 to 1, on any device. One of three rows that could be either
            is taken to have its channels first.

    Raises:
        InputError: if it is no image.
    """
    if isinstance(value, torch.Tensor):
        value = _pixels(value)
    if isinstance(value, np.ndarray):
        if 0 in value.shape or value.dtype != np.uint8 or value.ndim not in (2, 3) or value.shape[2:] not in ((), (3,)):
            raise InputError(
                f"an array of shape {value.shape} and type {value.dtype} is no image; give (H, W, 3) or (H, W) "
                "of uint8, values 0 to 255."
            )
        return Image.fromarray(value).convert("RGB")
    return upright_rgb(value.copy(), "the image")


def image_bytes(value: Image.Image | np.ndarray | torch.Tensor) -> bytes:
    """The same as a PNG file, which keeps every pixel."""
    return _png(image_of(value))


def mask_bytes(value: Image.Image | np.ndarray | torch.Tensor) -> bytes:
    """A mask as the bytes of a file that `reading.read_mask` gives back as it was: a PNG where that holds its values,
    else a `.npy`. What is no mask (floats, a plane for each class) is kept too, for the reader to say so.

    Args:
        value: a PIL image, whose EXIF orientation is applied; or an array or tensor of ids, (H, W) with or without an
            axis of length 1 before or after, or of colours, (H, W, 3).
    """
    if isinstance(value, Image.Image):
        if value.mode in _KEPT_BY_PNG:
            return _png(upright(value.copy()))
        value = np.asarray(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if value.ndim == 3 and 1 in (value.shape[0], value.shape[2]):
        value = value[0] if value.shape[0] == 1 else value[..., 0]
    if value.dtype.kind in "iu" and value.size and value.min() >= 0:
        value = value.astype(np.min_scalar_type(int(value.max())))
    flat = value.ndim == 2 and value.dtype in (np.bool_, np.uint8, np.uint16)
    if value.size and (flat or value.dtype == np.uint8 and value.shape[2:] == (3,)):
        return _png(Image.fromarray(np.ascontiguousarray(value)))
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    plain: Any = {"exif": b"", "compress_level": 1}  # nothing of the file that it was read from, and little time
    image.save(file, "PNG", **plain)
    return file.getvalue()


def _pixels(image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 of a tensor.

    Raises:
        InputError: if it is no image.
    """
    channels_first = image.ndim == 3 and image.shape[0] == 3
    pixels = image.detach().cpu()
    if image.is_floating_point() and channels_first and image.numel():
        low, high = pixels.aminmax()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise InputError(
                f"a tensor of {image.dtype} with values from {low:g} to {high:g} is no image; floats run from 0 to 1. "
                "Undo the normalisation, or give uint8."
            )
        pixels = pixels.float().mul(255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8 or not (channels_first or pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        raise InputError(
            f"a tensor of shape {tuple(image.shape)} and type {image.dtype} is no image; give (3, H, W), (H, W, 3) or "
            "(H, W) of uint8, or (3, H, W) of floats from 0 to 1. A batch is given as list(batch)."
        )
    return (pixels.permute(1, 2, 0) if channels_first else pixels).contiguous().numpy()
