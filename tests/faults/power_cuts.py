"""What a disk may hold after a power cut: only what was synced is sure to be there.

The contents of a file are safe after an `fsync` of the file, and the names in a folder after an
`fsync` of the folder. Of what was not synced, anything may be there or not. Two extremes are tried:
nothing of it is, or all names are and no contents.
"""

import copy
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.faulty_system import Call

Names = dict[int, dict[str, int]]  # number of a folder -> name -> number of a file or folder
_ROOT = 0


@dataclass
class Disk:
    """Files and folders by number: as programs see them, and as they are safe.

    Attributes:
        root: the folder that has number 0; nothing outside it is known.
        content, safe_content: of files.
        names, safe_names: of folders.
    """

    root: Path
    content: dict[int, bytearray] = field(default_factory=dict)
    safe_content: dict[int, bytes] = field(default_factory=dict)
    names: Names = field(default_factory=lambda: {_ROOT: {}})
    safe_names: Names = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, output: str, old: Mapping[str, bytes]) -> "Disk":
        """Return a disk that holds an old output, all of it safe."""
        disk = cls(root)
        if old and "" not in old:
            disk._add(root / output, is_folder=True)
        for name, data in old.items():
            disk.content[disk._add(root / output / name)].extend(data)
        disk.safe_content = {number: bytes(data) for number, data in disk.content.items()}
        disk.safe_names = copy.deepcopy(disk.names)
        return disk

    def apply(self, call: Call) -> None:
        """Change the disk as a call does."""
        path = Path(call.paths[0])
        if call.kind == "open" and call.flags[0] in "wx":
            number = self._find(path)
            self.content[self._add(path) if number is None else number].clear()
        elif call.kind == "write":
            end = call.offset + len(call.data)
            self.content[self._known(path)][call.offset : end] = call.data
        elif call.kind == "mkdir" and self._find(path) is None:
            self._add(path, is_folder=True)
        elif call.kind == "fsync":
            self._sync(self._known(path))
        elif call.kind in ("rename", "replace", "link", "exchange"):
            self._move(call.kind, path, Path(call.paths[1]))
        elif call.kind in ("unlink", "remove", "rmdir"):
            self._above(path).pop(path.name, None)

    def _find(self, path: Path) -> int | None:
        number: int | None = _ROOT
        for part in path.relative_to(self.root).parts:
            number = self.names[number].get(part) if number is not None else None
        return number

    def _known(self, path: Path) -> int:
        number = self._find(path)
        if number is None:
            raise KeyError(f"{path} is not there")
        return number

    def _above(self, path: Path) -> dict[str, int]:
        return self.names[self._known(path.parent)]

    def _add(self, path: Path, *, is_folder: bool = False) -> int:
        number = len(self.content) + len(self.names)
        if is_folder:
            self.names[number] = {}
        else:
            self.content[number] = bytearray()
        self._above(path)[path.name] = number
        return number

    def _sync(self, number: int) -> None:
        if number in self.names:
            self.safe_names[number] = dict(self.names[number])
        else:
            self.safe_content[number] = bytes(self.content[number])

    def _move(self, kind: str, source: Path, target: Path) -> None:
        number, other = self._known(source), self._find(target)
        self._above(target)[target.name] = number
        if kind == "exchange" and other is not None:
            self._above(source)[source.name] = other
        elif kind != "link":
            del self._above(source)[source.name]

    def after_cuts(self, output: str) -> Iterator[dict[str, bytes]]:
        """Yield the outputs that may be there if the power is cut now."""
        kinds = (self.safe_names, self.names)
        for names, below in itertools.product(kinds, kinds):
            number = names[_ROOT].get(output)
            if number is None:
                yield {}
            elif number in self.names:
                inside = below.get(number, {})
                yield {name: self._content_after(own) for name, own in inside.items()}
            else:
                yield {"": self._content_after(number)}

    def _content_after(self, number: int) -> bytes:
        """Return what is left of a file's content: nothing of a new file that was never synced."""
        safe = self.safe_content.get(number)
        if safe is None:
            return b""
        return safe if safe == self.content[number] else b"in part the old and the new content"


def check_power_cuts(
    calls: Sequence[Call],
    folder: Path,
    output: str | None,
    old: dict[str, bytes],
    new: dict[str, bytes],
) -> Iterator[str]:
    """Cut the power after each call of a run; yield where the output is neither old nor new."""
    if output is None:
        return
    known = {str(folder / own) for own in ("model", "model.rbe", "other.rbe")}
    disk = Disk.of(folder, output, old)
    for number, call in enumerate(calls):
        if known & {call.paths[0], os.path.dirname(call.paths[0])}:
            continue
        disk.apply(call)
        for found in disk.after_cuts(output):
            if found not in (old, new):
                yield f"after call {number} ({call.kind} {call.paths}) it is {sorted(found)}"
    if any(found != new for found in disk.after_cuts(output)):
        yield "the new output is not safe at the end"
