"""`python -m fuzz.atheris_entry KIND`: cases that Atheris chooses by the code that they reach.

Atheris (github.com/google/atheris) drives libFuzzer, and counts the branches of the package that a
case takes. Options of libFuzzer may follow, such as `-max_total_time=60`, or a folder for
its corpus.
"""

import hashlib
import sys
from pathlib import Path

import atheris
import msgspec
from fuzz.draws import Draws

with atheris.instrument_imports(include=["rbe_cli"]):
    from fuzz.kinds import FAILED
    from fuzz.registry_of_kinds import KINDS

_FOUND = Path(__file__).parent / "found"
_LONGEST = 4096  # bytes of which Atheris makes a case


class ProvidedDraws(Draws):
    """Choices that the bytes of Atheris make; bytes that are used up give zeros."""

    def __init__(self, data: bytes) -> None:
        """Begin with the first of the bytes."""
        self._provider = atheris.FuzzedDataProvider(data)

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1."""
        return int(self._provider.ConsumeIntInRange(0, limit - 1))


def main() -> None:
    """Fuzz one kind until Atheris ends the process."""
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        sys.exit(f"usage: python -m fuzz.atheris_entry KIND [OPTION ...], of {', '.join(KINDS)}")
    kind = KINDS[sys.argv.pop(1)]

    def read_one(data: bytes) -> None:
        case = kind.case(ProvidedDraws(data))
        verdict = kind.verdict(case)
        if verdict.name == FAILED:
            encoded = msgspec.msgpack.encode(case)
            path = _FOUND / kind.name / f"{hashlib.sha256(encoded).hexdigest()[:12]}.case"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
            raise RuntimeError(f"{path} is kept: {verdict.fault}")

    options = [sys.argv[0], f"-max_len={_LONGEST}", *sys.argv[1:]]
    atheris.Setup(options, read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
