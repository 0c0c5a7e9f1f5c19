"""A checkpoint becomes the same bytes on CPUs of different kinds, and on any number of threads.

Each process takes what it would take on another CPU: our own programs, numpy's loops, BLAS and the
C library choose their code by variables of the environment.
"""

import os
import sys
from pathlib import Path

import pytest
from deadlines import run_python

from rbe_cli.runtime.instruction_sets import available

COMPRESS = """
import sys
from pathlib import Path

import compressing
from small_models import random_tensors, small_config
from small_tokenizer import VOCAB_SIZE, train_tokenizer

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.settings import Settings

folder, threads = Path(sys.argv[1]), int(sys.argv[2])
config = small_config(
    vocab_size=VOCAB_SIZE, n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=130
)
tensors = random_tensors(config)
size = sum(tensor.nbytes for tensor in tensors.values())
checkpoint = Checkpoint(config, tensors, train_tokenizer(), "tiny", "xxh3:0123456789abcdef", size)
fixed = Settings(4.0, default_codec="fixed", default_bits=4)
for name, settings, tune in (("ectcq", Settings(4.0), 2), ("fixed", fixed, None)):
    options = {"threads": threads, "tune": tune, "calib_samples": 6}
    compressing.run(checkpoint, folder / name, settings, **options)
"""
NEWEST = "X86_V4 AVX512_ICL AVX512_SPR"
CPUS = {
    "avx2": {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": NEWEST},
    "portable": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"X86_V3 {NEWEST}",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
    },
}


def files(folder, threads, variables):
    """Compress in a process of its own; the bytes of its files."""
    folder.mkdir()
    paths = os.pathsep.join(sys.path)
    environment = os.environ | variables | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    result = run_python(COMPRESS, folder, threads, env=environment)
    assert result.returncode == 0, result.stderr
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return files(tmp_path_factory.mktemp("here") / "files", 1, {})


@pytest.mark.parametrize(("instructions", "threads"), [("avx2", 2), ("portable", 3)])
def test_another_cpu_gives_the_same_bytes(instructions, threads, expected, tmp_path):
    if instructions not in [own.value for own in available()]:
        pytest.skip("this CPU does not have the instructions")
    variables = CPUS[instructions] | {"RBE_INSTRUCTIONS": instructions}
    assert list(expected) == ["ectcq", "fixed"]
    assert files(tmp_path / "files", threads, variables) == expected
