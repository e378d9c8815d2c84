"""Every test runs offline and on few threads; fixtures that train a tiny model."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel instead
os.environ["ACCELERATE_USE_CPU"] = "1"

import shutil  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

TINY_RECIPE = """
labels: {classes: {0: background, 1: artery, 2: vein, 3: disc}, ignore: [255]}
data: {source: synthetic-retina, num_train: 6, num_validation: 3, size: 96, crop_size: 64}
model:
  backbone:
    {model_type: dinov3_vit, hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64}
  num_queries: 8
  hidden_dim: 32
  num_attention_heads: 2
  pixel_decoder_layers: 1
  pixel_decoder_ffn_dim: 32
  decoder_layers: 2
  decoder_ffn_dim: 32
training:
  output_dir: OUTPUT
  max_steps: 4
  eval_steps: 2
  save_steps: 2
  logging_steps: 1
  per_device_train_batch_size: 2
  use_cpu: true
  disable_tqdm: true
evaluation: {window: 64, stride: 42, panels: 2}
"""


@pytest.fixture(scope="session")
def write_tiny_recipe() -> Callable[[Path], Path]:
    """Writes, into a folder, a recipe that trains for four steps in seconds; its output folder is `run` beside it."""

    def write(folder: Path) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(TINY_RECIPE.replace("OUTPUT", str(folder / "run")))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, write_tiny_recipe: Callable[[Path], Path]) -> Path:
    """The output folder of one such run, shared by all tests of a process; leave it as it is."""
    from hf_dinoseg import load_recipe
    from hf_dinoseg.run import train

    folder = tmp_path_factory.mktemp("tiny")
    train(load_recipe(write_tiny_recipe(folder)))
    return folder / "run"


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the right to read a folder away, also from root, whom permission bits do not bind."""
    scandir, forbidden = os.scandir, set()

    def guarded(path: Any = ".") -> Any:
        if not isinstance(path, int) and os.path.abspath(path) in forbidden:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return lambda folder: forbidden.add(os.path.abspath(folder))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium (a selenium driver), 1280 × 900, that keeps what pages write to the console.

    `browser.get_log("browser")` gives the console's entries since it was last asked.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs a browser: Debian's packages chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ["background-networking", "component-update", "sync", "gpu", "quic", "dev-shm-usage"]
    for flag in ["headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)]:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()
