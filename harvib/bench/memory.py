"""Peak memory of a prepared model, each in a child process of its own; see harvib/resident.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvib import resident
from harvib.bench.runtimes.base import Resident, UnavailableError

MEANING = (
    "memory: the peak of resident memory of a process of its own that loads the model and runs it three times, "
    "beyond what it held with the runtime imported and a clip ready"
)


@dataclass(frozen=True)
class Job:
    """The models of all streams, and how many values a step each reads."""

    models: Sequence[Resident]
    features: Sequence[int]


def peak(job: Job, batch: int, steps: int, threads: int) -> dict[str, int]:
    """`peak_bytes` beyond what the process held before, and `process_bytes` in all. Raises UnavailableError."""
    if not resident.is_possible():
        raise UnavailableError("peak memory can only be measured on Linux")
    parts = [{"features": width, **model.arguments} for model, width in zip(job.models, job.features, strict=True)]
    told = json.dumps({"loader": job.models[0].loader, "parts": parts, "shape": [batch, steps, threads]})
    done = subprocess.run(
        [sys.executable, "-m", "harvib.resident", told],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UnavailableError(f"its peak memory could not be measured: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"peak_bytes": int(found["peak"]), "process_bytes": int(found["process"])}


def _path() -> str:
    """So that the child imports the harvib that runs here, wherever it was started from."""
    root = str(Path(resident.__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
