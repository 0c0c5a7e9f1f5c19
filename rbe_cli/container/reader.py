"""Open a `.rbe` file, validate it, and read its parts."""

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rbe_cli.checkpoint.file_kind import CHECKPOINT_KINDS, FileKind, file_kind
from rbe_cli.container.file_bytes import Bytes, FileBytes, anonymous
from rbe_cli.container.file_layout import (
    TOKENIZER,
    VECTORS,
    FileLayout,
    PlacedSection,
    bits_per_weight,
)
from rbe_cli.container.header import Provenance, checksum, format_version
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import TokenizerFacts, unpack_tokenizer
from rbe_cli.container.validate import check_padding, read_layout
from rbe_cli.errors import BadFileError, ChecksumError, ContainerError, MagicError, NotFoundError
from rbe_cli.model.config import Gpt2Config

Memory = Callable[[int], memoryview]
_ADVICE = "rbe compress makes one from a checkpoint"


class StoredTensors(Mapping[str, StoredTensor]):
    """A mapping from names to tensors; each access reads the tensor's section and checks it."""

    def __init__(self, layout: FileLayout, section: Callable[[str, Memory], memoryview]) -> None:
        self._placed = layout.tensors
        self._section = section

    def __getitem__(self, name: str) -> StoredTensor:
        return self.read(name, anonymous)

    def read(self, name: str, memory: Memory) -> StoredTensor:
        """Return a tensor whose section is read into memory that the caller gives.

        Args:
            name: a key of the mapping.
            memory: returns so many writable bytes. Those of vectors may lie elsewhere.
        """
        placed = self._placed[name]
        data = self._section(placed.section, memory)[placed.start : placed.start + placed.size]
        return StoredTensor(name, placed.shape, placed.codec, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)


class Container:
    """A `.rbe` file that is open for reading. It can be used as a context manager.

    Opening validates everything except the padding and the contents of the sections. It
    takes milliseconds whatever the size of the file. A section is read when it is asked for, into
    memory of its own, and its checksum is that of the bytes that are returned. So a file that is
    changed while it is open gives a `ContainerError`, or the tensors that it held before. A file
    that is replaced, as `write_container` does, stays readable until `close`.

    Attributes:
        path: the path of the file.
        format_version, config, codec_versions, provenance: the values in the header.
        layout: the offsets and sizes of sections and tensors.
        tensors: the encoded tensors by name, in order of the header.
        file_bytes: size of the file in bytes.
    """

    def __init__(self, data: Bytes, path: Path) -> None:
        """Validate a file that is open already; `open` opens one.

        Args:
            data: all bytes of the file.
            path: the path of the file, for error messages.

        Raises:
            ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
            BadFileError: the operating system cannot read the file.
        """
        self.path = path
        self._data = data
        self._vectors: memoryview | None = None
        with self._errors_name_the_file():
            header, self.layout = read_layout(data)
        self.format_version = format_version(header)
        self.config: Gpt2Config = header.config
        self.codec_versions: Mapping[str, int] = header.codec_versions
        self.provenance: Provenance = header.provenance
        self.tensors = StoredTensors(self.layout, self.section)
        self.file_bytes = self.layout.file_bytes

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a file and validate it.

        Raises:
            NotFoundError: there is no such file.
            BadFileError: the operating system cannot read it.
            ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
        """
        path = Path(path)
        data = _opened(path)
        try:
            return cls(data, path)
        except MagicError as error:
            raise MagicError(f"{error}{_but_another(path)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Reading from it afterwards raises `ValueError`."""
        self._data.release()

    @property
    def sections(self) -> tuple[PlacedSection, ...]:
        """Return the sections, in order of offset."""
        return tuple(self.layout.sections.values())

    @property
    def bits_per_weight(self) -> float:
        """Return 8 x (bytes of the file without its tokenizer section) / (number of parameters)."""
        tokenizer = self.layout.sections.get(TOKENIZER)
        return bits_per_weight(self.config, self.file_bytes, tokenizer.size if tokenizer else 0)

    @property
    def tokenizer_facts(self) -> TokenizerFacts:
        """Return the header's facts about the tokenizer, without decompressing the tokenizer."""
        is_stored = TOKENIZER in self.layout.sections
        return TokenizerFacts.of_provenance(self.provenance.extra, is_stored)

    def section(self, name: str, memory: Memory = anonymous) -> memoryview:
        """Read a section, and check its checksum.

        Args:
            name: a key of `layout.sections`; any other raises `KeyError`.
            memory: returns so many writable bytes, which the section is read into.

        Returns:
            The section's bytes, read-only. Of the vectors, which many tensors share, they are
            kept for the next call.

        Raises:
            ChecksumError: the bytes do not match the checksum.
            TruncatedError: the file has become shorter since it was opened.
            BadFileError: the operating system cannot read the file.
        """
        if name == VECTORS and self._vectors is not None:
            return self._vectors
        section = self.layout.sections[name]
        with self._errors_name_the_file():
            data = self._read(section, memory)
            if checksum(data) != section.checksum:
                raise ChecksumError(f"section {name} is damaged: its checksum does not match")
        if name == VECTORS:
            self._vectors = data
        return data

    def _read(self, section: PlacedSection, memory: Memory) -> memoryview:
        if not isinstance(self._data, FileBytes):
            return self._data[section.offset : section.end]
        content = memory(section.size)
        self._data.read_into(content, section.offset)
        return content.toreadonly()

    def tokenizer_json(self) -> bytes | None:
        """Return the stored `tokenizer.json`, or None if the file has no tokenizer.

        Raises:
            ChecksumError: the section is damaged.
            PayloadError: the section does not decompress.
        """
        if TOKENIZER not in self.layout.sections:
            return None
        section = self.section(TOKENIZER)
        with self._errors_name_the_file():
            return unpack_tokenizer(section)

    def verify(self) -> None:
        """Read every byte of the file once, and check all checksums and the padding.

        Raises:
            GeometryError: a byte of the padding is not zero.
            ChecksumError: a section is damaged; the message names it.
            TruncatedError, BadFileError: as in `section`.
        """
        with self._errors_name_the_file():
            check_padding(self._data, self.layout)
        self._vectors = None
        for section in self.sections:
            self.section(section.name)

    @contextmanager
    def _errors_name_the_file(self) -> Iterator[None]:
        try:
            yield
        except ContainerError as error:
            raise type(error)(f"{self.path}: {error}{self._if_changed()}") from error
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _if_changed(self) -> str:
        """Return the end of an error message, if another program has written to the file."""
        if isinstance(self._data, FileBytes) and self._data.has_changed():
            return ": another program wrote to the file while it was read"
        return ""


def _but_another(path: Path) -> str:
    """Return the end of an error message that says what the path is instead; may be empty."""
    if path.is_dir():
        return f": {_ADVICE}"
    kind = file_kind(path) if path.is_file() else FileKind.unknown
    if kind is FileKind.unknown or kind is FileKind.rbe:
        return ""
    return f", but {kind.value}{f': {_ADVICE}' if kind in CHECKPOINT_KINDS else ''}"


def _opened(path: Path) -> FileBytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
            raise MagicError(f"{path} is {what}, not an .rbe file{_but_another(path)}")
        return FileBytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        needed = "" if path.suffix == ".rbe" else f"; an .rbe file is needed: {_ADVICE}"
        raise NotFoundError(f"{path} does not exist{needed}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BadFileError:
    return BadFileError(f"cannot read {path}: {error.strerror or error}")
