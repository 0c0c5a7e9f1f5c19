import numpy as np
import pytest
from small_models import relative_error

from rbe_cli.engine.session import Session
from rbe_cli.errors import UsageError


def test_prefill_and_decode_follow_the_full_forward(model):
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 20))
    full = model.forward(tokens)  # [2, 20, vocab]
    session = Session(model, batch=3)
    assert relative_error(session.prefill(2, tokens[0, :9]), full[0, 8]) < 1e-5
    assert relative_error(session.prefill(0, tokens[1, :4]), full[1, 3]) < 1e-5
    logits = session.decode([2, 0], np.array([tokens[0, 9], tokens[1, 4]]))
    assert logits.shape == (2, session.vocab_size)
    assert relative_error(logits, np.stack([full[0, 9], full[1, 4]])) < 1e-5
    assert [session.length(row) for row in range(3)] == [5, 0, 10]


def test_a_rows_logits_do_not_depend_on_its_batch(model):
    """Bit for bit: what a prompt is continued with must not depend on its neighbours."""
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (5, 8))
    together, alone = Session(model, batch=5), Session(model)
    for row in range(5):
        together.prefill(row, tokens[row, :7])
    logits = together.decode(range(5), tokens[:, 7])
    for row in range(5):
        alone.reset(0)
        alone.prefill(0, tokens[row, :7])
        np.testing.assert_array_equal(alone.decode([0], tokens[row, 7:])[0], logits[row])


def test_reset_empties_a_row(model):
    session = Session(model)
    first = session.prefill(0, np.array([1, 2, 3]))
    session.reset(0)
    assert session.length(0) == 0
    np.testing.assert_array_equal(session.prefill(0, np.array([1, 2, 3])), first)


def test_context_may_be_filled_and_not_passed(model):
    session = Session(model)
    session.prefill(0, np.ones(session.n_positions, np.int64))
    with pytest.raises(UsageError, match="context"):
        session.decode([0], np.array([1]))
    with pytest.raises(UsageError, match="no tokens"):
        session.prefill(0, np.array([], np.int64))


def test_a_batch_needs_a_row(model):
    with pytest.raises(UsageError, match="batch of 0"):
        Session(model, batch=0)
