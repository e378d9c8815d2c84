"""The reference folder: weights in the published layout, regenerated, and what the original computes with them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parent.parent / "reference"
#: the configuration of the reference run, beside `from_backbone(TINY_BACKBONE)`
SETTINGS = {
    "hidden_dim": 64,
    "num_attention_heads": 16,
    "pixel_decoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "num_labels": 7,
}
TINY_BACKBONE = str(REFERENCE / "tiny_backbone")


def head_tensor(key: str, shape: list[int]) -> Tensor:
    """A tensor of the head checkpoint, from its name and shape alone."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    z = np.asarray(generator.standard_normal(tuple(shape)) if shape else generator.standard_normal(), dtype=np.float32)
    parent, leaf = key.split(".")[-2:]
    if leaf == "running_var":
        z = 1 + 0.1 * np.abs(z)
    elif leaf == "running_mean":
        z = 0.1 * z
    elif len(shape) >= 2 and "embed" not in parent:
        z = z / np.sqrt(np.prod(shape[1:]))
    elif leaf == "weight" and len(shape) == 1:
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def head_checkpoint(which: str = "dinov3_m2f") -> dict[str, Tensor]:
    """The head checkpoint under its published names: `dinov3_m2f`, adapter and Mask2Former head, or `pmt`."""
    shapes = json.loads((REFERENCE / f"{which}_state_dict_shapes.json").read_text())
    weights = {key: head_tensor(key, shape) for key, shape in shapes.items()}
    if "network.decoder.attn_mask_probs" in weights:  # the state of a schedule
        weights["network.decoder.attn_mask_probs"] = torch.ones(shapes["network.decoder.attn_mask_probs"])
    return weights


def expected_outputs(which: str = "dinov3_m2f") -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{which}_expected.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}
