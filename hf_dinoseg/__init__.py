"""Fine-tune DINOv3 for semantic segmentation with the Hugging Face Trainer.

Importing the package registers its model with transformers' Auto classes and pipelines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .labels import LabelSpace
from .models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegImageProcessor
from .version import __version__

if TYPE_CHECKING:
    from .inference import Segmenter
    from .recipe import Recipe, load_recipe
    from .training import DinoSegTrainer

_LATER = {
    "Recipe": ".recipe",
    "load_recipe": ".recipe",
    "DinoSegTrainer": ".training",
    "Segmenter": ".inference",
}

__all__ = [
    "DinoSegConfig",
    "DinoSegForSemanticSegmentation",
    "DinoSegImageProcessor",
    "DinoSegTrainer",
    "LabelSpace",
    "Recipe",
    "Segmenter",
    "__version__",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
