"""Which settings a sweep runs: the words of its command to points, by a grid or at random."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harvib.errors import InputError
from harvib.settings import TrainSettings

Value = str | int | float | bool

AFTER_PLAIN = frozenset(
    {
        "method", "finetune_dropout", "beta", "beta_input", "lasso", "lasso_input", "lasso_threshold",
        "lasso_time", "lasso_epochs", "lasso_lr", "target_params", "target_ratio", "max_drop", "warmup", "distill",
        "temperature", "vib_epochs", "finetune_epochs", "keep_scales", "vib_lr", "mask_lr", "finetune_lr",
        "movement_epochs", "movement_lr",
    }
)  # fmt: skip
"""Settings that the plain model does not depend on. A setting not named here is taken to matter to it."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a random search draws a number, both ends included; on a logarithmic scale with `log`."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: np.random.Generator) -> int | float:
        """A number; fractions are rounded to four digits, so that they can be read and typed."""
        low, high = float(self.low), float(self.high)
        if self.whole and not self.log:
            return int(rng.integers(int(low), int(high), endpoint=True))
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        return (
            min(max(round(drawn), int(low)), int(high))
            if self.whole
            else min(max(float(f"{drawn:.4g}"), low), high)
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep: what is swept with its values, the seed, and all settings."""

    swept: tuple[tuple[str, Value], ...]
    settings: TrainSettings

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return _name(self.swept, self.settings.seed)

    def teacher(self) -> Point | None:
        """The run whose final model gives the soft targets, where it is not the plain model."""
        return None

    def plain(self) -> Point:
        """The run whose plain model it starts from; points that differ only in what comes later share it."""
        return Point(
            tuple(pair for pair in self.swept if pair[0] not in AFTER_PLAIN), plain_settings(self.settings)
        )


def plain_settings(settings: TrainSettings) -> TrainSettings:
    """The settings of a run that trains only the plain model which a run with `settings` starts from."""
    defaults = {name: value for name, value in dataclasses.asdict(TrainSettings()).items() if name in AFTER_PLAIN}
    return dataclasses.replace(settings, **{**defaults, "method": "plain"})


def grid_of(words: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """The values of each `field=value,value,...`. Raises InputError."""
    grid: dict[str, tuple[Value, ...]] = {}
    for word in words:
        name, values = _assigned("--grid", word, grid)
        found = tuple(_value("--grid", name, text) for text in values.split(","))
        if len(set(found)) < len(found):
            raise InputError(f"--grid {word}: a value stands there twice")
        grid[name] = found
    return grid


def ranges_of(words: Sequence[str]) -> dict[str, Range]:
    """The range of each `field=low:high` or `field=low:high:log`. Raises InputError."""
    ranges: dict[str, Range] = {}
    for word in words:
        name, text = _assigned("--range", word, ranges)
        ends, log = (text.removesuffix(":log"), text.endswith(":log"))
        kind = _types()[name]
        if kind not in (int, float) or ends.count(":") != 1:
            raise InputError(f"--range {word}: must be NUMBER=LOW:HIGH or NUMBER=LOW:HIGH:log")
        low, high = (_value("--range", name, end) for end in ends.split(":"))
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"--range {word}: the low end must be below the high one")
        if log and low <= 0:
            raise InputError(f"--range {word}: a logarithmic range must begin above 0")
        ranges[name] = Range(low, high, log, kind is int)
    return ranges


def seeds_of(text: str) -> tuple[int, ...]:
    """Seeds from `0,1,2`. Raises InputError."""
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text}: must be whole numbers with commas between them") from None
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text}: a seed stands there twice")
    return seeds


def points_of(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Value]],
    ranges: Mapping[str, Range],
    seeds: Sequence[int],
    draws: int = 0,
    search_seed: int = 0,
) -> list[Point]:
    """All runs: every combination of the grid, or `draws` drawn settings, each with every seed.

    `base` holds the settings that are not swept; alone they need not go together.
    A random search draws each value from its range, or from the values its grid names, evenly. The n-th draw
    depends on `search_seed` and n alone: more draws keep the earlier ones. Equal draws count once. Raises
    InputError where settings do not go together, before anything runs.
    """
    if draws < 0 or search_seed < 0:
        raise InputError("--random and --random-seed: must be at least 0")
    if both := sorted(grid.keys() & ranges.keys()):
        raise InputError(f"--grid and --range both name {both[0]}: give one")
    if ranges and not draws:
        raise InputError("--range: only a random search draws from it; say --random N")
    if draws and not (grid or ranges):
        raise InputError("--random: nothing to draw; say --range or --grid")
    if draws:
        chosen = list(dict.fromkeys(_drawn(grid, ranges, search_seed, number) for number in range(draws)))
    else:
        names = sorted(grid)  # so that the order of options does not change the names of runs
        combinations = itertools.product(*(grid[name] for name in names))
        chosen = [tuple(zip(names, values, strict=True)) for values in combinations]
    points = []
    for swept in chosen:
        for seed in seeds:
            changed: dict[str, Any] = {**dict(swept), "seed": seed}
            points.append(Point(swept, TrainSettings(**{**base, **changed})))
    return points


def _drawn(
    grid: Mapping[str, Sequence[Value]], ranges: Mapping[str, Range], search_seed: int, number: int
) -> tuple[tuple[str, Value], ...]:
    rng = np.random.default_rng((search_seed, number))
    values: dict[str, Value] = {}
    for name in sorted({*grid, *ranges}):
        values[name] = ranges[name].draw(rng) if name in ranges else grid[name][int(rng.integers(len(grid[name])))]
    return tuple(values.items())


def _assigned(option: str, word: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """Name and text of `name=text`, the name being that of a setting that is not yet `known`."""
    name, equals, text = word.partition("=")
    name = name.strip().replace("-", "_")
    if not (equals and text.strip()):
        raise InputError(f"{option} {word}: must be SETTING=...")
    if name == "seed":
        raise InputError(f"{option} {word}: seeds have an option of their own, --seeds")
    if name not in _types():
        raise InputError(
            f"{option} {word}: no such setting; there are {', '.join(sorted(_types().keys() - {'seed'}))}"
        )
    if name in known:
        raise InputError(f"{option} {word}: {name} stands there twice")
    return name, text


def _value(option: str, name: str, text: str) -> Value:
    kind, text = _types()[name], text.strip()
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"{option} {name}={text}: must be true or false")
        return text == "true"
    try:
        value: Value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{option} {name}={text}: not {what}") from None
    return value


def _types() -> dict[str, Any]:
    return typing.get_type_hints(TrainSettings)


def _name(swept: Sequence[tuple[str, Value]], seed: int) -> str:
    words = [f"{name}={value:g}" if type(value) is float else f"{name}={value}" for name, value in swept]
    name = ",".join([*words, f"seed={seed}"])
    # %g shortens, and a folder's name has at most 255 bytes: where either loses something, a hash tells it.
    exact = ",".join(f"{key}={value!r}" for key, value in swept)
    shortened = len(name) > 150 or any(type(v) is float and float(f"{v:g}") != v for _, v in swept)
    return f"{name[:150]},{hashlib.sha256(exact.encode()).hexdigest()[:8]},seed={seed}" if shortened else name
