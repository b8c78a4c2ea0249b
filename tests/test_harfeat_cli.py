"""The `harfeat` command: what it prints, its exit codes, and one line for every wrong use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from videos import Recipe, make_video

from harfeat.cache import writer
from harfeat.cli import main

FAST = ("--weights", "none", "--model", "test_vit", "--frames", "2", "--workers", "0", "--device", "cpu")


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for name in ("jump/g1_a", "jump/g2_a", "run/g1_b", "run/g2_b"):
        path = root / f"{name}.avi"
        path.parent.mkdir(exist_ok=True)
        make_video(path.parent, Recipe("clip", ".avi", "mjpeg", frames=5, pix_fmt="yuvj420p")).rename(path)
    return root


def harfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def extract(root: Path, out: Path, *more: object) -> Result:
    return harfeat("extract", "--dataset", "folder", "--root", root, "--out", out, *FAST, *more)


def expect_one_line(result: Result, *words: object) -> None:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("harfeat: ")
    assert result.stdout == ""
    for word in words:
        assert str(word) in result.stderr


def test_an_extraction_prints_what_it_made(made_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    result = extract(made_folder, out, "--group-pattern", "g[0-9]", "--test-groups", "g2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{out}: 4 clips in ")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["split random", "split group", "split listed"]
    assert "2 train, 2 test, no leaking group" in lines[3]
    again = extract(made_folder, out, "--group-pattern", "g[0-9]", "--test-groups", "g2")
    assert again.exit_code == 0
    assert "4 clips (4 were there already)" in again.stdout


def test_a_failed_clip_ends_with_1_and_is_shown_by_info(made_folder: Path, tmp_path: Path) -> None:
    root, out = shutil.copytree(made_folder, tmp_path / "videos"), tmp_path / "x.h5"
    sound = (root / "run" / "g1_b.avi").read_bytes()
    (root / "run" / "g1_b.avi").write_bytes(b"")
    result = extract(root, out)
    assert result.exit_code == 1
    assert "3 clips" in result.stdout
    assert "failed: run/g1_b.avi: " in result.stderr
    assert "1 clips failed; --retry-failed tries them again" in result.stderr
    assert "missing run/g1_b.avi: " in harfeat("info", out).stdout
    (root / "run" / "g1_b.avi").write_bytes(sound)
    again = extract(root, out, "--max-failures", "1")
    assert again.exit_code == 0
    assert "1 clips failed, 1 of them in an earlier run" in again.stderr
    assert extract(root, out, "--retry-failed").exit_code == 0
    assert "missing" not in harfeat("info", out).stdout


def test_info_tells_what_is_inside(made_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    extract(made_folder, out, "--group-pattern", "g[0-9]")
    text = harfeat("info", out).stdout
    assert f"{out}: 4 clips, 2 classes, 2 groups" in text
    assert "stream rgb: 8 rows of 64 float16" in text
    assert "model: test_vit" in text
    known: dict[str, Any] = json.loads(harfeat("info", out, "--json").stdout)
    with h5py.File(out) as file:
        assert known["fingerprint"] == file.attrs["fingerprint"].decode()
        assert known["fingerprint"] in text
        counts = np.bincount(file["splits/group"][:], minlength=3).tolist()
    assert known["splits"]["group"]["counts"] == counts
    assert known["clips_per_class"] == [2, 2]
    assert known["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert known["provenance"]["settings"]["sampling"]["frames"] == 2


def test_shards_are_kept_where_out_is_a_folder_and_packed_on_request(made_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert extract(made_folder, out).exit_code == 0
    assert {path.suffix for path in out.iterdir()} == {".h5", ".json"}
    assert extract(made_folder, tmp_path / "direct.h5").exit_code == 0
    result = harfeat("pack", out, "--out", tmp_path / "packed.h5")
    assert result.exit_code == 0, result.output
    known = [json.loads(harfeat("info", path, "--json").stdout) for path in (out, *tmp_path.glob("*.h5"))]
    assert len({entry["content"] for entry in known}) == 1
    assert known[0]["content"] in result.stdout
    expect_one_line(harfeat("pack", out, "--out", tmp_path / "packed.h5"), "exists")
    (head,) = out.glob("head-*.h5")
    expect_one_line(harfeat("info", head), f"name the folder {out}")
    (out / "manifest.json").unlink()
    expect_one_line(harfeat("pack", out, "--out", tmp_path / "again.h5"), "manifest.json")


def test_training_views_stand_beside_the_main_stream(made_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    result = extract(made_folder, out, "--sampling", "first", "--frames", "3", "--views", "2", "--seed", "4")
    assert result.exit_code == 0, result.output
    streams = json.loads(harfeat("info", out, "--json").stdout)["streams"]
    assert {name: stream["rows"] for name, stream in streams.items()} == {
        **{"rgb": 12, "rgb-view-1": 12, "rgb-view-2": 12}
    }
    line = extract(made_folder, out, "--sampling", "first", "--frames", "3", "--views", "2", "--seed", "5")
    expect_one_line(line, "sampling.views.seed: 4 against 5")


def test_an_import_prints_its_splits(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x": np.ones((4, 2, 3), np.float32),
        "y": np.array([0, 0, 1, 1]),
        "g": np.array([1, 2, 1, 2]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    options = ("--from", "npz", "--features", "x", "--labels", "y", "--groups", "g")
    result = harfeat("import", tmp_path / "a.npz", *options, "--out", tmp_path / "b.h5", "--test-groups", "2")
    assert result.exit_code == 0, result.output
    assert "split listed: 2 train, 2 test, no leaking group" in result.stdout
    assert harfeat("import", tmp_path / "a.npz", *options, "--out", tmp_path / "c.h5").exit_code == 0
    expect_one_line(harfeat("import", tmp_path / "a.npz", *options, "--out", tmp_path / "b.h5"), "exists")


def test_data_sets_are_listed_with_their_counts() -> None:
    result = harfeat("datasets")
    assert result.exit_code == 0
    patterns = ("ucf11 +11 .* 1600 .* 2 ", "hmdb51 +51 .* 6766 .* 3 ", "ucf101 +101 .* 13320 .* 3 ", "folder +any")
    for pattern in patterns:
        assert re.search(f"^{pattern}", result.stdout, re.MULTILINE)


def test_help_and_version() -> None:
    assert harfeat("--help").exit_code == 0
    assert harfeat("--version").stdout.startswith("harfeat ")
    for command in ("extract", "import", "info", "datasets"):
        assert command in harfeat("--help").stdout
        assert harfeat(command, "--help").exit_code == 0


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "root": (("--root", "/no/such/folder"), "/no/such/folder: no such folder"),
    "model": (("--model", "resnet500"), "timm knows no such model"),
    "weights": (("--weights", "/no/such.pth"), "/no/such.pth: no such file"),
    "device": (("--device", "abacus"), "--device abacus"),
    "frames": (("--frames", "-1"), "--frames -1: must be from 0"),
    "not a number": (("--frames", "many"), "--frames"),
    "batch": (("--batch", "-1"), "--batch -1"),
    "workers": (("--workers", "-2"), "--workers -2"),
    "timeout": (("--clip-timeout", "0"), "--clip-timeout"),
    "timeout that is no number": (("--clip-timeout", "nan"), "--clip-timeout"),
    "pattern": (("--group-pattern", "("), "--group-pattern"),
    "pattern that fits nothing": (("--group-pattern", "z+"), "finds no group"),
    "test groups": (("--group-pattern", "g[0-9]", "--test-groups", "g9"), "'g9'"),
    "test groups alone": (("--test-groups", "g1"), "--group-pattern"),
    "splits": (("--splits", "/tmp"), "--splits does not apply to folder"),
    "data set": (("--dataset", "kinetics"), "kinetics"),
    "option": (("--sharpness", "3"), "--sharpness"),
    "precision": (("--precision", "int8"), "int8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_of_extract_is_one_line(name: str, made_folder: Path, tmp_path: Path) -> None:
    options, words = WRONG[name]
    expect_one_line(extract(made_folder, tmp_path / "x.h5", *options), words)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_one_line(made_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expect_one_line(extract(made_folder, tmp_path), tmp_path, "is a folder")
    expect_one_line(
        extract(made_folder, tmp_path / "file" / "x.h5"), tmp_path / "file" / "x.h5", "cannot be written"
    )
    (tmp_path / "text.h5").write_text("not a cache")
    expect_one_line(extract(made_folder, tmp_path / "text.h5"), "text.h5", "not a readable HDF5 file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text.h5"]


def test_a_missing_option_or_command_is_one_line(tmp_path: Path) -> None:
    expect_one_line(harfeat("extract", "--dataset", "folder", "--root", tmp_path), "--out")
    expect_one_line(harfeat("export"), "export")
    expect_one_line(harfeat("info", tmp_path / "absent.h5"), "absent.h5: no such file")
    expect_one_line(harfeat("info", tmp_path), "holds no manifest.json")
    source = ("import", tmp_path / "absent", "--features", "x", "--labels", "y", "--out", tmp_path / "x.h5")
    expect_one_line(harfeat(*source, "--from", "h5"), "absent: no such file")
    expect_one_line(harfeat(*source, "--from", "csv"), "csv")


def test_a_missing_option_with_choices_is_one_line() -> None:
    run = CliRunner().invoke(main, ["extract"])
    assert run.exit_code == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("harfeat: Missing option '--dataset'. Choose from: ucf11, hmdb51, ucf101, folder")


def test_a_full_disk_is_one_line(made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(writer, "sync", full)
    result = extract(made_folder, tmp_path / "x.h5")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("cannot be written (No space left on device)")
    assert "Traceback" not in result.stderr
    monkeypatch.undo()
    assert extract(made_folder, tmp_path / "x.h5").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_the_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("harfeat")
    done = subprocess.run([command, "info", tmp_path / "x.h5"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"harfeat: {tmp_path / 'x.h5'}: no such file\n"
