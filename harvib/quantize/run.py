"""The final model of a run in fewer bits: a file a scheme, and what each costs, measured on the written file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from harvib.bench import BenchSettings, interleaved, per_clip, random_clips, threads
from harvib.classifier import Classifier
from harvib.data import Parts, load_parts
from harvib.devices import machine
from harvib.errors import InputError
from harvib.evaluate import require_same_kind
from harvib.export.matrices import Float32
from harvib.export.onnx import to_onnx
from harvib.export.torch import compact_form
from harvib.measure import ACCURACY, measure_of, score_of
from harvib.metrics import Evaluation, by_part, evaluate
from harvib.models import SequenceClassifier, recurrent
from harvib.onnxfile import SUFFIX, OnnxClassifier, load_onnx, read_onnx
from harvib.quantize.calibration import observed
from harvib.quantize.schemes import SCHEMES
from harvib.quantize.settings import QuantizeSettings
from harvib.report.table import align
from harvib.runconfig import versions
from harvib.rundir import RunFolder, model_file, read_json, write_json
from harvib.source import Source, opened, source_of
from harvib.weights import load_model, write_bytes

FILE = "quantize.json"
_PARTS = ("validation", "test")
_CPU = torch.device("cpu")


def quantize_run(
    run: Path,
    features: Path | Source,
    schemes: Sequence[str] | None = None,
    out: Path | None = None,
    settings: QuantizeSettings | None = None,
) -> dict[str, Any]:
    """Write the final model of a finished run by each of `schemes` to `out`, else into the run.

    `schemes` are names of SCHEMES; None: all that the model can have, for a structured matrix has no product of
    whole numbers.
    Returns what quantize.json beside the files then holds: under `float` and, by name, `schemes`: accuracy and
    loss on validation and test (those of the run), bytes of the file and of all numbers in it, parameters, median
    latency in ms a clip, and for a scheme `latency_ratio` (its median over that of the float model) and
    `agreement`, the share of validation and test clips that both give the same class. `runtime` is the float model
    in onnxruntime: what of the latency is due to the runtime alone. Schemes of earlier calls stay where the model
    is the same. Raises InputError.
    """
    settings = settings or QuantizeSettings()
    if schemes is not None:
        _require_known(schemes)
    folder = _finished(run)
    model, card = load_model(folder.model)
    instead = "; `harvib export --quantize int8` rounds its weights"
    small = compact_form(recurrent(model, f"{run}: quantising", instead))
    chosen = _possible(small) if schemes is None else schemes
    where = out or run
    if where.exists() and not where.is_dir():
        raise InputError(f"--out {where}: is a file; name a folder")
    source = source_of(features)
    with opened(source, card.stream) as (cache, stream):
        require_same_kind(source, cache, stream, card)
        if cache.dim(stream) != model.spec.features:
            raise InputError(f"{source}: {cache.dim(stream)} values a row, the model reads {model.spec.features}")
        config = folder.config()
        parts = load_parts(
            cache, config["split"], config["settings"]["validation"], config["settings"]["seed"], stream=stream
        )
    if parts.parts_hash != config["parts_hash"]:
        raise InputError(f"{source}: its clips are not those that {run} was trained and selected on")

    seen = observed(small, parts.train)
    blobs = {name: _bytes(to_onnx(small, card, SCHEMES[name], seen)) for name in chosen}
    with threads(settings.threads):
        before = _evaluations(model, parts)
        classifiers: dict[str, OnnxClassifier] = {}
        figures: dict[str, Any] = {}
        for name, blob in blobs.items():
            path = where / f"{name}{SUFFIX}"
            with _told(where):
                write_bytes(path, blob)
            classifiers[name], _ = load_onnx(path)
            after = _evaluations(classifiers[name], parts)
            figures[name] = _figures(after) | {
                "file": path.name,
                "file_bytes": path.stat().st_size,
                "weight_bytes": _weight_bytes(onnx.load_model_from_string(blob)),
                "parameters": classifiers[name].parameter_counts(),
                "agreement": _agreement(before, after),
            }
        steps = int(max(parts.test.offsets[clip + 1] - parts.test.offsets[clip] for clip in parts.test.clips))
        floats, _ = read_onnx(_bytes(to_onnx(small, card, Float32())), "the model in float32")
        measure = BenchSettings(steps, 1, settings.repeats, settings.threads)
        runners = {"float": model, "runtime": floats, **classifiers}
        taken = interleaved(runners, random_clips(model.spec.features, measure), settings.repeats)
    medians = {name: per_clip(seconds, 1)["median_ms"] for name, seconds in taken.items()}
    for name, found in figures.items():
        found |= {"median_ms": medians[name], "latency_ratio": medians[name] / medians["float"]}
    digest = hashlib.sha256(folder.model.read_bytes()).hexdigest()
    result = {
        "float": _figures(before)
        | {
            "file_bytes": folder.model.stat().st_size,
            "weight_bytes": sum(value.nbytes for value in model.state_dict().values()),
            "parameters": model.parameter_counts(),
            "median_ms": medians["float"],
        },
        "runtime": {"median_ms": medians["runtime"], "latency_ratio": medians["runtime"] / medians["float"]},
        "schemes": _earlier(where, digest) | figures,
        "measure": before["test"].measure,
        "model": digest,
        "fingerprint": card.fingerprint,
        "parts_hash": parts.parts_hash,
        "settings": asdict(measure),
        "machine": machine(),
        "versions": versions() | {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    }
    with _told(where):
        write_json(where / FILE, result)
    return result


def quantize_table(result: Mapping[str, Any]) -> str:
    """The result as text: a line a model, and what the times are."""
    measure = "" if measure_of(result) == ACCURACY else f" {measure_of(result)}"
    parts = [f"{part}{measure}" for part in _PARTS]
    head = ["", "bytes", "weights", *parts, "same class", "ms/clip", "time"]
    rows = [head, _line("float", result["float"])]
    rows += [_line(name, result["schemes"][name]) for name in SCHEMES if name in result["schemes"]]
    used = result["settings"]
    return "\n".join(
        [
            align(rows),
            f"{result['float']['parameters']['total']:,} parameters; bytes: of the file, and of all numbers in it",
            f"time: float is torch; the same in onnxruntime takes {result['runtime']['latency_ratio']:.2f}x",
            f"{used['repeats']} calls each, in turns, of 1 x {used['steps']} steps; threads: {used['threads']}, "
            f"{result['machine']}.",
        ]
    )


def _line(name: str, figures: Mapping[str, Any]) -> list[str]:
    quantised = "agreement" in figures
    return [
        name,
        f"{figures['file_bytes']:,}",
        f"{figures['weight_bytes']:,}",
        *(f"{score_of(figures)[part]:.1%}" for part in _PARTS),
        f"{figures['agreement']:.1%}" if quantised else "",
        f"{figures['median_ms']:.3f}",
        f"{figures['latency_ratio']:.2f}x" if quantised else "",
    ]


def _require_known(schemes: Sequence[str]) -> None:
    unknown = [name for name in schemes if name not in SCHEMES]
    if unknown or not schemes:
        given = unknown[0] if unknown else "nothing"
        raise InputError(f"--to {given}: choose from {', '.join(SCHEMES)}")


def _possible(model: SequenceClassifier) -> list[str]:
    return [name for name, scheme in SCHEMES.items() if model.spec.factor is None or not scheme.ROUNDS_INPUTS]


@contextmanager
def _told(where: Path) -> Iterator[None]:
    """A folder that cannot be written, full or read-only, as a user's error."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {where}: cannot be written: {error.strerror or error}") from error


def _finished(run: Path) -> RunFolder:
    folder = RunFolder(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    model_file(run)  # refuses fused runs, naming the folders of their streams
    folder.report()
    if not folder.is_finished():
        raise InputError(f"{run}: interrupted before its final model; repeat its command, then quantize")
    if folder.backbone.is_file():
        raise InputError(
            f"{run}: a run on videos reads the features of its own backbone: it cannot be quantised yet"
        )
    return folder


def _evaluations(model: Classifier | OnnxClassifier, parts: Parts) -> dict[str, Evaluation]:
    return {part: evaluate(model, getattr(parts, part), _CPU) for part in _PARTS}


def _figures(results: Mapping[str, Evaluation]) -> dict[str, Any]:
    return by_part(results)


def _agreement(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> float:
    same = [before[part].predictions == after[part].predictions for part in _PARTS]
    return float(sum(part.sum() for part in same) / sum(len(part) for part in same))


def _bytes(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


def _weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all stored numbers: codes, steps, biases, indices of inputs, constants of the operators."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def _earlier(where: Path, digest: str) -> dict[str, Any]:
    """Schemes of earlier calls on the same model whose files are still there."""
    if not (where / FILE).is_file():
        return {}
    old = read_json(where / FILE)
    if old.get("model") != digest:
        return {}
    return {name: told for name, told in old["schemes"].items() if (where / str(told["file"])).is_file()}
