"""Render a small action data set as real video files, in the layout and file naming of UCF11.

These are drawn stick figures with thick limbs and clothes, NOT footage: they stand under UCF11's class
names only so that the same command reads them (`harfeat extract --dataset ucf11 --root DIR`). What a class
shows is close to its name where that is possible:

    walking      comes towards the camera (grows)    biking              moves away (shrinks)
    diving       upright, tips over until it lies    trampoline_jumping  lies on its back, springs upright
    basketball   crouches, then stretches, arms up   volleyball_spiking  stretched, lands in a crouch

Each row is one motion and its time reversal: both classes visit the same poses with the same frequency, so no
single frame, and no mean over the frames, can tell the two apart; only the order in time can. The differences
are ones of size, orientation and pose, since globally pooled CNN features hardly see position.

As in UCF11 a group is one scene (palette, clothes, build) and belongs to one class, so a random split leaks
scenes and a group split does not. Odd clips are MPEG-1 in an MPEG program stream (as UCF11), even ones are
MPEG-4 Part 2 with the XVID tag in AVI (as UCF101 and HMDB51), in every group: the codec says nothing of the class.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
from joblib import Parallel, delayed
from PIL import Image
from stick_figures import draw_figure, make_scene, pose, progress_curve
from tqdm import tqdm

from harfeat.errors import InputError

RENDERER_VERSION = 1
STAMP_NAME = ".render_actions.json"
SUPERSAMPLING = 2  # figures are drawn at twice the size and averaged down: smooth edges, half-pixel jitter
BITS_PER_PIXEL = 0.6


@dataclass(frozen=True)
class Action:
    """One class: UCF11's folder and file prefix, the motion shown, and whether it runs backwards in time."""

    folder: str
    prefix: str
    motion: str
    reverse: bool


ACTIONS = (
    Action("walking", "v_walk_dog", "approach", False),
    Action("biking", "v_biking", "approach", True),
    Action("diving", "v_diving", "tip", False),
    Action("trampoline_jumping", "v_jumping", "tip", True),
    Action("basketball", "v_shooting", "stretch", False),
    Action("volleyball_spiking", "v_spiking", "stretch", True),
)


@dataclass(frozen=True)
class RenderSettings:
    """What decides the pixels of a set: two equal settings give equal decoded frames.

    `clips` (a group) is even, so that both codecs are equally frequent in every group; `width` and `height` in
    pixels are even, as 4:2:0 chroma wants; clips have `min_frames` to `max_frames` frames.
    """

    groups: int = 10
    clips: int = 4
    width: int = 160
    height: int = 120
    seed: int = 0
    min_frames: int = 30
    max_frames: int = 60

    def __post_init__(self) -> None:
        """Raise InputError for settings that no set can have."""
        if not 1 <= self.groups <= 99 or not 2 <= self.clips <= 98 or self.clips % 2:
            raise InputError(
                f"groups {self.groups}, clips {self.clips}: give 1-99 groups and an even number of clips, 2-98"
            )
        if not all(48 <= side <= 1024 and side % 2 == 0 for side in (self.width, self.height)):
            raise InputError(f"size {self.width}x{self.height}: both sides must be even and 48-1024 pixels")
        if not 2 <= self.min_frames <= self.max_frames or self.seed < 0:
            raise InputError(
                f"{self.min_frames}-{self.max_frames} frames, seed {self.seed}: "
                "give at least 2 frames, the smaller number first, and a seed of 0 or more"
            )


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render: its class (index into ACTIONS), group and clip number, both from 1."""

    action: int
    group: int
    clip: int

    @property
    def path(self) -> Path:
        """Path below the set's root, in UCF11's pattern."""
        action = ACTIONS[self.action]
        group = f"{action.prefix}_{self.group:02d}"
        suffix = "mpg" if self.clip % 2 else "avi"
        return Path(action.folder, group, f"{group}_{self.clip:02d}.{suffix}")


def clip_plans(settings: RenderSettings) -> list[ClipPlan]:
    """All clips of a set, in the order of their classes, groups and numbers."""
    return [
        ClipPlan(action, group, clip)
        for action in range(len(ACTIONS))
        for group in range(1, settings.groups + 1)
        for clip in range(1, settings.clips + 1)
    ]


def clip_frames(settings: RenderSettings, plan: ClipPlan) -> Iterator[Image.Image]:
    """The frames of one clip before encoding, RGB at the set's size."""
    group_rng = np.random.default_rng([settings.seed, plan.action, plan.group])
    rng = np.random.default_rng([settings.seed, plan.action, plan.group, plan.clip])
    width, height = settings.width * SUPERSAMPLING, settings.height * SUPERSAMPLING
    scene = make_scene((int(1.3 * width), int(1.3 * height)), group_rng, rng)
    action = ACTIONS[plan.action]
    count = int(rng.integers(settings.min_frames, settings.max_frames + 1))
    progress = progress_curve(count, rng)
    if action.reverse:  # the very same distribution of poses, in the other order
        progress = progress[::-1]
    gait = rng.uniform(0, 2 * math.pi) + np.arange(count) * rng.uniform(0.25, 0.5)
    spare = np.array(scene.background.size) - (width, height)
    shake = rng.normal(0.0, 0.008 * height, size=(count, 2))
    corner = np.clip(spare * rng.uniform(0.1, 0.9, size=2) + shake, 0, spare).astype(int)
    gain = rng.uniform(0.85, 1.12) + 0.07 * np.sin(
        rng.uniform(0, 2 * math.pi) + np.arange(count) * rng.uniform(0.02, 0.3)
    )
    cast = rng.uniform(0.8, 1.15, size=3)  # white balance
    size = scene.body_height * height * rng.uniform(0.94, 1.06)
    mirror = 1.0 if rng.integers(2) else -1.0
    middle = (width * (0.5 + rng.uniform(-0.04, 0.04)), height * (0.5 + rng.uniform(-0.02, 0.02)))
    for index in range(count):
        left, top = corner[index]
        frame = scene.background.crop((left, top, left + width, top + height))
        joints, scale = pose(action.motion, float(progress[index]), float(gait[index]))
        joints = {name: point * (mirror, 1.0) for name, point in joints.items()}
        centre = (middle[0] - shake[index, 0], middle[1] - shake[index, 1])
        draw_figure(frame, scene, joints, size * scale, centre)
        table = [min(255, int(value * gain[index] * tint)) for tint in cast for value in range(256)]
        yield frame.reduce(SUPERSAMPLING).point(table)


def encode_clip(settings: RenderSettings, plan: ClipPlan, path: Path) -> None:
    """Render and encode one clip to `path`, through a temporary name: the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    mpeg1 = path.suffix == ".mpg"
    # Frame rate and B-frames follow the numbers of group and clip, so neither says anything of the class.
    variant = plan.clip // 2 + plan.group
    rate = Fraction(30000, 1001) if variant % 2 else Fraction(25)
    with av.open(partial, "w", format="mpeg" if mpeg1 else "avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg1video" if mpeg1 else "mpeg4", rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        context = stream.codec_context
        context.bit_rate = int(BITS_PER_PIXEL * settings.width * settings.height * rate)
        context.gop_size = 12
        context.max_b_frames = 2 if mpeg1 else variant % 3
        context.thread_count = 1  # slices and threads would make the bytes depend on the machine
        rate_limit = str(context.bit_rate)
        context.options = {"flags": "+bitexact", "maxrate": rate_limit, "bufsize": rate_limit}
        if not mpeg1:
            context.codec_tag = "XVID"
        for image in clip_frames(settings, plan):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    os.replace(partial, path)


def render(settings: RenderSettings, out: Path, jobs: int = -1, progress: bool = False) -> int:
    """Render the set into `out` and return how many clips were written (0: all were there).

    A set of the same settings is completed where clips are missing; `jobs` processes work (-1: one a core).
    Raises InputError where `out` holds a set of other settings, or files that this script did not write.
    """
    stamp = out / STAMP_NAME
    wanted = {"renderer": RENDERER_VERSION, "settings": asdict(settings)}
    _check_folder(out, stamp, wanted)
    todo = [plan for plan in clip_plans(settings) if not (out / plan.path).is_file()]
    if todo:
        _write_stamp(stamp, {**wanted, "complete": False})
        pool = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=4)
        work = pool(delayed(encode_clip)(settings, plan, out / plan.path) for plan in todo)
        for _ in tqdm(work, total=len(todo), desc="rendering", unit="clip", disable=not progress):
            pass
        _write_stamp(stamp, {**wanted, "complete": True})
    return len(todo)


def _check_folder(out: Path, stamp: Path, wanted: dict[str, object]) -> None:
    """Raise InputError unless `out` is absent, empty, or holds (part of) the wanted set."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder: name another one with --out")
    if not stamp.is_file():
        if out.is_dir() and any(entry.name != f"{STAMP_NAME}.part" for entry in out.iterdir()):
            raise InputError(f"{out} holds files of something else: name a new or empty folder with --out")
        return
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{stamp} is damaged ({error}): remove the folder and render again") from error
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in wanted.items()):
        raise InputError(f"{out} holds a set of other settings ({stamp.name}): remove it or name another folder")


def _write_stamp(stamp: Path, content: dict[str, object]) -> None:
    stamp.parent.mkdir(parents=True, exist_ok=True)
    partial = stamp.with_name(f"{stamp.name}.part")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, stamp)


def _parse_size(text: str) -> tuple[int, int]:
    """(width, height) of e.g. "160x120"."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InputError(f"--size {text}: give width x height in pixels, for instance 160x120")
    return int(width), int(height)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Root folder of the set.")
@click.option("--clips", default=4, show_default=True, help="Clips a group; even.")
@click.option("--groups", default=10, show_default=True, help="Groups a class.")
@click.option("--size", default="160x120", show_default=True, help="Frame size in pixels.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, clips: int, groups: int, size: str, seed: int) -> None:
    """Render a small action data set in UCF11's layout; a second run finds it and does nothing."""
    try:
        width, height = _parse_size(size)
        settings = RenderSettings(groups=groups, clips=clips, width=width, height=height, seed=seed)
        written = render(settings, out, progress=True)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    total = len(clip_plans(settings))
    click.echo(f"{out}: {total} clips of {len(ACTIONS)} classes, {written} rendered now")


if __name__ == "__main__":
    main()
