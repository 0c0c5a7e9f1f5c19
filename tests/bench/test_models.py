import json
from pathlib import Path

import numpy as np
import pytest

from rbe_cli.bench.model_start import ModelOptions, start_alone
from rbe_cli.bench.models import ModelTiming, bytes_per_token, time_models
from rbe_cli.bench.operators import random_tensors
from rbe_cli.choices import KvType
from rbe_cli.cli.app import run
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.container.header import Provenance
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.runner import Runner
from rbe_cli.engine.session import Session
from rbe_cli.errors import NotFoundError, RbeError, UsageError
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import tensor_shapes
from rbe_cli.progress import no_progress

CONFIG = Gpt2Config(vocab_size=30, n_positions=24, n_embd=8, n_layer=2, n_head=2, n_inner=12)
MODEL_FIELDS = {
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "load_seconds",
    "time_to_first_token_seconds",
    "peak_rss_bytes",
    "bytes_per_token",
    "prefill_spread",
    "decode_spread",
    "read_bytes_per_second",
    "bandwidth_share",
    "kv_type",
    "model",
    "prompt_tokens",
    "max_tokens",
    "depth",
}
# wte (the head) with a bias of zeros; two blocks of four matrices with biases and two
# LayerNorms; the last LayerNorm
DENSE_VALUES = 8 * 30 + 30
DENSE_VALUES += 2 * (8 * 24 + 24 + 8 * 8 + 8 + 8 * 12 + 12 + 12 * 8 + 8 + 2 * 2 * 8)
DENSE_VALUES += 2 * 8


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random float16 tensors, without a tokenizer."""
    rng = np.random.default_rng(0)
    tensors = [
        StoredTensor(
            name,
            shape,
            "float16",
            dense_tensor.encode(0.1 * rng.standard_normal(shape, np.float32), "float16"),
        )
        for name, shape in tensor_shapes(CONFIG).items()
    ]
    path = tmp_path_factory.mktemp("bench") / "tiny.rbe"
    provenance = Provenance("random", "xxh3:0", "0", None, "none", 0, {})
    write_container(
        path, config=CONFIG, tensors=tensors, tokenizer_json=None, provenance=provenance
    )
    return path


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return load_kernels("fast", 1)


def time_model(options: ModelOptions, kernels: Kernels, repeat: int) -> ModelTiming:
    (timing,) = time_models([options], kernels, repeat, no_progress)
    return timing


@pytest.mark.parametrize(
    "options", [(None, None, 0), (24, 24, 0), (1, 1, 23), (5, 3, 7)], ids=lambda o: str(o)
)
def test_a_model_is_timed_wherever_its_context_allows(
    model_file: Path, kernels: Kernels, options: tuple[int | None, int | None, int]
) -> None:
    timing = time_model(ModelOptions(model_file, *options), kernels, 2)
    assert timing.prefill_tokens_per_second > 0
    assert timing.decode_tokens_per_second > 0
    assert timing.load_seconds > 0
    assert timing.time_to_first_token_seconds > 0
    assert timing.peak_rss_bytes > 1 << 20
    position = 2 * 2 * CONFIG.n_layer * CONFIG.n_head * 32  # in float16, heads padded to 32
    assert timing.bytes_per_token == 4 * DENSE_VALUES + position * (options[2] + 1)


def test_each_token_is_computed_at_its_depth(
    model_file: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []  # tokens in the cache, and computed after them
    run = Runner.run

    def spy(runner, cache, ids, *others):
        seen.append((int(cache.lengths[0]), len(ids)))
        return run(runner, cache, ids, *others)

    monkeypatch.setattr(Runner, "run", spy)
    time_model(ModelOptions(model_file, 5, 3, depth=7), kernels, 2)
    prefill, decode = [(7, 5)], [(7, 1), (8, 1), (9, 1)]
    warm_up = [*prefill, *decode]
    assert seen == [(0, 7), *prefill, *warm_up, *2 * prefill, *2 * decode]


@pytest.mark.parametrize(("kv_type", "element"), [("fp32", 4), ("fp16", 2)])
def test_bytes_of_panels_are_counted_as_they_are_held(kv_type: KvType, element: int) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(0))
    held = sum(array.nbytes for name, array in tensors.items() if name != "wpe.weight")
    no_bias = 4 * CONFIG.vocab_size  # the head's zeros
    session = Session(LoadedModel(CONFIG, tensors), kv_type=kv_type)
    heads = CONFIG.n_layer * CONFIG.n_head
    position = 2 * element * heads * 32  # heads are padded to 32
    assert bytes_per_token(session, 2) == held + no_bias + 3 * position


def test_the_share_of_the_bandwidth_follows_from_the_rest(
    model_file: Path, kernels: Kernels
) -> None:
    timing = time_model(ModelOptions(model_file, 5, 3, kv_type="int8"), kernels, 2)
    read = timing.decode_tokens_per_second * timing.bytes_per_token
    assert timing.bandwidth_share == pytest.approx(read / timing.read_bytes_per_second)
    assert timing.decode_spread.min <= timing.decode_tokens_per_second <= timing.decode_spread.max
    assert timing.kv_type == "int8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, None, 24), "`depth` 24 fills the model's context of 24 tokens"),
        ((25, None, 0), "`prompt_tokens` 25 after `depth` 0 is more than the model's context"),
        ((None, 5, 20), "`max_tokens` 5 after `depth` 20 is more than the model's context"),
    ],
)
def test_tokens_beyond_the_context_are_refused(
    model_file: Path, kernels: Kernels, options: tuple[int | None, int | None, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        time_model(ModelOptions(model_file, *options), kernels, 1)


def test_a_missing_model_is_not_found(tmp_path: Path, kernels: Kernels) -> None:
    with pytest.raises(NotFoundError, match=r"no\.rbe"):
        time_model(ModelOptions(tmp_path / "no.rbe"), kernels, 1)


def test_the_command_reports_the_documented_fields(
    model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--model", str(model_file), "--repeat", "1", "--threads", "1"]
    assert run([*arguments, "--max-tokens", "2", "--depth", "4", "--format", "json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.keys() == {"machine", "results", "models"} | MODEL_FIELDS
    assert record["models"] == [{name: record[name] for name in record["models"][0]}]
    assert record["models"][0].keys() == MODEL_FIELDS
    assert (record["model"], record["max_tokens"], record["depth"]) == (str(model_file), 2, 4)
    assert record["results"] == []
    assert record["machine"]["threads"] == 1


def test_the_command_times_layers_too_if_asked(
    model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--model", str(model_file), "--shape", "1x2x8", "--repeat", "1"]
    assert run([*arguments, "--op", "block", "--format", "json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.keys() > MODEL_FIELDS
    assert len(record["results"]) == 4


def test_people_see_the_model_s_speed(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--model", str(model_file), "--repeat", "1"]) == 0
    captured = capsys.readouterr()
    assert "tokens/s" in captured.out
    assert "GFLOP/s" not in captured.out
    assert "timing" in captured.err


# Several models


@pytest.fixture(scope="module")
def other_file(model_file: Path) -> Path:
    path = model_file.with_name("other.rbe")
    path.write_bytes(model_file.read_bytes())
    return path


def test_several_models_take_turns(
    model_file: Path, other_file: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    run = Runner.run
    runners: dict[int, str] = {}

    def spy(runner, cache, ids, *others):
        turns.append(runners.setdefault(id(runner), "ab"[min(len(runners), 1)]))
        return run(runner, cache, ids, *others)

    monkeypatch.setattr(Runner, "run", spy)
    models = [ModelOptions(path, 5, 1) for path in (model_file, other_file)]
    found = list(time_models(models, kernels, 3, no_progress))
    assert [timing.model for timing in found] == [str(model_file), str(other_file)]
    for timing in found:
        assert timing.peak_rss_bytes > 1 << 20
        assert timing.load_seconds > 0
        assert timing.time_to_first_token_seconds > 0
    # Each call is short, so a turn makes all three; prefill and decode of a, then those of b.
    assert "".join(turns).endswith("aaaaaabbbbbb")


def test_who_is_interrupted_gets_the_models_that_were_measured(
    model_file: Path, other_file: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = Runner.run, 0

    def interrupted(runner, cache, ids, *others):
        nonlocal calls
        calls += 1
        if calls == 8:  # after the warm-up of both, and the first model's turns
            raise KeyboardInterrupt
        return run(runner, cache, ids, *others)

    monkeypatch.setattr(Runner, "run", interrupted)
    models = [ModelOptions(path, 5, 1) for path in (model_file, other_file)]
    rows = time_models(models, kernels, 1, no_progress)
    assert next(rows).model == str(model_file)
    with pytest.raises(KeyboardInterrupt):
        next(rows)


def test_a_model_that_cannot_start_alone_is_named(tmp_path: Path, model_file: Path) -> None:
    damaged = tmp_path / "damaged.rbe"
    content = bytearray(model_file.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RbeError, match=r"damaged\.rbe could not be timed: .*damaged"):
        start_alone(ModelOptions(damaged), 4, 1)


def test_a_slow_model_decodes_fewer_tokens(
    model_file: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbe_cli.bench.models._DECODE_SECONDS", 1e-9)
    timing = time_model(ModelOptions(model_file), kernels, 1)
    assert (timing.prompt_tokens, timing.max_tokens) == (24, 16)
    assert time_model(ModelOptions(model_file, max_tokens=20), kernels, 1).max_tokens == 20


@pytest.mark.parametrize("style", ["human", "md", "csv"])
def test_several_models_are_rows_of_a_table(
    model_file: Path, other_file: Path, capsys: pytest.CaptureFixture[str], style: str
) -> None:
    models = ["--model", str(model_file), "--model", str(other_file)]
    quick = ["--repeat", "1", "--max-tokens", "2", "--format", style, "-q"]
    assert run(["bench", *models, *quick]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = (
        next(number for number, line in enumerate(lines) if path.name in line)
        for path in (model_file, other_file)
    )
    assert second == first + 1
    head = lines[first - 1 - (style == "md")]
    assert "decode" in head
    if style == "csv":
        names = head.split(",")
        assert names[0] == "model"
        assert set(names) > MODEL_FIELDS - {"prefill_spread", "decode_spread"}
        assert len(lines[first].split(",")) == len(names)
