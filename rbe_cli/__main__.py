"""`rbe` and `python -m rbe_cli`."""

import os
import signal
import sys

from rbe_cli.errors import INTERRUPTED, Terminated
from rbe_cli.runtime.collector import paused_collector


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _ignore(unraisable: object) -> None:
    """Say nothing of an error in a finaliser, such as one that found no memory."""


def main() -> None:
    """Run the command line and exit with its code."""
    # A polite kill and a closed terminal end like Ctrl-C: no temporary file is left. What the
    # caller ignores stays ignored (nohup ignores SIGHUP, a script's `&` SIGINT).
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    # One text at a time is encoded, for which the library would start a thread for each CPU.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not {"-v", "--verbose"} & set(sys.argv):
        sys.unraisablehook = _ignore
    try:
        with paused_collector():
            from rbe_cli.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while importing
        code = INTERRUPTED
    if code == INTERRUPTED:
        os._exit(code)  # an ordinary exit would wait for threads that still compute
    sys.exit(code)


if __name__ == "__main__":
    main()
