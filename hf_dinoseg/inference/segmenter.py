"""Segmenter: an image in, a label map in the dataset's own ids out."""

from __future__ import annotations

import io
import logging
import os
import reprlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..addresses import is_url, without_secrets
from ..checkpoint import load_checkpoint
from ..errors import DinoSegError, ImageError, InputError, TooLargeError
from ..images import MAX_FOREIGN_PIXELS, MAX_PIXELS, Cell, cell_name, dropped_parts, read_image
from ..images.in_memory import image_of
from ..labels import LabelSpace
from .background import Background
from .download import download
from .predict import as_input, predict_best, predict_scores
from .test_time_augmentation import stored_size, views
from .windows import Autocast, Blend, Join, Mode, blend_weights, check_join, resolve_window, with_autocast
from .write import whole_file

if TYPE_CHECKING:
    from ..visualize import Palette

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | torch.Tensor

logger = logging.getLogger(__name__)

_SHOWN = 1024  # pixels, the longer side of a result in a notebook
_MOST_WINDOWS = 4096  # that the model sees at once


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

    def __repr__(self) -> str:
        """The size, and the classes with their shares of the pixels, the largest first."""
        ids, counts = np.unique(self.label_map, return_counts=True)
        shares = 100 * counts / counts.sum()
        largest = np.argsort(-counts, kind="stable")[:5]
        shown = [f"{self.label_space.classes.get(int(ids[i]), 'no class')} {shares[i]:.1f} %" for i in largest]
        more = [f"{len(ids) - 5} more"] if len(ids) > 5 else []
        height, width = self.label_map.shape
        return f"SegmentationResult({width}×{height} pixels: {', '.join([*shown, *more])})"

    def _repr_png_(self) -> bytes:
        """For notebooks: the overlay, at most 1024 pixels wide and high."""
        drawn = self.overlay()
        drawn.thumbnail((_SHOWN, _SHOWN))
        drawn.save(file := io.BytesIO(), "PNG")
        return file.getvalue()

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
        label_space: original ids and names of the model's classes, or its plain dict.
        mode: `whole`, or `slide` for windows.
        window, stride: of the windows, in pixels; 512 and two thirds of the window if None.
        batch_size: windows that the model sees at once.
        background_threshold: pixels whose best score is below it become void (`label_space.void_id`); None for never.
        blend: how overlapping windows are averaged, `mean` or `smooth`.
        tta: sizes and mirror images that are averaged, such as `{"scales": [0.75, 1, 1.25], "flip": True}`.
        even_windows, join: where windows lie, and what they are averaged as; see `predict.Inference`.
        autocast: the model runs under `torch.autocast` in this type, `bfloat16` or `float16`; None for its own.
        device: where the model goes; None leaves it where it lies.

    Raises:
        ValueError: on an unknown mode, blend, augmentation or device, a window and stride that leave gaps, or a model
            of another number of classes than the label space.

    Example:
        >>> segmenter = Segmenter.from_pretrained("out/quickstart")  # doctest: +SKIP
        >>> segmenter("photo.jpg").save("photo.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        label_space: LabelSpace | Mapping[str, Any],
        mode: Mode = "whole",
        window: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        background_threshold: float | None = None,
        blend: Blend = "mean",
        tta: Mapping[str, Any] | None = None,
        autocast: Autocast | None = None,
        device: str | int | torch.device | None = None,
        even_windows: bool = False,
        join: Join = "scores",
    ) -> None:
        if isinstance(label_space, Mapping):
            label_space = LabelSpace.from_dict(label_space)
        if not isinstance(label_space, LabelSpace):
            raise InputError(f"label_space is a {type(label_space).__name__}; give a LabelSpace or its plain dict.")
        count = getattr(getattr(model, "config", None), "num_labels", label_space.num_labels)
        if count != label_space.num_labels:
            raise InputError(
                f"the model tells {count} classes apart, and label_space has {label_space.num_labels}; give the label "
                "space that the model was trained with (config.label_space)."
            )
        self.model = model.eval()
        self.processor = processor
        self.label_space = label_space
        if device is not None:
            self.to(device)
        self.mode: Mode = mode
        self.window, self.stride = resolve_window(mode, window, stride)
        self.batch_size = _positive(batch_size)
        self.background_threshold = background_threshold
        (
            blend_weights(1, blend),
            views(tta),
            with_autocast(model, autocast),
            check_join(join),
        )  # to refuse what is unknown before any image
        self.blend: Blend = blend
        self.even_windows = even_windows
        self.join: Join = join
        self.tta = dict(tta) if tta else None
        self.autocast: Autocast | None = autocast

    def __repr__(self) -> str:
        config = getattr(self.model, "config", None)
        kind = getattr(config, "head", type(self.model).__name__)
        seen = f"windows of {self.window}, {self.stride} apart" if self.mode == "slide" else "whole images"
        device = next((p.device for p in self.model.parameters()), "no device")
        return f"Segmenter({kind}, {self.label_space.num_labels} classes, {seen}, on {device})"

    def to(self, device: str | int | torch.device) -> Segmenter:
        """Move the model; returns the segmenter.

        Raises:
            InputError: if there is no such device.
        """
        try:
            nn.Module.to(self.model, torch.device(device))
        except (RuntimeError, AssertionError, TypeError) as error:
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            there = f"cpu and {found}" if found is not None else "cpu alone"
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(f"device {device!r} cannot be used here ({reason}); there is {there}.") from error
        return self

    @property
    def background(self) -> Background:
        """What is answered where no class is likely."""
        return Background.resolve(threshold=self.background_threshold)

    @property
    def inference(self) -> dict[str, Any]:
        """The settings, as `predict_best` and `predict_scores` take them."""
        names = ("mode", "window", "stride", "batch_size", "blend", "even_windows", "join", "tta", "autocast")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | os.PathLike[str],
        device: str | int | torch.device | None = None,
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
        if not isinstance(saved, Mapping):
            raise InputError(f"{folder_or_id}: `inference` in its config.json is {reprlib.repr(saved)}, not a mapping.")
        # Window and stride belong together: a window that is given has its own default stride.
        if window is None:
            window, stride = saved.get("window"), saved.get("stride") if stride is None else stride
        stored = getattr(config, "background_threshold", None)
        chosen = Background.resolve(background, background_threshold, stored)
        from ..visualize import with_palette

        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        return cls(
            model,
            processor,
            with_palette(label_space, palette or config.palette),
            mode=mode or saved.get("mode", "whole"),
            window=window,
            stride=stride,
            batch_size=saved.get("batch_size", 8) if batch_size is None else batch_size,
            background_threshold=chosen.threshold,
            blend=blend or saved.get("blend", "mean"),
            tta=saved.get("tta") if tta is None else tta,
            autocast=saved.get("autocast"),
            device=device,
            even_windows=saved.get("even_windows", False),
            join=saved.get("join", "scores"),
        )

    @overload
    def __call__(self, images: ImageLike, batch_size: int = 1) -> SegmentationResult: ...

    @overload
    def __call__(self, images: Iterator[Any], batch_size: int = 1) -> Iterator[SegmentationResult]: ...

    @overload
    def __call__(self, images: Sequence[Any], batch_size: int = 1) -> list[SegmentationResult]: ...

    def __call__(
        self, images: ImageLike | Iterator[Any] | Iterable[Any], batch_size: int = 1
    ) -> SegmentationResult | Iterator[SegmentationResult] | list[SegmentationResult]:
        """Segment an image, or several.

        Args:
            images: one of these, a list of them (or a column, a frame's, a torch Dataset of images), or an iterator
                (a generator, say):

                - a path or URL, or the bytes of an image file;
                - a PIL image;
                - an array (H, W, 3) or (H, W) of uint8, values 0 to 255;
                - a tensor (3, H, W), (H, W, 3) or (H, W) of uint8, or (3, H, W) of floats from 0 to 1, on any device.
                  One of three rows that could be either is taken to have its channels first.
            batch_size: of several images, so many are read ahead, and those of one size among them, side by side,
                are shown to the model together; of use on an accelerator.

        Returns:
            The result of one image; for a list a list, which holds all results; for an iterator another, which
            takes an image only when its result is asked for. Where an image cannot be read, asking for its result
            raises; the results after it can still be asked for.

        Raises:
            FileNotFoundError: if a path leads to no file.
            ValueError: if a file, an array or a tensor is no image.

        Example:
            >>> for result in segmenter(path for path in paths):  # doctest: +SKIP
            ...     result.save(f"{next(names)}.png")
        """
        several: Any = images
        if _is_one(images):
            return next(_Stream(self, iter([several]), 1))
        if isinstance(images, Iterator):
            return _Stream(self, several, _positive(batch_size))
        items = iter(several) if hasattr(several, "__iter__") else (several[place] for place in range(len(several)))
        return list(_Stream(self, items, _positive(batch_size)))

    def _read(self, image: ImageLike) -> Prepared:
        if isinstance(image, (str, os.PathLike, bytes)) and (more := dropped_parts(_cell(image))):
            name = "an image" if isinstance(image, bytes) else image
            logger.warning("%s: only its first page and three bands are read, not %s.", name, more)
        return self.prepare(image)

    def prepare(self, image: ImageLike) -> Prepared:
        """What comes before the model: reading and normalising, on the host; errors as of a call."""
        image = load_image(image)
        return Prepared(
            image, self.processor(images=image, return_tensors="pt", **stored_size(self.tta))["pixel_values"]
        )

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


class _Stream(Iterator[SegmentationResult]):
    """Results of images, one after the other. What is wrong with an image is raised in its turn, and costs no other."""

    def __init__(self, segmenter: Segmenter, images: Iterator[Any], batch_size: int) -> None:
        self.segmenter, self.images, self.batch_size = segmenter, images, batch_size
        self.ready: deque[SegmentationResult | DinoSegError] = deque()

    def __next__(self) -> SegmentationResult:
        if not self.ready:
            self._fill()
        found = self.ready.popleft()
        if isinstance(found, DinoSegError):
            raise found
        return found

    def _fill(self) -> None:
        """Take the next images, and answer them.

        Raises:
            StopIteration: if there are none.
        """
        read: list[Prepared | DinoSegError] = []
        for image in islice(self.images, self.batch_size):
            try:
                read.append(self.segmenter._read(image))
            except DinoSegError as error:
                read.append(error)
        if not read:
            raise StopIteration
        for _, group in groupby(read, key=_alike):
            together: list[Any] = list(group)
            if isinstance(together[0], DinoSegError):
                self.ready += together
            else:
                answers = self.segmenter.answer(together)
                pairs = zip(together, answers, strict=True)
                self.ready += [self.segmenter.result(prepared.image, answer) for prepared, answer in pairs]


def _alike(read: Prepared | DinoSegError) -> Any:
    """What images have in common that can be shown together."""
    return None if isinstance(read, DinoSegError) else (read.image.size, read.pixel_values.shape)


def _is_one(images: Any) -> bool:
    """Whether it is meant as one image, and not as several."""
    if isinstance(images, (str, bytes, bytearray, os.PathLike, Image.Image, np.ndarray, torch.Tensor, Mapping)):
        return True
    several = hasattr(images, "__iter__") or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))
    return isinstance(images, io.IOBase) or not several


def _positive(batch_size: Any) -> int:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or not 1 <= batch_size <= _MOST_WINDOWS:
        raise InputError(f"batch_size is {reprlib.repr(batch_size)}; it is a whole number from 1 to {_MOST_WINDOWS}.")
    return batch_size


def load_image(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB image from anything that `Segmenter` takes; errors as there.

    Args:
        max_pixels: a file of more is refused before it is decoded; a download of more than `MAX_FOREIGN_PIXELS` too.
    """
    if isinstance(image, (Image.Image, np.ndarray, torch.Tensor)):
        return image_of(image)
    if isinstance(image, bytes):
        return _decoded(_cell(image), cell_name(_cell(image)), max_pixels)
    if not isinstance(image, (str, os.PathLike)):
        raise InputError(
            f"an image is a {type(image).__name__}; give a path, a URL, the bytes of a file, a PIL image, an array or "
            "a tensor, or a list or iterator of these."
        )
    name = os.fspath(image)
    if not is_url(name):
        return _decoded(name, name, max_pixels)
    with TemporaryDirectory(prefix="dinoseg-") as folder:
        fetched = os.path.join(folder, "image")
        download(name, fetched)
        return _decoded(fetched, without_secrets(name), min(max_pixels, MAX_FOREIGN_PIXELS))


def _decoded(cell: Cell, name: str, max_pixels: int) -> Image.Image:
    """
    Raises:
        ImageError: calling the file by `name`, if it cannot be read or has more pixels.
    """
    try:
        return read_image(cell, max_pixels)
    except TooLargeError as error:
        raise too_large(name, error.pixels, max_pixels) from None
    except ImageError as error:
        raise type(error)(str(error).replace(cell_name(cell), name)) from None


def too_large(name: str, pixels: int, most: int) -> TooLargeError:
    """What is said of an image that is not decoded whole."""
    return TooLargeError(
        f"{name}: refused, it would unpack to {pixels} pixels, and {most} are the most that are decoded here. Make it "
        "smaller, or give `dinoseg predict --mode slide` its file, best a TIFF, which is read by strips.",
        pixels,
    )


def _cell(image: str | os.PathLike[str] | bytes) -> Cell:
    return {"path": None, "bytes": image} if isinstance(image, bytes) else image
