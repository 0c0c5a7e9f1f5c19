"""What a user of the API may write; tests/api/test_types.py has mypy check it."""

import numpy as np
from numpy.typing import NDArray

import rbe_cli


def use(model: rbe_cli.Model) -> NDArray[np.float32]:
    found: rbe_cli.GenerationResult = model.generate("A", max_tokens=3, stop=["a", "b"])
    text: str = found.text + model.decode(found.tokens)
    for step in model.stream(text, greedy=True, on_overflow="shift"):
        token: int = step.token
        print(token, step.text)
    gamma: NDArray[np.float32] = model.tensors["h.0.ln_1.weight"].read()
    model.tensors["h.0.ln_1.weight"] = 2 * gamma
    model.set_parameters({"ln_f.bias": [0.0]})
    size: int = model.save("a.rbe", force=True)
    score: float = model.perplexity(text, context=8)
    print(size, score, model.config.n_layer)
    return model.logits(model.encode("A"))


def main() -> None:
    result: rbe_cli.CompressResult = rbe_cli.compress("demo", "a.rbe", target_bpw=4.5, seed=1)
    print(result.quality.kl_divergence)
    try:
        with rbe_cli.load("a.rbe", kv_type="int8") as model:
            use(model)
    except rbe_cli.UsageError as error:
        print(error.exit_code)
    layer = rbe_cli.compress_linear(np.ones((4, 4)), bits=4)
    print(layer(np.ones((2, 4), np.float32)).shape)


main()
