"""A cache of frames as a network sees it: each row is what the network makes of a frame, computed once.

The rows of a run lie in files that are mapped to memory, so that they need not fit into it, and an interrupted
computation goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harfeat.cache import Cache, ClipFeatures
from harvib.errors import InputError
from harvib.recipes import of_frames

_FRAMES = 64
_SYNC_SECONDS = 20.0


def frame_size(cache: Cache, stream: str) -> tuple[int, int]:
    """Height and width of the frames of a stream. Raises InputError where its rows are something else."""
    size = cache.recipe.get("size")
    if not of_frames(cache.recipe) or not (isinstance(size, list | tuple) and len(size) == 2):
        raise InputError(
            f"{cache.path}: holds features, not frames; make a cache of frames by "
            "`harfeat extract --model pixels --size 224x224`"
        )
    width, height = (int(side) for side in size)
    if (cache.dim(stream), cache.dtype(stream)) != (height * width * 3, np.uint8):
        raise InputError(f"{cache.path}: {cache.dim(stream)} values a row are no frames of {width}x{height}")
    return height, width


@torch.inference_mode()
def seen_by(see: Callable[[Tensor], Tensor], images: np.ndarray, device: torch.device) -> Tensor:
    """(T, dim) on the CPU: what a network on `device` makes of images (T, 3, H, W) uint8."""
    # The same pieces whenever a clip is seen: sums of another order would round in another way.
    pieces = (torch.from_numpy(images[at : at + _FRAMES]) for at in range(0, len(images), _FRAMES))
    return torch.cat([see(piece.to(device)).cpu() for piece in pieces])


class SeenCache(Cache):
    """The clips of `frames`, with rows of `dim` values that `see` makes of images (T, 3, H, W) uint8, (T, dim).

    Rows are zero until `compute` has made them. They lie in `folder`, or in memory without one.
    """

    def __init__(
        self,
        frames: Cache,
        stream: str,
        see: Callable[[Tensor], Tensor],
        dim: int,
        dtype: type[np.floating[Any]],
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        self.path, self.version, self.fingerprint = frames.path, frames.version, frames.fingerprint
        self.recipe, self.provenance, self.classes = frames.recipe, frames.provenance, frames.classes
        self.clips, self.splits, self.failures = frames.clips, frames.splits, frames.failures
        self.streams, self.digests = frames.streams, frames.digests
        self._frames, self._see, self._size = frames, see, frame_size(frames, stream)
        self._dim, self._dtype, self._device, self._folder = dim, np.dtype(dtype), device, folder
        self._rows: dict[str, np.ndarray] = {}

    def compute(self, wanted: Mapping[str, np.ndarray]) -> None:
        """Make the rows of these clips (indices) of each stream. Raises InputError where they cannot be made."""
        bytes_needed = sum(self._bytes(stream) for stream in wanted)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            present = sum(file.stat().st_size for file in self._folder.glob("*.rows"))
            free = shutil.disk_usage(self._folder).free + present
            if free < bytes_needed:
                raise InputError(
                    f"{self._folder}: the maps of all frames take {bytes_needed / 1e9:.1f} GB and only "
                    f"{free / 1e9:.1f} GB are free: choose another --run-dir, or fewer frames a clip"
                )
        done = self._done(wanted)
        for stream in wanted:
            self._rows[stream] = self._opened(stream, fresh=done == 0)
        steps = [(stream, int(clip)) for stream, clips in wanted.items() for clip in clips]
        saved = time.monotonic()
        try:
            for stream, clip in tqdm(steps[done:], "backbone", len(steps), initial=done, unit="clip"):
                start, stop = self._span(stream, clip)
                self._rows[stream][start:stop] = self.rows_of(clip, stream)
                done += 1
                if time.monotonic() - saved > _SYNC_SECONDS:
                    self._save(done)
                    saved = time.monotonic()
        finally:
            self._save(done)

    def rows_of(self, clip: int, stream: str) -> np.ndarray:
        """What the network makes of a clip's frames, (T, dim), computed now."""
        height, width = self._size
        images = self._frames.read(clip, stream).features.reshape(-1, height, width, 3).transpose(0, 3, 1, 2)
        rows = seen_by(self._see, images, self._device).numpy().astype(self._dtype, copy=False)
        if not np.isfinite(rows).all():
            raise InputError(
                f"{self.path}: clip {self.clips[clip].name}: the backbone gives values beyond {self._dtype}: are "
                "these its weights?"
            )
        return rows

    def close(self) -> None:
        self._rows.clear()

    def dim(self, stream: str | None = None) -> int:
        return self._dim

    def dtype(self, stream: str | None = None) -> np.dtype[Any]:
        return self._dtype

    def lengths(self, stream: str | None = None) -> np.ndarray:
        return self._frames.lengths(stream)

    def clip_hashes(self, stream: str | None = None) -> np.ndarray:
        """Those of the frames."""
        return self._frames.clip_hashes(stream)

    def read(self, clip: int, stream: str | None = None) -> ClipFeatures:
        stream = stream or self.main_stream
        start, stop = self._span(stream, clip)
        return ClipFeatures(self._rows[stream][start:stop], np.arange(stop - start))

    def read_all(self, stream: str | None = None) -> np.ndarray:
        return self._rows[stream or self.main_stream]

    def _span(self, stream: str, clip: int) -> tuple[int, int]:
        ends = np.cumsum(self.lengths(stream))
        return int(ends[clip] - self.lengths(stream)[clip]), int(ends[clip])

    def _bytes(self, stream: str) -> int:
        return int(self.lengths(stream).sum()) * self._dim * self._dtype.itemsize

    def _opened(self, stream: str, fresh: bool) -> np.ndarray:
        shape = (int(self.lengths(stream).sum()), self._dim)
        if self._folder is None:
            return np.zeros(shape, self._dtype)
        return np.memmap(self._folder / f"{stream}.rows", self._dtype, "w+" if fresh else "r+", shape=shape)

    def _done(self, wanted: Mapping[str, np.ndarray]) -> int:
        """How many steps an earlier computation of the same rows has made."""
        if self._folder is None:
            return 0
        try:
            done = int(json.loads((self._folder / "done.json").read_text())["clips"])
            whole = all(
                (self._folder / f"{stream}.rows").stat().st_size == self._bytes(stream) for stream in wanted
            )
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return done if whole else 0

    def _save(self, done: int) -> None:
        for rows in self._rows.values():
            if isinstance(rows, np.memmap):
                rows.flush()
        if self._folder is not None:
            temporary = self._folder / ".done.json.part"
            temporary.write_text(json.dumps({"clips": done}))
            temporary.replace(self._folder / "done.json")
