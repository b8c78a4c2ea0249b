"""Whether a folder holds a whole model: every file is read as its users read it, and they agree on what it is.

A push looks before it sends, a pull before it says where the model is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harfeat.cache import fingerprint_of
from harfeat.share import sha256_of_file
from harvib import bench
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.fusion import final_state, load_fused
from harvib.measure import score_of
from harvib.onnxfile import FORMAT as CLASSIFIER
from harvib.onnxfile import load_onnx, needs_onnx, read_metadata
from harvib.report.classes import class_figures
from harvib.report.run import command, result_rows, setting_rows
from harvib.report.runs import Run, read_runs
from harvib.report.table import report_table
from harvib.rundir import COLUMNS, RunFolder, read_json
from harvib.settings import TrainSettings
from harvib.share.manifest import ModelManifest
from harvib.share.names import CONFIG, METRICS, ONNX, QUANTIZE, REPORT, STAGES
from harvib.weights import ModelCard, load_model, read_tensors

_DAMAGE = (AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What reading JSON whose fields are missing, or are something else, raises."""


def check_run(folder: Path, manifest: ModelManifest) -> None:
    """Raise InputError, one line, where the folder is not the whole and consistent model of the manifest."""
    run = RunFolder(folder)
    with damage_told(folder / CONFIG):
        streams = run.streams
    if tuple(streams) != tuple(stream.name for stream in manifest.streams):
        raise InputError(f"{folder}: the streams of its config.json are not those of its manifest: file altered")
    with damage_told(folder / REPORT):
        finished = run.is_finished()
        report_table(run.report())
    if not finished:
        raise InputError(f"{folder}: its report is of a run that is not finished")
    if not streams:
        _check_model(run, manifest.fingerprint)
    else:
        for stream in manifest.streams:
            _check_model(streams[stream.name], stream.fingerprint)
        _check_fusion(run, manifest)
    with damage_told(folder / CONFIG):
        runs = read_runs([folder])
    for found in runs:
        with damage_told(found.path):
            _check_shown(found)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Errors of reading what a file of JSON holds, as one line that names it."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path}: lacks what a run's has, or holds something else ({what:.120})") from error


def check_onnx(path: Path) -> str:
    """Why this is no ONNX file of harvib that can be used; "" where it is one."""
    try:
        needs_onnx()
        read_metadata(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _check_model(run: RunFolder, fingerprint: str) -> None:
    """The run of one model: what its config, report, weights and other files say of it must be the same."""
    config, report = run.config(), run.report()
    model, card = load_model(run.model)
    with damage_told(run.path / CONFIG):
        _agree(run.path, "classes", tuple(config["classes"]), card.classes)
        _agree(run.path, "stream", config.get("stream", card.stream), card.stream)
        for where in (fingerprint, config["fingerprint"], report["fingerprint"]):
            _agree(run.path, "fingerprint", where, card.fingerprint)
        if "recipe" in config:
            _agree(run.path, "recipe", fingerprint_of(config["recipe"]), card.fingerprint)
        videos = "backbone" in config
    with damage_told(run.path / REPORT):
        state, figures = final_state(report), report[final_state(report)]
        _agree(run.path, "kind of model", state, model.spec.state)
        _agree(run.path, "parameters", figures["parameters"]["total"], model.parameter_counts()["total"])
    if videos != run.backbone.is_file():
        raise InputError(f"{run.path}: a run on videos has a backbone.safetensors, and no other has: file missing")
    if videos:
        _check_backbone(run, model)
    _check_stages(run, card)
    with damage_told(run.path / METRICS):
        run.epochs()
        for row in run.rows():
            for column in COLUMNS[1:]:
                float(row.get(column) or "nan")
    _check_figures(run)
    for path in sorted(run.path.glob(f"*{ONNX}")):
        _check_exported(path, card)


def _check_fusion(run: RunFolder, manifest: ModelManifest) -> None:
    fused, _ = load_fused(run.path)
    if fused.weights != [stream.weight for stream in manifest.streams]:
        raise InputError(f"{run.path}: the weights of its report are not those of its manifest: file altered")
    with damage_told(run.path / CONFIG):
        for stream in run.streams.values():
            _agree(run.path, "classes", run.config()["classes"], stream.config()["classes"])


def _check_shown(run: Run) -> None:
    """Read all that pages and cards show of a run."""
    for name, default in dataclasses.asdict(TrainSettings()).items():
        value = run.settings[name]
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise TypeError(f"the setting {name} is {value!r}")
    setting_rows(run.settings)
    result_rows(run)
    command(run.config, "again")
    if confusion := (run.report or {}).get("confusion"):
        class_figures(confusion, run.config["classes"])
    if run.latency is not None:
        bench.bench_table(run.latency)


def _check_backbone(run: RunFolder, model: Classifier) -> None:
    from harvib.backbones import load_backbone  # noqa: PLC0415 - timm takes a second to import

    _agree(run.path, "features of the backbone", len(load_backbone(run.path).block.kept), model.spec.features)


def _check_stages(run: RunFolder, card: ModelCard) -> None:
    for name in STAGES:
        path = run.path / name
        if not path.is_file():
            continue
        if path.stem.endswith("-block"):
            read_tensors(path)
            continue
        model, theirs = load_model(path)
        _agree(path, "kind of model", model.spec.state, path.stem)
        _agree(path, "classes", theirs.classes, card.classes)
        _agree(path, "fingerprint", theirs.fingerprint, card.fingerprint)


def _check_figures(run: RunFolder) -> None:
    path = run.path / QUANTIZE
    if not path.is_file():
        return
    with damage_told(path):
        told = read_json(path)
        quantised_rows(told)
        same = told["model"] == sha256_of_file(run.model)
    if not same:
        raise InputError(f"{path}: is of another model: quantize again, or delete it")


def quantised_rows(told: Mapping[str, Any]) -> list[tuple[str, str, int, float, float, float]]:
    """Of quantize.json by scheme: name, file, its bytes, scores on validation and test, agreement."""
    rows = []
    for name, figures in sorted(told["schemes"].items()):
        score = score_of(figures)
        numbers = (float(score["validation"]), float(score["test"]), float(figures["agreement"]))
        rows.append((str(name), str(figures["file"]), int(figures["file_bytes"]), *numbers))
    return rows


def _check_exported(path: Path, card: ModelCard) -> None:
    try:
        needs_onnx()
    except InputError:
        return  # nobody here can run it, and who can reads it first
    told = read_metadata(path)
    with damage_told(path):
        theirs = load_onnx(path)[1] if told["format"] == CLASSIFIER else ModelCard.told(told)
        _agree(path, "classes", theirs.classes, card.classes)
        _agree(path, "fingerprint", theirs.fingerprint, card.fingerprint)


def _agree(where: Path, what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        told, other = (
            f"{len(value)} of them" if what == "classes" else f"{value!r:.60}" for value in (found, wanted)
        )
        raise InputError(f"{where}: its files do not agree on the {what} ({told} and {other}): file altered")
