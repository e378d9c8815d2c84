"""Training: the Trainer, its optimiser groups, its output folder."""

from ..errors import RunError
from .callbacks import HeadSchedule
from .early_stopping import EarlyStopping
from .evaluation import StreamedMetrics
from .optim import parameter_groups
from .panel_writer import PanelWriter
from .preemption import Preempted
from .processes import built_whole, check_can_measure, check_processes
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
    "built_whole",
    "check_can_measure",
    "check_processes",
    "parameter_groups",
]
