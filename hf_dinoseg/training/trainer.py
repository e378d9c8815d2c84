"""DinoSegTrainer: transformers' Trainer with a mask-classification loss, exact streamed evaluation and checkpoints that
are plain models.

It reads from top to bottom as a run goes: what it is made of, data, loss, learning rates, evaluation, checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from ..data import (
    EvalDataset,
    SegmentationDataset,
    Skipped,
    StreamingSegmentationDataset,
    StreamLoader,
    collate,
    collate_eval,
    expand_batch,
)
from ..data.plain import TensorItems
from ..errors import InputError, RunError
from ..evaluation import BETA, background_matrices, confusion_matrix, per_class_table
from ..evaluation.panels import PanelWriter
from ..evaluation.streamed import StreamedMetrics, extra_counts
from ..evaluation.summary import find_figure
from ..figures import percent
from ..inference import Background
from ..inference.predict import predict_images
from ..labels import LabelSpace
from ..losses import Loss
from ._compat import without_autocast
from .callbacks import AverageCallback, BegunCallback, ClockCallback, EpochCallback, HeadSchedule, PickUpCallback
from .checkpoints import CheckpointManifest, checkpoint_name, fault_of, newest_whole_checkpoint, rotate
from .console import Console, Unseen, say
from .defaults import as_items, find_label_space, find_processor, settle_arguments
from .distributed import (
    average_buffers,
    on_first_process,
    preserved_randomness,
    synchronise_batch_norms,
    whole_on_each_process,
)
from .log_images import show_evaluation
from .manifest import MANIFEST_FILE, Manifest
from .optimizer import Decays, one_cycle_schedule, parameter_groups, two_stage_schedule, warmup_one_cycle_schedule
from .signals import Preempted, Stopper, StopRequested, shield_workers
from .step_log import StepLog
from .weights import OwnWeights

logger = logging.getLogger(__name__)

CROP_SIZE = 512  # of images that come without a recipe
STREAM_FILE = "stream_{}.json"  # in a checkpoint, one a process
MAX_BROKEN_BATCHES = 10  # one after another, until a run stops: now and then one is overcome, in fp16 above all
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # schedules that an evaluation moves
# In the RuntimeError with which torch.save tells that a file cannot be written.
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream")


class DinoSegTrainer(Trainer):
    """Trains and evaluates a `DinoSegForSemanticSegmentation`.

    What differs from `Trainer`:

    * workers hand over bytes (`data.collate`); `pixel_values`, `mask_labels` and `class_labels` are made on the device;
    * `compute_loss` runs `criterion` with void masked out, normalised over all processes and accumulation steps;
    * batch norms normalise by the batch of all processes, where `distributed.synchronise_batch_norms` can make them;
    * evaluation predicts label maps at the original size through `inference.predict_best`, the function that
      `Segmenter` uses too, in full precision unless `inference` says otherwise, and keeps counts only.

    All but model, arguments and datasets follows from the model where it is not given.

    Args:
        model, args, train_dataset, eval_dataset, callbacks: as in `Trainer`. Datasets are those of `data`; or others
            that have a length, and items of `pixel_values` and `labels`, which are taken as they are: see
            `data.plain.TensorItems`; or images and masks in any form that `data.load_memory` takes, which are augmented
            as a recipe's are by default, in crops as large as the windows of `inference`, or 512. Of `args` those are
            set that evaluation depends on, `batch_eval_metrics` among them.
        data_collator: of training batches; `data.collate` by default.
        processing_class: the image processor, saved beside the model; by default the one beside the model's weights.
        criterion: the loss; by default the model's own (`config.loss`). It becomes the model's, to be saved with it.
        label_space: restores original ids in metrics and images, and has the colours of these; by default that of the
            configuration, or else its `id2label`.
        inference: how evaluation predicts: `mode`, `window`, `stride`, … of `inference.predict_best`; by default as
            `config.inference` says.
        background: what is answered where no class is likely; by default as `config.background_threshold` says.
        beta: of F-beta in the metrics.
        boundary_iou: whether evaluation measures outlines too, which costs some time on the CPU; it does in any case if
            the best checkpoint is chosen by them.
        panels: how many images each evaluation draws into `output_dir/panels/step-<step>/`.
        backbone_learning_rate_multiplier: the backbone's learning rate as a share of the head's.
        layer_decay: by which it falls from block to block; see `optimizer.parameter_groups`.
        backbone_warmup_steps: when given, the backbone rests while the head warms up, and then warms up over so many
            steps, or share of all steps below 1; see `optimizer.two_stage_schedule`.
        one_cycle: arguments of `optimizer.one_cycle_schedule` in place of the schedule that `args` names.
        warmup_one_cycle: `optimizer.warmup_one_cycle_schedule` in its place.
        weight_decay_on: what weight decay applies to; see `optimizer.parameter_groups`.
        ema_decay: of a running average of the weights, evaluated and saved in their stead; None keeps none.
        stopper: what ends the run before its last step.

    Raises:
        RunError: if weights that differ from those saved (average, LoRA) would be spread over processes.
        ModelError: if `label_space` has other classes than the model.
    """

    # The loss divides by counts summed over the accumulated batch, so the Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
        label_space: LabelSpace | Mapping[str, Any] | None = None,
        criterion: Loss | None = None,
        inference: Mapping[str, Any] | None = None,
        background: Background | None = None,
        panels: int = 0,
        beta: float = BETA,
        boundary_iou: bool = True,
        backbone_learning_rate_multiplier: float = 0.1,
        layer_decay: float = 1.0,
        backbone_warmup_steps: float | None = None,
        one_cycle: dict[str, Any] | None = None,
        warmup_one_cycle: bool = False,
        weight_decay_on: Decays = "weights",
        ema_decay: float | None = None,
        stopper: Stopper | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        settle_arguments(args)
        config: Any = model.config
        label_space = find_label_space(config, label_space)
        processing_class = processing_class or find_processor(config, label_space)
        crop = (inference or getattr(config, "inference", None) or {}).get("window") or CROP_SIZE
        train_dataset = as_items(train_dataset, "train_dataset", label_space, processing_class, args, crop)
        eval_dataset = as_items(eval_dataset, "eval_dataset", label_space, processing_class, args)
        if criterion is not None:
            owner: Any = model
            owner.set_criterion(criterion)
        if train_dataset is not None:
            synchronise_batch_norms(model, args.device, args.world_size)
        self.streamed = StreamedMetrics(label_space, beta, args.metric_for_best_model)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=self.streamed,  # type: ignore[arg-type]  # as batch_eval_metrics calls it
            callbacks=[EpochCallback(train_dataset), HeadSchedule(), *(callbacks or [])],
        )
        self.own_weights = OwnWeights(model, ema_decay)
        if self.own_weights.differ and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise RunError(
                "model.ema_decay and model.tune: lora work on one process or with DDP, not with FSDP or DeepSpeed, "
                "which spread the weights over processes."
            )
        self.backbone_learning_rate_multiplier = backbone_learning_rate_multiplier
        self.layer_decay = layer_decay
        self.backbone_warmup_steps = backbone_warmup_steps
        self.one_cycle = one_cycle
        self.warmup_one_cycle = warmup_one_cycle
        self.weight_decay_on: Decays = weight_decay_on
        loss: Any = None if train_dataset is None else model.criterion
        self.criterion: Loss | None = None if loss is None else loss.to(args.device)
        self.label_space = label_space
        self.inference: dict[str, Any] = dict(inference or getattr(config, "inference", None) or {})
        chosen_by = find_figure(args.metric_for_best_model or "", label_space)
        self.boundary_iou = boundary_iou or (chosen_by is not None and "boundary_iou" in chosen_by[0])
        self.background = background or Background.resolve(stored=config.background_threshold)
        self.image_mean: Sequence[float] = processing_class.image_mean
        self.image_std: Sequence[float] = processing_class.image_std
        self.num_queries: int = model.config.num_queries
        self.panels = panels
        self._stream: StreamLoader | None = None
        if isinstance(train_dataset, StreamingSegmentationDataset):
            args.ignore_data_skip = True  # the stream goes on by itself where it was
        self._panel_writer: PanelWriter | None = None  # of the evaluation that is running
        self.skipped: dict[str, str] = {}  # id and fault of samples that this process could not read
        self.step_log = StepLog(args.device, args.gradient_accumulation_steps, args.world_size)
        self._broken_in_a_row = 0  # batches with matching costs that are NaN or infinite
        self._manifest: Manifest | None = None
        self._resumed_from: Path | None = None
        self._settings: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self._new_rates = False
        self._saved_step: int | None = None  # of the checkpoint that was written, or resumed from, last
        self.stopper = stopper or Stopper()
        own: list[TrainerCallback] = [AverageCallback(self.own_weights), ClockCallback(self.step_log), self.stopper]
        # in a notebook neither is there, and transformers' own table stays
        kinds: tuple[Any, ...] = (PrinterCallback, ProgressCallback)
        theirs = [self.pop_callback(kind) for kind in kinds]
        self._unseen = Unseen()
        for callback in [*own, PickUpCallback(self._pick_up), *([Console()] if any(theirs) else [])]:
            self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; in the end the model has the weights that were evaluated and saved.

        Raises:
            Preempted: if the stopper ended it, once a checkpoint is saved.
        """
        if resume_from_checkpoint is True and (newest := newest_whole_checkpoint(Path(str(self.args.output_dir)))):
            resume_from_checkpoint = str(newest)
        self._resumed_from = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else None
        with self.stopper:
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
            except Preempted as preempted:
                self.callback_handler.on_train_end(self.args, self.state, self.control)  # loggers are closed by it
                # the loops that it came through hold loaders, whose workers are waited for otherwise when all ends
                for error in (preempted, preempted.__context__):
                    traceback.clear_frames(error.__traceback__ if error else None)
                raise
        self.own_weights.settle()
        return result

    def _pick_up(self) -> None:
        """When all is loaded and the first step is next: correct what a checkpoint's state says otherwise."""
        state = self.state
        state.compute_steps(self.args, state.max_steps)  # when to log, evaluate and save is for the arguments to say
        self._saved_step = None
        if self._resumed_from is None:
            return
        if self._resumed_from.name == checkpoint_name(state.global_step):
            self._saved_step = state.global_step
        state.best_model_checkpoint = self._best_checkpoint()
        record = on_first_process(self.args, lambda: _manifest_of(self._resumed_from))
        measured = any("eval_runtime" in entry and entry["step"] == state.global_step for entry in state.log_history)
        if record is not None and record.evaluation_due and not measured:
            try:
                self._determine_best_metric(metrics=self._evaluate(None, None), trial=None)
            except StopRequested:
                raise self._preempted() from None
            self._save_checkpoint(self.model_wrapped, None)

    def _best_checkpoint(self) -> str | None:
        """Where the best checkpoint so far is: in this run's folder, wherever that was when it was saved. One that is
        not whole any more is forgotten."""
        state = self.state
        if not state.best_global_step:
            return None
        best = Path(str(self.args.output_dir)) / checkpoint_name(state.best_global_step)
        listed = self._resumed_from is None or (self._resumed_from / MANIFEST_FILE).exists()
        if best == self._resumed_from or not (fault := on_first_process(self.args, lambda: _fault(best, listed))):
            return str(best)
        logger.warning("%s, the best checkpoint so far, %s: the best one is sought anew from here on.", best, fault)
        state.best_global_step = state.best_metric = None
        return None

    # ------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer`'s; a stream divides itself among processes and workers, and is not divided once more."""
        args = self.args
        if not isinstance(self.train_dataset, StreamingSegmentationDataset):
            loader = super().get_train_dataloader()
            shield_workers(loader)
            return loader
        self._stream = StreamLoader(
            self.train_dataset,
            args.train_batch_size,
            args.max_steps * args.gradient_accumulation_steps,
            args.device,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),
        )
        shield_workers(self._stream)
        if self._resumed_from is not None:
            path = self._resumed_from / STREAM_FILE.format(args.process_index)
            if not path.exists():  # more processes than before; the first one's file says how many there were
                path = self._resumed_from / STREAM_FILE.format(0)
            self._stream.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        return self._stream

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        train_collator, self.data_collator = self.data_collator, collate_eval
        try:
            loader = super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = train_collator
        shield_workers(loader)
        return loader

    def _note_skipped(self, skipped: Iterable[Sequence[str]]) -> None:
        for name, reason in skipped:
            if self.skipped.setdefault(name, reason) is reason:
                logger.warning("Skipped: %s", reason)

    def gather_skipped(self) -> list[Skipped]:
        """The samples that any process met while it ran and could not read, by id. To be called by all of them."""
        found = [Skipped(name, reason) for name, reason in self.skipped.items()]
        if self.args.world_size > 1:
            found = gather_object(found)
        return sorted(set(found))

    # ------------------------------------------------------------------ loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """As `Trainer.get_batch_samples`. What the loss is divided by are the loss's own counts, summed over
        accumulation steps and processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches or self.criterion is None:
            return batches, None
        counts = [self.criterion.counts(batch, self.num_queries) for batch in batches]
        total = torch.stack(counts).sum(0).to(device)
        return batches, self.accelerator.reduce(total, reduction="sum") if self.args.world_size > 1 else total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The criterion's loss; its terms are summed for the log.

        Raises:
            RunError: if the loss is not finite, or matching costs were not in many batches on end; the message names
                the images of the batch.
        """
        if self.criterion is None:
            raise RunError("This trainer was made without a train_dataset, so it evaluates only.")
        self._note_skipped(inputs.get("skipped", ()))
        if "index" in inputs and "mask_labels" not in inputs:  # a compact batch, as workers send it
            inputs = expand_batch(inputs, self.image_mean, self.image_std)
        outputs = model(pixel_values=inputs["pixel_values"])
        targets = self.criterion.targets(inputs)
        terms = self.criterion(outputs, **targets, normalizers=num_items_in_batch, replicas=self.args.world_size)
        self.step_log.add(terms, len(inputs["pixel_values"]))
        loss: torch.Tensor = terms["loss"]
        self._broken_in_a_row = self._broken_in_a_row + 1 if terms.get("nonfinite_costs") else 0
        if not torch.isfinite(loss) or self._broken_in_a_row >= MAX_BROKEN_BATCHES:
            raise RunError(self._diverged(loss, inputs))
        return (loss, outputs) if return_outputs else loss

    def _diverged(self, loss: torch.Tensor, inputs: dict[str, Any]) -> str:
        names = ", ".join(inputs.get("id", ())) or "of this batch"
        if isinstance(self.train_dataset, (SegmentationDataset, TensorItems)) and "index" in inputs:
            names = ", ".join(self.train_dataset.ids[i] for i in inputs["index"].tolist())
        what = f"The loss is {loss.item()}"
        if torch.isfinite(loss):
            what = f"In {self._broken_in_a_row} batches one after another matching costs were NaN or infinite"
        return (
            f"{what} after step {self.state.global_step}, on the images {names}. Earlier "
            "checkpoints are untouched. Look at these images and their masks, then lower training.learning_rate or "
            "train in bf16 instead of fp16, and go on with --resume."
        )

    # ------------------------------------------------------------------ learning rates

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            target: Any = self.model if model is None else model
            optimizer_cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, target)
            groups = parameter_groups(
                target,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                backbone_learning_rate_multiplier=self.backbone_learning_rate_multiplier,
                layer_decay=self.layer_decay,
                decays=self.weight_decay_on,
            )
            self.optimizer_cls_and_kwargs = (optimizer_cls, {**kwargs, "params": groups})
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        optimizer = optimizer or self.optimizer
        while self.is_deepspeed_enabled and (inner := getattr(optimizer, "optimizer", None)) is not None:
            optimizer = inner  # DeepSpeed's own lacks what schedules ask for; they share their groups
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps:
            self.args.warmup_steps = num_training_steps - 1  # polynomial decay divides by the steps that are left
        if self.lr_scheduler is None and optimizer is not None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            schedule: Any = None
            if self.one_cycle is not None:
                schedule = one_cycle_schedule(optimizer, warmup, num_training_steps, **self.one_cycle)
            elif self.warmup_one_cycle:
                schedule = warmup_one_cycle_schedule(optimizer, warmup, num_training_steps)
            elif self.backbone_warmup_steps is not None:
                rest = self.backbone_warmup_steps
                rest = int(rest) if rest >= 1 else math.ceil(rest * num_training_steps)
                schedule = two_stage_schedule(optimizer, warmup, rest, num_training_steps)
            self.lr_scheduler = schedule
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As `Trainer`'s. With other rates than the checkpoint's, the optimiser keeps its state and gets the new ones,
        and the schedule is where it would be had it been this one from the first step on.

        Raises:
            RunError: with DeepSpeed, which has rates of its own.
        """
        if not self._new_rates:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if self.is_deepspeed_enabled:
            raise RunError(
                "With DeepSpeed, learning rates and schedules cannot change on --resume; write those before."
            )
        groups: Any = self.optimizer.param_groups  # type: ignore[union-attr]
        rates = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        schedule: Any = self.lr_scheduler
        begun = deepcopy(schedule.state_dict())
        super()._load_optimizer_and_scheduler(checkpoint)
        steps = schedule.last_epoch
        for group, new in zip(self.optimizer.param_groups, rates, strict=True):  # type: ignore[union-attr]
            group.update(new)
        schedule.load_state_dict(begun)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the optimiser's steps, which were done before
            for _ in range(steps):
                schedule.step()

    def _load_scaler(self, checkpoint: str | None) -> None:
        """As `Trainer`'s; a run that went on from fp16 to bf16 has no use for the scale of gradients."""
        if getattr(self.accelerator, "scaler", None) is not None:
            super()._load_scaler(checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with what `StepLog` says and each part's learning rate; `learning_rate` is the head's."""
        if "loss" in logs:
            logs.update(self.step_log.entries())
            if self.optimizer is not None and not self.is_deepspeed_enabled:
                rates = {group.get("name", ""): float(group["lr"]) for group in self.optimizer.param_groups}
                rates = {name.removesuffix("_no_decay"): rate for name, rate in rates.items() if name}
                logs["learning_rate"] = rates.pop("head", logs["learning_rate"])
                logs.update({f"learning_rate_{part}": rate for part, rate in rates.items()})
        super().log(logs, start_time)

    # ------------------------------------------------------------------ evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        panel_folder: Path | None = None,
    ) -> dict[str, float]:
        """As `Trainer.evaluate`; also logs a table of classes, draws panels, and shows them: see `show_evaluation`.

        Args:
            panel_folder: where the panels go; None means `output_dir/panels/step-<step>`. Where one is given, the
                table is left to the caller.
        """
        dataset: Any = as_items(eval_dataset, "eval_dataset", self.label_space, self.processing_class, self.args)
        if dataset is None and (dataset := self.eval_dataset) is None:
            raise InputError("eval_dataset: found none, wanted one here, or given to DinoSegTrainer.")
        folder = panel_folder or Path(str(self.args.output_dir)) / "panels" / f"step-{self.state.global_step:06d}"
        self._panel_writer = PanelWriter(
            folder, dataset.ids, self.panels, self.label_space, self.image_mean, self.image_std, self.background
        )
        self.streamed.num_skipped = dataset.num_skipped
        if self.args.world_size > 1:
            average_buffers(self.own_weights.model)
        shown, whole = self.own_weights.shown(), whole_on_each_process(self.own_weights.model, self.deepspeed)
        # a run that was interrupted here, and evaluates on being resumed, draws what it would have drawn
        randomness = preserved_randomness(self.args.device)
        with self.step_log.paused(), self.filling(folder), randomness, shown, whole:
            try:
                metrics: dict[str, float] = super().evaluate(dataset, ignore_keys, metric_key_prefix)
            except StopRequested:
                if self.is_in_train:
                    raise
                raise Preempted(
                    f"ended by {self.stopper.reason} while the finished model was measured; its checkpoints are in "
                    f"{self.args.output_dir}. Go on with --resume.",
                    self.stopper.stopped_by,
                ) from None
        if self.streamed.matrix is not None and self.is_world_process_zero():
            if panel_folder is None:
                self._tell(self.streamed.matrix, self.streamed.summary)
            show_evaluation(self, folder)
        return metrics

    def _tell(self, matrix: torch.Tensor, summary: dict[str, Any]) -> None:
        """Log what an evaluation found."""
        step, steps = self.state.global_step, self.state.max_steps
        say(
            f"{f'step {step}/{steps}: ' if step else ''}mean IoU {percent(summary['mean_iou'])} % on "
            f"{summary['num_images']} images\n{per_class_table(matrix, self.label_space, summary['void_share'])}"
        )
        if step and (told := self._unseen.note(step, steps, summary["per_category_iou"])):
            logger.warning("%s", told)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """Predict label maps at original size.

        Returns:
            (None, (matrices, (B, n) int64 `image_counts`), (B,) indices), of single images. The matrices are (B, C,
            C + 1) int64 confusion matrices; if the truth knows id 0 from other void, (B, 2, C + 1, C + 1): see
            `evaluation.background_matrices`.
        """
        self._note_skipped(inputs.get("skipped", ()))
        inputs = send_to_device(inputs, self.args.device)
        matrices, extras = [], []
        classes, void = self.label_space.num_labels, self.label_space.ignore_index
        zeros = inputs.get("zero", [None] * len(inputs["labels"]))
        indices = inputs["index"].tolist()
        readable = [place for place, index in enumerate(indices) if index >= 0]
        images = [inputs["pixel_values"][place] for place in readable]
        sizes = [(inputs["labels"][place].shape[-2], inputs["labels"][place].shape[-1]) for place in readable]
        with torch.no_grad(), without_autocast(model):
            answers = predict_images(model, images, sizes, **self.inference)
            for index, pixel_values, truth, zero in zip(
                indices, inputs["pixel_values"], inputs["labels"], zeros, strict=True
            ):
                if index < 0:  # the file could not be read: a void pixel, which counts for nothing
                    truth = torch.full_like(truth, void)
                    best = prediction = torch.zeros_like(truth)
                    scores = torch.zeros(truth.shape, device=truth.device)
                else:
                    best, scores = next(answers)
                    prediction = self.background.apply(best, scores, void)
                matrices.append(
                    confusion_matrix(prediction, truth, classes, void)
                    if zero is None
                    else background_matrices(best, prediction, truth, zero, self.label_space)
                )
                extras.append(extra_counts(prediction, scores, truth, self.label_space, self.boundary_iou))
                if self._panel_writer is not None:
                    self._panel_writer.write(index, pixel_values, truth, prediction)
        return None, (torch.stack(matrices), torch.stack(extras)), inputs["index"]

    def predict_one(self, dataset: EvalDataset, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(H, W) train ids of one image of a dataset, as an image shows them, and of its truth; both on the host."""
        item = dataset[index]
        truth, void = item["labels"], self.label_space.ignore_index
        model: Any = self.model
        model.eval()
        with torch.no_grad(), without_autocast(model):
            pixel_values = item["pixel_values"].to(self.args.device)
            [(best, scores)] = predict_images(model, [pixel_values], [tuple(truth.shape[-2:])], **self.inference)
        answer = self.background.apply(best, scores, void).cpu()
        return self.background.drawn(answer, truth, void), truth

    # ------------------------------------------------------------------ checkpoints

    def keep(
        self,
        manifest: Manifest | None,
        *,
        settings: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        new_rates: bool = False,
        begun: Callable[[int], None] = lambda step: None,
    ) -> None:
        """List in a manifest what is written; on the first process alone, the others give None.

        Args:
            settings, data: what is in force, and the fingerprint of the data, for the manifests of checkpoints.
            new_rates: learning rates, their schedule, or the optimiser's constants differ from those of the checkpoint
                that is resumed from.
            begun: called by the first process once training runs, with the step that it runs from.
        """
        self._manifest, self._settings, self._data, self._new_rates = manifest, settings or {}, data or {}, new_rates
        if manifest is not None:
            self.add_callback(BegunCallback(manifest, begun))

    @contextmanager
    def filling(self, folder: Path, then: Callable[[], CheckpointManifest] | None = None) -> Iterator[None]:
        """A folder that all processes write files into. Nothing is written before the manifest names it, and it is
        listed when all have done their part.

        Args:
            then: what the first process does with it before it is listed.
        """
        manifest = self._manifest
        inside = manifest is not None and folder.is_relative_to(manifest.folder)
        name = folder.relative_to(manifest.folder).as_posix() if manifest is not None and inside else ""
        if manifest is not None and inside:
            manifest.begin(name)
        self.accelerator.wait_for_everyone()
        yield
        self.accelerator.wait_for_everyone()
        known = {}
        if then is not None and self.is_world_process_zero():
            known = {f"{name}/{path}": entry for path, entry in then().files.items()}
        if manifest is not None and inside:
            manifest.finish(name, known=known)
        if then is not None:  # or a process could be over, and its launcher end the others, while the first one hashes
            self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, of the weights that are evaluated. Where FSDP saves checkpoints in shards, the
        model at the end is whole all the same."""
        folder = Path(str(output_dir or self.args.output_dir))
        if self.own_weights.differ:
            with self.own_weights.shown() as shown:
                if self.args.should_save:
                    self._save(str(folder), shown)
            if self.args.should_save:
                self.own_weights.save(folder)
        elif self.is_fsdp_enabled and not _internal_call:
            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self.own_weights.model, options=whole)
            if self.args.should_save:
                self._save(str(folder), state)
        else:
            super().save_model(output_dir, _internal_call)
        # Pickled, and everything in it stands in recipe.yaml: nothing pickled goes into a checkpoint folder.
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As `Trainer`'s, but saves before it evaluates: what was learned does not wait for what is measured. An
        evaluation that did not come to its end is made good for when the run is resumed.

        Raises:
            Preempted: if the run is to end, once the step is saved.
        """

        def as_trainer(evaluate: bool, save: bool) -> None:
            self.control.should_evaluate, self.control.should_save = evaluate, save
            super(DinoSegTrainer, self)._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)

        evaluate, save = self.control.should_evaluate, self.control.should_save
        if self.stopper.stopped_by:
            as_trainer(evaluate=False, save=False)
            at_end = self.args.eval_strategy == "epoch" and abs(self.state.epoch - round(self.state.epoch)) < 1e-6
            self._save_checkpoint(model, trial, evaluation_due=evaluate or at_end)
            raise self._preempted()
        if not evaluate:
            return as_trainer(evaluate, save)
        as_trainer(evaluate=False, save=False)
        # where the metric moves the learning rate or decides on saving, saving comes after it
        after = self.args.lr_scheduler_type in _BY_METRIC or self.args.save_strategy == SaveStrategy.BEST
        if save and not after:
            self._save_checkpoint(model, trial, evaluation_due=True)
        try:
            as_trainer(evaluate=True, save=save)
        except StopRequested:
            if not save or after:
                self._save_checkpoint(model, trial, evaluation_due=True)
            raise self._preempted() from None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As `Trainer`'s, which does one step more where a run is resumed within an epoch, all steps of which are
        done."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _preempted(self) -> Preempted:
        return Preempted(
            f"ended by {self.stopper.reason} after step {self.state.global_step}; the checkpoint is in "
            f"{self.args.output_dir}. Go on with --resume.",
            self.stopper.stopped_by,
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any, evaluation_due: bool = False) -> None:
        """As `Trainer._save_checkpoint`, with a manifest. Of a step that is saved already, the evaluation is added. One
        that cannot be written is taken away, so that what is left is whole.

        Raises:
            RunError: naming the folder and the newest checkpoint before.
        """
        step, folder = self.state.global_step, Path(str(self.args.output_dir))
        torn = folder / checkpoint_name(step)
        if self._saved_step == step and (torn / MANIFEST_FILE).exists():
            self._add_evaluation(torn)
            return
        try:
            if self.args.world_size > 1:  # or a resumed run would have the first process's everywhere
                average_buffers(self.own_weights.model)
            if self.is_world_process_zero() and torn.exists():  # of a future that a resume gave up
                (torn / MANIFEST_FILE).unlink(missing_ok=True)
                if self._manifest is not None:
                    self._manifest.delete(torn.name)
            limit, self.args.save_total_limit = self.args.save_total_limit, None  # the Trainer would go by file times
            try:
                with self.step_log.paused(), self.filling(torn, lambda: self._seal(torn, evaluation_due)):
                    if self._stream is not None:
                        torn.mkdir(parents=True, exist_ok=True)
                        place = json.dumps(self._stream.state_dict())
                        (torn / STREAM_FILE.format(self.args.process_index)).write_text(place, encoding="utf-8")
                    super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self._saved_step = step
            if not evaluation_due:
                self._rotate()
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in _TORCH_CANNOT_WRITE):
                raise
            shutil.rmtree(torn, ignore_errors=True)
            left = newest_whole_checkpoint(folder)
            raise RunError(
                f"{torn} could not be written ({str(error).splitlines()[0]}). Make room there, or permit writing, and "
                + (f"go on with --resume from {left.name}." if left else "start again: no checkpoint was saved before.")
            ) from error

    def _seal(self, checkpoint: Path, evaluation_due: bool) -> CheckpointManifest:
        (checkpoint / TRAINER_STATE_NAME).write_text(self._state_text(), encoding="utf-8")
        best = self.state.best_global_step
        record = CheckpointManifest(
            self._manifest.run_id if self._manifest else None,
            self.state.global_step,
            self.args.world_size,
            resumable=not self.args.save_only_model,
            evaluation_due=evaluation_due,
            best=checkpoint_name(best) if best else None,
            settings=self._settings,
            data=self._data,
        )
        record.seal(checkpoint)
        return record

    def _add_evaluation(self, checkpoint: Path) -> None:
        """Bring the state and the manifest of a checkpoint up to date after the evaluation that followed it.

        Raises:
            RunError: if that cannot be written; the checkpoint stays whole.
        """
        best = self.state.best_global_step
        if best:
            self.state.best_model_checkpoint = str(checkpoint.with_name(checkpoint_name(best)))
        if self.is_world_process_zero():
            states: Any = self.state.stateful_callbacks
            for callback in [*self.callback_handler.callbacks, self.control]:
                name = type(callback).__name__
                if isinstance(callback, ExportableState) and not isinstance(states.get(name), list):
                    states[name] = callback.state()
            try:
                record = CheckpointManifest.load(checkpoint)
                record.evaluation_due, record.best = False, checkpoint_name(best) if best else None
                if self._manifest is not None:
                    self._manifest.best = record.best
                    self._manifest.begin(checkpoint.name)
                record.replace(checkpoint, TRAINER_STATE_NAME, self._state_text())
                if self._manifest is not None:
                    known = {f"{checkpoint.name}/{path}": entry for path, entry in record.files.items()}
                    self._manifest.finish(checkpoint.name, known=known)
            except OSError as error:
                raise RunError(
                    f"{checkpoint}: what was measured could not be added to it ({error}). It is whole: make room "
                    "there, or permit writing, and go on with --resume."
                ) from error
        self._rotate()

    def _state_text(self) -> str:
        """The state as its file has it, but without the path of the best checkpoint: a run may be moved or copied, and
        the best one is named by its step."""
        return json.dumps({**asdict(self.state), "best_model_checkpoint": None}, indent=2, sort_keys=True) + "\n"

    def _rotate(self) -> None:
        if self.args.should_save:
            folder, state = Path(str(self.args.output_dir)), self.state
            rotate(folder, self.args.save_total_limit, state.global_step, state.best_global_step, self._manifest)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.own_weights.differ:
            self.own_weights.load(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self.own_weights.settle()  # what was saved is the plain model
        super()._load_best_model()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written by `hub.card` when training ends; the Trainer's would replace it on each push."""


def _manifest_of(checkpoint: Path | None) -> CheckpointManifest | None:
    try:
        return CheckpointManifest.load(checkpoint) if checkpoint is not None else None
    except FileNotFoundError:  # of version 0.1
        return None


def _fault(checkpoint: Path, listed: bool) -> str | None:
    return fault_of(checkpoint, listed=listed) if checkpoint.is_dir() else "is gone"
