"""Files that appear whole or not at all, and safetensors files from anyone."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

MAX_HEADER = 2**25  # bytes: some 20,000 layers. safetensors takes three times that; Python's objects 20 times the text


class AdapterFileError(ValueError):
    """The file cannot be written or is no adapter file that fits this model; the model is unchanged."""


def write(path: Path, content: bytes) -> None:
    """Put `content` in the place of any file of this name: at any moment that is the old one or the new one.

    A link is replaced, not followed. A process that is killed may leave a `.adapterlab-*` file beside it.

    Raises:
        AdapterFileError: it cannot be written; what stood there before is intact.
    """
    temporary = None
    try:
        if path.exists() and not path.is_file():  # renaming would replace even /dev/null
            raise ValueError("it is there, and no regular file")
        temporary = path.with_name(f".adapterlab-{uuid.uuid4().hex}")
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every file system can; the file is whole either way
            _sync_folder(path.parent)
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def publish(folder: Path, target: Path) -> None:
    """Give a finished folder its name, on the same file system: under it nobody ever finds half of the files.

    Raises:
        OSError: a file cannot be synced, or `target` is there already.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        with contextlib.suppress(OSError):
            _sync_folder(inner)
    folder.rename(target)
    with contextlib.suppress(OSError):
        _sync_folder(target.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for this out of the folder. A process that is killed holds no lock.

    Raises:
        AdapterFileError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AdapterFileError(
                f"another process writes in the folder {folder}: wait for it, or name another"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a renaming survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; the tensors are mapped from it, not yet read.

    Raises:
        AdapterFileError: there is no such file, or it is damaged.
    """
    try:
        if not path.is_file():
            raise AdapterFileError(f"there is no file {path}")
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length:,} bytes is claimed, above the limit of {MAX_HEADER:,}")
            parse(file.read(length).decode())  # safetensors parses it too, but takes the last of equal keys
            with safe_open(path, framework="pt") as content:
                metadata = content.metadata() or {}
                tensors = {name: content.get_tensor(name) for name in content.keys()}
            replaced = not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except AdapterFileError:
        raise
    except Exception as error:  # whatever safetensors makes of a damaged file
        raise AdapterFileError(f"{path} cannot be read as a safetensors file: {str(error)[:300]}") from error
    return read(path) if replaced else (metadata, tensors)  # by another save, between the two openings


def parse(text: str) -> Any:
    """JSON without equal keys, NaN and Infinity; raises ValueError, or RecursionError for what is nested too deep."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
