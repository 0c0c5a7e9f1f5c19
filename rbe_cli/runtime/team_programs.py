"""Run a thread team's jobs on the compiled side (thread_team.py), and measure memory reads.

All threads of a team run the same program on the same record, each its own share, and meet at
barriers (single program, multiple data: Darema 2001). A program's arguments are its part, the
number of parts, and the record's address.
"""

from typing import Any

from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    invoke,
    lane_sum_ints,
    load_acquire,
    load_ints,
    pause,
    prefetch,
    record,
    splat_int,
    store_int32,
    store_release,
)
from rbe_cli.runtime.team_records import FLAG_BYTES, READ, TEAM

_PARTS_BITS = 16  # of a job's number, for its threads


@program_code
def share(count: int, part: int, parts: int) -> Any:
    """Return the first index of `part`'s share of `count` things."""
    return count * part // parts


@program_code
def barrier(flags: int, part: int, parts: int) -> None:
    """Wait until all parts are here; `flags` are zero when a job begins."""
    if parts == 1:
        return
    own = flags + FLAG_BYTES * part
    turn = load_acquire(own) + 1
    store_release(own, turn)
    for other in range(parts):
        while load_acquire(flags + FLAG_BYTES * other) < turn:
            pause()


@program_code
def work(arithmetic: Any, part: int, team_address: int, patience: int) -> None:
    """Run job after job as a thread of the team; return after a long wait for one."""
    team = record(TEAM, team_address)
    done = team.done + FLAG_BYTES * part
    seen = load_acquire(done)
    waited = 0
    while waited < patience:
        job = load_acquire(team.job)
        if job == seen:
            pause()
            waited += 1
        else:
            parts = job & ((1 << _PARTS_BITS) - 1)
            if part < parts:
                invoke(team.program, (part, parts, team.record))
            seen = job
            store_release(done, seen)
            waited = 0


@program_code
def lead(arithmetic: Any, team_address: int, parts: int) -> None:
    """Run the team's job with `parts` threads, of which the calling thread is the first."""
    team = record(TEAM, team_address)
    for part in range(parts):
        store_release(team.flags + FLAG_BYTES * part, 0)
    number = ((load_acquire(team.job) >> _PARTS_BITS) + 1) << _PARTS_BITS
    store_release(team.job, number | parts)
    invoke(team.program, (0, parts, team.record))
    for part in range(1, parts):
        while load_acquire(team.done + FLAG_BYTES * part) != number | parts:
            pause()


@program_code
def read(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Read memory once, each part its share of the lines, as fast as loads alone can."""
    job = record(READ, job_address)
    a, b = splat_int(0), splat_int(0)
    first, last = share(job.bytes // 256, part, parts), share(job.bytes // 256, part + 1, parts)
    for place in range(job.address + 256 * first, job.address + 256 * last, 256):
        for line in range(4):
            prefetch(place + 8192 + 64 * line)
        a = (a | load_ints(place)) + (b | load_ints(place + 64))
        b = (b | load_ints(place + 128)) + (a | load_ints(place + 192))
    store_int32(job.sums + FLAG_BYTES * part, lane_sum_ints(a + b))
