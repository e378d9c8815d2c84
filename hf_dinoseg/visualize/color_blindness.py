"""How far two colours are from each other, for eyes with three kinds of cones and for eyes that lack one.

Colours pass through linear light. Distances are those of the perceptual space OKLab
(https://bottosson.github.io/posts/oklab/). What a dichromat sees follows Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", 2009
(https://doi.org/10.1109/TVCG.2009.113), at full severity.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Deficiency = Literal["protanopia", "deuteranopia", "tritanopia"]

_SIMULATION: dict[Deficiency, np.ndarray] = {
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
DEFICIENCIES: tuple[Deficiency, ...] = tuple(_SIMULATION)

_TO_CONE = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_linear(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 sRGB to linear light, 0 to 1."""
    channel = np.asarray(rgb, dtype=np.float64) / 255
    return np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)


def seen_with(linear: np.ndarray, deficiency: Deficiency) -> np.ndarray:
    """(..., 3) linear light as somebody with the deficiency sees it, in linear light, 0 to 1."""
    return (linear @ _SIMULATION[deficiency].T).clip(0, 1)


def oklab(linear: np.ndarray) -> np.ndarray:
    """(..., 3) linear light to OKLab."""
    return np.cbrt(linear @ _TO_CONE.T) @ _TO_LAB.T


__all__ = ["DEFICIENCIES", "Deficiency", "oklab", "seen_with", "to_linear"]
