"""The quality of a compressed file for people: after `compress`, and in `inspect`."""

from collections.abc import Mapping
from typing import Any

from rbe_cli.cli.output import drawable

NUMBERS = ("kl_divergence", "perplexity", "reference_perplexity", "tokens")
"""Fields of every file that `compress` writes; files of older versions have no others."""
FIELDS = (
    *NUMBERS,
    *("kl_divergence_error", "kl_divergence_p99", "kl_divergence_max"),
    *("perplexity_error", "perplexity_ratio_error", "top_1_agreement"),
    *("windows", "context", "text"),
)


def is_quality(values: Mapping[str, Any]) -> bool:
    """Whether a file's own words about itself hold its quality, as numbers."""
    others = [values.get(name) for name in FIELDS[len(NUMBERS) : -1]]
    return all(_is_number(values.get(name)) for name in NUMBERS) and all(
        value is None or _is_number(value) for value in others
    )


def quality_facts(quality: Mapping[str, Any], text: str) -> list[tuple[str, str]]:
    """Names and values, one pair a line.

    Args:
        quality: with all of `NUMBERS`; of the other fields those that are known.
        text: what it was measured on, in words. On what the model wrote itself a perplexity
            is lower than on a book, so people have to see which it is.
    """
    divergence = f"{quality['kl_divergence']:.5f}{_error(quality, 'kl_divergence_error', 5)}"
    details = [
        f"{name} {quality[field]:.5f}"
        for name, field in (("99 % below", "kl_divergence_p99"), ("maximum", "kl_divergence_max"))
        if quality.get(field) is not None
    ]
    perplexity = f"{quality['perplexity']:.3f}{_error(quality, 'perplexity_error', 3)}"
    original = quality["reference_perplexity"]
    ratio = f"{quality['perplexity'] / original:.4f}" if original else "unknown"
    ratio += _error(quality, "perplexity_ratio_error", 4)
    pairs = [
        ("KL divergence", f"{divergence} nats a token" + _bracketed(details)),
        ("perplexity", f"{perplexity} (original {original:.3f}, ratio {ratio})"),
    ]
    if quality.get("top_1_agreement") is not None:
        pairs.append(("same likeliest token", f"{100 * quality['top_1_agreement']:.2f} %"))
    windows, context = quality.get("windows"), quality.get("context")
    cut = f", windows of {context} tokens" if windows and context else ""
    pairs.append(("measured on", f"{text} ({quality['tokens']} held-out tokens{cut})"))
    return pairs


def _error(quality: Mapping[str, Any], name: str, digits: int) -> str:
    error = quality.get(name)
    return "" if error is None else f" {drawable('±', '+/-')} {error:.{digits}f}"


def _bracketed(details: list[str]) -> str:
    return f" ({', '.join(details)})" if details else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
