"""A cache file from a stranger is safe to open: over a thousand mutants, each refused in one line or read right.

Each kind of mutant is opened in a process of its own with bounded memory and a watchdog (`cache_mutants.py`), so
that a crash or a hang, there or inside of HDF5, shows as a failure here.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import cache_mutants
import h5py
import pytest

from harfeat.cache import CacheError, guard, open_cache, plain

# Where two columns do not fit each other, the error may name the other; one hash covers a clip's rows and indices.
PARTNERS = {
    "clips/name": ("clips/label",),
    "clips/label": ("labels/index",),
    "labels/offsets": ("labels/index", "clips/label"),
    "labels/index": ("labels/offsets", "clips/label"),
    "clips/group": ("splits/1@leaking_groups",),
    "failures/name": ("failures/reason",),
    "streams/rgb/features": ("streams/rgb/offsets", "streams/rgb: the features of clip"),
    "streams/rgb/frame_index": ("streams/rgb: the features of clip",),
    "streams/rgb/sha256": ("streams/rgb/features does not match its hash",),
    "digests": ("does not match its hash",),
}
STORED_OTHERWISE = ("gzip", "lzf", "sums", "chunks", "an attribute more", "attributes in a heap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutants")
    cache_mutants.prepare(made)
    return made


def outcomes(kind: str, folder: Path, *places: int) -> dict[str, str]:
    """What became of each mutant; fails where the process did not come through, or wrong data was accepted."""
    program = Path(__file__).with_name("cache_mutants.py")
    done = subprocess.run(
        [sys.executable, program, kind, folder, *map(str, places)], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-2000:]}"
    found: dict[str, str] = dict(lines)
    assert len(found) == len(lines)
    for name, result in found.items():
        assert result != "different", f"{name}: wrong data was accepted"
        assert "\n" not in result, name
        assert result == "equal" or str(folder) in result, f"{name}: {result} names no file"
    return found


def test_changed_bytes_are_refused_or_without_effect(folder: Path) -> None:
    found = outcomes("bytes", folder, 0, 400)
    assert len(found) == 400
    refused = sum(result != "equal" for result in found.values())
    assert 200 < refused < 400


def test_forged_metadata_with_right_checksums_is_refused_or_without_effect(folder: Path) -> None:
    found = outcomes("forged", folder, 0, 40)
    assert 5 < sum(result == "equal" for result in found.values()) < 35


def test_changed_bytes_of_several_labels_are_refused_or_without_effect(folder: Path) -> None:
    found = outcomes("several-bytes", folder, 0, 100)
    assert 50 < sum(result != "equal" for result in found.values()) < 100


@pytest.mark.parametrize(("kind", "least"), [("fields", 700), ("several-fields", 100)])
def test_a_changed_field_is_refused_by_name(kind: str, least: int, folder: Path) -> None:
    found = outcomes(kind, folder)
    assert len(found) > least
    for name, result in found.items():
        what, key = name.split(" | ")
        if result == "equal":
            assert what.endswith(STORED_OTHERWISE) or what in UNCHANGED, f"{name}: nobody noticed"
        else:
            assert any(text in result for text in (key, *PARTNERS.get(key, ()))), f"{name}: {result}"


# There is no seed; the number of leaking groups is counted anew, and only compared where it is stated.
UNCHANGED = {"splits/1@seed: missing", "splits/1@leaking_groups: missing"}


def test_changed_shards_and_manifests_are_refused_or_without_effect(folder: Path) -> None:
    found = outcomes("shards", folder, 0, 60)
    manifests = {name: result for name, result in found.items() if name.startswith("manifest")}
    assert len(manifests) > 400
    assert sum(result != "equal" for result in manifests.values()) > 0.9 * len(manifests)
    assert sum(result != "equal" for name, result in found.items() if name not in manifests) > 30


def test_tables_of_the_old_format_cannot_hang_or_crash_the_reader(folder: Path) -> None:
    """Without the guard HDF5 2.0 hangs on one in some hundred of these."""
    assert sum(result != "equal" for result in outcomes("old", folder, 0, 10).values()) > 3


def test_a_file_that_hangs_or_crashes_hdf5_costs_a_process_and_not_the_reader(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for files that do so, which differ from version to version of HDF5."""
    with open_cache(folder / "old.h5") as cache, open_cache(folder / "packed.h5") as plain_one:
        assert cache_mutants.held(cache) == cache_mutants.held(plain_one)
    target = tmp_path / "old.h5"
    target.write_bytes((folder / "old.h5").read_bytes())
    program = "import {what}\nimport harfeat.cache.guard\nharfeat.cache.guard.main = lambda path: {call}\n"
    crash = r"crashes the HDF5 library \(exit code -11\)"
    for what, call, seconds, match in (
        ("time", "time.sleep(60)", 1.5, "hangs the HDF5 library"),
        ("os, signal", "os.kill(os.getpid(), signal.SIGSEGV)", 60.0, crash),
    ):
        place = tmp_path / what[:2]
        place.mkdir()
        (place / "sitecustomize.py").write_text(program.format(what=what, call=call))
        monkeypatch.setenv("PYTHONPATH", str(place))
        monkeypatch.setattr(guard, "SECONDS", seconds)
        with pytest.raises(CacheError, match=match):
            open_cache(target)
    monkeypatch.undo()
    with open_cache(target) as cache:
        assert len(cache.clips) == 4


def test_caches_are_written_in_the_form_that_needs_no_guard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(guard, "require_harmless", refused)
    open_cache(folder / "packed.h5").close()
    open_cache(folder / "shards").close()
    open_cache(folder / "several.h5").close()
    with pytest.raises(AssertionError, match=r"old\.h5"):
        open_cache(folder / "old.h5")


def test_checksums_are_those_of_hdf5(folder: Path) -> None:
    data = (folder / "packed.h5").read_bytes()
    parts = cache_mutants.blocks(data)
    with h5py.File(folder / "packed.h5") as file:
        count: list[str] = []
        file.visit(count.append)
    assert len(parts) > len(count)
    assert {len(data[start:end]) % 12 for start, _, end in parts} > {0, 1}
    assert plain.checksum(b"Four score and seven years ago") == 0x17770551  # as lookup3.c prints it


def test_a_group_that_holds_itself_is_not_walked_for_ever(folder: Path) -> None:
    data = bytearray((folder / "packed.h5").read_bytes())
    with h5py.File(folder / "packed.h5") as file:
        root, clips = (h5py.h5o.get_info(file[key].id).addr for key in ("/", "clips"))
    place = data.index(struct.pack("<Q", clips))
    data[place : place + 8] = struct.pack("<Q", root)
    for start, _, end in cache_mutants.blocks(bytes(data), sealed=False):
        data[end : end + 4] = struct.pack("<I", plain.checksum(bytes(data[start:end])))
    assert plain.is_plain(lambda address, count: bytes(data[address : address + count])) is False
