"""`rbe compress`: its record, targets, overrides and calibration, and what it keeps."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rbe_cli.cli.compress import _tuning
from rbe_cli.compression.pipeline import CompressResult
from rbe_cli.compression.settings import load_preset, preset_names
from rbe_cli.compression.tune.tuning import TuningReport
from rbe_cli.container.header import MAGIC
from rbe_cli.container.reader import Container
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, parameter_count, tensor_shapes

Rbe = Callable[..., Any]
FIELDS = [
    "source",
    "output",
    "preset",
    "parameters",
    "bits_per_weight",
    "file_bytes",
    "original_bytes",
    "ratio",
    "seconds",
    "peak_rss_bytes",
    "tensors",
    "quality",
    "tuning",
    "warnings",
]
TENSOR_FIELDS = [
    "name",
    "shape",
    "codec",
    "bits_per_weight",
    "relative_error",
    "relative_output_error",
]
QUALITY_FIELDS = [
    *("kl_divergence", "perplexity", "reference_perplexity", "tokens"),
    *("kl_divergence_error", "kl_divergence_p99", "kl_divergence_max"),
    *("perplexity_error", "perplexity_ratio_error", "top_1_agreement"),
    *("windows", "context", "text"),
]
QUICK = ["--calib-samples", "8"]


def tensor(record: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [entry for entry in record["tensors"] if entry["name"] == name]
    return found


# The record


def test_the_record_has_the_documented_fields(compressed: dict[str, Any]) -> None:
    assert list(compressed) == FIELDS
    assert list(compressed["quality"]) == QUALITY_FIELDS
    for entry in compressed["tensors"]:
        assert list(entry) == TENSOR_FIELDS


def test_the_record_s_sizes_are_those_on_disk(
    compressed: dict[str, Any], checkpoint: Path, config: Gpt2Config
) -> None:
    file, weights = Path(compressed["output"]), checkpoint / "model.safetensors"
    with Container.open(file) as container:
        tokenizer_bytes = container.layout.sections["tokenizer"].size
    counted = 8 * (file.stat().st_size - tokenizer_bytes)
    assert compressed["source"] == str(checkpoint)
    assert compressed["preset"] == "balanced"
    assert compressed["parameters"] == parameter_count(config)
    assert compressed["file_bytes"] == file.stat().st_size
    assert compressed["original_bytes"] == weights.stat().st_size
    assert compressed["ratio"] == pytest.approx(weights.stat().st_size / file.stat().st_size)
    assert compressed["bits_per_weight"] == counted / parameter_count(config)
    assert 0 < compressed["seconds"] < 600
    assert compressed["peak_rss_bytes"] > 1 << 24


def test_the_record_s_tensors_are_those_of_the_file(
    compressed: dict[str, Any], config: Gpt2Config
) -> None:
    shapes = tensor_shapes(config)
    with Container.open(Path(compressed["output"])) as container:
        placed = dict(container.layout.tensors)
    assert {entry["name"]: tuple(entry["shape"]) for entry in compressed["tensors"]} == shapes
    for entry in compressed["tensors"]:
        assert entry["codec"] == placed[entry["name"]].codec
        assert entry["bits_per_weight"] == placed[entry["name"]].bits_per_weight
        if is_matrix(entry["name"]):
            # Feedback may move weights far in directions that cost the model nothing.
            assert 0 < entry["relative_error"] < math.inf
        elif ".c_" not in entry["name"]:  # biases of matrices absorb their mean errors
            assert 0 <= entry["relative_error"] < 0.05
        if is_matrix(entry["name"]) and entry["name"] != "wpe.weight":
            assert 0 < entry["relative_output_error"] < 0.5
        else:  # no factor of a product
            assert entry["relative_output_error"] is None


def test_the_record_s_quality_is_sane(compressed: dict[str, Any]) -> None:
    quality = compressed["quality"]
    assert 0 < quality["kl_divergence"] < 0.004
    assert 1 < quality["reference_perplexity"] < 300
    assert quality["perplexity"] == pytest.approx(quality["reference_perplexity"], rel=0.1)
    assert quality["tokens"] == 16 * 63  # 16 of 144 sequences of 64 tokens are held out
    assert (quality["windows"], quality["context"]) == (16, 64)
    assert 0 < quality["kl_divergence_error"] < quality["kl_divergence"]
    assert quality["kl_divergence"] < quality["kl_divergence_p99"] < quality["kl_divergence_max"]
    assert 0.5 < quality["top_1_agreement"] <= 1
    assert quality["perplexity_error"] > quality["perplexity_ratio_error"] > 0
    assert quality["text"] == "sampled from the model"


def test_jsonl_is_one_line(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    (record,) = rbe("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--format", "jsonl").lines
    assert list(record) == FIELDS


def test_people_see_a_summary(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    done = rbe("compress", checkpoint, tmp_path / "a.rbe", *QUICK)
    for text in (str(tmp_path / "a.rbe"), "bits per weight", "KL divergence", "perplexity"):
        assert text in done.out
    assert re.search(r"perplexity +\d+\.\d+ ± .* \(original \d+\.\d+, ratio .* ± ", done.out)
    assert "text sampled from the model (" in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())
    assert "encoding ..." in done.err


def test_quiet_format_and_quiet_flag_leave_nothing_to_read(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    done = rbe("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--format", "quiet", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "a.rbe").exists()


def test_tuning_tells_each_stage(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    command = ("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--tune", 2)
    done = rbe(*command, "--format", "json")
    assert done.code == 0
    assert list(done.json["tuning"]) == ["steps", "untuned", "reconstructed", "tuned"]
    assert done.json["tuning"]["steps"] == 2
    assert "correcting drift ..." in done.err
    assert "tuning, 2 of 2: KL divergence 0." in done.err


def test_trained_parameters_that_are_dropped_are_told() -> None:
    result = SimpleNamespace(tuning=TuningReport(2, 0.25, 0.25))
    ((_, text),) = _tuning(cast(CompressResult, result))
    assert text == "untuned 0.25000; the trained parameters did not fit into the file"


# Targets and overrides


@pytest.mark.parametrize("target", [1.8, 3.0, 4.5, 8.0])
def test_a_target_is_reached(rbe: Rbe, checkpoint: Path, tmp_path: Path, target: float) -> None:
    out = tmp_path / "a.rbe"
    record = rbe(
        "compress", checkpoint, out, *QUICK, "--target-bpw", target, "--format", "json"
    ).json
    assert record["bits_per_weight"] == pytest.approx(target, rel=0.01)
    assert record["preset"] is None


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_reached(rbe: Rbe, checkpoint: Path, tmp_path: Path, preset: str) -> None:
    out = tmp_path / "a.rbe"
    record = rbe("compress", checkpoint, out, *QUICK, "--preset", preset, "--format", "json").json
    settings = load_preset(preset)
    if settings.target_bpw is None:
        matrices = [t for t in record["tensors"] if len(t["shape"]) == 2]
        assert {t["codec"] for t in matrices} == {"fixed"}
        assert all(t["bits_per_weight"] >= settings.default_bits for t in matrices)
    else:
        assert record["bits_per_weight"] == pytest.approx(settings.target_bpw, rel=0.01)
    assert record["preset"] == preset


def test_more_bits_lose_less(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    def divergence(target: float) -> float:
        out = tmp_path / f"{target}.rbe"
        done = rbe("compress", checkpoint, out, *QUICK, "--target-bpw", target, "--format", "json")
        return done.json["quality"]["kl_divergence"]

    assert divergence(2.0) > divergence(3.0) > divergence(5.0) > 0


def test_a_tensor_can_be_left_as_it_is(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    rule = r"h\.0\.attn\.c_proj\.weight=codec=float32"
    done = rbe(
        "compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--override", rule, "--format", "json"
    )
    kept = tensor(done.json, "h.0.attn.c_proj.weight")
    assert (kept["codec"], kept["bits_per_weight"], kept["relative_error"]) == ("float32", 32, 0)
    assert tensor(done.json, "h.1.attn.c_proj.weight")["codec"] == "ectcq"
    assert done.json["bits_per_weight"] == pytest.approx(4, rel=0.01)


def test_a_tensor_can_have_bits_of_its_own(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    done = rbe(
        *("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--format", "json"),
        *("--override", "wte=bits=6", "--override", "mlp=bits=3"),
    )
    assert tensor(done.json, "wte.weight")["bits_per_weight"] == pytest.approx(6, rel=0.02)
    assert tensor(done.json, "h.1.mlp.c_fc.weight")["bits_per_weight"] == pytest.approx(3, rel=0.02)
    assert done.json["bits_per_weight"] == pytest.approx(4, rel=0.01)


def test_the_last_override_that_matches_holds(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    done = rbe(
        *("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--format", "json"),
        *("--override", "c_proj=codec=float32", "--override", "h.0.*c_proj=codec=float16"),
        *("--target-bpw", "9"),
    )
    assert tensor(done.json, "h.0.attn.c_proj.weight")["codec"] == "float16"
    assert tensor(done.json, "h.1.attn.c_proj.weight")["codec"] == "float32"


@pytest.mark.parametrize(("rule", "bits"), [("=bits=5", 5), ("=codec=float16", 16)])
def test_rates_of_all_tensors_leave_the_target_aside(
    rbe: Rbe, checkpoint: Path, tmp_path: Path, rule: str, bits: float
) -> None:
    done = rbe(
        *("compress", checkpoint, tmp_path / "a.rbe", *QUICK, "--format", "json"),
        *("--override", f".*{rule}"),
    )
    assert done.code == 0
    assert tensor(done.json, "wpe.weight")["bits_per_weight"] == pytest.approx(bits, rel=0.02)


def test_a_config_file_has_the_form_of_a_preset(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text('target_bpw = 5.5\n[[override]]\nmatch = "wpe"\ncodec = "float16"\n')
    out = tmp_path / "a.rbe"
    done = rbe("compress", checkpoint, out, *QUICK, "--config", settings, "--format", "json")
    assert done.json["bits_per_weight"] == pytest.approx(5.5, rel=0.01)
    assert done.json["preset"] is None
    assert tensor(done.json, "wpe.weight")["codec"] == "float16"


# Calibration


def calibration(path: Path) -> str:
    with Container.open(path) as container:
        return container.provenance.calibration


def test_calibration_on_a_text(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "words.txt", tmp_path / "a.rbe"
    text.write_text("It was the best of times, it was the worst of times. " * 40)
    done = rbe("compress", checkpoint, out, "--calib", text, "--format", "json")
    assert done.code == 0
    assert calibration(out) == "text words.txt"
    assert done.json["quality"]["text"] == "words.txt"
    assert "measured on           text words.txt (" in rbe("inspect", out).out
    assert "writing calibration text" not in done.err


def test_calibration_on_tokens(rbe: Rbe, bare_checkpoint: Path, tmp_path: Path) -> None:
    tokens, out = tmp_path / "ids.txt", tmp_path / "a.rbe"
    tokens.write_text("\n".join(" ".join(str(i * j % 300) for j in range(50)) for i in range(9)))
    done = rbe("compress", bare_checkpoint, out, "--calib-tokens", tokens, "--format", "json")
    assert done.json["quality"]["tokens"] == 49
    assert calibration(out) == "tokens ids.txt"


# Reproducibility


def test_the_file_follows_from_the_seed_alone(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    def compress(name: str, *options: object) -> bytes:
        assert rbe("compress", checkpoint, tmp_path / name, *QUICK, *options).code == 0
        return (tmp_path / name).read_bytes()

    first = compress("a", "--threads", 1, "--seed", 1)
    assert compress("b", "--threads", 2, "--seed", 1) == first
    assert compress("c", "--threads", 5, "--seed", 1) == first
    assert compress("d", "--threads", 2, "--seed", 2) != first


# What is written, and what is kept


def test_a_dry_run_writes_nothing(
    rbe: Rbe, checkpoint: Path, tmp_path: Path, compressed: dict[str, Any]
) -> None:
    planned = rbe("compress", checkpoint, tmp_path / "a.rbe", "--dry-run", "--format", "json").json
    assert list(tmp_path.iterdir()) == []
    assert planned["parameters"] == compressed["parameters"]
    assert planned["original_bytes"] == compressed["original_bytes"]
    assert planned["bits_per_weight"] == pytest.approx(4, rel=0.01)
    assert planned["bits_per_weight"] == pytest.approx(compressed["bits_per_weight"], rel=0.01)
    assert sum(entry["bytes"] for entry in planned["tensors"]) < planned["file_bytes"]
    assert [entry["name"] for entry in planned["tensors"]] == [
        entry["name"] for entry in compressed["tensors"]
    ]
    assert planned["memory_bytes"] > planned["file_bytes"]
    assert math.isfinite(planned["encoding_seconds"])


def test_a_dry_run_for_people(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    done = rbe("compress", checkpoint, tmp_path / "a.rbe", "--dry-run", "--override", "wte=bits=8")
    assert "h.1.mlp.c_proj.weight" in done.out
    assert re.search(r"300 x 32 +ectcq +9,600", done.out)


def test_an_existing_output_is_kept_without_force(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.rbe"
    out.write_bytes(MAGIC + b"precious")
    done = rbe("compress", checkpoint, out, *QUICK)
    assert done.code == 1
    assert done.err == f"rbe: {out} exists; use --force to replace it\n"
    assert out.read_bytes() == MAGIC + b"precious"

    assert rbe("compress", checkpoint, out, *QUICK, "--force").code == 0
    assert rbe("inspect", out, "--verify").code == 0
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_after_the_start_leaves_the_old_output(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.rbe"
    out.write_bytes(MAGIC + b"precious")
    target = ("--target-kl", "1e-12", "--override", "wte=bits=2")
    done = rbe("compress", checkpoint, out, *QUICK, "--force", *target)
    assert done.code == 2
    assert "a KL divergence of 1e-12 cannot be reached with these rules" in done.err
    assert out.read_bytes() == MAGIC + b"precious"
    assert list(tmp_path.iterdir()) == [out]


def test_force_replaces_no_input(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    for name in ("model.safetensors", "config.json"):
        before = (folder / name).read_bytes()
        done = rbe("compress", folder, folder / name, *QUICK, "--force")
        assert done.code == 1
        assert "a file of another kind, which --force does not replace" in done.err
        assert (folder / name).read_bytes() == before


# What is in the way of a checkpoint


def test_what_is_left_out_is_said_once(rbe: Rbe, checkpoint: Path, tmp_path: Path) -> None:
    """A classifier in a wrapper is compressed as the language model that is in it."""
    folder = tmp_path / "classifier"
    shutil.copytree(checkpoint, folder)
    tensors = load_file(checkpoint / "model.safetensors")
    wrapped = {f"module.transformer.{name}": tensor for name, tensor in tensors.items()}
    wrapped["module.score\x1b[2J.weight"] = np.zeros((2, 32), np.float32)
    save_file(wrapped, folder / "model.safetensors")
    outputs = [tmp_path / "a.rbe", tmp_path / "b.rbe"]
    plain, found = (
        rbe("compress", source, output, *QUICK, "--format", "json")
        for source, output in zip((checkpoint, folder), outputs, strict=True)
    )
    assert (plain.code, found.code) == (0, 0)
    assert found.json["quality"] == plain.json["quality"]
    notes = [line for line in found.err.splitlines() if "..." not in line]
    assert notes == [
        "the prefix 'module.' of the tensors' names is left out",
        "not used: module.score\\x1b[2J.weight",
    ]
    quiet = rbe("compress", folder, tmp_path / "c.rbe", *QUICK, "-q")
    assert quiet.err == ""


def test_a_file_does_not_hold_the_folders_of_its_source(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "secret place" / "gpt2-tiny", tmp_path / "a.rbe"
    shutil.copytree(checkpoint, folder)
    text = tmp_path / "secret place" / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 40)
    assert rbe("compress", folder, output, "--calib", text, *QUICK, "-q").code == 0
    content = output.read_bytes()
    assert b"gpt2-tiny" in content
    for secret in (str(tmp_path), "secret place"):
        assert secret.encode() not in content
