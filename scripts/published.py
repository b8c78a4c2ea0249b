"""The tables of the VIB-LSTM paper (WACV 2021, arXiv 2010.01343) and its supplement, each row as settings.

A compressed row is run with the published number of parameters as its budget: which inputs and units go is the
method's choice, so the measured shape may differ from the published one where the count does not.

Where the paper tells a setting it stands here; what it does not tell is harvib's default. Differences that stay:
the backbone is not fine-tuned, and the head is one linear layer, not Linear-BN-ReLU-Linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harfeat.datasets import REGISTRY, hmdb51, ucf11, ucf101
from harfeat.download import ARCHIVES
from harvib import published
from harvib.published import DENSE, FEATURES, FRAMES, MODEL, Published
from harvib.settings import TrainSettings

PAPER = TrainSettings(
    readout="last",
    dropout=0.0,
    finetune_dropout=0.0,
    distill=0.0,
    warmup=0.0,
    weight_decay=0.0,
    batch=32,
    plain_epochs=100,
    vib_epochs=100,
    vib_lr=1e-5,
    mask_lr=5e-2,
    beta=2e-6,
    beta_input=2e-6,
)
"""CNN-LSTM. No weight decay, dropout, warm-up or soft targets are told of, so there are none."""

CLASSES = {"ucf11": ucf11.CLASSES, "ucf101": ucf101.CLASSES, "hmdb51": hmdb51.CLASSES}

_PIXELS = "57,600 pixel inputs: not runnable yet, harfeat has no pixel model"
_STREAMS = "two streams: not runnable yet, harvib reads one"
_OTHERS = "another method's figure"


@dataclass(frozen=True)
class Row(Published):
    """One published row with what is run for it: `settings`, else `reason` says why nothing is."""

    settings: TrainSettings | None = None
    reason: str = ""

    @property
    def key(self) -> str:
        """Its name for --rows and in the run folder: what is run, so that rows with one run share it."""
        shape = "" if self.inputs is None else f"{self.inputs}x{self.hidden}"
        return shape or self.method.lower().replace(" ", "-")


@dataclass(frozen=True)
class Needed:
    """What a cache must be to stand for the paper's data: the whole data set, its split and its sampling.

    `sizes` are the (train, test) clips of each split, `slack` how far both may be off: the 60:40 draw of UCF11 is
    rounded in each class.
    """

    dataset: str
    classes: tuple[str, ...]
    clips: int
    sizes: dict[str, tuple[int, int]]
    dim: int = FEATURES
    model: str = MODEL
    frames: int = FRAMES
    slack: int = 0

    def commands(self) -> str:
        """The harfeat commands that make it."""
        known, to = ARCHIVES[self.dataset], f"data/{self.dataset}"
        lists = f" --splits {to}/{known.lists.folder}" if known.lists else ""
        return (
            f"harfeat download --dataset {self.dataset} --to {to} && "
            f"harfeat extract --dataset {self.dataset} --root {to}/{known.videos.folder}{lists} "
            f"--model {self.model} --sampling first --frames {self.frames} --views 4 --out {self.dataset}.h5"
        )


@dataclass(frozen=True)
class Table:
    """The rows of one data set, the cache they need, and the hidden units of the uncompressed model."""

    needed: Needed
    rows: tuple[Row, ...]

    @property
    def dense(self) -> TrainSettings:
        """The uncompressed model that the compressed ones start from."""
        return next(row.settings for row in self.rows if row.settings and row.settings.method == "plain")


def _plain(hidden: int) -> TrainSettings:
    return replace(PAPER, method="plain", hidden=hidden)


def _vib(row: Published, dense: int) -> TrainSettings:
    """The budget covers the head too, which the published counts leave out."""
    recurrent = row.count()
    assert recurrent is not None
    assert row.hidden is not None
    return replace(PAPER, hidden=dense, target_params=recurrent + (row.hidden + 1) * len(CLASSES[row.table]))


def _reason(row: Published) -> str:
    """Why a row is not run; empty where it is."""
    if row.method not in ("LSTM", "VIB", "TS-VIB", "VIB+ISS", "EfficientNet+VIB"):
        return _OTHERS
    if row.source == "main, end to end":
        return _PIXELS
    if row.method == "TS-VIB" or (row.table, row.source) == ("hmdb51", "supplement"):
        return _STREAMS
    if row.method == "EfficientNet+VIB":
        return "which EfficientNet is not told, nor the shape"
    if row.method == "LSTM" and row.inputs is None:
        return "its shape is not told; 2048x512 of the supplement is the uncompressed row that runs"
    return ""


def _row(row: Published) -> Row:
    """A published row as settings."""
    fields, dense, reason = vars(row), DENSE[row.table], _reason(row)
    if reason:
        return Row(**fields, reason=reason)
    if row.method == "VIB+ISS":
        iss = replace(PAPER, hidden=dense, lasso=0.01, lasso_threshold=0.01, lasso_time="after-vib")
        return Row(**fields | {"note": "no budget: the lasso after VIB decides"}, settings=iss)
    return Row(**fields, settings=_plain(dense) if row.method == "LSTM" else _vib(row, dense))


def _table(dataset: str) -> Table:
    definition = REGISTRY[dataset]
    assert definition.clip_count is not None
    sizes, slack = published.SPLITS[dataset], published.SLACK.get(dataset, 0)
    needed = Needed(dataset, CLASSES[dataset], definition.clip_count, sizes, slack=slack)
    return Table(needed, tuple(_row(row) for row in published.TABLES[dataset]))


TABLES = {dataset: _table(dataset) for dataset in published.TABLES}
