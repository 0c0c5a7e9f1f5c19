"""Say what each variant costs in quality: KL divergences of `english-6m` (docs/results.md).

The models whose speed is measured here have random weights or any others, so their quality says
nothing. That of one really trained model, compressed in the same ways, stands for it.
"""

from benchmarks.engines.speed_rows import OURS
from rbe_cli.compression.settings import load_preset, preset_names

LLAMA = "llama.cpp"
LLAMA_VARIANTS = {  # without importance matrices; one type for all matrices, but for mixes (_M)
    "Q8_0": 0.00010,
    "Q6_K": 0.00100,
    "Q5_K_M": 0.00225,
    "Q4_K_M": 0.00693,
    "Q4_0": 0.02429,
    "Q3_K_M": 0.01955,
    "Q2_K": 0.29857,
}


def divergence(engine: str, variant: str) -> float | None:
    """Return the KL divergence in nats a token; None if it was not measured."""
    if engine == OURS and variant in preset_names():
        measured = load_preset(variant).measured
        return measured.kl_divergence if measured else None
    return LLAMA_VARIANTS.get(variant) if engine == LLAMA else None
