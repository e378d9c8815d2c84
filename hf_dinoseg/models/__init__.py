"""The model. This folder is flat and self-contained: it travels to the Hub with every checkpoint."""

from __future__ import annotations

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .backbone import BackboneError
from .configuration_dinoseg import DinoSegConfig
from .head_mask2former import default_out_layers
from .heads import HEADS, Head, Setting, head_class, head_settings, register_head
from .image_processing_dinoseg import DinoSegImageProcessor
from .modeling_dinoseg import DinoSegForSemanticSegmentation
from .outputs import DinoSegOutput
from .scores import semantic_labels_and_scores, semantic_scores, without_unlikely

# With the package installed the Auto classes know the model, and the pipeline, which goes by names, does not log that
# it does not. The last three lines make `save_pretrained` write the code beside the weights, so that the Auto classes
# know the model elsewhere too, with `trust_remote_code=True`.
AutoConfig.register("dinoseg", DinoSegConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(DinoSegConfig, DinoSegForSemanticSegmentation, exist_ok=True)
AutoImageProcessor.register(DinoSegConfig, image_processor_classes={"pil": DinoSegImageProcessor}, exist_ok=True)
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["dinoseg"] = DinoSegForSemanticSegmentation.__name__
# A pipeline asks for a video processor, whatever its task, and takes the code beside the weights for one: it would ask
# whether to run that code. Known to have none, the model is not asked about.
VIDEO_PROCESSOR_MAPPING.register(DinoSegConfig, {}, exist_ok=True)  # type: ignore[arg-type]
DinoSegConfig.register_for_auto_class()
DinoSegForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
DinoSegImageProcessor.register_for_auto_class()

__all__ = [
    "BackboneError",
    "DinoSegConfig",
    "DinoSegForSemanticSegmentation",
    "DinoSegImageProcessor",
    "DinoSegOutput",
    "HEADS",
    "Head",
    "Setting",
    "default_out_layers",
    "head_class",
    "head_settings",
    "register_head",
    "semantic_labels_and_scores",
    "semantic_scores",
    "without_unlikely",
]
