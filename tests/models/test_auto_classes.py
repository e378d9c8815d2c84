"""A saved folder, through the Auto classes and the pipeline, with the package and without it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from head_tester import TINY_HEAD, TINY_VIT, randomize
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

SPACE = LabelSpace({0: "ground", 3: "sky", 9: "tree"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    fields = {k: v for k, v in TINY_HEAD.items() if k != "num_labels"}
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, label_space=SPACE.to_dict(), **fields)
    randomize(model)
    model.save_pretrained(path)
    DinoSegImageProcessor(label_space=SPACE.to_dict()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    path = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def test_auto_classes_know_the_folder(folder: Path, image: Path) -> None:
    assert AutoConfig.from_pretrained(folder).id2label == SPACE.id2label
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(model) is DinoSegForSemanticSegmentation and type(processor) is DinoSegImageProcessor
    with torch.no_grad():
        outputs = model(**processor(images=Image.open(image), return_tensors="pt"))
    (label_map,) = processor.post_process_semantic_segmentation(outputs, [(50, 70)], original_ids=True)
    assert label_map.shape == (50, 70) and set(label_map.unique().tolist()) <= {0, 3, 9}


def test_the_pipeline_answers_with_class_names(folder: Path, image: Path, caplog: pytest.LogCaptureFixture) -> None:
    segments = pipeline("image-segmentation", model=str(folder))(str(image))
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=Image.open(image), return_tensors="pt"))
    (label_map,) = processor.post_process_semantic_segmentation(outputs, [(50, 70)])
    assert {s["label"] for s in segments} == {SPACE.id2label[i] for i in label_map.unique().tolist()}
    for segment in segments:
        expected = label_map.numpy() == SPACE.label2id[segment["label"]]
        assert np.array_equal(np.asarray(segment["mask"]) == 255, expected)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "imports",
    [
        "import hf_dinoseg, importlib.util; importlib.util.find_spec('transformers'); import transformers",
        "import transformers, hf_dinoseg",
        "from hf_dinoseg.models import DinoSegConfig; import transformers",
    ],
    ids=["the package first", "transformers first", "the model itself"],
)
def test_whatever_is_imported_first_the_model_is_known(imports: str) -> None:
    code = f"""
{imports}
config = transformers.AutoConfig.for_model("dinoseg")
assert type(config) in transformers.AutoModelForSemanticSegmentation._model_mapping
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


STRANGER = """
import sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hf_dinoseg", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
folder, image, result = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    outputs = model(**processor(images=Image.open(image), return_tensors="pt"))
label_map = processor.post_process_semantic_segmentation(outputs, [(50, 70)], original_ids=True)[0]
segments = pipeline("image-segmentation", model=folder, trust_remote_code=True)(image)
assert not any(name.split(".")[0] == "hf_dinoseg" for name in sys.modules)
model.save_pretrained(result)
processor.save_pretrained(result)
pixel_values, labels = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.long)
torch.manual_seed(0)
loss = model.train()(pixel_values, labels).loss
loss.backward()
assert next(model.head.parameters()).grad.any()
torch.save({"masks": outputs.masks_queries_logits, "classes": outputs.class_queries_logits, "map": label_map,
            "labels": sorted(s["label"] for s in segments), "loss": loss.detach(),
            "module": type(model).__module__}, result + "/result.pt")
"""


def test_the_code_that_travels_with_a_checkpoint_gives_the_same(folder: Path, image: Path, tmp_path: Path) -> None:
    """A process that cannot import the package loads, runs, and saves again a folder that loads here."""
    result = tmp_path / "again"
    result.mkdir()
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment.update(HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(tmp_path / "modules"), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(image), str(result)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(result / "result.pt")
    assert found["module"].startswith("transformers_modules.")

    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=Image.open(image), return_tensors="pt"))
        again = AutoModelForSemanticSegmentation.from_pretrained(result)
        repeated = again(**processor(images=Image.open(image), return_tensors="pt"))
    assert torch.equal(found["masks"], outputs.masks_queries_logits)
    assert torch.equal(found["classes"], outputs.class_queries_logits)
    assert torch.equal(repeated.masks_queries_logits, outputs.masks_queries_logits)
    assert set(found["map"].unique().tolist()) <= {0, 3, 9} and set(found["labels"]) <= {"ground", "sky", "tree"}
    pixel_values, labels = (
        torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64),
        torch.ones(1, 64, 64, dtype=torch.long),
    )
    torch.manual_seed(0)
    torch.testing.assert_close(found["loss"], model.train()(pixel_values, labels).loss.detach())
    assert (result / "modeling_dinoseg.py").exists() and (result / "scores.py").exists()
