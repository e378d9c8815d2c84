"""Images too large to be held as numbers: read, predicted and written some rows at a time.

Rows are read as windows need them, each window is seen once, and rows that no window still to come touches are answered
and written. What is held is a band of the image as bytes, what the model said of the windows over it, and scores of a
few rows. The answer is that of `Segmenter.__call__`, bit for bit: the same code computes it, from the same windows in
the same batches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..errors import InputError
from ..images import LARGEST, RowReader
from .predict import Mirrored, RowScores, SoftMaxed, as_input, score_strips
from .test_time_augmentation import View, views
from .windows import WindowScores, with_autocast

if TYPE_CHECKING:
    from .segmenter import Segmenter

#: images beyond this are predicted by strips on the command line: 8192 × 8192
LARGE_PIXELS = 1 << 26


@torch.inference_mode()
def segment_large(
    segmenter: Segmenter,
    image: str | os.PathLike[str],
    target: str | os.PathLike[str],
    max_pixels: int = LARGEST,
    transparent: bool = False,
) -> Path:
    """Segment an image of any size, by windows, into a label PNG; with a progress bar.

    Args:
        image: a file. TIFFs, uncompressed or zlib, are read piece by piece (needs `tifffile`; with
            `imagecodecs` other compressions too); other
            files are decoded whole, at 4 bytes a pixel.
        target: the PNG, as `SegmentationResult.save` writes it.
        max_pixels: a larger image is refused.
        transparent: as in `SegmentationResult.save`.

    Returns:
        The path of the PNG.

    Raises:
        ValueError: if the segmenter sees images whole, resizes them, or averages over several sizes; if the image
            cannot be read or is too large; if the target is no PNG.
    """
    from ..visualize.png_strips import PngStrips

    path = Path(target)
    chosen = views(segmenter.tta)
    _check(segmenter, chosen, image, path)
    window, stride = segmenter.window, segmenter.stride
    reader = RowReader(image, max_pixels)
    size = reader.size
    model = with_autocast(segmenter.model, segmenter.autocast)
    raw = segmenter.join == "logits"
    sources: list[RowScores] = []
    for view in chosen:
        crops = _Crops(segmenter, reader.again())
        crop = crops.mirrored if view.flip else crops.plain
        windows = WindowScores(
            model, crop, 1, size, window, stride, segmenter.batch_size, segmenter.blend, segmenter.even_windows, raw
        )
        source: RowScores = SoftMaxed(windows) if raw else windows
        sources.append(Mirrored(source) if view.flip else source)
    space = segmenter.label_space
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        PngStrips(path, (size[1], size[0]), space, transparent) as png,
        tqdm(total=size[0], unit="row", desc=Path(image).name, disable=None, leave=False) as bar,
    ):
        for _, strip in score_strips(sources, size):
            scores, labels = strip[0].max(dim=0)
            labels = segmenter.background.apply(labels, scores, space.ignore_index)
            png.write(space.decode(labels.cpu().numpy()))
            bar.update(len(labels))
    return path


class _Crops:
    """Windows of an image as the model takes them."""

    def __init__(self, segmenter: Segmenter, reader: RowReader) -> None:
        self.processor, self.reader, self.model = segmenter.processor, reader, segmenter.model

    def plain(self, number: int, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """(3, height, width) normalised."""
        image = Image.fromarray(self.reader.crop(top, left, height, width))
        return as_input(self.processor(images=image, return_tensors="pt")["pixel_values"][0], self.model)

    def mirrored(self, number: int, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """As `plain`, of the mirrored image."""
        own_left = self.reader.size[1] - left - width
        return self.plain(number, top, own_left, height, width).flip(-1)


def _check(segmenter: Segmenter, chosen: list[View], image: str | os.PathLike[str], target: Path) -> None:
    name = os.fspath(image)
    if segmenter.mode != "slide":
        raise InputError(f"{name} is too large to be seen whole; use windows (mode slide).")
    if getattr(segmenter.processor, "do_resize", False):
        raise InputError(f"{name} is predicted by strips, and the image processor resizes images; reduce it first.")
    if any(view.scale != 1 or view.edge for view in chosen):
        raise InputError(
            f"{name} is predicted by strips, which is possible at its own size only; predict it without the scales "
            f"{sorted({view.scale for view in chosen})} of test-time augmentation: Segmenter.from_pretrained(…, "
            "tta={}), or tta null under `inference` in the checkpoint's config.json."
        )
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: label maps are saved as PNG, which keeps every id; name the file *.png.")


__all__ = ["LARGE_PIXELS", "segment_large"]
