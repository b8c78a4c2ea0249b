"""The `harfeat` command."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from harfeat.errors import InputError
from harfeat.interruptions import sigterm_as_ctrl_c

_COMMANDS = {
    "datasets": "datasets:datasets",
    "diff": "diff:diff_command",
    "download": "download:download_command",
    "export": "export:export_command",
    "extract": "extract:extract_command",
    "import": "import_:import_command",
    "info": "info:info",
    "merge": "merge:merge_command",
    "pack": "pack:pack_command",
    "pull": "pull:pull_command",
    "push": "push:push_command",
    "split": "split:split_command",
    "status": "status:status_command",
    "verify": "verify:verify_command",
    "weights": "weights:weights_command",
}
"""Module and function of each command, imported when it is asked for: torch alone takes seconds to import."""


_RESUMED = frozenset({"download", "extract", "import", "pull", "push"})
"""Commands that go on where they were interrupted; the others start over, and had written nothing."""


class _Group(click.Group):
    """Prints a user's error as one line and ends with exit code 2; an interruption ends with 130."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"harfeat.commands.{module}"), name)
        return command

    # What a scheduler sends before it kills: workers are stopped and finished clips kept, as on Ctrl-C.
    @sigterm_as_ctrl_c()
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "harfeat"
            text = " ".join(error.format_message().split())  # choices stand on lines of their own
            click.echo(f"harfeat: {text.removesuffix('.')}. See `{command} --help`.", err=True)
            sys.exit(2)
        except InputError as error:
            click.echo(f"harfeat: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would only spoil the end
            end = "; the same command resumes" if ctx.invoked_subcommand in _RESUMED else ""
            click.echo(f"harfeat: interrupted{end}", err=True)
            sys.exit(130)


@click.group("harfeat", cls=_Group)
@click.version_option(package_name="harfeat", message="%(prog)s %(version)s")
def main() -> None:
    """Turn human-action videos into feature caches that can be trusted and shared."""
