"""The real model, tiny and random: saved, loaded, and asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dinoseg.inference import Segmenter, predict_best, predict_scores
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

SPACE = LabelSpace({3: "road", 7: "tree", 40: "sky"}, ignore=(99,))
BACKBONE = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def tiny_model(**fields) -> DinoSegForSemanticSegmentation:
    torch.manual_seed(0)
    return DinoSegForSemanticSegmentation.from_backbone(
        BACKBONE,
        label_space=SPACE.to_dict(),
        num_queries=8,
        hidden_dim=32,
        num_attention_heads=2,
        pixel_decoder_layers=1,
        pixel_decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_ffn_dim=32,
        **fields,
    ).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    settings = {"mode": "slide", "window": 48, "stride": 30, "batch_size": 3}
    tiny_model(inference=settings).save_pretrained(folder)
    DinoSegImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((83, 70), Image.Resampling.BICUBIC)


def test_checkpoint_settings_are_used_and_give_the_answer_of_evaluation(checkpoint, photo):
    segmenter = Segmenter.from_pretrained(checkpoint, device="cpu")
    assert (segmenter.mode, segmenter.window, segmenter.stride, segmenter.batch_size) == ("slide", 48, 30, 3)
    result = segmenter(photo)
    assert result.label_map.shape == result.scores.shape == (70, 83)
    assert set(np.unique(result.label_map).tolist()) <= {3, 7, 40}
    pixel_values = DinoSegImageProcessor.from_pretrained(checkpoint)(images=photo, return_tensors="pt")["pixel_values"]
    train_ids = predict_best(segmenter.model, pixel_values, (70, 83), **segmenter.model.config.inference)[0]
    assert np.array_equal(result.label_map, SPACE.decode(train_ids[0].numpy()))


def test_arguments_win_over_checkpoint_settings(checkpoint):
    whole = Segmenter.from_pretrained(checkpoint, device="cpu", mode="whole")
    assert whole.mode == "whole"
    windows = Segmenter.from_pretrained(checkpoint, device="cpu", window=24, batch_size=1, background_threshold=0.5)
    assert (windows.mode, windows.window, windows.stride) == ("slide", 24, 16)
    assert (windows.batch_size, windows.background_threshold) == (1, 0.5)
    assert Segmenter.from_pretrained(checkpoint, device="cpu", stride=7).stride == 7


def test_colours_follow_the_checkpoint_unless_asked_for(checkpoint, photo, tmp_path):
    safe = {3: (230, 159, 0), 7: (86, 180, 233), 40: (0, 158, 115)}  # Okabe and Ito's
    plain = Segmenter.from_pretrained(checkpoint, device="cpu")
    asked = Segmenter.from_pretrained(checkpoint, device="cpu", palette="colorblind")
    assert plain.label_space == SPACE and asked.label_space.colors == safe
    drawn = asked(photo).save(tmp_path / "a.png")
    with Image.open(drawn) as image:
        assert np.array_equal(np.asarray(image), plain(photo).label_map)  # the ids are the same
    model = tiny_model(palette="colorblind")
    model.save_pretrained(tmp_path / "model")
    DinoSegImageProcessor().save_pretrained(tmp_path / "model")
    assert Segmenter.from_pretrained(tmp_path / "model", device="cpu").label_space.colors == safe
    assert Segmenter.from_pretrained(tmp_path / "model", device="cpu", palette="dataset").label_space == SPACE


def test_whole_mode_agrees_with_the_image_processor(checkpoint, photo):
    segmenter = Segmenter.from_pretrained(checkpoint, device="cpu", mode="whole")
    with torch.no_grad():
        outputs = segmenter.model(**segmenter.processor(images=photo, return_tensors="pt"))
    (train_ids,) = segmenter.processor.post_process_semantic_segmentation(outputs, target_sizes=[(70, 83)])
    assert np.array_equal(segmenter(photo).label_map, SPACE.decode(train_ids.numpy()))


def test_threshold_of_the_checkpoint_is_used_and_void_decodes_to_the_void_id(photo, tmp_path):
    model = tiny_model(background_threshold=0.3)
    model.save_pretrained(tmp_path)
    DinoSegImageProcessor().save_pretrained(tmp_path)
    segmenter = Segmenter.from_pretrained(tmp_path, device="cpu")
    assert (segmenter.mode, segmenter.background_threshold) == ("whole", 0.3)
    never = Segmenter(model, segmenter.processor, SPACE)(photo)
    threshold = float(np.median(never.scores))
    some = Segmenter(model, segmenter.processor, SPACE, background_threshold=threshold)(photo)
    assert np.array_equal(some.label_map, np.where(never.scores < threshold, 99, never.label_map))


def test_one_window_over_everything_equals_whole(photo, checkpoint):
    model = tiny_model()
    pixel_values = DinoSegImageProcessor()(images=photo, return_tensors="pt")["pixel_values"]
    slide = predict_scores(model, pixel_values, mode="slide", window=512)
    assert torch.equal(slide, predict_scores(model, pixel_values, mode="whole"))


def test_checkpoint_without_label_space_says_what_to_do(tmp_path):
    model = tiny_model()
    model.config.label_space = None
    model.save_pretrained(tmp_path)
    DinoSegImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no `label_space`"):
        Segmenter.from_pretrained(tmp_path, device="cpu")


def test_training_goes_on_after_predicting(photo):
    """Nothing that the model keeps between calls may be left unfit for gradients."""
    model = tiny_model(freeze_backbone=False)
    pixel_values = DinoSegImageProcessor()(images=photo, return_tensors="pt")["pixel_values"]
    predict_best(model, pixel_values, mode="slide", window=48)[0]
    predict_best(model, pixel_values)[0]
    model.train()
    model(pixel_values=pixel_values).masks_queries_logits.sum().backward()
    assert any(p.grad is not None for p in model.backbone.parameters())
