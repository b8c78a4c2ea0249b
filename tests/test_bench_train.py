"""scripts/bench_train.py measures the same function twice, and says when it was called wrongly."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import bench_train


def test_ratios_are_of_the_times_beside_them_and_the_loop_computes_the_same(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(bench_train.main, ["--quick", "--out", str(out)])
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())
    ((size, by_precision),) = told["steps"].items()
    assert size in result.output
    assert set(by_precision) == {"float32", "bfloat16"}
    for precision, figures in by_precision.items():
        ms = figures["ms"]
        assert figures["vib_to_torch"] == pytest.approx(ms["vib"] / ms["torch"])
        assert figures["loop_to_vib"] == pytest.approx(ms["loop"] / ms["vib"])
        allowed = 1e-5 if precision == "float32" else 0.05
        assert figures["difference_to_loop"]["loss"] < allowed
        assert figures["difference_to_loop"]["gradient"] < allowed
    assert {"command", "seed", "machine", "versions", "threads"} <= told.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "3x4x5"], "DxHxTxB"),
        (["--sizes", "3x4x0x5"], "at least 1"),
        (["--precisions", "float8"], "float32 or bfloat16"),
        (["--device", "nowhere"], "cannot be used here"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(bench_train.main, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
