"""Frames of many clips through full batches."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import closing
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harfeat.batching import ClipBatcher


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 8))
def test_every_clip_gets_its_own_frames_and_only_the_last_batch_is_short(lengths: list[int], batch: int) -> None:
    sizes: list[int] = []

    def model(pixels: np.ndarray) -> np.ndarray:
        sizes.append(len(pixels))
        return np.stack([pixels[:, 0] * 2, pixels[:, 1] + 1], axis=1)

    clips = [np.array([[clip, frame] for frame in range(length)]) for clip, length in enumerate(lengths)]
    batcher: ClipBatcher[str] = ClipBatcher(model, batch)
    results: list[tuple[str, np.ndarray]] = []
    for clip, pixels in enumerate(clips):
        results += batcher.add(f"clip {clip}", pixels)
        complete = int((np.cumsum(lengths) <= sum(sizes)).sum())
        assert len(results) == complete  # what is finished is not held back
    results += batcher.flush()
    assert [key for key, _ in results] == [f"clip {clip}" for clip in range(len(lengths))]
    for clip, (_, values) in enumerate(results):
        expected = [[clip * 2, frame + 1] for frame in range(lengths[clip])]
        np.testing.assert_array_equal(values, expected)
    assert sizes[:-1] == [batch] * len(sizes[:-1])
    assert sum(sizes) == sum(lengths)
    assert all(size <= batch for size in sizes)


@given(
    st.lists(st.integers(1, 9), max_size=12),
    st.integers(1, 8),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_batches_that_finish_in_any_order_give_the_same_and_are_few_at_once(
    lengths: list[int], batch: int, ahead: int, random: Random
) -> None:
    running: list[tuple[Running, np.ndarray]] = []

    class Running(Future[np.ndarray]):
        """Done some time after others were handed in; who waits for it makes it done."""

        def result(self, timeout: float | None = None) -> np.ndarray:
            for entry in [entry for entry in running if entry[0] is self]:
                finish(entry)
            return super().result(timeout)

    def finish(entry: tuple[Running, np.ndarray]) -> None:
        running.remove(entry)
        entry[0].set_result(entry[1][:, None] * 2)

    def model(pixels: np.ndarray) -> Running:
        while running and random.random() < 0.4:
            finish(random.choice(running))
        running.append((Running(), pixels))
        assert len(running) <= ahead + 1
        return running[-1][0]

    clips = [np.arange(length) + 100 * number for number, length in enumerate(lengths)]
    batcher: ClipBatcher[int] = ClipBatcher(model, batch, ahead)
    results = [found for key, pixels in enumerate(clips) for found in batcher.add(key, pixels)]
    results += batcher.flush()
    assert [key for key, _ in results] == list(range(len(clips)))
    for (_, values), clip in zip(results, clips, strict=True):
        np.testing.assert_array_equal(values, clip[:, None] * 2)
    assert not running


def test_a_closed_batcher_begins_nothing_more() -> None:
    running: list[Future[np.ndarray]] = []

    def model(pixels: np.ndarray) -> Future[np.ndarray]:
        running.append(Future())
        return running[-1]

    with closing(ClipBatcher[str](model, 2, ahead=3)) as batcher:
        assert not list(batcher.add("clip", np.zeros((6, 1))))
        running[0].set_running_or_notify_cancel()
    assert [answer.cancelled() for answer in running] == [False, True, True]
