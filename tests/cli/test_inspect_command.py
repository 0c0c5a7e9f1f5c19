"""`rbe inspect`: what it says, and how much of the file it reads for that."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xxhash

from rbe_cli.cli.app import run
from rbe_cli.container.reader import Container
from rbe_cli.container.writer import write_container
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, parameter_count, tensor_shapes

Rbe = Callable[..., Any]
FIELDS = [
    "format_version",
    "codec_versions",
    "config",
    "tokenizer",
    "parameters",
    "bits_per_weight",
    "file_bytes",
    "sections",
    "tensors",
    "provenance",
    "verified",
]


@pytest.fixture
def record(rbe: Rbe, rbe_file: Path) -> dict[str, Any]:
    return rbe("inspect", rbe_file, "--format", "json").json


def test_the_record_has_the_documented_fields(record: dict[str, Any]) -> None:
    assert list(record) == FIELDS
    for section in record["sections"]:
        assert list(section) == ["name", "offset", "bytes", "checksum"]
    for tensor in record["tensors"]:
        assert list(tensor) == ["name", "shape", "codec", "bits_per_weight", "bytes"]


def test_the_model_is_the_checkpoint_s(record: dict[str, Any], config: Gpt2Config) -> None:
    assert Gpt2Config(**record["config"]) == config
    assert record["parameters"] == parameter_count(config)
    shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in record["tensors"]}
    assert shapes == tensor_shapes(config)


def test_sizes_are_those_on_disk(
    record: dict[str, Any], rbe_file: Path, compressed: dict[str, Any]
) -> None:
    (tokenizer,) = [part["bytes"] for part in record["sections"] if part["name"] == "tokenizer"]
    assert record["file_bytes"] == rbe_file.stat().st_size
    counted = 8 * (record["file_bytes"] - tokenizer)
    assert record["bits_per_weight"] == counted / record["parameters"]
    assert record["bits_per_weight"] == compressed["bits_per_weight"]


def test_sections_lie_where_it_says(record: dict[str, Any], rbe_file: Path) -> None:
    content, end = rbe_file.read_bytes(), 0
    for section in record["sections"]:
        assert section["offset"] % 64 == 0
        assert end <= section["offset"]
        end = section["offset"] + section["bytes"]
        assert xxhash.xxh3_64_hexdigest(content[section["offset"] : end]) == section["checksum"]
    assert end == len(content)


def test_tensors_take_their_sections_bytes(record: dict[str, Any]) -> None:
    sections = {section["name"]: section["bytes"] for section in record["sections"]}
    vectors = 0
    for tensor in record["tensors"]:
        size = tensor["bytes"]
        weights = 1
        for length in tensor["shape"]:
            weights *= length
        assert tensor["bits_per_weight"] == 8 * size / weights
        assert tensor["codec"] in record["codec_versions"]
        if is_matrix(tensor["name"]):
            assert sections[tensor["name"]] == size
        else:
            vectors += size
    assert sections["vectors"] == vectors


def test_provenance_tells_what_was_compressed(
    record: dict[str, Any], checkpoint: Path, compressed: dict[str, Any]
) -> None:
    provenance = record["provenance"]
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert provenance["source"] == checkpoint.name
    assert provenance["source_hash"] == f"xxh3:{xxhash.xxh3_64_hexdigest(weights)}"
    assert provenance["preset"] == "balanced"
    assert provenance["calibration"] == "text written by the checkpoint itself"
    assert provenance["seed"] == 0
    tokenizer = {"tokenizer_kind": "BPE", "tokenizer_tokens": 300}
    assert provenance["extra"] == {"target_bpw": 4.0} | tokenizer | compressed["quality"]


def test_only_verify_reads_the_sections(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    with Container.open(rbe_file) as container:
        offset = container.layout.sections["h.1.mlp.c_fc.weight"].offset
    damaged = tmp_path / "damaged.rbe"
    content = bytearray(rbe_file.read_bytes())
    content[offset] ^= 1
    damaged.write_bytes(content)

    assert rbe("inspect", damaged, "--format", "json").json["verified"] is None
    done = rbe("inspect", damaged, "--verify", "--format", "json")
    assert (done.code, done.out) == (3, "")
    assert "section h.1.mlp.c_fc.weight is damaged" in done.err
    assert rbe("inspect", rbe_file, "--verify", "--format", "json").json["verified"] is True


def test_jsonl_is_one_line(rbe: Rbe, rbe_file: Path, record: dict[str, Any]) -> None:
    assert rbe("inspect", rbe_file, "--format", "jsonl").lines == [record]


def test_quiet_tells_by_its_exit_code_alone(rbe: Rbe, rbe_file: Path) -> None:
    done = rbe("inspect", rbe_file, "--verify", "--format", "quiet", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_people_see_the_main_facts(rbe: Rbe, rbe_file: Path, record: dict[str, Any]) -> None:
    done = rbe("inspect", rbe_file)
    assert "2 layers, 32 wide, 2 heads, vocabulary 300, context 64" in done.out
    assert f"{record['bits_per_weight']:.3f}" in done.out
    assert "h.0.mlp.c_fc.weight" not in done.out
    assert done.err == ""


def test_people_see_every_tensor(rbe: Rbe, rbe_file: Path, config: Gpt2Config) -> None:
    done = rbe("inspect", rbe_file, "--tensors")
    for name in tensor_shapes(config):
        assert f" {name} " in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())


def test_the_plot_has_a_bar_a_tensor(rbe: Rbe, rbe_file: Path, record: dict[str, Any]) -> None:
    bars = [line for line in rbe("inspect", rbe_file, "--plot").out.splitlines() if "█" in line]
    for bar, tensor in zip(bars, record["tensors"], strict=True):
        assert bar.startswith(tensor["name"])
        assert bar.count("█") == round(2 * tensor["bits_per_weight"])


def test_what_a_file_says_cannot_command_the_terminal(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "\x1b[2Jred", tmp_path / "a.rbe"
    shutil.copytree(checkpoint, source)
    assert run(["compress", str(source), str(out), "--calib-samples", "8"]) == 0
    for style in ("human", "json"):
        done = rbe("inspect", out, "--format", style)
        assert "[2Jred" in done.out
        assert "\x1b" not in done.out


# Quality


def test_people_see_what_the_quality_was_measured_on(
    rbe: Rbe, rbe_file: Path, compressed: dict[str, Any]
) -> None:
    out = rbe("inspect", rbe_file).out
    quality = compressed["quality"]
    assert f"{quality['kl_divergence']:.5f} ± {quality['kl_divergence_error']:.5f} nats" in out
    assert f"text sampled from the model ({quality['tokens']} held-out tokens" in out
    assert "target_bpw" in out


def with_extra(rbe_file: Path, path: Path, extra: dict[str, Any]) -> Path:
    """A copy of the file that says something else of its quality."""
    with Container.open(rbe_file) as container:
        provenance = msgspec.structs.replace(container.provenance, extra=extra)
        write_container(
            path,
            config=container.config,
            tensors=list(container.tensors.values()),
            tokenizer_json=None,
            provenance=provenance,
        )
    return path


def test_files_of_older_versions_say_what_they_know(
    rbe: Rbe, rbe_file: Path, tmp_path: Path
) -> None:
    old = {"kl_divergence": 0.25, "perplexity": 12.5, "reference_perplexity": 12.0, "tokens": 99}
    out = rbe("inspect", with_extra(rbe_file, tmp_path / "old.rbe", old)).out
    assert "0.25000 nats a token\n" in out
    assert "12.500 (original 12.000, ratio 1.0417)" in out
    assert "text written by the checkpoint itself (99 held-out tokens)" in out


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"kl_divergence": 0.25},
        {"kl_divergence": "much", "perplexity": None, "reference_perplexity": True, "tokens": 1},
        {
            **{"kl_divergence": 1, "perplexity": 1, "reference_perplexity": 0, "tokens": 1},
            **{"kl_divergence_error": "small", "text": 7},
        },
        {"kl_divergence": 1, "perplexity": 1, "reference_perplexity": 0, "tokens": 1, "text": 7},
    ],
)
def test_whatever_a_file_says_of_its_quality_is_shown(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, extra: dict[str, Any]
) -> None:
    done = rbe("inspect", with_extra(rbe_file, tmp_path / "odd.rbe", extra))
    assert (done.code, done.err) == (0, "")
    assert ("KL divergence" in done.out) == (extra.get("text") == 7 and len(extra) == 5)


# Two files


def test_two_files_are_compared(
    rbe: Rbe, rbe_file: Path, bare_file: Path, record: dict[str, Any]
) -> None:
    done = rbe("inspect", rbe_file, "--diff", bare_file, "--format", "json", "-q")
    assert (done.code, done.err) == (0, "")
    assert list(done.json) == [*record, "diff"]
    found = done.json["diff"]
    assert list(found) == ["other", "config", "provenance", "sizes", "tensors", "attention"]
    assert found["other"] == str(bare_file)
    assert found["config"] == []  # the weights are the same, and so is the config
    names = [tensor["name"] for tensor in record["tensors"]]
    assert [tensor["name"] for tensor in found["tensors"]] == names
    assert list(found["tensors"][0]) == [
        *("name", "shape", "other_shape", "codec", "other_codec"),
        *("bits_per_weight", "other_bits_per_weight", "relative_error"),
    ]
    assert all(0 <= tensor["relative_error"] < 2 for tensor in found["tensors"])
    assert [own["layer"] for own in found["attention"]] == [0, 1]
    errors = [own[part] for own in found["attention"] for part in ("scores", "values")]
    assert all(0 < error < 2 for error in errors)  # random weights whose errors cost little


def test_people_see_how_two_files_differ(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "demo.rbe"
    options = ("--preset", "speed-8bit", "--calib-samples", 4, "-q")
    assert rbe("compress", "demo", other, *options).code == 0
    done = rbe("inspect", rbe_file, "--diff", other)
    assert done.code == 0
    for text in (
        "n_layer                2 here, 5 there",
        "wte.weight",
        "300 x 32 here, 3072 x 192 there",
        "only there",
        "preset                 balanced here, speed-8bit there",
    ):
        assert " ".join(text.split()) in " ".join(done.out.split())
    same = rbe("inspect", other, "--diff", other)
    assert "config           the same" in same.out
    assert "queries x keys" in same.out


def test_what_cannot_be_compared_is_refused(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    done = rbe("inspect", rbe_file, "--diff", tmp_path / "no.rbe")
    assert (done.code, done.out) == (4, "")
    (tmp_path / "cut.rbe").write_bytes(rbe_file.read_bytes()[:-9])
    done = rbe("inspect", rbe_file, "--diff", tmp_path / "cut.rbe", "--format", "json")
    assert (done.code, done.out) == (3, "")


# Pictures


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a b.svg", b"<?xml")])
def test_a_picture_of_the_tensors(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, name: str, start: bytes
) -> None:
    path = tmp_path / name
    done = rbe("inspect", rbe_file, "--plot", path)
    assert done.code == 0
    assert "█" not in done.out
    assert path.read_bytes().startswith(start)
    for before in (["--plot", path, rbe_file], [rbe_file, f"--plot={path}"]):
        refused = rbe("inspect", *before)
        assert (refused.code, refused.out) == (1, "")
        assert "exists; use --force" in refused.err
        assert rbe("inspect", *before, "--force", "--format", "json").json["verified"] is None


def test_a_picture_holds_a_bar_for_each_matrix(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, record: dict[str, Any]
) -> None:
    path = tmp_path / "a.svg"
    assert rbe("inspect", rbe_file, "--plot", path, "-q").code == 0
    drawn = path.read_text()
    for tensor in record["tensors"]:
        name = tensor["name"].removesuffix(".weight")
        assert (f"<!-- {name} -->" in drawn) == is_matrix(tensor["name"])
    for text in ("bits a weight", "kB", "ectcq"):
        assert f"<!-- {text} -->" in drawn


@pytest.mark.parametrize("order", [["--plot", "FILE"], ["FILE", "--plot"]])
def test_a_plot_without_a_name_is_text(rbe: Rbe, rbe_file: Path, order: list[str]) -> None:
    arguments = [str(rbe_file) if word == "FILE" else word for word in order]
    assert "█" in rbe("inspect", *arguments).out


def test_a_picture_that_cannot_be_drawn_is_refused(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = rbe("inspect", rbe_file, "--plot", tmp_path / "a.pdf")
    assert (done.code, done.out) == (2, "")
    assert "the name has to end with .png or .svg" in done.err
    monkeypatch.setattr("rbe_cli.cli.charts.find_spec", lambda name: None)
    done = rbe("inspect", rbe_file, "--plot", tmp_path / "a.png")
    assert done.code == 2
    assert "pip install 'rbe-cli[plot]'" in done.err
