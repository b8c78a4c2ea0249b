"""Work in progress: a folder that fills with shards until the cache is complete.

Nothing in it is ever half there: shards come in under their final name by a rename, then the manifest is replaced.
Whatever moment a run is killed at, the next one finds every shard that stands, and drops what does not match its
hash (its clips are simply done again).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harfeat.cache.digest import content_of, digests_of_head, digests_of_stream, sorted_failures
from harfeat.cache.fingerprint import differing_fields
from harfeat.cache.hashed_files import HEAD, SHARD, add_file, make_folder, write_shard
from harfeat.cache.manifest import MANIFEST, FileEntry, Manifest, read_manifest, write_manifest
from harfeat.cache.schema import CacheError, CacheHead, ClipFeatures, ClipRow, Failure, StreamLayout
from harfeat.cache.shards import Note, Shards
from harfeat.cache.single import FileCache
from harfeat.cache.writer import write_cache
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file

LOCK = "lock"
_PACKED = (".h5", ".hdf5")
"""Suffixes of packed files, in any case."""


def is_packed(out: Path) -> bool:
    """Whether `out` names one packed file, by its suffix, and not a folder of shards."""
    return out.suffix.lower() in _PACKED


def work_folder(out: Path) -> Path:
    """Where the shards of the cache `out` gather: `out` itself, or `out`.parts beside a packed file."""
    return out.with_name(out.name + ".parts") if is_packed(out) else out


class WorkFolder:
    """The folder in which the cache `out` grows; a packed `out` that is there already counts as one more shard.

    Attributes: path, done (rows of the clips that are there), failures (of earlier runs, by name), dropped (files
    that were found damaged and are to be replaced).
    """

    def __init__(self, out: Path, manifest: Manifest) -> None:
        """`manifest` states recipe, planned clips, slice and provenance; its files and failures are not used."""
        self.out, self.path = out, work_folder(out)
        self.failures: dict[str, Failure] = {}
        self.dropped: list[str] = []
        self._packed = out if is_packed(out) else None
        self._manifest = replace(manifest, files=(), failures=(), complete=False)
        self._before: FileCache | None = None  # the packed file, or the head, of an earlier run
        self._lock: FileLock | None = None
        self._shards = Shards()

    def open(self) -> None:
        """Take up what is there.

        Raises InputError where the folder cannot be written, where another process works on it, where it holds
        something else, and where what is there was made with another recipe, naming the differences.
        """
        self._take_lock()
        for leftover in self.path.glob(".*.part"):
            leftover.unlink()
        if self._packed is not None and self._packed.exists():
            self._before = FileCache(self._packed)
            self._require_recipe(self._before.recipe, self._packed)
            self._shards.add(self._packed)
            self._take_failures(self._before.failures)
        listed = self._listed()
        kept = [entry for entry in listed.files if self._take(entry)]
        self._take_failures(listed.failures)
        found = self._unlisted(kept)
        # Killed between a shard and the manifest: what failed before has been extracted since.
        self.retry(self._shards.rows.keys())
        self._update(files=(*kept, *found), complete=listed.complete and not self.dropped and not found)

    def add(self, entries: Iterable[FileEntry] = (), failures: Iterable[Failure] = ()) -> None:
        """List shards that `write_shard` has written into the folder, and clips that failed."""
        entries = tuple(entries)
        for entry in entries:
            self._shards.add(self.path / entry.name)
        self._take_failures(failures)
        if self._manifest.complete:
            self._drop_head()
        self._update(files=(*self._manifest.files, *entries))

    def adopt(self) -> set[str]:
        """List what workers wrote and did not live to report; the names of all clips that are there."""
        found = self._unlisted(self._manifest.files)
        self._update(files=(*self._manifest.files, *found), complete=self._manifest.complete and not found)
        return set(self._shards.rows)

    def retry(self, names: Iterable[str]) -> None:
        """Forget that these clips failed."""
        for name in names:
            self.failures.pop(name, None)

    def forget(self, names: Iterable[str]) -> None:
        """Remove what is stored of these clips: their shards are written again without them."""
        names = set(names)
        if not names:
            return
        touched = {path.name for path in self._shards.paths(names)}
        self._shards.forget(names)
        files = []
        for entry in self._manifest.files:
            files += [entry] if entry.name not in touched else self._rewritten(entry, names)
        self._update(files=tuple(files), complete=False)
        for name in touched - {entry.name for entry in files}:
            # A packed file stands until it is replaced as a whole.
            if self._packed is None or name != self._packed.name:
                (self.path / name).unlink()

    def drop(self, names: Iterable[str]) -> None:
        """Remove whole shards that tell something (see `notes`), by the names of their files, and their clips."""
        names = set(names)
        if not names:
            return
        if self._manifest.complete:
            self._drop_head()
        for path, note in list(self._shards.notes.items()):
            if path.name in names:
                self._shards.forget(note.names)
                del self._shards.notes[path]
        self._shards.close()
        self._update(files=tuple(e for e in self._manifest.files if e.name not in names), complete=False)
        for name in names:
            (self.path / name).unlink()

    @property
    def notes(self) -> dict[str, Note]:
        """What shards tell beside their clips, by the names of their files; without those that tell nothing."""
        return {path.name: note for path, note in self._shards.notes.items() if path.parent == self.path}

    @property
    def done(self) -> dict[str, ClipRow]:
        """The rows of the clips that are there, by name."""
        return self._shards.rows

    def finish(self, head: CacheHead, advance: Callable[[], object] = lambda: None) -> None:
        """Complete the cache: the clips of `head` in its order, with its labels, groups and splits.

        A packed file is written, of which `advance` hears clip by clip, and the folder removed; otherwise the
        folder gets its head. What holds all this already is left as it is.
        """
        rows = self._shards.rows
        clips = [
            replace(rows[clip.name], label=clip.label, labels=clip.labels, group=clip.group) for clip in head.clips
        ]
        head = replace(head, clips=clips, failures=sorted_failures(head.failures))
        names = [clip.name for clip in clips]
        layouts = self._shards.layouts(names)
        if not self._is_finished(head, names, layouts):
            if self._packed is not None:
                features = self._features(names, tuple(layouts), advance)
                # A file can be moved into its place on one file system only; the folder may be a link to another.
                near = self.path.stat().st_dev == self._packed.parent.stat().st_dev
                write_cache(self._packed, head, layouts, features, scratch=self.path if near else None)
            else:
                self._drop_head()
                entry = add_file(self.path, "head", head, {}, ())
                planned = (
                    len(clips) + len(head.failures) if self._manifest.planned is None else self._manifest.planned
                )
                self._update(files=(*self._manifest.files, entry), complete=True, planned=planned)
        self._close_files()
        if self._packed is not None:
            # First, and for good: a kill amid the removal must not look like damage.
            self._update(files=())
            self._remove_folder()
        else:
            self._remove_unlisted()

    def close(self) -> None:
        """Close all files, and let others work on the folder."""
        self._close_files()
        if self._lock is not None:
            # By what is on disk: a folder that was refused has not been looked into.
            if self.path.is_dir() and not any(self.path.glob("*.h5")):
                self._remove_folder()
            # While it is held: later it could be somebody else's.
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _take_lock(self) -> None:
        """Find out now, not after hours, whether `out` can be written, and by nobody else."""
        if self._packed is not None and self.out.is_dir():
            raise InputError(f"{self.out}: is a folder; name a file to write")
        if self._packed is None and self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: is a file but no .h5; name a packed file X.h5, or a folder for shards")
        self._refuse_foreign_folder()
        lock = FileLock(self.path / LOCK)
        try:
            make_folder(self.path)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.out}: another process extracts to it; wait, or choose another --out"
            ) from error
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written ({error.strerror})") from error
        self._lock = lock

    def _refuse_foreign_folder(self) -> None:
        known = (MANIFEST, LOCK)
        if self.path.is_dir() and not (self.path / MANIFEST).exists():
            for item in self.path.iterdir():
                if item.name not in known and not any(item.match(kind) for kind in (SHARD, HEAD, ".*.part")):
                    raise InputError(
                        f"{self.path}: is a folder that holds {item.name} and no {MANIFEST}: choose another --out"
                    )

    def _listed(self) -> Manifest:
        """The manifest of earlier runs."""
        if not (self.path / MANIFEST).exists():
            return self._manifest
        try:
            found = read_manifest(self.path)
        except CacheError as error:
            raise InputError(f"{error}; if you delete it, the shards beside it are taken up again") from error
        self._require_recipe(found.recipe, self.path)
        if found.slice != self._manifest.slice:
            raise InputError(
                f"{self.path}: holds slice {found.slice}, not {self._manifest.slice}: choose another --out"
            )
        return found

    def _require_recipe(self, recipe: Mapping[str, Any], path: Path) -> None:
        if difference := differing_fields(recipe, self._manifest.recipe):
            raise InputError(
                f"{path} was made otherwise ({'; '.join(difference)}): delete it, or choose another --out"
            )

    def _take(self, entry: FileEntry) -> bool:
        """Use a listed file if it is whole."""
        path = self.path / entry.name
        whole = path.is_file() and path.stat().st_size == entry.bytes and sha256_of_file(path) == entry.sha256
        if whole and entry.kind == "head":
            self._before = FileCache(path, head_only=True)
        elif whole:
            self._shards.add(path)
        else:
            self.dropped.append(entry.name)
            path.unlink(missing_ok=True)
        return whole

    def _unlisted(self, kept: Sequence[FileEntry]) -> list[FileEntry]:
        """Shards that a killed run, or a worker, wrote and nobody listed; nothing else stays unlisted."""
        listed = {entry.name for entry in kept}
        for path in self.path.glob(HEAD):
            if path.name not in listed:
                path.unlink()
        found = []
        for path in sorted(self.path.glob(SHARD)):
            if path.name in listed:
                continue
            digest = sha256_of_file(path)
            if digest.startswith(path.stem.removeprefix("shard-")):
                with FileCache(path) as cache:
                    names = [clip.name for clip in cache.clips]
                    self._require_recipe(cache.recipe, path)
                # A clip that is there already: this shard was being replaced when the run was killed. One that
                # is in the packed file may have been extracted anew.
                places = self._shards.paths(name for name in names if name in self._shards.rows)
                if places <= {self._packed}:
                    self._shards.add(path)
                    found.append(FileEntry(path.name, path.stat().st_size, digest, "shard", len(names)))
                    continue
            path.unlink()
        return found

    def _rewritten(self, entry: FileEntry, without: set[str]) -> list[FileEntry]:
        path = self.path / entry.name
        with FileCache(path) as cache:
            kept = [index for index, row in enumerate(cache.clips) if row.name not in without]
            if not kept:
                return []
            rows = [cache.clips[index] for index in kept]
            clips = [cache.read_streams(index) for index in kept]
            written = write_shard(self.path, cache.recipe, cache.classes, rows, clips)
        self._shards.add(self.path / written.name)
        return [written]

    def _remove_unlisted(self) -> None:
        """Shards of workers that were given up, whose clips others have done since."""
        listed = {entry.name for entry in self._manifest.files}
        for path in self.path.glob(SHARD):
            if path.name not in listed:
                path.unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        """Take away what this program put there, the lock last, so that nobody starts in between."""
        for pattern in (SHARD, HEAD, ".*.part", MANIFEST, LOCK):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody's file, or a link: it stays
            self.path.rmdir()

    def _features(
        self, names: Sequence[str], streams: Sequence[str], advance: Callable[[], object]
    ) -> Iterator[dict[str, ClipFeatures]]:
        for name in names:
            yield {stream: self._shards.read(name, stream) for stream in streams}
            advance()

    def _drop_head(self) -> None:
        """A head tells of a state that is past; it goes once the manifest does not list it."""
        heads = self._manifest.of_kind("head")
        self._update(files=tuple(entry for entry in self._manifest.files if entry.kind != "head"), complete=False)
        for entry in heads:
            (self.path / entry.name).unlink(missing_ok=True)

    def _take_failures(self, failures: Iterable[Failure]) -> None:
        self.failures |= {failure.name: failure for failure in failures}

    def _update(self, **changes: Any) -> None:
        failures = tuple(sorted_failures(list(self.failures.values())))
        manifest = replace(self._manifest, failures=failures, **changes)
        write_manifest(self.path, manifest)
        self._manifest = manifest  # once it stands: whoever tries again would list its files twice

    def _close_files(self) -> None:
        self._shards.close()
        if self._before is not None:
            self._before.close()

    def _is_finished(self, head: CacheHead, names: Sequence[str], layouts: Mapping[str, StreamLayout]) -> bool:
        """Whether the packed file, or the folder with its head, is just what `finish` would write."""
        if self._before is None:
            return False
        digests = digests_of_head(head)
        before = dict(self._before.digests)
        if self._packed is not None:
            for stream, layout in layouts.items():
                table = self._shards.hashes(names, stream)
                digests |= digests_of_stream(stream, layout.dim, layout.dtype, layout.lengths, table)
        elif not self._manifest.complete:
            return False
        return content_of(digests) == content_of(before)
