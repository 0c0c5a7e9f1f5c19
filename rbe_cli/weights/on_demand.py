"""Read weights when they are needed, so that not all of a model's are in memory at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")


class OnDemand(Mapping[str, Value]):
    """Map names to what a function makes of them; each access calls it anew."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Value]) -> None:
        """Set the names, in their order, and the function that reads what belongs to one."""
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
