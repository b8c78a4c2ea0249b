"""Work in progress: a folder of small, complete cache files, from which the one cache is packed at the end.

Each part is written atomically and never changed. A part made with another recipe is refused, one that does not
open is ignored (its clips are simply done again).
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from harfeat.cache.fingerprint import differing_fields, fingerprint
from harfeat.cache.reader import Cache, open_cache
from harfeat.cache.schema import CacheError, ClipFeatures, ClipRow
from harfeat.cache.writer import CacheHead, write_cache
from harfeat.errors import InputError
from harfeat.splits import Split

_PARTS = "part-" + "[0-9]" * 6 + ".h5"
_OPEN_AT_ONCE = 16


@dataclass(frozen=True)
class _Place:
    path: Path
    index: int
    row: ClipRow
    length: int


class Parts:
    """The parts of the cache `out`, in the folder `out`.parts beside it; a finished `out` counts as one."""

    def __init__(self, out: Path, recipe: Mapping[str, Any], dtype: np.dtype[Any]) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".parts")
        self._recipe, self._dtype = recipe, dtype
        self._lock: FileLock | None = None
        self._where: dict[str, _Place] = {}
        # A long run has more parts than a process may have open files.
        self._opened: OrderedDict[Path, Cache] = OrderedDict()

    def open(self) -> dict[str, ClipRow]:
        """Open what is there; the rows done so far by clip name.

        Raises InputError where `out` cannot be written, where another process works on it, and where it or a
        part was made with another recipe, naming the differences.
        """
        self._take_lock()
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink()
        if self.out.exists():
            self._take(self.out)
        for path in sorted(self.folder.glob(_PARTS)):
            try:
                self._take(path)
            except CacheError:
                path.unlink()
        return {name: place.row for name, place in self._where.items()}

    def forget(self, names: Iterable[str]) -> None:
        """Do not use what is stored of these clips."""
        for name in names:
            del self._where[name]

    def add(self, classes: Sequence[str], rows: Sequence[ClipRow], clips: Sequence[ClipFeatures]) -> None:
        """Write one more part."""
        numbers = (int(path.stem.split("-")[1]) for path in self.folder.glob(_PARTS))
        path = self.folder / f"part-{max(numbers, default=-1) + 1:06d}.h5"
        head = CacheHead(self._recipe, classes, rows)
        lengths = [len(clip.frame_index) for clip in clips]
        write_cache(path, head, lengths, iter(clips), clips[0].features.shape[1], self._dtype)
        self._take(path)

    def pack(self, head: CacheHead, dim: int) -> None:
        """Write `out` from the parts: the clips of `head`, in its order, labels as in `head`; then remove them.

        An `out` that holds all this already is left as it is.
        """
        places = [self._where[clip.name] for clip in head.clips]
        rows = [
            replace(place.row, label=clip.label, group=clip.group)
            for place, clip in zip(places, head.clips, strict=True)
        ]
        if not self._is_packed(replace(head, clips=rows), places):
            lengths = [place.length for place in places]
            features = (self._cache(place.path).read(place.index) for place in places)
            write_cache(
                self.out, replace(head, clips=rows), lengths, features, dim, self._dtype, scratch=self.folder
            )
        self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close all parts, and let others work on them."""
        self._close_files()
        self._where.clear()
        if self._lock is not None:
            if self.folder.is_dir() and not any(self.folder.glob(_PARTS)):
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()
            self._lock = None

    def _take_lock(self) -> None:
        """Find out now, not after hours, whether `out` can be written, and by nobody else."""
        if self.out.is_dir():
            raise InputError(f"{self.out}: is a folder; name a file to write")
        lock = FileLock(self.folder / "lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.out}: another process extracts to it; wait, or choose another --out"
            ) from error
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written ({error.strerror})") from error
        self._lock = lock

    def _take(self, path: Path) -> None:
        cache = self._cache(path)
        if cache.fingerprint != fingerprint(self._recipe):
            difference = "; ".join(differing_fields(cache.recipe, self._recipe)) or "the recipe"
            raise InputError(f"{path} was made otherwise ({difference}): delete it, or choose another --out")
        lengths = cache.lengths().tolist()
        for index, (row, length) in enumerate(zip(cache.clips, lengths, strict=True)):
            self._where[row.name] = _Place(path, index, row, length)

    def _cache(self, path: Path) -> Cache:
        if path in self._opened:
            self._opened.move_to_end(path)
            return self._opened[path]
        while len(self._opened) >= _OPEN_AT_ONCE:
            self._opened.popitem(last=False)[1].close()
        self._opened[path] = open_cache(path)
        return self._opened[path]

    def _close_files(self) -> None:
        for cache in self._opened.values():
            cache.close()
        self._opened.clear()

    def _is_packed(self, head: CacheHead, places: Sequence[_Place]) -> bool:
        """Whether `out` holds these clips, splits and failures; the order of failures does not matter."""
        if not places or any(place.path != self.out for place in places):
            return False
        cache = self._cache(self.out)
        return (
            [place.index for place in places] == list(range(len(cache.clips)))
            and [(row.label, row.group) for row in head.clips] == [(row.label, row.group) for row in cache.clips]
            and tuple(head.classes) == cache.classes
            and set(head.failures) == set(cache.failures)
            and sorted(map(_split_key, head.splits)) == sorted(map(_split_key, cache.splits.values()))
        )


def _split_key(split: Split) -> tuple[str, str, int, bytes]:
    seed = -1 if split.seed is None else split.seed
    return split.name, split.rule, seed, np.asarray(split.roles, np.int8).tobytes()
