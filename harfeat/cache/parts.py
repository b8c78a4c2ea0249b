"""Work in progress: a folder of small, complete cache files, from which the one cache is packed at the end.

Each part is written atomically and never changed. A part made with another recipe is refused, one that does not
open is ignored (its clips are simply done again).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache.fingerprint import differing_fields, fingerprint
from harfeat.cache.reader import Cache, open_cache
from harfeat.cache.schema import CacheError, ClipFeatures, ClipRow
from harfeat.cache.writer import CacheHead, write_cache
from harfeat.errors import InputError


class Parts:
    """The parts of the cache `out`, in the folder `out`.parts beside it; a finished `out` counts as one."""

    def __init__(self, out: Path, recipe: Mapping[str, Any], dtype: np.dtype[Any]) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".parts")
        self._recipe, self._dtype = recipe, dtype
        self._caches: list[Cache] = []
        self._where: dict[str, tuple[Cache, int]] = {}

    def open(self) -> dict[str, ClipRow]:
        """Open what is there; the rows done so far by clip name.

        Raises InputError where `out` or a part was made with another recipe, naming the first difference.
        """
        if self.out.exists():
            self._take(open_cache(self.out))
        for path in sorted(self.folder.glob("part-*.h5")):
            try:
                cache = open_cache(path)
            except CacheError:
                path.unlink()
                continue
            self._take(cache)
        return {name: cache.clips[index] for name, (cache, index) in self._where.items()}

    def forget(self, names: Iterable[str]) -> None:
        """Do not use what is stored of these clips."""
        for name in names:
            del self._where[name]

    def add(self, classes: Sequence[str], rows: Sequence[ClipRow], clips: Sequence[ClipFeatures]) -> None:
        """Write one more part."""
        numbers = (int(path.stem.split("-")[1]) for path in self.folder.glob("part-*.h5"))
        path = self.folder / f"part-{max(numbers, default=-1) + 1:06d}.h5"
        head = CacheHead(self._recipe, classes, rows)
        lengths = [len(clip.frame_index) for clip in clips]
        write_cache(path, head, lengths, iter(clips), clips[0].features.shape[1], self._dtype)
        self._take(open_cache(path))

    def pack(self, head: CacheHead, dim: int) -> None:
        """Write `out` from the parts: the clips of `head`, in its order, labels as in `head`; then remove them."""
        sources = [self._where[clip.name] for clip in head.clips]
        stored = (cache.clips[index] for cache, index in sources)
        rows = [
            replace(row, label=clip.label, group=clip.group) for row, clip in zip(stored, head.clips, strict=True)
        ]
        lengths = [int(cache.lengths()[index]) for cache, index in sources]
        write_cache(self.out, replace(head, clips=rows), lengths, self._features(sources), dim, self._dtype)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close all parts."""
        for cache in self._caches:
            cache.close()
        self._caches.clear()
        self._where.clear()

    def _take(self, cache: Cache) -> None:
        if cache.fingerprint != fingerprint(self._recipe):
            cache.close()
            difference = "; ".join(differing_fields(cache.recipe, self._recipe)) or "the recipe"
            raise InputError(f"{cache.path} was made otherwise ({difference}): delete it, or choose another --out")
        self._caches.append(cache)
        self._where |= {clip.name: (cache, index) for index, clip in enumerate(cache.clips)}

    @staticmethod
    def _features(sources: Sequence[tuple[Cache, int]]) -> Iterator[ClipFeatures]:
        for cache, index in sources:
            yield cache.read(index)
