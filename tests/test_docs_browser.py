"""The built pages as a reader sees them: headless Chromium, no network, on a phone and on a desk. `make docs` builds them."""

import json
from pathlib import Path

import pytest
from chromium import written

BUILT = Path(__file__).parents[1] / "build/docs"
WIDTHS = {"phone": 390, "desk": 1280}

# Opens each page in a frame of each width, waits for its formulas, and writes down what is seen.
LOOK = r"""<!doctype html><meta charset="utf-8"><iframe style="border:0;height:800px"></iframe><pre id="found"></pre>
<script>
const frame = document.querySelector("iframe"), seen = {};
const pause = () => new Promise(then => setTimeout(then, 25));
async function look(page) {
  await new Promise(then => { frame.onload = then; frame.src = page; });
  const view = frame.contentWindow, body = view.document.documentElement;
  const formulas = body.querySelectorAll(".math");
  if (formulas.length) {
    for (let i = 0; i < 400 && !view.MathJax?.startup?.promise; i++) await pause();
    await view.MathJax?.startup?.promise;
  }
  const wide = {};
  for (const [name, width] of Object.entries(WIDTHS)) {
    frame.style.width = width + "px";
    await pause();
    const boxes = [body, ...body.querySelectorAll(".main, .content")];
    wide[name] = Math.max(...boxes.map(box => box.scrollWidth - box.clientWidth));
  }
  const text = view.document.body.cloneNode(true);
  text.querySelectorAll("pre, code, script, style, mjx-container").forEach(part => part.remove());
  return {
    formulas: formulas.length,
    untouched: [...formulas].filter(part => !part.querySelector("mjx-container")).length,
    refused: body.querySelectorAll("[data-mjx-error], [data-mml-node=merror]").length,
    raw: text.textContent.match(/\\(?!n(?![a-zA-Z]))[a-zA-Z]+|\\[()\[\]]|\$[^$\n]*[\\^_{}][^$\n]*\$/g) ?? [],
    wide: wide,
  };
}
(async () => {
  for (const page of PAGES) try { seen[page] = await look(page); } catch (error) { seen[page] = {failed: String(error)}; }
  document.getElementById("found").textContent = JSON.stringify(seen);
})();
</script>"""


SOME = {"api": 12, "derivations": 3}
"""Of the pages of these folders CI sees every so many; there are hundreds, of three kinds."""


@pytest.fixture(scope="module", params=[SOME, pytest.param({}, marks=pytest.mark.slow)], ids=["some", "all"])
def seen(request, tmp_path_factory):
    """``{page: what Chromium shows of it}`` for every page but the listings of source code, or for some of each folder."""
    if not (BUILT / "index.html").is_file():
        pytest.skip("build/docs is not there: `make docs` builds it")
    by_folder: dict[str, list[str]] = {}
    for path in sorted(BUILT.rglob("*.html")):
        if not {"_modules", "_static"} & set(path.parts):
            by_folder.setdefault(path.parent.name, []).append(path.as_uri())
    pages = [page for folder, them in by_folder.items() for page in them[:: request.param.get(folder, 1)]]
    folder = tmp_path_factory.mktemp("browser")
    looking = LOOK.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
    shown = written(looking, folder, budget=3_600_000)
    assert list(shown) == pages
    return {page.removeprefix(BUILT.as_uri() + "/"): what for page, what in shown.items()}


def test_every_page_opens(seen):
    assert {page: what["failed"] for page, what in seen.items() if "failed" in what} == {}


def test_every_formula_is_typeset(seen):
    """No formula is left as it was written, none is refused, and there is no TeX outside of formulas."""
    wrong = {page: what for page, what in seen.items() if what["untouched"] or what["refused"] or what["raw"]}
    assert wrong == {}
    assert sum(what["formulas"] for what in seen.values()) > (1000 if len(seen) < 200 else 4000)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(seen, width):
    assert {page: what["wide"][width] for page, what in seen.items() if what["wide"][width] > 0} == {}
