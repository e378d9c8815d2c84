"""The doctor: reads data, and a checkpoint, and says what is wrong and what to write instead."""

from .checks_settings import check_backbone_processor, check_label_spaces, check_model_files, check_normalization
from .checks_training import check_prepared
from .contact_sheet import contact_sheet
from .report import DoctorError, Finding, Report
from .run_checks import BAD_SAMPLE_CODES, DEFAULT_SAMPLES, examine, examine_checkpoint, quick_checks

__all__ = [
    "BAD_SAMPLE_CODES",
    "DEFAULT_SAMPLES",
    "DoctorError",
    "Finding",
    "Report",
    "check_backbone_processor",
    "check_label_spaces",
    "check_model_files",
    "check_normalization",
    "check_prepared",
    "contact_sheet",
    "examine",
    "examine_checkpoint",
    "quick_checks",
]
