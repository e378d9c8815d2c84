"""Images of an evaluation: the same images each time, a folder per step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..inference import Background
from ..labels import LabelSpace
from ..visualize import panel, save_panel


class PanelWriter:
    """Draws image | truth | prediction | error for chosen images of an evaluation set.

    Args:
        folder: where the images go; made when the first is written.
        ids: the id of each image of the set, in order; used as file names.
        count: how many to draw, spread evenly over the set, so that they are the same each time.
        label_space: restores original ids, and knows names and colours.
        image_mean, image_std: undo the normalisation of `pixel_values`.
        background: the policy that the predictions follow. Where 0 is void, or there is a threshold, panels name it.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[str],
        count: int,
        label_space: LabelSpace,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        background: Background | None = None,
    ) -> None:
        chosen = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
        self.names = {int(i): re.sub(r"[^\w.-]+", "_", ids[int(i)]) for i in chosen}
        self.folder = folder
        self.label_space = label_space
        self.image_mean, self.image_std = image_mean, image_std
        self.background = background or Background()

    def write(self, index: int, pixel_values: torch.Tensor, truth: torch.Tensor, prediction: torch.Tensor) -> None:
        """Draw one image if it was chosen.

        Args:
            index: its place in the set.
            pixel_values: (3, h, w) normalised.
            truth, prediction: (H, W) train ids at original size.
        """
        if index not in self.names:
            return
        mean = torch.tensor(self.image_mean).view(3, 1, 1)
        std = torch.tensor(self.image_std).view(3, 1, 1)
        pixels = (pixel_values.float().cpu() * std + mean).mul(255).round().clamp(0, 255).byte()
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        height, width = truth.shape
        prediction = self.background.drawn(prediction, truth, self.label_space.ignore_index)
        drawn = panel(
            image.resize((width, height)) if image.size != (width, height) else image,
            self.label_space.decode(truth.cpu().numpy()),
            self.label_space.decode(prediction.cpu().numpy()),
            self.label_space,
            title=self.names[index],
            note=self.background.caption(self.label_space),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        save_panel(drawn, self.folder / f"{self.names[index]}.png")
