"""scripts/export_accuracy.py: its figures are those of `harvib evaluate`, a line a model over its seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from click.testing import CliRunner
from small_runs import TEST_SPLIT, small_run

from harvib.evaluate import evaluate_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import export_accuracy


def test_exported_files_are_evaluated_beside_their_models(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / "protocol", name=f"lstm-s{seed}", seed=seed, vib_epochs=1) for seed in (0, 1)]
    (tmp_path / "protocol" / "empty").mkdir()
    cache, out = tmp_path / "protocol" / "cache.h5", tmp_path / "out.json"
    words = ["--features", str(cache), "--out", str(out), *map(str, runs), str(tmp_path / "protocol" / "empty")]
    result = CliRunner().invoke(export_accuracy.main, words)
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())["protocol"]
    (row,) = told["rows"].values()
    assert list(told["left_out"]) == ["empty"]
    for run, found in zip(runs, row, strict=True):
        expected = evaluate_run(run, cache, TEST_SPLIT, "test", export_accuracy.CPU)
        assert abs(found["accuracy"]["float"] - expected["accuracy"]) < 1e-5
        assert (
            found["accuracy"]["onnx-none"] == found["accuracy"]["torchscript-none"] == found["accuracy"]["float"]
        )
        assert found["parameters"] == expected["parameters"]["total"]
        assert found["bytes"]["onnx-int8"] > 0
    assert "| lstm | " in result.stdout
