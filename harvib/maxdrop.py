"""The smallest model whose validation accuracy holds: a search over parameter targets, each a run of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from harvib.budget import smallest_within
from harvib.errors import InputError
from harvib.interrupt import Stopped
from harvib.measure import score_of
from harvib.rundir import RunFolder, write_json
from harvib.weights import load_model


def within_drop(
    folder: RunFolder,
    floor: float,
    sizes: tuple[int, int],
    max_drop: float,
    run: Callable[[int, RunFolder], None],
    measure: str,
) -> dict[str, Any]:
    """The report of a run for --max-drop, written to `folder` with the models of the smallest target that holds.

    `floor` is of `measure`, accuracy or GAP@20. `sizes` are those of the plain model and of the smallest there is;
    `run` finishes the run of one target in a folder, and does nothing where it is finished. These folders lie
    below `search/` until the whole is done, so a repeated command goes on at the target where it stopped.
    InputError where no target keeps `floor`.
    """
    search = folder.path / "search"
    tried: list[dict[str, Any]] = []
    held: list[int] = []

    def passes(target: int) -> bool:
        theirs = RunFolder(search / str(target))
        run(target, theirs)
        report = theirs.report()
        validation = score_of(report["compact"])["validation"]
        tried.append({**report["budget"], "validation": validation})
        # Accuracies are shares of few clips: rounding must not fail one that is exactly at the floor.
        if validation >= floor - 1e-9:
            held.append(target)
        return target in held

    try:
        best = smallest_within(passes, *sizes)
    except Stopped as stopped:
        if held:
            least = RunFolder(search / str(min(held)))
            stopped.found = {"found": least.report()["budget"]}
            stopped.masked, stopped.model = (load_model(path)[0] for path in (least.masked, least.model))
        raise
    if best is None:
        raise InputError(
            f"--max-drop {max_drop:g}: no smaller model keeps {floor:.1%} of validation {measure}; allow a larger "
            "drop or more epochs"
        )
    chosen = RunFolder(search / str(best))
    for file in sorted(chosen.path.glob("*.safetensors")):
        shutil.copyfile(file, folder.path / file.name)
    for stage in ("vib", "lasso", "movement", "finetune"):
        folder.rewind(stage, 0)
    for row in chosen.rows():
        folder.record(dict(row))
    report = chosen.report()
    report["seconds"]["plain"] = folder.seconds("plain")
    report["epochs"] = folder.epochs()
    report["budget"] |= {"max_drop": max_drop, "tried": tried}
    write_json(folder.report_path, report)
    shutil.rmtree(search)
    folder.checkpoint.clear()
    return report
