from rbe_cli.engine.pacer import Pacer


def run(pacer, seconds_by_threads, tokens):
    """Seconds that `tokens` take, with what each number of threads takes a token."""
    total = 0.0
    for _ in range(tokens):
        seconds = seconds_by_threads[pacer.threads]
        total += seconds
        pacer.record(seconds)
    return total


def test_an_idle_machine_uses_all_threads():
    pacer = Pacer(2)
    assert run(pacer, {2: 1.0, 1: 1.8}, 500) == 500


def test_a_busy_machine_is_not_much_slower_than_one_thread():
    pacer = Pacer(2)
    run(pacer, {2: 1.0, 1: 1.8}, 50)
    assert run(pacer, {2: 5.0, 1: 1.9}, 1000) < 1.05 * 1000 * 1.9


def test_threads_come_back_when_the_machine_is_idle_again():
    pacer = Pacer(2)
    run(pacer, {2: 1.0, 1: 1.8}, 50)
    run(pacer, {2: 5.0, 1: 1.9}, 300)
    run(pacer, {2: 1.0, 1: 1.8}, 300)
    assert run(pacer, {2: 1.0, 1: 1.8}, 100) == 100


def test_longer_attention_is_not_taken_for_a_busy_machine():
    pacer = Pacer(4)
    for token in range(1000):
        pacer.record(1.0 + token / 500)
        assert pacer.threads == 4


def test_one_thread_stays_one():
    pacer = Pacer(1)
    assert run(pacer, {1: 1.0}, 5) == 5
    run(pacer, {1: 100.0}, 5)
    assert pacer.threads == 1
