"""`rbe bench --backend cuda` in the simulator: layers and models, on tiny shapes."""

import json

import numpy as np
import pytest
from small_files import write_dense
from small_models import relative_error, small_config

from rbe_cli.bench.device_cases import build_device_case
from rbe_cli.bench.operator_cases import build_case, held, random_tensors
from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operator_shapes import Shape
from rbe_cli.bench.operators import LayerOptions, check_memory, time_layers
from rbe_cli.cli.app import run
from rbe_cli.cuda import attention_kernels, device_cache, device_layer_norm, paged_attention
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.progress import no_progress

SHAPE = Shape(2, 2, 4)
QUICK = ["bench", "--backend", "cuda", "--repeat", "1", "-q"]


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Let blocks have few threads: the simulator takes a thread of Python for each."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention_kernels, device_cache, paged_attention):
            patch.setattr(module, "PAGE", 2)
        patch.setattr(device_layer_norm, "_BLOCK_THREADS", 4)
        patch.setattr(device_layer_norm, "_COLUMN_THREADS", 4)
        yield


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
    assert [(row["op"], row["variant"]) for row in found["results"]] == [
        (op, variant) for op in Op for variant in ("fused", "standard")
    ]
    assert run([*QUICK, *chosen, "--backward"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["op"], row["backward"]) for row in rows] == [("layernorm", True)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "mixed"], "--variant mixed does not exist on --backend cuda"),
        (["--op", "block", "--backward"], "--op block has no backward pass on --backend cuda"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message, capsys):
    assert run([*QUICK, "--shape", "1x1x2", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_shape_must_fit_the_gpu(monkeypatch):
    options = LayerOptions([SHAPE], [Op.linear], [Variant.fused], backend="cuda")
    check_memory(SHAPE, options)
    monkeypatch.setattr("rbe_cli.cuda.device.free_bytes", lambda: 1000.0)
    with pytest.raises(UsageError, match=f"{SHAPE} needs about"):
        list(time_layers(options, load_kernels("fast", 1), no_progress))


def test_the_command_times_a_model(tmp_path, capsys):
    path = tmp_path / "tiny.rbe"
    config = small_config(vocab_size=3, n_positions=4, n_embd=2, n_head=1, n_inner=2, n_layer=1)
    write_dense(path, config)
    tokens = ["--prompt-tokens", "2", "--max-tokens", "1", "--depth", "1"]
    command = [*QUICK, "--model", str(path), *tokens, "--kv-type", "fp32"]
    assert run([*command, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    position = 2 * 4 * config.n_layer * config.n_embd  # keys and values in float32
    assert found["bytes_per_token"] > 2 * position
    for name in ("prefill_tokens_per_second", "decode_tokens_per_second", "bandwidth_share"):
        assert found[name] > 0
    assert run([*QUICK, "--model", str(path), "--kv-type", "int8"]) == 2
    assert "--kv-type int8 does not exist on --backend cuda" in capsys.readouterr().err
