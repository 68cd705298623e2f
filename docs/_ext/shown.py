"""Outputs that stand in the documentation are those of the code above them. `python docs/_ext/shown.py` writes them again.

On a page of `PAGES` every block of Python runs, in one program and in the order of the page; a shell block runs if a block `text`
follows it. What a block prints is the block `text` behind it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["PAGES", "ROOT", "outputs"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/quickstart.md", "docs/check-my-team.md", "docs/watch-my-trainer.md", "docs/token-log.md")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
MARK = "-- end of the output of a block --"


def _run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    searched = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    wide = {"PATH": path, "PYTHONPATH": searched, "COLUMNS": "100", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=os.environ | wide, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:2000]}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def outputs(text: str) -> str:
    """The page with what its blocks print now.

    Raises:
      RuntimeError: if one ends with another exit code than 0.
    """
    blocks = list(BLOCK.finditer(text))
    code = "".join(f"{block[2]}\nprint({MARK!r})\n" for block in blocks if block[1] == "python")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "page.py").write_text(code)
        printed = iter(_run([sys.executable, "page.py"], folder).split(f"{MARK}\n"))
        parts, last = [], 0
        for block in blocks:
            out = next(printed) if block[1] == "python" else None
            if block[3] is not None:
                if out is None:
                    out = _run(["bash", "-eo", "pipefail", "-c", block[2]], folder)
                tidy = "".join(f"{line.rstrip()}\n" for line in out.splitlines())
                parts += [text[last : block.start(3)], tidy]
                last = block.end(3)
    return "".join([*parts, text[last:]])


if __name__ == "__main__":
    for page in sys.argv[1:] or PAGES:
        (ROOT / page).write_text(outputs((ROOT / page).read_text()))
