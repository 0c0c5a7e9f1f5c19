"""How many examples Hypothesis tries in a test that needs more of them than others."""

from hypothesis import HealthCheck, settings

QUICK = 30  # examples of a property test in the profile `quick`


def examples(quick: int, **options: list[HealthCheck]) -> settings:
    """Try so many examples in the profile `quick`, and in `full` more by the same factor."""
    return settings(max_examples=quick * settings.default.max_examples // QUICK, **options)
