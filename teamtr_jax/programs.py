"""Compiled programs, kept for the next process: compiling one takes seconds, reading it back some hundredths of one.

`run(function, *arguments)` is `jax.jit(function)(*arguments)`, but for where the program comes from: made before in this
process, read from the folder that `TEAMTR_CACHE` names (by default the platform's cache folder of the user), or compiled and
written there. Nothing that goes wrong with the folder is an error: the program is compiled.

A file holds the program, its key, and a SHA-256 of both. The key is everything that the program depends on: the function, the
sources of the packages that it is in and of this one, shapes and dtypes, versions, device, processor, flags.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from threading import RLock
from typing import Any

__all__ = ["CACHE", "LIMIT", "folder", "described", "run", "compiled_program"]

CACHE = "TEAMTR_CACHE"
"""Environment variable: ``off``, or the folder in which compiled programs are kept."""

LIMIT = 2**28
"""Bytes that the folder holds at most (256 MiB); what was not used for the longest time goes first."""

MAGIC = b"teamtr program 1\n"
SUFFIX = ".program"

QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""What makes XLA compile in a fifth of the time, for programs that take longer to compile than to run."""

NEWER_LACK = ("xla_cpu_use_fusion_emitters",)
"""Of `QUICK`, what newer versions refuse; jax 0.12 does. The rest halves the time there."""

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_most_optimizations",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_use_shardy_partitioner",
)
"""Settings of jax that change programs."""

_made: dict[str, Callable[..., Any]] = {}
_lock = RLock()


# ------------------------------------------------------------------------------------------------------------------- folder


def folder() -> Path | None:
    """Where compiled programs are kept; `None` if they are not."""
    place = os.environ.get(CACHE, "")
    if place.casefold() == "off":
        return None
    if place:
        return Path(place)
    import platformdirs

    return platformdirs.user_cache_path("teamtr", appauthor=False) / "programs"


def described() -> str:
    """One line for `teamtr --version`: where, how many, how much."""
    place = folder()
    if place is None:
        return f"compiled programs: not kept ({CACHE}=off)"
    if place.exists() and not _private(place):
        return f"compiled programs: not kept, others may write to {place} ({CACHE}=FOLDER names another)"
    sizes = [size for _, size, _ in _files(place)]
    return f"compiled programs: {len(sizes)}, {sum(sizes) / 1e6:.1f} MB, in {place} ({CACHE}=off: none)"


def _files(place: Path) -> list[tuple[float, int, Path]]:
    """Last use, size and path of each program."""
    found = []
    with suppress(OSError):
        for path in place.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    return found


def _private(place: Path) -> bool:
    """Whether only this user can write there: reading a program back runs what it says."""
    about = place.stat()
    if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
        return False
    return stat.S_ISDIR(about.st_mode) and (os.name == "nt" or not about.st_mode & 0o022)


def _trusted() -> Path | None:
    """The folder, made where it was missing; `None` where it cannot be made or is not this user's alone."""
    place = folder()
    if place is None:
        return None
    with suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(place):
            return place
    return None


def _read(place: Path, key: str) -> tuple[bytes, Any] | None:
    """What was written under this key; `None` for nothing, another key's file, or one of which a byte is another."""
    path = place / f"{key}{SUFFIX}"
    with suppress(OSError):
        data = path.read_bytes()
        head, digest, body = data[: len(MAGIC)], data[len(MAGIC) :][:32], data[len(MAGIC) + 32 :]
        if head == MAGIC and hashlib.sha256(body).digest() == digest and body[: len(key)] == key.encode():
            os.utime(path)
            return pickle.loads(body[len(key) :])  # noqa: S301 a file of this user's alone, with its own digest
    return None


def _write(place: Path, key: str, payload: tuple[bytes, Any]) -> None:
    """Whole or not at all; then the folder is brought below its limit."""
    body = key.encode() + pickle.dumps(payload)
    temporary = place / f".{key[:16]}.{secrets.token_hex(8)}.tmp"
    try:
        temporary.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
        temporary.replace(place / f"{key}{SUFFIX}")
    finally:
        temporary.unlink(missing_ok=True)
    files = sorted(_files(place))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size


# ---------------------------------------------------------------------------------------------------------------------- key


@cache
def _sources(package: str) -> str:
    """A digest of all Python files of a package, or of the one file of a module."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is None:
        raise LookupError(package)
    path = Path(file)
    digest = hashlib.sha256()
    for source in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
        digest.update(f"{source.relative_to(path.parent)}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _processor() -> str:
    """Model and instructions of the processor: a program of another one may not run here."""
    about = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        seen = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        about += [value for name, value in sorted(seen.items()) if name.strip() in PROCESSOR]
    return " ".join(about)


PROCESSOR = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")


def _key(function: Callable[..., Any], static: tuple[Any, ...], quick: bool, leaves: list[Any], tree: Any) -> str:
    """A digest of everything that the program depends on."""
    import jax
    from jaxlib.version import __version__ as jaxlib

    device = jax.devices()[0]
    packages = sorted({"teamtr_jax", function.__module__.partition(".")[0]})
    flags = {k: v for k, v in sorted(os.environ.items()) if k.startswith(("XLA_", "JAX_")) and "CACHE" not in k}
    parts = [
        function.__module__, function.__qualname__, repr(static), QUICK if quick else {}, str(tree),
        [(leaf.shape, str(leaf.dtype), bool(getattr(leaf, "weak_type", False))) for leaf in leaves],
        [_sources(package) for package in packages], sys.version_info[:2], jax.__version__, jaxlib,
        (device.platform, device.device_kind, device.client.platform_version, jax.device_count()), _processor(), flags,
        [(name, getattr(jax.config, name, None)) for name in SETTINGS],
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _told(text: str) -> bool:
    """Whether a text says all of what it shows: not where a function lies in memory, and no array in part."""
    return "<" not in text and "..." not in text


# ------------------------------------------------------------------------------------------------------------------ program


def run(function: Callable[..., Any], *arguments: Any, static: tuple[Any, ...] = (), quick: bool = False) -> Any:
    """`function(*static, *arguments)`, compiled for arguments of this shape, the program kept for the next process.

    Args:
      function: of a module (not one defined inside another function, which could hold values that no key knows). What it
        returns is a pytree of arrays.
      arguments: pytrees of arrays; shapes and static fields choose the program. It is not kept where a static field holds a
        function or an array, whose text does not say what it is.
      static: plain values (texts, numbers, tuples of them) by which the function makes another program.
      quick: compile with few optimisations (a fifth of the time, other roundings): for small arrays.

    Raises:
      ValueError: a function defined inside another one, or one that is bound to values.

    Example:
      >>> from teamtr_jax.divergences import total_variation
      >>> print(run(total_variation, jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
      0.5
    """
    import jax
    import numpy as np
    from jax.core import Tracer

    module = sys.modules.get(getattr(function, "__module__", ""))
    if getattr(module, getattr(function, "__name__", ""), None) is not function:
        raise ValueError(f"{function!r} may hold values of its own; a program that is kept is a function of a module")
    leaves, tree = jax.tree.flatten(arguments)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return function(*static, *arguments)
    if not _told(f"{static!r} {tree}"):
        return _jitted(function, static)(*arguments)
    leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
    key = _key(function, static, quick, leaves, tree)
    with _lock:
        program = _made.get(key)
        if program is None:
            program = _made[key] = _program(key, function, static, leaves, tree, quick=quick)
    return program(*leaves)


@cache
def _jitted(function: Callable[..., Any], static: tuple[Any, ...]) -> Callable[..., Any]:
    """What no key can name, jax compares as it is: it has the functions and arrays themselves."""
    import jax

    return jax.jit(partial(function, *static))


def _program(
    key: str, function: Callable[..., Any], static: tuple[Any, ...], leaves: list[Any], tree: Any, *, quick: bool
) -> Callable[..., Any]:
    """The compiled program of a key: read, or made and written. It takes the leaves of the arguments."""
    import jax
    from jax.experimental import serialize_executable

    place = _trusted()
    if place is not None:
        with suppress(Exception):  # whatever is in the file: then it is compiled, and the file written again
            if (found := _read(place, key)) is not None:
                payload, out_tree = found
                if b"lapack" in payload:
                    _load_lapack()
                in_tree = jax.tree.structure((tuple(leaves), {}))
                return serialize_executable.deserialize_and_load(payload, in_tree, out_tree)

    def flat(*leaves: Any) -> Any:
        return function(*static, *jax.tree.unflatten(tree, leaves))

    flat.__name__ = function.__name__
    lowered = jax.jit(flat).lower(*leaves)
    with _compiled_here() if place is not None else nullcontext():
        compiled = compiled_program(lowered, quick)
    if place is not None:
        with suppress(Exception):  # a program that XLA cannot write down (a callback), a full disk
            payload, _, out_tree = serialize_executable.serialize(compiled)
            _write(place, key, (payload, out_tree))
    return compiled


@contextmanager
def _compiled_here() -> Iterator[None]:
    """jax's own cache off: a program that it read back is written down again as one that cannot run (jax 0.10.2, 0.12.0.1)."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    if not config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        yield
        return
    config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


@cache
def _load_lapack() -> None:
    """Make jax look up LAPACK, as it does when it lowers a factorisation: a program that is read back calls it by address."""
    import jax
    import jax.numpy as jnp

    jax.jit(jax.lax.linalg.lu).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))


def compiled_program(lowered: Any, quick: bool) -> Any:
    """The lowered program, compiled; `quick` with those options of `QUICK` that this version of XLA knows."""
    import jax

    if quick and jax.default_backend() == "cpu":
        for unknown in ("", *NEWER_LACK):
            with suppress(Exception):  # which error it is differs by version; a fault of the program is raised below
                return lowered.compile(compiler_options={name: x for name, x in QUICK.items() if name != unknown})
    return lowered.compile()
