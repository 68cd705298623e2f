"""Pages in headless Chromium, without a network. A test that needs it is skipped where there is none."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dumped(page: Path, tmp_path: Path, address: str = "") -> str:
    """The page after its scripts ran, as text without them; `address` is what follows the name of the file."""
    if CHROMIUM is None:
        pytest.skip("no chromium to look at the page with")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'chromium'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files",
        "--window-size=1280,2000", "--virtual-time-budget=3000", "--dump-dom", f"{page.as_uri()}{address}",
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
    return re.sub(r"<script.*?</script>", "", dom, flags=re.S)


def measured(page: Path, tmp_path: Path, width: int) -> dict[str, float]:
    """How wide a page wants to be in a window of this width, and its smallest letters, in pixels."""
    frame = tmp_path / "frame.html"
    frame.write_text(f"""<!doctype html><iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:2000px"></iframe>
      <pre id="found"></pre><script>
      addEventListener("load", () => {{
        const inside = document.querySelector("iframe").contentDocument;
        const texts = [...inside.body.querySelectorAll("*")].filter((e) => e.offsetParent && [...e.childNodes].some(
          (child) => child.nodeType === 3 && child.textContent.trim()));
        document.getElementById("found").textContent = JSON.stringify({{
          wanted: inside.documentElement.scrollWidth,
          letters: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize)))}});
      }});</script>""")
    found = re.search(r'<pre id="found">(.*?)</pre>', dumped(frame, tmp_path))
    assert found, "the page could not be measured"
    return json.loads(found[1])
