"""Is it worth training the backbone's last block with the model? Frozen against trained, on UTD-MHAD depth videos.

    python scripts/finetune_backbone.py --data ../shared/data --weights FILE --work runs/finetune

Extracts 8 frames of 224x224 of each of the 446 videos, and runs `harvib train --videos` on EfficientNet-Lite0 once
with its block frozen (--backbone-lr 0) and once with it trained, with the same settings, seed and clips. They are
those of scripts/results.py with fewer epochs; nothing was tuned on either run. The figures go to
results/finetune_backbone.json and are printed as a Markdown table. Runs are resumed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harfeat.weights import export_weights
from harvib.devices import best_device, machine
from harvib.evaluate import evaluate_run
from harvib.settings import BackboneSettings, TrainSettings
from harvib.videos import train

MODEL = "tf_efficientnet_lite0"
SETTINGS = TrainSettings(
    hidden=128,
    standardize=True,
    batch=16,
    dropout=0.5,
    lr=1e-3,
    beta_input=4e-4,
    mask_lr=6e-2,
    plain_epochs=12,
    vib_epochs=15,
    finetune_epochs=12,
)
RATES = {"frozen": 0.0, "trained": 1e-4}
STATES = {"plain": "LSTM-128, plain", "masked": "VIB-LSTM, before fine-tuning", "compact": "VIB-LSTM, compact"}


@click.command()
@click.option("--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path, exists=True))
@click.option("--work", default="runs/finetune", show_default=True, type=click.Path(path_type=Path))
@click.option("--weights", default="auto", show_default=True, help="Weights of the backbone: a file or auto.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, work: Path, weights: str, seed: int) -> None:
    """Run both, check what was exported, and print the table."""
    frames, own = work / "frames.h5", work / f"{MODEL}.safetensors"
    if not frames.is_file():
        extract(
            ExtractSettings(
                "folder",
                data / "utd_mhad_depth",
                frames,
                model="pixels",
                size="224x224",
                sampling=SamplingSettings(frames=8),
                group_pattern=r"_s(\d+)_",
                test_groups=("2", "4", "6", "8"),
            )
        )
    if not own.is_file():
        export_weights(MODEL, weights, own)
    settings = TrainSettings(**{**vars(SETTINGS), "seed": seed})
    runs: dict[str, Any] = {}
    for name, rate in RATES.items():
        run = work / f"{name}-s{seed}"
        report = train(frames, "listed", settings, BackboneSettings(MODEL, str(own), rate), run)
        again = evaluate_run(run, frames, "listed", "test", best_device(), videos=True)
        runs[name] = report | {"exported": {key: again[key] for key in ("accuracy", "loss")}}
    result = {
        "command": f"python scripts/finetune_backbone.py --seed {seed}",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "machine": machine(),
        "runs": runs,
    }
    out = Path("results") / "finetune_backbone.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(_table(runs))


def _table(runs: dict[str, Any]) -> str:
    lines = [
        "| block | model | inputs | units | parameters | backbone | validation % | test % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in runs.items():
        for state, title in STATES.items():
            figures, side = report[state], "after" if state == "compact" else "before"
            lines.append(
                f"| {name} | {title} | {figures['inputs']:,} | {figures['units']} | "
                f"{figures['parameters']['total']:,} | {report['backbone'][side]['parameters']:,} | "
                f"{figures['accuracy']['validation']:.1%} | {figures['accuracy']['test']:.1%} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
