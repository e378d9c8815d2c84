"""Whole runs on streamed data: resumed in mid-pass, on two processes, and with a file that breaks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_dinoseg import load_recipe
from hf_dinoseg.builders import build_source
from hf_dinoseg.errors import RecipeError
from hf_dinoseg.run import train

ROOT = Path(__file__).parents[2]
STREAM = ["data.streaming=true", "data.shuffle_buffer=4", "training.max_steps=8", "training.save_total_limit=null"]
STREAM += ["training.load_best_model_at_end=false", "training.eval_strategy=no", "training.save_strategy=steps"]
STREAM += ["training.save_steps=1", "evaluation.panels=0"]  # three steps a pass


def test_a_run_resumed_in_mid_pass_equals_the_undisturbed_one(tmp_path, write_tiny_recipe):
    recipe = write_tiny_recipe(tmp_path)
    overrides = [*STREAM, "training.dataloader_num_workers=2", f"training.output_dir={tmp_path / 'whole'}"]
    metrics = train(load_recipe(recipe, overrides))
    assert metrics["num_images"] == 3 and metrics["train_images"] == 6
    log = json.loads((tmp_path / "whole" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in log if "loss" in entry][-1] == 2  # 16 samples of 6

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for later in (tmp_path / "resumed").glob("checkpoint-[5678]"):
        shutil.rmtree(later)
    (tmp_path / "resumed" / "model.safetensors").unlink()
    again = train(load_recipe(recipe, [*overrides, f"training.output_dir={tmp_path / 'resumed'}"]), resume=True)
    assert again["mean_iou"] == metrics["mean_iou"]
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_in_order_a_stream_trains_as_the_map_style_set_does(tmp_path, write_tiny_recipe):
    recipe = write_tiny_recipe(tmp_path)
    overrides = [*STREAM, "data.shuffle_buffer=1", "training.train_sampling_strategy=sequential"]
    overrides += ["training.save_steps=100"]
    for name, streaming in (("streamed", "true"), ("loaded", "false")):
        more = [f"data.streaming={streaming}", f"training.output_dir={tmp_path / name}"]
        train(load_recipe(recipe, [*overrides, *more]))
    streamed, loaded = (tmp_path / name / "model.safetensors" for name in ("streamed", "loaded"))
    assert streamed.read_bytes() == loaded.read_bytes()


def test_two_processes_train_on_shards_of_their_own(tmp_path, write_tiny_recipe):
    """Each draws three of the six images, and both together count in the step."""
    recipe = write_tiny_recipe(tmp_path)
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys, os\n"
        "from pathlib import Path\n"
        "from hf_dinoseg import builders, run, load_recipe\n"
        "seen = []\n"
        "class Watching(builders.DinoSegTrainer):\n"
        "    def training_step(self, model, inputs, num_items_in_batch=None):\n"
        "        seen.append(inputs['id'])\n"
        "        return super().training_step(model, inputs, num_items_in_batch)\n"
        "builders.DinoSegTrainer = Watching\n"
        "run.train(load_recipe(sys.argv[1], sys.argv[2:]))\n"
        "Path(sys.argv[1]).with_name(f'seen-{os.environ[\"RANK\"]}.json').write_text(json.dumps(seen))\n"
    )
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(recipe),
    ]
    overrides = [*STREAM, "training.max_steps=3", "training.per_device_train_batch_size=1"]
    done = subprocess.run([*launcher, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert [[len(batch) for batch in part] for part in seen] == [[1, 1, 1], [1, 1, 1]]
    names = sorted(name for part in seen for batch in part for name in batch)
    assert names == [f"train_{i:05d}" for i in range(6)]
    assert (tmp_path / "run" / "checkpoint-3" / "stream_1.json").is_file()


def test_a_parquet_stream_from_doctor_to_metrics(tmp_path, write_tiny_recipe, caplog):
    rows = build_source(load_recipe(write_tiny_recipe(tmp_path)))
    (tmp_path / "data").mkdir()
    train_rows = rows["train"].to_list()
    train_rows[4]["image"]["bytes"] = b"no image"
    rows["train"].from_list(train_rows, features=rows["train"].features).to_parquet(tmp_path / "data/train-0.parquet")
    rows["validation"].to_parquet(tmp_path / "data" / "validation-0.parquet")
    source = f"data={{source: parquet, root: {tmp_path / 'data'}, id_column: id, crop_size: 64, on_bad_sample: skip}}"
    recipe = load_recipe(write_tiny_recipe(tmp_path), [source, *STREAM, "training.max_steps=3"])
    with caplog.at_level("INFO", "hf_dinoseg"):
        metrics = train(recipe)
    assert "the first 64 samples are looked at beforehand" in caplog.text
    assert "broken-file" in caplog.text  # said by the checks before, as a warning
    assert (metrics["num_images"], metrics["num_skipped"], metrics["train_images"]) == (3, 0, None)
    listed = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert [one["id"] for one in listed["while_running"]] == ["train_00004"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.max_steps=-1"], r"training\.max_steps: missing.*data\.streaming"),
        (["loss.per_class_weights=auto"], r"loss\.per_class_weights.*data\.streaming"),
        (["data={source: mixture, streaming: true, sources: [{source: synthetic-retina}]}"], "mixture"),
    ],
)
def test_what_a_stream_cannot_do_is_said_when_the_recipe_is_read(overrides, words, tmp_path, write_tiny_recipe):
    with pytest.raises(RecipeError, match=words):
        load_recipe(write_tiny_recipe(tmp_path), ["data.streaming=true", *overrides])
