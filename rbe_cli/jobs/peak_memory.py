"""Measure how much memory this process has held at most."""

import sys


def peak_rss_bytes() -> int:
    """Return the peak resident set size in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
