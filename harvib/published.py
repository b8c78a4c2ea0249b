"""The tables of the VIB-LSTM paper (WACV 2021, arXiv 2010.01343) and its supplement, as printed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from harvib.models import ModelSpec, SequenceClassifier

FEATURES = 2048
MODEL = "inception_v3"
FRAMES = 32
"""What the CNN-LSTM rows are of: values a step, backbone, and frames from a clip's start at a fixed interval."""

CLASSES = {"ucf11": 11, "ucf101": 101, "hmdb51": 51}
SPLITS: dict[str, dict[str, tuple[int, int]]] = {
    "ucf11": {"random": (960, 640)},
    "ucf101": {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)},
    "hmdb51": dict.fromkeys("123", (3570, 1530)),
}
"""Train and test clips of the splits that the paper can mean, by harfeat's names.

It does not tell which split its figures are of, or whether they are a mean over them.
"""

SLACK = {"ucf11": 6}
"""Clips by which a split may be off: the 60:40 draw of UCF11 is rounded in each class."""

DENSE = {"ucf11": 2048, "ucf101": 512, "hmdb51": 2048}
"""Hidden units of the uncompressed model of the supplement."""


@dataclass(frozen=True)
class Published:
    """One published row. `inputs` and `hidden` are None where the paper does not tell the shape.

    `accuracy` (%) stands as printed, and so does `parameters` in the main tables. In the supplement's rows it is
    the count that the project's facts give to check by, or empty; `misprint` marks the one that is printed wrong.
    """

    table: str
    source: str
    method: str
    accuracy: str
    parameters: str = ""
    inputs: int | None = None
    hidden: int | None = None
    note: str = ""
    misprint: bool = False

    def count(self) -> int | None:
        """Exact parameters of the recurrent part, by harvib's own cells; no memory is used for their weights."""
        if self.inputs is None or self.hidden is None:
            return None
        spec = ModelSpec("lstm", "plain", self.inputs, self.inputs, ((self.hidden,),), 2)
        with torch.device("meta"):
            return SequenceClassifier(spec).parameter_counts()["recurrent"]

    def size(self) -> float:
        """Parameters of the recurrent part: exact where the shape is told, else as printed."""
        count = self.count()
        if count is not None:
            return float(count)
        millions = self.parameters.endswith("M")
        return float(self.parameters.removesuffix("M").replace(",", "")) * (1e6 if millions else 1)

    def verdict(self) -> str:
        """The published count against ours: how it agrees, DIFFERS, or why there is nothing to compare."""
        count = self.count()
        if count is None:
            return "shape not told"
        if not self.parameters:
            return "no count to check by"
        how = agreement(self.parameters, count)
        if self.misprint:
            return "DIFFERS" if how else f"misprint, right is {count:,}"
        return how or "DIFFERS"


def agreement(printed: str, count: int) -> str:
    """How a printed count agrees with this one: equal, or in millions rounded or cut off; empty where not."""
    if not printed.endswith("M"):
        return "equal" if int(printed.replace(",", "")) == count else ""
    digits = len(printed[:-1].partition(".")[2])
    scaled, wanted = count / 10 ** (6 - digits), round(float(printed[:-1]) * 10**digits)
    if wanted == round(scaled):
        return "equal when rounded"
    return "equal when cut off" if wanted == math.floor(scaled) else ""


def _supplement(
    table: str, rows: str, prints: dict[tuple[int, int], str], note: str = ""
) -> tuple[Published, ...]:
    """Rows from lines "inputs hidden accuracy"."""
    found = []
    for line in rows.split(","):
        first, second, accuracy = line.split()
        shape = inputs, hidden = int(first), int(second)
        method = "LSTM" if shape == (FEATURES, DENSE[table]) else "VIB"
        printed = prints.get(shape, "")
        row = Published(table, "supplement", method, accuracy, printed, inputs, hidden, note, shape == (2048, 6))
        found.append(row)
    return tuple(found)


def _ucf11() -> tuple[Published, ...]:
    table, pixels, cnn = "ucf11", "main, end to end", "main, CNN-LSTM"
    return (
        Published(table, pixels, "LSTM", "67.7-69.7", "59.25M", 57600, 256),
        Published(table, pixels, "TT", "79.6", "0.268M"),
        Published(table, pixels, "BT", "85.3", "0.268M"),
        Published(table, pixels, "TR", "86.9", "0.267M"),
        Published(table, pixels, "HT", "87.9", "0.266M"),
        Published(table, pixels, "VIB", "85.4", "0.178M", 1312, 33),
        Published(table, cnn, "LSTM", "98.53", "33.57M", 2048, 2048),
        Published(table, cnn, "TR", "93.8", "1.340M"),
        Published(table, cnn, "ISS", "94.6", "0.160M"),
        Published(table, cnn, "VIB", "98.53", "2,052", 46, 9),
        Published(table, cnn, "VIB+ISS", "90.2", "1,680"),
        Published(table, cnn, "EfficientNet+VIB", "96.6", "1,680"),
        *_supplement(
            table,
            "2048 2048 98.6,266 2048 98.53,88 2048 98.53,33 2048 98.2,28 2048 97.5,2048 674 98.65,"
            "2048 224 98.65,2048 64 98.53,2048 8 98.53,2048 6 96.53,266 224 98.65,88 64 98.65,33 12 98.2,"
            "28 8 97.1",
            {
                (2048, 2048): "33,570,816",
                (2048, 8): "65,856",
                (2048, 6): "65,856",
                (266, 224): "440,832",
                (88, 64): "39,424",
                (33, 12): "2,256",
                (28, 8): "1,216",
            },
        ),
    )


def _ucf101() -> tuple[Published, ...]:
    table, main, inferred = "ucf101", "main", "shape by its count, from the supplement"
    return (
        Published(table, main, "LSTM", "92.6", "9.44M"),
        Published(table, main, "attention", "92.88", "4.72M"),
        Published(table, main, "VIB", "92.2", "0.46M", 96, 297, inferred),
        Published(table, main, "TS-VIB", "93.15", "0.46M", 96, 297),
        *_supplement(
            table,
            "2048 512 93.15,1024 512 93.15,256 512 93.15,96 512 93.15,64 512 92.62,46 512 92.28,31 512 91.59,"
            "96 400 93.15,96 297 93.15,96 198 92.04,96 154 92.04,96 88 91.5",
            {(96, 297): "469,260", (96, 88): "65,472"},
            "published figures are perhaps of two streams: its 93.15 is that of TS-VIB",
        ),
    )


def _hmdb51() -> tuple[Published, ...]:
    table, main, inferred = "hmdb51", "main", "shape by its count, from the supplement"
    return (
        Published(table, main, "LSTM", "62.9", "33.57M", 2048, 2048),
        Published(table, main, "TR", "63.8", "1.340M"),
        Published(table, main, "attention", "67.1", "4.72M"),
        Published(table, main, "VIB", "64.5", "0.41M", 96, 277, inferred),
        Published(table, main, "TS-VIB", "68.16", "0.41M", 96, 277),
        *_supplement(
            table,
            "2048 2048 68.34,1024 2048 68.16,149 2048 68.16,96 2048 68.16,64 2048 67.32,149 512 68.32,"
            "96 512 68.32,96 382 68.16,96 277 68.16,96 140 65.2,64 512 67.32,64 382 67.32",
            {},
        ),
    )


TABLES = {"ucf11": _ucf11(), "ucf101": _ucf101(), "hmdb51": _hmdb51()}
