"""The end-to-end model of the paper on pixels: does it train in the memory of a development machine?

    python scripts/pixels.py --data ../shared/data --work /tmp/pixels --json results/pixels.json

Extracts 8 frames of 160x120 of each of the 446 UTD-MHAD depth videos (57,600 bytes a frame), then trains LSTM-256
on them in batches of 128 clips as VIB-LSTM does (Srivastava et al., WACV 2021), with the real commands, and prints
the peak resident memory of each, as the system counted it. Few epochs: memory is the point, not accuracy.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from harfeat.provenance import versions
from harvib.devices import machine

EXTRACT = (
    r"--dataset folder --model pixels --size 160x120 --frames 8 --group-pattern _s(\\d+)_ --test-groups 2,4,6,8"
)
TRAIN = (
    "--split listed --hidden 256 --batch 128 --standardize --lr 1e-4 --vib-lr 3e-5 --mask-lr 0.5 "
    "--target-ratio 100 --plain-epochs 6 --vib-epochs 8 --finetune-epochs 6 --finetune-lr 1e-3 --device cpu"
)


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command to its end: its seconds, and the peak resident memory of its largest process in GiB."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{shlex.join(command)}: exit code {code}")
    return {
        "command": shlex.join([Path(command[0]).name, *command[1:]]),
        "seconds": round(time.monotonic() - started, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),  # Linux counts it in KiB
    }


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with utd_mhad_depth.")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Cache and run go here.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(data: Path, work: Path, to: Path | None) -> None:
    """Extract, train, write the page, and print what memory it took."""
    cache, run = work / "utd-pixels.h5", work / "run"
    if run.exists():
        raise SystemExit(f"{run} is there: the memory of a resumed run says nothing, name another --work")
    harfeat, harvib = (str(Path(sys.executable).with_name(name)) for name in ("harfeat", "harvib"))
    root = ["--root", str(data / "utd_mhad_depth"), "--out", str(cache)]
    extraction = measured([harfeat, "extract", *shlex.split(EXTRACT), *root])
    training = measured([harvib, "train", *shlex.split(TRAIN), "--features", str(cache), "--run-dir", str(run)])
    page = measured([harvib, "report", str(run)])
    report = json.loads((run / "report.json").read_text())
    states = ("plain", "masked", "compact")
    figures = {
        "cache_bytes": cache.stat().st_size,
        "extract": extraction,
        "train": training,
        "report": page,
        "results": {state: report[state] for state in states},
        "compaction": report["compaction"],
        "stage_seconds": report["seconds"],
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "machine": machine(),
        "versions": versions(),
    }
    click.echo(json.dumps(figures, indent=1))
    if to is not None:
        to.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
