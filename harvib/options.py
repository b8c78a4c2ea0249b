"""Command-line options from the fields of a settings dataclass: name, type, default, help, choices."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import click


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
