"""Command-line options from the fields of a settings dataclass: name, type, default, help, choices."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import click


def options_of(
    settings: type, skip: Collection[str] = (), names: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds one option a field; the command gets their values as keyword arguments.

    A bool becomes a pair --x / --no-x, a field without default a required option. The text stands in the field's
    metadata under `help`, allowed values under `choices`; limits are checked by the dataclass itself. Fields in
    `skip` are the command's own affair; `names` gives a field's option another name.
    """
    types = typing.get_type_hints(settings)
    names = names or {}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed([item for item in dataclasses.fields(settings) if item.name not in skip]):
            name = names.get(item.name, item.name).replace("_", "-")
            required = item.default is dataclasses.MISSING
            default = {} if required else {"default": item.default}
            command = click.option(
                f"--{name}/--no-{name}" if types[item.name] is bool else f"--{name}",
                item.name,
                type=_type_of(types[item.name], item.metadata.get("choices")),
                required=required,
                show_default=not required and item.default not in (None, ""),
                help=item.metadata["help"],
                **default,
            )(command)
        return command

    return decorate


def _type_of(kind: Any, choices: Collection[str] | None) -> Any:
    if choices:
        return click.Choice(list(choices))
    if kind in (Path, Path | None):
        return click.Path(path_type=Path)
    return str if kind == str | None else kind
