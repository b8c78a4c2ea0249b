"""Measures that memory stays flat: extracts many small clips with the real command, then packs them.

    python scripts/memory.py --clips 10000 --json memory.json

Prints, as JSON, for the main process and for all its processes together (forkserver and decoding workers): the
resident memory (MB) once a tenth was done and at the end, the peak, and the slope in MB per 1,000 clips, a
least-squares line over the samples after the first tenth. Private memory is also summed: resident memory counts
what processes share once each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from small_clips import make_clips

from harfeat.provenance import versions
from harvib.devices import machine

OPTIONS = "--dataset folder --model test_vit --weights none --frames 2 --batch 32 --device cpu --precision float32"


def processes_of(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def memory_of(process: int) -> tuple[float, float]:
    """Resident and private memory of a process, MB; zeros once it is gone."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0, 0.0
    sizes = {key: int(size) / 1024 for key, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    return sizes.get("Rss", 0.0), sizes.get("Private_Clean", 0.0) + sizes.get("Private_Dirty", 0.0)


def watch(command: list[str], log: Path, progress: str = r"(\d+)/\d+ \[") -> list[dict[str, float]]:
    """Run a command to its end and sample its memory twice a second; `progress` finds the clips in its bar."""
    samples = []
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            # The progress bar is rewritten in place; its last state ends the log.
            done = re.findall(progress, log.read_text()[-400:])
            ours = [memory_of(one) for one in processes_of(process.pid)]
            samples.append(
                {
                    "clips": float(done[-1].replace(",", "")) if done else 0.0,
                    "main": ours[0][0],
                    "all": sum(resident for resident, _ in ours),
                    "private": sum(private for _, private in ours),
                    "processes": float(len(ours)),
                }
            )
            time.sleep(0.5)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()[-2000:]}")
    return samples


def told(samples: list[dict[str, float]], clips: int) -> dict[str, Any]:
    """Figures of an extraction; without the last samples, at which processes end one by one."""
    later = [one for one in samples if clips / 10 <= one["clips"] < clips]
    figures: dict[str, Any] = {"samples": len(later), "processes": max(one["processes"] for one in samples)}
    for key in ("main", "all", "private"):
        values = [one[key] for one in later]
        slope = np.polyfit([one["clips"] / 1000 for one in later], values, 1)[0]
        figures[key] = {
            "after_a_tenth": round(values[0], 1),
            "at_the_end": round(values[-1], 1),
            "peak": round(max(one[key] for one in samples), 1),
            "mb_per_1000_clips": round(float(slope), 3),
        }
    return figures


@click.command()
@click.option("--clips", default=10_000, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Decoding processes.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(clips: int, workers: int, to: Path | None) -> None:
    """Extract many small clips, pack them, and print how memory went."""
    with tempfile.TemporaryDirectory(prefix="harfeat-memory-") as work:
        folder = Path(work)
        make_clips(folder / "videos", clips)
        harfeat = [str(Path(sys.executable).with_name("harfeat"))]
        started = time.monotonic()
        extraction = watch(
            [*harfeat, "extract", *OPTIONS.split(), "--root", str(folder / "videos"), "--out", str(folder / "x"),
             "--workers", str(workers)], folder / "log",
        )  # fmt: skip
        seconds = time.monotonic() - started
        shards = len(list((folder / "x").glob("shard-*.h5")))
        packing = watch([*harfeat, "pack", str(folder / "x"), "--out", str(folder / "x.h5")], folder / "log")
    figures = {
        "clips": clips,
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 1),
        "shards": shards,
        "extract": told(extraction, clips),
        "pack": {"peak_main": round(max(one["main"] for one in packing), 1)},
        "samples": [{key: round(value, 1) for key, value in one.items()} for one in extraction[::10]],
    }
    click.echo(json.dumps({key: value for key, value in figures.items() if key != "samples"}, indent=1))
    if to is not None:
        to.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
