"""`rbe bench --backend cuda` in the simulator: layers and models, on tiny shapes."""

import json

import numpy as np
import pytest
from small_files import write_dense
from small_models import relative_error, small_config

from rbe_cli.bench import model_start, timing
from rbe_cli.bench.device_cases import build_device_case
from rbe_cli.bench.model_start import ModelOptions
from rbe_cli.bench.operator_cases import build_case, held, random_tensors
from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operator_shapes import Shape
from rbe_cli.bench.operators import LayerOptions, check_memory, time_layers
from rbe_cli.cli.app import run
from rbe_cli.cuda.kernel_modules import all_kernels
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.progress import no_progress

SHAPE = Shape(2, 2, 4)
CONFIG = small_config(vocab_size=3, n_positions=4, n_embd=2, n_head=1, n_inner=2, n_layer=1)
QUICK = ["bench", "--backend", "cuda", "--repeat", "1", "-q"]


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.rbe"
    write_dense(path, CONFIG)
    return path


@pytest.fixture
def inputs():
    rng = np.random.default_rng(1)
    tensors = random_tensors(SHAPE.config(), rng)
    return tensors, rng.standard_normal((SHAPE.batch, SHAPE.seq, SHAPE.dim), np.float32)


@pytest.mark.parametrize("variant", [Variant.fused, Variant.standard])
def test_layers_compute_what_the_cpu_s_do(inputs, variant):
    tensors, x = inputs
    found = build_device_case(SHAPE, held(tensors, variant), x, backward=False)
    known = build_case(
        SHAPE, tensors, x, Variant.reference, load_kernels("reference"),
        backward=False, memory_limit=None,
    )  # fmt: skip
    assert found.calls.keys() == set(Op)
    for op, call in found.calls.items():
        own = call().copy_to_host()
        assert relative_error(own, known.calls[op]().reshape(own.shape)) < 1e-3
        assert found.weight_bytes[op] > 0
    assert found.call_bytes(Op.block) > 4 * SHAPE.tokens * SHAPE.dim


def test_layer_norm_s_gradient_is_the_cpu_s(inputs):
    tensors, x = inputs
    (call,) = build_device_case(SHAPE, tensors, x, backward=True).calls.values()
    known = build_case(
        SHAPE, tensors, x, Variant.reference, load_kernels("reference"),
        backward=True, memory_limit=None,
    )  # fmt: skip
    own = call().copy_to_host()
    assert relative_error(own, known.calls[Op.layernorm]().reshape(own.shape)) < 1e-4


def test_the_command_times_all_layers_that_exist(capsys):
    chosen = ["--shape", "1x1x2", "--format", "json"]
    assert run([*QUICK, *chosen]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["gpu"] == "Numba's simulator of CUDA"
    assert found["machine"]["threads"] is None
    assert [(row["op"], row["variant"]) for row in found["results"]] == [
        (op, variant) for op in Op for variant in ("fused", "standard")
    ]
    of_block = [row["peak_memory_bytes"] for row in found["results"] if row["op"] == "block"]
    assert run([*QUICK, *chosen, "--op", "block"]) == 0
    alone = json.loads(capsys.readouterr().out)["results"]
    assert [row["peak_memory_bytes"] for row in alone] == of_block


def test_of_backward_passes_layer_norm_s_is_timed(capsys):
    assert run([*QUICK, "--shape", "1x1x2", "--backward", "--format", "human"]) == 0
    out = capsys.readouterr().out
    assert "Numba's simulator of CUDA" in out
    assert [line.split()[:2] for line in out.splitlines() if "1x1x2" in line] == [
        ["layernorm,", "backward"]
    ]


@pytest.fixture
def compiled(monkeypatch):
    """A function that counts the forms of kernels that were compiled since the test began."""
    for own in all_kernels().values():
        monkeypatch.setattr(own, "_compiled", {})
    return lambda: sum(len(own._compiled) for own in all_kernels().values())


def test_nothing_is_compiled_while_layers_are_timed(compiled, monkeypatch):
    counts = []

    def spy(calls, *others):
        counts.append(compiled())
        found = timing.time_in_turn(calls, *others)
        counts.append(compiled())
        return found

    monkeypatch.setattr("rbe_cli.bench.operators.time_in_turn", spy)
    options = LayerOptions(
        [Shape(8, 1, 2)], [Op.layernorm, Op.linear], [Variant.fused], repeat=1, backend="cuda"
    )
    assert len(list(time_layers(options, load_kernels("fast", 1), no_progress))) == 2
    assert len(set(counts)) == 1
    assert counts[0] > 2


def test_nothing_is_compiled_while_the_first_token_is_timed(compiled, monkeypatch, tiny_file):
    counts = []
    first_token = model_start._first_token

    def spy(*arguments):
        before = compiled()
        seconds = first_token(*arguments)
        counts.append((before, compiled()))
        return seconds

    monkeypatch.setattr(model_start, "_first_token", spy)
    options = ModelOptions(tiny_file, 2, 1, 1, backend="cuda")
    model_start.start(options, 2, load_kernels("fast", 1), no_progress)
    assert counts[0][0] < counts[0][1] == counts[1][0] == counts[1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "mixed"], "--variant mixed does not exist on --backend cuda"),
        (["--op", "block", "--backward"], "--op block has no backward pass on --backend cuda"),
        (["--backward", "--variant", "standard"], "--variant standard does not exist on"),
        (["--kv-type", "int8"], "--kv-type int8 does not exist on --backend cuda"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_read(arguments, message, capsys):
    models = ["--model", "missing.rbe", "--model", "missing.rbe"]
    assert run([*QUICK, *models, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_shape_must_fit_the_gpu(monkeypatch):
    options = LayerOptions([SHAPE], [Op.linear], [Variant.fused], backend="cuda")
    check_memory(SHAPE, options)
    monkeypatch.setattr("rbe_cli.cuda.device.free_bytes", lambda: 1000.0)
    with pytest.raises(UsageError, match=f"{SHAPE} needs about"):
        list(time_layers(options, load_kernels("fast", 1), no_progress))


def test_the_command_times_a_model(tiny_file, capsys):
    tokens = ["--prompt-tokens", "2", "--max-tokens", "1", "--depth", "1"]
    command = [*QUICK, "--model", str(tiny_file), *tokens, "--kv-type", "fp32"]
    assert run([*command, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    position = 2 * 4 * CONFIG.n_layer * CONFIG.n_embd  # keys and values in float32
    assert found["bytes_per_token"] > 2 * position
    for name in ("prefill_tokens_per_second", "decode_tokens_per_second", "bandwidth_share"):
        assert found[name] > 0
