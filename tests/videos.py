"""Small videos made on the fly, each a case that some decoder is known to get wrong.

The pictures change a great deal from frame to frame and carry their own number as a bar code, so a frame
that is off by one is far from the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.frame import PictureType
from av.video.stream import VideoStream

_TIME_BASE = Fraction(1, 90_000)

GENUINE = (
    "clips/UCF11_updated_mpg/biking/v_biking_01/v_biking_01_01.mpg",
    "clips/hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "clips/hmdb51/wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi",
    "clips/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "clips/UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    "utd_mhad_depth/walk/walk_a23_s7_t1.avi",
)
"""Clips of the data sets, in the folder of shared data."""


@dataclass(frozen=True)
class Recipe:
    """How to make one video: container by file suffix, FFmpeg encoder, and what makes it hard."""

    name: str
    suffix: str
    codec: str
    frames: int = 48
    width: int = 64
    height: int = 48
    pix_fmt: str = "yuv420p"
    rate: int = 25
    b_frames: int = 0
    options: tuple[tuple[str, str], ...] = ()
    times: tuple[int, ...] | None = None  # presentation times in frame periods; None: 0, 1, 2, ...
    key_frames: tuple[int, ...] = ()  # besides those that the options make
    rotation: int = 0
    container: str | None = None  # FFmpeg muxer, where the suffix does not tell


def numbered_frame(index: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a drifting texture with `index` as eight bars along the top."""
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([3 * x + 7 * index, 2 * y + 2 * x - 5 * index, 4 * y + 11 * index], axis=-1) % 256
    # A triangle wave has no edges that a lossy encoder would smear.
    frame = np.abs(frame - 128) * 2 % 256
    edges = np.linspace(0, width, 9).astype(int)
    for bit in range(8):
        frame[: height // 3, edges[bit] : edges[bit + 1]] = 255 if index >> bit & 1 else 0
    return frame.astype(np.uint8)


def make_video(folder: Path, recipe: Recipe) -> Path:
    """Encode `recipe` into `folder` with PyAV; the path of the file."""
    pictures = [numbered_frame(i, recipe.height, recipe.width) for i in range(recipe.frames)]
    path = folder / f"{recipe.name}{recipe.suffix}"
    write_video(path, pictures, recipe)
    return path


def write_short_clips(root: Path, names: Sequence[str], broken: str) -> None:
    """MPEG-1 clips of four frames below `root`, all different, and one that is no video."""
    recipe = Recipe("clip", ".mpg", "mpeg1video", container="mpeg")
    for number, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, [numbered_frame(9 * number + k, 48, 64) for k in range(4)], recipe)
    (root / broken).write_bytes(b"no video")


def write_video(path: Path, pictures: Sequence[np.ndarray], recipe: Recipe) -> None:
    """Encode (H, W, 3) uint8 RGB pictures with the recipe's encoder and container."""
    times = recipe.times or range(len(pictures))
    with av.open(str(path), "w", format=recipe.container) as container:
        stream = cast(
            VideoStream, container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        )
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, recipe.pix_fmt
        stream.max_b_frames = recipe.b_frames
        stream.thread_count = 1
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        if recipe.times is not None:
            stream.codec_context.time_base = _TIME_BASE
        step = 1 if recipe.times is None else int(1 / (recipe.rate * _TIME_BASE))
        for number, (picture, time) in enumerate(zip(pictures, times, strict=True)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pict_type = PictureType.I if number in recipe.key_frames else PictureType.NONE
            frame.pts = time * step
            frame.time_base = _TIME_BASE if recipe.times is not None else Fraction(1, recipe.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _x264(parameters: str = "", **options: object) -> tuple[tuple[str, str], ...]:
    """Groups of 12 frames without scene cuts, unless said otherwise."""
    chosen = {"g": "12", "sc_threshold": "0"} | {key: str(value) for key, value in options.items()}
    return tuple(chosen.items()) + ((("x264-params", parameters),) if parameters else ())


_GROUP_OF_12 = (("g", "12"), ("b", "800000"))
_UNEVEN_TIMES = (0, 1, 2, 9, 10, 40, 41, 44, 45, 46, 47, 48, 49, 51, 58, 59, 89, 90, 93, 94, 95, 96, 97, 98)

# Those that decord gets right, with every pixel.
EXACT_WITH_DECORD = (
    Recipe("closed", ".mp4", "libx264", b_frames=2, options=_x264()),
    Recipe("closed", ".mkv", "libx264", b_frames=2, options=_x264()),
    Recipe("no_b_frames", ".mov", "libx264", options=_x264()),
    Recipe("intra_only", ".mp4", "libx264", options=_x264(g=1)),
    Recipe("one_group", ".mp4", "libx264", b_frames=3, options=_x264("b-pyramid=normal", g=250)),
    Recipe("uneven", ".mp4", "libx264", 24, b_frames=2, options=_x264(), times=_UNEVEN_TIMES),
    Recipe("uneven", ".mkv", "libx264", 24, b_frames=2, options=_x264(), times=_UNEVEN_TIMES),
    Recipe("late", ".mp4", "libx264", b_frames=2, options=_x264(), times=tuple(range(30, 78))),
    Recipe("hd_colours", ".mp4", "libx264", b_frames=2, options=_x264("colormatrix=bt709")),
    Recipe("full_range", ".mp4", "libx264", pix_fmt="yuvj420p", options=_x264()),
    Recipe("slices", ".mp4", "libx264", b_frames=2, options=_x264("slices=4")),
    Recipe(
        "short_groups",
        ".mp4",
        "libx264",
        b_frames=3,
        options=(*_x264(), ("forced-idr", "1")),
        key_frames=(1, 13, 16),
    ),
    Recipe("one_frame", ".mp4", "libx264", frames=1),
    Recipe("two_frames", ".mkv", "libx264", frames=2),
)

# Those that decord gets wrong, or right without a rule that proves it.
NEEDS_LINEAR = (
    Recipe("ps_mpeg1", ".mpg", "mpeg1video", b_frames=2, options=_GROUP_OF_12, container="mpeg"),
    Recipe("ps_mpeg1_p", ".mpg", "mpeg1video", options=_GROUP_OF_12, container="mpeg"),
    Recipe("ps_mpeg2", ".mpg", "mpeg2video", b_frames=2, options=_GROUP_OF_12, container="vob"),
    Recipe("es_mpeg1", ".m1v", "mpeg1video", b_frames=2, options=_GROUP_OF_12, container="mpeg1video"),
    Recipe("ts_h264", ".ts", "libx264", b_frames=2, options=_x264()),
    Recipe("avi_mpeg4", ".avi", "mpeg4", options=_GROUP_OF_12),
    Recipe("avi_mpeg4_b", ".avi", "mpeg4", b_frames=2, options=_GROUP_OF_12),
    Recipe("mp4_mpeg4_b", ".mp4", "mpeg4", b_frames=2, options=_GROUP_OF_12),
    Recipe("avi_h264", ".avi", "libx264", b_frames=2, options=_x264()),
    Recipe("avi_h264_intra", ".avi", "libx264", options=_x264(g=1)),
    Recipe("open", ".mp4", "libx264", b_frames=3, options=_x264("open-gop=1")),
    Recipe("open", ".mkv", "libx264", b_frames=3, options=_x264("open-gop=1")),
    Recipe("refresh", ".mp4", "libx264", options=_x264("intra-refresh=1")),
    Recipe("turned", ".mp4", "libx264", options=_x264(), rotation=90),
    Recipe("odd_444", ".mp4", "libx264", pix_fmt="yuv444p", width=63, height=47, options=_x264()),
    Recipe("chroma_422", ".mkv", "libx264", pix_fmt="yuv422p", options=_x264()),
    Recipe("grey", ".avi", "ffv1", pix_fmt="gray"),
    Recipe("jpegs", ".avi", "mjpeg", pix_fmt="yuvj420p"),
    Recipe("jpegs_422", ".mov", "mjpeg", pix_fmt="yuvj422p"),
    Recipe("vp9", ".webm", "libvpx-vp9", options=(("g", "12"), ("deadline", "realtime"))),
)

# Right frames, but FFmpeg's versions differ in how they turn these into RGB.
NEARLY_EQUAL = (
    Recipe("ten_bits", ".mp4", "libx264", pix_fmt="yuv420p10le", b_frames=2, options=_x264()),
    Recipe("odd_size", ".avi", "mpeg4", width=63, height=47, options=_GROUP_OF_12),
    Recipe("interlaced", ".mp4", "libx264", b_frames=2, options=_x264("tff=1")),
)
