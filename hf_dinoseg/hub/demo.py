"""The demo page: an image in, its classes over it. One app for `dinoseg demo` and for a Space.

The model runs once an image. Opacity, classes on and off and the class under the pointer act in the browser
(`demo_view.js`, over `visualize/label_view.js`); a background threshold acts on scores that were kept. The page needs
nothing from the network.
"""

from __future__ import annotations

import html
import importlib.util
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import DinoSegError, how_to_install
from ..images import MAX_FOREIGN_PIXELS
from ..inference import Segmenter
from ..inference.background import Background
from ..inference.segmenter import SegmentationResult, load_image
from ..labels import LabelSpace
from ..visualize import class_colors, image_of_panel
from ..visualize.label_view import SCRIPT, image_uri, numbers_uri
from .checkpoint_folder import last_panels

_HERE = Path(__file__).parent
_LONGEST_SIDE = 1280  # of what is shown; the downloaded label map keeps the image's size

# What a visitor may ask for: on a Space anyone is one.
MAX_SECONDS = 120.0  # of one request
MAX_UPLOAD = 64 << 20  # bytes of a file
MAX_WAITING = 16  # requests in the queue
_LEAST_WINDOW, _LARGEST_WINDOW, _STEPS = 64, 4096, 8  # pixels, and how many steps a window is long at most
_KEPT_VISITORS, _KEPT_FILES = 8, 32


class DemoError(DinoSegError, ValueError):
    """A demo page that cannot be made; the message says what to do."""


def require_gradio() -> None:
    """Raise a `DemoError` that says what to install if Gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        raise DemoError(f"the demo page needs Gradio, which is not installed: {how_to_install('demo')}.")


def example_images(checkpoint: str, folder: Path) -> list[Path]:
    """The images of a checkpoint's panels, cut out into `folder`; of a Hub id, downloaded. None there is no error."""
    source = Path(checkpoint)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(checkpoint, allow_patterns=["panels/*"]))
    found = []
    for path in last_panels(source):
        if (image := image_of_panel(path)) is not None:
            image.save(folder / path.name)
            found.append(folder / path.name)
    return found


def has_background(space: LabelSpace) -> bool:
    """Whether a class says "none of the others"; without one, a threshold can say "none of them"."""
    return any(name.strip().casefold() == "background" for name in space.classes.values())


def view_data(image: Image.Image, label_map: np.ndarray, space: LabelSpace) -> str:
    """What the page's viewer shows, as JSON: image and class numbers as data URIs, and the classes.

    Args:
        image: RGB, of the map's size.
        label_map: (H, W) original ids.
    """
    colors = class_colors(space)
    ids = space.decode_table.tolist()
    place = space.places(label_map)
    shares = np.bincount(place.ravel(), minlength=len(ids)) / place.size
    classes: list[dict[str, Any]] = [
        {
            "id": i,
            "label": f"{i} {space.classes[i]}",
            "color": list(colors[i]),
            "share": float(shares[number]),
            "clear": not any(colors[i]),
            "void": False,
        }
        for number, i in enumerate(ids[:-1])
    ]
    classes.append(
        {
            "id": -1,
            "label": "no class",
            "color": [128, 128, 128],
            "share": float(shares[-1]),
            "clear": True,
            "void": True,
        }
    )
    scale = min(1.0, _LONGEST_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return json.dumps(
        {
            "image": image_uri(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=90),
            "labels": numbers_uri(place, size),
            "classes": classes,
        }
    )


class Demo:
    """What the page's controls do.

    Args:
        segmenter: a loaded checkpoint; its settings are the page's first.
        seconds: the longest that a request may take. It ends between two layers of the model.
    """

    def __init__(self, segmenter: Segmenter, seconds: float = MAX_SECONDS) -> None:
        self.segmenter = segmenter
        self.space = segmenter.label_space
        self.seconds = seconds
        self._until = threading.local()
        for module in segmenter.model.modules():
            module.register_forward_pre_hook(self._stop_if_late)
        self._written: deque[Path] = deque()
        self._folder = tempfile.TemporaryDirectory(prefix="dinoseg-demo-")

    def segment(self, image: str, mode: str, window: float, stride: float, flip: bool) -> SegmentationResult:
        """Run the model. The threshold comes later, so that moving it costs no second run.

        Raises:
            ValueError: if windows and steps are out of bounds, the image cannot be read or is too large, or it takes
                too long.
        """
        ours = self.segmenter
        self._check_windows(window, stride)
        self._until.time = time.monotonic() + self.seconds
        chosen: Any = mode
        once = Segmenter(
            ours.model,
            ours.processor,
            self.space,
            mode=chosen,
            window=int(window),
            stride=int(stride),
            batch_size=ours.batch_size,
            blend=ours.blend,
            even_windows=ours.even_windows,
            join=ours.join,
            tta={**(ours.tta or {}), "flip": bool(flip)},
        )
        return once(load_image(image, MAX_FOREIGN_PIXELS))

    def window_bounds(self) -> tuple[int, int]:
        """The least and the largest side of windows; what the checkpoint was evaluated with is always within."""
        return min(_LEAST_WINDOW, self.segmenter.window), max(_LARGEST_WINDOW, self.segmenter.window)

    def _check_windows(self, window: float, stride: float) -> None:
        least, largest = self.window_bounds()
        if not least <= window <= largest:
            raise DemoError(f"windows are {window:g} pixels; choose {least} to {largest}.")
        smallest = min(math.ceil(window / _STEPS), self.segmenter.stride)
        if not smallest <= stride <= window:
            raise DemoError(f"the step between windows is {stride:g} pixels; choose {smallest} to {window:g}.")

    def _stop_if_late(self, *_: Any) -> None:
        if time.monotonic() > getattr(self._until, "time", math.inf):
            raise DemoError(
                f"stopped after {self.seconds:g} seconds; choose a smaller image, larger steps between windows, or no "
                "mirrored view."
            )

    def show(self, result: SegmentationResult, threshold: float | None, name: str) -> tuple[str, str]:
        """The viewer's data, and the path of the label map as a PNG of original ids."""
        labels, scores = torch.from_numpy(result.label_map.astype(np.int64)), torch.from_numpy(result.scores)
        background = Background.resolve(threshold=threshold or None)  # the slider's 0 is none
        label_map = background.apply(labels, scores, self.space.void_id).numpy().astype(result.label_map.dtype)
        shown = SegmentationResult(label_map, result.scores, result.image, self.space)
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        self._written.append(folder)  # Gradio serves a copy
        while len(self._written) > _KEPT_FILES:
            shutil.rmtree(self._written.popleft(), ignore_errors=True)
        return view_data(result.image, label_map, self.space), str(shown.save(folder / f"{name[:80]}_labels.png"))


def build_app(segmenter: Segmenter, title: str, examples: Sequence[Path] = (), seconds: float = MAX_SECONDS) -> Any:
    """The page, a `gradio.Blocks` with its queue; `launch_options` go with it."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    demo = Demo(segmenter, seconds)
    least, largest = demo.window_bounds()
    space = segmenter.label_space
    threshold = Background.resolve(threshold=segmenter.background_threshold).threshold or 0.0
    names = ", ".join(space.id2label[i] for i in range(min(space.num_labels, 12)))
    more = f" and {space.num_labels - 12} more" if space.num_labels > 12 else ""

    def run(image: str | None, mode: str, window: float, stride: float, flip: bool, low: float) -> tuple[Any, ...]:
        if not image:
            return None, "", gr.update(value=None, interactive=False)
        try:
            result = demo.segment(image, mode, window, stride, flip)
            return result, *present(result, image, low)
        except ValueError as error:
            raise gr.Error(str(error).replace(image, Path(image).name), print_exception=False) from error

    def present(result: SegmentationResult | None, image: str | None, low: float) -> tuple[Any, Any]:
        if result is None or not image:
            return "", gr.update(value=None, interactive=False)
        data, file = demo.show(result, low, Path(image).stem)
        return data, gr.update(value=file, interactive=True)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{space.num_labels} classes: {html.escape(names + more)}</p>")
        kept = gr.State(time_to_live=900)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    label="Image", type="filepath", sources=["upload", "clipboard"], height=300, elem_id="image"
                )
                # Gradio opens an upload first: of a file that it cannot read it says "Error", and others it converts.
                image.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
                if examples:
                    gr.Examples([str(p) for p in examples], image, label="Images of its evaluation")
                low = gr.Slider(
                    0, max(1, math.ceil(threshold)), threshold, step=0.01, label="Background threshold",
                    visible=not has_background(space),
                    info="Pixels whose best score is below it get no class.", elem_id="threshold",
                )  # fmt: skip
                with gr.Accordion("How the model sees the image", open=False):
                    mode = gr.Radio([("whole", "whole"), ("in windows", "slide")], value=segmenter.mode, label="Image")
                    window = gr.Number(
                        segmenter.window, label="Side of windows, pixels", precision=0, minimum=least, maximum=largest
                    )
                    stride = gr.Number(segmenter.stride, label="Step between windows, pixels", precision=0, minimum=1)
                    flip = gr.Checkbox(bool((segmenter.tta or {}).get("flip")), label="Also mirrored, averaged")
                    again = gr.Button("Segment again", variant="primary")
            with gr.Column(scale=3, min_width=300):
                view = gr.HTML(
                    "",
                    html_template='<div class="dinoseg-view"></div>',
                    css_template=(_HERE / "demo_view.css").read_text(encoding="utf-8"),
                    js_on_load="".join(path.read_text(encoding="utf-8") for path in (SCRIPT, _HERE / "demo_view.js")),
                    elem_id="view",
                )
                download = gr.DownloadButton("Download label map (PNG of ids)", interactive=False, elem_id="download")
        inputs = [image, mode, window, stride, flip, low]
        for event in (image.change, again.click):
            event(run, inputs, [kept, view, download], api_visibility="private")
        low.release(present, [kept, image, low], [view, download], show_progress="hidden", api_visibility="private")
    app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return app


def launch_options() -> dict[str, Any]:
    """Theme and page options: fonts of the system, nothing from elsewhere; and what bounds visitors."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"]
    )
    return {
        "theme": theme,
        "footer_links": [],
        "max_file_size": MAX_UPLOAD,
        "state_session_capacity": _KEPT_VISITORS,  # each keeps a result, of 9 bytes a pixel
    }


def serve(checkpoint: str, title: str | None = None, seconds: float = MAX_SECONDS, **launch: Any) -> None:
    """Load a checkpoint and serve its page until interrupted. What a Space's `app.py` calls.

    Args:
        seconds: the longest that a request may take.
        launch: of Gradio's `launch`.
    """
    require_gradio()
    segmenter = Segmenter.from_pretrained(checkpoint)
    with tempfile.TemporaryDirectory(prefix="dinoseg-examples-") as folder:
        app = build_app(segmenter, title or Path(checkpoint).name, example_images(checkpoint, Path(folder)), seconds)
        app.launch(**{**launch_options(), **launch})


__all__ = [
    "Demo",
    "DemoError",
    "build_app",
    "example_images",
    "launch_options",
    "require_gradio",
    "serve",
    "view_data",
]
