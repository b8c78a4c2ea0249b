"""What a decoding process runs: one clip from file to the pixels that the model takes.

Native decoders can hang or crash, and no thread can be stopped from outside. So clips are decoded in
processes that the pool may kill, at the cost of that one clip:

    pool = pebble.ProcessPool(workers, context=worker_context(), initializer=initialise)
    future = pool.schedule(run, args=(path, "uniform", 25, config), timeout=60)
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch  # before decord, which can hang the process when it comes first

from harfeat.decode import DecodeError, decode_clip
from harfeat.hashing import sha256_of_file
from harfeat.preprocess import TransformConfig, prepare
from harfeat.sampling import sample


@dataclass(frozen=True)
class Prepared:
    """One clip, ready for the model.

    Attributes:
        pixels: (T, 3, H, W) uint8 RGB, resized and cropped, not yet normalised.
        indices: (T,) int64 into the source frames.
        source_frames: exact number of frames in the clip.
        fps: by the container; NaN where it states none.
        decoder: "decord" or "pyav".
        sha256: of the file's bytes, in hex.
    """

    pixels: np.ndarray
    indices: np.ndarray
    source_frames: int
    fps: float
    decoder: str
    sha256: str


def run(path: str, rule: str, frames: int, transform_config: TransformConfig) -> Prepared:
    """Decode, sample and prepare one clip.

    Args:
        path: the video file.
        rule: a rule of `harfeat.sampling`.
        frames: T, how many frames to take.
        transform_config: how the model wants its pictures.

    Raises:
        DecodeError: this clip cannot be decoded.
        InputError: no such rule, or fewer than one frame asked for.
    """
    file = Path(path)
    try:
        # Before decoding: should the file change meanwhile, the next run sees that the hash is not its own.
        digest = sha256_of_file(file) if file.is_file() else ""
        clip = decode_clip(file, lambda count: sample(rule, count, frames))
        pixels = prepare(clip.frames, transform_config)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DecodeError("not enough memory for its frames") from error
    return Prepared(pixels, clip.indices, clip.source_frames, clip.fps, clip.decoder, digest)


def initialise() -> None:
    """Once in each worker process: one thread (the pool has the cores), and Ctrl-C left to the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_context() -> BaseContext:
    """How to start workers: never by a plain fork, which copies locks that threads of the parent hold.

    A fork server imports torch and timm once, so that a worker replacing a killed one starts at once; where
    the system has none, every worker starts afresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
