"""Images of label maps: colours, overlays, panels, the report. Everything here takes and draws original ids."""

from .confusion_matrix import CONFUSION_FILE, save_confusion
from .curves import CURVES_FILE, save_curves
from .overlay import color_image, overlay
from .palette import VOID_COLOR, Palette, class_colors, colorize, palette_image, with_palette
from .panels import image_of_panel, legend, panel, save_panel
from .report import ReportImage, render_report

__all__ = [
    "CONFUSION_FILE",
    "CURVES_FILE",
    "VOID_COLOR",
    "Palette",
    "ReportImage",
    "class_colors",
    "color_image",
    "colorize",
    "image_of_panel",
    "legend",
    "overlay",
    "palette_image",
    "panel",
    "render_report",
    "save_confusion",
    "save_curves",
    "save_panel",
    "with_palette",
]
