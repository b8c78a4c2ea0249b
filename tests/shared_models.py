"""Runs to share, and shared folders as somebody else may have altered them, who makes the hashes anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from harvib.bench import BenchSettings, bench_run
from harvib.share.manifest import ModelFile, dump, parse

MANIFEST = "manifest.json"


def measured(run: Path) -> bytes:
    """What bench.json holds after a quick `harvib bench` of a run."""
    bench_run(run, BenchSettings(repeats=1), "torch", memory=False)
    return (run / "bench.json").read_bytes()


def set_fields(shared: Path, **fields: Any) -> None:
    """Change the manifest without any check."""
    path = shared / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def resigned(shared: Path, drop: str = "") -> None:
    """Make the manifest fit the files that stand there now, but for `drop`."""
    manifest = parse((shared / MANIFEST).read_bytes(), "")
    names = sorted(path.relative_to(shared).as_posix() for path in shared.rglob("*.*"))
    files = tuple(
        ModelFile(name, len(content), hashlib.sha256(content).hexdigest())
        for name in names
        if name not in (MANIFEST, "README.md", drop)
        for content in [(shared / name).read_bytes()]
    )
    (shared / MANIFEST).write_bytes(dump(replace(manifest, files=files)))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the object in a file of JSON."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_tensors(path: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> None:
    """Alter tensors and metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)
