"""Stick figures with thick limbs and clothes over drawn backdrops: poses, motions and looks.

Poses are arithmetic in body heights; drawing knows pixels, but nothing of classes, files or codecs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """The look of one clip: backdrop, colours of the figure, and its build (thickness in body heights)."""

    background: Image.Image
    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    body_height: float
    thickness: float


def pose(motion: str, progress: float, gait: float) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Joints of the figure at `progress` (0-1) of a motion, and its scale.

    Returns name -> (x, y) in body heights, y downwards, the body centre near the origin; `gait` (radians) moves
    legs and arms while approaching. Raises KeyError for an unknown motion.
    """
    stride = 0.45 * math.sin(gait)
    lean, thighs, knees, arms, elbow, turn, scale = {
        "approach": (0.0, (stride, -stride), (0.25, 0.25), (-stride, stride), 0.3, 0.0, 0.36 + 0.84 * progress),
        "tip": (0.0, (0.06, -0.06), (0.0, 0.0), (2.9, -2.9), 0.0, 0.53 * math.pi * progress, 0.95),
        "stretch": (
            0.7 * (1 - progress),
            (1.75 * (1 - progress) + 0.08, 1.6 * (1 - progress) - 0.08),
            (2.3 * (1 - progress), 2.1 * (1 - progress)),
            (0.2 + 2.75 * progress, -0.1 + 3.2 * progress),
            0.25 * (1 - progress),
            0.0,
            0.95,
        ),
    }[motion]
    joints: dict[str, NDArray[np.float64]] = {"hip": np.zeros(2)}
    joints["neck"] = joints["hip"] - 0.31 * _down(-lean)
    joints["head"] = joints["neck"] - 0.11 * _down(-lean)
    for side, thigh, knee, arm in zip(("near", "far"), thighs, knees, arms, strict=True):
        joints[f"knee_{side}"] = joints["hip"] + 0.24 * _down(thigh)
        joints[f"foot_{side}"] = joints[f"knee_{side}"] + 0.24 * _down(thigh - knee)
        joints[f"elbow_{side}"] = joints["neck"] + 0.17 * _down(arm)
        joints[f"hand_{side}"] = joints[f"elbow_{side}"] + 0.16 * _down(arm + math.copysign(elbow, arm))
    if motion == "stretch":  # the feet stay on the ground
        ground = 0.5 - max(joints["foot_near"][1], joints["foot_far"][1])
        joints = {name: point + np.array([0.0, ground]) for name, point in joints.items()}
    else:
        joints = {name: point + np.array([0.0, -0.03]) for name, point in joints.items()}
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return {name: rotation @ point for name, point in joints.items()}, scale


def _down(angle: float) -> NDArray[np.float64]:
    """Unit vector `angle` radians from straight down."""
    return np.array([math.sin(angle), math.cos(angle)])


def progress_curve(frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Progress of a motion a frame, (frames,) and never falling: random start, end, waits and easing."""
    start, end = rng.uniform(0.0, 0.08), rng.uniform(0.92, 1.0)
    wait, done = rng.uniform(0.1, 0.35), rng.uniform(0.65, 0.9)
    time = np.clip((np.linspace(0.0, 1.0, frames) - wait) / (done - wait), 0.0, 1.0)
    power = math.exp(rng.uniform(-0.4, 0.4))
    return start + (end - start) * time**power


def make_scene(size: tuple[int, int], rng: np.random.Generator, clip_rng: np.random.Generator) -> Scene:
    """The look of a clip: `rng`, its group's, decides colours and build; `clip_rng` the part of the backdrop seen.

    `size` (width, height) is that of the backdrop in pixels.
    """
    # Drawn independently for every group: were looks dealt out evenly to the classes, one that a class lacks in
    # training would be one that the others have, and any classifier of looks would fall below chance.
    dark, texture = bool(rng.integers(2)), int(rng.integers(4))
    # Clothes take the brightness that the background has not, so that the figure is always seen.
    backdrop, clothes = ((20, 110), (150, 250)) if dark else ((140, 235), (10, 105))
    return Scene(
        background=_background(size, texture, [_colour(backdrop, rng) for _ in range(5)], clip_rng),
        shirt=_colour(clothes, rng),
        trousers=_colour(clothes, rng),
        skin=(236, 188, 150) if dark else (122, 78, 52),
        hair=_colour(clothes, rng),
        body_height=float(rng.uniform(0.66, 0.78)),
        thickness=float(rng.uniform(0.075, 0.1)),
    )


def _colour(span: tuple[int, int], rng: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(*span, size=3))
    return red, green, blue


def _background(
    size: tuple[int, int], texture: int, palette: list[Colour], rng: np.random.Generator
) -> Image.Image:
    """A muted backdrop: colour gradient, perhaps a floor, and one texture of four."""
    width, height = size
    low, high = (np.array(colour, dtype=float) for colour in palette[:2])
    slope = rng.uniform(-1, 1)
    ramp = np.linspace(0, 1, height)[:, None] * abs(slope) + np.linspace(0, 1, width)[None] * (1 - abs(slope))
    pixels = low + (high - low) * (ramp if slope > 0 else ramp[:, ::-1])[..., None]
    if texture == 0:  # smooth noise: foliage, water
        grain = rng.integers(0, 256, size=(height // int(rng.integers(6, 20)), 40), dtype=np.uint8)
        noise = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC), dtype=float)
        pixels += (noise[..., None] - 128) * 0.3
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if texture == 1:  # stripes
        step, tilt = int(rng.integers(16, 60)), int(rng.integers(-60, 60))
        for x in range(-60, width + 60, step):
            draw.line([(x, 0), (x + tilt, height)], fill=palette[2], width=step // 3)
    elif texture == 2:  # boxes and discs
        for _ in range(int(rng.integers(6, 14))):
            left, top, side = (int(rng.integers(*span)) for span in ((0, width), (0, height), (12, height // 3)))
            shape = draw.ellipse if rng.integers(2) else draw.rectangle
            shape([left, top, left + side, top + side], fill=palette[int(rng.integers(2, 4))])
    elif texture == 3:  # tiles
        step = int(rng.integers(20, 50))
        for x in range(0, width, step):
            draw.line([(x, 0), (x, height)], fill=palette[2], width=3)
        for y in range(0, height, step):
            draw.line([(0, y), (width, y)], fill=palette[2], width=3)
    if rng.integers(2):  # a floor
        draw.rectangle([0, int(height * rng.uniform(0.72, 0.85)), width, height], fill=palette[4])
    muted = Image.blend(image, Image.new("RGB", image.size, palette[0]), 0.65)
    return muted.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.0))))


def draw_figure(
    image: Image.Image,
    scene: Scene,
    joints: dict[str, NDArray[np.float64]],
    size: float,
    centre: tuple[float, float],
) -> None:
    """Draw the figure onto `image`, `size` pixels tall, its body centre at `centre`; far limbs first."""
    draw = ImageDraw.Draw(image)
    points = {name: (centre[0] + size * x, centre[1] + size * y) for name, (x, y) in joints.items()}
    thick = scene.thickness * size

    def limb(names: tuple[str, ...], width: float, colour: Colour) -> None:
        chain = [points[name] for name in names]
        draw.line(chain, fill=colour, width=max(2, round(width)))
        for x, y in chain:
            draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)

    for side in ("far", "near"):
        shade = 0.75 if side == "far" else 1.0
        trousers, skin = (_shaded(colour, shade) for colour in (scene.trousers, scene.skin))
        limb(("hip", f"knee_{side}", f"foot_{side}"), thick, trousers)
        limb(("neck", f"elbow_{side}"), 0.8 * thick, _shaded(scene.shirt, shade))
        limb((f"elbow_{side}", f"hand_{side}"), 0.65 * thick, skin)
        if side == "far":
            limb(("hip", "neck"), 1.7 * thick, scene.shirt)
    x, y = points["head"]
    radius = 0.085 * size
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=scene.skin)
    crown = math.degrees(math.atan2(y - points["neck"][1], x - points["neck"][0]))
    draw.chord([x - radius, y - radius, x + radius, y + radius], crown - 75, crown + 75, fill=scene.hair)


def _shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(value * factor) for value in colour)
    return red, green, blue
