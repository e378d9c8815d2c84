"""DinoSegTrainer: transformers' Trainer with a mask-classification loss and streamed evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from ..data import EvalDataset, SegmentationDataset, Skipped, StreamingSegmentationDataset, StreamLoader, collate, collate_eval, expand_batch
from ..errors import RunError
from ..inference import Background
from ..inference.batches import predict_pictures
from ..labels import LabelSpace
from ..losses import Loss
from ..metrics import BETA, background_matrices, confusion_matrix, per_class_table
from ..metrics.summary import find_figure
from .batch_norm import synchronise_batch_norms
from .callbacks import EpochCallback
from .evaluation import StreamedMetrics, average_buffers, picture_counts, whole_on_each_process, without_autocast
from .panel_writer import PanelWriter
from .rates import RatesTrainer
from .showing import show_evaluation
from .step_log import StepLog

logger = logging.getLogger(__name__)

STREAM_FILE = "stream_{}.json"  # in a checkpoint, one a process
MAX_BROKEN_BATCHES = 10  # one after another, until a run stops: now and then one is overcome, in fp16 above all


class DinoSegTrainer(RatesTrainer):
    """Trains and evaluates a `DinoSegForSemanticSegmentation`.

    What differs from `Trainer`:

    * workers hand over bytes (`data.collate`); `pixel_values`, `mask_labels` and `class_labels` are made on the device;
    * `compute_loss` runs `criterion` with void masked out, normalised over all processes and accumulation steps;
    * batch norms normalise by the batch of all processes, where `batch_norm.synchronise_batch_norms` can make them;
    * evaluation predicts label maps at the original size through `inference.predict_best`, the function that
      `Segmenter` uses too, in full precision unless `inference` says otherwise, and keeps counts only.

    Args:
        model, args, train_dataset, eval_dataset, callbacks: as in `Trainer`. `args` must have `batch_eval_metrics` on
            and `remove_unused_columns` off.
        processing_class: the image processor, saved beside the model.
        criterion: the loss; None for a trainer that only evaluates.
        label_space: restores original ids in metrics and pictures, and has the colours of these.
        inference: how evaluation predicts: `mode`, `window`, `stride`, … of `inference.predict_best`.
        background: what is answered where no class is likely.
        beta: of F-beta in the metrics.
        boundary_iou: whether evaluation measures outlines too, which costs some time on the CPU; it does in any case if
            the best checkpoint is chosen by them.
        panels: how many pictures each evaluation draws into `output_dir/panels/step-<step>/`.
        backbone_learning_rate_multiplier, layer_decay, backbone_warmup_steps, one_cycle: see `RatesTrainer`.
        ema_decay: of a running average of the weights, evaluated and saved in their stead; None keeps none.
    """

    # `criterion` divides by counts summed over the accumulated batch, so the Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        criterion: Loss | None,
        label_space: LabelSpace,
        inference: dict[str, Any],
        processing_class: Any,
        background: Background | None = None,
        train_dataset: SegmentationDataset | StreamingSegmentationDataset | None = None,
        eval_dataset: EvalDataset | None = None,
        panels: int = 0,
        beta: float = BETA,
        boundary_iou: bool = True,
        backbone_learning_rate_multiplier: float = 0.1,
        layer_decay: float = 1.0,
        backbone_warmup_steps: int | None = None,
        one_cycle: dict[str, Any] | None = None,
        ema_decay: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if not args.batch_eval_metrics or args.remove_unused_columns:
            raise RunError("DinoSegTrainer needs batch_eval_metrics=True and remove_unused_columns=False.")
        if criterion is not None:
            synchronise_batch_norms(model, args.device, args.world_size)
        self.streamed = StreamedMetrics(label_space, beta, args.metric_for_best_model)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=self.streamed,  # as batch_eval_metrics calls it
            ema_decay=ema_decay,
            callbacks=[EpochCallback(train_dataset), *(callbacks or [])],
            backbone_learning_rate_multiplier=backbone_learning_rate_multiplier,
            layer_decay=layer_decay,
            backbone_warmup_steps=backbone_warmup_steps,
            one_cycle=one_cycle,
        )
        self.criterion = criterion.to(args.device) if criterion is not None else None
        self.label_space = label_space
        self.inference = inference
        chosen_by = find_figure(args.metric_for_best_model or "", label_space)
        self.boundary_iou = boundary_iou or (chosen_by is not None and "boundary_iou" in chosen_by[0])
        self.background = background or Background()
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

    # ------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer`'s; a stream divides itself among processes and workers, and is not divided once more."""
        args = self.args
        if not isinstance(self.train_dataset, StreamingSegmentationDataset):
            return super().get_train_dataloader()
        self._stream = StreamLoader(
            self.train_dataset,
            self._train_batch_size,
            args.max_steps * args.gradient_accumulation_steps,
            args.device,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),
        )
        return self._stream

    def _save_rng_state(self, output_dir: str) -> None:
        """Random state and, of a stream, where this process is in it."""
        super()._save_rng_state(output_dir)
        if self._stream is not None:
            (Path(output_dir) / self._stream_file).write_text(json.dumps(self._stream.state_dict()), encoding="utf-8")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if self._stream is None or checkpoint is None:
            return
        path = Path(checkpoint) / self._stream_file
        if not path.exists():  # more processes than before; the first one's file says how many there were
            path = Path(checkpoint) / STREAM_FILE.format(0)
        self._stream.load_state_dict(json.loads(path.read_text(encoding="utf-8")))

    @property
    def _stream_file(self) -> str:
        return STREAM_FILE.format(self.args.process_index)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        train_collator, self.data_collator = self.data_collator, collate_eval
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = train_collator

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; a compact training batch is expanded there."""
        self._note_skipped(inputs.pop("skipped", ()))
        inputs = super()._prepare_inputs(inputs)
        if isinstance(inputs["pixel_values"], torch.Tensor) and "mask_labels" not in inputs:
            inputs = expand_batch(inputs, self.image_mean, self.image_std)
        return inputs

    def _note_skipped(self, skipped: Iterable[Skipped]) -> None:
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

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """What the loss is divided by: the criterion's counts, summed over accumulation steps and processes."""
        if not batch_samples or self.criterion is None:
            return None
        counts = [self.criterion.counts(batch, self.num_queries) for batch in batch_samples]
        total = torch.stack(counts).sum(0).to(device)
        return self.accelerator.reduce(total, reduction="sum") if self.args.world_size > 1 else total

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
            raise RunError("This trainer was made without a criterion, so it evaluates only.")
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
        if isinstance(self.train_dataset, SegmentationDataset):
            names = ", ".join(self.train_dataset.ids[i] for i in inputs["index"].tolist())
        what = f"The loss is {loss.item()}"
        if torch.isfinite(loss):
            what = f"In {self._broken_in_a_row} batches one after another matching costs were NaN or infinite"
        return (
            f"{what} after step {self.state.global_step}, on the images {names}. Earlier "
            "checkpoints are untouched. Look at these images and their masks, then lower training.learning_rate or "
            "train in bf16 instead of fp16, and go on with --resume."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with what `StepLog` says and each part's learning rate."""
        if "loss" in logs:
            logs.update(self.step_log.entries())
            logs.update({f"learning_rate_{part}": rate for part, rate in self.part_rates.items() if part != "head"})
        super().log(logs, start_time)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        self.step_log.start()
        return super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's; the time it takes is left out of the images per second."""
        with self.step_log.paused():
            super()._maybe_log_save_evaluate(*args, **kwargs)

    # ------------------------------------------------------------------ evaluation

    def evaluate(  # type: ignore[override]  # the Trainer's, for sets of this package
        self,
        eval_dataset: EvalDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        panel_folder: Path | None = None,
    ) -> dict[str, float]:
        """As `Trainer.evaluate`; also logs a table of classes, draws panels, and shows them: see `show_evaluation`.

        Args:
            panel_folder: where the panels go; None means `output_dir/panels/step-<step>`.
        """
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        folder = panel_folder or Path(str(self.args.output_dir)) / "panels" / f"step-{self.state.global_step:06d}"
        self._panel_writer = PanelWriter(
            folder, dataset.ids, self.panels, self.label_space, self.image_mean, self.image_std, self.background
        )
        self.streamed.num_skipped = dataset.num_skipped
        if self.args.world_size > 1:
            average_buffers(self.own_weights.model)
        shown, whole = self.own_weights.shown(), whole_on_each_process(self.own_weights.model, self.deepspeed)
        with self.filling(folder), shown, whole:
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.streamed.matrix is not None and self.is_world_process_zero():
            logger.info(
                "%smean IoU %.4f on %d images\n%s",
                f"step {self.state.global_step}: " if self.state.global_step else "",
                self.streamed.summary["mean_iou"],
                self.streamed.summary["num_images"],
                per_class_table(self.streamed.matrix, self.label_space),
            )
            show_evaluation(self, folder)
        return metrics

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """Predict label maps at original size.

        Returns:
            (None, (matrices, (B, n) int64 `picture_counts`), (B,) indices), of single images. The matrices are (B, C,
            C + 1) int64 confusion matrices; if the truth knows id 0 from other void, (B, 2, C + 1, C + 1): see
            `metrics.background_matrices`.
        """
        inputs = self._prepare_inputs(inputs)
        matrices, extras = [], []
        classes, void = self.label_space.num_labels, self.label_space.ignore_index
        zeros = inputs.get("zero", [None] * len(inputs["labels"]))
        indices = inputs["index"].tolist()
        readable = [place for place, index in enumerate(indices) if index >= 0]
        pictures = [inputs["pixel_values"][place] for place in readable]
        sizes = [(inputs["labels"][place].shape[-2], inputs["labels"][place].shape[-1]) for place in readable]
        with torch.no_grad(), without_autocast(model):
            answers = predict_pictures(model, pictures, sizes, **self.inference)
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
                extras.append(picture_counts(prediction, scores, truth, self.label_space, self.boundary_iou))
                if self._panel_writer is not None:
                    self._panel_writer.write(index, pixel_values, truth, prediction)
        return None, (torch.stack(matrices), torch.stack(extras)), inputs["index"]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written by `hub.card` when training ends; the Trainer's would replace it on each push."""
