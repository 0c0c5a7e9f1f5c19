"""Python threads that share a session, a model or a team, against one thread alone."""

from functools import partial

import numpy as np
import pytest
from deadlines import run_together
from small_models import as_panels, random_tensors, small_config

from rbe_cli.engine.model_plan import ModelPlan
from rbe_cli.engine.session import ReferenceSession, Session
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2

USERS = 4
TOKENS = 40


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def shared(request):
    config = small_config()
    kernels = load_kernels("fast", request.param)
    return Gpt2(config, as_panels(random_tensors(config), 30)[0], kernels)


def tokens_of(user, config):
    return np.random.default_rng(user).integers(0, config.vocab_size, TOKENS)


def logits_of(session, row, tokens):
    """Logits of a prompt's end, of tokens read together, and of tokens one by one."""
    prompt = session.prefill(row, tokens[:9])
    found = [prompt[None], session.extend(row, tokens[9:20])]
    session.truncate(row, 15)
    found += [session.extend(row, tokens[15:20])]
    found += [session.decode([row], tokens[i : i + 1]) for i in range(20, len(tokens))]
    return np.concatenate(found)


def check_users(make_session, model):
    """Each user of a session finds, again and again, what a session of its own gives."""
    expected = [
        logits_of(Session(model), 0, tokens_of(user, model.config)) for user in range(USERS)
    ]
    wrong = []

    def use(user):
        session = make_session(user)
        for _ in range(5):
            with session.borrow_rows(1) as (row,):
                found = logits_of(session, row, tokens_of(user, model.config))
            if not np.array_equal(found, expected[user]):
                wrong.append(user)

    run_together([partial(use, user) for user in range(USERS)])
    assert wrong == []


def test_threads_with_rows_of_one_session(shared):
    session = Session(shared)
    check_users(lambda user: session, shared)


def test_threads_with_sessions_over_one_model(shared):
    check_users(lambda user: Session(shared), shared)


def test_threads_with_sessions_over_models_of_one_matrix():
    """Records of the matrices are made by whichever thread comes first."""
    config = small_config()
    panels = as_panels(random_tensors(config), 30)[0]
    model = Gpt2(config, panels, load_kernels("fast", 2))
    twin = as_panels(random_tensors(config), 30)[0]  # whose records are not made yet
    check_users(lambda user: Session(Gpt2(config, twin, load_kernels("fast", 2))), model)


@pytest.mark.parametrize("kind", [Session, ReferenceSession])
def test_threads_that_name_their_rows(shared, kind):
    session, alone = kind(shared, batch=USERS), kind(shared)
    tokens = [tokens_of(user, shared.config) for user in range(USERS)]
    expected, wrong = [], []
    for own in tokens:
        alone.reset(0)
        expected.append(alone.prefill(0, own))

    def use(row):
        for _ in range(20):
            session.reset(row)
            found = session.prefill(row, tokens[row])
            if not np.array_equal(found, expected[row]):
                wrong.append(row)

    run_together([partial(use, row) for row in range(USERS)])
    assert wrong == []
    assert [session.length(row) for row in range(USERS)] == [TOKENS] * USERS


def test_lent_rows_are_empty_and_nobody_elses(shared):
    session = Session(shared, batch=2)
    session.prefill(1, np.arange(5))
    with session.borrow_rows(2) as first, session.borrow_rows(1) as second:
        assert {*first, *second}.isdisjoint({0, 1})
        assert len({*first, *second}) == 3
        session.prefill(first[0], np.arange(7))
        session.prefill(second[0], np.arange(3))
    assert session.length(1) == 5
    with session.borrow_rows(3) as again:
        assert {*again} == {*first, *second}  # no row is added as long as some are free
        assert [session.length(row) for row in again] == [0, 0, 0]


def test_rows_that_come_back_leave_their_memory_to_others(shared):
    session = Session(shared)
    for _ in range(3):
        with session.borrow_rows(1) as (row,):
            session.prefill(row, np.ones(session.n_positions, np.int64))
        taken = session.cache.nbytes
    assert taken == session.cache.position_bytes * 64 * 2  # two pages of 64 positions


def test_rows_may_come_back_within_a_call(shared, monkeypatch):
    """As when a generator that was left half-way is collected while the session computes."""
    session = Session(shared)
    loan = session.borrow_rows(1)
    rows = loan.__enter__()
    run = ModelPlan.run

    def collecting(*arguments, **options):
        loan.__exit__(None, None, None)
        return run(*arguments, **options)

    monkeypatch.setattr(ModelPlan, "run", collecting)
    run_together([lambda: session.prefill(0, np.arange(3))])
    with session.borrow_rows(1) as again:
        assert again == rows
