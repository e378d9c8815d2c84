"""`DinoSegTrainer(model, args, train_dataset=…, eval_dataset=…)` in a plain script: all else follows from the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hf_dinoseg import DinoSegForSemanticSegmentation, DinoSegImageProcessor, DinoSegTrainer, LabelSpace, Segmenter
from hf_dinoseg.errors import DataError, InputError, ModelError, RunError
from hf_dinoseg.losses import PixelLoss

VIT = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pos_embed_rescale": None,
}
SPACE = LabelSpace({0: "ground", 3: "sky", 9: "tree"}, ignore=(255,))


def make_model(**fields: Any) -> DinoSegForSemanticSegmentation:
    torch.manual_seed(0)
    return DinoSegForSemanticSegmentation.from_backbone(VIT, head="linear", **{"label_space": SPACE, **fields})


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    given = {"max_steps": 2, "use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 1, **fields}
    return TrainingArguments(str(folder), **given)


class Items(Dataset[dict[str, Any]]):
    """Images of stripes of the three classes; where one is void nothing is learned."""

    def __init__(self, count: int = 4, size: tuple[int, int] = (32, 48)) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= self.count:
            raise IndexError(index)
        ids = np.zeros(self.size, np.uint8)
        ids[:, 16:32], ids[:, 32:], ids[:4] = 3, 9, 255
        image = (
            np.random.default_rng(index).integers(0, 60, (*self.size, 3), dtype=np.uint8) + 20 * ids[..., None] % 190
        )
        both = DinoSegImageProcessor(label_space=SPACE)(image.astype(np.uint8), ids)
        return {name: value[0] for name, value in both.items()}


def test_model_arguments_and_datasets_are_enough(tmp_path: Path) -> None:
    model = make_model(loss={"dice_weight": 1.0}, inference={"mode": "slide", "window": 32, "stride": 16})
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=2, save_steps=2, load_best_model_at_end=True)
    trainer = DinoSegTrainer(model, args, train_dataset=Items(), eval_dataset=Items(3))
    assert trainer.label_space == SPACE and trainer.inference["window"] == 32
    assert trainer.criterion is model.criterion and trainer.criterion.dice_weight == 1.0
    trainer.train()
    [entry] = [entry for entry in trainer.state.log_history if "eval_mean_iou" in entry]
    assert 0 <= entry["eval_mean_iou"] <= 1 and trainer.streamed.summary["num_images"] == 3
    assert trainer.streamed.matrix.sum() == 3 * 28 * 48  # void is not counted
    trainer.save_model()
    segmenter = Segmenter.from_pretrained(tmp_path)
    assert segmenter.label_space == SPACE
    assert DinoSegImageProcessor.from_pretrained(tmp_path).label_space == SPACE.to_dict()
    pixels = np.zeros((32, 48, 3), np.uint8)
    assert set(np.unique(segmenter(pixels).label_map)) <= {0, 3, 9}


def test_figures_are_those_of_a_confusion_matrix_counted_by_hand(tmp_path: Path) -> None:
    model = make_model().eval()
    items = Items(3)
    figures = DinoSegTrainer(model, arguments(tmp_path)).evaluate(items)  # type: ignore[arg-type]
    counts = np.zeros((3, 3))
    for item in items:
        with torch.no_grad():
            logits = model(torch.as_tensor(item["pixel_values"])[None]).logits
        resized = torch.nn.functional.interpolate(logits, size=(32, 48), mode="bilinear", align_corners=False)
        found, truth = resized[0].argmax(0).numpy(), np.asarray(item["labels"])
        np.add.at(counts, (truth[truth != 255], found[truth != 255]), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert figures["eval_mean_iou"] == pytest.approx(np.mean(counts.diagonal()[union > 0] / union[union > 0]), abs=1e-3)


def test_a_step_over_plain_items_is_that_of_torch(tmp_path: Path) -> None:
    """One step of plain SGD over four images in two accumulated batches: cross-entropy over all their pixels."""
    model = make_model().train()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout2d)):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    twin = copy.deepcopy(model)
    items = [dict(item) for item in Items()]
    items[0]["labels"] = np.where(np.arange(48) < 40, 255, items[0]["labels"])  # fewer pixels than in the others
    images = torch.stack([torch.as_tensor(item["pixel_values"]) for item in items])
    labels = torch.stack([torch.as_tensor(item["labels"]) for item in items])
    logits = torch.nn.functional.interpolate(twin(images).logits, size=(32, 48), mode="bilinear", align_corners=False)
    torch.nn.functional.cross_entropy(logits, labels, ignore_index=255).backward()
    args = arguments(
        tmp_path,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    DinoSegTrainer(model, args, train_dataset=items).train()
    for name, parameter in model.named_parameters():
        gradient = dict(twin.named_parameters())[name].grad
        if gradient is not None:
            torch.testing.assert_close(before[name] - parameter.detach(), gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_loss_that_is_given_teaches_and_is_saved(tmp_path: Path) -> None:
    model = make_model()
    loss = PixelLoss(3, ce_weight=0.5, class_weights=[1.0, 2.0, 1.0])
    trainer = DinoSegTrainer(model, arguments(tmp_path), train_dataset=Items(), criterion=loss)
    assert trainer.criterion is model.criterion is loss
    assert not any(isinstance(module, PixelLoss) for module in model.modules())
    trainer.save_model()
    again = DinoSegForSemanticSegmentation.from_pretrained(tmp_path).criterion
    assert (again.ce_weight, again.ce_class_weights.tolist()) == (0.5, [1.0, 2.0, 1.0])


def test_classes_without_a_label_space_are_the_labels_of_the_configuration(tmp_path: Path) -> None:
    model = make_model(label_space=None, id2label={0: "a", 1: "b", 2: "c"})
    trainer = DinoSegTrainer(model, arguments(tmp_path))
    assert trainer.label_space == LabelSpace({0: "a", 1: "b", 2: "c"})
    assert model.config.label_space == trainer.label_space.to_dict()
    other = make_model(label_space=None, num_labels=3)
    given = DinoSegTrainer(other, arguments(tmp_path), label_space=SPACE.to_dict()).label_space
    assert given == SPACE and other.config.id2label == SPACE.id2label


class Changed(Items):
    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        for name, change in self.changes.items():
            item[name] = change(torch.as_tensor(item[name]))
        return item


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (Changed(labels=lambda x: x + 3), r"train_dataset\[\d\]: labels: found 3, 4, 5, 258, wanted train ids 0 to 2"),
        (Changed(labels=lambda x: x.float()), r"labels: found float32 of shape \(32, 48\), wanted whole numbers"),
        (Changed(labels=lambda x: x[:16]), r"labels: found int64 of shape \(16, 48\), wanted .*\(32, 48\)"),
        (Changed(labels=lambda x: x[None]), r"labels: found int64 of shape \(1, 32, 48\)"),
        (Changed(pixel_values=lambda x: x[None]), r"found float32 of shape \(1, 3, 32, 48\).*\[0\]"),
        (Changed(pixel_values=lambda x: x.byte()), r"pixel_values: found uint8 of shape"),
        ([{"image": 1}] * 4, r"train_dataset\[\d\]: found the keys image, wanted .*pixel_values and labels"),
        ([(1, 2, 3)] * 4, r"train_dataset\[\d\]: found tuple"),
        ([(1, 2)] * 4, r"train_dataset_000000: the image is int 1; give a path"),
        ((n for n in range(3)), r"train_dataset: found generator, which has no length"),
        ([Items()[0], Items(size=(48, 48))[0]] * 2, r"\(32, 48\) and \(48, 48\) pixels in one batch"),
    ],
)
def test_items_that_do_not_fit_are_told_in_one_sentence(dataset: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        DinoSegTrainer(make_model(), arguments(tmp_path), train_dataset=dataset).train()


def test_what_else_does_not_fit_is_told_in_one_sentence(tmp_path: Path) -> None:
    other = LabelSpace({0: "ground", 3: "sky"})
    with pytest.raises(
        ModelError,
        match="label_space: found 2 classes, 0 ground, 3 sky, wanted .* 3: 0 ground, 3 sky, "
        "9 tree.*ignore_mismatched_sizes",
    ):
        DinoSegTrainer(make_model(), arguments(tmp_path), label_space=other)
    with pytest.raises(ModelError, match="label_space: found 3 classes, 0 ground, 1 sky"):
        DinoSegTrainer(make_model(), arguments(tmp_path), label_space=LabelSpace({0: "ground", 1: "sky", 2: "tree"}))
    with pytest.raises(ModelError, match="ignore_index: found -100"):
        DinoSegTrainer(make_model(label_space=None, num_labels=3, ignore_index=-100), arguments(tmp_path))
    with pytest.raises(InputError, match="eval_dataset: found none"):
        DinoSegTrainer(make_model(), arguments(tmp_path)).evaluate()
    with pytest.raises(RunError, match="label_smoothing_factor: found 0.1"):
        DinoSegTrainer(make_model(), arguments(tmp_path, label_smoothing_factor=0.1))
