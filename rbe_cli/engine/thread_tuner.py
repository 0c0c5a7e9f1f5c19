"""Chooses how many threads decode the next token: all, or one where the CPUs are shared.

Threads that meet at barriers wait for whichever has lost its CPU to another program, each time
for up to a time slice of the scheduler. One thread alone loses only its own share. So both are
tried: soon after the beginning, when tokens become slow, and now and then. The faster one is kept.
"""

_SUSPICIOUS = 1.5  # times the usual time of a token
_SAMPLE = 3  # tokens of a trial: an odd number
_FIRST_TRIAL, _LONGEST_STRETCH = 16, 512  # tokens between two trials; the stretch doubles


class ThreadTuner:
    """Chooses the number of threads from the times of the tokens so far.

    Attributes:
        threads: that decode the next token.
    """

    def __init__(self, threads: int) -> None:
        """Begin with all `threads`."""
        self._all = threads
        self.threads = threads
        self._left = _FIRST_TRIAL  # tokens before the next trial
        self._stretch = _FIRST_TRIAL
        self._recent: list[float] = []  # the last tokens' seconds, with the same threads
        self._rival: float | None = None  # in a trial: the usual seconds of the other choice

    def record(self, seconds: float) -> None:
        """Learn what the last token took, and choose for the next."""
        if self._all == 1:
            return
        if len(self._recent) == _SAMPLE and seconds > _SUSPICIOUS * _median(self._recent):
            self._recent, self._left = [], 0  # a trial, as soon as it is known how slow it is now
        self._recent = [*self._recent, seconds][-_SAMPLE:]
        self._left -= 1
        if len(self._recent) < _SAMPLE:
            return
        if self._rival is not None:
            self._judge(self._rival)
        elif self._left <= 0:
            self._switch(_median(self._recent))

    def _judge(self, rival: float) -> None:
        """End a trial: keep the faster choice, and try again later if it has not changed."""
        lost = _median(self._recent) >= rival
        self._stretch = min(2 * self._stretch, _LONGEST_STRETCH) if lost else _FIRST_TRIAL
        self._left = self._stretch
        if lost:
            self._switch(None)
        self._rival = None

    def _switch(self, rival: float | None) -> None:
        """Change to the other number of threads."""
        self.threads = 1 if self.threads > 1 else self._all
        self._rival, self._recent = rival, []


def _median(values: list[float]) -> float:
    """Return the median of an odd number of values. (`statistics` is slow to import.)"""
    return sorted(values)[len(values) // 2]
