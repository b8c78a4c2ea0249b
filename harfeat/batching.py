"""Frames of many clips through the model in full batches, and features back by clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key")


class ClipBatcher(Generic[Key]):
    """Cuts the frames of clips into batches of exactly `batch`, across clips; only the last may be shorter.

    `model` maps (B, ...) pixels to (B, D) features. Clips come back in the order they were added.
    """

    def __init__(self, model: Callable[[np.ndarray], np.ndarray], batch: int) -> None:
        self._model, self._batch = model, batch
        self._pixels: deque[np.ndarray] = deque()
        self._waiting = 0
        self._features: deque[np.ndarray] = deque()
        self._ready = 0
        self._open: deque[tuple[Key, int]] = deque()

    def add(self, key: Key, pixels: np.ndarray) -> Iterator[tuple[Key, np.ndarray]]:
        """Take in a clip, (T, ...); the clips that are finished by now, with their (T, D) features."""
        self._open.append((key, len(pixels)))
        self._pixels.append(pixels)
        self._waiting += len(pixels)
        while self._waiting >= self._batch:
            self._run(self._batch)
        yield from self._finished()

    def flush(self) -> Iterator[tuple[Key, np.ndarray]]:
        """Run what is left; the clips that were still open."""
        if self._waiting:
            self._run(self._waiting)
        yield from self._finished()

    def _run(self, count: int) -> None:
        taken: list[np.ndarray] = []
        missing = count
        while missing:
            block = self._pixels.popleft()
            taken.append(block[:missing])
            if len(block) > missing:
                self._pixels.appendleft(block[missing:])
            missing -= len(taken[-1])
        self._waiting -= count
        self._features.append(self._model(np.concatenate(taken)))
        self._ready += count

    def _finished(self) -> Iterator[tuple[Key, np.ndarray]]:
        while self._open and self._open[0][1] <= self._ready:
            key, length = self._open.popleft()
            merged = np.concatenate(list(self._features)) if len(self._features) > 1 else self._features[0]
            self._features.clear()
            if len(merged) > length:
                self._features.append(merged[length:])
            self._ready -= length
            yield key, merged[:length]
