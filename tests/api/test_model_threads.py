"""A loaded model that several Python threads use at once, whatever they ask for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from deadlines import run_together

import rbe_cli

PROMPTS = ("The lamp was out", "A boat", "He said")
USES: list[Callable[[rbe_cli.Model], object]] = [
    lambda model: model.generate(PROMPTS[0], max_tokens=12, greedy=True).tokens,
    lambda model: model.generate(PROMPTS[1], max_tokens=12, seed=1).text,
    lambda model: [step.text for step in model.stream(PROMPTS[2], max_tokens=12, seed=2)],
    lambda model: model.logits([5, 6, 7, 8]).tobytes(),
    lambda model: model.perplexity(PROMPTS[0] * 9),
]


@pytest.mark.parametrize("threads", [1, 2])
def test_each_thread_gets_what_it_would_get_alone(rbe_file: Path, threads: int) -> None:
    expected = []
    for use in USES:
        with rbe_cli.load(rbe_file, threads=threads) as alone:
            expected.append(use(alone))
    wrong: list[int] = []

    def repeat(model: rbe_cli.Model, number: int) -> None:
        found = [USES[number](model) for _ in range(4)]
        wrong.extend(number for own in found if own != expected[number])

    with rbe_cli.load(rbe_file, threads=threads) as shared:
        run_together([partial(repeat, shared, number) for number in range(len(USES))])
    assert wrong == []


def test_a_text_that_has_begun_keeps_its_weights(model: rbe_cli.Model) -> None:
    before = model.generate(PROMPTS[0], max_tokens=12, greedy=True, ignore_eos=True).tokens
    stream = model.stream(PROMPTS[0], max_tokens=12, greedy=True, ignore_eos=True)
    first = next(stream)
    changed = -model.tensors["ln_f.weight"].read()
    run_together([lambda: model.tensors.__setitem__("ln_f.weight", changed)])
    assert [first.token, *(step.token for step in stream)] == before
    after = model.generate(PROMPTS[0], max_tokens=12, greedy=True, ignore_eos=True).tokens
    assert after != before


def test_a_stream_that_nobody_reads_holds_up_no_other(model: rbe_cli.Model) -> None:
    expected = model.generate(PROMPTS[1], max_tokens=12, seed=1).tokens
    unread = model.stream(PROMPTS[0], max_tokens=12, seed=4)
    next(unread)
    found: list[int] = []
    run_together([lambda: found.extend(model.generate(PROMPTS[1], max_tokens=12, seed=1).tokens)])
    np.testing.assert_array_equal(found, expected)
    unread.finish()
