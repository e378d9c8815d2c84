"""Whatever a checkpoint's JSON files say: it loads, or one sentence says what is wrong. Nothing hangs, and nothing
fills the memory."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_tester import TINY_VIT

from hf_dinoseg.inference import Segmenter
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

HUGE, LONG, NAN, INF = 10**9, 10**30, float("nan"), float("inf")
SPACE = LabelSpace({0: "a", 1: "b", 2: "c", 5: "d"}, ignore=(255,))

CONFIG: dict[str, list[Any]] = {
    "head": [3, [], "x" * 100_000],
    "decoder_layers": ["six", -1, HUGE, None, [4], NAN],
    "num_queries": [0, HUGE, "100", True],
    "hidden_dim": [HUGE, {}, 0],
    "num_attention_heads": [0, "8"],
    "drop_path_rate": ["x", NAN, -1],
    "attn_mask_probs": [3, ["x"], [0.5] * 100_000],
    "norm": [1, []],
    "ignore_index": ["x", LONG, None],
    "background_threshold": ["high", NAN, -3, [0.5]],
    "palette": [7, "rainbow"],
    "freeze_backbone": ["no", 3],
    "backbone_dtype": [16, "int8"],
    "out_layers": ["last", [1, 2, 3, "x"], {"a": 1}, [1, 2, 3, LONG], 4, list(range(100_000))],
    "num_labels": ["four", -1, HUGE],
    "id2label": [[], {"x": "a"}, 5],
    "inference": [[1], {"window": "big"}, {"window": 0}, {"window": HUGE, "stride": -1}, {"mode": 3}, {"blend": 1}],
    "inference.batch_size": ["x", HUGE],
    "inference.tta": [5, {"scales": [HUGE]}, {"scales": 3}, {"scales": [1] * 1000}],
    "backbone_config": [3, [], "vit", {"model_type": "bert"}, {"model_type": 3}, {}],
    "backbone_config.model_type": ["nothing", None],
    "backbone_config.num_hidden_layers": ["x", HUGE, -1, None, 1.5],
    "backbone_config.hidden_size": ["x", 0, 64, LONG, [32]],
    "backbone_config.num_attention_heads": [0, "x"],
    "backbone_config.patch_size": [0, "x", HUGE, [16, 8], {}],
    "backbone_config.num_register_tokens": [HUGE, "x"],
    "backbone_config.layer_norm_eps": ["x"],
    "backbone_config.hidden_act": ["nothing", 3],
    "label_space": [3, [], "space", {}],
    "label_space.classes": [[], {}, "x", {"a": "b"}, {"0": 5}, {"1.5": "x"}, {str(i): "c" for i in range(200_000)}],
    "label_space.original_ids": [None, "x", [0, 1], [0, 1, 2, "x"], [9, 9, 9, 9], HUGE],
    "label_space.void_id": ["x", None, LONG],
    "label_space.ignore_index": ["x", LONG, []],
    "label_space.ignore": [3, ["x"], [LONG], list(range(1000, 300_000))],
    "label_space.merge": [[1], {"5": "x"}],
    "label_space.encoding": [3, "morse"],
    "label_space.colors": [[], {"0": "red"}, {"0": [1, 2]}],
    "label_space.reduce_zero_label": ["maybe", 3],
    "label_space.surprise": [1],
}
PROCESSOR: dict[str, list[Any]] = {
    "image_mean": ["x", [0.5], [NAN] * 3],
    "image_std": [[0, 0, 0], "x"],
    "size": [{"shortest_edge": HUGE}, {"shortest_edge": "x"}, {"height": -1, "width": 3}, "x"],
    "do_resize": ["yes"],
    "rescale_factor": ["x", INF],
    "resample": [99, "x"],
    "label_space": [3, {}, {"ignore_index": "x"}],
    "background_threshold": ["x"],
}
TEXTS = ["", "[1, 2]", "{", "null", "[" * 100_000]
FILES = {"config.json": CONFIG, "preprocessor_config.json": PROCESSOR}
MUTATIONS = [
    (file, field, value) for file, table in FILES.items() for field, values in table.items() for value in values
] + [(file, "", text) for file in FILES for text in TEXTS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, head="linear", label_space=SPACE.to_dict())
    model.config.inference = {"mode": "slide", "window": 32, "stride": 21, "batch_size": 4}
    model.save_pretrained(folder)
    DinoSegImageProcessor(label_space=SPACE.to_dict()).save_pretrained(folder)
    return folder


@pytest.fixture
def no_hanging() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def mutated(text: str, field: str, value: Any) -> str:
    if not field:
        return value
    data = json.loads(text)
    *way, last = field.split(".")
    at = data
    for key in way:
        at = at[key]
    at[last] = value
    return json.dumps(data)


def test_the_files_as_they_were_saved_load(checkpoint: Path) -> None:
    result = Segmenter.from_pretrained(checkpoint)(np.zeros((40, 50, 3), np.uint8))
    assert result.label_map.shape == (40, 50) and set(np.unique(result.label_map)) <= {0, 1, 2, 5, 255}


@pytest.mark.parametrize("file", FILES)
def test_a_wrong_field_is_one_sentence(checkpoint: Path, tmp_path: Path, file: str, no_hanging: None) -> None:
    assert len(MUTATIONS) > 114
    wrong = []
    folder = Path(shutil.copytree(checkpoint, tmp_path / "mutated"))
    text = (folder / file).read_text()
    for field, value in [(field, value) for name, field, value in MUTATIONS if name == file]:
        (folder / file).write_text(mutated(text, field, value))
        case = f"{field} = {str(value)[:40]}"
        try:
            if field and file == "preprocessor_config.json":  # `Segmenter` would load the model first, each time
                DinoSegImageProcessor.from_pretrained(folder)
            else:
                Segmenter.from_pretrained(folder)
        except ValueError as error:  # of which all errors of this package are
            if len(str(error).replace(str(folder), "")) > 500 or (field and "\n" in str(error)):
                wrong.append(f"{case}: {str(error)[:500]}")
        except Exception as error:
            wrong.append(f"{case}: {type(error).__name__}")
        else:
            wrong.append(f"{case}: loaded")
    assert wrong == []


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_that_resizing_would_blow_up_is_refused(size: tuple[int, int]) -> None:
    """A line of 5000 pixels, its short side brought to 8192, would have 335 thousand million of them."""
    processor = DinoSegImageProcessor(do_resize=True, size={"shortest_edge": 8192})
    with pytest.raises(ValueError, match="choose a smaller `size`"):
        processor(np.zeros((*size, 3), np.uint8))
