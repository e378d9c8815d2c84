"""Training: the Trainer, its optimiser groups, its output folder."""

from .annealing import MaskAnnealing
from .early_stopping import EarlyStopping
from .errors import RunError
from .evaluation import StreamedMetrics
from .optim import parameter_groups
from .panel_writer import PanelWriter
from .preemption import Preempted
from .processes import built_whole, check_can_measure, check_processes
from .trainer import DinoSegTrainer
from .tuning import apply_tuning

__all__ = [
    "DinoSegTrainer",
    "EarlyStopping",
    "MaskAnnealing",
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
