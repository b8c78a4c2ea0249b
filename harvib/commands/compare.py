"""`harvib compare`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from harvib.commands.many import of_many_runs, tell
from harvib.compare import CHANGEABLE, Contest, budgets_of, methods_of, run_compare
from harvib.options import options_of
from harvib.report.compare_page import compare_notes, compare_table, write_compare_page
from harvib.report.table import align
from harvib.rivals import METHODS
from harvib.settings import TrainSettings
from harvib.sweep import Sweep


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        rows = [[name, "ours" if rival.ours else "    ", rival.title] for name, rival in METHODS.items()]
        width = max(len(title) for *_, title in rows)
        click.echo(align([[name, ours, title.ljust(width)] for name, ours, title in rows]))
        context.exit()


@click.command()
@of_many_runs
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Print the methods and end."
)
@click.option("--methods", default="all", show_default=True, metavar="NAME,NAME,...", help="Methods of --list.")
@click.option("--budgets", required=True, metavar="N,N,...", help="Parameters to end with, such as 1e3,1e4,1e5.")
@click.option("--seeds", default=3, show_default=True, help="How many seeds, from 0 on.")
@click.option(
    "--trials", default=1, show_default=True, help="Settings tried of each method; validation accuracy chooses."
)
@options_of(TrainSettings)
def compare(
    many: Sweep,
    methods: str,
    budgets: str,
    seeds: int,
    trials: int,
    **fields: Any,
) -> None:
    """Train methods to budgets of parameters, and set them side by side.

    Each run is a folder of `harvib train` in OUT/runs; the same command resumes. A method's recipe says what is
    trained and how; settings given as options replace those of all recipes (the defaults shown are not the
    recipes'). Exit code 1: finished, but some runs failed.
    """
    given = click.get_current_context().get_parameter_source
    changes = {name: value for name, value in fields.items() if given(name) is not ParameterSource.DEFAULT}
    contest = Contest(methods_of(methods), budgets_of(budgets), seeds, trials, changes)
    result = run_compare(many, contest)
    page = write_compare_page(many.out, result)
    tell(result, compare_table(result), compare_notes(result), page)


# What is trained is the recipes' affair.
_THEIRS = TrainSettings.__dataclass_fields__.keys() - CHANGEABLE
compare.params = [option for option in compare.params if option.name not in _THEIRS]
