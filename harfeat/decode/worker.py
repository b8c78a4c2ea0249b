"""What a decoding process runs: one clip from file to the pixels that the model takes.

Native decoders can hang or crash, and no thread can be stopped from outside. So clips are decoded in
processes that the pool may kill, at the cost of that one clip:

    pool = pebble.ProcessPool(workers, context=worker_context(), initializer=initialise)
    future = pool.schedule(run, args=(path, SamplingSettings(), config), timeout=60)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch  # before decord, which can hang the process when it comes first

from harfeat import processes
from harfeat.decode import DecodeError, decode_pictures
from harfeat.flow import FlowTaker
from harfeat.hashing import sha256_of_file
from harfeat.preprocess import TransformConfig, prepare
from harfeat.sampling import FLOW, SamplingError, SamplingSettings, View, plan

MAX_PIXEL_BYTES = 512 * 2**20
"""What the prepared pixels of one clip may take, all views together: 3,566 frames of 224x224."""

MEMORY = 4 * 2**30
"""What a decoding process may take beyond what it starts with; a hostile clip then fails, not the machine."""


@dataclass(frozen=True)
class PreparedView:
    """One stream of a clip.

    Attributes:
        pixels: (T, 3, H, W) uint8, RGB or optical flow, resized, cropped, mirrored where the view says so, not yet
            normalised.
        indices: (T,) int64 into the source frames.
    """

    pixels: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """One clip, ready for the model.

    Attributes:
        views: one a name in `SamplingSettings.stream_names()`.
        source_frames: exact number of frames in the clip.
        fps: by the container; NaN where it states none.
        decoder: "decord" or "pyav".
        damaged: FFmpeg met an error in the stream; its frames are those that the command line gives.
        sha256: of the file's bytes, in hex.
    """

    views: tuple[PreparedView, ...]
    source_frames: int
    fps: float
    decoder: str
    damaged: bool
    sha256: str


def run(path: str, sampling: SamplingSettings, transform_config: TransformConfig) -> Prepared:
    """Decode one clip once, prepare each wanted frame once, and put together its views.

    Args:
        path: the video file.
        sampling: which frames to take.
        transform_config: how the model wants its pictures.

    Raises:
        DecodeError: this clip cannot be decoded, or not sampled as asked.
    """
    file = Path(path)
    try:
        # Before decoding: should the file change meanwhile, the next run sees that the hash is not its own.
        digest = sha256_of_file(file) if file.is_file() else ""
        planned: tuple[View, ...] = ()
        taker = FlowTaker(transform_config) if sampling.stream == FLOW else _PictureTaker(transform_config)

        def choose(count: int, fps: float) -> np.ndarray:
            nonlocal planned
            planned = plan(sampling, count, fps, digest)
            _check_size(sum(len(view.indices) for view in planned), transform_config)
            return taker.frames(np.concatenate([view.indices for view in planned]), count)

        clip = decode_pictures(file, choose, taker.keep)
        views = tuple(_put_together(view, clip.kept, taker, clip.source_frames) for view in planned)
    except SamplingError as error:
        raise DecodeError(str(error)) from error
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DecodeError("not enough memory for its frames") from error
    return Prepared(views, clip.source_frames, clip.fps, clip.decoder, clip.damaged, digest)


def _check_size(frames: int, config: TransformConfig) -> None:
    height, width = config.input_size
    if frames * 3 * height * width > MAX_PIXEL_BYTES:
        raise DecodeError(
            f"{frames} frames of {width}x{height} are above {MAX_PIXEL_BYTES // 2**20} MiB a clip: take fewer, "
            "by --frames, --interval or another --sampling"
        )


class _Taker(Protocol):
    """What is taken of a clip: for each sampled frame a picture for the model."""

    def keys(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        """(T,) under which frames what is kept for each sampled frame is found."""

    def frames(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        """All frames to decode for these sampled ones."""

    def keep(self, index: int, frame: np.ndarray) -> np.ndarray | None:
        """(3, h, w) uint8 of a frame; None where it is only needed for another."""

    def mirrored(self, pixels: np.ndarray) -> np.ndarray:
        """(T, 3, h, w) left to right."""


class _PictureTaker:
    """The frames themselves."""

    def __init__(self, transform: TransformConfig) -> None:
        self._transform = transform

    def keys(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        return indices

    def frames(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        return indices

    def keep(self, index: int, frame: np.ndarray) -> np.ndarray:
        return prepare(frame[None], self._transform)[0]

    def mirrored(self, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels[..., ::-1])


def _put_together(
    view: View, frames: Mapping[int, np.ndarray | None], taker: _Taker, source_frames: int
) -> PreparedView:
    """Mirrored last, so that a mirrored frame is the prepared frame mirrored, to the pixel."""
    kept = [frames[key] for key in taker.keys(view.indices, source_frames).tolist()]
    pixels = np.stack([picture for picture in kept if picture is not None])
    return PreparedView(taker.mirrored(pixels) if view.flip else pixels, view.indices)


def initialise() -> None:
    """Once in each worker: one thread (the pool has the cores), Ctrl-C left to the parent, bounded memory."""
    torch.set_num_threads(1)
    processes.leave_interrupts()
    _bound_memory(MEMORY)


def _bound_memory(more: int) -> None:
    """At most `more` bytes beyond what this process has mapped now; only where the system can do that (Linux)."""
    try:
        import resource  # noqa: PLC0415

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [limit, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))


def worker_context() -> BaseContext:
    """How to start decoding processes; torch and timm are imported once for all."""
    return processes.worker_context(__name__)
