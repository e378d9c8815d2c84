"""Segmenter: an image in, a label map in the dataset's own ids out."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..checkpoint import load_checkpoint
from ..errors import ImageError, InputError
from ..images import LARGEST, Cell, dropped_parts, read_image
from ..images.in_memory import image_of
from ..labels import LabelSpace
from .background import Background
from .download import download, is_url
from .predict import as_input, predict_best, predict_scores
from .test_time_augmentation import views
from .windows import Autocast, Blend, Mode, blend_weights, resolve_window, with_autocast
from .write import whole_file

if TYPE_CHECKING:
    from ..visualize import Palette

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | torch.Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What the model says of one image.

    Attributes:
        label_map: (H, W) original ids; void where the best score was below the background threshold, if there is one.
        scores: (H, W) float32, the score of each pixel's best class.
        image: the image, RGB and upright (EXIF orientation applied), W wide and H high.
        label_space: what the ids mean.
        class_scores: (C, H, W) float32, the score of every class in the order of `label_space.original_ids`; None
            unless they were asked for.
    """

    label_map: np.ndarray
    scores: np.ndarray
    image: Image.Image
    label_space: LabelSpace
    class_scores: np.ndarray | None = None

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image tinted with the classes' colours, hatched where there is no answer; `alpha` is the weight."""
        from ..visualize import overlay

        return overlay(self.image, self.label_map, self.label_space, alpha)

    def save(self, path: str | os.PathLike[str], transparent: bool = False) -> Path:
        """Write the label map as a PNG whose pixel values are the original ids.

        It is a palette image in the classes' colours; if the label space has ids above 255, 16-bit grey, which
        keeps the ids but looks dark. Missing folders are made, and a file of that name is replaced, once the new one
        is whole.

        Args:
            transparent: classes that are drawn black (background) are clear.

        Raises:
            ValueError: if the name does not end in `.png`; lossy formats would change the ids.
        """
        from ..visualize import palette_image

        target = Path(path)
        if target.suffix.lower() != ".png":
            raise InputError(f"{target}: label maps are saved as PNG, which keeps every id; name the file *.png.")
        drawn = palette_image(self.label_map, self.label_space, transparent)
        with whole_file(target) as unfinished:
            drawn.save(unfinished, format="PNG")
        return target


class Prepared(NamedTuple):
    """An image that is ready for the model.

    Attributes:
        image: RGB and upright.
        pixel_values: (1, 3, h, w) normalised, on the host.
    """

    image: Image.Image
    pixel_values: torch.Tensor


class Answer(NamedTuple):
    """What the model says of an image, on the host.

    Attributes:
        train_ids: (H, W) int64, `ignore_index` where there is no answer.
        scores: (H, W) float32 of the best class.
        class_scores: (C, H, W) float32, or None.
    """

    train_ids: torch.Tensor
    scores: torch.Tensor
    class_scores: torch.Tensor | None


class Segmenter:
    """Predicts label maps with a model, its image processor and its label space.

    Args:
        model: a model whose output `models.scores` reads. Put into evaluation mode; used where it lies.
        processor: makes `pixel_values` (1, 3, h, w) of a PIL image.
        label_space: original ids and names of the model's classes.
        mode: `whole`, or `slide` for windows.
        window, stride: of the windows, in pixels; 512 and two thirds of the window if None.
        batch_size: windows that the model sees at once.
        background_threshold: pixels whose best score is below it become void (`label_space.void_id`); None for never.
        blend: how overlapping windows are averaged, `mean` or `smooth`.
        tta: sizes and mirror images that are averaged, such as `{"scales": [0.75, 1, 1.25], "flip": True}`.
        autocast: the model runs under `torch.autocast` in this type, `bfloat16` or `float16`; None for its own.

    Raises:
        ValueError: on an unknown mode, blend or augmentation, or a window and stride that leave gaps.

    Example:
        >>> segmenter = Segmenter.from_pretrained("out/quickstart")  # doctest: +SKIP
        >>> segmenter("photo.jpg").save("photo.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        label_space: LabelSpace,
        mode: Mode = "whole",
        window: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        background_threshold: float | None = None,
        blend: Blend = "mean",
        tta: Mapping[str, Any] | None = None,
        autocast: Autocast | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.label_space = label_space
        self.mode: Mode = mode
        self.window, self.stride = resolve_window(mode, window, stride)
        self.batch_size = batch_size
        self.background_threshold = background_threshold
        (
            blend_weights(1, blend),
            views(tta),
            with_autocast(model, autocast),
        )  # to refuse what is unknown before any image
        self.blend: Blend = blend
        self.tta = dict(tta) if tta else None
        self.autocast: Autocast | None = autocast

    @property
    def background(self) -> Background:
        """What is answered where no class is likely."""
        return Background.resolve(threshold=self.background_threshold)

    @property
    def inference(self) -> dict[str, Any]:
        """The settings, as `predict_best` and `predict_scores` take them."""
        names = ("mode", "window", "stride", "batch_size", "blend", "tta", "autocast")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | os.PathLike[str],
        device: str | torch.device | None = None,
        mode: Mode | None = None,
        window: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        background_threshold: float | None = None,
        background: Literal["none", "threshold"] | None = None,
        blend: Blend | None = None,
        tta: Mapping[str, Any] | None = None,
        palette: Palette | None = None,
        **kwargs: Any,
    ) -> Segmenter:
        """Load a checkpoint folder or a Hub id.

        Whatever is not given is the checkpoint's own. Mode, windows, blending, augmentation and autocast are those of
        its evaluation (`config.inference`; whole images if there is none). The threshold is
        `config.background_threshold`, the colours are `config.palette`.

        Args:
            background: `none` for the best class everywhere, whatever threshold the checkpoint has; `threshold` to
                make sure of one.
            tta: `{}` for none, whatever the checkpoint does.
            palette: of images: `dataset` for the dataset's colours, `colorblind` for ones that everybody can tell
                apart; see `visualize.with_palette`.
            device: where the model goes; the machine's accelerator if None and there is one.
            kwargs: go to `from_pretrained` of the model (`dtype`, `attn_implementation`, …); those that say where
                the files are (`revision`, `token`, `cache_dir`, …) to that of the processor too.
        """
        model, processor, label_space = load_checkpoint(folder_or_id, **kwargs)
        config = model.config
        saved = getattr(config, "inference", None) or {}
        # Window and stride belong together: a window of one's own comes with its own default stride.
        if window is None:
            window, stride = saved.get("window"), saved.get("stride") if stride is None else stride
        stored = getattr(config, "background_threshold", None)
        chosen = Background.resolve(background, background_threshold, stored)
        from ..visualize import with_palette

        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        return cls(
            model if device is None else nn.Module.to(model, device),
            processor,
            with_palette(label_space, palette or config.palette),
            mode=mode or saved.get("mode", "whole"),
            window=window,
            stride=stride,
            batch_size=batch_size or saved.get("batch_size", 8),
            background_threshold=chosen.threshold,
            blend=blend or saved.get("blend", "mean"),
            tta=saved.get("tta") if tta is None else tta,
            autocast=saved.get("autocast"),
        )

    @overload
    def __call__(self, images: ImageLike) -> SegmentationResult: ...

    @overload
    def __call__(self, images: Iterator[Any]) -> Iterator[SegmentationResult]: ...

    @overload
    def __call__(self, images: Sequence[Any]) -> list[SegmentationResult]: ...

    def __call__(
        self, images: ImageLike | Iterator[Any] | Sequence[Any]
    ) -> SegmentationResult | Iterator[SegmentationResult] | list[SegmentationResult]:
        """Segment an image, or several.

        Args:
            images: one of these, a sequence of them, or an iterator (a generator, say):

                - a path or URL, or the bytes of an image file;
                - a PIL image;
                - an array (H, W, 3) or (H, W) of uint8, values 0 to 255;
                - a tensor (3, H, W), (H, W, 3) or (H, W) of uint8, or (3, H, W) of floats from 0 to 1, on any device.
                  One of three rows that could be either is taken to have its channels first.

        Returns:
            The result of one image; for a sequence a list, which holds all results; for an iterator another, which
            takes an image only when its result is asked for.

        Raises:
            FileNotFoundError: if a path leads to no file.
            ValueError: if a file, an array or a tensor is no image.

        Example:
            >>> for result in segmenter(path for path in paths):  # doctest: +SKIP
            ...     result.save(f"{next(names)}.png")
        """
        if isinstance(images, Iterator) and not isinstance(images, io.IOBase):
            return map(self._segment, images)
        if isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray)):
            return list(map(self._segment, images))
        one: Any = images
        return self._segment(one)

    def _segment(self, image: ImageLike) -> SegmentationResult:
        if isinstance(image, (str, os.PathLike, bytes)) and (more := dropped_parts(_cell(image))):
            name = "an image" if isinstance(image, bytes) else image
            logger.warning("%s: only its first page and three bands are read, not %s.", name, more)
        prepared = self.prepare(image)
        return self.result(prepared.image, self.answer([prepared])[0])

    def prepare(self, image: ImageLike) -> Prepared:
        """What comes before the model: reading and normalising, on the host; errors as of a call."""
        image = load_image(image)
        return Prepared(image, self.processor(images=image, return_tensors="pt")["pixel_values"])

    def answer(self, prepared: Sequence[Prepared], class_scores: bool = False) -> list[Answer]:
        """The model's part.

        Args:
            prepared: images of one size; the model sees them together.
            class_scores: keep the scores of all classes too, 4 bytes × C a pixel.
        """
        pixel_values = as_input(torch.cat([p.pixel_values for p in prepared]), self.model)
        size = (prepared[0].image.height, prepared[0].image.width)
        every: torch.Tensor | None = None
        if class_scores:
            every = predict_scores(self.model, pixel_values, target_size=size, output_device="cpu", **self.inference)
            scores, train_ids = every.max(dim=1)
        else:
            train_ids, scores = predict_best(self.model, pixel_values, size, **self.inference)
        train_ids = self.background.apply(train_ids, scores, self.label_space.ignore_index).cpu()
        scores = scores.cpu()
        return [Answer(train_ids[i], scores[i], None if every is None else every[i]) for i in range(len(prepared))]

    def result(self, image: Image.Image, answer: Answer) -> SegmentationResult:
        """What comes after the model: original ids, on the host."""
        return SegmentationResult(
            self.label_space.decode(answer.train_ids.numpy()),
            answer.scores.numpy(),
            image,
            self.label_space,
            None if answer.class_scores is None else answer.class_scores.numpy(),
        )


def load_image(image: ImageLike) -> Image.Image:
    """An upright RGB image from anything that `Segmenter` takes; errors as there."""
    if isinstance(image, (Image.Image, np.ndarray, torch.Tensor)):
        return image_of(image)
    if isinstance(image, bytes):
        return read_image(_cell(image), max_pixels=LARGEST)
    if not isinstance(image, (str, os.PathLike)):
        raise InputError(
            f"an image is a {type(image).__name__}; give a path, a URL, the bytes of a file, a PIL image, an array or "
            "a tensor, or a list or iterator of these."
        )
    name = os.fspath(image)
    if not is_url(name):
        return read_image(name, max_pixels=LARGEST)
    with TemporaryDirectory(prefix="dinoseg-") as folder:
        fetched = os.path.join(folder, "image")
        download(name, fetched)
        try:
            return read_image(fetched, max_pixels=LARGEST)
        except ImageError as error:
            raise ImageError(str(error).replace(fetched, name)) from None


def _cell(image: str | os.PathLike[str] | bytes) -> Cell:
    return {"path": None, "bytes": image} if isinstance(image, bytes) else image
