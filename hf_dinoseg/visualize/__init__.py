"""Pictures of label maps: colours, overlays, panels. Everything here takes and draws original ids."""

from .overlay import overlay
from .palette import VOID_COLOR, class_colors, colorize, palette_image
from .panels import image_of_panel, panel, save_panel

__all__ = [
    "VOID_COLOR",
    "class_colors",
    "colorize",
    "image_of_panel",
    "overlay",
    "palette_image",
    "panel",
    "save_panel",
]
