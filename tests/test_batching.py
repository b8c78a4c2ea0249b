"""Frames of many clips through full batches."""

from __future__ import annotations

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
