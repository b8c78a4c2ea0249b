"""scripts/video_level.py: from made-up records to a table of trained models beside their ceiling."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import video_level
from synthetic_yt8m import SetSettings
from video_level import ROWS, Row


@pytest.fixture
def tiny_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that train in a second, one from the other's plain model."""
    dbof = "--model dbof --clusters 8,4 --hidden 6 --bags 0 --circulant fc --plain-epochs 2 --dropout 0"
    vib = "--method vib --vib-epochs 2 --finetune-epochs 1 --target-ratio 2"
    rows = (
        Row("vib", "small DBoF, VIB", f"{dbof} {vib}", "compact", "dbof"),
        Row("dbof", "small DBoF", f"{dbof} --method plain"),
    )
    monkeypatch.setattr(video_level, "ROWS", rows)


def run(folder: Path, *arguments: str) -> Result:
    where = ["--work", str(folder / "work"), "--out", str(folder / "out")]
    sizes = ["--train", "60", "--validate", "20", "--seeds", "1"]
    return CliRunner().invoke(video_level.main, [*where, *sizes, *arguments])


@pytest.mark.usefixtures("tiny_rows")
def test_a_table_of_all_rows_beside_the_ceiling_and_nothing_is_done_twice(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "synthetic-yt8m.json").read_text())
    table = (tmp_path / "out" / "synthetic-yt8m.md").read_text()
    assert table in result.output
    assert told["command"].endswith("--seeds 1 --jobs 1 --train 60 --validate 20")
    figures: dict[str, Any] = {row["name"]: row["runs"][0] for row in told["rows"]}
    assert list(figures) == ["vib", "dbof"]
    dense, small = (figures[name]["parameters"]["total"] for name in ("dbof", "vib"))
    assert small <= dense / 2
    for name, title in (("dbof", "small DBoF"), ("vib", "small DBoF, VIB")):
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {title} |"))
        gap, best = figures[name]["gap"]["test"], told["ceiling"]["ceiling"]["gap"]
        assert 0 < gap < best < 1
        assert f"| {100 * gap:.1f} ± 0.0 | {gap / best:.3f} |" in line
        assert f"| {figures[name]['parameters']['total']:,} |" in line
    # The row that starts from another trains no plain model of its own.
    assert figures["vib"]["seconds"]["plain"] == 0 < figures["dbof"]["seconds"]["plain"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert run(tmp_path).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")} == before
    assert json.loads((tmp_path / "out" / "synthetic-yt8m.json").read_text()) == told


@pytest.mark.usefixtures("tiny_rows")
def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    for rows, said in (("dbof,lstm", "lstm: there are vib, dbof"), ("vib", "starts from dbof")):
        result = run(tmp_path, "--rows", rows)
        assert result.exit_code == 2
        assert said in result.output
    assert not (tmp_path / "work").exists()
    (tmp_path / "work" / "set").mkdir(parents=True)
    (tmp_path / "work" / "set" / "ceiling.json").write_text('{"settings": {"seed": 5}}')
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "holds another set" in result.output


def test_the_rows_are_named_once_and_start_from_one_another() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert {row.init for row in ROWS} <= {"", *names}
    assert SetSettings().classes > 20, "with fewer GAP@20 would count all scores"
