"""What the models of a run cost on this machine: size, work, memory and latency, in every runtime that is here.

What is measured: one call of the classifier in evaluation mode, from float32 features in memory to logits, on the
CPU. That covers picking and standardising the inputs, the recurrent cell, the readout, the head, and the call
itself. It does NOT cover what comes before a classifier can be called at all: decoding the video and running the
CNN backbone on every frame. `harvib.bench.pipeline` measures those.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harvib.bench.memory import MEANING
from harvib.bench.models import SCOPE
from harvib.bench.rows import allowed_cores, measure_rows
from harvib.bench.runtimes import REFERENCE, about, chosen
from harvib.bench.settings import USUAL_STEPS, BenchSettings, EndToEnd
from harvib.bench.subject import require_same_features, steps_of, subjects_of
from harvib.devices import machine
from harvib.errors import InputError
from harvib.macs import COUNTED
from harvib.runconfig import versions
from harvib.rundir import RunFolder, read_json, write_json


def bench_run(
    run: Path,
    settings: BenchSettings,
    runtimes: str = "",
    memory: bool = True,
    tell: Callable[[str], None] = lambda note: None,
    backbone: EndToEnd | None = None,
) -> dict[str, Any]:
    """Measure the models of a finished run; the result also stands in the run folder as bench.json.

    `rows` are those of `measure_rows`: `plain` and `compact` (a run of the method "plain" has only the former, a
    pulled one may have only the latter) in each of `runtimes` (names of RUNTIMES, with commas between; empty:
    all), in torch always. `plain` and `compact` are their times in torch, `ratio` the plain median over the
    compact one. A call of a fused run is that of all its streams, one after the other, and the fusion. With
    `backbone` what stands before the classifier is measured too: `end_to_end`. Raises InputError.
    """
    folder, names = RunFolder(run), chosen(runtimes)
    if run.is_dir() and not os.access(run, os.W_OK):
        raise InputError(f"{run}: no file can be written there, and bench.json belongs there")
    subjects, notes = subjects_of(folder)
    require_same_features(subjects)
    if not settings.steps:
        settings = dataclasses.replace(settings, steps=steps_of(folder) or USUAL_STEPS)
    before = None
    if backbone is not None:
        from harvib.bench.endtoend import EndToEndBench  # noqa: PLC0415 - timm takes a second to import

        before = EndToEndBench(folder, subjects, backbone)
    pairs = [(subject, name) for subject in subjects for name in names]
    try:
        with tempfile.TemporaryDirectory(prefix="harvib-bench-") as made:
            rows = measure_rows(pairs, settings, Path(made), memory, tell)
    except OSError as error:
        where = tempfile.gettempdir()
        raise InputError(
            f"{where}: the models' files cannot be written: {error.strerror or error}; TMPDIR names another folder"
        ) from error
    onnx = any(row["runtime"] == "onnx" and "clip" in row for row in rows)
    result: dict[str, Any] = {
        row["model"]: {**row["clip"], "parameters": row["parameters"]}
        for row in rows
        if row["runtime"] == REFERENCE
    }
    if {"plain", "compact"} <= result.keys():
        result["ratio"] = result["plain"]["median_ms"] / result["compact"]["median_ms"]
    result |= {"rows": rows, "notes": notes, "features": sum(subjects[0].features), "scope": SCOPE}
    result |= {"settings": dataclasses.asdict(settings), "macs": COUNTED, "memory": MEANING if memory else None}
    result |= {"runtimes": {name: about(name) for name in names}, **conditions_of()}
    if before is not None:
        tell("timing decoding, preprocessing and backbones, a frame at a time")
        result["end_to_end"] = before.measure(rows, settings, onnx)
    write_json(_file(run), result)
    return result


def conditions_of() -> dict[str, Any]:
    """The machine, the versions and the command of a measurement."""
    return {
        "machine": machine(),
        "allowed_cores": allowed_cores(),
        "load_average": os.getloadavg()[0],
        "torch": versions()["torch"],
        "versions": {"python": platform.python_version(), **versions()},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def measured(run: Path) -> dict[str, Any] | None:
    """The last result of `bench_run` for this run folder; None where there is none."""
    return read_json(_file(run)) if _file(run).is_file() else None


def medians(result: Mapping[str, Any]) -> dict[str, float]:
    """Median latency in torch in ms per clip of each measured state."""
    return {state: result[state]["median_ms"] for state in ("plain", "compact") if state in result}


def config_of(run: Path) -> dict[str, Any]:
    """config.json of a run; empty where there is none, as where a model alone was pulled."""
    folder = RunFolder(run)
    return folder.config() if (run / "config.json").is_file() else {}


def _file(run: Path) -> Path:
    return run / "bench.json"
