"""The published tables: every count against a copy typed from the facts, what data is asked for, one row run."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import CLASSES, TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from small_runs import QUICK
from videos import Recipe, numbered_frame, write_video

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import reproduce
from published import TABLES, Needed, Row, Table

from harfeat.cache import open_cache, write_cache
from harfeat.cli import main as harfeat
from harfeat.splits import random_split
from harvib.models import ModelSpec
from harvib.published import agreement
from harvib.settings import TrainSettings

FACTS = {
    (2048, 2048): 33_570_816,
    (2048, 8): 65_856,
    (2048, 6): 49_344,
    (266, 224): 440_832,
    (88, 64): 39_424,
    (33, 12): 2_256,
    (28, 8): 1_216,
    (46, 9): 2_052,
    (57_600, 256): 59_246_592,
    (1_312, 33): 177_804,
    (96, 297): 469_260,
    (96, 88): 65_472,
}
PRINTED = {
    ("ucf11", 57_600, 256): "59.25M",
    ("ucf11", 1_312, 33): "0.178M",
    ("ucf11", 2048, 2048): "33.57M",
    ("ucf11", 46, 9): "2,052",
    ("ucf101", 96, 297): "0.46M",
    ("hmdb51", 2048, 2048): "33.57M",
    ("hmdb51", 96, 277): "0.41M",
}
SUPPLEMENT = {
    "ucf11": """(2048,2048) 98.6, (266,2048) 98.53, (88,2048) 98.53, (33,2048) 98.2, (28,2048) 97.5,
(2048,674) 98.65, (2048,224) 98.65, (2048,64) 98.53, (2048,8) 98.53, (2048,6) 96.53,
(266,224) 98.65, (88,64) 98.65, (33,12) 98.2, (28,8) 97.1""",
    "ucf101": """(2048,512) 93.15, (1024,512) 93.15, (256,512) 93.15, (96,512) 93.15, (64,512) 92.62,
(46,512) 92.28, (31,512) 91.59, (96,400) 93.15, (96,297) 93.15, (96,198) 92.04, (96,154) 92.04, (96,88) 91.5""",
    "hmdb51": """(2048,2048) 68.34, (1024,2048) 68.16, (149,2048) 68.16, (96,2048) 68.16, (64,2048) 67.32,
(149,512) 68.32, (96,512) 68.32, (96,382) 68.16, (96,277) 68.16, (96,140) 65.2, (64,512) 67.32, (64,382) 67.32""",
}
ROWS = {"ucf11": 12 + 14, "ucf101": 4 + 12, "hmdb51": 5 + 12}
EVERY = [row for table in TABLES.values() for row in table.rows]
TINY = Needed(
    "tiny", CLASSES, 3 * 5 * 2, {TEST_SPLIT: (3 * 3 * 2, 3 * 2 * 2)}, dim=12, model="some_model", frames=4
)
DENSE = TrainSettings(**QUICK, method="plain")
TARGET = 220


def _row(settings: TrainSettings | None, inputs: int, hidden: int, reason: str = "") -> Row:
    return Row("ucf11", "main", "VIB", "50.0", "", inputs, hidden, settings=settings, reason=reason)


SMALL = Table(
    TINY,
    (
        _row(DENSE, 12, 8),
        _row(TrainSettings(**QUICK, target_params=TARGET), 6, 4),
        _row(None, 57_600, 256, "no pixel model"),
    ),
)


def _cache(path: Path, **changes: Any) -> Path:
    """A cache that says that it is all of the data set of `TINY`, but for `changes` of its head."""
    with open_cache(made_up_cache(path.with_suffix(".plain.h5"), dim=12)) as made:
        recipe: Mapping[str, Any] = {"model": "some_model", "sampling": {"rule": "first", "frames": 4}}
        head = replace(made.head, recipe=recipe, provenance={"dataset": {"name": "tiny"}})
        head = replace(head, **changes)
        write_cache(
            path, head, {"rgb": made.layout()}, (made.read_streams(clip) for clip in range(len(made.clips)))
        )
    return path


def _call(*arguments: str) -> Result:
    return CliRunner().invoke(reproduce.main, list(arguments))


def test_every_count_of_the_facts_is_that_of_our_cells() -> None:
    ours = {(row.inputs, row.hidden): row.count() for row in EVERY}
    assert {shape: ours[shape] for shape in FACTS} == FACTS


def test_the_main_tables_stand_as_printed() -> None:
    main = {(row.table, row.inputs, row.hidden): row.parameters for row in EVERY if row.source.startswith("main")}
    assert {key: main[key] for key in PRINTED} == PRINTED
    assert {name: len(table.rows) for name, table in TABLES.items()} == ROWS


@pytest.mark.parametrize("name", list(TABLES))
def test_the_supplement_stands_as_in_the_facts(name: str) -> None:
    rows = [row for row in TABLES[name].rows if row.source == "supplement"]
    ours = ", ".join(f"({row.inputs},{row.hidden}) {row.accuracy}" for row in rows)
    assert ours == SUPPLEMENT[name].replace("\n", " ")


@pytest.mark.parametrize("name", list(TABLES))
def test_check_needs_no_data_and_finds_no_difference(name: str) -> None:
    result = _call("--table", name, "--check")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 2 + ROWS[name]
    assert "DIFFERS" not in result.output


def test_the_misprint_is_told_with_the_right_number() -> None:
    lines = _call("--table", "ucf11", "--check").output.splitlines()
    (line,) = (line for line in lines if "| 2048, 6 |" in line)
    assert line == "| supplement | VIB | 2048, 6 | 65,856 | 49,344 | misprint, right is 49,344 |"


def test_check_fails_where_a_print_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    table = TABLES["ucf11"]
    rows = tuple(replace(row, misprint=False) for row in table.rows)
    monkeypatch.setitem(TABLES, "ucf11", replace(table, rows=rows))
    result = _call("--table", "ucf11", "--check")
    assert result.exit_code == 1
    assert result.output.count("DIFFERS") == 1


def test_millions_agree_in_their_digits_only() -> None:
    assert agreement("33.57M", 33_574_999) == "equal when rounded"
    assert agreement("0.41M", 415_500) == "equal when cut off"
    assert not agreement("0.41M", 420_001)
    assert not agreement("2,052", 2_053)


@pytest.mark.parametrize("row", [row for row in EVERY if row.settings and row.settings.target_params])
def test_a_budget_is_the_published_count_and_the_head(row: Row) -> None:
    assert row.settings is not None
    assert row.inputs is not None
    assert row.hidden is not None
    classes = {"ucf11": 11, "ucf101": 101, "hmdb51": 51}[row.table]
    recurrent = 4 * row.hidden * (row.inputs + row.hidden) + 8 * row.hidden
    assert row.settings.target_params == recurrent + row.hidden * classes + classes
    spec = ModelSpec("lstm", "plain", 2048, 2048, ((row.settings.hidden,),), classes)
    assert spec.shape == ((512 if row.table == "ucf101" else 2048,),)


def test_every_row_either_runs_or_says_why_not() -> None:
    assert all((row.settings is None) == bool(row.reason) for row in EVERY)
    assert all("pixel" in row.reason for row in EVERY if row.inputs in (57_600, 1_312))


@pytest.mark.parametrize("name", list(TABLES))
def test_without_data_one_line_gives_commands_that_harfeat_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in ((), ("--features", str(tmp_path / "none.h5"))):
        result = _call("--table", name, *arguments)
        assert result.exit_code == 2
        (line,) = result.output.splitlines()
        assert ("not there" if arguments else "no --features given") in line
    commands = line[line.index("harfeat download") :].split(" && ")
    for command in commands:
        # A missing root, not an option that is unknown, is what must stop it; --help would hide wrong values.
        parsed = shlex.split(command)[1:]
        assert CliRunner().invoke(harfeat, [*parsed, "--help"]).exit_code == 0
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(harfeat, shlex.split(commands[1])[1:])
    assert result.exit_code == 2
    assert f"data/{name}" in result.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provenance": {}}, "of data set None"),
        ({"provenance": {"dataset": {"name": "folder"}}}, "of data set 'folder'"),
        ({"classes": ("a", "b", "c")}, "classes"),
        ({"recipe": {"model": "other", "sampling": {"rule": "first", "frames": 4}}}, "12 features of other"),
        ({"recipe": {"model": "some_model", "sampling": {"rule": "uniform", "frames": 4}}}, "not sampled"),
        ({"splits": ()}, "no split 'held'"),
    ],
)
def test_a_cache_of_something_else_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with open_cache(_cache(tmp_path / "c.h5", **changes)) as cache:
        assert words in reproduce.gap(cache, TINY)


def test_what_harfeat_extracts_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    """Two UCF11 clips, extracted as the printed command does it, with a small model."""
    for number in (1, 2):
        path = tmp_path / "videos" / "biking" / "v_biking_01" / f"v_biking_01_{number:02d}.mpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe = Recipe("clip", ".mpg", "mpeg1video", b_frames=2, options=(("g", "12"),), container="mpeg")
        write_video(path, [numbered_frame(number + 3 * i, 48, 64) for i in range(9)], recipe)
    needed = replace(TABLES["ucf11"].needed, model="test_vit", dim=64, frames=4)
    command = shlex.split(needed.commands().split(" && ")[1])[1:]
    command[command.index("--root") + 1] = str(tmp_path / "videos")
    command[command.index("--out") + 1] = str(tmp_path / "ucf11.h5")
    result = CliRunner().invoke(harfeat, [*command, "--weights", "none", "--workers", "0", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    with open_cache(tmp_path / "ucf11.h5") as cache:
        assert reproduce.gap(cache, needed) == "has 2 of 1,600 clips"
        whole = replace(needed, clips=2, sizes={"random": (1, 1)}, slack=0)
        assert reproduce.gap(cache, whole) == ""


def test_a_part_of_the_data_set_is_refused(tmp_path: Path) -> None:
    with open_cache(_cache(tmp_path / "c.h5")) as cache:
        assert reproduce.gap(cache, TINY) == ""
        assert reproduce.gap(cache, replace(TINY, clips=31)) == "has 30 of 31 clips"
        other = replace(TINY, sizes={TEST_SPLIT: (19, 11)})
        assert reproduce.gap(cache, other) == "has 18 + 12 clips in split 'held', not 19 + 11"
        assert reproduce.gap(cache, replace(other, slack=1)) == ""


def test_the_split_sizes_asked_for_are_those_of_the_official_lists(shared_data: Path) -> None:
    lists = shared_data / "splits"
    ucf11 = [line.split("/")[0] for line in (lists / "ucf11" / "clips.txt").read_text().split()]
    needed = TABLES["ucf11"].needed
    assert (len(ucf11), tuple(sorted(set(ucf11)))) == (needed.clips, needed.classes)
    roles = random_split([needed.classes.index(name) for name in ucf11], [""] * len(ucf11), 0).roles
    assert abs((roles == 1).sum() - needed.sizes["random"][0]) <= needed.slack
    for split, sizes in TABLES["ucf101"].needed.sizes.items():
        files = [lists / "ucfTrainTestlist" / f"{part}list0{split}.txt" for part in ("train", "test")]
        assert tuple(len(file.read_text().splitlines()) for file in files) == sizes
    for split, sizes in TABLES["hmdb51"].needed.sizes.items():
        files = sorted((lists / "testTrainMulti_7030_splits").glob(f"*_test_split{split}.txt"))
        counts = Counter(line.split()[1] for file in files for line in file.read_text().splitlines())
        assert (len(files), counts["1"], counts["2"]) == (51, *sizes)


def test_rows_run_once_are_told_beside_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "ucf11", SMALL)
    arguments = ["--table", "ucf11", "--features", str(_cache(tmp_path / "c.h5"))]
    arguments += ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"), "--seeds", "2"]
    result = _call(*arguments)
    assert result.exit_code == 0, result.output
    assert "not run: VIB 57600x256: no pixel model" in result.stderr
    rows = json.loads((tmp_path / "results" / "reproduce-ucf11.json").read_text())["rows"]
    plain, small, pixels = (row["runs"] for row in rows)
    assert [run["parameters"] for run in plain] == [4 * 8 * (12 + 8) + 8 * 8] * 2
    for run in small:
        units, inputs = run["units"], run["inputs"]
        assert run["parameters"] == 4 * units * (inputs + units) + 8 * units
        # What lies within the budget is the whole model, head and all.
        assert run["parameters"] + (units + 1) * len(CLASSES) <= TARGET
    assert not pixels
    reports = sorted((tmp_path / "work").rglob("report.json"))
    table = [line.split(" | ") for line in result.stdout.splitlines()]
    assert [line[4] for line in table[2:]] == ["50.0"] * 3
    mean = 100 * np.mean([run["accuracy"] for run in small])
    assert table[3][7].startswith(f"{mean:.1f} ±")
    before = [path.stat().st_mtime_ns for path in reports]
    assert len(reports) == 4
    assert _call(*arguments).stdout == result.stdout
    assert [path.stat().st_mtime_ns for path in reports] == before


def test_an_unknown_row_is_told_with_those_there_are() -> None:
    result = _call("--table", "hmdb51", "--rows", "3x3", "--check")
    assert result.exit_code == 2
    assert "--rows 3x3: no such row; choose from 2048x2048," in result.output
    only = _call("--table", "ucf11", "--rows", "46x9", "--check")
    assert len(only.output.splitlines()) == 3
