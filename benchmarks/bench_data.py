"""Images a second and core, from encoded files to training tensors, beside what else one would do.

    python benchmarks/bench_data.py [--crop 512] [--images 12] [--rounds 9]

One run, one thread, processor time (what else runs on the machine counts little). Each round runs every way over the
same images in turn; the table gives the median over rounds.

* ours: the training dataset, all augmentations on, from the files' bytes to the compact sample that a worker makes and
  sends: `pixel_values` and `labels` as bytes, `class_labels`. Of the mask it reads the label map that
  `prepare_targets` made once, before training.
* ours, expanded: the same, and then floats and masks made on the CPU as `expand_batch` does. In training that is done
  by the device that trains, not by a worker.
* resize, then crop: the same augmentations from the same files, also to bytes, but resizing the whole image first
* Mask2FormerImageProcessorPil: transformers' processor and all its work: JPEG and PNG decoding, resizing to the crop's
  size (it crops and augments nothing), rescaling, normalising to floats, and a float mask for each class
* decoding: JPEG and PNG to arrays, nothing else

So ours ends at bytes and transformers' at floats and masks, each where its worker ends; what is like for like in its
result, if not in its place, is the expanded figure.

The images are generated: clouds smoother than images, under grain that brings them to the bytes a pixel of
images. CamVid's street scenes (480×360, saved anew at quality 90 as these are) take 0.31 bytes a pixel on average,
0.19 to 0.46; laid together to 2048×1024 they take as long to decode as these. The bytes a pixel of the images used
stand above each table. CamVid's masks take 0.029 bytes a pixel.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset, disable_caching, disable_progress_bars  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import Mask2FormerImageProcessorPil  # noqa: E402

from hf_dinoseg.data import SegmentationDataset, TrainTransform, collate, expand_batch, prepare_targets
from hf_dinoseg.data.color_jitter import color_matrix  # noqa: E402
from hf_dinoseg.data.label_maps import read_label_map
from hf_dinoseg.data.sources import FEATURES  # noqa: E402
from hf_dinoseg.data.transforms import count_classes, largest_class_share  # noqa: E402
from hf_dinoseg.images import read_image
from hf_dinoseg.labels import LabelSpace  # noqa: E402

NUM_CLASSES = 19
GRAIN = 6.5  # of 255; brings the JPEG files to 0.3 bytes a pixel
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def clouds(width: int, height: int, octaves: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32 noise whose detail falls off as that of images does, about 0 ± 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        shape = (3 * 2**octave, 4 * 2**octave)
        layer = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        total += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) / 2 ** (0.75 * octave)
    return total / total.std()


def make_rows(width: int, height: int, count: int) -> Dataset:
    """Images as hard to decode as images (JPEG, quality 90), masks of coherent regions (PNG)."""
    rows = []
    for i in range(count):
        rng = np.random.default_rng([width, i])
        shade = clouds(width, height, 9, rng)
        pixels = np.stack([128 + 45 * shade + 12 * clouds(width, height, 4, rng) for _ in range(3)], axis=-1)
        pixels += GRAIN * rng.standard_normal((height, width, 1), dtype=np.float32)  # grey, as most detail is
        regions = np.stack([clouds(width, height, 4, rng) for _ in range(NUM_CLASSES)])
        files = []
        for array, kind in ((pixels.clip(0, 255), "JPEG"), (regions.argmax(0), "PNG")):
            buffer = io.BytesIO()
            Image.fromarray(array.astype(np.uint8)).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
            files.append({"path": None, "bytes": buffer.getvalue()})
        rows.append({"id": str(i), "image": files[0], "mask": files[1]})
    return Dataset.from_list(rows, features=FEATURES)


def resize_then_crop(row: dict[str, Any], crop: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual order, in Pillow: scale image and label map whole, then look for a crop, flip, change colours."""
    image, labels = read_image(row["image"]), Image.fromarray(read_label_map(row["label_map"]))
    scale = rng.uniform(0.5, 2.0)
    size = (round(image.width * scale), round(image.height * scale))
    image, labels = image.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    width, height = min(crop, size[0]), min(crop, size[1])
    for _ in range(10):
        left = int(rng.integers(size[0] - width, endpoint=True))
        top = int(rng.integers(size[1] - height, endpoint=True))
        box = (left, top, left + width, top + height)
        kept_labels = np.array(labels.crop(box))
        if largest_class_share(count_classes(kept_labels, 255)) <= 0.75:
            break
    kept = image.crop(box)
    if rng.random() < 0.5:
        kept, kept_labels = kept.transpose(Image.Transpose.FLIP_LEFT_RIGHT), kept_labels[:, ::-1]
    if (matrix := color_matrix(rng)) is not None:
        kept = kept.convert("RGB", matrix)
    pixels = np.zeros((crop, crop, 3), np.uint8)
    pixels[:height, :width] = np.asarray(kept)
    padded = np.full((crop, crop), 255, np.uint8)
    padded[:height, :width] = kept_labels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.from_numpy(padded)


def ways(rows: Dataset, crop: int) -> dict[str, Callable[[int, int], Any]]:
    """Each takes (image's index, round)."""
    space = LabelSpace({i: str(i) for i in range(NUM_CLASSES)})
    prepared = prepare_targets(rows, space)
    data = SegmentationDataset(prepared, TrainTransform(crop), seed=0)
    processor = Mask2FormerImageProcessorPil(size={"height": crop, "width": crop}, ignore_index=255)

    def ours(index: int, epoch: int) -> Any:
        data.set_epoch(epoch)
        return data[index]

    def usual(index: int, epoch: int) -> Any:
        return resize_then_crop(prepared[index], crop, np.random.default_rng([0, epoch, index]))

    def processed(index: int, epoch: int) -> Any:
        row = rows[index]
        image: Any = Image.open(io.BytesIO(row["image"]["bytes"]))
        mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        return processor(images=[image], segmentation_maps=[mask], return_tensors="pt")

    def decoded(index: int, epoch: int) -> Any:
        row = rows[index]
        return [np.asarray(Image.open(io.BytesIO(row[key]["bytes"]))) for key in ("image", "mask")]

    return {
        "ours": ours,
        "ours, expanded": lambda index, epoch: expand_batch(collate([ours(index, epoch)]), MEAN, STD),
        "resize, then crop (Pillow)": usual,
        "Mask2FormerImageProcessorPil, resize only": processed,
        "decoding JPEG + PNG": decoded,
    }


def measure(functions: dict[str, Callable[[int, int], Any]], images: int, rounds: int) -> dict[str, float]:
    """Milliseconds an image: the median over rounds of the mean over images."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for epoch in range(rounds + 1):  # the first round only warms up
        for name, function in functions.items():
            start = time.process_time()
            for index in range(images):
                function(index, epoch)
            if epoch:
                spent[name].append((time.process_time() - start) * 1000 / images)
    return {name: statistics.median(times) for name, times in spent.items()}


def file_bytes(rows: Dataset, column: str, pixels: int) -> float:
    """Bytes a pixel of the encoded files, on average."""
    return statistics.mean(len(row[column]["bytes"]) for row in rows) / pixels


def bytes_sent(rows: Dataset, crop: int) -> float:
    """Bytes of a sample between processes, relative to pixels plus one byte a pixel of labels."""
    item = ways(rows, crop)["ours"](0, 0)
    size = sum(value.numel() * value.element_size() for value in item.values() if isinstance(value, torch.Tensor))
    return size / (4 * crop * crop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    disable_caching()  # or a second run finds the mapped masks of the first
    print(f"{arguments.crop}² crops, {arguments.images} images, median of {arguments.rounds} rounds, CPU time\n")
    for width, height in ((683, 512), (2048, 1024)):
        rows = make_rows(width, height, arguments.images)
        jpeg, png = (file_bytes(rows, column, width * height) for column in ("image", "mask"))
        print(f"{width}×{height}: JPEG {jpeg:.3f}, PNG {png:.3f} bytes a pixel\n")
        print("| source | way | ms an image | images a second | ours is faster by |\n| --- | --- | --- | --- | --- |")
        times = measure(ways(rows, arguments.crop), arguments.images, arguments.rounds)
        for name, milliseconds in times.items():
            ratio = f"{milliseconds / times['ours']:.2f}×"
            print(f"| {width}×{height} | {name} | {milliseconds:.1f} | {1000 / milliseconds:.0f} | {ratio} |")
        print()
    print(f"bytes sent between processes a sample: {bytes_sent(rows, arguments.crop):.3f} × (pixels + a byte a label)")
    rows = make_rows(683, 512, 1).select([0] * 1000)
    start = time.process_time()
    prepare_targets(rows, LabelSpace({i: str(i) for i in range(NUM_CLASSES)}))
    print(f"map of 1000 masks at 683×512, one process: {time.process_time() - start:.1f} s")


if __name__ == "__main__":
    main()
