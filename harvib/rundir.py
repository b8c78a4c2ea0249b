"""The run folder: settings, figures and weights of one training run.

config.json            everything needed to repeat the run
metrics.csv            one row an epoch
plain.safetensors      the plain model
masked.safetensors     the model with its masks, after VIB training
model.safetensors      the final model: compact and fine-tuned, or plain where nothing was pruned
backbone.safetensors   of a run on videos: the backbone that makes the final model's features
*-block.safetensors    of a run on videos: the last block of the backbone that belongs to plain and masked model
maps/                  of an unfinished run on videos: what the backbone's trunk made of all frames
budget.json            the strength that met a parameter budget
report.json            written last: where it stands, and does not say "interrupted", the run is finished
last/                  the state of an unfinished stage
tensorboard/           the figures of metrics.csv for TensorBoard, where asked for
*.onnx, quantize.json  the final model in 8 or 4 bits, and its figures, where `harvib quantize` was run
manifest.json, README.md  of a folder that was pulled: its files with their hashes, the model card

A fused run has config.json and report.json, and in a folder of its own the run of each stream.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvib.checkpoint import Checkpoint
from harvib.errors import InputError
from harvib.interrupt import Provisional
from harvib.train import Row
from harvib.weights import replace_synced

COLUMNS = (
    "stage", "epoch", "loss", "ce", "kl_gates", "kl_input", "distill", "train_accuracy",
    "val_accuracy", "val_gap", "val_loss", "inputs_kept", "units_kept", "lr", "mask_lr", "lasso", "strength",
    "best_epoch", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A run folder at `path`, which need not exist yet."""

    path: Path

    @property
    def plain(self) -> Path:
        return self.path / "plain.safetensors"

    @property
    def masked(self) -> Path:
        return self.path / "masked.safetensors"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def backbone(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def report_path(self) -> Path:
        return self.path / "report.json"

    @property
    def streams(self) -> dict[str, RunFolder]:
        """The runs of a fused run's streams, by name, in their order; none where a run has one stream."""
        if not (self.path / "config.json").is_file():
            return {}
        told = self.config().get("streams", [])
        names = [str(item.get("name", "")) if isinstance(item, dict) else "" for item in told]
        # A folder from elsewhere must not lead out of itself.
        if any(not name or name in (".", "..") or name != Path(name).name for name in names):
            raise InputError(f"{self.path / 'config.json'}: its streams cannot be understood: file damaged")
        return {name: RunFolder(self.path / name) for name in names}

    @property
    def budget(self) -> Path:
        return self.path / "budget.json"

    @property
    def provisional(self) -> Provisional:
        """What an interrupted run left for a look at it."""
        return Provisional(self.path / "last" / "provisional.txt")

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.path / "last")

    def begin(self, config: Mapping[str, Any]) -> None:
        """Make the folder, or take up a run with the very same config.

        Raises InputError where the folder holds a run with another config, naming the first difference, or
        where it holds something else.
        """
        path = self.path / "config.json"
        if path.is_file():
            old = self.config()
            # Settings first: what follows from them (who is held out, for one) says less.
            for key in sorted(config.keys() | old.keys(), key=lambda key: (key != "settings", key)):
                if config.get(key) != old.get(key):
                    raise InputError(
                        f"{self.path} holds a run with {key} = {_differing(old.get(key), config.get(key))}; "
                        "choose another --run-dir or delete it"
                    )
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path} is in use by something else: choose another --run-dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(path, config)
        except OSError as error:
            raise InputError(f"--run-dir {self.path}: cannot be written: {error.strerror}") from error

    def config(self) -> dict[str, Any]:
        """The config of the run."""
        return read_json(self.path / "config.json")

    def is_finished(self) -> bool:
        """Whether all stages are over; the report of an interrupted run is none of a finished one."""
        return self.report_path.is_file() and "interrupted" not in read_json(self.report_path)

    def report(self) -> dict[str, Any]:
        """The report of a finished or interrupted run; InputError where there is none."""
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such run folder")
        if not self.report_path.is_file():
            raise InputError(f"{self.path}: no report.json; the run is not finished, repeat its command to resume")
        return read_json(self.report_path)

    def rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, as text; none before the first epoch."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as stream:
            # A line without its end was cut short by the death of its writer.
            return list(csv.DictReader(line for line in stream if line.endswith("\n")))

    def record(self, row: Row) -> None:
        """Append an epoch to metrics.csv."""
        path = self.path / "metrics.csv"
        new = not path.is_file()
        with path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(rounded(row))

    def rewind(self, stage: str, epochs: int) -> None:
        """Forget the recorded epochs of a stage that come after `epochs`: they are about to run again."""
        rows = [row for row in self.rows() if row["stage"] != stage or int(row["epoch"]) <= epochs]
        if not rows:
            (self.path / "metrics.csv").unlink(missing_ok=True)
            return
        temporary = self.path / ".metrics.csv.part"
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        replace_synced(temporary, self.path / "metrics.csv")

    def epochs(self) -> dict[str, dict[str, int]]:
        """By stage the recorded epochs, `run`, and the one whose weights were kept, both counted from 1."""
        last = {row["stage"]: row for row in self.rows()}
        return {
            stage: {"run": int(row["epoch"]), "kept": int(row.get("best_epoch") or row["epoch"])}
            for stage, row in last.items()
        }

    def seconds(self, stage: str) -> float:
        """Seconds that the recorded epochs of a stage took, interruptions apart."""
        return sum(float(row["seconds"]) for row in self.rows() if row["stage"] == stage)


def model_file(model: Path) -> Path:
    """The file of a run folder's final model; another path is taken for a model file.

    InputError for the folder of a fused run, whose streams have a model each.
    """
    if not model.is_dir():
        return model
    folder = RunFolder(model)
    if folder.streams:
        names = " or ".join(str(stream.path) for stream in folder.streams.values())
        raise InputError(f"{model}: a fused run has a model for each stream: name {names}")
    return folder.model


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON so that the file is either whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    replace_synced(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; InputError, one line, where it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def rounded(row: Row) -> Row:
    """A row as metrics.csv holds it: six digits of each figure."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _differing(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
        return f"{key}: {old.get(key)!r}, not {new.get(key)!r}"
    return f"{old!r}, not {new!r}"
