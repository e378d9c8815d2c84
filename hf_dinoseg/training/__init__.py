"""Training: the Trainer, its optimiser groups, its output folder."""

from ..errors import RunError
from ..evaluation.panels import PanelWriter
from ..evaluation.streamed import StreamedMetrics
from .callbacks import EarlyStopping, HeadSchedule
from .console import calm
from .distributed import built_whole, check_can_measure, check_processes
from .optimizer import parameter_groups
from .signals import Preempted
from .trainer import DinoSegTrainer
from .tuning import apply_tuning

__all__ = [
    "DinoSegTrainer",
    "HeadSchedule",
    "EarlyStopping",
    "PanelWriter",
    "Preempted",
    "RunError",
    "StreamedMetrics",
    "apply_tuning",
    "calm",
    "built_whole",
    "check_can_measure",
    "check_processes",
    "parameter_groups",
]
