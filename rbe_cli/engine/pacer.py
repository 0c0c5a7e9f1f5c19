"""How many threads decode the next token: all, or one where the CPUs are shared.

Threads that meet at barriers wait for whichever has lost its CPU to another program, up to a
scheduler's time slice each time; one thread alone loses only its own share.
"""

_SUSPICIOUS = 1.5  # times the best time so far
_DRIFT = 1.01  # of the best time a token, as attention grows with the text
_FIRST_TRIAL, _LONGEST_TRIAL = 8, 256  # tokens with one thread
_PROBES = 2  # tokens with all threads before the choice between them


class Pacer:
    """The choice, from the times of the tokens so far."""

    def __init__(self, threads: int) -> None:
        """Begin with all `threads`."""
        self._all = threads
        self.threads = threads
        self._best = float("inf")
        self._slow = 0  # tokens in a row
        self._trial = _FIRST_TRIAL
        self._left = 0  # tokens of the trial
        self._alone: float | None = None  # seconds a token with one thread, lately
        self._probes: list[float] = []

    def record(self, seconds: float) -> None:
        """Learn what the last token took, and choose for the next."""
        if self._all == 1:
            return
        if self.threads == 1:
            self._alone = seconds if self._alone is None else 0.5 * (self._alone + seconds)
            self._left -= 1
            if self._left == 0:
                self.threads, self._probes = self._all, []
        elif self._alone is not None:
            self._probes.append(seconds)
            if len(self._probes) == _PROBES:
                self._judge()
        else:
            self._best = min(self._best * _DRIFT, seconds)
            self._slow = self._slow + 1 if seconds > _SUSPICIOUS * self._best else 0
            if self._slow > 1:
                self._try_alone()

    def _judge(self) -> None:
        """Compare the probes with one thread's time."""
        assert self._alone is not None
        if min(self._probes) > self._alone:
            self._trial = min(2 * self._trial, _LONGEST_TRIAL)
            self._try_alone()
        else:
            self._alone, self._slow, self._trial = None, 0, _FIRST_TRIAL

    def _try_alone(self) -> None:
        self.threads, self._left = 1, self._trial
