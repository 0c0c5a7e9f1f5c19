"""The benchmark as a whole, on a tiny checkpoint."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import random_tensors, small_config

from benchmarks.peers import __main__ as peers
from benchmarks.peers import kquants, schemes
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.compression.calibration import default_samples
from rbe_cli.model.tensor_names import parameter_count

CONFIG = small_config(n_embd=24, n_layer=1, n_head=2, n_positions=48, vocab_size=120)
RAW_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": CONFIG.vocab_size,
    "n_positions": CONFIG.n_positions,
    "n_embd": CONFIG.n_embd,
    "n_layer": CONFIG.n_layer,
    "n_head": CONFIG.n_head,
    "n_inner": CONFIG.n_inner,
}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file(random_tensors(CONFIG), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(RAW_CONFIG))
    return folder


@pytest.fixture(autouse=True)
def one_rate(monkeypatch):
    monkeypatch.setattr(schemes, "BITS", (4,))
    monkeypatch.setattr(kquants, "find_spec", lambda name: None)


@pytest.fixture
def measure(checkpoint, tmp_path):
    """Runs the benchmark on 500 random tokens; its JSON."""

    def run(*flags):
        tokens, report = tmp_path / "tokens.npy", tmp_path / "report.json"
        np.save(tokens, np.random.default_rng(0).integers(0, CONFIG.vocab_size, 500))
        peers.main(
            [
                str(checkpoint),
                "--tokens",
                str(tokens),
                "--json",
                str(report),
                "--rates",
                "4",
                "--tune",
                "0",
                *flags,
            ]
        )
        return json.loads(report.read_text())

    return run


def by_scheme(found):
    return {point["scheme"]: point for point in found["points"]}


def test_it_prints_a_row_a_scheme_and_writes_them_as_json(measure, capsys):
    found = measure()
    printed = capsys.readouterr()
    assert found["context"] == CONFIG.n_positions
    assert found["predictions"] == 10 * 47 + 19  # ten windows, and one of 20 tokens
    points = by_scheme(found)
    assert list(points) == ["round to nearest g128", "HQQ g64", "GPTQ g128", "rbe"]
    assert sum(line.startswith("| ") for line in printed.out.splitlines()) == 1 + len(points)
    assert "pip install llama-cpp-python gguf" in printed.err
    gptq, nearest = points["GPTQ g128"], points["round to nearest g128"]
    assert 0 < gptq["kl_divergence"] < nearest["kl_divergence"]
    assert 0 < points["rbe"]["kl_divergence"] < 1
    assert points["rbe"]["model_bits"] == pytest.approx(4, abs=0.1)


def test_rbe_alone_is_measured_at_the_rates_asked_for_and_tuned(measure):
    found = measure("--only-rbe", "--rates", "3,4.5", "--tune", "1")
    rows = [(point["scheme"], point["rate"]) for point in found["points"]]
    assert rows == [("rbe", "3 bits"), ("rbe, tuned", "3 bits"), ("rbe", "4.5 bits")]


def test_own_text_that_is_measured_is_in_no_calibration_text(checkpoint, pool):
    arguments = peers.parser().parse_args([str(checkpoint), "--windows", "12"])
    source = open_checkpoint(str(checkpoint))
    text = peers.calibration_text(source, arguments, pool)
    windows = peers.held_out_windows(source, text, arguments, pool)
    assert len(windows) == 12
    tuned = peers.own_text(source, default_samples(source.config, tunes=True), 0, pool)
    calibrated = {tuple(own) for own in [*text.used, *tuned.used]}
    assert calibrated >= {tuple(own) for own in text.held_out}  # why another seed is needed
    assert not calibrated & {tuple(window.tokens) for window in windows}


def test_rates_that_are_no_numbers_are_refused(checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        peers.main([str(checkpoint), "--rates", "2,many"])
    assert ended.value.code == 2
    assert "is not a list" in capsys.readouterr().err


def test_layers_only_leaves_the_embeddings_to_float16_in_every_scheme(measure):
    points = by_scheme(measure("--layers-only"))
    share = 24 * (120 + 48) / parameter_count(CONFIG)  # of the embeddings
    assert points["GPTQ g128"]["model_bits"] > 4 + 12 * share
    assert points["rbe"]["model_bits"] == pytest.approx(4 + 12 * share, abs=0.6)
    assert points["rbe"]["matrix_bits"] < 4  # the file's header is large beside such a model


def test_a_text_that_cannot_be_read_is_reported_in_a_sentence(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        peers.main([str(checkpoint), "--tokens", str(tmp_path / "none.npy")])
    assert ended.value.code == 4
    assert "none.npy" in capsys.readouterr().err


def test_a_window_of_no_tokens_is_refused(checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        peers.main([str(checkpoint), "--context", "0"])
    assert ended.value.code == 2
    assert "positive integer" in capsys.readouterr().err
