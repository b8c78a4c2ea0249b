"""What is done of many files of records, and what is still to be read: no files are touched here.

The order of files is that of their names, the order of clips that of files and records, whoever reads what when.
A video that stands twice belongs to the place that comes first; the other counts as a failure. With `most` clips
asked for, it is the first so many in this order, and what failed before the last of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harfeat.cache import Failure
from harfeat.stretches import Done, Stretch, Task, gaps

_Place = tuple[int, int]
"""Number of the file, first byte of the stretch."""


class Ledger:
    """Grows with `add` until `next_task` has nothing more. Memory: one entry a clip, one a stretch."""

    def __init__(self, files: Sequence[Path], most: int = 0) -> None:
        """`files` in their order, of different names; `most` clips are wanted, 0: all."""
        self._files, self._most = tuple(files), most
        self._number = {path.name: number for number, path in enumerate(self._files)}
        self._done: list[dict[int, Done]] = [{} for _ in self._files]
        self._unread = list(range(len(self._files)))
        self._owner: dict[str, _Place] = {}
        self._twice: list[set[str]] = [set() for _ in self._files]  # videos that stand elsewhere too

    @property
    def bytes(self) -> int:
        """Bytes of the files that are read."""
        return sum(one.stretch.end - one.stretch.start for one in self.in_order())

    @property
    def clips(self) -> int:
        """Clips that were taken."""
        return len(self._owner)

    def in_order(self) -> Iterator[Done]:
        """All stretches that are done."""
        for stretches in self._done:
            yield from (stretches[start] for start in sorted(stretches))

    def add(self, done: Done) -> list[Done]:
        """Take note of a stretch; those that are to be given up and read again, for they hold videos of others.

        The stretch itself may be among them: then nothing has been noted but whose the videos are.
        """
        place = self._place(done.stretch)
        first = {name for name in done.names if self._owner.get(name, place) < place}
        if first:
            self._twice[place[0]] |= first
            self._open(place[0])
            return [done]
        losers = {self._owner[name] for name in done.names if name in self._owner}
        found = [self._done[number][start] for number, start in sorted(losers)]
        own = set(done.names)
        for loser, (number, _) in zip(found, sorted(losers), strict=True):
            self._twice[number] |= own.intersection(loser.names)
        self.drop(found)
        # The rest is needed once more only where it is of an earlier run, by the name of its shard.
        self._done[place[0]][place[1]] = replace(done, entry=None)
        self._owner |= dict.fromkeys(done.names, place)
        if not any(True for _ in self._gaps(place[0])) and place[0] in self._unread:
            self._unread.remove(place[0])
        return found

    def drop(self, given_up: Iterable[Done]) -> None:
        """Forget stretches: they are to be read again."""
        for done in given_up:
            number, start = self._place(done.stretch)
            del self._done[number][start]
            for name in done.names:
                del self._owner[name]
            self._open(number)

    def next_task(self, busy: Collection[Path]) -> Task | None:
        """What is to be read next, of files nobody reads; None where there is nothing."""
        for number in self._unread:
            path = self._files[number]
            if path in busy:
                continue
            for task in self._gaps(number):
                before = self._clips_before((number, task.start)) if self._most else 0
                if self._most and before >= self._most:
                    return None
                taken = {
                    name: self._files[owner[0]].name
                    for name in self._twice[number]
                    if (owner := self._owner.get(name)) is not None and owner < (number, task.start)
                }
                return replace(task, taken=taken, most=self._most - before if self._most else None)
        return None

    def surplus(self) -> list[Done]:
        """Stretches beyond the last clip that is wanted, and the one that holds it if it goes on behind it."""
        if not self._most:
            return []
        found, count, full = [], 0, False
        for done in self.in_order():
            if full:
                found.append(done)
                continue
            count += len(done.names)
            full = count >= self._most
            if full and (count > self._most or done.stretch.taken != done.stretch.end):
                found.append(done)
        return found

    def failures(self) -> list[Failure]:
        """All of them, each under a name of its own: a video's only where no clip and no failure before has it."""
        names = set(self._owner)
        found = []
        for done in self.in_order():
            for failure in sorted(done.failures, key=lambda one: one.name):
                name = failure.name
                if name in names:
                    name = f"{name} ({failure.reason.partition(': ')[0]})"
                names.add(name)
                found.append(replace(failure, name=name))
        return found

    def _gaps(self, number: int) -> Iterator[Task]:
        return gaps(self._files[number], (done.stretch for done in self._done[number].values()))

    def _place(self, stretch: Stretch) -> _Place:
        return self._number[stretch.file], stretch.start

    def _open(self, number: int) -> None:
        if number not in self._unread:
            self._unread = sorted([*self._unread, number])

    def _clips_before(self, place: _Place) -> int:
        found = sum(len(done.names) for stretches in self._done[: place[0]] for done in stretches.values())
        return found + sum(len(done.names) for start, done in self._done[place[0]].items() if start < place[1])
