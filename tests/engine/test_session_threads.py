"""Python threads that share a session, a model or a team, against one thread alone."""

from functools import partial

import numpy as np
import pytest
from deadlines import run_together
from small_models import as_panels, random_tensors, small_config

from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, encode_block
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.engine.layer_session import LayerSession
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.runner import Runner
from rbe_cli.engine.session import Session
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.runtime.thread_team import get_team

USERS = 4
TOKENS = 40


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def start(request):
    """A function that starts a session of so many threads over one model."""
    config = small_config()
    model = LoadedModel(config, as_panels(random_tensors(config), 30)[0])
    return partial(Session, model, team=get_team(request.param))


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


def check_users(session_of, start):
    """Each user of a session finds, again and again, what a session of its own gives."""
    config = start().config
    expected = [logits_of(start(), 0, tokens_of(user, config)) for user in range(USERS)]
    wrong = []

    def use(user):
        session = session_of(user)
        for _ in range(5):
            with session.borrow_rows(1) as (row,):
                found = logits_of(session, row, tokens_of(user, config))
            if not np.array_equal(found, expected[user]):
                wrong.append(user)

    run_together([partial(use, user) for user in range(USERS)])
    assert wrong == []


def test_threads_with_rows_of_one_session(start):
    session = start()
    check_users(lambda user: session, start)


def test_threads_with_sessions_over_one_model(start):
    check_users(lambda user: start(), start)


def test_threads_that_start_the_first_sessions_of_a_model(start):
    """Where the weights lie is found by whichever thread comes first."""
    fresh = LoadedModel(small_config(), as_panels(random_tensors(small_config()), 30)[0])
    check_users(lambda user: Session(fresh, team=get_team(2)), start)


def test_threads_that_decode_layers_on_use():
    """Sessions of one model, each with a layer of its own in memory."""
    config = small_config()
    weights = as_panels(random_tensors(config), 30)[0]
    coded = dict(weights)
    for number, step in ((0, 0.01), (2, 0.1)):  # the second takes activations of 8 bits
        name = f"h.{number}.attn.c_proj.weight"
        tensor = random_tensors(config)[name]
        factors = InputFactor.identity(len(tensor)), OutputFactor.identity(len(tensor.T))
        block = encode_block(tensor, step, *factors)
        coded[name] = CodedMatrix(EncodedMatrix(tensor.shape, step, (block,)))
        weights[name] = coded[name].decoded()
        assert weights[name].is_coarse == (step == 0.1)
    whole, model = LoadedModel(config, weights), LoadedModel(config, coded)
    assert Session(model).coded_layers == 2
    team = get_team(2)
    shared = Session(model, team=team)
    check_users(
        lambda user: shared if user % 2 else Session(model, team=team),
        partial(Session, whole, team=team),
    )


def start_layers(batch=1):
    config = small_config()
    panels = as_panels(random_tensors(config), 30)[0]
    return LayerSession(Gpt2(config, panels, load_kernels("fast", 2)), batch)


@pytest.mark.parametrize("has_layers", [False, True])
def test_threads_that_name_their_rows(start, has_layers):
    start = start_layers if has_layers else start
    session, alone = start(batch=USERS), start()
    tokens = [tokens_of(user, session.config) for user in range(USERS)]
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


def test_lent_rows_are_empty_and_nobody_elses(start):
    session = start(batch=2)
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


def test_rows_that_come_back_leave_their_memory_to_others(start):
    session = start()
    for _ in range(3):
        with session.borrow_rows(1) as (row,):
            session.prefill(row, np.ones(session.n_positions, np.int64))
        taken = session.cache.nbytes
    assert taken == session.cache.position_bytes * 64 * 2  # two pages of 64 positions


def test_rows_may_come_back_within_a_call(start, monkeypatch):
    """As when a generator that was left half-way is collected while the session computes."""
    session = start()
    loan = session.borrow_rows(1)
    rows = loan.__enter__()
    run = Runner.run

    def collecting(*arguments, **options):
        loan.__exit__(None, None, None)
        return run(*arguments, **options)

    monkeypatch.setattr(Runner, "run", collecting)
    run_together([lambda: session.prefill(0, np.arange(3))])
    with session.borrow_rows(1) as again:
        assert again == rows
