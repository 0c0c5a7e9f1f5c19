"""Write the bad files that are not there yet, and what they must give.

    .venv/bin/python tests/golden/bad/make_bad_files.py

Each breaks the rule of docs/FORMAT.md that its name begins with, and none that comes before it.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from attacks.forged_file import Forgery, digest  # noqa: E402
from golden.bad.bad_cases import CASES, Case  # noqa: E402

from rbe_cli.container.reader import Container  # noqa: E402
from rbe_cli.errors import ContainerError  # noqa: E402

# What msgspec and zlib say may change with their versions.
OF_LIBRARIES = re.compile(r"^(the header is malformed: |.* does not decompress: )(?!not in the).*")
EXPECTATIONS = HERE / "expectations.json"


def main() -> None:
    """Write what is missing."""
    known: dict[str, dict[str, str]] = {}
    if EXPECTATIONS.exists():
        known = json.loads(EXPECTATIONS.read_text())
    for name, case in CASES.items():
        path = HERE / f"{name}.rbe"
        if not path.exists():
            path.write_bytes(forged(path, case))
        known[path.name] = known.get(path.name) or refusal(path)
    lines = (f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    EXPECTATIONS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def forged(path: Path, case: Case) -> bytes:
    """Return the bytes of a case."""
    forgery = sound(path)
    data = case(forgery)
    return forgery.build() if data is None else data


def sound(path: Path) -> Forgery:
    """Return a forgery that breaks no rule: it has no tokenizer, and its vectors are ones."""
    forgery = Forgery(path)
    del forgery.payloads["tokenizer"]
    forgery.tokenizer = None
    forgery.payloads["vectors"] = b"\0\x3c" * (len(forgery.payloads["vectors"]) // 2)
    forgery.vectors_checksum = digest(forgery.payloads["vectors"])
    return forgery


def refusal(path: Path) -> dict[str, str]:
    """Return the error that reading all of a file raises, and the beginning of its sentence."""
    try:
        read_all(path)
    except ContainerError as error:
        sentence = OF_LIBRARIES.sub(r"\1", str(error).removeprefix(f"{path}: "))
        return {"error": type(error).__name__, "sentence": sentence}
    raise RuntimeError(f"{path.name} breaks no rule")


def read_all(path: Path) -> None:
    """Read and check everything in a file, as `rbe inspect --verify` does."""
    with Container.open(path) as container:
        container.verify()
        container.tokenizer_json()
        for tensor in container.tensors.values():
            tensor.decode()


if __name__ == "__main__":
    main()
