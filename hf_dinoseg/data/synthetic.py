"""Fundus-like images drawn from a seed, with exact masks: something real enough to train on without any download.

An eye is an orange-red disc on black with a bright optic disc, from which arteries and veins branch out, ever thinner
and never straight. Arteries are brighter and thinner than veins and carry a light reflex; light, colour, blur and noise
vary from image to image. Image and mask come from the same anti-aliased coverage: a pixel is a vessel's when the
vessel covers at least half of it.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BACKGROUND, ARTERY, VEIN, DISC = 0, 1, 2, 3

_OVERSAMPLING = 3  # vessels are drawn this many times larger and averaged down: their edges are then fractions
_MIN_WIDTH = 2.6  # of a vessel, in pixels of a 256-pixel image; thinner ones end


class Branch(NamedTuple):
    """One unbranched vessel: its centre line and its width along it, in units of the image's side."""

    points: np.ndarray  # (n, 2) x, y
    widths: np.ndarray  # (n,)


def draw_fundus(index: int, seed: int = 0, size: int = 256) -> tuple[Image.Image, np.ndarray]:
    """Draws one eye.

    Args:
        index: which one, 0 or more.
        seed: another seed draws other eyes.
        size: side of the square image, pixels.

    Returns:
        RGB image (size, size) and (size, size) uint8 mask: 0 background, 1 artery, 2 vein, 3 optic disc.
    """
    rng = np.random.default_rng([seed, index])
    side = float(rng.choice((-1.0, 1.0)))  # left or right eye: where the disc lies
    disc = np.array([0.5 + side * rng.uniform(0.14, 0.22), 0.5 + rng.uniform(-0.05, 0.05)])
    disc_radius = rng.uniform(0.084, 0.104)
    trees = {kind: _grow_trees(kind, disc, -side, rng) for kind in (VEIN, ARTERY)}
    coverage = {kind: _coverage(branches, size) for kind, branches in trees.items()}
    reflex = _coverage([Branch(b.points, b.widths * 0.34) for b in trees[ARTERY] if b.widths[0] > 0.012], size)
    x, y = np.meshgrid(*2 * [(np.arange(size, dtype=np.float32) + 0.5) / size])
    squeeze = rng.uniform(0.86, 1.0)  # the disc is a little taller than wide
    from_disc = np.hypot((x - float(disc[0])) / squeeze, y - float(disc[1]))
    field = _soft_step(rng.uniform(0.465, 0.49) - np.hypot(x - 0.5, y - 0.5), 1 / size)
    disc_cover = _soft_step(disc_radius - from_disc, 1 / size)

    mask = np.where(disc_cover >= 0.5, DISC, BACKGROUND).astype(np.uint8)
    for kind in (VEIN, ARTERY):  # arteries cross over veins
        mask[coverage[kind] >= 0.5] = kind
    mask[field < 0.5] = BACKGROUND

    pixels = _retina(x, y, disc, -side, size, rng)
    glow = np.exp(-((from_disc / (1.7 * disc_radius)) ** 2))[..., None]
    pixels += glow * np.array([26.0, 20.0, 10.0], np.float32)
    cup = _soft_step(disc_radius * rng.uniform(0.35, 0.5) - from_disc, 5 / size)[..., None]
    disc_color = np.array([246, 205, 132], np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    soft_disc = _soft_step(disc_radius - from_disc, 3 / size)[..., None]
    pixels += soft_disc * (disc_color + cup * np.array([8, 28, 44], np.float32) - pixels)
    for kind, factors in ((VEIN, (0.60, 0.36, 0.46)), (ARTERY, (0.90, 0.53, 0.50))):
        tint = np.array(factors, np.float32) * rng.uniform(0.95, 1.05)
        pixels *= 1 - coverage[kind][..., None] * (1 - tint)
    pixels += reflex[..., None] * np.array([26, 22, 12], np.float32)
    return _image(pixels * field[..., None], x, y, size, rng), mask


def encode_pair(image: Image.Image, mask: np.ndarray) -> tuple[bytes, bytes]:
    """The image as JPEG bytes, the mask as PNG bytes: what a folder of images would hold."""
    image_file, mask_file = io.BytesIO(), io.BytesIO()
    image.save(image_file, "JPEG", quality=95)
    Image.fromarray(mask).save(mask_file, "PNG")
    return image_file.getvalue(), mask_file.getvalue()


def _grow_trees(kind: int, disc: np.ndarray, temporal: float, rng: np.random.Generator) -> list[Branch]:
    """All vessels of one kind: two arcades that bend around the macula, two or three that leave to the other side."""
    width = (9.4 if kind == VEIN else 7.4) / 256 * rng.uniform(0.9, 1.1)
    branches: list[Branch] = []
    shift = 0.2 if kind == VEIN else -0.2  # an artery and a vein run side by side
    for vertical in (-1.0, 1.0):
        arcade = math.atan2(vertical * math.sin(1.3 + shift), temporal * math.cos(1.3 + shift))
        bend = -vertical * temporal * rng.uniform(1.6, 2.4)
        _grow(branches, disc, arcade + rng.normal(0, 0.12), width, bend, 0.85, rng)
        nasal = math.atan2(vertical * math.sin(2.35 + 2 * shift), temporal * math.cos(2.35 + 2 * shift))
        _grow(branches, disc, nasal + rng.normal(0, 0.15), width * 0.72, rng.normal(0, 0.8), 0.45, rng)
    if kind == ARTERY or rng.random() < 0.5:
        straight = 0.0 if temporal > 0 else math.pi
        _grow(branches, disc, straight + rng.normal(0, 0.25), width * 0.5, rng.normal(0, 0.8), 0.30, rng)
    return branches


def _grow(
    branches: list[Branch],
    start: np.ndarray,
    heading: float,
    width: float,
    bend: float,
    length: float,
    rng: np.random.Generator,
) -> None:
    """Walks one vessel outwards, appends it, and walks the branches that leave it.

    Args:
        start: (2,) where it begins.
        heading: radians.
        width: at its start.
        bend: mean curvature, radians a unit of length.
        length: how far it goes, in units of the image's side.
    """
    step = 0.016
    count = max(3, round(length / step))
    # Tortuosity: the heading swings about its mean course, a random walk pulled back to it.
    kicks = rng.normal(0, 0.17, count)
    swing, headings = 0.0, np.empty(count)
    for i, kick in enumerate(kicks.tolist()):
        swing = 0.86 * swing + kick
        headings[i] = swing
    headings += heading + bend * step * np.arange(count)
    points = start + step * np.cumsum(np.column_stack([np.cos(headings), np.sin(headings)]), axis=0)
    points = np.vstack([start, points])
    thinnest = _MIN_WIDTH / 256
    widths = np.maximum(width * np.linspace(1.0, 0.5, count + 1), thinnest)
    inside = np.hypot(points[:, 0] - 0.5, points[:, 1] - 0.5) < 0.5
    stop = count + 1 if inside.all() else max(2, int(np.argmin(inside)))
    branches.append(Branch(points[:stop], widths[:stop]))
    side = rng.choice((-1.0, 1.0))
    at = int(rng.integers(5, 10))
    while at < stop - 2:
        child = widths[at] * rng.uniform(0.55, 0.78)
        if child >= thinnest:
            turn = side * rng.uniform(0.5, 0.95)
            reach = length * rng.uniform(0.35, 0.6) * (1 - 0.5 * at / count)
            _grow(branches, points[at], headings[at - 1] + turn, child, -side * rng.uniform(0, 1.6), reach, rng)
        side = -side
        at += int(rng.integers(8, 14))


def _coverage(branches: list[Branch], size: int) -> np.ndarray:
    """(size, size) float32 share of each pixel that the vessels cover."""
    large = Image.new("L", (size * _OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(large)
    for points, widths in branches:
        along = np.gradient(points, axis=0)
        across = np.column_stack([-along[:, 1], along[:, 0]]) / np.hypot(along[:, 0], along[:, 1])[:, None]
        half = across * widths[:, None] / 2
        outline = np.vstack([points + half, (points - half)[::-1]]) * large.width - 0.5
        draw.polygon(outline.ravel().tolist(), fill=255)
        for (px, py), w in ((points[0], widths[0]), (points[-1], widths[-1])):
            box = [(px - w / 2), (py - w / 2), (px + w / 2), (py + w / 2)]
            draw.ellipse([v * large.width - 0.5 for v in box], fill=255)
    return np.asarray(large.reduce(_OVERSAMPLING), dtype=np.float32) / 255


def _soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 as a signed distance passes 0, over the given width."""
    return np.clip(distance / width + 0.5, 0, 1).astype(np.float32)


def _retina(
    x: np.ndarray, y: np.ndarray, disc: np.ndarray, temporal: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """(size, size, 3) float32: the fundus without vessels, with the macula and a choroid's mottling."""
    color = np.array([204, 104, 52], np.float32) * rng.uniform(0.88, 1.08) + rng.normal(0, 7, 3).astype(np.float32)
    macula_x, macula_y = float(disc[0] + temporal * 0.40), float(disc[1] + rng.uniform(-0.01, 0.04))
    dark = np.exp(-((x - macula_x) ** 2 + (y - macula_y) ** 2) / rng.uniform(0.004, 0.008))[..., None]
    coarse = rng.normal(0, 1, (14, 14)).astype(np.float32)
    mottling = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))[..., None]
    return color * (1 - dark * np.array([0.22, 0.34, 0.36], np.float32)) * (1 + 0.035 * mottling)


def _image(pixels: np.ndarray, x: np.ndarray, y: np.ndarray, size: int, rng: np.random.Generator) -> Image.Image:
    """The camera's share: uneven light, blur, sensor noise."""
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.35)
    centre_x, centre_y = 0.5 + rng.uniform(-0.08, 0.08), 0.5 + rng.uniform(-0.08, 0.08)
    vignette = 1 - rng.uniform(0.5, 1.3) * ((x - centre_x) ** 2 + (y - centre_y) ** 2)
    light = vignette * (1 + slope * (math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)))
    lit = Image.fromarray(np.clip(pixels * light[..., None], 0, 255).astype(np.uint8))
    blurred = np.asarray(lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * size / 256)), dtype=np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(rng.uniform(2.0, 5.0))
    return Image.fromarray(np.clip(blurred + noise, 0, 255).astype(np.uint8))
