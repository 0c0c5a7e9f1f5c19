"""Open a `.rbe` file: map it, validate it, and give access to its parts without copies."""

import mmap
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rbe_cli.checkpoint.file_kind import CHECKPOINT_KINDS, FileKind, file_kind
from rbe_cli.container.file_layout import TOKENIZER, FileLayout, PlacedSection, bits_per_weight
from rbe_cli.container.header import FORMAT_VERSION, Provenance, checksum
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import TokenizerFacts, unpack_tokenizer
from rbe_cli.container.validate import check_padding, read_layout
from rbe_cli.errors import BadFileError, ChecksumError, ContainerError, MagicError, NotFoundError
from rbe_cli.model.config import Gpt2Config


class StoredTensors(Mapping[str, StoredTensor]):
    """A mapping from names to tensors, which checks a section when it is first accessed."""

    def __init__(self, layout: FileLayout, section: Callable[[str], memoryview]) -> None:
        self._placed = layout.tensors
        self._section = section

    def __getitem__(self, name: str) -> StoredTensor:
        placed = self._placed[name]
        data = self._section(placed.section)[placed.start : placed.start + placed.size]
        return StoredTensor(name, placed.shape, placed.codec, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)


class Container:
    """A `.rbe` file that is open for reading. It can be used as a context manager.

    Opening validates everything except the padding and the contents of the sections. It
    takes milliseconds whatever the size of the file. Views of the file stay valid after
    `close`: the file stays mapped as long as one of them exists. The file must not be changed
    in place while it is mapped. To replace it, as `write_container` does, is safe.

    Attributes:
        path: the path of the file.
        format_version, config, codec_versions, provenance: the values in the header.
        layout: the offsets and sizes of sections and tensors.
        tensors: the encoded tensors by name, in order of the header.
        file_bytes: size of the file in bytes.
    """

    def __init__(self, data: memoryview, path: Path) -> None:
        """Validate a file that is mapped already; `open` maps one.

        Args:
            data: all bytes of the file, read-only.
            path: the path of the file, for error messages.

        Raises:
            ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
        """
        self.path = path
        self._data = data
        self._checked: set[str] = set()
        with self._errors_name_the_file():
            header, self.layout = read_layout(data)
        self.format_version = FORMAT_VERSION
        self.config: Gpt2Config = header.config
        self.codec_versions: Mapping[str, int] = header.codec_versions
        self.provenance: Provenance = header.provenance
        self.tensors = StoredTensors(self.layout, self.section)
        self.file_bytes = self.layout.file_bytes

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Map a file and validate it.

        Raises:
            NotFoundError: there is no such file.
            BadFileError: the operating system cannot read it.
            ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
        """
        path = Path(path)
        try:
            return cls(_map(path), path)
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

    def section(self, name: str) -> memoryview:
        """Return the bytes of a section, and check its checksum on the first call.

        Args:
            name: a key of `layout.sections`; any other raises `KeyError`.

        Raises:
            ChecksumError: the bytes do not match the checksum.
        """
        section = self.layout.sections[name]
        if name not in self._checked:
            self._check(section)
            self._checked.add(name)
        return self._data[section.offset : section.end]

    def forget(self) -> None:
        """Drop the file's pages from this process's memory. They are read again when needed."""
        if hasattr(mmap, "MADV_DONTNEED") and isinstance(self._data.obj, mmap.mmap):
            self._data.obj.madvise(mmap.MADV_DONTNEED)

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
        """
        with self._errors_name_the_file():
            check_padding(self._data, self.layout)
        for section in self.sections:
            self._check(section)

    def _check(self, section: PlacedSection) -> None:
        with self._errors_name_the_file():
            if checksum(self._data[section.offset : section.end]) != section.checksum:
                raise ChecksumError(
                    f"section {section.name} is damaged: its checksum does not match"
                )

    @contextmanager
    def _errors_name_the_file(self) -> Iterator[None]:
        try:
            yield
        except ContainerError as error:
            raise type(error)(f"{self.path}: {error}") from error


def _but_another(path: Path) -> str:
    """Return the end of an error message that says what the path is instead; may be empty."""
    advice = ": rbe compress makes one from a checkpoint"
    if path.is_dir():
        return advice
    kind = file_kind(path) if path.is_file() else FileKind.unknown
    if kind is FileKind.unknown or kind is FileKind.rbe:
        return ""
    return f", but {kind.value}{advice if kind in CHECKPOINT_KINDS else ''}"


def _map(path: Path) -> memoryview:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            raise MagicError(f"{path} is {what}, not an .rbe file")
        if status.st_size == 0:  # cannot be mapped
            return memoryview(b"")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise BadFileError(f"cannot read {path}: {error.strerror or error}") from error
