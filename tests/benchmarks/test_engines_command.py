"""The benchmark as a whole, with engines that only pretend."""

import json

import numpy as np
import pytest
from small_models import small_config

from benchmarks.engines import __main__ as engines
from benchmarks.engines import peers
from benchmarks.engines.check import check_logits
from benchmarks.engines.contestant import (
    Contestant,
    EngineSubject,
    Measurement,
    environment,
)
from benchmarks.engines.job import Job
from benchmarks.engines.peer_session import PeerEngine, PeerSession, SteppingSession
from benchmarks.engines.random_checkpoint import write_random
from benchmarks.engines.worker import build, measure
from rbe_cli.errors import QualityError
from rbe_cli.runtime.instruction_sets import VARIABLE

CONFIG = small_config(n_positions=512, n_layer=1)


class Pretending(Contestant):
    """Its logits are the reference's times `factor`, and all it does is written down."""

    def __init__(self, name, bits, log, factor=1.0):
        self.name, self.variants, self.log, self.factor = name, {"v": bits}, log, factor

    def is_installed(self):
        return self.factor is not None

    def build(self, subject, variant):
        self.log.append(("build", self.name))

    def write_logits(self, subject, variant, path):
        np.save(path, np.load(subject.reference) * self.factor)

    def measure(self, subject, variant):
        self.log.append(("measure", self.name))
        return Measurement(1000.0, 100.0, 0.1, 10**8, 10**7, 0.3)


@pytest.fixture
def checkpoint(tmp_path):
    write_random(CONFIG, 0, tmp_path / "random")
    return str(tmp_path / "random")


@pytest.fixture
def pretend(monkeypatch):
    """Replaces the engines; what they are asked to do."""

    def replace(**factors):
        log = []
        monkeypatch.setattr(
            engines,
            "make_contestant",
            lambda name, python, threads: Pretending(name, 8, log, factors.get(name, 1.0)),
        )
        return log

    return replace


def test_engines_take_turns_and_an_absent_one_is_named(checkpoint, pretend, tmp_path, capsys):
    log, report = pretend(ctranslate2=None, onnxruntime=None), tmp_path / "report.json"
    engines.main(["--model", checkpoint, "--rounds", "2", "--json", str(report)])
    names = ["rbe", "llama.cpp"]
    assert log == [("build", name) for name in names] + 2 * [("measure", name) for name in names]
    printed = capsys.readouterr()
    assert "ctranslate2: not installed" in printed.err
    assert "rbe v / llama.cpp v" in printed.out
    found = json.loads(report.read_text())
    assert found["source"] == "random"
    assert [row["engine"] for row in found["rows"]] == names
    assert found["rows"][0]["cosine"] == pytest.approx(1)


def test_variants_are_chosen_by_name(checkpoint, pretend, capsys):
    log = pretend()
    flags = ["--model", checkpoint, "--engines", "rbe", "--rounds", "1", "--variants"]
    with pytest.raises(SystemExit) as ended:
        engines.main([*flags, "v,other"])
    assert ended.value.code == 2
    assert "no engine has a variant 'other'; there are v" in capsys.readouterr().err
    assert not log
    engines.main([*flags, "v"])
    assert log == [("build", "rbe"), ("measure", "rbe")]


def test_an_engine_that_chooses_its_own_instructions_is_left_out(pretend, monkeypatch, capsys):
    pretend()
    monkeypatch.setenv(VARIABLE, "portable")
    with pytest.raises(SystemExit):
        engines.main(["--engines", "onnxruntime"])
    assert "onnxruntime: cannot be held to portable" in capsys.readouterr().err


def test_peers_are_held_to_the_instructions_of_rbe(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "X")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not {"OPENBLAS_CORETYPE", "CT2_FORCE_CPU_ISA"} & environment().keys()
    monkeypatch.setenv(VARIABLE, "avx2")
    assert environment()["CT2_FORCE_CPU_ISA"] == "AVX2"


def test_the_plot_is_a_picture_of_what_was_measured(checkpoint, pretend, tmp_path):
    pretend()
    plot = tmp_path / "plot.png"
    flags = ["--model", checkpoint, "--engines", "rbe", "--rounds", "1", "--plot", str(plot)]
    engines.main(flags)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_an_engine_that_computes_something_else_ends_the_benchmark(checkpoint, pretend, capsys):
    pretend(**{"llama.cpp": -1.0})
    with pytest.raises(SystemExit) as ended:
        engines.main(["--model", checkpoint, "--engines", "llama.cpp"])
    assert ended.value.code == 1
    assert "llama.cpp v does not compute the same model" in capsys.readouterr().err


def test_logits_that_are_no_numbers_fail_the_check(tmp_path):
    subject = EngineSubject("source", tmp_path, 4)
    np.save(subject.reference, np.arange(4, dtype=np.float32))
    with pytest.raises(QualityError):
        check_logits(Pretending("x", 8, [], np.nan), subject, "v")


def test_without_any_engine_there_is_nothing_to_measure(monkeypatch, capsys):
    monkeypatch.setattr(peers.peer("llama.cpp").__class__, "packages", ("no_such_module",))
    with pytest.raises(SystemExit) as ended:
        engines.main(["--engines", "llama.cpp"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "llama.cpp: not installed" in said
    assert "no engine to measure" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--engines", "llama.cpp,torch"], "'torch' is not one of rbe, llama.cpp"),
        (["--rounds", "0"], "positive integer"),
        (["--threads", "two"], "positive integer"),
    ],
)
def test_wrong_flags_are_refused(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        engines.main(flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_model_that_does_not_exist_is_reported_in_a_sentence(pretend, tmp_path, capsys):
    pretend()
    with pytest.raises(SystemExit) as ended:
        engines.main(["--model", str(tmp_path / "none"), "--work", str(tmp_path)])
    assert ended.value.code == 1
    assert "none does not exist" in capsys.readouterr().err


def test_every_peer_names_its_packages_and_widths():
    for name in peers.MODULES:
        engine = peers.peer(name)
        assert engine.packages
        assert set(engine.variants.values()) <= {2, 3, 4, 5, 6, 8, 16}


class Clock:
    """Seconds that only pass where a session says so."""

    now = 0.0


class PretendingSession(SteppingSession):
    def __init__(self, seconds):
        self.seconds = seconds

    def prefill(self, tokens):
        Clock.now += 10.0

    def step(self, token):
        Clock.now += self.seconds

    def last_logits(self):
        return [0.0]


class PretendingEngine(PeerEngine):
    packages, variants, settings = ("none",), {"v": 8}, ("slow", "fast")

    def build(self, source, variant, path):
        path.write_text(source)
        if source == "broken":
            raise RuntimeError(source)

    def open(self, path, variant, setting, threads) -> PeerSession:
        Clock.now += 3.0
        return PretendingSession({"slow": 2.0, "fast": 1.0}[setting])


def job(tmp_path, source="source"):
    return Job("x", "v", source, str(tmp_path / "model"), "", 100, 2)


def test_a_worker_keeps_the_fastest_setting_of_each_phase(tmp_path, monkeypatch):
    clock = "benchmarks.engines.{}.perf_counter"
    for module in ("worker", "peer_session"):
        monkeypatch.setattr(clock.format(module), lambda: Clock.now)
    found = measure(PretendingEngine(), job(tmp_path))
    assert found["load_seconds"] == 3.0
    assert found["prefill_tokens_per_second"] == pytest.approx(51.2)
    assert found["prefill_setting"] == "slow"  # as fast, and tried first
    assert found["decode_tokens_per_second"] == pytest.approx(1.0)
    assert found["decode_setting"] == "fast"
    assert found["peak_rss_bytes"] > 10**6


def test_a_model_is_there_only_when_it_is_whole(tmp_path):
    with pytest.raises(RuntimeError):
        build(PretendingEngine(), job(tmp_path, "broken"))
    assert not (tmp_path / "model").exists()
    build(PretendingEngine(), job(tmp_path))
    assert (tmp_path / "model").read_text() == "source"


def test_a_job_survives_its_json(tmp_path):
    assert Job.from_json(job(tmp_path).to_json()) == job(tmp_path)
