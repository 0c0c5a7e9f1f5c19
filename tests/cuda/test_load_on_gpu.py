"""`rbe_cli.load(backend="cuda")` and `rbe run --backend cuda` in the simulator, beside the CPU."""

import json

import numpy as np
import pytest
from small_files import write_dense
from small_models import small_config

import rbe_cli
from rbe_cli.cli.app import run

TOKENS = [1, 2, 0, 3, 4]


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models of one shape."""
    folder = tmp_path_factory.mktemp("models")
    config = small_config(vocab_size=5, n_positions=6, n_embd=4, n_head=2, n_inner=3, n_layer=1)
    paths = [folder / f"{seed}.rbe" for seed in range(2)]
    for seed, path in enumerate(paths):
        write_dense(path, config, seed=seed)
    return paths


def test_a_loaded_model_computes_what_the_cpu_s_does(files):
    with rbe_cli.load(files[0], backend="cuda") as model, rbe_cli.load(files[0]) as known:
        np.testing.assert_allclose(model.logits(TOKENS), known.logits(TOKENS), rtol=1e-3, atol=1e-4)
        own, expected = (each.perplexity(TOKENS, context=3) for each in (model, known))
        assert own == pytest.approx(expected, rel=1e-4)


def test_a_loaded_model_writes_the_text_that_the_cpu_s_does(files):
    with rbe_cli.load(files[0], backend="cuda") as model, rbe_cli.load(files[0]) as known:
        own, expected = (
            each.generate(TOKENS[:2], max_tokens=2, greedy=True) for each in (model, known)
        )
    assert own.tokens == expected.tokens


def test_changed_parameters_reach_the_gpu(files):
    with rbe_cli.load(files[0], backend="cuda") as model:
        before = model.logits(TOKENS[:1])
        model.set_parameters({"ln_f.bias": model.parameters()["ln_f.bias"] + 1})
        assert not np.allclose(model.logits(TOKENS[:1]), before)


@pytest.mark.parametrize("more", [["--perplexity", "--context", "3"], []])
def test_the_verb_compares_with_a_reference(files, more, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(map(str, TOKENS)))
    found = []
    for backend in ("cuda", "cpu"):
        command = ["run", files[0], "--tokens", ids, "--reference", files[1], "--backend", backend]
        assert run([str(word) for word in (*command, *more, "--format", "json", "-q")]) == 0
        found.append(json.loads(capsys.readouterr().out))
    own, known = found
    assert own["kl_divergence"] == pytest.approx(known["kl_divergence"], rel=1e-3)
    assert own["loss"] == pytest.approx(known["loss"], rel=1e-4)
    errors = [[layer["relative_error"] for layer in each["layers"]] for each in found]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
