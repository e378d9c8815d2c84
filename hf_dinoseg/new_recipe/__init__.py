"""A first recipe from folders of images and masks: `dinoseg init`."""

from .make_recipe import NewRecipe, make_recipe
from .measure import Cost, measure

__all__ = ["Cost", "NewRecipe", "make_recipe", "measure"]
