"""The recipe: its typed schema, and its strict loader."""

from __future__ import annotations

from ..errors import RecipeError
from .keywords import recipe_of
from .load import Recipe, load_recipe
from .presets import label_preset, presets
from .schema import Evaluation, Hub, Model
from .schema_data import Data, FolderData, MixtureData, SyntheticRetinaData
from .schema_training import ONE_CYCLE, evaluation_arguments, training_arguments
from .yaml_format import write_yaml

__all__ = [
    "ONE_CYCLE",
    "Data",
    "Evaluation",
    "FolderData",
    "Hub",
    "MixtureData",
    "Model",
    "Recipe",
    "RecipeError",
    "SyntheticRetinaData",
    "evaluation_arguments",
    "label_preset",
    "load_recipe",
    "presets",
    "recipe_of",
    "training_arguments",
    "write_yaml",
]
