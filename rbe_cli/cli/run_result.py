"""What `rbe run` reports: the fields of its JSON, and their form for people."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rbe_cli.cli.output import drawable, facts, size, table

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.evaluation.evaluate import Comparison
    from rbe_cli.evaluation.means import Mean, Unit


@dataclass(frozen=True)
class RunWindow:
    """Say how the input was cut for measuring.

    Attributes:
        context: tokens of a window at most.
        stride: tokens from the start of a window to that of the next.
        windows: how many there were.
        unit: what the standard errors take as independent, `window` or `token`.
    """

    context: int
    stride: int
    windows: int
    unit: "Unit"


@dataclass(frozen=True)
class RunResult:
    """Hold the fields of docs/json.md; they are None or empty where not asked for.

    A field that ends in `_error` is the standard error of another (evaluation/means.py).

    Attributes:
        tokens: of the input; with `--perplexity`, those that were predicted.
        loss: cross-entropy, nats a token.
        top: the likeliest next tokens.
        kl_divergence: KL(reference || model), nats a token.
        layers: relative error of each block's output.
        profile: nanoseconds of each layer's parts, and bytes it had allocated at most.
        perplexity_ratio: the perplexity over that of the reference.
        kl_divergence_p99, kl_divergence_max: 99th percentile and maximum over tokens.
        top_1_agreement: how often both find the same token likeliest, from 0 to 1.
        window: None for an input of one token.
        logprobs: of each token of the input; its log-probability and rank are None for the first.
    """

    tokens: int
    loss: float | None = None
    perplexity: float | None = None
    top: list[dict[str, Any]] = field(default_factory=list)
    reference_perplexity: float | None = None
    kl_divergence: float | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)
    loss_error: float | None = None
    perplexity_error: float | None = None
    reference_perplexity_error: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_error: float | None = None
    kl_divergence_error: float | None = None
    kl_divergence_p99: float | None = None
    kl_divergence_max: float | None = None
    top_1_agreement: float | None = None
    top_1_agreement_error: float | None = None
    window: RunWindow | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)


def loss_fields(loss: "Mean") -> dict[str, Any]:
    """Return the fields of a `RunResult` that follow from the mean loss."""
    perplexity = loss.exp()
    return {
        "loss": loss.value,
        "loss_error": loss.error,
        "perplexity": perplexity.value,
        "perplexity_error": perplexity.error,
    }


def comparison_fields(found: "Comparison") -> dict[str, Any]:
    """Return the fields of a `RunResult` that a reference gives."""
    reference, ratio = found.reference_loss.exp(), found.loss_increase.exp()
    return {
        "reference_perplexity": reference.value,
        "reference_perplexity_error": reference.error,
        "perplexity_ratio": ratio.value,
        "perplexity_ratio_error": ratio.error,
        "kl_divergence": found.kl_divergence.value,
        "kl_divergence_error": found.kl_divergence.error,
        "kl_divergence_p99": found.kl_divergence_p99,
        "kl_divergence_max": found.kl_divergence_max,
        "top_1_agreement": found.top_1_agreement.value,
        "top_1_agreement_error": found.top_1_agreement.error,
        "layers": [
            {"layer": layer, "relative_error": error}
            for layer, error in enumerate(found.layer_errors)
        ],
    }


def show(console: "Console", found: RunResult) -> None:
    """Draw the result for people."""
    console.print(facts(_facts(found)))
    if found.logprobs:
        scored = [_logprob_row(own) for own in found.logprobs]
        console.print(table("", ("token", "text", "logprob", "rank"), scored))
    if found.top:
        rows = [
            (str(entry["token"]), repr(entry["text"] or ""), f"{entry['probability']:.4f}")
            for entry in found.top
        ]
        console.print(table("", ("next token", "text", "probability"), rows))
    if found.layers:
        errors = [(str(e["layer"]), f"{e['relative_error']:.5f}") for e in found.layers]
        console.print(table("", ("layer", "relative error"), errors))
    if found.profile:
        columns = ("layer", "ln 1", "attention", "ln 2", "feed-forward", "residual", "total")
        console.print(table("", (*columns, "memory"), [_profile_row(own) for own in found.profile]))


def _facts(found: RunResult) -> list[tuple[str, str]]:
    pairs = [("tokens", f"{found.tokens:,}")]
    if found.window is None:
        return pairs
    cut = found.window
    if cut.windows > 1:
        pairs.append(("windows", f"{cut.windows:,} of {cut.context} tokens, every {cut.stride}"))
    pairs.append(("loss", f"{_with_error(found.loss, found.loss_error, 4)} nats a token"))
    pairs.append(("perplexity", _with_error(found.perplexity, found.perplexity_error, 3)))
    if found.kl_divergence is not None:
        reference = (found.reference_perplexity, found.reference_perplexity_error)
        ratio = (found.perplexity_ratio, found.perplexity_ratio_error)
        divergence = _with_error(found.kl_divergence, found.kl_divergence_error, 6)
        agreement, error = found.top_1_agreement, found.top_1_agreement_error
        pairs += [
            ("reference's perplexity", _with_error(*reference, 3)),
            ("ratio of the two", _with_error(*ratio, 5)),
            ("KL divergence", f"{divergence} nats a token"),
            ("its 99th percentile", f"{found.kl_divergence_p99:.6f}"),
            ("its maximum", f"{found.kl_divergence_max:.6f}"),
            ("same likeliest token", f"{_with_error(_percent(agreement), _percent(error), 2)} %"),
        ]
    unit = f"{cut.unit}s taken as independent"
    pairs.append((drawable("±", "+/-"), f"standard error, the {unit}"))
    return pairs


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text if error is None else f"{text} {drawable('±', '+/-')} {error:.{digits}f}"


def _logprob_row(own: dict[str, Any]) -> tuple[str, ...]:
    scored = ("", "") if own["rank"] is None else (f"{own['logprob']:.4f}", f"{own['rank']:,}")
    return str(own["token"]), repr(own["text"] or ""), *scored


def _profile_row(own: dict[str, int]) -> tuple[str, ...]:
    layer, *times, peak = own.values()
    return str(layer), *(f"{1e-6 * time:.3f} ms" for time in times), size(peak)
