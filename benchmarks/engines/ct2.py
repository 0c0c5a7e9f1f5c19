"""Run CTranslate2 in int8."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.engines.peer_session import PeerEngine, PeerSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rbe_cli.checkpoint.checkpoint import Float32


class Ct2Session(PeerSession):
    """Run a generator, which keeps its cache itself and chooses the tokens that it decodes."""

    def __init__(self, path: Path, threads: int) -> None:
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(path), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )

    def prefill(self, tokens: Sequence[int]) -> None:
        """Run the prompt by generating one token: `forward_batch` would compute all logits."""
        self._generate(tokens, 1)

    def logits(self, tokens: Sequence[int]) -> list[float]:
        import numpy as np

        logits = np.asarray(self._generator.forward_batch([list(tokens)]))  # [1, seq, vocab]
        found: list[float] = logits[0, -1].tolist()
        return found

    def decode_seconds(self, prompt: Sequence[int], new: Sequence[int]) -> float:
        """Return the seconds for one token more than `new` has, less those for the first."""
        start = perf_counter()
        self._generate(prompt, 1)
        middle = perf_counter()
        self._generate(prompt, 1 + len(new))
        return (perf_counter() - middle) - (middle - start)

    def _generate(self, prompt: Sequence[int], count: int) -> None:
        """Decode exactly `count` tokens greedily; the prompt is run at once."""
        self._generator.generate_batch(
            [[str(token) for token in prompt]],
            min_length=count,
            max_length=count,
            include_prompt_in_result=False,
        )


class CTranslate2(PeerEngine):
    """Quantise to int8: a scale for each row of weights, and inputs in int8 as well."""

    packages = ("ctranslate2",)
    variants = {"int8": 8}  # noqa: RUF012

    def build(self, source: str, variant: str, path: Path) -> None:
        from ctranslate2.specs import TransformerDecoderModelSpec
        from ctranslate2.specs.common_spec import Activation

        from rbe_cli.checkpoint.source import open_checkpoint

        checkpoint = open_checkpoint(source)
        config, tensors = checkpoint.config, checkpoint.tensors
        spec = TransformerDecoderModelSpec.from_config(
            config.n_layer, config.n_head, activation=Activation.GELUTanh
        )
        spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
        spec.config.layer_norm_epsilon = config.layer_norm_epsilon
        _fill_decoder(spec.decoder, tensors)
        spec.validate()
        spec.optimize(quantization=variant)
        path.mkdir(exist_ok=True)
        spec.save(str(path))

    def open(self, path: Path, variant: str, setting: str, threads: int) -> Ct2Session:
        return Ct2Session(path, threads)


def _fill_decoder(decoder: Any, tensors: "Mapping[str, Float32]") -> None:
    """Fill in the weights; those of linear layers are `[out, in]` here."""

    def set_norm(spec: Any, name: str) -> None:
        spec.gamma, spec.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def set_linear(spec: Any, name: str) -> None:
        spec.weight = tensors[f"{name}.weight"].T.copy()
        spec.bias = tensors[f"{name}.bias"]

    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["wte.weight"]
    decoder.position_encodings.encodings = tensors["wpe.weight"]
    decoder.projection.weight = tensors.get("lm_head.weight", tensors["wte.weight"])
    set_norm(decoder.layer_norm, "ln_f")
    for index, layer in enumerate(decoder.layer):
        set_norm(layer.self_attention.layer_norm, f"h.{index}.ln_1")
        set_linear(layer.self_attention.linear[0], f"h.{index}.attn.c_attn")
        set_linear(layer.self_attention.linear[1], f"h.{index}.attn.c_proj")
        set_norm(layer.ffn.layer_norm, f"h.{index}.ln_2")
        set_linear(layer.ffn.linear_0, f"h.{index}.mlp.c_fc")
        set_linear(layer.ffn.linear_1, f"h.{index}.mlp.c_proj")


ENGINE = CTranslate2()
