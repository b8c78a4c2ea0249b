"""Hundreds of broken videos through the real pool: each is answered, rightly, and nothing else suffers."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pebble
import pytest
from av.video.stream import VideoStream
from mutants import mutant
from PIL import Image
from processes import grandchildren, wait_for
from timm.data import create_transform
from videos import EXACT_WITH_DECORD, GENUINE, NEEDS_LINEAR, make_video

from harfeat.decode import DecodeError
from harfeat.decode.pool import prepared_clips
from harfeat.decode.worker import Prepared, initialise, worker_context
from harfeat.preprocess import TransformConfig
from harfeat.sampling import SamplingSettings, plan

MUTANTS = 600
COMPARED = 100
MADE = ("closed.mp4", "uneven.mkv", "slices.mp4", "jpegs.avi", "vp9.webm", "avi_mpeg4_b.avi", "ts_h264.ts")
HEAD = 120_000  # of each genuine clip: enough frames, and time for many mutants
CONFIG = TransformConfig((32, 32), "bilinear", 1.0, "center")
SAMPLING = SamplingSettings("uniform", 6, views=2)


@pytest.fixture(scope="module")
def sound(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Genuine clips, cut to length as a broken download would, twice as likely as the made ones."""
    folder = tmp_path_factory.mktemp("sound")
    recipes = {made.name + made.suffix: made for made in EXACT_WITH_DECORD + NEEDS_LINEAR}
    made = [make_video(folder, recipes[name]).read_bytes() for name in MADE]
    return [(shared_data / name).read_bytes()[:HEAD] for name in GENUINE[:5]] * 2 + made


def test_every_broken_video_is_answered(sound: list[bytes], tmp_path: Path) -> None:
    paths = []
    for seed in range(MUTANTS):
        paths.append(tmp_path / f"{seed:04d}.avi")  # FFmpeg must look inside to know the format
        paths[-1].write_bytes(mutant(sound, seed))
    with memory_watched() as peaks:
        results = list(prepared_clips(paths, SAMPLING, CONFIG, 2, 20))
    wait_until_no_worker_is_left()

    answers = Counter("decoded" if isinstance(result, Prepared) else str(result) for result in results)
    assert len(results) == MUTANTS
    assert answers["decoded"] > MUTANTS / 4, answers
    assert MUTANTS - answers["decoded"] > MUTANTS / 10, answers
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, DecodeError):
            assert str(result)
            assert "\n" not in str(result)
        else:
            expect_consistent(path, result)
    # A worker starts with some 700 MiB of libraries; what it may add is bounded far above this (worker.MEMORY).
    assert peaks.worker < 2 * 2**30
    assert peaks.parent_growth < 2**28


def expect_consistent(path: Path, clip: Prepared) -> None:
    planned = plan(SAMPLING, clip.source_frames, clip.fps, clip.sha256)
    for view, made in zip(planned, clip.views, strict=True):
        assert made.indices.tolist() == view.indices.tolist()
        assert made.pixels.shape == (6, 3, 32, 32)
        assert made.pixels.dtype == np.uint8


def test_what_still_decodes_equals_a_plain_decode(sound: list[bytes], tmp_path: Path) -> None:
    """Number of frames and every pixel, against a bare loop over PyAV, for damaged streams too."""
    paths = []
    for seed in range(COMPARED):
        paths.append(tmp_path / f"{seed:04d}.avi")
        paths[-1].write_bytes(mutant(sound, 10_000 + seed))
    compared = 0
    with pebble.ProcessPool(2, context=worker_context(), initializer=initialise) as pool:
        jobs = [pool.schedule(by_hand, args=(str(path),), timeout=20) for path in paths]
        for job, result in zip(jobs, prepared_clips(paths, SAMPLING, CONFIG, 2, 20), strict=True):
            if isinstance(result, DecodeError):
                continue
            frames = job.result()
            assert result.source_frames == len(frames)
            compared += 1
            expected = np.stack([frames[index] for index in result.views[0].indices])
            np.testing.assert_array_equal(result.views[0].pixels, expected)
    assert compared > COMPARED / 4
    wait_until_no_worker_is_left()


def by_hand(path: str) -> list[np.ndarray]:
    """Every frame (3, 32, 32) uint8, by PyAV, Pillow and timm only.

    Frames are kept until the end: FFmpeg hands out released pictures again as they are, and where a damaged
    stream leaves a hole, what was there before shows. One thread, as threads paint over holes in another way.
    """
    transform = create_transform(
        (3, 32, 32), is_training=False, use_prefetcher=True, interpolation="bilinear", crop_pct=1.0
    )
    frames: list[av.VideoFrame] = []
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert isinstance(stream, VideoStream)
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            if packet is None or packet.size:
                with suppress(av.FFmpegError):
                    frames.extend(stream.codec_context.decode(packet))
            if packet is None:
                pictures = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in frames]
                return [np.asarray(transform(Image.fromarray(picture))) for picture in pictures]


@dataclass
class Peaks:
    """Bytes of resident memory: the most any worker had, and by how much the parent's peak rose."""

    worker: int = 0
    parent_growth: int = 0
    seen: set[int] = field(default_factory=set)


@contextmanager
def memory_watched() -> Iterator[Peaks]:
    peaks, done, before = Peaks(), threading.Event(), peak_memory(os.getpid())

    def watch() -> None:
        while not done.wait(0.02):
            for worker in grandchildren():
                peaks.worker = max(peaks.worker, peak_memory(worker))
                peaks.seen.add(worker)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
    peaks.parent_growth = peak_memory(os.getpid()) - before
    assert len(peaks.seen) >= 2
    assert peaks.worker > 0


def peak_memory(process: int) -> int:
    """Peak resident bytes; 0 where the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def wait_until_no_worker_is_left() -> None:
    wait_for(lambda: not grandchildren(), seconds=10)
