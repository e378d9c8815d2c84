from __future__ import annotations

import json

from hf_dinoseg import DinoSegImageProcessor, LabelSpace
from hf_dinoseg.doctor import check_backbone_processor, check_label_spaces, check_model_files, check_normalization
from hf_dinoseg.training.checkpoints import CheckpointManifest
from hf_dinoseg.training.manifest import Manifest


def test_processors_that_agree_are_no_finding(tmp_path):
    ours = DinoSegImageProcessor().to_dict()
    assert check_normalization(ours, DinoSegImageProcessor(do_resize=True).to_dict(), "it") == []
    assert check_normalization(ours, {"size": 224}, "it") == []
    rounded = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862}
    assert check_normalization(ours, rounded, "it") == []


def test_another_normalisation_is_told_with_both_values():
    ours = DinoSegImageProcessor().to_dict()
    [found] = check_normalization(ours, DinoSegImageProcessor(image_mean=[0.5] * 3).to_dict(), "the checkpoint")
    assert found.code == "normalization-differs"
    assert "image_mean is [0.485, 0.456, 0.406] here and [0.500, 0.500, 0.500] there" in found.seen
    [found] = check_normalization(ours, DinoSegImageProcessor(do_rescale=False).to_dict(), "the checkpoint")
    assert "do_rescale is True here and False there" in found.seen and "image_mean" not in found.seen


def test_a_backbone_folder_with_statistics_of_its_own(tmp_path):
    ours = DinoSegImageProcessor().to_dict()
    assert check_backbone_processor(ours, str(tmp_path)) == [] == check_backbone_processor(ours, "owner/name")
    satellite = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(satellite))
    [found] = check_backbone_processor(ours, str(tmp_path))
    assert found.code == "normalization-differs" and str(tmp_path) in found.seen
    assert "`model.image_mean`" in found.cure
    ours_too = DinoSegImageProcessor(**satellite).to_dict()
    assert check_backbone_processor(ours_too, str(tmp_path)) == []
    (tmp_path / "preprocessor_config.json").write_text("{torn")
    assert check_backbone_processor(ours, str(tmp_path)) == []


def test_a_backbone_of_the_hub_by_its_cached_file_or_its_name(tmp_path, monkeypatch):
    ours = DinoSegImageProcessor().to_dict()
    satellite = "facebook/dinov3-vitl16-pretrain-sat493m"
    [found] = check_backbone_processor(ours, satellite)
    assert "[0.430, 0.411, 0.296] there" in found.seen
    assert check_backbone_processor(ours, "facebook/dinov3-vitl16-pretrain-lvd1689m") == []
    cached = tmp_path / "preprocessor_config.json"
    cached.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    monkeypatch.setattr("hf_dinoseg.doctor.checks_settings.try_to_load_from_cache", lambda *_: str(cached))
    for name in ("owner/name", satellite):
        [found] = check_backbone_processor(ours, name)
        assert "[0.500, 0.500, 0.500] there" in found.seen


def test_model_files_that_are_not_as_the_run_wrote_them(tmp_path):
    assert check_model_files(tmp_path) == []  # nothing is known of them
    for name in ("model.safetensors", "config.json", "README.md"):
        (tmp_path / name).write_text("as written")
    manifest = Manifest(tmp_path)
    manifest.finish("model.safetensors", "config.json", "README.md")
    assert check_model_files(tmp_path) == []
    (tmp_path / "README.md").write_text("the owner's words")
    assert check_model_files(tmp_path) == []
    (tmp_path / "config.json").write_text("other words")
    [found] = check_model_files(tmp_path)
    assert (found.level, found.code) == ("warning", "checkpoint-files-changed") and "config.json" in found.seen
    (tmp_path / "model.safetensors").write_text("as writtem")
    [found] = check_model_files(tmp_path)
    assert found.level == "error" and "model.safetensors" in found.seen
    manifest.begin("model*.safetensors")
    [found] = check_model_files(tmp_path)
    assert found.level == "error" and "not over" in found.seen
    CheckpointManifest("a", 4, 1).seal(tmp_path)  # a checkpoint's
    assert check_model_files(tmp_path) == []
    (tmp_path / "model.safetensors").unlink()
    assert [found.level for found in check_model_files(tmp_path)] == ["error"]


def test_label_spaces_of_checkpoint_and_recipe():
    space = LabelSpace({0: "background", 1: "vessel"}, ignore=(255,))
    assert check_label_spaces(space, LabelSpace.from_dict(space.to_dict())) == []
    [found] = check_label_spaces(space, LabelSpace({0: "background", 1: "vessel", 2: "disc"}))
    assert (found.level, found.code) == ("error", "checkpoint-labels-differ") and "in the checkpoint: [2]" in found.seen
    [found] = check_label_spaces(space, LabelSpace({0: "Background ", 1: "vein"}, ignore=(255,)))
    assert (found.level, found.code) == ("warning", "checkpoint-names-differ")
    assert "1 is 'vessel' in the recipe and 'vein'" in found.seen and "0 is" not in found.seen
    [found] = check_label_spaces(space, LabelSpace({0: "background", 1: "vessel"}, ignore=(254,)))
    assert found.code == "checkpoint-void-differs" and "(255,)" in found.seen


def test_names_that_changed_places_are_an_error():
    space = LabelSpace({0: "background", 1: "vessel", 2: "disc"}, ignore=(255,))
    [found] = check_label_spaces(space, LabelSpace({0: "vessel", 1: "background", 2: "disc"}, ignore=(255,)))
    assert (found.level, found.code) == ("error", "checkpoint-names-moved")
    assert "0 is 'background' in the recipe and 'vessel'" in found.seen and "2 is" not in found.seen
    # one name moved to another id, and a new one in its place
    [found] = check_label_spaces(space, LabelSpace({0: "background", 1: "disc", 2: "cup"}, ignore=(255,)))
    assert found.code == "checkpoint-names-moved" and "1 is 'vessel' in the recipe and 'disc'" in found.seen
    twice = LabelSpace({0: "background", 1: "vessel", 2: "vessel"})  # a name may stand twice
    assert check_label_spaces(twice, LabelSpace.from_dict(twice.to_dict())) == []
