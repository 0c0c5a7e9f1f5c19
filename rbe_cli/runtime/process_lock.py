"""Let one process at a time have a file or folder; the system lets go when the process ends."""

import sys

if sys.platform != "win32":
    import fcntl


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file or folder, until the descriptor is closed.

    Returns:
        False if another open descriptor, of this or another process, has the lock. True if it
        was taken, or if there are no locks: on Windows and on some network file systems.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
