"""Which versions of a trainer an adapter is known to work with: it reads names that are private there, and they move."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from teamtr_jax.validation import InputError

__all__ = ["require_version", "installed"]


def installed(package: str) -> str:
    """The version of a package that is installed.

    Raises:
      InputError: if none is.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        raise InputError(package, "no such package", f"an installed {package}: pip install {package}") from None


def require_version(package: str, found: str, known: Sequence[str]) -> None:
    """Refuse a version that is not known, whatever its number: older or newer, none of its private names was looked at.

    A local part (``+cu130``) says how it was built and is left out of the comparison.

    Args:
      package: its name in an index.
      found: the version that is there.
      known: the versions with which the adapter was tested.

    Raises:
      InputError: names the package, the version found, and those that are known.

    Example:
      >>> require_version("trl", "1.16.0", ("1.15.0", "1.16.0"))
      >>> require_version("trl", "2.0.0", ("1.15.0", "1.16.0"))
      Traceback (most recent call last):
        ...
      teamtr_jax.validation.InputError: trl: found version 2.0.0, expected 1.15.0 or 1.16.0: with these the adapter was tested
    """
    if found.partition("+")[0] not in known:
        names = " or ".join(filter(None, (", ".join(known[:-1]), *known[-1:])))
        raise InputError(package, f"version {found}", f"{names}: with these the adapter was tested")
