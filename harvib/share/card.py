"""The model card of a shared run, README.md: from report.json and config.json, with the Hub's front matter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harfeat.share import extract_command, fenced, flat, plain, table
from harvib import bench
from harvib.errors import InputError
from harvib.measure import measure_of, score_of
from harvib.report.run import command, result_rows, setting_rows
from harvib.report.runs import Run, read_runs
from harvib.rundir import read_json
from harvib.share.check import quantised_rows
from harvib.share.manifest import ModelManifest
from harvib.share.names import QUANTIZE

UNKNOWN = "unknown"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_SEVERAL = (
    ("gap@20", "GAP@20", "gap"),
    ("accuracy", "Hit@1", "accuracy"),
    ("perr", "PERR", "perr"),
    ("map", "mAP", "map"),
)
_JOINED = "+"


def model_card(folder: Path, manifest: ModelManifest, licence: str = UNKNOWN) -> str:
    """The text of README.md for a run folder that `check_run` has found whole. Raises InputError.

    `licence` is an identifier of the Hub, such as apache-2.0.
    """
    if not _LICENCE.fullmatch(licence):
        raise InputError(f"--license {licence}: say an identifier, as in apache-2.0, mit or cc-by-4.0")
    run, *streams = read_runs([folder])
    parts = streams or [run]
    return "\n".join(
        [
            f"---\n{_front_matter(run, parts, licence)}\n---\n",
            f"# {plain(_title(run, parts))}\n",
            *_what(run, parts),
            *_figures(run, streams),
            "## How to use\n",
            *_use(run, parts),
            "## How its features are made\n",
            *(text for part in parts for text in _features(part, part.path.name if streams else "")),
            "## How it was trained\n",
            *_training(run),
            *_latency(run),
            *(text for part in parts for text in _quantised(part)),
            "## Classes\n",
            table(("index", "class"), [(str(place), name) for place, name in enumerate(run.config["classes"])]),
            "## Limits\n",
            *_limits(run, parts),
            "## Files\n",
            table(("file", "bytes"), [(file.name, f"{file.bytes:,}") for file in manifest.files]),
            "## Identity\n",
            *_identity(run, parts, manifest),
            "## Licence\n",
            _terms(licence),
        ]
    )


def _front_matter(run: Run, parts: list[Run], licence: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415 - takes its time to import

    report, final = run.report or {}, _final(run)
    several = "gap" in final
    measured = _SEVERAL if several else (("accuracy", "accuracy", "accuracy"),)
    name = _data(parts)
    results = [
        EvalResult(
            task_type="video-classification",
            task_name="Video Classification",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown",
            dataset_name=name,
            dataset_config=str(run.config["split"]),
            dataset_split="test",
            dataset_args={key: report[key] for key in ("split_hash", "parts_hash") if key in report},
            metric_type=kind,
            metric_name=f"test {title}",
            metric_value=final[key]["test"],
            verified=False,
        )
        for kind, title, key in measured
        if key in final
    ]
    data = ModelCardData(
        license=licence,
        library_name="harvib",
        pipeline_tag="video-classification",
        tags=["harvib", "action-recognition", "model-compression", run.settings["method"], run.settings["model"]],
        metrics=[kind for kind, _, key in measured if key in final],
        model_name=_title(run, parts),
        eval_results=results,
    )
    return data.to_yaml()


def _final(run: Run) -> Mapping[str, Any]:
    figures: Mapping[str, Any] = (run.report or {})[run.states[-1]]
    return figures


def _data(parts: list[Run]) -> str:
    """The data set, where the caches tell one by name; else the first cache's file."""
    told = parts[0].config.get("dataset")
    return str(told) if told not in (None, "", "folder") else Path(parts[0].config["features"]).stem


def _title(run: Run, parts: list[Run]) -> str:
    streams = f", {len(parts)} streams" if run.fused else ""
    return f"{run.settings['model']} on {_data(parts)}, split {run.config['split']}{streams}"


def _what(run: Run, parts: list[Run]) -> list[str]:
    final, report = _final(run), run.report or {}
    dims = sum(part.report["plain"]["inputs"] for part in parts if part.report)
    cell = plain(str(run.settings["model"]))
    pruned = run.states[-1] == "compact"
    made = (
        f"trained, pruned by {plain(str(run.settings['method']))}, compacted exactly and fine-tuned"
        if pruned
        else "trained"
    )
    fewer = f", {report['ratio']:,.1f} times fewer than the plain model it came from" if pruned else ""
    streams = f" It is the fusion of {len(parts)} streams, a model each." if run.fused else ""
    return [
        f"A classifier of actions in videos ({cell}), {made} by harvib. It reads {final['inputs']:,} of {dims:,} "
        f"features a step and has {final['units']:,} units: {final['parameters']['total']:,} parameters{fewer}. "
        f"Test {measure_of(report)}: {score_of(final)['test']:.2%}.{streams}\n"
    ]


def _figures(run: Run, streams: list[Run]) -> list[str]:
    texts = ["## Figures\n", table(("", *run.states), [(name, *cells) for name, cells in result_rows(run)])]
    for stream in streams:
        rows = [(name, *cells) for name, cells in result_rows(stream)]
        texts += [f"Stream {plain(stream.path.name)}:\n", table(("", *stream.states), rows)]
    if run.fused:
        weights = ", ".join(f"{plain(name)} {weight:.3f}" for name, weight in _final(run)["weights"].items())
        texts.append(f"Weights in the fusion: {weights}, chosen on the validation part.\n")
    if "masked" in run.states:
        texts.append(
            "Masked: with all its masks, as large as the plain one; most inputs and units are shut. Compact: "
            "without what they shut, fine-tuned. Epochs were chosen on the validation part, never on the test "
            "part.\n"
        )
    return texts


def _use(run: Run, parts: list[Run]) -> list[str]:
    caches = (
        " ".join(f"--features {part.path.name}.h5" for part in parts) if run.fused else "--features features.h5"
    )
    if "backbone" in parts[0].config:
        caches = "--videos frames.h5"
    lines = [
        "harvib pull <address>                # checks every file, prints the folder: RUN below",
        f"harvib evaluate --model RUN {caches}",
    ]
    if all(_kind(part) == "video" and _JOINED not in part.config.get("stream", "") for part in parts):
        lines.append("harvib predict --model RUN video.avi")
    if run.fused:
        code = """from pathlib import Path

from harvib.fusion import load_fused

model, cards = load_fused(Path("<folder>"))
# model({stream: (features (B, T, D) float32, lengths (B,))}) -> (B, classes) scores
"""
    else:
        code = """from pathlib import Path

from harvib.weights import load_model

model, card = load_model(Path("<folder>/model.safetensors"))
# model(features (B, T, D) float32, lengths (B,)) -> (B, classes) logits; card.classes names them
"""
    return [fenced("\n".join(lines), "sh"), "From Python:\n", fenced(code.rstrip(), "python")]


def _kind(part: Run) -> str:
    return str((part.config.get("recipe") or {}).get("kind"))


def _features(part: Run, stream: str) -> list[str]:
    recipe = part.config.get("recipe") or {}
    texts = [f"Stream {plain(stream)}:\n"] if stream else []
    if told := part.config.get("backbone"):
        texts.append(
            "The run was trained on frames: `backbone.safetensors` makes the features of them, the last block of "
            f"{plain(str(told['model']))} trained and shrunk with the model (weights it began with: SHA-256 "
            f"`{str(told['weights'])[:64]}`). The frames:\n"
        )
    if found := extract_command(recipe):
        texts += [
            fenced(found, "sh"),
            "VIDEOS holds a folder a class, or say another --dataset. Weights are known by their hash, in the "
            "table; where timm cannot download them, add --weights FILE. Any other recipe makes other features, "
            "which are refused.\n",
        ]
    elif recipe:
        texts.append("They were imported, so harfeat cannot make them of a video; what is known of them:\n")
    texts.append(table(("field", "value"), flat({**recipe, "stream": part.config.get("stream", "rgb")})))
    return texts


def _training(run: Run) -> list[str]:
    report = run.report or {}
    differing = [(name, value) for name, value, differs in setting_rows(run.settings) if differs]
    epochs = ", ".join(f"{stage} {told['run']}" for stage, told in report.get("epochs", {}).items())
    versions = ", ".join(f"{name} {told}" for name, told in report["versions"].items())
    facts = [
        f"Method {plain(str(run.settings['method']))}, seed {report['seed']}"
        + (f"; epochs: {plain(epochs)}" if epochs else "")
        + f". Made with {plain(versions)}, on {plain(str(report['machine']))}. Paths are cut to their last name.\n"
    ]
    if budget := report.get("budget"):
        facts.append(f"Budget: at most {budget['target']:,} parameters; {budget['reached']:,} are left.\n")
    settings = [table(("setting", "value"), differing)] if differing else []
    told = "Settings that are not harvib's defaults:\n" if differing else "All settings are harvib's defaults.\n"
    return [*facts, told, *settings, fenced(command(run.config, "again"), "sh")]


def _latency(run: Run) -> list[str]:
    return [] if run.latency is None else ["## Latency\n", fenced(bench.bench_table(run.latency))]


def _quantised(part: Run) -> list[str]:
    path = part.path / QUANTIZE
    if not path.is_file():
        return []
    rows = [
        (file, f"{size:,}", f"{validation:.1%}", f"{test:.1%}", f"{same:.1%}")
        for _, file, size, validation, test, same in quantised_rows(read_json(path))
    ]
    return ["## In fewer bits\n", table(("file", "bytes", "validation", "test", "same class as in float"), rows)]


def _limits(run: Run, parts: list[Run]) -> list[str]:
    lines = [
        "It gives one of its classes to any clip, also to one that shows none of them."
        if "gap" not in _final(run)
        else "It scores its classes alone, and knows nothing of others.",
        "It reads features of the recipe above alone; harvib refuses others by their fingerprint.",
        "The figures are of one run with one seed, on one split; other seeds give others.",
        "Settings, sizes and epochs were chosen on groups held out of the train part, so the validation figures "
        "are better than what is to be expected; test clips had no part in it.",
        "The split is the cache's. Where clips of one source stand on both its sides, test figures are too high: "
        "`harfeat info` on the cache tells how many groups leak; the report does not.",
    ]
    if run.config["split"] == "random":
        lines.append("A split called random is drawn by clips: expect such leaks.")
    if any("backbone" in part.config for part in parts):
        lines.append("The backbone is not counted in the parameters above.")
    return ["\n".join(f"- {line}" for line in lines) + "\n"]


def _identity(run: Run, parts: list[Run], manifest: ModelManifest) -> list[str]:
    report = run.report or {}
    lines = [
        f"- fingerprint of the features{f' of {plain(part.path.name)}' if run.fused else ''}: "
        f"`{part.config['fingerprint']}`"
        for part in parts
    ]
    lines += [f"- {name}: `{report[key]}`" for name, key in (("split", "split_hash"), ("parts", "parts_hash"))]
    lines.append(f"- content: `{manifest.content}` (SHA-256 over the files that make predictions)")
    return ["\n".join([*lines, "- every file's SHA-256 stands in `manifest.json`"]) + "\n"]


def _terms(licence: str) -> str:
    named = (
        "Whoever shares this model names no licence for it."
        if licence == UNKNOWN
        else f"Whoever shares this model does so under {plain(licence)}."
    )
    return (
        f"{named} It was trained on features of videos that belong to others; the terms of that data set may bear "
        "on what is derived from it.\n"
    )
