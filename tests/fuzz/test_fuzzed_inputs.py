"""Cases of every kind of input, and those that once broke a promise."""

from pathlib import Path

import msgspec
import pytest
from examples import examples
from fuzz.draws import Draws
from fuzz.fuzz_worker import whole_verdict
from fuzz.kinds import ACCEPTED, FAILED
from fuzz.registry_of_kinds import KINDS
from fuzz.scratch import SCRATCH
from hypothesis import given
from hypothesis import strategies as st

FOUND = sorted((Path(__file__).parent / "found").glob("*/*.case"))


@pytest.fixture(autouse=True, scope="module")
def scratch_folder():
    yield
    SCRATCH.remove()


@examples(200)
@given(name=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**64 - 1))
def test_a_case_is_read_or_refused(name, seed):
    kind = KINDS[name]
    verdict = kind.verdict(kind.case(Draws(seed)))
    assert verdict.name != FAILED, verdict.fault


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_once_failed_is_read_or_refused(path):
    case = msgspec.msgpack.decode(path.read_bytes())
    verdict = whole_verdict(KINDS[path.parent.name], case)
    assert verdict.name != FAILED, verdict.fault


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_seed_makes_the_same_case_again(name):
    kind = KINDS[name]
    cases = [kind.case(Draws(seed)) for seed in range(20)]
    assert cases == [kind.case(Draws(seed)) for seed in range(20)]
    assert len({msgspec.msgpack.encode(case, enc_hook=str) for case in cases}) > 10


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"rbe-damage"}))
def test_some_cases_are_accepted_and_some_refused(name):
    kind = KINDS[name]
    verdicts = {kind.verdict(kind.case(Draws(seed))).name for seed in range(100)}
    assert ACCEPTED in verdicts
    assert verdicts - {ACCEPTED, FAILED}
