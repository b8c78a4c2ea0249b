"""Mutants of cache files, and what opening each of them gives. Run as a program, so that a crash shows as one.

    python cache_mutants.py KIND FOLDER [FIRST LAST]

prints one JSON line a mutant: its name, and "equal", "different" (wrong data accepted) or the CacheError's text.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harfeat.cache import Cache, CacheError, CacheHead, ClipFeatures, ClipRow, Failure, guard, open_cache
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest
from harfeat.cache.packing import pack
from harfeat.cache.plain import checksum
from harfeat.splits import fixed_split

RECIPE: dict[str, Any] = {"kind": "video", "sampling": {"frames": 4}, "dtype": "float16"}
GROUPS = ("g1", "g2", "g1", "g3")
TEXT_COLUMNS = ("clips/name", "clips/group", "clips/sha256", "classes", "failures/name", "failures/reason")
NUMBER_COLUMNS = (
    *("clips/label", "clips/source_frames", "clips/fps", "splits/1", "streams/rgb/features"),
    *("streams/rgb/offsets", "streams/rgb/frame_index", "streams/rgb/sha256"),
)
LABEL_COLUMNS = ("labels/offsets", "labels/index", "clips/label")
HEAD_ATTRIBUTES = ("format", "version", "fingerprint", "provenance", "digests")


def make_folder(folder: Path, seed: int = 0, several: bool = False) -> Path:
    """A complete folder of two shards and a head; some clips may have several labels, and one none."""
    rng = np.random.default_rng(seed)
    rows = [ClipRow(f"run/é{i}.avi", i % 2, GROUPS[i], 9 + i, 25.0 + i, f"{i}{seed}" * 4) for i in range(4)]
    if several:
        rows[1:3] = [replace(rows[1], label=-1, labels=(0, 1)), replace(rows[2], label=-1)]
    work = WorkFolder(folder, Manifest(RECIPE, 4))
    work.open()
    for first in (0, 2):
        clips = [
            {"rgb": ClipFeatures(rng.normal(size=(3 + i, 6)).astype(np.float16), np.arange(3 + i))}
            for i in range(2)
        ]
        work.add([write_shard(work.path, RECIPE, ("run", "sit"), rows[first : first + 2], clips)])
    split = fixed_split("1", [1, 2, 1, 2], GROUPS, "by hand")
    failures = (Failure("run/x.avi", "empty"), Failure("sit/y.avi", "no video"))
    work.finish(CacheHead(RECIPE, ("run", "sit"), rows, (split,), failures, {"notes": ["one"]}))
    work.close()
    return folder


def held(cache: Cache) -> tuple[Any, ...]:
    """Everything that a reader can get out of a cache, fit to be compared."""
    clips = [cache.read(index, stream) for stream in cache.streams for index in range(len(cache.clips))]
    splits = [(s.name, s.roles.tolist(), s.rule, s.seed, s.leaking_groups) for s in cache.splits.values()]
    return (
        *(cache.content, cache.fingerprint, dict(cache.recipe), cache.classes, repr(cache.clips), splits),
        [values.tobytes() for values in cache.label_sets],
        *(cache.failures, dict(cache.provenance), cache.streams, dict(cache.digests)),
        [(c.features.dtype.str, c.features.shape, c.features.tobytes(), c.frame_index.tobytes()) for c in clips],
        [cache.read_all(stream).tobytes() for stream in cache.streams],
    )


def outcome(path: Path, wanted: tuple[Any, ...]) -> str:
    """What opening and reading all of `path` gives."""
    try:
        with open_cache(path) as cache:
            return "equal" if held(cache) == wanted else "different"
    except CacheError as error:
        return str(error)


# Bytes.


def overwritten(whole: bytes, seed: int, other: bytes) -> bytes:
    """A file with a few bytes, a block, or its end changed; or with a piece of another cache in it."""
    rng = random.Random(seed)
    data = bytearray(whole)
    start, size = rng.randrange(len(data)), rng.choice((1, 8, 64, 512))
    stop = min(start + size, len(data))
    kind = seed % 8
    if kind < 3:
        for _ in range(rng.choice((1, 1, 2, 5, 40))):
            place = rng.randrange(len(data))
            data[place] = data[place] ^ 1 << rng.randrange(8) if kind else rng.randrange(256)
    elif kind == 3:
        del data[start:]
    elif kind == 4:
        data[start:stop] = bytes(stop - start)
    elif kind == 5:
        to = rng.randrange(len(data) - (stop - start))
        data[start:stop], data[to : to + stop - start] = data[to : to + stop - start], data[start:stop]
    elif kind == 6:
        data[start:stop] = other[start:stop]
    else:
        data[start:start] = rng.randbytes(size)
    return bytes(data)


def blocks(data: bytes, sealed: bool = True) -> list[tuple[int, int, int]]:
    """Each block of metadata: where it starts, its messages, its checksum, which must fit where `sealed`."""
    found = [(0, 12, 44)]
    for start in _places(data, b"OHDR"):
        flags = data[start + 5]
        at = start + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
        width = 1 << (flags & 3)
        body = at + width
        found.append((start, body, body + int.from_bytes(data[at:body], "little")))
        position, head = body, 6 if flags & 4 else 4
        while position + head <= found[-1][2]:
            kind, size = struct.unpack_from("<BH", data, position)
            if kind == 16:
                address, length = struct.unpack_from("<QQ", data, position + head)
                found.append((address, address + 4, address + length - 4))
            position += head + size
    for start, _, end in found:
        assert not sealed or checksum(data[start:end]) == int.from_bytes(data[end : end + 4], "little")
    return found


def forged(whole: bytes, seed: int) -> bytes:
    """A file with changed metadata and checksums that fit: addresses in circles, absurd sizes, other types."""
    rng = random.Random(seed)
    data, parts = bytearray(whole), blocks(whole)
    addresses = [start for start, _, _ in parts] + [0, 48, len(whole), len(whole) - 4, 1 << 62, 2**64 - 1]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _, first, last = rng.choice(parts)
        kind = rng.randrange(5)
        if kind == 0:
            data[rng.randrange(first, last)] = rng.choice((0, 1, 2, 16, 127, 128, 254, 255))
        elif kind == 1:
            data[rng.randrange(first, last)] = rng.randrange(256)
        elif kind == 2:
            place = rng.randrange(first, last - 8)
            struct.pack_into("<Q", data, place, rng.choice(addresses))
        elif kind == 3:
            known = [p for p in range(first, last - 8) if struct.unpack_from("<Q", whole, p)[0] in addresses[:-6]]
            if known:
                struct.pack_into("<Q", data, rng.choice(known), rng.choice(addresses))
        else:
            size = rng.choice((2, 4))
            place = rng.randrange(first, last - size)
            data[place : place + size] = rng.choice((b"\xff", b"\0", b"\x80")) * size
    for start, _, end in parts:
        struct.pack_into("<I", data, end, checksum(bytes(data[start:end])))
    return bytes(data)


def unsealed(whole: bytes, seed: int) -> bytes:
    """A file of HDF5's old format, which has no checksums, changed where its tables stand."""
    rng = random.Random(seed)
    data = bytearray(whole)
    tables = [place for tag in (b"TREE", b"SNOD", b"HEAP") for place in _places(whole, tag)]
    for _ in range(rng.choice((1, 2, 4))):
        place = rng.choice(tables) + rng.randrange(4, 48)
        if rng.random() < 0.5:
            data[place] = rng.choice((0, 1, 2, 127, 128, 255))
        else:
            struct.pack_into("<Q", data, place, rng.choice([*tables, 0, 96, len(whole)]))
    return bytes(data)


def _places(data: bytes, tag: bytes) -> Iterator[int]:
    place = data.find(tag)
    while place >= 0:
        yield place
        place = data.find(tag, place + 1)


# Fields. Every change gets the open file and the field's key.

Change = Callable[[h5py.File, str], Any]


def _replaced(make: Callable[[h5py.Dataset], dict[str, Any]]) -> Change:
    def change(file: h5py.File, key: str) -> None:
        options, attributes = make(file[key]), dict(file[key].attrs)
        del file[key]
        item = file.create_dataset(key, **options)
        item.attrs.update(attributes)

    return change


def _as_type(kind: Any) -> Change:
    return _replaced(lambda item: {"shape": item.shape, "dtype": kind, "data": np.zeros(item.shape, kind)})


def _stored(**options: Any) -> Change:
    return _replaced(lambda item: {"data": item[...], "dtype": item.dtype, **options})


def _linked(make: Callable[[str], Any]) -> Change:
    def change(file: h5py.File, key: str) -> None:
        file.move(key, "elsewhere")
        file[key] = make(key)

    return change


def _virtual(file: h5py.File, key: str) -> None:
    shape, kind = file[key].shape, file[key].dtype
    del file[key]
    layout = h5py.VirtualLayout(shape, kind)
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape, kind)
    file.create_virtual_dataset(key, layout)


def _unknown_filter(file: h5py.File, key: str) -> None:
    item = file[key]
    space, kind, values, shape = item.id.get_space(), item.id.get_type(), item[...].tobytes(), item.shape
    del file[key]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    made = h5py.h5d.create(file.id, key.encode(), kind, space, plist)
    made.write_direct_chunk((0,) * len(shape), values)


def _value(index: int) -> Change:
    def change(file: h5py.File, key: str) -> None:
        old = file[key][...]
        raw = bytearray(old.tobytes())
        place = (len(raw) - 1) * index // 3
        raw[place] ^= 1 << index
        file[key][...] = np.frombuffer(bytes(raw), old.dtype).reshape(old.shape)

    return change


def _filled(value: Any) -> Change:
    def change(file: h5py.File, key: str) -> None:
        item = file[key]
        if item.dtype.kind == "S":
            item[...] = np.full(item.shape, str(value).encode(), item.dtype)
        else:
            with np.errstate(all="ignore"):
                item[...] = np.full(item.shape, value).astype(item.dtype)

    return change


def _huge(file: h5py.File, key: str) -> None:
    kind, axes = file[key].dtype, file[key].ndim
    del file[key]
    file.create_dataset(key, (10**12, 6)[:axes], kind, chunks=(64, 6)[:axes])


def _unwritten(file: h5py.File, key: str) -> None:
    shape, kind = file[key].shape, file[key].dtype
    del file[key]
    file.create_dataset(key, shape, kind)


def _swapped_rows(file: h5py.File, key: str) -> None:
    file[key][...] = file[key][...][::-1]


_COMPOUND = np.dtype([("a", "i4"), ("b", "f8")])
FIELD_CHANGES: dict[str, Change] = {
    "missing": lambda file, key: file.__delitem__(key),
    "a group": lambda file, key: (file.__delitem__(key), file.create_group(key)),
    "a soft link": _linked(lambda key: h5py.SoftLink("/elsewhere")),
    "a dangling link": _linked(lambda key: h5py.SoftLink("/nowhere")),
    "an external link": _linked(lambda key: h5py.ExternalLink("/etc/passwd", key)),
    "a committed type": _linked(lambda key: np.dtype("f8")),
    "virtual": _virtual,
    "stored outside": _replaced(
        lambda item: {"shape": item.shape, "dtype": item.dtype, "external": [("/etc/passwd", 0, 1 << 20)]}
    ),
    "an unknown filter": _unknown_filter,
    "null": lambda file, key: (file.__delitem__(key), file.create_dataset(key, data=h5py.Empty("f4"))),
    "a scalar": _replaced(lambda item: {"data": item[...].ravel()[0], "dtype": item.dtype}),
    "one axis more": _replaced(lambda item: {"data": item[...][None], "dtype": item.dtype}),
    "a row more": _replaced(
        lambda item: {"data": np.concatenate([item[...], item[...][-1:]]), "dtype": item.dtype}
    ),
    "a row less": _replaced(lambda item: {"data": item[...][:-1], "dtype": item.dtype}),
    "no rows": _replaced(lambda item: {"data": item[...][:0], "dtype": item.dtype}),
    "huge": _huge,
    "never written": _unwritten,
    "turned round": _swapped_rows,
    "complex": _as_type("c16"),
    "compound": _as_type(_COMPOUND),
    "an enum": _as_type(h5py.enum_dtype({"a": 0, "b": 1}, "i4")),
    "opaque": _as_type(np.dtype("V16")),
    "arrays": _replaced(lambda item: {"shape": item.shape, "dtype": np.dtype("(2,)i4")}),
    "text in a heap": _replaced(lambda item: {"data": ["x"] * item.shape[0], "dtype": h5py.string_dtype()}),
    "numbers in a heap": _replaced(lambda item: {"shape": item.shape, "dtype": h5py.vlen_dtype("i4")}),
    "object references": _replaced(lambda item: {"shape": item.shape, "dtype": h5py.ref_dtype}),
    "region references": _replaced(lambda item: {"shape": item.shape, "dtype": h5py.regionref_dtype}),
    "bool": _as_type(bool),
    "long doubles": _as_type("f16"),
    "long text": _as_type(h5py.string_dtype("utf-8", 60_000)),
    "short floats": _as_type("f2"),
    "bytes": _as_type("u1"),
    "gzip": _stored(compression="gzip"),
    "lzf": _stored(compression="lzf", shuffle=True),
    "sums": _stored(fletcher32=True),
    "chunks": _stored(chunks=True, maxshape=None),
    "a bit": _value(0),
    "another bit": _value(1),
    "a last bit": _value(3),
    "NaN": _filled(np.nan),
    "infinity": _filled(np.inf),
    "minus one": _filled(-1),
    "two": _filled(2),
    "the largest": _filled(2**31 - 1),
    "an attribute more": lambda file, key: file[key].attrs.__setitem__("scale_factor", 2.0),
    "attributes in a heap": lambda file, key: file[key].attrs.__setitem__("note", ["x"] * 20_000),
}

ATTRIBUTE_CHANGES: dict[str, object] = {
    "number": 7,
    "float": 1.0,
    "array": np.arange(4),
    "empty": h5py.Empty("f4"),
    "heap": "text",
    "compound": np.zeros((), _COMPOUND),
    "bytes": np.bytes_(b"\xff\xfe\xff"),
    "nothing": np.bytes_(b"x"),
    "long": np.bytes_(b"9" * 60_000),
    "huge array": np.zeros(8000),
    "nested": np.bytes_(b"[" * 50_000),
    "object": np.bytes_(b"{}"),
    "nan": np.bytes_(b'{"recipe": NaN}'),
    "negative": -1,
    "large": 2**62,
    "references": np.array([h5py.Reference()] * 2, h5py.ref_dtype),
}


Mutant = tuple[str, str, Callable[[h5py.File], Any]]
"""Name, the field that an error is to name, and the change."""


def column_mutants(columns: Sequence[str]) -> Iterator[Mutant]:
    """Every change of each of these data sets."""
    for key in columns:
        for what, change in FIELD_CHANGES.items():
            yield f"{key}: {what}", key, lambda file, change=change, key=key: change(file, key)  # type: ignore[misc]


def field_mutants() -> Iterator[Mutant]:
    """Every change of the data sets and attributes of a cache whose clips have one label."""
    yield from column_mutants((*TEXT_COLUMNS, *NUMBER_COLUMNS))
    attributes = [("/", name) for name in HEAD_ATTRIBUTES]
    attributes += [("splits/1", name) for name in ("rule", "seed", "leaking_groups")]
    for owner, name in attributes:
        shown = name if owner == "/" else owner
        yield f"{owner}@{name}: missing", shown, lambda file, o=owner, n=name: file[o].attrs.pop(n, None)  # type: ignore[misc]
        for what, value in ATTRIBUTE_CHANGES.items():
            yield f"{owner}@{name}: {what}", shown, _attribute_set(owner, name, value)


def _attribute_set(owner: str, name: str, value: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file[owner].attrs.__setitem__(name, value)


# The manifest.


OTHER_VALUES: tuple[object, ...] = (None, True, -1, 1 << 70, "x", "../up.h5", [], {}, [1, 2], 0.5, "\ud800")


def manifest_mutants(text: str) -> Iterator[tuple[str, str]]:
    """Name and text: every value of a manifest replaced by others, taken away, or its text cut or altered."""
    whole = json.loads(text)
    for place in list(_paths(whole)):
        for value in OTHER_VALUES:
            copy = json.loads(text)
            _owner(copy, place)[place[-1]] = value
            yield f"manifest {'.'.join(map(str, place))} = {value!r}", json.dumps(copy)
        copy = json.loads(text)
        del _owner(copy, place)[place[-1]]
        yield f"manifest without {'.'.join(map(str, place))}", json.dumps(copy)
    for cut in range(0, len(text), max(1, len(text) // 25)):
        yield f"manifest cut at {cut}", text[:cut]
    for entry in range(len(whole["files"])):
        copy = json.loads(text)
        copy["files"].append(copy["files"][entry])
        yield f"manifest with file {entry} twice", json.dumps(copy)
    yield "manifest that is deep", "[" * 100_000
    yield "manifest with NaN", text.replace('"planned": 4', '"planned": NaN')


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from _paths(inner, (*before, key))


def _owner(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value


# The program.


def mutants(kind: str, folder: Path, first: int, last: int) -> Iterator[tuple[str, Path]]:
    """Name of each mutant, and where it lies now."""
    shards, packed, target = folder / "shards", folder / source_of(kind), folder / f"mutant-{kind}.h5"
    whole, other = packed.read_bytes(), (folder / "other.h5").read_bytes()
    if kind in ("bytes", "several-bytes", "forged", "old"):
        base = (folder / "old.h5").read_bytes() if kind == "old" else whole
        for seed in range(first, last):
            target.write_bytes(
                overwritten(base, seed, other)
                if kind.endswith("bytes")
                else (forged(base, seed) if kind == "forged" else unsealed(base, seed))
            )
            yield f"{kind} {seed}", target
    elif kind in ("fields", "several-fields"):
        for name, key, change in field_mutants() if kind == "fields" else column_mutants(LABEL_COLUMNS):
            target.write_bytes(whole)
            with h5py.File(target, "r+", libver=("v108", "latest")) as file:
                change(file)
            yield f"{name} | {key}", target
    elif kind == "shards":
        copy = folder / "copy"
        shutil.copytree(shards, copy)
        files = sorted(copy.glob("*.h5"))
        for seed in range(first, last):
            victim = files[seed % len(files)]
            before = victim.read_bytes()
            # Of the same size, so that the size which the manifest states does not tell at once.
            after = overwritten(before, seed // 3 * 8 + seed % 3 + (4 if seed % 2 else 0), other)[: len(before)]
            victim.write_bytes(after.ljust(len(before), b"\0"))
            yield f"shards {seed} {victim.name[:5]}", copy
            victim.write_bytes(before)
        text = (copy / "manifest.json").read_text()
        for name, changed in manifest_mutants(text):
            (copy / "manifest.json").write_text(changed)
            yield name, copy


def source_of(kind: str) -> str:
    """The file that mutants of this kind are made of."""
    return "several.h5" if kind.startswith("several") else "packed.h5"


def prepare(folder: Path) -> None:
    """The sound caches that mutants are made of: shards, packed, another one, and one of HDF5's old format.

    And one whose clips have several labels.
    """
    make_folder(folder / "many", several=True)
    pack(folder / "many", folder / "several.h5")
    make_folder(folder / "shards")
    pack(folder / "shards", folder / "packed.h5")
    make_folder(folder / "others", seed=1)
    pack(folder / "others", folder / "other.h5")
    with h5py.File(folder / "packed.h5") as source, h5py.File(folder / "old.h5", "w") as target:
        for key, value in source.attrs.items():
            target.attrs[key] = np.bytes_(value) if isinstance(value, bytes) else value
        for key in source:
            source.copy(key, target)


def main(kind: str, folder: Path, first: int = 0, last: int = 0) -> None:
    """Print the outcome of each mutant of one kind."""
    with open_cache(folder / source_of(kind)) as cache:
        wanted = held(cache)
    # What importing torch has taken, and 2 GiB.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if kind.endswith("fields"):
        # This process may itself be killed; the guard has its own mutants, of the kind "old".
        guard.require_harmless = lambda path: None
    guard.SECONDS = 2.0
    for name, path in mutants(kind, folder, first, last):
        faulthandler.dump_traceback_later(60, exit=True)
        print(json.dumps([name, outcome(path, wanted)]), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
