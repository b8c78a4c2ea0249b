"""A result of `harvib bench` as text: a line a model and runtime, ratios, and what the figures are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harvib.bench.endtoend_table import end_to_end_table, sentence
from harvib.report.table import align, milliseconds

_HEAD = ("", "ms/clip", "p95", "cold", "faster", "ms/frame", "p95", "bytes", "memory")


def bench_table(result: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str:
    """All of it; `config` is that of the run, for the commands that try another backbone."""
    rows = result["rows"]
    lines = [align(sizes_of(rows)), "", align(cells_of(rows))]
    lines += reasons(rows)
    lines += result["notes"]
    if "ratio" in result:
        lines.append(f"in torch plain takes {result['ratio']:,.1f}x the time of compact (ratio of the medians)")
    lines += ["", *meanings(rows, result.get("memory")), conditions(result)]
    if "end_to_end" not in result:
        return "\n".join([*lines, result["scope"]])
    return "\n".join([*lines, "", end_to_end_table(result["end_to_end"], config or {})])


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why some rows have no figures, a line a reason."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        if "reason" in row:
            models, titles = found.setdefault(row["reason"], ({}, {}))
            models[row["model"]] = titles[row["title"]] = None
    return [f"{', '.join(models)} in {'; '.join(titles)}: {why}" for why, (models, titles) in found.items()]


def sizes_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Parameters and multiply-accumulates of each model."""
    found = [["", "parameters", "MACs/frame", "MACs/clip"]]
    for row in {row["model"]: row for row in rows}.values():
        macs = row["macs"]
        found.append([row["model"], f"{row['parameters']:,}", f"{macs['step']:,}", f"{macs['clip']:,}"])
    return found


def cells_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line a model and runtime, a head first; a dash where there is nothing. No lines of no rows."""
    return [list(_HEAD), *(_line(row) for row in rows)] if rows else []


def _line(row: Mapping[str, Any]) -> list[str]:
    clip, frame = row.get("clip"), row.get("frame")
    faster, memory = row.get("times_faster", {}).get("first"), row.get("memory", {}).get("peak_bytes")
    return [
        f"{row['model']}, {row['title']}",
        *(_ms(clip, key) for key in ("median_ms", "p95_ms", "cold_ms")),
        f"{faster:,.1f}x" if faster is not None else "-",
        *(_ms(frame, key) for key in ("median_ms", "p95_ms")),
        f"{row['bytes']:,}" if "bytes" in row else "-",
        _memory(memory),
    ]


def _memory(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def _ms(figures: Mapping[str, float] | None, key: str) -> str:
    return "-" if figures is None else milliseconds(figures[key])


def meanings(rows: Sequence[Mapping[str, Any]], memory: str | None) -> list[str]:
    """What the columns are, a sentence each, for what is there."""
    first = rows[0]
    lines = [
        f"faster: than {first['model']} in {first['title']}. cold: the first call after others had the "
        "processor's caches; median and p95 are of the call right after it.",
        "ms/frame: one more frame into a kept state, with the logits so far; - where a runtime has no such form.",
    ]
    if any("loop" in row for row in rows):
        lines.append(
            "in a loop of C: means over up to 64 clips or frames a call, about a millisecond; in the row before "
            "it each is a call from Python, which is part of the time."
        )
    kinds = dict.fromkeys(f"{row['title']}: {row['bytes_of']}" for row in rows if "bytes_of" in row)
    lines.append(f"bytes: {'; '.join(kinds)}.")
    if rounded := [row for row in rows if "agreement" in row]:
        told = ", ".join(f"{row['agreement']:.0%} ({row['model']}, {row['runtime']})" for row in rounded)
        lines.append(f"same class as in torch on random clips: {told}; accuracy: `harvib quantize`.")
    static = [f"{row['model']} {_static(row['static_bytes'])}" for row in _first_each(rows, "static_bytes")]
    if static:
        lines.append(f"C needs no other memory than, in bytes: {'; '.join(static)}.")
    lines += [f"{memory}."] if memory else []
    refused = dict.fromkeys(row["memory"]["reason"] for row in rows if "reason" in row.get("memory", {}))
    return [*lines, *refused]


def _first_each(rows: Iterable[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """Of each model the first row that has it."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if key in row:
            found.setdefault(row["model"], row)
    return list(found.values())


def _static(sizes: Mapping[str, int]) -> str:
    parts = ", ".join(f"{kind} {size:,}" for kind, size in sizes.items() if kind != "total")
    return f"{sizes['total']:,} ({parts})"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """For a page: what was measured on what, and what the columns of `cells_of` are.

    Earlier results have no rows.
    """
    told = meanings(result["rows"], result.get("memory")) if result.get("rows") else []
    if (found := result.get("end_to_end")) is None:
        return [conditions(result), *told, result["scope"]]
    return [conditions(result), *told, sentence(found)]


def conditions(result: Mapping[str, Any]) -> str:
    """One sentence: on what the figures of a result were measured."""
    used, cores = result["settings"], result.get("allowed_cores")
    pinned = "" if cores is None else ", pinned to one core" if cores == 1 else f", free to run on {cores} cores"
    about = [text for text in dict.fromkeys(result.get("runtimes", {}).values()) if not text.startswith("torch")]
    if "load_average" in result:
        pinned += f", load average {result['load_average']:.1f}"
    others = "".join(f"{text}, " for text in about)
    return (
        f"{used['repeats']} calls each, in turns, of {used['batch']} x {used['steps']} steps x "
        f"{result['features']:,} features; torch {result['torch']}, {others}threads: {used['threads']}{pinned}, "
        f"{result['machine']}."
    )
