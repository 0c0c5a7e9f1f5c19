"""Measure how fast this machine reads memory.

Decoding reads all weights, so this speed is its bound.
"""

import numpy as np

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.libraries import READ as READ_PROGRAM
from rbe_cli.runtime.native import load
from rbe_cli.runtime.team_records import FLAG_BYTES, READ
from rbe_cli.runtime.thread_team import Team


class Reader:
    """Read the same memory again and again, with all threads of a team."""

    def __init__(self, team: Team, size: int) -> None:
        """Allocate and touch `size` bytes of memory."""
        self.size = size
        self._team = team
        self._memory = np.ones(size, np.uint8)
        self._sums = np.zeros(team.threads * FLAG_BYTES, np.uint8)
        self._record = np.zeros(1, READ)
        self._record["address"], self._record["bytes"] = address(self._memory), size
        self._record["sums"] = address(self._sums)
        (self._program,) = load([READ_PROGRAM], team.instructions)

    def __call__(self) -> None:
        """Read all of the memory once."""
        self._team.run(self._program, address(self._record))
