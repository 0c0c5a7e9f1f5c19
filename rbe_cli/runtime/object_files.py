"""Find, check, pack and cache object files: the machine code of a library.

They ship with the package, in `rbe_cli/objects`. Where none of those fits, because the platform
is another or because a source file has been edited since, the code is compiled and kept in the
cache folder (`cache_folder`).

A file is the XXH3-64 of what follows, a header's length (4 bytes, little-endian), the header
(JSON), and the machine code. The header names the platform, and the source files that the code
was made from with the XXH3-128 of their contents. All this finds what is damaged or stale.

What is forged is kept out otherwise: `objects/hashes.json` holds the SHA-256 of each shipped file,
and the cache folder counts only if nobody else can write there (`trusted_files`).
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from rbe_cli import __version__
from rbe_cli.runtime.instruction_sets import InstructionSet, baseline
from rbe_cli.runtime.trusted_files import make_trusted_folder, read_trusted, refuse

_PACKAGE = Path(__file__).parents[1]
SHIPPED = _PACKAGE / "objects"
_HASHES = "hashes.json"
_HASH_BYTES, _LENGTH_BYTES = 8, 4


def cache_folder() -> Path:
    """Return the folder of what is cached: `RBE_CACHE_DIR`, or `rbe` in the user's caches."""
    if own := os.environ.get("RBE_CACHE_DIR"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rbe"


def find(library: str, instructions: InstructionSet) -> bytes | None:
    """Return a library's machine code, shipped or cached; None if there is none that fits."""
    if code := find_shipped(library, instructions):
        return code
    file = read_trusted(_cache_path(library, instructions))
    return None if file is None else _fitting_code(file, instructions)


def find_shipped(library: str, instructions: InstructionSet) -> bytes | None:
    """Return a library's machine code that ships with the package; None if it does not fit."""
    path = SHIPPED / file_name(library, instructions)
    try:
        file = path.read_bytes()
    except OSError:
        return None
    code = _fitting_code(file, instructions)
    if code is not None and _sha256(file) != _pinned().get(path.name):
        refuse(path, "it is not the file that was built with this package")
        return None
    return code


def ship(library: str, instructions: InstructionSet, file: bytes) -> Path:
    """Write an object file that was just built to the package, with its hash; return its path."""
    path = SHIPPED / file_name(library, instructions)
    write(path, file)
    hashes = _pinned() | {path.name: _sha256(file)}
    write(SHIPPED / _HASHES, json.dumps(hashes, indent=1, sort_keys=True).encode() + b"\n")
    return path


def _pinned() -> dict[str, str]:
    """Return the hashes of the files that ship by name; none where the list is missing."""
    try:
        found = json.loads((SHIPPED / _HASHES).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sha256(file: bytes) -> str:
    return hashlib.sha256(file).hexdigest()


def keep(library: str, instructions: InstructionSet, file: bytes) -> None:
    """Write an object file to the cache folder, if that is possible and nobody else can write."""
    path = _cache_path(library, instructions)
    with suppress(OSError):
        if make_trusted_folder(path.parent):
            write(path, file)


def file_name(library: str, instructions: InstructionSet) -> str:
    """Return the name of a library's object file."""
    return f"{library}-{instructions.name}.o"


def pack(code: bytes, instructions: InstructionSet, sources: Sequence[Path]) -> bytes:
    """Return the object file of machine code that was made from source files."""
    names = sorted(path.relative_to(_PACKAGE).as_posix() for path in sources)
    header = {"platform": _platform(instructions), "sources": names, "hash": _hash(names)}
    text = json.dumps(header).encode()
    body = len(text).to_bytes(_LENGTH_BYTES, "little") + text + code
    return xxhash.xxh3_64_digest(body) + body


def code_of(file: bytes) -> bytes:
    """Return the machine code in an object file that `pack` made."""
    return _unpack(file)[1]


def _unpack(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the machine code of an object file."""
    first = _HASH_BYTES + _LENGTH_BYTES
    start = first + int.from_bytes(file[_HASH_BYTES:first], "little")
    return json.loads(file[first:start]), file[start:]


def write(path: Path, file: bytes) -> None:
    """Write an object file; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with open(temporary, "xb") as own:
            own.write(file)
        temporary.chmod(0o644)  # whatever the umask: what a group may write is not trusted
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _fitting_code(file: bytes, instructions: InstructionSet) -> bytes | None:
    """Return an object file's machine code; None if it is damaged or not of these sources."""
    if xxhash.xxh3_64_digest(file[_HASH_BYTES:]) != file[:_HASH_BYTES]:
        return None
    header, code = _unpack(file)
    fits = header["platform"] == _platform(instructions)
    return code if fits and header["hash"] == _hash(header["sources"]) else None


def _platform(instructions: InstructionSet) -> str:
    """Return what machine code of an instruction set can run on."""
    target = baseline(instructions)
    return " ".join((target.system, target.architecture, target.cpu, target.features))


def _hash(sources: Sequence[str]) -> str | None:
    """Return the hash of the contents of source files; None if one is missing."""
    digest = xxhash.xxh3_128()
    for name in sources:
        try:
            digest.update((_PACKAGE / name).read_bytes())
        except OSError:
            return None
        digest.update(b"\0")
    return digest.hexdigest()


def _cache_path(library: str, instructions: InstructionSet) -> Path:
    """Return where a library is kept; installations beside each other have files of their own."""
    key = xxhash.xxh3_64_hexdigest(f"{__version__} {_platform(instructions)} {_PACKAGE}".encode())
    return cache_folder() / f"{library}-{instructions.name}-{key}.o"
