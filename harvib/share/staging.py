"""What of a run folder is sent, as it is sent: laid out in a folder for the time of a push."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from harfeat.share import sha256_of_file
from harvib.errors import InputError
from harvib.fusion import final_state
from harvib.report.page import page
from harvib.rundir import RunFolder, read_json, write_json
from harvib.share.check import check_onnx, damage_told, quantised_rows
from harvib.share.manifest import ModelFile, ModelManifest, StreamEntry
from harvib.share.names import CONFIG, FINAL, ONNX, PAGE, QUANTIZE, STAGES, is_stream, limit_of, travels
from harvib.share.paths import named_in, places, without_paths
from harvib.weights import write_bytes

Tell = Callable[[str], None]


def stage(run: Path, target: Path, everything: bool, tell: Tell) -> None:
    """Lay out what is sent of a finished run in the new folder `target`, without paths of this machine.

    The final model, its figures, and the ONNX files that harvib wrote into the folder; with `everything` the plain
    and the masked model too. What is left out though it is there is told. Raises InputError where the run is not
    finished, or a file names a folder of this machine.
    """
    folder, forbidden = _finished(run), places(run)
    target.mkdir(parents=True)
    _lay_out(folder, target, everything, forbidden, tell)
    for name, stream in folder.streams.items():
        if not is_stream(name):
            raise InputError(
                f"{run}: its stream {name} cannot travel under this name: letters, digits, - and _ do"
            )
        _finished(stream.path)
        (target / name).mkdir()
        _lay_out(stream, target / name, everything, forbidden, tell)
    if (run / PAGE).is_file():
        # Drawn anew: the one that is there names folders, and may be of an earlier state.
        text = page([target]).replace(str(target), "RUN")
        write_bytes(target / PAGE, text.encode())
    for path in sorted(target.rglob("*")):
        if path.suffix in (".json", ".csv", ".html", ONNX) and (place := named_in(path.read_bytes(), forbidden)):
            raise InputError(
                f"{run / path.relative_to(target)}: names {place}, a folder of this machine, so nothing is sent; "
                "move the file out of the run"
            )


def manifest_of(folder: Path) -> ModelManifest:
    """The manifest of a folder that `stage` has laid out and `check_run` has found whole."""
    run = RunFolder(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = tuple(ModelFile(name, (folder / name).stat().st_size, sha256_of_file(folder / name)) for name in names)
    for file in files:
        if file.bytes > limit_of(file.name):
            raise InputError(f"{file.name}: {file.bytes:,} bytes, at most {limit_of(file.name):,} are taken")
    config, report = run.config(), run.report()
    if not run.streams:
        return ModelManifest(files, config["fingerprint"])
    weights = report[final_state(report)]["weights"]
    return ModelManifest(
        files,
        "",
        tuple(
            StreamEntry(name, stream.config()["fingerprint"], weights[name])
            for name, stream in run.streams.items()
        ),
    )


def _finished(run: Path) -> RunFolder:
    folder = RunFolder(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: no run folder (no config.json in it); harvib train makes them")
    folder.report()
    if not folder.is_finished():
        raise InputError(f"{run}: interrupted before its final model; repeat its command, then push")
    return folder


def _lay_out(folder: RunFolder, target: Path, everything: bool, forbidden: Sequence[str], tell: Tell) -> None:
    names = [name for name in (*FINAL, *(STAGES if everything else ())) if (folder.path / name).is_file()]
    stale = _stale(folder)
    if stale:
        tell(f"{folder.path / QUANTIZE}: left out, with its files: it is of an earlier model; quantize again")
        names.remove(QUANTIZE)
    for name in names:
        source = folder.path / name
        if source.suffix == ".json":
            write_json(target / name, without_paths(read_json(source), forbidden))
        elif name != PAGE:
            _link(source, target / name)
    for source in sorted(folder.path.glob(f"*{ONNX}")):
        if source.name in stale:
            continue
        if not travels(source.name):
            tell(f"{source}: left out, for its name: letters, digits and -_. can be sent")
        elif reason := check_onnx(source):
            tell(f"{source}: left out: {reason}")
        else:
            _link(source, target / source.name)


def _stale(folder: RunFolder) -> set[str]:
    """The files of quantize.json, where that is of another model than the folder's."""
    path = folder.path / QUANTIZE
    if not path.is_file():
        return set()
    with damage_told(path):
        told = read_json(path)
        files = {file for _, file, *_ in quantised_rows(told)}
        current = told["model"] == sha256_of_file(folder.model)
    return set() if current else files


def _link(source: Path, place: Path) -> None:
    try:
        place.symlink_to(source.resolve())
    except OSError:  # Windows allows no links to everybody
        shutil.copyfile(source, place)
