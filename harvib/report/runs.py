"""The runs of a page: finished, interrupted, or not finished yet, as their folders tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harfeat.cache import DEFAULT_STREAM
from harvib import bench
from harvib.errors import InputError
from harvib.interrupt import interruption
from harvib.measure import ACCURACY, measure_of
from harvib.pooling.asked import KINDS as POOLINGS
from harvib.report.table import STATES
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.source import Source


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder as it is now. `report` is None until the run is finished, `latency` until it is measured."""

    name: str
    path: Path
    config: Mapping[str, Any]
    report: Mapping[str, Any] | None
    latency: Mapping[str, Any] | None
    rows: Sequence[Mapping[str, str]]

    @property
    def features(self) -> str:
        """The cache it was trained on, with the stream where that must be said; of a fused run, all."""
        return " + ".join(features_of(self.config))

    @property
    def fused(self) -> bool:
        """Whether it is the fusion of several streams, each a run of its own."""
        return "streams" in self.config

    @property
    def pools(self) -> bool:
        """Whether its model is a pooling one."""
        return self.settings["model"] in POOLINGS

    @property
    def states(self) -> list[str]:
        """Those of plain, masked and compact that it has figures of; the last is its final model."""
        return [state for state in STATES if self.report is not None and state in self.report]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings; of an older run's config, those that it does not know yet are at their defaults."""
        return dataclasses.asdict(TrainSettings()) | dict(self.config["settings"])

    @property
    def note(self) -> str:
        """One sentence where the run is not one that ended by itself; else empty."""
        if self.report is None:
            epochs = f"{len(self.rows)} epochs so far" if self.rows else "no epoch is recorded yet"
            return f"Not finished: {epochs}, no report.json. The command that began it resumes it."
        if (line := interruption(self.report)) is None:
            return ""
        reason = self.report["interrupted"].get("not_pruned")
        return f"{line[0].upper()}{line[1:]}{f'; nothing is pruned: {reason}' if reason else ''}."


def features_of(config: Mapping[str, Any]) -> list[str]:
    """What `--features` was of the run with this config, or of each of its streams.

    The stream is left out where it is the usual one, and the only one as far as the config tells.
    """
    streams = config.get("streams", [config])
    files = [told["features"] for told in streams]
    found = []
    for told in streams:
        stream, held = told.get("stream", DEFAULT_STREAM), told.get("recipe", {}).get("streams")
        several = files.count(told["features"]) > 1 or (isinstance(held, Mapping) and len(held) > 1)
        found.append(str(Source(Path(told["features"]), stream if several or stream != DEFAULT_STREAM else "")))
    return found


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs of these folders, each once, in their order; a fused run is followed by those of its streams.

    Raises InputError where a folder holds no run, or a damaged one.
    """
    found = [path for given in paths for path in (given, *_streams(given))]
    unique = list({path.resolve(): path for path in found}.values())
    names = _names([path.resolve() for path in unique])
    return [_read(name, path) for name, path in zip(names, unique, strict=True)]


def _streams(path: Path) -> list[Path]:
    """The folders of a fused run's streams, as far as they have begun."""
    streams = [stream.path for stream in RunFolder(path).streams.values()]
    return [stream for stream in streams if (stream / "config.json").is_file()]


def _read(name: str, path: Path) -> Run:
    folder = RunFolder(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no run folder (no config.json in it); harvib train makes them")
    config = folder.config()
    if not {"settings", "features", "split", "classes"} <= config.keys():
        raise InputError(f"{path}: config.json lacks what a run's has: damaged, or of something else")
    if not folder.report_path.is_file():
        return Run(name, path, config, None, None, folder.rows())
    report = folder.report()
    if "plain" not in report:
        raise InputError(f"{path}: report.json has no figures: damaged, or of something else")
    if "confusion" not in report and not report.get("interrupted") and measure_of(report) == ACCURACY:
        raise InputError(f"{path}: report.json has no confusion matrix, an earlier harvib wrote it: train again")
    return Run(name, path, config, report, bench.measured(path), folder.rows())


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
