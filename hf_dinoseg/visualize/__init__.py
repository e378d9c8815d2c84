"""Pictures of label maps: colours, overlays, panels, the report. Everything here takes and draws original ids."""

from .confusion import save_confusion
from .overlay import overlay
from .palette import VOID_COLOR, class_colors, colorize, palette_image
from .panels import image_of_panel, panel, save_panel
from .report import ReportPicture, render_report

__all__ = [
    "VOID_COLOR",
    "ReportPicture",
    "class_colors",
    "colorize",
    "image_of_panel",
    "overlay",
    "palette_image",
    "panel",
    "render_report",
    "save_confusion",
    "save_panel",
]
