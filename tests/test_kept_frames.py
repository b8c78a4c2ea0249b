"""Whatever a container says of its length, the frames are those of a full decode; no more than needed are kept."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harfeat import decode
from harfeat.decode import DecodeError, decode_clip, linear
from harfeat.sampling import uniform


def stating(monkeypatch: pytest.MonkeyPatch, frames: int) -> list[linear.Survey]:
    """Make every container state that many frames; the surveys that are made."""
    surveys: list[linear.Survey] = []
    read, survey = decode.read_head, linear.survey
    monkeypatch.setattr(decode, "read_head", lambda *args: replace(read(*args), stated_frames=frames))

    def noted(*args: Any, **options: Any) -> linear.Survey:
        surveys.append(survey(*args, **options))
        return surveys[-1]

    monkeypatch.setattr(linear, "survey", noted)
    return surveys


@pytest.mark.parametrize("clip", ["v_ApplyEyeMakeup_g01_c01", "RATRACE", "v_biking_01_01"])
@pytest.mark.parametrize("error", [0, 1, -1, 40, None])
def test_a_wrong_count_in_the_header_changes_no_frame(
    clip: str, error: int | None, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(path for path in (shared_data / "clips").rglob(f"*{clip}*") if path.is_file())
    every = decode_clip(path, np.arange)
    count = every.source_frames
    surveys = stating(monkeypatch, 0 if error is None else count + error)
    for frames in (7, 60):
        found = decode_clip(path, partial(uniform, frames=frames))
        np.testing.assert_array_equal(found.indices, uniform(count, frames))
        np.testing.assert_array_equal(found.frames, every.frames[found.indices])
    if error in (0, 1):
        assert len(surveys[0].frames) <= 2 * 7, "only what may be wanted is kept"
    if error is None:
        assert len(surveys[0].frames) == count


@pytest.mark.parametrize("stated", [10**5, 2**31 - 1])
def test_an_absurd_count_is_not_believed(stated: int, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next((shared_data / "clips").rglob("*ApplyEyeMakeup*.avi"))
    asked: list[int] = []

    def choose(count: int) -> np.ndarray:
        asked.append(count)
        if count > 1000:
            raise DecodeError("too many")
        return np.arange(count)

    stating(monkeypatch, stated)
    assert len(decode_clip(path, choose).frames) == 164
    assert max(asked) <= 10**5


def test_an_error_of_the_true_count_is_told(shared_data: Path) -> None:
    path = next((shared_data / "clips").rglob("*ApplyEyeMakeup*.avi"))

    def refuse(count: int) -> np.ndarray:
        raise DecodeError(f"not {count}")

    with pytest.raises(DecodeError, match="not 164"):
        decode_clip(path, refuse)
