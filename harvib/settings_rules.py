"""Which settings of a run go together; each rule raises InputError with what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvib.cells import CELLS, rows_a_unit
from harvib.errors import InputError
from harvib.factorised import RANKED
from harvib.pooling.asked import KINDS as POOLINGS
from harvib.schedule import EXAMPLES

if TYPE_CHECKING:
    from harvib.settings import TrainSettings

_STACKS_OWN = (
    "layers", "bidirectional", "kernel", "project", "factorize", "rank", "ranks", "input_modes", "unit_modes",
    "blocks", "factorize_hidden", "input_init", "readout",
)  # fmt: skip
POOLINGS_OWN = ("clusters", "circulant", "circulant_diagonal", "experts", "gating", "bags", "bag_frames")
"""Settings of pooling models alone."""


def _said(name: str, value: Any) -> str:
    """A setting as it is said on the command line."""
    option = name.replace("_", "-")
    return f"--{option}" if value is True else f"--no-{option}" if value is False else f"--{option} {value}"


def check(settings: TrainSettings) -> None:
    """All rules. Raises InputError."""
    if settings.pooling is not None:
        _check_pooling(settings)
    else:
        _check_model(settings)
        _check_factors(settings)
    _check_lasso(settings)
    _check_budget(settings)
    _check_warmup(settings)
    _check_decay(settings)


def _check_pooling(settings: TrainSettings) -> None:
    for name in _STACKS_OWN:
        if (value := getattr(settings, name)) != getattr(type(settings), name):
            raise InputError(f"{_said(name, value)}: not for --model {settings.model}; leave it out")
    for name in ("bags", "bag_frames"):
        if settings.model != "dbof" and (value := getattr(settings, name)) != getattr(type(settings), name):
            raise InputError(f"{_said(name, value)}: only --model dbof has bags; leave it out")
    if settings.method not in ("vib", "plain"):
        raise InputError(f"--method {settings.method}: not for --model {settings.model}; say vib or plain")
    if settings.lasso > 0 or settings.lasso_input > 0:
        raise InputError(f"--lasso and --lasso-input: not for --model {settings.model}; leave them out")
    if settings.model != "dbof" and settings.standardize:
        raise InputError(
            f"--standardize: --model {settings.model} cannot fold it; say --normalize, or leave it out"
        )


def _check_model(settings: TrainSettings) -> None:
    for name in POOLINGS_OWN:
        if (value := getattr(settings, name)) != getattr(type(settings), name):
            raise InputError(f"{_said(name, value)}: only for --model {', '.join(POOLINGS)}; leave it out")
    kind = CELLS[settings.model]
    if not kind.STACKS and (settings.layers > 1 or settings.bidirectional):
        raise InputError(
            f"--model {settings.model} has no layers and no direction: leave out --layers and --bidirectional"
        )
    if not kind.STACKS and settings.project:
        raise InputError(f"--project: --model {settings.model} cannot stand behind one; leave --project out")
    if settings.readout not in ("auto", kind.READOUT or settings.readout):
        raise InputError(
            f"--readout {settings.readout}: --model {settings.model} has --readout {kind.READOUT} alone"
        )
    if settings.model != "conv" and settings.kernel != type(settings).kernel:
        raise InputError(f"--kernel {settings.kernel}: only --model conv has a width; leave --kernel out")


def _check_factors(settings: TrainSettings) -> None:
    if settings.structure is None:
        given = {
            "--ranks": settings.ranks,
            "--input-modes": settings.input_modes,
            "--unit-modes": settings.unit_modes,
        }
        named = [option for option, text in given.items() if text]
        numbers = ("rank", "blocks", "factors")
        named += [f"--{name}" for name in numbers if getattr(settings, name) != getattr(type(settings), name)]
        named += ["--factorize-hidden"] if settings.factorize_hidden else []
        if named:
            raise InputError(f"{named[0]}: no matrix is structured; say --factorize")
        return
    asked = f"--factorize {settings.factorize}"
    if not settings.project and not rows_a_unit(CELLS[settings.model]):
        raise InputError(f"{asked}: --model {settings.model} has no matrix that it could be; choose another model")
    if settings.layers > 1 or settings.bidirectional:
        raise InputError(f"{asked}: works with one layer in one direction, after a projection or without")
    if settings.factorize_hidden and (settings.project or settings.model == "linear"):
        raise InputError("--factorize-hidden: only where W_ih is structured too; leave it, or --project, out")
    by_norm = settings.method == "magnitude" and settings.factorize in RANKED
    if not (by_norm or settings.method in ("vib", "plain")) or settings.lasso > 0 or settings.lasso_input > 0:
        ways = "vib, magnitude or plain" if settings.factorize in RANKED else "vib or plain"
        raise InputError(f"{asked}: has no groups of weights; say --method {ways}, without lasso")


def _check_lasso(settings: TrainSettings) -> None:
    wanted = settings.lasso > 0 or settings.lasso_input > 0
    if settings.method in ("plain", "magnitude", "movement") and wanted:
        raise InputError(f"--lasso and --lasso-input: --method {settings.method} has no penalty; say vib or lasso")
    if settings.method == "lasso" and not wanted:
        raise InputError("--method lasso: --lasso and --lasso-input are both 0, so nothing is pruned")
    if settings.model == "mean" and settings.lasso > 0:
        raise InputError("--lasso: --model mean has no hidden units; say --lasso-input")
    if settings.lasso_threshold > 0 and not wanted:
        raise InputError("--lasso-threshold: --lasso and --lasso-input are both 0")


def _check_warmup(settings: TrainSettings) -> None:
    epochs = {"--finetune-epochs": settings.finetune_epochs or settings.warmup_epochs + 1}
    if settings.method == "vib":
        epochs["--vib-epochs"] = settings.vib_epochs
    if (settings.lasso > 0 or settings.lasso_input > 0) and (
        settings.method == "lasso" or settings.lasso_time == "after-vib"
    ):
        epochs["--lasso-epochs"] = settings.lasso_epochs
    if settings.method == "movement":
        epochs["--movement-epochs"] = settings.movement_epochs
    # Of the plain model when it is trained: it may come from elsewhere.
    for option, count in ({} if settings.method == "plain" else epochs).items():
        if settings.warmup_epochs >= count:
            raise InputError(f"--warmup-epochs {settings.warmup_epochs}: {option} is only {count}")


def _check_budget(settings: TrainSettings) -> None:
    if -1 < settings.max_drop < 0:
        raise InputError(f"--max-drop {settings.max_drop}: must be at least 0, or -1 for none")
    if 0 < settings.target_ratio <= 1:
        raise InputError(f"--target-ratio {settings.target_ratio}: must be above 1, or 0 for none")
    given = {
        "--target-params": settings.target_params > 0,
        "--target-ratio": settings.target_ratio > 0,
        "--max-drop": settings.max_drop >= 0,
    }
    budgets = [option for option, wanted in given.items() if wanted]
    if len(budgets) > 1:
        raise InputError(f"{budgets[0]} and {budgets[1]}: give one budget, not two")
    if budgets and settings.method == "plain":
        raise InputError(f"{budgets[0]}: --method plain prunes nothing that could meet it")
    if not budgets and settings.method in ("magnitude", "movement"):
        raise InputError(
            f"--method {settings.method}: how much is to leave? Say --target-params or --target-ratio"
        )
    lasso = settings.lasso > 0 or settings.lasso_input > 0
    if budgets and settings.method == "vib" and lasso and settings.lasso_time == "after-vib":
        raise InputError(f"{budgets[0]}: a group lasso after VIB would undo it; say --lasso-time with-vib")
    if budgets and settings.method == "vib" and settings.beta == settings.beta_input == 0:
        raise InputError(f"{budgets[0]}: --beta and --beta-input are both 0, so there is nothing to scale")


def _check_decay(settings: TrainSettings) -> None:
    for name in ("decay_examples", "decay_factor"):
        value = getattr(settings, name)
        if settings.schedule != EXAMPLES and value != getattr(type(settings), name):
            raise InputError(f"{_said(name, value)}: only --schedule {EXAMPLES} falls by it; leave it out")
