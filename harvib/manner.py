"""How a run is carried out, which does not change what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from harvib.distributed import ALONE, Team
from harvib.interrupt import Stop


@dataclass(frozen=True, eq=False)
class Manner:
    """What asks a run to stop (None: Ctrl-C ends it at once), who takes part, whether TensorBoard is written.

    Where a team trains, each process but the first is given a folder of its own (`Team.folder`).
    """

    stop: Stop | None = None
    team: Team = ALONE
    tensorboard: bool = False
