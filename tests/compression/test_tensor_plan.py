import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import random_tensors, small_config

from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.codec.vectors.dense_codec import FLOAT16, FLOAT32
from rbe_cli.codec.vectors.vector_codecs import CODED
from rbe_cli.compression.settings import Override, Settings, load_config
from rbe_cli.compression.tensor_plan import free_rate, make_plan, with_exact
from rbe_cli.errors import UsageError

CONFIG = small_config(n_layer=2)


def plan_of(settings, config=CONFIG):
    return {plan.name: plan for plan in make_plan(config, settings)}


def codecs_and_bits(settings, names):
    plans = plan_of(settings)
    return {name: (plans[name].codec.name, plans[name].options.bits) for name in names}


def test_the_last_rule_that_matches_holds():
    rules = (
        Override("c_proj", "float16"),
        Override(r"^h\.1\.", bits=6.0),
        Override("mlp", "float32"),
    )
    expected = {
        "wte.weight": ("ectcq", None),
        "h.0.attn.c_proj.weight": ("float16", None),
        "h.1.attn.c_proj.weight": ("ectcq", 6.0),  # a whole rule holds, not one of its keys
        "h.1.mlp.c_proj.weight": ("float32", None),
    }
    assert codecs_and_bits(Settings(4.0, override=rules), expected) == expected


def test_every_tensor_has_one_plan_in_the_order_of_the_checkpoint():
    plans = make_plan(CONFIG, Settings(4.0))
    tensors = random_tensors(CONFIG)
    assert [plan.name for plan in plans] == list(tensors)
    assert [plan.shape for plan in plans] == [tensor.shape for tensor in tensors.values()]
    roles = {plan.name: plan.role for plan in plans}
    assert roles["wte.weight"] == roles["wpe.weight"] == "embedding"
    assert roles["h.0.mlp.c_fc.weight"] == "linear"
    assert roles["h.0.mlp.c_fc.bias"] == roles["ln_f.weight"] == "vector"


def test_a_bit_of_a_table_is_worth_half_the_error_of_a_bit_elsewhere():
    config = small_config(n_layer=2, tie_word_embeddings=False)
    plans = plan_of(Settings(4.0), config)
    weights = {name: own.options.rate_weight for name, own in plans.items()}
    tables = {"wte.weight", "wpe.weight", "lm_head.weight"}
    half = QuantiserOptions().rate_weight / 2
    assert weights["h.0.mlp.c_fc.weight"] == 2 * half
    assert {name for name, own in weights.items() if own == half} == tables


def test_a_config_file_chooses_the_codec_of_all_matrices(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        """
        target_bpw = 3
        codec = "classic"
        block = 32
        [[override]]
        match = "wte"
        bits = 5.0
        [[override]]
        match = "wpe"
        codec = "ectcq"
        [[override]]
        match = "mlp"
        block = 128
        """
    )
    plans = plan_of(load_config(path))
    expected = {
        "h.0.attn.c_attn.weight": ("classic", None, 32),
        "wte.weight": ("classic", 5.0, 32),
        "wpe.weight": ("ectcq", None, 32),
        "h.0.mlp.c_fc.weight": ("classic", None, 128),
    }
    found = {name: (plans[name].codec.name, plans[name].options.bits) for name in expected}
    assert found == {name: own[:2] for name, own in expected.items()}
    blocks = {name: plans[name].options.block for name in expected}
    assert blocks == {name: own[2] for name, own in expected.items()}


@pytest.mark.parametrize(
    ("settings", "codec"),
    [
        (Settings(4.0), CODED),
        (Settings(4.0, objective="outputs"), FLOAT16),
        (Settings(default_codec="fixed", default_bits=4.0), FLOAT16),
        (Settings(4.0, override=(Override("c_fc.bias", "float32"),)), FLOAT32),
    ],
)
def test_vectors_are_coded_where_errors_are_counted_in_nats(settings, codec):
    plan = plan_of(settings)["h.0.mlp.c_fc.bias"]
    assert plan.codec is codec
    assert plan.options.is_asked == (codec is FLOAT32)


def test_free_tensors_can_be_stored_exactly():
    kept = Override("mlp", bits=3.0), Override("wte", "float16")
    plans = make_plan(CONFIG, Settings(4.0, override=kept))
    tensors = random_tensors(CONFIG)
    tensors["wpe.weight"] = tensors["wpe.weight"].astype(np.float16).astype(np.float32)
    exact = {plan.name: plan for plan in with_exact(plans, tensors)}
    assert exact["wpe.weight"].codec is FLOAT16
    assert exact["h.0.attn.c_attn.weight"].codec is FLOAT32
    before = {plan.name: plan for plan in plans}
    for name in ("h.0.mlp.c_fc.weight", "wte.weight"):
        assert exact[name] == before[name]
    some = {plan.name: plan for plan in with_exact(plans, tensors, {"wpe.weight"})}
    assert {name for name, own in some.items() if own != before[name]} == {"wpe.weight"}


@given(st.floats(1.2, 40.0), st.floats(0.0, 0.1))
def test_the_rate_gives_the_size_that_was_asked_for(bits, header):
    plans = make_plan(CONFIG, Settings(4.0, override=(Override("c_fc", bits=2.0),)))
    count = sum(plan.size for plan in plans)
    rate = free_rate(plans, bits, header)
    total = sum(plan.codec.expected_bits(plan.options, rate) * plan.size for plan in plans)
    if rate > 1.0:
        assert total / count + header == pytest.approx(bits, rel=1e-9)
    else:
        assert total / count + header >= bits


def test_what_is_kept_may_leave_nothing():
    plans = make_plan(CONFIG, Settings(4.0, override=(Override("mlp|wte", "float32"),)))
    with pytest.raises(UsageError, match="1 bits a weight cannot be reached with these rules"):
        free_rate(plans, 1.0)
    everything = make_plan(CONFIG, Settings(4.0, override=(Override("", "float32"),)))
    assert math.isfinite(free_rate(everything, 1.0))
