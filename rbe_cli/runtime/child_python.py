"""Run Python again with this package, and with nothing from the folder that it is started in.

Python looks for modules in the current folder first, which may be one of downloaded files.
"""

import os
import subprocess
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def run_child_python(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Return what a Python process gave that ran to its end, whatever its exit status.

    Args:
        arguments: of the interpreter, such as `-m MODULE`; paths among them are absolute, as the
            process runs in the package's folder.

    Raises:
        OSError: no process can be started.
    """
    # `-P` leaves out the current folder, which an empty entry stands for too.
    folders = [os.path.abspath(entry) for entry in sys.path if entry]
    path = os.pathsep.join([*folders, str(_PACKAGE.parent)])
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        check=False,
        cwd=_PACKAGE,
        env=os.environ | {"PYTHONPATH": path},
    )
