"""What scripts/results.py runs: data sets, splits, and one row a model with its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from harfeat.importers import Keys
from harfeat.importing import import_features
from harfeat.pipeline import ExtractSettings, extract
from harfeat.sampling import SamplingSettings
from harvib.rivals.base import TUNED, scratch
from harvib.rivals.recurrent import PROJECTED
from harvib.settings import TrainSettings

MakeCache = Callable[[Path, Path, str], None]
"""From the folder of data and a file of backbone weights to a cache."""


data_option = click.option(
    "--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path, exists=True)
)
weights_option = click.option(
    "--weights", default="auto", show_default=True, help="Weights of utd-mhad's backbone: a file or auto."
)


@dataclass(frozen=True)
class Row:
    """A run and the state of its model that the table shows.

    `init` is the row whose plain model it starts from; `sizes_of` the row whose compact model gives it its inputs
    and units. With several caches `stream` is `both` for their fusion, or one of the streams in it.
    """

    title: str
    folder: str
    state: str
    settings: TrainSettings
    init: str = ""
    sizes_of: str = ""
    stream: str = ""


@dataclass(frozen=True)
class Protocol:
    """A data set: caches by name, a split, and the rows in the order in which they run."""

    caches: dict[str, MakeCache]
    split: str
    rows: tuple[Row, ...]

    def made(self, data: Path, work: Path, weights: str) -> list[Path]:
        """Its caches in `work`, made from `data` where they are not there yet."""
        work.mkdir(parents=True, exist_ok=True)
        paths = [work / f"{name}.h5" for name in self.caches]
        for path, make in zip(paths, self.caches.values(), strict=True):
            if not path.is_file():
                make(data, path, weights)
        return paths


def _import_ucf101(data: Path, out: Path, weights: str) -> None:
    source = data / "ucf101_vgg16" / "ucf101_14cls_vgg16fc6_25f.h5"
    keys = Keys("features", "label", "name", "group", "classes")
    import_features(source, "h5", keys, out, tuple(str(group) for group in range(8, 15)))


def _extract_utd(stream: str) -> MakeCache:
    def make(data: Path, out: Path, weights: str) -> None:
        settings = ExtractSettings(
            "folder",
            data / "utd_mhad_depth",
            out,
            weights=weights,
            sampling=SamplingSettings(stream=stream),
            group_pattern=r"_s(\d+)_",
            test_groups=("2", "4", "6", "8"),
        )
        extract(settings)

    return make


_LSTM = TrainSettings(vib_epochs=40)
_FAN_IN = replace(_LSTM, input_init="fan-in")
_MEAN = replace(TUNED, model="mean")

_UCF101 = (
    Row("LSTM-256, plain", "lstm", "plain", replace(_LSTM, method="plain")),
    Row("LSTM-256, input weights by fan-in", "lstm-fan-in", "plain", replace(_FAN_IN, method="plain")),
    Row(
        "LSTM-256 by fan-in, VIB to 100x",
        "lstm-100x",
        "compact",
        replace(_FAN_IN, target_ratio=100.0),
        "LSTM-256, input weights by fan-in",
    ),
    Row("mean over time + linear", "mean", "plain", replace(_MEAN, method="plain")),
    Row(
        "mean + linear, VIB to 4,400",
        "mean-vib",
        "compact",
        replace(_MEAN, target_params=4400),
        "mean over time + linear",
    ),
    Row(
        "mean + linear, group lasso to 4,400",
        "mean-lasso",
        "compact",
        replace(_MEAN, method="lasso", lasso_input=0.01, target_params=4400),
        "mean over time + linear",
    ),
    Row("projection 16 + LSTM-8, plain", "projected", "plain", replace(PROJECTED[0], method="plain")),
    *(
        Row(
            f"projection + LSTM, VIB to {budget:,}",
            f"projected-vib-{budget}",
            "compact",
            replace(PROJECTED[0], target_params=budget),
            "projection 16 + LSTM-8, plain",
        )
        for budget in (4400, 2000, 1000)
    ),
    Row(
        "projection + LSTM, VIB with group lasso to 4,400",
        "projected-joint",
        "compact",
        replace(PROJECTED[0], lasso_input=1e-4, target_params=4400),
        "projection 16 + LSTM-8, plain",
    ),
    Row(
        "projection + LSTM, group lasso to 4,400",
        "projected-lasso",
        "compact",
        replace(PROJECTED[0], method="lasso", lasso_input=0.01, target_params=4400),
        "projection 16 + LSTM-8, plain",
    ),
    Row(
        "projection + LSTM, magnitude to 4,400",
        "projected-magnitude",
        "compact",
        replace(PROJECTED[0], method="magnitude", target_params=4400),
        "projection 16 + LSTM-8, plain",
    ),
    Row(
        "the shape of VIB's 4,400 from scratch, inputs by F score",
        "projected-scratch",
        "plain",
        scratch(PROJECTED[0]),
        sizes_of="projection + LSTM, VIB to 4,400",
    ),
)

_NINTH = replace(TUNED, lr=1e-3, dropout=0.2, validation=0.09)
"""One of the eleven groups of the train part is held out, as in scripts/comparison.py."""
_DBOF = replace(_NINTH, model="dbof", clusters="64", hidden=128, experts=0, gating=False)
_VLAD = replace(_NINTH, model="netvlad", clusters="8", hidden=128, experts=0, gating=False, normalize=True)
_CIRCULANT = replace(_DBOF, clusters="256", circulant="clusters,fc")
_POOLED = (
    Row("LSTM-256", "lstm", "plain", replace(_LSTM, method="plain", validation=0.09)),
    Row("mean over time + linear", "mean", "plain", replace(_NINTH, model="mean", method="plain")),
    Row("DBoF", "dbof", "plain", replace(_DBOF, method="plain")),
    Row(
        "DBoF, 4 experts, context gating",
        "dbof-moe",
        "plain",
        replace(_DBOF, method="plain", experts=4, gating=True),
    ),
    Row("DBoF, FC circulant", "dbof-fc", "plain", replace(_DBOF, method="plain", circulant="fc")),
    Row("DBoF, clusters and FC circulant", "dbof-circulant", "plain", replace(_CIRCULANT, method="plain")),
    Row("NetVLAD", "netvlad", "plain", replace(_VLAD, method="plain")),
    Row("NetVLAD, FC circulant", "netvlad-fc", "plain", replace(_VLAD, method="plain", circulant="fc")),
    Row("DBoF, VIB to 5,000", "dbof-5000", "compact", replace(_DBOF, target_params=5000), "DBoF"),
    Row(
        "DBoF circulant, VIB to 5,000",
        "dbof-circulant-5000",
        "compact",
        replace(_CIRCULANT, target_params=5000),
        "DBoF, clusters and FC circulant",
    ),
    Row("NetVLAD, VIB to 100,000", "netvlad-100000", "compact", replace(_VLAD, target_params=100_000), "NetVLAD"),
)

_UTD = TrainSettings(
    hidden=128,
    standardize=True,
    batch=16,
    dropout=0.5,
    lr=3e-4,
    plain_epochs=60,
    vib_epochs=60,
)
_UTD_MEAN = TrainSettings(model="mean", standardize=True, plain_epochs=60, vib_epochs=25, beta_input=4e-4)
_UTD_ROWS = (
    Row("LSTM-128, plain", "lstm", "plain", replace(_UTD, method="plain")),
    Row("VIB-LSTM, before fine-tuning", "vib", "masked", _UTD, "LSTM-128, plain"),
    Row("VIB-LSTM, compact", "vib", "compact", _UTD, "LSTM-128, plain"),
    Row("VIB to 10,000", "vib-10000", "compact", replace(_UTD, target_params=10_000), "LSTM-128, plain"),
    Row(
        "magnitude to 10,000",
        "magnitude-10000",
        "compact",
        replace(_UTD, method="magnitude", target_params=10_000),
        "LSTM-128, plain",
    ),
    Row(
        "the shape of VIB's 10,000 from scratch, inputs by F score",
        "scratch-10000",
        "plain",
        scratch(_UTD),
        sizes_of="VIB to 10,000",
    ),
    Row("mean over time + linear", "mean", "plain", replace(_UTD_MEAN, method="plain")),
    Row("mean + linear, VIB on the inputs", "mean-vib", "compact", _UTD_MEAN, "mean over time + linear"),
)

PROTOCOLS = {
    "ucf101-14": Protocol({"ucf101-14": _import_ucf101}, "listed", _UCF101),
    "ucf101-14-pooling": Protocol({"ucf101-14": _import_ucf101}, "listed", _POOLED),
    "utd-mhad": Protocol({"utd-mhad": _extract_utd("rgb")}, "listed", _UTD_ROWS),
    "utd-mhad-flow": Protocol(
        {"utd-mhad": _extract_utd("rgb"), "utd-mhad-flow": _extract_utd("flow")},
        "listed",
        (
            Row("both, LSTM-128, plain", "fused", "plain", _UTD, stream="both"),
            Row("both, VIB-LSTM, compact", "fused", "compact", _UTD, stream="both"),
            Row("depth frames alone, compact", "fused", "compact", _UTD, stream="rgb"),
            Row("optical flow alone, plain", "fused", "plain", _UTD, stream="flow"),
            Row("optical flow alone, compact", "fused", "compact", _UTD, stream="flow"),
        ),
    ),
}
