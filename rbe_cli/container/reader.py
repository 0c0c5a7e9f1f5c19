"""Open a `.rbe` file: map it, validate it, and hand out its parts without copying them."""

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
    """Name -> tensor; reading one checks its section's checksum the first time."""

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
    """A `.rbe` file, open for reading; a context manager.

    Opening validates all but the sections' contents and padding, in milliseconds whatever
    the size. Views that were handed out stay valid after `close`: the mapping ends with
    the last of them. The file must not be changed in place while it is mapped (replacing
    it, as `write_container` does, is safe).

    Attributes:
        path: where it was opened.
        format_version, config, codec_versions, provenance: from the header.
        layout: sections and tensors with their places and sizes.
        tensors: the encoded tensors by name, in order of the header.
        file_bytes: size of the file.
    """

    def __init__(self, data: memoryview, path: Path) -> None:
        """`data` is the whole file, read-only; raises as `open` does."""
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
        """Map the file and validate it.

        Raises:
            NotFoundError: there is no such file.
            BadFileError: the system cannot read it.
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
        """Let go of the file; reading from it is an error (ValueError) from now on."""
        self._data.release()

    @property
    def sections(self) -> tuple[PlacedSection, ...]:
        """In order of offset."""
        return tuple(self.layout.sections.values())

    @property
    def bits_per_weight(self) -> float:
        """8 x (bytes of the file without its tokenizer section) / parameters."""
        tokenizer = self.layout.sections.get(TOKENIZER)
        return bits_per_weight(self.config, self.file_bytes, tokenizer.size if tokenizer else 0)

    @property
    def tokenizer_facts(self) -> TokenizerFacts:
        """What the header says about the tokenizer; nothing is decompressed."""
        is_stored = TOKENIZER in self.layout.sections
        return TokenizerFacts.of_provenance(self.provenance.extra, is_stored)

    def section(self, name: str) -> memoryview:
        """A section's bytes, its checksum checked the first time.

        Raises:
            ChecksumError: they differ from what was written.
        """
        section = self.layout.sections[name]
        if name not in self._checked:
            self._check(section)
            self._checked.add(name)
        return self._data[section.offset : section.end]

    def forget(self) -> None:
        """Take the file's pages out of this process's memory; they come back where needed."""
        if hasattr(mmap, "MADV_DONTNEED") and isinstance(self._data.obj, mmap.mmap):
            self._data.obj.madvise(mmap.MADV_DONTNEED)

    def tokenizer_json(self) -> bytes | None:
        """`tokenizer.json` as it was stored; None if the file has no tokenizer.

        Raises:
            ChecksumError, PayloadError: the section is damaged, or does not decompress.
        """
        if TOKENIZER not in self.layout.sections:
            return None
        section = self.section(TOKENIZER)
        with self._errors_name_the_file():
            return unpack_tokenizer(section)

    def verify(self) -> None:
        """Read every byte of the file once and compare it with what was written.

        Raises:
            GeometryError: padding is not zero.
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
    """Return the end of a sentence that says what a file or folder is instead; may be empty."""
    step = ": rbe compress makes one of a checkpoint"
    if path.is_dir():
        return step
    kind = file_kind(path) if path.is_file() else FileKind.unknown
    if kind is FileKind.unknown or kind is FileKind.rbe:
        return ""
    return f", but {kind.value}{step if kind in CHECKPOINT_KINDS else ''}"


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
