"""Many runs: what a sweep's folder holds, who fails, and what the runs come to over their seeds.

DIR/plain/NAME   plain models, each shared by all runs that differ only in what comes after it
DIR/runs/NAME    the runs; each is the folder of one `harvib train --init ../plain/NAME`
DIR/logs/NAME    what a run printed
DIR/sweep.json, sweep.csv, sweep.html   all figures, written last
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from harfeat.cache import CacheError
from harvib import methods
from harvib.bench import BenchSettings, bench_run, measured, medians, threads
from harvib.bench.runtimes import REFERENCE
from harvib.devices import device_of
from harvib.errors import InputError
from harvib.frontier import CONFIDENCE, FIGURES, figures_of, settings_of
from harvib.measure import ACCURACY, measure_of
from harvib.points import Point
from harvib.runconfig import features_config
from harvib.rundir import RunFolder, write_json
from harvib.source import opened, require_complete, source_of
from harvib.weights import load_model, replace_synced
from harvib.workers import check, results

SELECTION = (
    "The front is chosen by parameters and mean validation {measure} alone, among settings of which every seed "
    "finished; test {measure} has no part in it."
)
_COLUMNS = ("kind", "run", "seed", *FIGURES, "error")


@dataclass(frozen=True)
class Sweep:
    """What a sweep runs on, where it goes, and who does it; `device` as in `harvib train`."""

    features: Path
    split: str
    out: Path
    device: str = "auto"
    allow_missing: bool = False
    jobs: int = 0
    backend: str = "loky"
    scheduler: str = ""
    bench: bool = False

    def absolute(self) -> Sweep:
        """The same with absolute paths: workers may stand elsewhere."""
        return dataclasses.replace(self, features=self.features.absolute(), out=self.out.absolute())


@dataclass(frozen=True)
class _Job:
    sweep: Sweep
    folder: str
    name: str
    point: Point
    init: Path | None = None
    teacher: Path | None = None


def run_sweep(sweep: Sweep, points: Sequence[Point]) -> dict[str, Any]:
    """Run all points, and return what also stands in sweep.json.

    The same call goes on where it stopped: finished runs are taken over, begun ones resumed, failed ones tried
    again. A run that fails is noted with its reason, and the others go on. Raises InputError and CacheError for
    what is wrong with the sweep as a whole, before anything is run.
    """
    sweep = sweep.absolute()
    errors = run_points(sweep, points)
    if sweep.bench:
        finished = [point.name for point in points if point.name not in errors]
        # One after the other, with nothing beside them: what runs at once disturbs each other's times.
        for name in tqdm(finished, desc="latency", unit="run"):
            folder = sweep.out / "runs" / name
            if measured(folder) is None:
                bench_run(folder, BenchSettings(), REFERENCE, memory=False)
    result = _figures(sweep, points, errors)
    write_json(sweep.out / "sweep.json", result)
    write_csv(sweep.out / "sweep.csv", result["runs"], _COLUMNS)
    return result


def run_points(sweep: Sweep, points: Sequence[Point]) -> dict[str, str]:
    """Run all points, each plain model once; why runs failed, by the run's name. Nothing finished runs again.

    Raises InputError and CacheError for what is wrong with the whole, before anything is run.
    """
    sweep = sweep.absolute()
    _check(sweep, points)
    plains = {point.name: point for point in _before(points)}
    try:
        for folder in ("plain", "runs", "logs"):
            (sweep.out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {sweep.out}: cannot be written: {error.strerror}") from error
    failed = _all(
        sweep, [_Job(sweep, "plain", name, plain) for name, plain in plains.items() if not plain.teacher()]
    )
    taught: list[_Job] = []
    for name, plain in plains.items():
        if teacher := plain.teacher():
            if teacher.name in failed:
                failed[name] = f"its teacher: {failed[teacher.name]}"
            else:
                taught.append(_Job(sweep, "plain", name, plain, teacher=sweep.out / "plain" / teacher.name))
    failed |= _all(sweep, taught)
    jobs: list[_Job] = []
    errors: dict[str, str] = {}
    for point in points:
        plain, teacher = point.plain(), point.teacher()
        if plain.name in failed:
            errors[point.name] = f"its plain model: {failed[plain.name]}"
        elif teacher and teacher.name in failed:
            errors[point.name] = f"its teacher: {failed[teacher.name]}"
        else:
            # Of a run that only trains the plain model, that has learned from the teacher already.
            by = sweep.out / "plain" / teacher.name if teacher and point.settings.method != "plain" else None
            jobs.append(_Job(sweep, "runs", point.name, point, sweep.out / "plain" / plain.name, by))
    errors |= _all(sweep, jobs)
    return errors


def _before(points: Sequence[Point]) -> list[Point]:
    """The plain models that runs start from, and the teachers."""
    return [found for point in points for found in (point.teacher(), point.plain()) if found]


def _check(sweep: Sweep, points: Sequence[Point]) -> None:
    check(sweep.jobs, sweep.backend, sweep.scheduler)
    with opened(source_of(sweep.features)) as (cache, stream):
        cache.split(sweep.split)
        require_complete(cache, sweep.allow_missing)
        common = features_config(cache, stream, sweep.split)
    device_of(sweep.device)
    for folder, point in [("plain", plain) for plain in _before(points)] + [("runs", point) for point in points]:
        run = RunFolder(sweep.out / folder / point.name)
        if not (run.path / "config.json").is_file():
            continue
        config = run.config()
        theirs = config.get("settings")
        ours = dataclasses.asdict(point.settings)
        if theirs != ours:
            found = theirs if isinstance(theirs, dict) else {}
            key = next((key for key in ours if found.get(key) != ours[key]), "settings")
            raise InputError(
                f"{run.path} holds a run with {key} = {found.get(key)!r}, not {ours.get(key)!r}; "
                "choose another --out"
            )
        for key, value in common.items():
            if config.get(key) != value:
                raise InputError(
                    f"{run.path} holds a run with {key} = {config.get(key)!r}, not {value!r}; choose another --out"
                )


def _all(sweep: Sweep, jobs: Sequence[_Job]) -> dict[str, str]:
    """Do all jobs; the reasons of those that failed, by name."""
    if not jobs:
        return {}
    errors: dict[str, str] = {}
    with tqdm(total=len(jobs), desc="plain models" if jobs[0].folder == "plain" else "runs", unit="run") as bar:
        for name, error in results(_run, jobs, sweep.jobs, sweep.backend, sweep.scheduler):
            if error is not None:
                errors[name] = error
                bar.set_postfix_str(f"{len(errors)} failed")
            bar.update()
    return errors


def _run(job: _Job) -> tuple[str, str | None]:
    """One run; its name, and why it failed."""
    sweep = job.sweep
    # A worker may outlive the process that gave it the run: the next one waits for it.
    lock = FileLock(sweep.out / "logs" / f"{job.name}.{job.folder}.lock")
    log = sweep.out / "logs" / f"{job.name}.{job.folder}.txt"
    with lock, log.open("a", encoding="utf-8") as stream, redirect_stderr(stream), threads(1):
        try:
            methods.train(
                sweep.features,
                sweep.split,
                job.point.settings,
                sweep.out / job.folder / job.name,
                job.init,
                device_of(sweep.device),
                sweep.allow_missing,
                teacher=job.teacher,
            )
            _require_readable(sweep.out / job.folder / job.name, job.folder == "plain")
        except (InputError, CacheError) as error:
            return job.name, str(error)
    return job.name, None


def _require_readable(folder: Path, shared: bool) -> None:
    """Raise InputError where what others read of a finished run is damaged; of a `shared` one also as --init."""
    run = RunFolder(folder)
    for path in (run.plain, run.model) if shared else (run.model,):
        try:
            load_model(path)
        except InputError as error:
            raise InputError(f"{error}; delete the folder {folder}: the same command trains it anew") from error


def _figures(sweep: Sweep, points: Sequence[Point], errors: Mapping[str, str]) -> dict[str, Any]:
    runs: list[dict[str, Any]] = []
    plains: dict[str, dict[str, Any]] = {}
    measure = ACCURACY
    for point in points:
        row = row_of("run", point)
        if point.name in errors:
            runs.append(row | {"error": errors[point.name]})
            continue
        folder = sweep.out / "runs" / point.name
        report, latency = RunFolder(folder).report(), measured(folder)
        times = {} if latency is None else medians(latency)
        state, measure = "compact" if "compact" in report else "plain", measure_of(report)
        runs.append(row | figures_of(report[state], times.get(state)))
        plain = point.plain()
        if state == "compact" and (plain.name not in plains or plains[plain.name]["ms"] is None):
            plains[plain.name] = row_of("plain", plain) | figures_of(report["plain"], times.get("plain"))
    runs = [*plains.values(), *runs]
    settings = settings_of(runs)
    return {
        "features": str(sweep.features),
        "split": sweep.split,
        "confidence": CONFIDENCE,
        "measure": measure,
        "selection": SELECTION.format(measure=measure),
        "failed": len(errors),
        "runs": runs,
        "settings": settings,
    }


def row_of(kind: str, point: Point, figures: Sequence[str] = FIGURES) -> dict[str, Any]:
    """A row (see harvib/frontier.py) that has no figures yet."""
    nothing = dict.fromkeys(figures)
    seed = point.settings.seed
    return {"kind": kind, "run": point.name, "swept": dict(point.swept), "seed": seed, **nothing, "error": None}


def write_csv(path: Path, runs: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as a table: what is swept, then these columns; the file is whole or not there."""
    names = list(dict.fromkeys(name for row in runs for name in row["swept"]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *columns])
    for row in runs:
        writer.writerow([*(row["swept"].get(name, "") for name in names), *(row[name] for name in columns)])
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(stream.getvalue(), encoding="utf-8")
    replace_synced(temporary, path)
