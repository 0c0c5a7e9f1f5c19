"""What is quoted in messages: escaped, bounded in length and in time."""

import pytest

from rbe_cli.quoting import clipped, quoted, shortened


def test_a_short_value_stands_as_python_writes_it():
    assert quoted("a'b") == '"a\'b"'
    assert quoted(["x", 1]) == "['x', 1]"
    assert quoted(-3) == "-3"
    assert quoted(None) == "None"


def test_control_characters_are_escaped():
    assert quoted("\x1b[31m\n\u202e") == r"'\x1b[31m\n\u202e'"
    assert clipped("a'\x1b[31m\nb\u202e") == r"a'\x1b[31m\nb\u202e"


def doubled(times):
    """A tuple that takes 2**times characters to write, and few bytes in memory."""
    value: tuple[object, ...] = ("x",)
    for _ in range(times):
        value = (value, value)
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        b"x" * 10_000_000,
        list(range(1_000_000)),
        {"k" * 100_000: "v" * 100_000},
        int("9" * 4300) ** 3,
        doubled(200),
        nested(50_000),
    ],
    ids=["text", "bytes", "list", "dict", "number", "doubled", "nested"],
)
def test_a_huge_value_is_cut(value):
    assert 5 < len(quoted(value)) < 100


def test_a_message_is_cut_after_its_limit():
    assert clipped("short") == "short"
    assert clipped("x" * 5000) == "x" * 2000 + "..."
    assert clipped("abc", 2) == "ab..."


def test_a_very_long_message_keeps_its_begin_and_its_end():
    assert shortened("short") == "short"
    assert shortened("a" * 5000 + "b" * 5000) == "a" * 1000 + " ... " + "b" * 1000
