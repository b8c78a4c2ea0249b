"""Which features a run reads: a cache, one stream of it, and which of its clips in which order.

On the command line a stream of a cache that holds several is named behind the file: `both.h5::flow`. Several of
them joined by `+` are one stream, whose rows stand side by side: `yt8m.h5::rgb+audio`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harfeat.cache import VIEW, Cache, open_cache
from harvib.errors import InputError
from harvib.joined import MARK, joined

_MARK = "::"


@dataclass(frozen=True)
class Source:
    """A stream of a cache; empty: the only one it has. `names` are the clips to use, in their order; None: all."""

    path: Path
    stream: str = ""
    names: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """A short name for folders: the file's without its ending, and the stream where one was named."""
        return f"{self.path.stem}-{self.stream}" if self.stream else self.path.stem

    def __str__(self) -> str:
        return f"{self.path}{_MARK}{self.stream}" if self.stream else str(self.path)


def source_of(given: Path | Source) -> Source:
    """A source as the user named it: FILE, or FILE::STREAM."""
    if isinstance(given, Source):
        return given
    file, mark, stream = str(given).rpartition(_MARK)
    if not mark or given.exists():
        return Source(given)
    if not file or not stream:
        raise InputError(f"--features {given}: name a stream of a cache as FILE{_MARK}STREAM")
    return Source(Path(file), stream)


@contextmanager
def opened(source: Source, expected: str = "") -> Iterator[tuple[Cache, str]]:
    """The open cache and the name of the stream; where the user named none, `expected` if the cache has it.

    Raises InputError and CacheError.
    """
    with open_cache(source.path) as cache:
        default = expected if holds(cache, expected) else ""
        named = source.stream or default
        found = joined(cache, named)
        yield found, main_stream(found, named)


def holds(cache: Cache, stream: str) -> bool:
    """Whether a cache has this stream, or all those that are joined in it."""
    return stream in cache.streams or set(stream.split(MARK)) <= set(cache.streams)


def main_stream(cache: Cache, named: str = "") -> str:
    """The stream of this name, or the only one that is no view of another.

    Raises CacheError where there is no such stream, InputError where several could be meant.
    """
    if named:
        cache.require_stream(named)
        return named
    streams = [stream for stream in cache.streams if not VIEW.fullmatch(stream)]
    if len(streams) != 1:
        raise InputError(
            f"{cache.path} holds the streams {', '.join(streams or cache.streams)}: say which one, as in "
            f"{cache.path}{_MARK}{(streams or cache.streams)[-1]}"
            + (f", or {cache.path}{_MARK}{MARK.join(streams)} for all side by side" if len(streams) > 1 else "")
        )
    return streams[0]


def require_complete(cache: Cache, allow_missing: bool) -> None:
    """Raise InputError where the cache lacks clips of its data set and nobody has said that this is fine."""
    if cache.failures and not allow_missing:
        first = cache.failures[0]
        raise InputError(
            f"{cache.path} lacks {len(cache.failures)} clips (first: {first.name}: {first.reason}); extract them, "
            "or say --allow-missing"
        )


def places_of(cache: Cache, names: Sequence[str] | None) -> np.ndarray:
    """(V,) int64 indices of these clips in the cache, in their order; all of them without names."""
    if names is None:
        return np.arange(len(cache.clips))
    places = {clip.name: place for place, clip in enumerate(cache.clips)}
    absent = next((name for name in names if name not in places), None)
    if absent is not None:
        raise InputError(f"{cache.path}: there is no clip {absent}")
    return np.array([places[name] for name in names], np.int64)
