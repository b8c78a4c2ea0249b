"""Whoever reads what and when, the clips and failures are those of one reader who goes from first to last."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from harfeat.cache import Failure
from harfeat.ledger import Ledger
from harfeat.stretches import Done, Stretch, Task

BAD, UNWANTED = "bad", "unwanted"
"""Records that fail, and that are passed over; every other text is a video's id."""

Files = list[list[str]]


def naive(files: Files, most: int) -> tuple[list[tuple[int, str]], list[str]]:
    """Clips by file and name, and the names of failures, up to the last clip that is wanted."""
    clips: list[tuple[int, str]] = []
    failures: list[str] = []
    for number, records in enumerate(files):
        for place, record in enumerate(records):
            if most and len(clips) == most:
                return clips, failures
            if record == BAD or record in {name for _, name in clips}:
                failures.append(f"{number}@{place}")
            elif record != UNWANTED:
                clips.append((number, record))
    return clips, failures


def read(task: Task, records: list[str], length: int) -> Done:
    """A stretch of at most `length` records; a record is a byte long."""
    file, names, failures, end, taken = task.path.name, [], [], task.start, task.start
    for place in range(task.start, len(records)):
        record, end = records[place], place + 1
        if record == BAD or record in names or record in task.taken:
            failures.append(Failure(f"{file}@{place}", "why"))
        elif record != UNWANTED:
            names.append(record)
            taken = end
        if end == task.until or len(names) == task.most or end - task.start == length:
            break
    last = end >= len(records)
    stretch = Stretch(file, (0, 0), task.start, end, last, task.start, end - task.start, 0, taken)
    return Done(stretch, f"{file}-{task.start}-{end}", tuple(names), tuple(failures))


@settings(max_examples=300, deadline=None)
@given(
    files=st.lists(st.lists(st.sampled_from([BAD, UNWANTED, *"abcdefgh"]), max_size=7), min_size=1, max_size=4),
    most=st.integers(0, 6),
    workers=st.integers(1, 4),
    seed=st.integers(0, 1000),
    resumed=st.booleans(),
)
@example(
    files=[["bad", "bad", "b", "bad"], ["bad", "a", "b", "a"], [], []], most=0, workers=2, seed=17, resumed=False
)
def test_any_order_of_reading_ends_alike(files: Files, most: int, workers: int, seed: int, resumed: bool) -> None:
    chance = random.Random(seed)
    paths = [Path(str(number)) for number in range(len(files))]
    ledger = Ledger(paths, most)
    flying: list[Task] = []
    for _ in range(1000):
        while len(flying) < workers and (task := ledger.next_task([one.path for one in flying])) is not None:
            flying.append(task)
        if flying:
            task = flying.pop(chance.randrange(len(flying)))
            ledger.add(read(task, files[int(task.path.name)], chance.randint(1, 4)))
        elif surplus := ledger.surplus():
            ledger.drop(surplus)
        else:
            break
        if resumed and chance.random() < 0.1:  # a new process finds what is written
            before, flying = ledger, []
            ledger = Ledger(paths, most)
            assert [ledger.add(done) for done in before.in_order()] == [[] for _ in before.in_order()]
    else:
        raise AssertionError("it does not end")
    clips, failures = naive(files, most)
    assert [(int(done.stretch.file), name) for done in ledger.in_order() for name in done.names] == clips
    assert [failure.name for failure in ledger.failures()] == failures
    assert ledger.clips == len(clips)
    if not most:
        assert ledger.bytes == sum(map(len, files))


def test_a_failed_video_lends_its_name_to_nobody_else() -> None:
    """Its own name where it is free, else with the place."""
    ledger = Ledger([Path("a"), Path("b")])
    whole: dict[str, Any] = {"stamp": (0, 0), "last": True, "record": 0, "records": 2, "lost": 0, "taken": 0}
    no_frames = [
        Failure("x", f"{file}, record {n}, byte 0: it holds no features") for file, n in (("a", 0), ("a", 1))
    ]
    ledger.add(
        Done(Stretch(file="a", start=0, end=2, **whole), "s1", (), (*no_frames, Failure("y", "a, record 2: z")))
    )
    ledger.add(Done(Stretch(file="b", start=0, end=2, **whole), "s2", ("y",), ()))
    assert [failure.name for failure in ledger.failures()] == ["x", "x (a, record 1, byte 0)", "y (a, record 2)"]
