"""`rbe` and `python -m rbe_cli`."""

import os
import sys

from rbe_cli.errors import INTERRUPTED, Terminated
from rbe_cli.runtime.collector import paused_collector
from rbe_cli.runtime.ending_signals import SIGNALS


def _ignore(unraisable: object) -> None:
    """Say nothing of an error in a finaliser, such as one that found no memory."""


def main() -> None:
    """Run the command line and exit with its code."""
    SIGNALS.catch()
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
    except Terminated as ended:
        code = ended.exit_code
    if code == INTERRUPTED or SIGNALS.have_come:
        os._exit(code)  # an ordinary exit would wait for threads that still compute
    sys.exit(code)


if __name__ == "__main__":
    main()
