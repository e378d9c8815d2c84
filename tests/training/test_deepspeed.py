"""DeepSpeed: what the shipped settings say, what is refused, and, where it is installed, that its steps are DDP's."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from safetensors.torch import load_file

from hf_dinoseg.errors import RunError
from hf_dinoseg.training.distributed import check_can_measure, check_processes

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "recipes" / "accelerate"
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed, which is optional")
# plain descent, and no drawn positions: see test_fsdp.py
STEPS = ["training.optim=sgd", "training.max_grad_norm=0", "training.load_best_model_at_end=false"]
STEPS += ["training.learning_rate=0.001", "training.max_steps=2", "training.save_steps=1", "evaluation.panels=0"]
STEPS += ["model.backbone.num_register_tokens=2", "model.backbone.pos_embed_rescale=null", "model.drop_path_rate=0"]


@pytest.mark.parametrize("stage", [2, 3])
def test_shipped_settings_divide_by_the_stage_and_autocast(stage):
    ours = load_config_from_file(str(SETTINGS / f"deepspeed_zero{stage}.yaml"))
    assert ours.distributed_type == DistributedType.DEEPSPEED
    config = HfDeepSpeedConfig(str(ROOT / ours.deepspeed_config["deepspeed_config_file"]))
    assert config.config["zero_optimization"]["stage"] == stage and not config.is_offload()
    assert config.get_value("torch_autocast.dtype") == "bfloat16"
    assert config.get_value("gradient_clipping") == "auto"  # or the recipe's max_grad_norm would do nothing
    assert config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save") == (stage == 3)


def test_what_deepspeed_cannot_do_is_refused():
    def told(**values):
        return SimpleNamespace(**{"deepspeed_plugin": object(), "bf16": False, "fp16": False, "world_size": 1} | values)

    check_processes(told())
    check_processes(told(deepspeed_plugin=None, bf16=True))
    with pytest.raises(RunError, match=r"training.bf16=false.*recipes/accelerate"):
        check_processes(told(bf16=True))
    check_can_measure(told(deepspeed_plugin=None))
    with pytest.raises(RunError, match="not with DeepSpeed"):
        check_can_measure(told())


def _train(settings, script, recipe, folder, *overrides):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(SETTINGS / settings)]
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [*launcher, script, str(recipe), *STEPS, f"training.output_dir={folder}", *overrides],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def of_ddp(tmp_path_factory, write_tiny_recipe):
    folder = tmp_path_factory.mktemp("ddp")
    return _train("cpu.yaml", "train.py", write_tiny_recipe(folder), folder / "run", "training.bf16=true")


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_steps_are_those_of_ddp_and_a_run_goes_on_from_its_parts(stage, of_ddp, tmp_path, write_tiny_recipe):
    words = (f"deepspeed_zero{stage}.yaml", "tests/training/deepspeed_on_cpu.py", write_tiny_recipe(tmp_path))
    divided = _train(*words, tmp_path / "run")
    assert divided.keys() == of_ddp.keys()
    for name in of_ddp:
        if "running_" not in name:  # DDP hands the first process's on at each step
            assert divided[name].dtype == of_ddp[name].dtype
            torch.testing.assert_close(divided[name], of_ddp[name], rtol=1e-3, atol=1e-4)
    newest = tmp_path / "run" / "checkpoint-2"
    assert (newest / "global_step2").is_dir()
    newest.rename(tmp_path / "gone")
    (tmp_path / "run" / "model.safetensors").unlink()
    resumed = _train(*words, tmp_path / "run", "--resume")
    for name in divided:
        torch.testing.assert_close(resumed[name], divided[name], rtol=1e-3, atol=1e-4)
