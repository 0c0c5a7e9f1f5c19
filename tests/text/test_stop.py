"""Stop strings against an obvious search of the whole text, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.text.stop import StopMatcher


def released(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.finish(), matcher.stopped


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """Reads the text up to each character in turn and stops when some string ends there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))], True
    return text, False


@given(
    stops=st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("ab🙂", max_size=4), max_size=8),
)
def test_the_cut_into_pieces_does_not_matter(stops: list[str], pieces: list[str]) -> None:
    assert released(stops, pieces) == expected(stops, "".join(pieces))


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
)
def test_only_undecided_text_is_held_back(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    text = output = ""
    for piece in pieces:
        text, output = text + piece, output + matcher.push(piece)
        if not matcher.stopped:
            held = text[len(output) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("stops", "pieces", "pushed"),
    [
        (["END"], ["one E", "N", "D two"], ["one ", "", ""]),
        (["END"], ["one E", "N", "E two"], ["one ", "", "ENE two"]),
        (["\n\n"], ["a\n", "b\n", "\n"], ["a", "\nb", ""]),
        (["abc", "b"], ["xa", "b"], ["x", "a"]),
        (["bc", "abc"], ["xa", "bc"], ["x", ""]),
        ([], ["a", "b"], ["a", "b"]),
    ],
)
def test_text_is_released_as_soon_as_it_is_decided(
    stops: list[str], pieces: list[str], pushed: list[str]
) -> None:
    matcher = StopMatcher(stops)
    assert [matcher.push(piece) for piece in pieces] == pushed


def test_nothing_is_released_after_the_stop() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("one. two") == "one"
    assert matcher.stopped
    assert matcher.push(" three") + matcher.finish() == ""
