"""Pages in headless Chromium, without a network. A test that needs it is skipped where there is none."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _dumped(address: str, folder: Path, budget: int) -> str:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={folder / 'chromium'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files",
        "--window-size=1280,2000", f"--virtual-time-budget={budget}", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout, f"Chromium showed nothing: {done.stderr[-500:]}"
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)


def dumped(page: Path, tmp_path: Path, address: str = "") -> str:
    """The page after its scripts ran, as text without them; `address` is what follows the name of the file."""
    return _dumped(f"{page.as_uri()}{address}", tmp_path, 3_000)


def written(text: str, folder: Path, budget: int = 3_000) -> Any:
    """What the scripts of a page write into its `<pre id="found">`, as JSON.

    Args:
      text: the page; it may open other files in frames.
      budget: milliseconds that pass for the page until it is read.
    """
    page = folder / "look.html"
    page.write_text(text)
    found = re.search(r'<pre id="found">(.+?)</pre>', _dumped(page.as_uri(), folder, budget), re.S)
    assert found, "the scripts of the page wrote nothing"
    return json.loads(html.unescape(found[1]))


def measured(page: Path, tmp_path: Path, width: int) -> dict[str, float]:
    """How wide a page wants to be in a window of this width, and its smallest letters, in pixels."""
    return written(
        f"""<!doctype html><iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:2000px"></iframe>
      <pre id="found"></pre><script>
      addEventListener("load", () => {{
        const inside = document.querySelector("iframe").contentDocument;
        const texts = [...inside.body.querySelectorAll("*")].filter((e) => e.offsetParent && [...e.childNodes].some(
          (child) => child.nodeType === 3 && child.textContent.trim()));
        document.getElementById("found").textContent = JSON.stringify({{
          wanted: inside.documentElement.scrollWidth,
          letters: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize)))}});
      }});</script>""",
        tmp_path,
    )
