"""Images of a run while it goes: beside the checkpoint, and in TensorBoard, Weights & Biases and Trackio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from ..errors import RunError
from ..visualize import CONFUSION_FILE, CURVES_FILE, save_confusion, save_curves

if TYPE_CHECKING:
    from .trainer import DinoSegTrainer

# whose packages have other names than transformers gives them in `report_to`
_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}


def check_loggers(names: Iterable[str]) -> None:
    """Refuse a logger that cannot be used here, before a run has done anything.

    Args:
        names: `report_to` of TrainingArguments, once these are made.

    Raises:
        RunError: naming the package.
    """
    for name in names:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except (RuntimeError, ImportError) as error:
            package = _PACKAGES.get(name, name)
            raise RunError(
                f"training.report_to: {name} is not installed ({str(error).splitlines()[0]}). Run `pip install "
                f"{package}`, or take it out of training.report_to."
            ) from error


def show_evaluation(trainer: DinoSegTrainer, panels: Path) -> None:
    """After an evaluation, by the first process: during training draw `confusion.png` and `curves.png` anew in the
    output folder, and hand these and the panels to whatever `report_to` names.

    Args:
        panels: the folder with this evaluation's panels, if there are any.
    """
    images = {f"panels/{path.stem}": path for path in sorted(panels.glob("*.png"))}
    if trainer.is_in_train and trainer.streamed.matrix is not None:
        folder = Path(str(trainer.args.output_dir))
        save_confusion(trainer.streamed.matrix.numpy(), trainer.label_space, folder / CONFUSION_FILE)
        images["confusion"] = folder / CONFUSION_FILE
        if save_curves(trainer.state.log_history, folder / CURVES_FILE):
            images["curves"] = folder / CURVES_FILE
    report_images(trainer.callback_handler.callbacks, images, trainer.state.global_step)


def report_images(callbacks: Iterable[TrainerCallback], images: Mapping[str, Path], step: int) -> None:
    """Log images to TensorBoard, Weights & Biases and Trackio, as far as transformers' callbacks use them. These log an
    evaluation's figures first, so their runs have begun.

    Args:
        callbacks: of a Trainer.
        images: PNG files by the name to show them under.
        step: of the run.
    """
    for callback in callbacks if images else ():
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            for name, path in images.items():
                with Image.open(path) as image:
                    callback.tb_writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            callback.tb_writer.flush()
        elif isinstance(callback, (WandbCallback, TrackioCallback)):
            # the two have one interface, and log to the run that transformers' callback began
            logger = import_module("wandb" if isinstance(callback, WandbCallback) else "trackio")
            shown = {name: logger.Image(str(path), caption=path.stem) for name, path in images.items()}
            logger.log({**shown, "train/global_step": step})
