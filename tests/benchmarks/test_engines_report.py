"""Medians, ratios and what is printed of them."""

import json

import pytest
from rich.console import Console

from benchmarks.engines import speed_report
from benchmarks.engines.comparisons import ratios
from benchmarks.engines.contestant import Measurement
from benchmarks.engines.divergences import LLAMA, LLAMA_VARIANTS, divergence
from benchmarks.engines.llama import LlamaCpp
from benchmarks.engines.rbe_engine import Rbe
from benchmarks.engines.speed_plot import draw
from benchmarks.engines.speed_rows import Row, Spread


def measurement(prefill=1000.0, decode=100.0, one_token=0.5, read_bytes=10**8, **settings):
    return Measurement(prefill, decode, 0.1, 200_000_000, read_bytes, one_token, **settings)


def row(engine, variant, bits, *rounds, kl=None):
    return Row(engine, variant, bits, None, kl, list(rounds))


def test_a_spread_is_the_median_with_the_least_and_the_largest():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([4.0, 1.0]).median == 2.5
    assert Spread(2.0, 1.25, 3.0).format(1) == "2.0 (1.2-3.0)"


def test_a_ratio_is_taken_round_by_round():
    # the machine was ten times as fast in the second round, for both
    ours = row("rbe", "speed-8bit", 8, measurement(decode=200), measurement(decode=3000))
    peer = row("llama.cpp", "Q8_0", 8, measurement(decode=100), measurement(decode=1000))
    (found,) = ratios([ours, peer])
    assert (found.ours, found.peer) == ("rbe speed-8bit", "llama.cpp Q8_0")
    assert found.decode == Spread(2.5, 2.0, 3.0)
    assert found.prefill == Spread(1.0, 1.0, 1.0)


def test_a_shorter_process_counts_as_faster():
    ours = row("rbe", "speed-8bit", 8, measurement(one_token=0.1))
    peer = row("llama.cpp", "Q8_0", 8, measurement(one_token=0.4))
    assert ratios([ours, peer])[0].one_token.median == pytest.approx(4.0)


def test_without_a_known_kl_rows_are_compared_by_bits_and_no_two_peers():
    rows = [
        row("rbe", "speed-8bit", 8, measurement()),
        row("rbe", "speed-4bit", 4, measurement()),
        row("llama.cpp", "F16", 16, measurement()),
        row("llama.cpp", "Q4_0", 4, measurement()),
        row("onnxruntime", "int4", 4, measurement()),
    ]
    pairs = {(found.ours, found.peer, *found.likeness) for found in ratios(rows)}
    assert pairs == {
        ("rbe speed-4bit", "llama.cpp Q4_0", "bits"),
        ("rbe speed-4bit", "onnxruntime int4", "bits"),
    }


def test_rows_are_compared_with_the_next_better_and_worse_and_with_those_of_equal_bytes():
    peers = [
        row("llama.cpp", "Q8_0", 8, measurement(read_bytes=130), kl=0.0001),
        row("llama.cpp", "Q6_K", 6, measurement(read_bytes=100), kl=0.001),
        row("llama.cpp", "Q5_K_M", 5, measurement(read_bytes=90), kl=0.002),
        row("llama.cpp", "Q4_K_M", 4, measurement(read_bytes=75), kl=0.007),
        row("llama.cpp", "Q2_K", 2, measurement(read_bytes=50), kl=0.3),
    ]
    ours = row("rbe", "balanced", 4, measurement(read_bytes=78), kl=0.0019)
    found = {pair.peer.split()[1]: pair.likeness for pair in ratios([ours, *peers])}
    assert found == {"Q6_K": ["KL"], "Q5_K_M": ["KL"], "Q4_K_M": ["bits", "bytes"]}
    best = row("rbe", "near-lossless", 6, measurement(read_bytes=110), kl=0.0001)
    found = {pair.peer.split()[1]: pair.likeness for pair in ratios([best, *peers])}
    assert found == {"Q8_0": ["KL"], "Q6_K": ["bits", "bytes"]}


def test_every_preset_and_every_quantised_variant_of_llama_has_a_kl():
    assert all(divergence("rbe", preset) for preset in Rbe.variants)
    assert LLAMA_VARIANTS.keys() == LlamaCpp.variants.keys() - {"F16"}
    assert divergence(LLAMA, "Q6_K") == 0.001
    assert divergence(LLAMA, "F16") is divergence("ctranslate2", "int8") is None


def test_a_point_without_a_kl_is_not_drawn(tmp_path):
    rows = [
        row("rbe", "balanced", 4, measurement(), kl=0.0019),
        row("ctranslate2", "int8", 8, measurement()),
    ]
    draw(tmp_path / "plot.png", "random-0", rows)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_rbe_there_are_rows_and_no_ratios(capsys):
    rows = [row("llama.cpp", "Q8_0", 8, measurement(1310.0, 209.0), measurement(1320.0, 211.0))]
    speed_report.show(rows, Console(width=200))
    printed = capsys.readouterr().out
    assert "llama.cpp Q8_0" in printed
    assert "1315 (1310-1320)" in printed
    assert "210 (209-211)" in printed
    assert "200 (200-200)" in printed
    assert "times as fast" not in printed


def test_the_fastest_setting_is_named():
    with_flash = measurement(prefill_setting="flash", decode_setting="flash")
    without = measurement(prefill_setting="flash", decode_setting="no flash")
    rows = [row("llama.cpp", "F16", 16, with_flash, without), row("rbe", "x", 8, measurement())]
    assert speed_report.settings(rows) == [
        "llama.cpp F16, fastest prefill: flash in 2 of 2 rounds",
        "llama.cpp F16, fastest decode: flash in 1, no flash in 1 of 2 rounds",
    ]


def test_the_json_has_all_rounds_and_the_ratios(tmp_path):
    path = tmp_path / "report.json"
    rows = [
        row("rbe", "speed-2bit", 2, measurement(decode=1600)),
        row("llama.cpp", "Q2_K", 2, measurement(decode=400)),
    ]
    speed_report.write_json(path, {"source": "random"}, rows)
    found = json.loads(path.read_text())
    assert found["source"] == "random"
    assert found["rows"][1]["rounds"][0]["decode_tokens_per_second"] == 400
    assert found["ratios"][0]["decode"] == {"median": 4.0, "low": 4.0, "high": 4.0}
