"""Pictures of label maps: colours, overlays, panels. Everything here takes and draws original ids."""

from .overlay import overlay
from .palette import VOID_COLOR, class_colors, colorize, palette_image
from .panels import panel

__all__ = ["VOID_COLOR", "class_colors", "colorize", "overlay", "palette_image", "panel"]
