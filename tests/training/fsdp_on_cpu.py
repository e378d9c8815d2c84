"""Run by test_fsdp.py: trains a recipe by FSDP on CPUs. accelerate turns FSDP on for accelerators only; torch can do it
on any device, so the switch is put by hand."""

import sys

from accelerate import state
from accelerate.utils import DistributedType

from hf_dinoseg import load_recipe
from hf_dinoseg.run import train

_init = state.AcceleratorState.__init__


def _with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


state.AcceleratorState.__init__ = _with_fsdp
resume = "--resume" in sys.argv
train(load_recipe(sys.argv[1], [a for a in sys.argv[2:] if a != "--resume"]), resume=resume)
