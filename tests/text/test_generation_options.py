"""Each option's range, and the flag that its error names."""

from math import inf, nan
from typing import Any

import pytest

from rbe_cli.errors import UsageError
from rbe_cli.text.generation_options import GenerationOptions


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("max_tokens", [0, -1, 1 << 31, 10**30], r"`max_tokens` must lie in \[1, "),
        ("temperature", [-0.1, nan, inf], r"`temperature` must lie in \[0, 100\]"),
        ("top_k", [-1, 1 << 31], r"`top_k` must lie in \[0, "),
        ("top_p", [0.0, 1.1, nan], r"`top_p` must lie in \(0, 1\]"),
        ("min_p", [-0.1, 1.1, nan], r"`min_p` must lie in \[0, 1\]"),
        ("repetition_penalty", [0.0, -1.0, nan, inf], "`repetition_penalty` must lie in"),
        ("repetition_window", [0, 1 << 31], r"`repetition_window` must lie in \[1, "),
        ("stop", [("a", "")], "`stop` must not be an empty string"),
        ("seed", [-1, 1 << 64], "`seed` must lie in"),
        ("on_overflow", ["crash"], "`on_overflow` must be stop or shift"),
    ],
)
def test_values_outside_their_range(field: str, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(UsageError, match=message):
            GenerationOptions(**{field: value})


def test_the_ends_of_the_ranges_are_accepted() -> None:
    low = GenerationOptions(1, 0.0, 0, 1e-9, 0.0, 0.1, 1, (), 0)
    high = GenerationOptions(
        1 << 30, 100.0, 1 << 30, 1.0, 1.0, 10.0, 1 << 30, (".",), (1 << 64) - 1
    )
    assert (low.temperature, high.min_p) == (0.0, 1.0)
