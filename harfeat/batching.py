"""Frames of many clips through the model in full batches, and features back by clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np

Key = TypeVar("Key")


class Pending(Protocol):
    """Features that are being computed elsewhere, as a `concurrent.futures.Future` of them."""

    def done(self) -> bool: ...

    def cancel(self) -> bool: ...

    def result(self) -> np.ndarray: ...


Model = Callable[[np.ndarray], np.ndarray | Pending]


class ClipBatcher(Generic[Key]):
    """Cuts the frames of clips into batches of exactly `batch`, across clips; only the last may be shorter.

    `model` maps (B, ...) pixels to (B, D) features, or to what will have them; of these, up to `ahead` are under
    way at once. Clips come back in the order they were added.
    """

    def __init__(self, model: Model, batch: int, ahead: int = 0) -> None:
        self._model, self._batch, self._ahead = model, batch, ahead
        self._pixels: deque[np.ndarray] = deque()
        self._waiting = 0
        self._running: deque[Pending] = deque()
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
        self._collect(self._ahead)
        yield from self._finished()

    def flush(self) -> Iterator[tuple[Key, np.ndarray]]:
        """Run what is left; the clips that were still open."""
        if self._waiting:
            self._run(self._waiting)
        self._collect(0)
        yield from self._finished()

    def close(self) -> None:
        """Begin nothing more: the features of clips that did not come back are not wanted."""
        for answer in self._running:
            answer.cancel()
        self._running.clear()

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
        answer = self._model(taken[0] if len(taken) == 1 else np.concatenate(taken))
        if isinstance(answer, np.ndarray):
            self._take(answer)
        else:
            self._running.append(answer)
            self._collect(self._ahead)

    def _collect(self, under_way: int) -> None:
        """Take in what is done, and wait until at most `under_way` batches are not."""
        while self._running and (len(self._running) > under_way or self._running[0].done()):
            self._take(self._running.popleft().result())

    def _take(self, features: np.ndarray) -> None:
        self._features.append(features)
        self._ready += len(features)

    def _finished(self) -> Iterator[tuple[Key, np.ndarray]]:
        while self._open and self._open[0][1] <= self._ready:
            key, length = self._open.popleft()
            merged = np.concatenate(list(self._features)) if len(self._features) > 1 else self._features[0]
            self._features.clear()
            if len(merged) > length:
                self._features.append(merged[length:])
            self._ready -= length
            yield key, merged[:length]
