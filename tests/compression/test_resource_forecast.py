import dataclasses
import math

import pytest
from small_models import correlated_tensors, random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.pipeline import CompressOptions, compress
from rbe_cli.compression.resource_forecast import jobs_within, memory_bytes, plan, work_bytes
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.model.tensor_names import ROTATION, is_matrix, parameter_count, tensor_shapes


@pytest.mark.parametrize(
    "settings",
    [
        Settings(2.5),
        Settings(4.0),
        Settings(6.0, override=(Override("wte", bits=3.0), Override("1.attn", "float16"))),
        Settings(8.0, override=(Override("attn.c_proj", "float32"),)),
    ],
    ids=["2.5", "4", "bits", "float32"],
)
def test_a_plan_comes_near_the_compression(checkpoint, pool, tmp_path, settings):
    planned = plan(checkpoint, settings)
    options = CompressOptions(settings, calib_samples=16)
    done = compress(checkpoint, tmp_path / "a.rbe", options, pool)
    assert planned.source == done.source
    assert planned.parameters == done.parameters
    assert planned.original_bytes == done.original_bytes
    assert planned.bits_per_weight == pytest.approx(done.bits_per_weight, rel=0.015)
    assert planned.file_bytes == pytest.approx(done.file_bytes, rel=0.015)
    assert planned.memory_bytes > planned.parameters
    assert [(t.name, t.shape, t.codec) for t in planned.tensors] == [
        (t.name, t.shape, t.codec) for t in done.tensors
    ]
    own_bits = {plan.name: plan.options.bits for plan in make_plan(checkpoint.config, settings)}
    for ours, theirs in zip(planned.tensors, done.tensors, strict=True):
        written = theirs.bits_per_weight * math.prod(theirs.shape) / 8
        if ours.codec == "coded":
            assert ours.bytes == pytest.approx(written, rel=0.5)
        elif ours.codec != "ectcq":
            assert ours.bytes == written
        elif own_bits[ours.name] is not None:  # the others share the target unevenly
            assert ours.bytes == pytest.approx(written, rel=0.02)


def test_sizes_add_up(checkpoint):
    planned = plan(checkpoint, Settings(4.0))
    assert planned.file_bytes > sum(tensor.bytes for tensor in planned.tensors)
    assert planned.bits_per_weight == pytest.approx(4.0, rel=0.01)
    rates = {
        round(tensor.bytes / math.prod(tensor.shape), 3)
        for tensor in planned.tensors
        if is_matrix(tensor.name)
    }
    assert max(rates) - min(rates) < 0.01


def test_time_is_shared_among_threads_and_grows_with_what_is_encoded(checkpoint, monkeypatch):
    monkeypatch.setattr(
        "rbe_cli.compression.resource_forecast.weights_per_second", lambda checkpoint: 1e6
    )
    seconds = plan(checkpoint, Settings(4.0), jobs=1).encoding_seconds
    assert seconds > 0
    assert plan(checkpoint, Settings(4.0), jobs=3).encoding_seconds == pytest.approx(seconds / 3)
    own_rates = Settings(4.0, override=(Override("", bits=5.0),))
    assert plan(checkpoint, own_rates, jobs=1).encoding_seconds == seconds
    nothing = Settings(4.0, override=(Override("", "float16"),))
    assert plan(checkpoint, nothing, jobs=1).encoding_seconds == 0


def test_a_block_is_timed_in_a_moment(checkpoint):
    assert 0 < plan(checkpoint, Settings(4.0)).encoding_seconds < 10


def test_an_untied_head_is_planned_for():
    config = small_config(tie_word_embeddings=False)
    checkpoint = Checkpoint(config, random_tensors(config), None, "untied", "", 1)
    planned = plan(checkpoint, Settings(4.0))
    assert [tensor.name for tensor in planned.tensors] == list(tensor_shapes(config))
    assert planned.parameters == parameter_count(config)


def test_what_is_fixed_must_leave_room(checkpoint):
    with pytest.raises(UsageError, match="2 bits a weight cannot be reached"):
        plan(checkpoint, Settings(2.0, override=(Override("wte", "float32"),)))


def test_the_source_is_named(checkpoint):
    other = dataclasses.replace(checkpoint, source="elsewhere")
    assert plan(other, Settings(4.0)).source == "elsewhere"


def test_as_many_tasks_run_as_memory_allows():
    config = gpt2_of(768, 12)
    needed = [memory_bytes(config, jobs) for jobs in (1, 2, 3, 4)]
    assert needed == sorted(set(needed))
    assert jobs_within(config, needed[1], 4) == 2
    assert jobs_within(config, 10**12, 4) == 4
    assert jobs_within(config, needed[2], None) <= 3
    with pytest.raises(UsageError, match="are needed, more than `max_memory`"):
        jobs_within(config, needed[0] - 1, 4)


def gpt2_of(width, layers):
    """Return the config of a member of GPT-2's family."""
    return small_config(
        vocab_size=50257, n_positions=1024, n_embd=width, n_layer=layers, n_head=width // 64,
        n_inner=4 * width,
    )  # fmt: skip


def test_the_largest_of_the_family_needs_less_memory_than_its_weights():
    largest = gpt2_of(1600, 48)
    assert memory_bytes(gpt2_of(768, 48), 2) < memory_bytes(largest, 2)
    assert memory_bytes(largest, 2) < 6e9 < 4 * parameter_count(largest)


@pytest.mark.parametrize("is_rotated", [False, True])
def test_the_work_folder_is_as_large_as_forecast(
    checkpoint, pool, tmp_path, monkeypatch, is_rotated
):
    largest = 0
    if is_rotated:
        tensors = correlated_tensors(checkpoint.config)
        checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    save = WorkFolder.save

    def watched(folder, name, arrays):
        nonlocal largest
        save(folder, name, arrays)
        largest = max(largest, sum(path.stat().st_size for path in folder.path.iterdir()))

    monkeypatch.setattr(WorkFolder, "save", watched)
    options = CompressOptions(Settings(4.0), calib_samples=64)
    done = compress(checkpoint, tmp_path / "a.rbe", options, pool)
    assert (done.tensors[-1].name == ROTATION) == is_rotated
    expected = work_bytes(checkpoint.config, 64, done.file_bytes, rotates=is_rotated)
    assert expected == pytest.approx(largest, rel=0.3)
