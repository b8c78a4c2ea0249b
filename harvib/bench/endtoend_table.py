"""What stands before the classifier, as text: shares of each part, one sentence on them, and smaller backbones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from harvib.report.table import align, milliseconds

_PARTS = ("decode", "preprocess", "backbone", "classifier")
_STATES = ("plain", "compact")
_NOUNS = {"decode": "decoding", "preprocess": "preprocessing"}
_TITLES = {"torch": "torch", "onnx": "onnxruntime"}


def end_to_end_table(found: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """All of it; `config` is that of the run, for the commands that measure another backbone's accuracy."""
    lines = [f"From video to logits, ms a clip of {found['steps']} frames", align(total_cells(found)), ""]
    lines += [sentence(found), *_about(found), ""]
    if found["candidates"]:
        lines += ["Other backbones, ms a frame, random weights", align(backbone_cells(found)), *_reasons(found)]
        lines += ["Their accuracy is another matter: extract again, and train again:"]
        lines += [f"  {line}" for line in commands(found, config)]
    return "\n".join(lines).rstrip()


def _totals(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """In one order, wherever the result comes from: files have their keys sorted."""
    return [(runtime, found["totals"][runtime]) for runtime in _TITLES if runtime in found["totals"]]


def total_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A line a part, two columns a runtime and state: milliseconds and share."""
    columns = [
        (f"{_TITLES[runtime]}, {state}", states[state])
        for runtime, states in _totals(found)
        for state in _STATES
        if state in states
    ]
    rows = [["", *(cell for title, _ in columns for cell in (title, "share"))]]
    for part in _PARTS:
        line = [part]
        for _, told in columns:
            ms, share = told["ms"][part], told["share"][part]
            line += ["-", "-"] if ms is None else [milliseconds(ms), f"{share:.1%}"]
        rows.append(line)
    return [*rows, ["total", *(cell for _, told in columns for cell in (milliseconds(told["ms"]["total"]), ""))]]


def sentence(found: Mapping[str, Any]) -> str:
    """What the parts are of the whole, before and after compression, and so what to make smaller next."""
    said: list[str] = []
    largest: set[str] = set()
    for runtime, states in _totals(found):
        final = states.get("compact") or next(iter(states.values()))
        shares = {part: share for part, share in final["share"].items() if share is not None}
        most = max(shares, key=shares.__getitem__)
        largest.add(_NOUNS.get(most, f"the {most}"))
        text = f"in {_TITLES[runtime]} the backbone is {shares['backbone']:.1%} of a clip's time, the classifier "
        text += f"{shares['classifier']:.2%}"
        if "plain" in states and "compact" in states:
            plain = states["plain"]
            took, takes = (milliseconds(told["ms"]["total"]) for told in (plain, final))
            text += f" (plain {plain['share']['classifier']:.2%}; a clip took {took} ms and takes {takes})"
        said.append(text)
    after = any("compact" in states for states in found["totals"].values())
    told = f"The largest part is {' or '.join(sorted(largest))}"
    if largest == {"the backbone"}:
        told = "What makes it faster now is a smaller backbone"
    return f"{'After compression, ' if after else ''}{'; '.join(said)}. {told}."


def _about(found: Mapping[str, Any]) -> list[str]:
    """What the figures are of."""
    own, (height, width) = found["backbone"], found["frame_size"]
    lines = [
        "preprocess and backbone: one frame a call, as in a stream, times the frames of the clip; classifier: the "
        "clip in one call."
    ]
    if found["video"] is None:
        lines.append(f"Random frames of {width}x{height}; decoding is not measured: name a file by --video.")
    else:
        video = found["video"]
        lines.append(
            f"decode: all {video['source_frames']} frames of {video['file']}, {width}x{height}, by FFmpeg; "
            f"{video['frames']} of them are taken."
        )
    whole, small = own["costs"]["whole"], own["costs"].get("small")
    costs = f"{own['name']}: {_costs(whole)}"
    if small is not None:
        costs += f"; without what the compact model does not read {_costs(small)}"
    if own["why_not_smaller"]:
        costs += f" ({own['why_not_smaller']})"
    return [*lines, f"{costs}."]


def _costs(costs: Mapping[str, int]) -> str:
    return (
        f"{costs['features']:,} features, {costs['parameters']:,} parameters, {costs['multiply_adds'] / 1e6:,.1f} "
        "million multiply-adds a frame"
    )


def backbone_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A line a backbone, the run's own first."""
    rows = [["", "features", "parameters", "multiply-adds", "torch", "p95", "onnxruntime", "p95"]]
    parts = [(found["backbone"], part) for part in found["backbone"]["costs"]]
    for own, part in [*parts, *((other, "whole") for other in found["candidates"])]:
        costs = own["costs"][part]
        line = [f"{own['name']}{', shrunk' if part == 'small' else ''}", f"{costs['features']:,}"]
        line += [f"{costs['parameters']:,}", f"{costs['multiply_adds'] / 1e6:,.1f}M"]
        for runtime in ("torch", "onnx"):
            times = own.get(runtime, {}).get(part)
            line += ["-" if times is None else milliseconds(times[key]) for key in ("median_ms", "p95_ms")]
        rows.append(line)
    return rows


def _reasons(found: Mapping[str, Any]) -> list[str]:
    every = [found["backbone"], *found["candidates"]]
    return [told["onnx"]["reason"] for told in every if "reason" in told.get("onnx", {})]


def commands(found: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The two that measure the accuracy with the smallest of the candidates."""
    fewest = min(found["candidates"], key=lambda other: other["costs"]["whole"]["multiply_adds"])["name"]
    sampling = (config.get("recipe") or {}).get("sampling") or {}
    cache = f"{config.get('dataset') or 'features'}-{fewest}.h5"
    words = ["harfeat", "extract", "--dataset", config.get("dataset") or "folder", "--root", "VIDEOS"]
    words += ["--model", fewest]
    if sampling.get("rule"):
        words += ["--sampling", sampling["rule"]]
    if count := sampling.get("frames", sampling.get("limit")):
        words += ["--frames", str(count)]
    train = ["harvib", "train", "--features", cache, "--split", str(config.get("split", "SPLIT"))]
    return [shlex.join([*words, "--out", cache]), shlex.join(train)]
