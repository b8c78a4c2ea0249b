"""Two streams or more: each trained and compressed by itself, their scores averaged (late fusion).

As in two-stream networks (Simonyan and Zisserman, NIPS 2014) every stream (RGB, optical flow, ...) is a model of
its own. Here each goes through the whole of `harvib.methods.train`, on the same clips, split, seed and held-out
groups. The fused score of a clip is the weighted mean of the streams' log-probabilities: what TSN (Wang et al.,
ECCV 2016) does with scores before softmax, and the right rule where streams err independently of each other. The
weights are chosen on the validation part alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harfeat.cache import Cache
from harvib import methods
from harvib.classifier import Classifier, Spec
from harvib.data import load_parts
from harvib.devices import best_device, machine
from harvib.errors import InputError
from harvib.manner import Manner
from harvib.matching import Matched, matched
from harvib.metrics import Evaluation, by_part, evaluate
from harvib.runconfig import plain_spec, versions
from harvib.rundir import RunFolder, write_json
from harvib.settings import TrainSettings
from harvib.source import Source, opened, require_complete, source_of
from harvib.weighting import STEPS, best_weights, fuse, fused_scores
from harvib.weights import ModelCard, card_of, load_model

_NAME = re.compile(r"\w[\w-]*")
_STATES = ("plain", "masked", "compact")


class FusedClassifier(nn.Module):
    """The models of a finished fused run as one module; see `load_fused`."""

    def __init__(
        self, models: Mapping[str, Classifier], weights: Mapping[str, float], several: bool = False
    ) -> None:
        super().__init__()
        self.several = several
        self.streams = nn.ModuleDict(models)
        self.models = dict(models)
        self.weights = [weights[name] for name in models]

    def forward(self, clips: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Features (B, T, D) and lengths (B,) of each stream by its name, to (B, C) fused scores."""
        return fused_scores(
            [model(*clips[name]) for name, model in self.models.items()], self.weights, self.several
        )

    def parameter_counts(self) -> dict[str, int]:
        """Exact parameters of all streams together; the weights of the fusion, one a stream, are not counted."""
        counts = [model.parameter_counts() for model in self.models.values()]
        return {kind: sum(count[kind] for count in counts) for kind in counts[0]}


def load_fused(run: Path, state: str = "") -> tuple[FusedClassifier, dict[str, ModelCard]]:
    """The `plain`, `masked` or `compact` model of a finished fused run, and what each of its streams is.

    Without `state` it is the final one: compact, or plain where nothing was pruned. Raises InputError.
    """
    folder = RunFolder(run)
    report = folder.report()
    if not folder.streams:
        raise InputError(f"{run}: a run of a single stream: `harvib.weights.load_model` reads it")
    state = state or final_state(report)
    if state not in report:
        raise InputError(f"{run}: it has no {state} model")
    files = {name: _file(stream, state) for name, stream in folder.streams.items()}
    if state == final_state(report):
        # A folder that was pulled has its final models alone. An interrupted one may have a later one of a stream.
        files = {name: file if file.is_file() else folder.streams[name].model for name, file in files.items()}
    read = {name: load_model(file) for name, file in files.items()}
    models = {name: model for name, (model, _) in read.items()}
    weights = report[state].get("weights", {})
    if set(weights) != set(models) or not all(isinstance(value, float) for value in weights.values()):
        raise InputError(f"{run}: report.json has no weight for each stream: file damaged")
    cards = {name: card for name, (_, card) in read.items()}
    return FusedClassifier(models, weights, any(card.several for card in cards.values())).eval(), cards


def _file(stream: RunFolder, state: str) -> Path:
    return {"plain": stream.plain, "masked": stream.masked, "compact": stream.model}[state]


def final_state(report: Mapping[str, Any]) -> str:
    """Which of its states a run ends with."""
    return "compact" if "compact" in report else "plain"


def train(
    features: Sequence[Path | Source],
    split: str,
    settings: TrainSettings,
    run_dir: Path,
    init: Path | None = None,
    device: torch.device | None = None,
    allow_missing: bool = False,
    manner: Manner | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every stream into a folder of its own in `run_dir` and fuse them; the report, which stands there too.

    Clips are matched by name, in the order of the first cache; only those that all caches have are used, and
    `tell` gets a sentence for each cache that lacks some. A budget is that of the fused model (`stream_settings`).
    `init` is a finished fused run of the same streams. The same call on the same folder resumes. Where
    `manner.stop` asks in the last stream, the streams are fused as they are, in a report that says `interrupted`;
    before it there is nothing to fuse, KeyboardInterrupt. Raises InputError and CacheError, also where caches do
    not agree on a clip.
    """
    device, tell = device or best_device(), tell or (lambda note: None)
    sources = [source_of(given) for given in features]
    with ExitStack() as stack:
        pairs = [stack.enter_context(opened(source)) for source in sources]
        for cache, _ in pairs:
            require_complete(cache, allow_missing)
        names = _stream_names(sources, pairs)
        match = matched([cache for cache, _ in pairs], split)
        cards = [card_of(cache, stream) for cache, stream in pairs]
        if len({card.several for card in cards}) > 1:
            raise InputError(
                "some caches have clips with several labels and others have none: they cannot be fused"
            )
        specs = [
            plain_spec(settings, cache.dim(stream), card)
            for (cache, stream), card in zip(pairs, cards, strict=True)
        ]
        config = _config(pairs, names, split, settings, match, init)
    each = stream_settings(settings, specs)
    if init is not None and set(RunFolder(init).streams) != set(names):
        found = ", ".join(RunFolder(init).streams) or "none, it is a run of one stream"
        raise InputError(f"--init {init}: its streams ({found}) are not those of this run ({', '.join(names)})")
    for note in match.notes([str(source) for source in sources]):
        tell(note)
    folder = RunFolder(run_dir)
    folder.begin(config)
    if folder.is_finished():
        return folder.report()
    for of_an_interrupted_run in (folder.report_path, run_dir / "bench.json"):
        of_an_interrupted_run.unlink(missing_ok=True)
    sources = [dataclasses.replace(source, names=match.names) for source in sources]
    reports, interrupted, name = {}, None, ""
    for name, source, ours in zip(names, sources, each, strict=True):
        tell(f"stream {name}: {source}")
        theirs = init / name if init else None
        reports[name] = methods.train(source, split, ours, run_dir / name, theirs, device, allow_missing, manner)
        interrupted = reports[name].get("interrupted")
        if interrupted is not None and len(reports) < len(names):
            raise KeyboardInterrupt
    if len({report["parts_hash"] for report in reports.values()}) > 1:
        raise RuntimeError(f"{run_dir}: the streams were trained on different clips")
    report = _report(folder, reports, _evaluations(folder, sources, split, settings, device))
    report |= {"seed": settings.seed, "method": settings.method, "split": split}
    report |= {"device": str(device), "machine": machine(), "versions": config["versions"]}
    report["left_out"] = {name: list(lacking) for name, lacking in zip(names, match.left_out, strict=True)}
    if interrupted is not None:
        report["interrupted"] = interrupted | {"stream": name}
    write_json(folder.report_path, report)
    return report


def stream_settings(settings: TrainSettings, specs: Sequence[Spec]) -> list[TrainSettings]:
    """The settings of each stream, given the plain models; a budget is divided among them.

    Each stream may keep its smallest model and, of what the budget leaves beyond these, a share in proportion to
    what its plain model has beyond it: equal streams get equal parts. Raises InputError where no division can
    meet the budget, and for `max_drop`: how far a fused model falls does not follow from how far its streams do.
    """
    if settings.max_drop >= 0:
        raise InputError(
            "--max-drop: what the fused model loses does not follow from what each stream loses; say "
            "--target-params or --target-ratio"
        )
    if not settings.target_params and not settings.target_ratio:
        return [settings] * len(specs)
    least = [spec.smallest(settings.scales_stay, settings.units_stay) for spec in specs]
    plain = [spec.plain_size() for spec in specs]
    if settings.target_params:
        target, option = settings.target_params, f"--target-params {settings.target_params}"
    else:
        target, option = int(sum(plain) / settings.target_ratio), f"--target-ratio {settings.target_ratio:g}"
    if not sum(least) <= target < sum(plain):
        raise InputError(
            f"{option}: {target:,} parameters; it must be from {sum(least):,} to {sum(plain) - 1:,} for these "
            "streams together"
        )
    spare, room = target - sum(least), sum(plain) - sum(least)
    shares = [low + spare * (high - low) // room for low, high in zip(least, plain, strict=True)]
    return [dataclasses.replace(settings, target_params=share, target_ratio=0.0) for share in shares]


Parts = dict[str, dict[str, Evaluation]]
"""By state, then by part: what one stream's model does on the clips of `validation` and `test`."""


def _evaluations(
    folder: RunFolder, sources: Sequence[Source], split: str, settings: TrainSettings, device: torch.device
) -> list[Parts]:
    found = []
    for source, (_, stream) in zip(sources, folder.streams.items(), strict=True):
        with opened(source) as (cache, name):
            parts = load_parts(cache, split, settings.validation, settings.seed, False, name, source.names)
        report = stream.report()
        ours: Parts = {}
        for state in (state for state in _STATES if state in report):
            model = load_model(_file(stream, state))[0].to(device)
            ours[state] = {
                "validation": evaluate(model, parts.validation, device),
                "test": evaluate(model, parts.test, device),
            }
        found.append(ours)
    return found


def _report(
    folder: RunFolder, reports: Mapping[str, Mapping[str, Any]], evaluations: Sequence[Parts]
) -> dict[str, Any]:
    """Figures of the fused model in each state, in the form of an ordinary run's report, and of each stream."""
    report: dict[str, Any] = {}
    # An interrupted stream may not have all of them.
    for state in (state for state in evaluations[0] if all(state in ours for ours in evaluations)):
        parts = {part: [ours[state][part] for ours in evaluations] for part in ("validation", "test")}
        weights = best_weights(parts["validation"])
        results = {part: fuse(streams, weights) for part, streams in parts.items()}
        report[state] = {
            **by_part(results),
            "parameters": {
                kind: sum(theirs[state]["parameters"][kind] for theirs in reports.values())
                for kind in ("recurrent", "head", "total")
            },
            "inputs": sum(theirs[state]["inputs"] for theirs in reports.values()),
            "units": sum(theirs[state]["units"] for theirs in reports.values()),
            "weights": dict(zip(reports, weights, strict=True)),
        }
        # Of the last state, which is the final one.
        report["measure"] = results["test"].measure
        if not results["test"].several:
            report["confusion"] = results["test"].confusion().tolist()
    if "compact" in report:
        plain, few = (report[state]["parameters"]["total"] for state in ("plain", "compact"))
        report["ratio"] = plain / few
        if all("budget" in theirs for theirs in reports.values()):
            target = sum(theirs["budget"]["target"] for theirs in reports.values())
            report["budget"] = {"target": target, "reached": few}
    told = (*_STATES, "ratio", "budget", "compaction", "fingerprint")
    report["streams"] = {
        name: {key: theirs[key] for key in told if key in theirs} for name, theirs in reports.items()
    }
    first = next(iter(reports.values()))
    stages = {stage: sum(theirs["seconds"][stage] for theirs in reports.values()) for stage in first["seconds"]}
    return report | {"seconds": stages} | {key: first[key] for key in ("split_hash", "parts_hash")}


def _config(
    pairs: Sequence[tuple[Cache, str]],
    names: Sequence[str],
    split: str,
    settings: TrainSettings,
    match: Matched,
    init: Path | None,
) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(settings),
        "split": split,
        "init": str(init.resolve()) if init else None,
        "classes": list(pairs[0][0].classes),
        "features": " + ".join(cache.path.name for cache, _ in pairs),
        # A list, for in a JSON object they would have no order.
        "streams": [
            {"name": name, "features": cache.path.name, "stream": stream, "fingerprint": cache.fingerprint}
            for name, (cache, stream) in zip(names, pairs, strict=True)
        ],
        "clips": len(match.names),
        "clips_hash": hashlib.sha256("\n".join(match.names).encode()).hexdigest(),
        "versions": versions(),
    }


def _stream_names(sources: Sequence[Source], pairs: Sequence[tuple[Cache, str]]) -> list[str]:
    """What each stream's folder is called: as the stream; else, where two are called alike, as the file."""
    if len(sources) not in STEPS:
        raise InputError(f"{len(sources)} streams: from {min(STEPS)} to {max(STEPS)} can be fused")
    for number, (source, (_, stream)) in enumerate(zip(sources, pairs, strict=True)):
        for other, (_, theirs) in list(zip(sources, pairs, strict=True))[:number]:
            if stream == theirs and source.path.resolve() == other.path.resolve():
                raise InputError(f"--features {source}: the stream {stream} of this cache is given twice")
    labels = [re.sub(r"[^\w-]+", "-", source.label) for source in sources]
    for names in ([stream for _, stream in pairs], labels):
        if len(set(names)) == len(names) and all(_NAME.fullmatch(name) for name in names):
            return names
    return [f"stream-{number}" for number in range(1, len(sources) + 1)]
