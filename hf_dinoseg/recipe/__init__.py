"""The recipe: its typed schema, and its strict loader."""

from __future__ import annotations

from ..errors import RecipeError
from .keywords import recipe_of
from .load import Deviation, Recipe, deviations, load_recipe, plain
from .presets import label_preset, presets
from .protocols import protocol_file, protocols
from .schema import Evaluation, Hub, Model
from .schema_data import Data, FolderData, MixtureData, SyntheticRetinaData
from .schema_training import ONE_CYCLE, WARMUP_ONE_CYCLE, evaluation_arguments, seconds, training_arguments
from .yaml_format import write_yaml

__all__ = [
    "ONE_CYCLE",
    "WARMUP_ONE_CYCLE",
    "Data",
    "Deviation",
    "Evaluation",
    "FolderData",
    "Hub",
    "MixtureData",
    "Model",
    "Recipe",
    "RecipeError",
    "SyntheticRetinaData",
    "evaluation_arguments",
    "deviations",
    "label_preset",
    "load_recipe",
    "plain",
    "presets",
    "protocol_file",
    "protocols",
    "recipe_of",
    "seconds",
    "training_arguments",
    "write_yaml",
]
