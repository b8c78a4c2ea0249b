"""What of a pooling model a user can say, and what it means: layers by name, clusters by stream."""

from __future__ import annotations

from dataclasses import dataclass

from harvib.errors import InputError
from harvib.factorised.asked import numbers

KINDS = ("dbof", "netvlad", "netfv")
PARTS = ("clusters", "fc", "moe", "gating")
DIAGONALS = ("learned", "signs")


@dataclass(frozen=True)
class Asked:
    """A pooling model in words: `circulant` names layers, `hidden` are the units of each stream's FC layer."""

    kind: str
    clusters: str
    hidden: int
    circulant: str
    diagonal: str
    factors: int
    experts: int
    gating: bool
    bags: int
    bag_frames: int

    def __post_init__(self) -> None:
        self.clusters_of(max(1, len(_words(self.clusters))))
        names = self.circulant_parts
        for name in names:
            if name not in PARTS:
                raise InputError(f"--circulant {self.circulant}: no layer is called {name}; there are {_listed()}")
        if len(set(names)) < len(names):
            raise InputError(f"--circulant {self.circulant}: name each layer once")
        if "gating" in names and not self.gating:
            raise InputError("--circulant gating: there is no gating; leave it, or --no-gating, out")
        if not names and (self.factors > 1 or self.diagonal != "learned"):
            option = f"--factors {self.factors}" if self.factors > 1 else f"--circulant-diagonal {self.diagonal}"
            raise InputError(f"{option}: no layer is circulant; say --circulant")
        if set(names) == {"moe"} and (self.factors > 1 or self.diagonal != "learned"):
            raise InputError("--circulant moe: has no diagonal and one factor; leave the options of others out")

    @property
    def circulant_parts(self) -> tuple[str, ...]:
        """The circulant layers."""
        return _words(self.circulant)

    @property
    def layers(self) -> dict[str, str]:
        """The kind of the matrices of the circulant layers; the paper's circulant experts have no diagonal."""
        others = "circulant" if self.diagonal == "learned" else "circulant-signs"
        return {part: "circulant-bare" if part == "moe" else others for part in self.circulant_parts}

    def clusters_of(self, streams: int) -> tuple[int, ...]:
        """Clusters by stream. Raises InputError."""
        counts = numbers("--clusters", ",".join(_words(self.clusters)), ",")
        if not counts:
            raise InputError(f"--clusters {self.clusters!r}: must be whole numbers above 0, one or one a stream")
        if len(counts) not in (1, streams):
            raise InputError(
                f"--clusters {self.clusters}: {len(counts)} numbers for {streams} stream{'s' * (streams > 1)}"
            )
        return counts * streams if len(counts) == 1 else counts


def _words(text: str) -> tuple[str, ...]:
    """Parted by commas, or by plus signs where commas part something else, as in a grid."""
    return tuple(word for word in text.replace("+", ",").split(",") if word)


def _listed() -> str:
    return ", ".join(PARTS)
