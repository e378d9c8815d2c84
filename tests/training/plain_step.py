"""Run by test_plain_trainer.py in processes of its own: one plain SGD step of transformers' Trainer.

plain_step.py FOLDER ACCUMULATION
"""

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSemanticSegmentation, Trainer, TrainingArguments

import hf_dinoseg  # noqa: F401


def main() -> None:
    folder, accumulation = Path(sys.argv[1]), int(sys.argv[2])
    model = AutoModelForSemanticSegmentation.from_pretrained(folder / "start")
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout2d)):  # which see the batch, or chance
            module.train = lambda mode=True, module=module: module
    items = torch.load(folder / "items.pt")
    args = TrainingArguments(
        str(folder / "out"),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=1.0,  # so that the step is the gradient
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = Trainer(model, args, train_dataset=items)
    trainer.train()
    assert trainer.args.world_size * accumulation == len(items)
    torch.save(model.state_dict(), folder / f"process{trainer.args.process_index}.pt")


if __name__ == "__main__":
    main()
