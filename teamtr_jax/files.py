"""Files and places: what is read is a regular file, what is written was tried before the work and is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from teamtr_jax.validation import InputError

__all__ = ["is_folder", "regular_file", "output_file", "output_folder", "replacing", "making_folder", "append_bytes", "seal",
           "unseal", "read_json", "reason"]  # fmt: skip

WRITABLE = "a place that can be written"

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def reason(error: BaseException) -> str:
    """Why it failed, on one line."""
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    except Exception:  # an exception of somebody else's code that cannot be written down
        text = ""
    return text or type(error).__name__


def _kind(path: Path) -> str | None:
    """What is there that is no regular file; `None` where a regular file or nothing is."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    return next((text for test, text in KINDS if test(mode)), None)


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there, links followed; what cannot be looked at is none.

    Example:
      >>> is_folder("/"), is_folder("/nothing here")
      (True, False)
    """
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def regular_file(path: str | Path, expected: str) -> Path:
    """The path of a regular file that can be read, links followed; nothing is waited for.

    Args:
      expected: what should be there, for the message.

    Raises:
      InputError: nothing there, a folder, a pipe, a device, or no right to read.
    """
    path = Path(path)
    try:
        kind = "no such file" if not path.exists() else _kind(path)
        if kind is None:
            with path.open("rb"):
                return path
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        kind = reason(error)
    raise InputError(str(path), kind, expected)


def _try(folder: Path, name: str) -> None:
    probe = folder / f".teamtr.{secrets.token_hex(8)}.tmp"
    try:
        with probe.open("xb") as file:
            file.write(b"\n")
    except OSError as error:
        raise InputError(name, f"{folder}: {reason(error)}", WRITABLE) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def output_file(name: str, path: str | Path) -> Path:
    """Where a file will be written, links followed, after it was seen that it can be; nothing is left there.

    Args:
      name: of the option or argument, for the message.

    Raises:
      InputError: a folder, a device or a pipe, a folder that does not exist, or no right or room to write.
    """
    try:
        real = Path(os.path.realpath(path))
        kind = _kind(real)
        if kind is None and real.exists() and not os.access(real, os.W_OK):
            kind = "a file that may not be written"
    except (OSError, ValueError) as error:
        raise InputError(name, f"{path}: {reason(error)}", WRITABLE) from error
    if kind is not None:
        raise InputError(name, f"{path}, {kind}", "a file")
    if not real.parent.is_dir():
        raise InputError(name, f"no folder {real.parent}", "a file in an existing folder")
    _try(real.parent, name)
    return real


def output_folder(name: str, path: str | Path) -> Path:
    """Where a folder is or will be made, after it was seen that something can be written there; nothing is left there.

    Raises:
      InputError: a file, a device or a pipe in its place, or no right or room to write.
    """
    try:
        real = Path(os.path.realpath(path))
        there = next(parent for parent in (real, *real.parents) if parent.exists())
        is_folder = there.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(name, f"{path}: {reason(error)}", "a folder that can be written") from error
    if not is_folder:
        raise InputError(name, f"{there}, {_kind(there) or 'a file'}", "a folder")
    _try(there, name)
    return real


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` (links followed) that takes its place where nothing went wrong, and is gone otherwise.

    What was there before stays whole until then, and keeps its access rights.

    Args:
      durable: wait until the disk has it: where the machine stops, the file has its old content or its new one, whole.

    Raises:
      InputError: the place cannot be written, or its disk is full.
    """
    real = Path(os.path.realpath(path))
    temporary = real.with_name(f".{real.name[:64]}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        if real.exists():
            temporary.chmod(stat.S_IMODE(real.stat().st_mode))
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(real)
    except OSError as error:
        raise InputError(str(path), reason(error), WRITABLE) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def making_folder(name: str, path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` (links followed) that takes its place where nothing went wrong, and is gone otherwise.

    Args:
      name: of the option or argument, for the message.

    Raises:
      InputError: something is there already, an empty folder apart; the place cannot be written, or its disk is full.
    """
    real = output_folder(name, path)
    temporary = real.with_name(f".{real.name[:64]}.{secrets.token_hex(8)}.tmp")
    try:
        if real.exists() and any(real.iterdir()):
            raise InputError(name, f"{real}, which is not empty", "a folder that is new or empty")
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(real)
    except OSError as error:
        raise InputError(name, f"{real}: {reason(error)}", WRITABLE) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append_bytes(path: str | Path, data: bytes) -> None:
    """Add `data` to the end of a file; where that fails, the file is cut back to what it was.

    Raises:
      InputError: the place cannot be written, or its disk is full.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(before)
                raise
    except OSError as error:
        raise InputError(str(path), reason(error), WRITABLE) from error


# ------------------------------------------------------------------------------------------------------------------ JSON


def seal(text: str) -> bytes:
    """A JSON object as bytes, with one more key at its end: the SHA-256 of all bytes before that key.

    Example:
      >>> unseal(seal('{"step": 1}'))["step"]
      1
      >>> unseal(seal('{"step": 1}').replace(b"1", b"2", 1)) is None
      True
    """
    body = text.rstrip()[:-1].rstrip().encode()
    return body + _last_key(body)


def _last_key(body: bytes) -> bytes:
    return b', "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def unseal(data: bytes) -> dict[str, Any] | None:
    """What `seal` sealed, its digest included; `None` where a byte is another one."""
    body = data[: -len(_last_key(b""))]
    return json.loads(data) if data == body + _last_key(body) else None


def read_json(path: str | Path, expected: str, sealed: bool = False) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
      expected: what should be there, for the message.
      sealed: refuse a file that was not written by `seal`, or changed since.

    Raises:
      InputError: no such file, no regular one, no JSON object, or a damaged one.
    """
    path = regular_file(path, expected)
    try:
        data = path.read_bytes()
        found = unseal(data) if sealed else json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(str(path), f"a damaged file ({reason(error)})", expected) from error
    if not isinstance(found, Mapping):
        raise InputError(
            str(path), "a damaged file (its SHA-256 is another one)" if sealed else "no JSON object", expected
        )
    return dict(found)
