"""Push and pull: what arrives is what was sent, whatever breaks on the way; nothing is sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import made_up_cache
from click.testing import CliRunner
from servers import Answering, file_server, s3_server

from harfeat.cache import open_cache
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import MANIFEST, FileEntry, Manifest, read_manifest, write_manifest
from harfeat.cli import main
from harfeat.errors import InputError
from harfeat.share import fetch as fetching
from harfeat.share import pull, push
from harfeat.share.fetch import Expected, StoppedError, TransferError, fetch
from harfeat.share.http import HttpSource
from harfeat.share.pull import folder_of
from harfeat.share.store import StoreRemote


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed cache of some 300 kB."""
    return made_up_cache(tmp_path / "made" / "actions.h5", dim=600)


@pytest.fixture
def shards(packed: Path) -> Path:
    """The same clips as a finished folder of six shards."""
    folder = packed.parent / "actions"
    with open_cache(packed) as cache:
        work = WorkFolder(folder, Manifest(cache.recipe, len(cache.clips)))
        work.open()
        for start in range(0, len(cache.clips), 5):
            rows = cache.clips[start : start + 5]
            clips = [{"rgb": cache.read(index)} for index in range(start, start + len(rows))]
            work.add([write_shard(folder, cache.recipe, cache.classes, rows, clips)])
        work.finish(cache.head)
        work.close()
    assert len(list(folder.glob("shard-*.h5"))) == 6
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetching, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setenv("HARFEAT_CACHE", str(tmp_path / "user-cache"))


def data_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def set_field(folder: Path, **fields: Any) -> None:
    """Change the manifest of a shared folder as an attacker may, without any check."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_packed_cache_comes_back_byte_for_byte(packed: Path, tmp_path: Path) -> None:
    pushed = push(packed, str(tmp_path / "shared"))
    assert (pushed.sent_files, pushed.sent_bytes) == (1, packed.stat().st_size)
    pulled = pull(str(tmp_path / "shared"), tmp_path / "mine")
    assert pulled.path == tmp_path / "mine" / "actions.h5"
    assert pulled.path.read_bytes() == packed.read_bytes()
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "actions.h5",
        "manifest.json",
        "README.md",
        "croissant.json",
    }
    assert (tmp_path / "mine" / "README.md").read_bytes() == (tmp_path / "shared" / "README.md").read_bytes()


def test_only_names_that_pull_takes_are_pushed(packed: Path, tmp_path: Path) -> None:
    for name in ("actions.hdf5", "actions.H5"):
        shutil.copy(packed, tmp_path / name)
        push(tmp_path / name, str(tmp_path / f"of-{name}"))
        assert pull(str(tmp_path / f"of-{name}")).path.read_bytes() == packed.read_bytes()
    for name in ("actions", "actions.txt", "my actions!.h5"):
        shutil.copy(packed, tmp_path / name)
        with pytest.raises(InputError, match="cannot be shared under this name"):
            push(tmp_path / name, str(tmp_path / "shared"))
    assert not (tmp_path / "shared").exists()


def test_a_path_is_one_place_from_wherever_it_is_named(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
        monkeypatch.chdir(place)
        push(packed, "shared")
    monkeypatch.chdir(places[0])
    first = pull("shared").path
    assert pull(f"file://{places[0]}/shared/").path == pull("../a/shared").path == first
    monkeypatch.chdir(places[1])
    assert pull("shared").path != first


def test_a_folder_of_shards_comes_back_and_opens(shards: Path, packed: Path, tmp_path: Path) -> None:
    push(shards, (tmp_path / "shared").as_uri())
    pulled = pull((tmp_path / "shared").as_uri())
    assert pulled.path == folder_of((tmp_path / "shared").as_uri())
    assert data_of(pulled.path) == data_of(shards)
    with open_cache(pulled.path) as ours, open_cache(packed) as theirs:
        np.testing.assert_array_equal(ours.read_all(), theirs.read_all())


def test_what_is_there_is_not_transferred_again(shards: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    push(shards, str(shared))
    before = {path: path.stat().st_mtime_ns for path in shared.glob("*.h5")}
    assert push(shards, str(shared)).sent_files == 0
    assert {path: path.stat().st_mtime_ns for path in shared.glob("*.h5")} == before
    pull(str(shared), tmp_path / "mine")
    for path in shared.glob("*.h5"):
        path.unlink()  # a second transfer of any of them would fail
    assert pull(str(shared), tmp_path / "mine").fetched_files == 0


def test_broken_connections_are_continued_where_they_broke(shards: Path, tmp_path: Path) -> None:
    push(shards, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        server.drop_after, server.drops = 20_000, 10
        pulled = pull(server.url, tmp_path / "mine")
        assert server.drops == 0
        assert data_of(pulled.path) == data_of(shards)
        for name, content in data_of(shards).items():
            assert server.sent[name] == len(content), "no byte came twice"
        starts = [wanted for name in data_of(shards) for wanted in server.asked(name)]
        assert sum(wanted is not None for wanted in starts) == 10
        server.requests.clear()
        assert pull(server.url, tmp_path / "mine").fetched_files == 0
        assert [name for name, _ in server.requests] == [MANIFEST]


def test_a_server_without_ranges_is_asked_again_from_the_start(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        server.ranges, server.drop_after, server.drops = False, 100_000, 2
        assert pull(server.url, tmp_path / "mine").path.read_bytes() == packed.read_bytes()
        assert server.sent["actions.h5"] == packed.stat().st_size + 200_000


def test_a_server_that_always_breaks_is_given_up(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        server.ranges, server.drop_after = False, 10_000
        with pytest.raises(TransferError) as error:
            pull(server.url, tmp_path / "mine")
        assert "given up after 6 attempts" in one_line(error)
        assert len(server.asked("actions.h5")) == 6


def test_a_passing_fault_of_the_server_is_waited_out(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        server.statuses = {MANIFEST: [503], "actions.h5": [500, 429]}
        assert pull(server.url, tmp_path / "mine").fetched_files == 1
        server.statuses = {MANIFEST: [-403]}
        with pytest.raises(TransferError, match="access refused"):
            pull(server.url, tmp_path / "other")


@pytest.mark.parametrize("place", ["local", "http"])
def test_a_file_that_is_not_what_was_promised_is_removed(packed: Path, tmp_path: Path, place: str) -> None:
    push(packed, str(tmp_path / "shared"))
    altered = bytearray(packed.read_bytes())
    altered[len(altered) // 2] ^= 1
    (tmp_path / "shared" / "actions.h5").write_bytes(altered)
    with file_server(tmp_path / "shared") as server:
        url = server.url if place == "http" else str(tmp_path / "shared")
        done = CliRunner().invoke(main, ["pull", url, "--to", str(tmp_path / "mine")])
    assert done.exit_code == 2
    assert "actions.h5: SHA-256 is" in done.stderr.splitlines()[-1]
    left = {path.name for path in (tmp_path / "mine").iterdir()} - {".harfeat-pull", ".harfeat-pull.lock"}
    assert left == set()


def test_a_damaged_local_file_is_fetched_again_and_only_that(shards: Path, tmp_path: Path) -> None:
    push(shards, str(tmp_path / "shared"))
    pull(str(tmp_path / "shared"), tmp_path / "mine")
    victim = sorted((tmp_path / "mine").glob("shard-*.h5"))[2]
    content = bytearray(victim.read_bytes())
    content[1000] ^= 255
    victim.write_bytes(content)
    again = pull(str(tmp_path / "shared"), tmp_path / "mine")
    assert (again.fetched_files, again.fetched_bytes) == (1, len(content))
    assert data_of(tmp_path / "mine") == data_of(shards)


def test_a_killed_pull_goes_on_where_it_was(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    command = "from harfeat.cli import main; main()"
    with file_server(tmp_path / "shared") as server:
        server.gate, server.gate_after = threading.Event(), 160_000
        process = subprocess.Popen(
            [sys.executable, "-c", command, "pull", server.url, "--to", str(tmp_path / "mine")],
            stderr=subprocess.DEVNULL,
        )
        part_size = 0
        deadline = time.monotonic() + 120
        while part_size < 100_000 and time.monotonic() < deadline:
            part_size = sum(part.stat().st_size for part in (tmp_path / "mine").glob(".*.part"))
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        part_size = sum(part.stat().st_size for part in (tmp_path / "mine").glob(".*.part"))
        assert part_size >= 100_000
        server.gate = None  # for the next connection; the old one stays shut
        server.sent.clear()
        pulled = pull(server.url, tmp_path / "mine")
        assert server.sent["actions.h5"] == packed.stat().st_size - part_size
    assert pulled.path.read_bytes() == packed.read_bytes()


def test_two_pulls_into_one_folder_do_not_meet(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        server.gate = threading.Event()
        server.files = dict(server.files)
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(pull(server.url, tmp_path / "mine")))
        manifest = server.files[MANIFEST]
        server.gate_after = len(manifest) + 1
        first.start()
        deadline = time.monotonic() + 30
        while not server.asked("actions.h5") and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(InputError, match="another pull is at work"):
            pull(server.url, tmp_path / "mine")
        server.gate.set()
        first.join()
    assert answers[0].fetched_files == 1


def test_the_manifest_comes_last_and_a_broken_push_resumes(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, send = tmp_path / "shared", StoreRemote._send
    sent: list[str] = []

    def failing(self: StoreRemote, item: Any, *rest: Any) -> None:
        if len(sent) == 3:
            raise TransferError("the line is cut")
        sent.append(item.entry.name)
        send(self, item, *rest)

    monkeypatch.setattr(StoreRemote, "_send", failing)
    with pytest.raises(TransferError, match="cut"):
        push(shards, str(shared), workers=1)
    assert {path.name for path in shared.iterdir()} == set(sent)
    with pytest.raises(InputError, match=r"no manifest\.json there"):
        pull(str(shared), tmp_path / "mine")
    monkeypatch.undo()
    assert push(shards, str(shared)).sent_files == 7 - 3
    assert data_of(shared) == data_of(shards)


def test_no_reader_sees_a_manifest_whose_files_are_being_replaced(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, send = tmp_path / "shared", StoreRemote._send
    push(packed, str(shared))
    made_up_cache(packed, dim=600, seed=1)  # the same recipe, other features under the same name
    seen = []

    def watched(self: StoreRemote, *rest: Any) -> None:
        seen.append((shared / MANIFEST).exists())
        send(self, *rest)

    monkeypatch.setattr(StoreRemote, "_send", watched)
    assert push(packed, str(shared)).sent_files == 1
    assert seen == [False]
    assert pull(str(shared), tmp_path / "mine").path.read_bytes() == packed.read_bytes()


def test_another_cache_is_replaced_only_when_told_to(packed: Path, shards: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    push(shards, str(shared))
    other = made_up_cache(tmp_path / "other.h5", recipe="another")
    with pytest.raises(InputError) as error:
        push(other, str(shared))
    assert "holds another cache" in one_line(error)
    assert data_of(shared) == data_of(shards)
    push(other, str(shared), replace=True)
    assert data_of(shared) == {"other.h5": other.read_bytes()}
    # Whoever had pulled the old one follows, since it came from the same address.
    pull(str(shared), tmp_path / "mine")
    with pytest.raises(InputError, match="holds a cache from elsewhere"):
        pull(str(shared), shards)
    assert read_manifest(shards).of_kind("shard")


def test_only_whole_and_intact_folders_are_pushed(shards: Path, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    write_manifest(shards, replace(manifest, complete=False))
    with pytest.raises(InputError, match=r"incomplete, 30 of 30 clips|incomplete"):
        push(shards, str(tmp_path / "shared"))
    write_manifest(shards, manifest)
    victim = shards / manifest.of_kind("shard")[1].name
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(InputError) as error:
        push(shards, str(tmp_path / "shared"))
    assert f"{victim}: is not what the manifest lists" in one_line(error)
    victim.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        push(shards, str(tmp_path / "shared"))
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"name": "../evil.h5"}, "no plain file name"),
        ({"name": "manifest.json"}, "no part of a cache"),
        ({"name": "evil.sh"}, "no part of a cache"),
        ({"bytes": 1 << 60}, "needs 1,152,921"),
        ({"bytes": 1000}, "promised were 1,000"),
        ({"bytes": -1}, "bytes is missing or no whole number"),
        ({"sha256": "0" * 64}, "SHA-256 is"),
        ({"kind": "program"}, "unknown kind"),
    ],
)
def test_a_hostile_manifest_does_no_harm(
    packed: Path, tmp_path: Path, entry: dict[str, Any], expected: str
) -> None:
    shared = tmp_path / "in" / "shared"
    push(packed, str(shared))
    (shared.parent / "evil.h5").write_bytes(packed.read_bytes())
    (shared / "evil.sh").write_bytes(packed.read_bytes())
    listed = json.loads((shared / MANIFEST).read_text())["files"]
    set_field(shared, files=[listed[0] | entry])
    with pytest.raises(InputError) as error:
        pull(str(shared), tmp_path / "out" / "mine")
    assert expected in one_line(error)
    assert [path.name for path in (tmp_path / "out").rglob("*") if not path.name.startswith(".")] in (["mine"], [])


def test_a_manifest_of_another_cache_than_its_files_is_told(packed: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    push(packed, str(shared))
    manifest = read_manifest(shared)
    write_manifest(shared, replace(manifest, recipe={"kind": "forged"}))
    with pytest.raises(InputError, match="another cache than its files"):
        pull(str(shared), tmp_path / "mine")


def test_a_file_that_is_larger_than_promised_is_not_taken(tmp_path: Path) -> None:
    with file_server({"a.bin": bytes(500_000)}) as server:
        with pytest.raises(InputError, match="larger than the 1,000 bytes"):
            fetch(HttpSource(f"{server.url}/a.bin"), tmp_path / "a.bin", Expected(), limit=1000)
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path: Path) -> None:
    old, new = bytes(range(256)) * 2000, bytes(reversed(range(256))) * 2000
    stop = threading.Event()
    with file_server({"a.bin": old}) as server:
        source = HttpSource(f"{server.url}/a.bin")
        counted = 0

        def halt(count: int) -> None:
            nonlocal counted
            counted += count
            if counted > 100_000:
                stop.set()

        with pytest.raises(StoppedError):
            fetch(source, tmp_path / "a.bin", Expected(), limit=1 << 20, progress=halt, stop=stop)
        server.files["a.bin"] = new
        digest = fetch(source, tmp_path / "a.bin", Expected(), limit=1 << 20)
        assert server.asked("a.bin")[1] is not None, "the rest was asked for, on condition"
    assert (tmp_path / "a.bin").read_bytes() == new
    assert digest == hashlib.sha256(new).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("size", [None, 400_000])
def test_without_a_validator_or_a_hash_nothing_is_continued(tmp_path: Path, size: int | None) -> None:
    content = np.random.default_rng(0).bytes(400_000)
    (tmp_path / ".a.bin.unknown.part").write_bytes(bytes(100_000))
    with file_server({"a.bin": content}) as server:
        server.validators = False
        fetch(HttpSource(f"{server.url}/a.bin"), tmp_path / "a.bin", Expected(size), limit=1 << 20)
    assert (tmp_path / "a.bin").read_bytes() == content


def test_a_server_that_tells_no_size_is_bounded_all_the_same(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    with file_server({"a.bin": content}) as server:
        server.lengths = False
        source = HttpSource(f"{server.url}/a.bin")
        for expected, limit in ((Expected(), 100_000), (Expected(100_000), 1 << 20)):
            with pytest.raises(InputError, match="larger than the 100,000 bytes"):
                fetch(source, tmp_path / "a.bin", expected, limit=limit)
            assert list(tmp_path.iterdir()) == []
        fetch(source, tmp_path / "a.bin", Expected(300_000), limit=1 << 20)
        assert (tmp_path / "a.bin").read_bytes() == content
        server.drop_after, server.drops = 200_000, 1
        fetch(source, tmp_path / "b.bin", Expected(300_000, hashlib.sha256(content).hexdigest()), limit=1 << 20)
        assert (tmp_path / "b.bin").read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pull", "http://127.0.0.1:1/x.h5"], "a single file, whose content nothing vouches for"),
        (["pull", "{tmp}/nowhere"], "no manifest.json there"),
        (["push", "{cache}", "http://127.0.0.1:1/x"], "can only be pulled from"),
        (["push", "{cache}", "gopher://x/y"], "gopher"),
        (["push", "{tmp}/none.h5", "{tmp}/shared"], "none.h5"),
        (["push", "{cache}", "{tmp}/shared", "--private"], "--private is for hf:// only"),
        (["pull", "hf://models/a/b"], "expected hf://datasets/ORG/NAME"),
        (["pull", "hf://datasets/a/b@x/c@y"], "expected hf://datasets/ORG/NAME"),
        (["push", "{cache}", "{tmp}/shared", "--workers", "0"], "at least one is needed"),
        (["push", "{cache}", ""], "the address is empty"),
        (["pull", ""], "the address is empty"),
    ],
)
def test_wrong_use_is_one_line(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where an empty address would lead
    done = CliRunner().invoke(main, [text.format(tmp=tmp_path, cache=packed) for text in arguments])
    assert done.exit_code == 2
    assert expected in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("harfeat: ")


def test_a_missing_extra_is_named(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a process that has not used it yet.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=re.escape("pip install 'harfeat[s3]'")):
        push(packed, "s3://bucket/folder")


def test_the_commands_say_what_they_did(packed: Path, tmp_path: Path) -> None:
    pushed = CliRunner().invoke(main, ["push", str(packed), str(tmp_path / "shared")])
    assert pushed.exit_code == 0, pushed.stderr
    assert f"harfeat pull {tmp_path / 'shared'}" in pushed.stdout
    odd = CliRunner().invoke(main, ["push", str(packed), str(tmp_path / "it's shared")])
    assert shlex.split(odd.stdout.splitlines()[-1].partition(": ")[2]) == [
        *("harfeat", "pull", str(tmp_path / "it's shared"))
    ]
    pulled = CliRunner().invoke(main, ["pull", str(tmp_path / "shared")])
    assert pulled.exit_code == 0, pulled.stderr
    path = Path(pulled.stdout.splitlines()[-1])
    assert path.is_relative_to(tmp_path / "user-cache")
    assert path.read_bytes() == packed.read_bytes()
    assert "fetched 0 files, 0 bytes" in CliRunner().invoke(main, ["pull", str(tmp_path / "shared")]).stdout


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_server(monkeypatch) as client:
        yield client


def test_s3(shards: Path, packed: Path, s3: Any, tmp_path: Path) -> None:
    url = "s3://team/caches/actions"
    assert push(shards, url).sent_files == 7
    keys = {item["Key"].rpartition("/")[2]: item for item in s3.list_objects_v2(Bucket="team")["Contents"]}
    assert set(keys) == {*data_of(shards), MANIFEST, "README.md", "croissant.json"}
    times = {name: item["LastModified"] for name, item in keys.items()}
    assert max(times, key=lambda name: times[name]) == MANIFEST or times[MANIFEST] == max(times.values())
    assert push(shards, url).sent_files == 0
    pulled = pull(url)
    assert data_of(pulled.path) == data_of(shards)
    for name in data_of(shards):
        s3.delete_object(Bucket="team", Key=f"caches/actions/{name}")
    assert pull(url).fetched_files == 0
    # A file that is lost is noticed by the next push, and sent again.
    assert push(shards, url).sent_files == 7
    push(packed, url)
    names = {item["Key"].rpartition("/")[2] for item in s3.list_objects_v2(Bucket="team")["Contents"]}
    assert names == {"actions.h5", MANIFEST, "README.md", "croissant.json"}


def test_a_mistyped_bucket_is_told_and_not_made(packed: Path, s3: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        push(packed, "s3://taem/actions")
    assert "s3://taem/actions" in one_line(error)
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["team"]
    with pytest.raises(InputError, match=r"no manifest\.json there"):
        pull("s3://team/actions", tmp_path / "mine")


def test_a_store_out_of_reach_is_one_line(packed: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs  # noqa: PLC0415

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError) as error:
        push(packed, "s3://team/elsewhere")
    assert "127.0.0.1:1" in one_line(error)


def test_a_signed_address_keeps_its_query(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        assert pull(f"{server.url}/?signature=abc", tmp_path / "mine").fetched_files == 1


def test_the_server_stand_in_is_honest(tmp_path: Path) -> None:
    """The tests above rely on it: a range gives the rest, and nothing else."""
    with file_server({"a.bin": b"0123456789"}) as server:
        answer = HttpSource(f"{server.url}/a.bin").open(4, None)
        assert (answer.start, answer.total, b"".join(answer.blocks)) == (4, 10, b"456789")
        assert isinstance(server, Answering)
        assert server.sent["a.bin"] == 6


def test_a_full_manifest_entry_is_what_the_file_is(packed: Path, tmp_path: Path) -> None:
    push(packed, str(tmp_path / "shared"))
    content = packed.read_bytes()
    expected = FileEntry("actions.h5", len(content), hashlib.sha256(content).hexdigest(), "cache", 30)
    assert read_manifest(tmp_path / "shared").files == (expected,)
    shutil.rmtree(tmp_path / "shared")
