import pickle
from concurrent.futures import ThreadPoolExecutor

from rbe_cli.jobs.ticks import Ticks


def recorded():
    """Return (reports, a progress that keeps them)."""
    reports = []
    return reports, lambda stage, done, total: reports.append((stage, done, total))


def test_a_counter_begins_at_0_and_reports_whole_units():
    reports, progress = recorded()
    ticks = Ticks(progress, "writing", 30, unit=10)
    for _ in range(6):
        ticks.add(5)
    assert reports == [("writing", done, 3) for done in range(4)]


def test_what_was_counted_is_not_counted_twice():
    reports, progress = recorded()
    ticks = Ticks(progress, "writing", 10)
    ticks.add(4)
    ticks.reach(3)
    ticks.reach(7)
    ticks.add(9)
    assert [done for _, done, _ in reports] == [0, 4, 7, 10]


def test_no_step_of_many_threads_is_lost():
    reports, progress = recorded()
    ticks = Ticks(progress, "writing", 400)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ticks.add, [1] * 400))
    assert [done for _, done, _ in reports] == list(range(401))


def test_a_copy_tells_nothing():
    reports, progress = recorded()
    copy = pickle.loads(pickle.dumps(Ticks(progress, "writing", 10)))
    copy.add(5)
    assert reports == [("writing", 0, 10)]
