"""Define the records of a thread team (thread_team.py): its job, and a job that reads memory."""

import numpy as np

_INT = np.int64

FLAG_BYTES = 128  # between two threads' flags, so that they share no line of a cache

READ = np.dtype(
    [
        ("address", _INT),
        ("bytes", _INT),
        ("sums", _INT),  # address, for each thread's sum after FLAG_BYTES
    ]
)
TEAM = np.dtype(
    [
        ("program", _INT),  # address of the job's machine code
        ("record", _INT),  # address of what it works on
        ("job", _INT),  # address of the job's number
        ("done", _INT),  # addresses of the threads' last jobs, and of their barrier's turns
        ("flags", _INT),
    ]
)
