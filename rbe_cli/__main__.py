"""`rbe` and `python -m rbe_cli`."""

import os
import signal
import sys

from rbe_cli.errors import INTERRUPTED


def main() -> None:
    """Run the command line and exit with its code."""
    # A polite kill ends like Ctrl-C, so that it leaves no temporary file either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from rbe_cli.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while importing
        code = INTERRUPTED
    if code == INTERRUPTED:
        os._exit(code)  # an ordinary exit would wait for threads that still compute
    sys.exit(code)


if __name__ == "__main__":
    main()
