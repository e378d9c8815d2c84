"""DinoSegImageProcessor: from images to model inputs, and from predictions to label maps. Needs Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import ModelOutput

from .bounds import LARGEST, check, check_label_space, check_threshold, is_number, is_whole
from .scores import semantic_labels_and_scores, semantic_scores, without_unlikely

_MOST_PIXELS = 1 << 28  # of a resized image; normalised it takes 3 GiB


class DinoSegImageProcessorKwargs(ImagesKwargs, total=False):
    """
    label_space (`dict`, *optional*):
        The label space's plain dict, as in the model's configuration; restores original ids.
    background_threshold (`float`, *optional*):
        Pixels whose best score is below it become void.
    """

    label_space: dict | None
    background_threshold: float | None


class DinoSegImageProcessor(PilBackend):
    """Rescales to 0..1 and normalises with ImageNet statistics; resizes only when asked (`do_resize`, `size`).

    `size={"shortest_edge": n}` rounds the longer side to the nearest pixel, and a half up: 500×375 becomes 683×512.
    transformers' own processors cut the fraction off (682). The published segmentors were measured at the rounded size
    (DINOv3: `FixedSideResize`, https://github.com/facebookresearch/dinov3; EoMT: `scale_img_size_semantic`,
    https://github.com/tue-mps/eomt, which differs from DINOv3 only in taking an exact half to the even number), and a
    converted one is to see the same pixels.

    Takes PIL images, arrays (H, W), (H, W, 3) or (3, H, W), tensors, paths, or lists of them. EXIF orientation is the
    caller's business.

    With `segmentation_maps`, in original ids (or colours), it gives `labels` too: see `preprocess`.

    Args:
        label_space: the label space, or its plain dict, which is what is kept: what original ids mean.
        background_threshold: default of `post_process_semantic_segmentation`.
    """

    valid_kwargs = DinoSegImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 512}
    default_to_square = False
    do_resize = False
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    label_space: dict[str, Any] | None = None
    background_threshold: float | None = None

    def __init__(self, label_space: Any = None, **kwargs: Any) -> None:
        plain = label_space.to_dict() if hasattr(label_space, "to_dict") else label_space
        size = kwargs.get("size")
        sides = dict(size).values() if isinstance(size, (dict, SizeDict)) else [size]
        fine = all(side is None or is_whole(side, 1) for side in sides)
        check(fine, "size", size, f"a mapping of sides to whole numbers of 1 to {LARGEST}")
        fields: dict[str, Any] = {**kwargs, "label_space": plain}
        super().__init__(**fields)
        self._check_fields()

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """As the call of the processor.

        Args:
            images: see the class.
            segmentation_maps: the mask of each image, or the one of the one image: PIL images (their palette is not
                looked at), arrays or tensors (H, W) of original ids; (H, W, 3) bytes where the label space's encoding
                is `rgb`. Without a label space they hold train ids already.
            kwargs: settings for this call, and `return_tensors`.

        Returns:
            `pixel_values` (3, H, W) float32 for each image, and with masks `labels` (H, W) int64: train ids, and
            `ignore_index` for void. Where images are resized, cropped or padded so are the labels: by the nearest
            pixel, and what is added is void. With `return_tensors` one tensor of each, if sizes agree.

        Raises:
            ValueError: on masks that are not of their images' number and size; LabelError, which is one, on ids that
                the label space does not know.
            ImportError: with masks, where a label space is to be applied and this package is not installed.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self, images: Any, segmentation_maps: Any = None, *args: Any, return_tensors: Any = None, **kwargs: Any
    ) -> BatchFeature:
        prepared = self._prepare_image_like_inputs(images, *args, **kwargs)
        data = dict(self._preprocess(prepared, return_tensors=None, **kwargs))
        if segmentation_maps is not None:
            space = kwargs.get("label_space")
            void = 255 if space is None else int(space["ignore_index"])
            planes = _planes(_encoded(segmentation_maps, [image.shape[-2:] for image in prepared], space), void)
            as_they_are = {"do_rescale": False, "do_normalize": False, "resample": PILImageResampling.NEAREST}
            moved = self._preprocess(planes, return_tensors=None, **{**kwargs, **as_they_are})["pixel_values"]
            data["labels"] = [_from_plane(plane, void) for plane in moved]
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _check_fields(self) -> None:
        """
        Raises:
            ValueError: naming the first field that is of a wrong type or size.
        """
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            numbers = value if isinstance(value, (list, tuple)) else [value] * 3
            fine = len(numbers) == 3 and all(is_number(n) and (name == "image_mean" or n > 0) for n in numbers)
            check(fine, name, value, f"three numbers{' above 0' if name == 'image_std' else ''}")
        check(is_number(self.rescale_factor), "rescale_factor", self.rescale_factor, "a number")
        check(is_whole(self.resample, 0, 5), "resample", self.resample, "one of Pillow's filters, 0 to 5")
        for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
            check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        if self.label_space is not None:
            check_label_space(self.label_space)
        check_threshold(self.background_threshold)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> Any:
        return super()._prepare_images_structure(_grey_to_rgb(images), expected_ndims=expected_ndims)

    def resize(self, image: Any, size: SizeDict, *args: Any, **kwargs: Any) -> Any:
        if size.shortest_edge and not size.longest_edge:
            height, width = image.shape[-2:]
            short, long = sorted((height, width))
            rounded = (2 * size.shortest_edge * long + short) // (2 * short)  # in whole numbers: halves are exact
            new = (rounded, size.shortest_edge) if height > width else (size.shortest_edge, rounded)
            size = SizeDict(height=new[0], width=new[1])
        if size.height and size.width and size.height * size.width > _MOST_PIXELS:
            raise ValueError(
                f"an image of {image.shape[-1]}×{image.shape[-2]} would be resized to {size.width}×{size.height}, more "
                f"than {_MOST_PIXELS} pixels; choose a smaller `size`, or cut off its margins."
            )
        return super().resize(image, size, *args, **kwargs)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | Tensor | None = None,
        return_segmentation_scores: bool = False,
        *,
        original_ids: bool = False,
        background_threshold: float | None = None,
    ) -> list[Any]:
        """Label maps from the model's outputs. The first three arguments are those of transformers' processors.

        Args:
            outputs: what the model returned for a batch of B images.
            target_sizes: (height, width) of each label map; None keeps the size of the predicted maps.
            return_segmentation_scores: give the scores of all classes too.
            original_ids: answer in the dataset's own ids (needs `label_space`) instead of train ids.
            background_threshold: pixels whose best score is below it become void: `void_id` of the label space with
                `original_ids`, otherwise `ignore_index`. None takes the processor's own setting.

        Returns:
            B tensors (height, width) int64. With `return_segmentation_scores` B of transformers'
            `SemanticSegmentationPostProcessorOutput`, which have them as `segmentation`, and as `segmentation_scores`
            (C, height, width) float32, in the order of train ids; see `semantic_scores` for their scale.

        Raises:
            ValueError: on a wrong number of sizes, or `original_ids` without a label space.
        """
        space = self.label_space
        if original_ids and space is None:
            raise ValueError(
                "original_ids=True needs the label space, and this image processor has none. Save it with the "
                "checkpoint (DinoSegImageProcessor(label_space=label_space.to_dict())), or ask for train ids."
            )
        predictions = _predictions(outputs)
        batch = len(next(iter(predictions.values())))
        if target_sizes is not None and len(target_sizes) != batch:
            raise ValueError(f"{len(target_sizes)} target sizes for a batch of {batch} predictions; give one for each.")
        threshold = self.background_threshold if background_threshold is None else background_threshold
        void = 255 if space is None else int(space["ignore_index"])
        table = None
        if original_ids and space is not None:
            void, table = int(space["void_id"]), torch.tensor([int(i) for i in space["original_ids"]])

        label_maps: list[Any] = []
        for index in range(batch):
            single = ModelOutput({name: tensor[index : index + 1] for name, tensor in predictions.items()})
            height, width = next(reversed(single.values())).shape[-2:] if target_sizes is None else target_sizes[index]
            labels, scores = semantic_labels_and_scores(single, (int(height), int(width)))
            label_map = labels[0] if table is None else table.to(labels.device)[labels[0]]
            label_map = without_unlikely(label_map, scores[0], threshold, void)
            if return_segmentation_scores:
                # late: transformers has it from 5.22 on
                from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

                every = semantic_scores(single, (int(height), int(width)))[0]
                answer = {"segmentation": label_map, "segmentation_scores": every}
                label_maps.append(SemanticSegmentationPostProcessorOutput(data=answer))
            else:
                label_maps.append(label_map)
        return label_maps


def _grey_to_rgb(images: Any) -> Any:
    """Arrays (H, W), which transformers does not take for images, as (H, W, 3); everything else as it is."""
    if isinstance(images, (list, tuple)):
        return [_grey_to_rgb(image) for image in images]
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 2:
        return np.stack([np.asarray(images)] * 3, axis=-1)
    return images


def _encoded(masks: Any, sizes: Sequence[tuple[int, ...]], label_space: dict[str, Any] | None) -> list[np.ndarray]:
    """Masks to (H, W) train ids, of the sizes of their images."""
    one = isinstance(masks, Image.Image) or isinstance(masks, (np.ndarray, Tensor)) and len(sizes) == 1
    listed = [masks] if one else list(masks)
    if one and not isinstance(masks, Image.Image) and tuple(masks.shape[1:]) == tuple(sizes[0]) and len(masks) == 1:
        listed = [masks[0]]  # a batch of one
    if len(listed) != len(sizes):
        raise ValueError(f"segmentation_maps: found {len(listed)}, wanted one for each of {len(sizes)} images.")
    space: Any = None
    if label_space is not None:
        # Ids have one owner, which is not among the code that travels with a checkpoint.
        try:
            from hf_dinoseg.labels import LabelSpace
        except ImportError as error:
            raise ImportError(
                "segmentation_maps are translated by the label space of hf_dinoseg, which is not installed: run "
                "`pip install .` in a clone of that package, or give the model train ids as `labels` yourself."
            ) from error
        space = LabelSpace.from_dict(label_space)
    encoded = []
    for number, (mask, size) in enumerate(zip(listed, sizes, strict=True)):
        name = f"segmentation_maps[{number}]"
        if not isinstance(mask, (Image.Image, np.ndarray, Tensor)):
            raise ValueError(f"{name}: found {type(mask)}, wanted a PIL image, an array or a tensor (H, W) of ids.")
        if isinstance(mask, Image.Image) and space is not None and space.encoding == "rgb":
            mask = mask.convert("RGB")
        array = np.asarray(mask)
        if array.shape[:2] != tuple(size):
            raise ValueError(f"{name}: found shape {array.shape}, wanted {tuple(size)}, the size of its image.")
        if space is not None:
            array = space.encode(array, name)
        elif array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name}: found shape {array.shape} of {array.dtype}, wanted whole numbers (H, W).")
        encoded.append(array)
    return encoded


def _planes(label_maps: Sequence[np.ndarray], void: int) -> list[np.ndarray]:
    """Train ids as images (3, H, W) uint8, low byte, high byte and nothing, in which 0 is void: so an image's own steps
    resize them, and what these add at the borders is void."""
    shifted = [np.where(label_map == void, 0, label_map.astype(np.int64) + 1) for label_map in label_maps]
    return [np.stack((ids & 255, ids >> 8, np.zeros_like(ids))).astype(np.uint8) for ids in shifted]


def _from_plane(plane: np.ndarray, void: int) -> np.ndarray:
    ids = plane[0].astype(np.int64) + 256 * plane[1].astype(np.int64)
    return np.where(ids == 0, void, ids - 1)


def _predictions(outputs: Any) -> dict[str, Tensor]:
    """The tensors that decide the label map, the map itself last."""
    if getattr(outputs, "masks_queries_logits", None) is None:
        return {"logits": outputs.logits}
    return {
        "class_queries_logits": outputs.class_queries_logits,
        "masks_queries_logits": outputs.masks_queries_logits,
    }


__all__ = ["DinoSegImageProcessor"]
