"""Files and folders that are either whole or absent: atomic writing and checksums; and texts that users write."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
_SAMPLE, _SAMPLES = 4096, 4096
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
"""Byte-order marks, those of four bytes before those of two that begin like them."""
_log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name beside it, which takes the real name, synced, only if the block succeeds.

    The folder is made if it is missing. A reader sees the old file or the new one, never a part; after an exception the
    old file is untouched and the temporary one is gone.

    Args:
        path: of the file.

    Yields:
        The path to write to: an empty file with the same suffix.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}.tmp{target.suffix}")
    temporary.touch(exist_ok=False)  # tempfile.mkstemp would make a file that only its owner can read
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder to write that is there already.

    Args:
        path: of the folder, which does not exist yet, or is empty.

    Raises:
        FileExistsError: when there is something at ``path`` already.
        ValueError: for no name.
    """
    target = Path(path).absolute()
    if not os.fspath(path):
        raise ValueError("the name of the folder to write is empty: name a new folder")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder: name a new one, nothing is overwritten")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], size: int) -> Iterator[Path]:
    """Fill a new folder under a temporary name beside it; it takes the real name, synced, only if the block succeeds.

    Args:
        path: of the folder, which does not exist yet, or is empty.
        size: bytes that will be written.

    Yields:
        The folder to write to.

    Raises:
        FileExistsError: when there is something at ``path`` already.
        ValueError: for no name.
        OSError: when ``size`` bytes are not free, or a write fails; nothing is left then.
    """
    target = Path(path).absolute()
    check_new_folder(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(target.parent).free):
        raise OSError(f"{path} needs {size:,} bytes, {free:,} are free there: make room, or name another place")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for part in (*temporary.iterdir(), temporary):
            sync(part)
        temporary.replace(target)
    except OSError as error:
        raise OSError(f"writing {path} failed, nothing is left of it: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(target.parent)


def lock(stream: IO[Any]) -> bool:
    """Take an open file for this process alone, until it is closed, without waiting for another that has it.

    Some cluster file systems have no locks. That is no sign of another process: it is said, and the file is taken.

    Args:
        stream: opened for writing, by its path.

    Returns:
        False when another process has the file, or has just ended and given its name away.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning("%s cannot be locked (%s): see that no other run uses it", stream.name, error)
    path = Path(stream.name)
    return path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())


def copy_file(source: Path, target: Path, advance: Callable[[int], object] = int) -> None:
    """Copy a file byte for byte, and read the copy again to compare its SHA-256 with the source's.

    Args:
        source: what to copy.
        target: a new file.
        advance: called with the number of bytes of each piece.

    Raises:
        OSError: when they differ.
    """
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            writing.write(chunk)
            advance(len(chunk))
    if sha256_file(target) != digest.hexdigest():
        raise OSError(f"{target} is not what was read from {source}: check the disk, then try again")


def encoding_of(head: bytes) -> str:
    """How a text is encoded: as its byte-order mark says, UTF-16 for zeros between ASCII, else UTF-8.

    Args:
        head: four bytes of its beginning.
    """
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    return {b"\0": "utf-16-be"}.get(head[:1], "utf-16-le" if head[1:2] == b"\0" else "utf-8")


def read_text(path: str | os.PathLike[str]) -> str:
    """A text that a user wrote, without its byte-order mark and with the line ends of Unix.

    Args:
        path: of a file in UTF-8, UTF-16 or UTF-32, see :func:`encoding_of`.

    Raises:
        ValueError: naming the file, when it is in another encoding.
    """
    raw = Path(path).read_bytes()
    encoding = encoding_of(raw[:4])
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"{encoding.upper()} text: {error.reason} at byte {error.start}"
        raise ValueError(f"{path} is not {what}; save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a list that a user wrote, without blanks at their ends, and without empty ones; see `read_text`."""
    return [line for line in map(str.strip, read_text(path).split("\n")) if line]


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """What a YAML file that a user wrote holds; see :func:`read_text`.

    Raises:
        ValueError: naming the file, when it is no YAML, and for a key that is given twice, of which YAML would keep the
            last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[str] = set()
        for item, _ in node.value:
            if (name := str(item.value)) in seen:
                line = item.start_mark.line + 1
                raise ValueError(f"{path} line {line}: the key {name!r} is given twice; keep one")
            seen.add(name)
        found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        return found

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    text = read_text(path)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: naming the file, when it holds anything else.
    """
    try:
        values = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no JSON ({error}): fetch it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, not an object")
    return values


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """A short hash of a file's size and bytes, in hex; of a large file it takes 4,096 evenly spaced pieces.

    It tells one model's weights from another's: training changes nearly all of them. A few changed bytes may escape it.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        step = max(_SAMPLE, size // _SAMPLES)
        for start in range(0, size, step):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


def absolute(name: str) -> str:
    """A name that means the same in every working folder: the absolute path of a local file or folder, others as given.

    Args:
        name: path, or the hub's name of a checkpoint.
    """
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def sync(path: Path) -> None:
    """Write a file's or folder's contents to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
