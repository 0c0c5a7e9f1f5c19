from rbe_cli.engine.thread_tuner import ThreadTuner


def run(tuner, seconds_by_threads, tokens):
    """Seconds that `tokens` take, with what each number of threads takes a token."""
    total = 0.0
    for _ in range(tokens):
        seconds = seconds_by_threads[tuner.threads]
        total += seconds
        tuner.record(seconds)
    return total


IDLE, BUSY = {2: 1.0, 1: 1.8}, {2: 5.0, 1: 1.9}


def test_an_idle_machine_loses_little_by_trials():
    assert run(ThreadTuner(2), IDLE, 1000) < 1.02 * 1000


def test_a_machine_that_is_busy_from_the_beginning():
    tuner = ThreadTuner(2)
    run(tuner, BUSY, 30)
    assert run(tuner, BUSY, 1000) < 1.05 * 1000 * 1.9


def test_a_machine_that_gets_busy():
    tuner = ThreadTuner(2)
    run(tuner, IDLE, 500)
    assert run(tuner, BUSY, 1000) < 1.05 * 1000 * 1.9


def test_threads_come_back_when_the_machine_is_idle_again():
    tuner = ThreadTuner(2)
    run(tuner, BUSY, 300)
    run(tuner, IDLE, 600)
    assert run(tuner, IDLE, 500) < 1.03 * 500


def test_longer_attention_is_not_taken_for_a_busy_machine():
    tuner, alone = ThreadTuner(4), 0
    for token in range(1000):
        alone += tuner.threads == 1
        tuner.record((1.0 if tuner.threads == 4 else 3.0) + token / 500)
    assert alone < 30


def test_one_thread_stays_one():
    tuner = ThreadTuner(1)
    assert run(tuner, {1: 1.0}, 5) == 5
    run(tuner, {1: 100.0}, 5)
    assert tuner.threads == 1
