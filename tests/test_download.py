"""Download: from the official archives' layout to what extraction reads, with everything that may go wrong."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rars import LINK, rar
from servers import Answering, file_server

from harfeat.cli import main
from harfeat.datasets.hmdb51_classes import CLASSES as HMDB_CLASSES
from harfeat.datasets.ucf101_classes import CLASSES as UCF_CLASSES
from harfeat.download import ARCHIVES, download, rar_program
from harfeat.download import unpack as unpacking
from harfeat.download.rar_program import rar_command
from harfeat.download.unpack import unpack
from harfeat.errors import InputError
from harfeat.share import fetch as fetching

LISTS = "UCF101TrainTestSplits-RecognitionTask.zip"


def zipped(files: Mapping[str, bytes], modes: Mapping[str, int] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return out.getvalue()


def ucf101(clip: bytes = b"video " * 2000) -> dict[str, bytes]:
    names = [f"v_{name}_g{group:02}_c01.avi" for name in UCF_CLASSES[:3] for group in (1, 8, 15)]
    paths = [f"{name.split('_')[1]}/{name}" for name in names]
    lists = {f"testlist0{k}.txt": "" for k in (1, 2, 3)} | {f"trainlist0{k}.txt": "" for k in (1, 2, 3)}
    for path in paths:
        group = int(path[-10:-8])
        for k in (1, 2, 3):
            kind = "test" if 7 * (k - 1) < group <= 7 * k else "train"
            lists[f"{kind}list0{k}.txt"] += f"{path}{' 1' if kind == 'train' else ''}\r\n"
    return {
        "UCF101.rar": rar({f"UCF-101/{path}": clip + path.encode() for path in paths}),
        LISTS: zipped({f"ucfTrainTestlist/{name}": text.encode() for name, text in lists.items()}),
    }


def hmdb51() -> dict[str, bytes]:
    clips = {name: f"(a)&;#x_{name}_f_nm_np1_fr_med_0.avi" for name in HMDB_CLASSES}
    inner = {f"{name}.rar": rar({f"{name}/{clip}": clip.encode()}) for name, clip in clips.items()}
    lists = {
        f"testTrainMulti_7030_splits/{name}_test_split{k}.txt": f"{clip} {k % 3}\n".encode()
        for name, clip in clips.items()
        for k in (1, 2, 3)
    }
    return {"hmdb51_org.rar": rar(inner), "test_train_splits.rar": rar(lists)}


def ucf11() -> dict[str, bytes]:
    folder = "UCF11_updated_mpg/basketball/v_shooting_01"
    names = {f"{folder}/v_shooting_01_0{n}.mpg": b"mpeg" * n for n in (1, 2, 3)}
    annotation = {"UCF11_updated_mpg/basketball/Annotation/v_shooting_01_01.xgtf": b"<x/>"}
    return {"UCF11_updated_mpg.rar": rar(names | annotation)}


@pytest.fixture(autouse=True)
def hashes_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one published hash is of an archive that the test cannot have; `test_wrong_hash` uses the real one."""
    monkeypatch.setattr(fetching, "_LONGEST_PAUSE", 0.01)
    known = ARCHIVES["ucf101"]
    assert known.lists is not None
    monkeypatch.setitem(ARCHIVES, "ucf101", replace(known, lists=replace(known.lists, bytes=None, sha256=None)))


@pytest.fixture
def server() -> Iterator[Answering]:
    with file_server(ucf101()) as state:
        yield state


def command(dataset: str, to: Path, url: str) -> Result:
    return CliRunner().invoke(main, ["download", "--dataset", dataset, "--to", str(to), "--base-url", url])


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"archives"}


def test_ucf101_is_ready_for_extraction(server: Answering, tmp_path: Path) -> None:
    done = command("ucf101", tmp_path, server.url)
    assert done.exit_code == 0, done.stderr
    assert f"harfeat extract --dataset ucf101 --root {tmp_path}/UCF-101" in done.stdout.splitlines()[-1]
    assert "9 clips" in done.stdout
    for name in server.files:
        assert hashlib.sha256(server.files[name]).hexdigest() in done.stdout
    assert left_in(tmp_path) == {"UCF-101", "ucfTrainTestlist"}
    clip = tmp_path / "UCF-101" / "ApplyLipstick" / "v_ApplyLipstick_g08_c01.avi"
    assert clip.read_bytes() == b"video " * 2000 + b"ApplyLipstick/v_ApplyLipstick_g08_c01.avi"
    server.requests.clear()
    assert command("ucf101", tmp_path, server.url).exit_code == 0
    assert server.requests == []


def test_hmdb51_has_an_archive_a_class_in_its_archive(tmp_path: Path) -> None:
    with file_server(hmdb51()) as server:
        done = download("hmdb51", tmp_path, server.url)
    assert (done.clips, done.root, done.splits) == (
        51,
        tmp_path / "hmdb51_org",
        tmp_path / "testTrainMulti_7030_splits",
    )
    assert {path.name for path in done.root.iterdir()} == set(HMDB_CLASSES)
    assert left_in(tmp_path) == {"hmdb51_org", "testTrainMulti_7030_splits"}


def test_ucf11_has_no_lists(tmp_path: Path) -> None:
    with file_server(ucf11()) as server:
        done = download("ucf11", tmp_path, server.url)
    assert (done.clips, done.splits) == (3, None)
    assert done.root == tmp_path / "UCF11_updated_mpg"


def test_broken_connections_are_continued(tmp_path: Path) -> None:
    with file_server(ucf101(os.urandom(80_000))) as server:
        server.drop_after, server.drops = 70_000, 9
        assert download("ucf101", tmp_path, server.url).clips == 9
        assert server.sent["UCF101.rar"] == len(server.files["UCF101.rar"])
        assert [wanted for wanted in server.asked("UCF101.rar") if wanted] == [
            f"bytes={70_000 * n}-" for n in range(1, 10)
        ], "more often than a server may break that brings nothing"


def test_a_killed_download_goes_on(tmp_path: Path) -> None:
    with file_server(ucf101(os.urandom(40_000))) as server:
        server.gate, server.gate_after = threading.Event(), 200_000
        code = (
            "import sys; from dataclasses import replace; from pathlib import Path\n"
            "from harfeat.download import ARCHIVES, download\n"
            "known = ARCHIVES['ucf101']\n"
            "ARCHIVES['ucf101'] = replace(known, lists=replace(known.lists, bytes=None, sha256=None))\n"
            "download('ucf101', Path(sys.argv[1]), sys.argv[2])"
        )
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path, server.url], stderr=subprocess.DEVNULL)
        deadline, size = time.monotonic() + 120, 0
        while size < 150_000 and time.monotonic() < deadline:
            size = sum(part.stat().st_size for part in tmp_path.glob("archives/.UCF101.rar.*.part"))
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        size = sum(part.stat().st_size for part in tmp_path.glob("archives/.UCF101.rar.*.part"))
        assert size >= 150_000
        server.gate = None  # for the next connection; the old one stays shut
        server.sent.clear()
        assert download("ucf101", tmp_path, server.url).clips == 9
        assert server.sent == {"UCF101.rar": len(server.files["UCF101.rar"]) - size}


def test_wrong_hash(server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the published hash counts
    real = ARCHIVES["ucf101"].lists
    assert real is not None
    assert (real.bytes, str(real.sha256)[:8]) == (113_943, "5c0d1a53")
    server.files[LISTS] = os.urandom(113_943)
    done = command("ucf101", tmp_path, server.url)
    assert done.exit_code == 2
    assert "SHA-256 is" in done.stderr.splitlines()[-1]
    assert left_in(tmp_path) == set()
    assert not (tmp_path / "archives" / LISTS).exists()
    # The same for a file that was put there by hand.
    (tmp_path / "archives" / LISTS).write_bytes(server.files[LISTS])
    done = command("ucf101", tmp_path, server.url)
    assert done.exit_code == 2
    assert "the official archive's is 5c0d1a53" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("fault", ["gone", "nobody", "no such host"])
def test_where_the_host_is_gone_the_archive_can_be_brought_by_hand(
    server: Answering, tmp_path: Path, fault: str
) -> None:
    archive = server.files.pop("UCF101.rar")
    url = {"gone": server.url, "nobody": "http://127.0.0.1:1", "no such host": "http://nowhere.invalid"}[fault]
    done = command("ucf101", tmp_path, url)
    assert done.exit_code == 2
    told = done.stderr.splitlines()[-1]
    missing = "UCF101.rar" if fault == "gone" else LISTS
    assert f"fetch {missing} by hand (the authors' page is https://www.crcv.ucf.edu/data/UCF101.php)" in told
    assert f"put it into {tmp_path / 'archives'}, and repeat this command" in told
    (tmp_path / "archives" / "UCF101.rar").write_bytes(archive)
    (tmp_path / "archives" / LISTS).write_bytes(server.files[LISTS])
    done = command("ucf101", tmp_path, url)
    assert done.exit_code == 0, done.stderr
    assert "9 clips" in done.stdout


def test_without_a_program_for_rar_nothing_is_fetched(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rar_program.importlib.util, "find_spec", lambda name: None)
    done = command("ucf101", tmp_path / "to", server.url)
    assert done.exit_code == 2
    assert "pip install 'harfeat[rar]'" in done.stderr.splitlines()[-1]
    assert server.requests == []


def test_a_seven_zip_without_rar_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rar_command()[0]
    for name, text in (("7z", "echo '7-Zip 22.01 Formats: zip 7z'"), ("unar", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(rar_program.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rar_command()[0] == str(tmp_path / "unar")
    (tmp_path / "7z").unlink()
    (tmp_path / "7z").symlink_to(real)
    assert rar_command()[0] == str(tmp_path / "7z")


def test_a_killed_unpacking_is_done_again(server: Answering, tmp_path: Path) -> None:
    (tmp_path / ".unpacking" / "outer" / "UCF-101" / "half").mkdir(parents=True)
    assert download("ucf101", tmp_path, server.url).clips == 9
    assert left_in(tmp_path) == {"UCF-101", "ucfTrainTestlist"}


def test_a_folder_of_somebody_else_is_not_touched(server: Answering, tmp_path: Path) -> None:
    (tmp_path / "UCF-101").mkdir()
    (tmp_path / "UCF-101" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="this command did not make it"):
        download("ucf101", tmp_path, server.url)
    assert (tmp_path / "UCF-101" / "mine.txt").read_text() == "mine"
    assert server.requests == []


HOSTILE: dict[str, tuple[str, bytes]] = {
    "zip, path above": ("a.zip", zipped({"../evil": b"x"})),
    "zip, absolute path": ("a.zip", zipped({"/tmp/evil": b"x"})),
    "zip, hidden step up": ("a.zip", zipped({"a/../../evil": b"x"})),
    "zip, backslashes": ("a.zip", zipped({"a\\..\\..\\evil": b"x"})),
    "zip, drive": ("a.zip", zipped({"C:evil": b"x"})),
    "zip, link": ("a.zip", zipped({"a": b"/etc/passwd"}, {"a": stat.S_IFLNK | 0o777})),
    "zip, device": ("a.zip", zipped({"a": b""}, {"a": stat.S_IFCHR | 0o666})),
    "zip, control character": ("a.zip", zipped({"a\nb": b"x"})),
    "zip, bomb": ("a.zip", zipped({"a": bytes(3 << 20)})),
    "zip, cut": ("a.zip", zipped({"a": os.urandom(5000)})[:3000]),
    "zip, empty": ("a.zip", zipped({})),
    "rar, path above": ("a.rar", rar({"../evil": b"x"})),
    "rar, absolute path": ("a.rar", rar({"/tmp/evil": b"x"})),
    "rar, hidden step up": ("a.rar", rar({"a/../../evil": b"x"})),
    "rar, link": ("a.rar", rar({"a": b"/etc/passwd"}, {"a": LINK})),
    "rar, bomb": ("a.rar", rar({"a": bytes(3 << 20)})),
    "rar, lying size": ("a.rar", rar({"a": b"x" * 100}, sizes={"a": 50})),
    "rar, cut": ("a.rar", rar({"a": os.urandom(5000)})[:3000]),
    "rar, no archive": ("a.rar", b"<html>404</html>"),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_a_hostile_archive_leaves_nothing(kind: str, tmp_path: Path) -> None:
    name, content = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        unpack(tmp_path / "in" / name, tmp_path / "out" / "there", 1 << 20)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "in" / name) in str(error.value)
    assert "link" not in kind or "is a link" in str(error.value), "refused before it is unpacked"
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("in", "out", name)] == []


@pytest.mark.parametrize("name", ["a.rar", "a.zip"])
def test_a_flipped_bit_inside_an_archive_is_noticed(name: str, tmp_path: Path) -> None:
    secret = b"the frames of a video, as they should be" * 50
    if name == "a.rar":
        content = bytearray(rar({"d/clip.avi": secret}))
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("d/clip.avi", secret)
        content = bytearray(out.getvalue())
    content[content.index(b"frames")] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"a\.(rar|zip)"):
        unpack(tmp_path / name, tmp_path / "out", 1 << 20)
    assert not (tmp_path / "out").exists()


def test_what_a_program_gets_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libarchive did with RAR: zeros in place of the content, and success told."""
    (tmp_path / "a.rar").write_bytes(rar({"clip.avi": b"content"}))
    for script, expected in (
        ("head -c 7 /dev/zero > {folder}/clip.avi", "came out damaged"),
        ("true", "did not come out"),
        ("printf content > {folder}/clip.avi; ln -s /etc/passwd {folder}/more", "its table does not tell"),
        ("ln -s {archive} {folder}/clip.avi", "its table does not tell"),
    ):
        monkeypatch.setattr(unpacking, "rar_command", lambda script=script: ["/bin/sh", "-c", script])
        with pytest.raises(InputError, match=expected):
            unpack(tmp_path / "a.rar", tmp_path / "out", 1 << 20)
        assert not (tmp_path / "out").exists()


def test_a_damaged_archive_by_hand_is_told_and_nothing_is_half_there(server: Answering, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "UCF101.rar").write_bytes(server.files["UCF101.rar"][:-20_000])
    done = command("ucf101", tmp_path, server.url)
    assert done.exit_code == 2
    assert "remove it" in done.stderr.splitlines()[-1]
    assert left_in(tmp_path) == {"ucfTrainTestlist"}
