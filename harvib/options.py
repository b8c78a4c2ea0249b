"""Command-line options from the fields of a settings dataclass: name, type, default, help, choices."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harvib.errors import InputError


def options_of(settings: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds one option a field; the command gets their values as keyword arguments.

    A bool becomes a pair --x / --no-x. The text stands in the field's metadata under `help`, allowed values
    under `choices`; limits are checked by the dataclass itself.
    """
    types = typing.get_type_hints(settings)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(dataclasses.fields(settings)):
            name = item.name.replace("_", "-")
            choices = item.metadata.get("choices")
            command = click.option(
                f"--{name}/--no-{name}" if types[item.name] is bool else f"--{name}",
                item.name,
                type=click.Choice(choices) if choices else types[item.name],
                default=item.default,
                show_default=True,
                help=item.metadata["help"],
            )(command)
        return command

    return decorate


def one_kind(features: tuple[Path, ...], videos: Path | None) -> tuple[Path, ...]:
    """The caches that were named, by --features or by --videos. Raises InputError where it is neither or both."""
    if bool(features) == (videos is not None):
        raise InputError("give one of --features (a cache of features) and --videos (a cache of frames)")
    return features if videos is None else (videos,)


def require_none_given(settings: type, reason: str) -> None:
    """Raise InputError where an option of these settings was given to the running command."""
    context = click.get_current_context()
    for item in dataclasses.fields(settings):
        if context.get_parameter_source(item.name) is not ParameterSource.DEFAULT:
            raise InputError(f"--{item.name.replace('_', '-')}: {reason}")
