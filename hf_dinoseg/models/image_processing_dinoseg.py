"""DinoSegImageProcessor: from images to model inputs, and from predictions to label maps. Needs Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import ModelOutput

from .scores import semantic_labels_and_scores, without_unlikely


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

    Args:
        label_space: plain dict of the label space, so that original ids can be restored without the model.
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

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> Any:
        return super()._prepare_images_structure(_grey_to_rgb(images), expected_ndims=expected_ndims)

    def resize(self, image: Any, size: SizeDict, *args: Any, **kwargs: Any) -> Any:
        if size.shortest_edge and not size.longest_edge:
            height, width = image.shape[-2:]
            short, long = sorted((height, width))
            rounded = (2 * size.shortest_edge * long + short) // (2 * short)  # in whole numbers: halves are exact
            new = (rounded, size.shortest_edge) if height > width else (size.shortest_edge, rounded)
            size = SizeDict(height=new[0], width=new[1])
        return super().resize(image, size, *args, **kwargs)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | Tensor | None = None,
        original_ids: bool = False,
        background_threshold: float | None = None,
    ) -> list[Tensor]:
        """Label maps from the model's outputs.

        Args:
            outputs: what the model returned for a batch of B images.
            target_sizes: (height, width) of each label map; None keeps the size of the predicted maps.
            original_ids: answer in the dataset's own ids (needs `label_space`) instead of train ids.
            background_threshold: pixels whose best score is below it become void: `void_id` of the label space with
                `original_ids`, otherwise `ignore_index`. None takes the processor's own setting.

        Returns:
            B tensors (height, width) int64.

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

        label_maps = []
        for index in range(batch):
            single = ModelOutput({name: tensor[index : index + 1] for name, tensor in predictions.items()})
            height, width = next(reversed(single.values())).shape[-2:] if target_sizes is None else target_sizes[index]
            labels, scores = semantic_labels_and_scores(single, (int(height), int(width)))
            label_map = labels[0] if table is None else table.to(labels.device)[labels[0]]
            label_maps.append(without_unlikely(label_map, scores[0], threshold, void))
        return label_maps


def _grey_to_rgb(images: Any) -> Any:
    """Arrays (H, W), which transformers does not take for images, as (H, W, 3); everything else as it is."""
    if isinstance(images, (list, tuple)):
        return [_grey_to_rgb(image) for image in images]
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 2:
        return np.stack([np.asarray(images)] * 3, axis=-1)
    return images


def _predictions(outputs: Any) -> dict[str, Tensor]:
    """The tensors that decide the label map, the map itself last."""
    if getattr(outputs, "logits", None) is not None:
        return {"logits": outputs.logits}
    return {
        "class_queries_logits": outputs.class_queries_logits,
        "masks_queries_logits": outputs.masks_queries_logits,
    }


__all__ = ["DinoSegImageProcessor"]
