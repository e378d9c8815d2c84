"""Trains a recipe by DeepSpeed on CPUs. DeepSpeed can (DS_ACCELERATOR=cpu); accelerate joins processes for it over an
accelerator's library only, so gloo is put by hand."""

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import training_args

from hf_dinoseg import load_recipe
from hf_dinoseg.run import train

training_args.is_torch_bf16_gpu_available = lambda: True  # CPUs have it too
PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_CPU)
resume = "--resume" in sys.argv
overrides = [a for a in sys.argv[2:] if a != "--resume"]
train(load_recipe(sys.argv[1], [*overrides, "training.use_cpu=false"]), resume=resume)
