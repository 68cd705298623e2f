"""The documentation's sources: pages, links, live numbers. The build itself is `make docs`."""

import ast
import importlib.util
import inspect
import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath

import pytest

from teamtr_jax.claims import STAGE_CLAIMS
from theory.studies.every import STUDIES

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("live", ROOT / "docs/_ext/live.py")
live = importlib.util.module_from_spec(spec)
spec.loader.exec_module(live)

DERIVATIONS = [f"theory/derivations/{stem}.md" for stem in live.derivation_stems()]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (
        "",
        "docs/",
        "docs/verify/",
        "docs/reproduction/",
        "benchmarks/",
        "tests/mutants/",
        "theory/derivations/",
    )
    for path in ROOT.glob(f"{folder}*.md")
)
IDS = sorted(
    {row["id"] for row in live.ledger_rows()}
    | {claim.id for claim in STAGE_CLAIMS}
    | {name for study in STUDIES for name, words in study.says.items() if words}
)


@pytest.fixture(scope="module")
def pages():
    """``{path in the repository: text}`` of every page, as Sphinx gets it."""
    found = {name: live.relink((ROOT / name).read_text(), name, name) for name in SOURCES if name.startswith("docs/")}
    for folder, made in (
        ("derivations", live.derivation_pages()),
        ("notebooks", live.notebook_pages()),
        ("api", live.api_pages()),
    ):
        found |= {f"docs/{folder}/{name}": text for name, text in made.items()}
    for source, page in live.PROJECT.items():
        found[page] = live.relink((ROOT / source).read_text(), source, page)
    return found


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST form them."""
    headings = re.findall(r"^#+ +(.*?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("claim", IDS)
def test_every_claim_has_a_page(claim):
    rows = [row for row in live.ledger_rows() if row["id"] == claim or row["id"].startswith(f"{claim}.")] or [
        {"id": claim}
    ]
    stem = live.page_of(rows[0], live.derivation_stems())
    assert stem is not None, f"{claim} has no page in theory/derivations/"


STATEMENTS = {x.id: x for x in live.statements()}
BUILT = [x for x in STATEMENTS.values() if x.built]


@pytest.mark.parametrize("claim", IDS)
def test_every_claim_is_a_statement(claim):
    """R6.1 to R6.6 are rows of one statement."""
    found = STATEMENTS.get(claim) or STATEMENTS.get(claim.partition(".")[0])
    assert found is not None, f"{claim} is not in theory/derivations/statements.md"
    assert found.built


@pytest.mark.parametrize("statement", BUILT, ids=lambda x: x.id)
def test_a_statement_has_code_page_and_a_test_that_names_it(statement):
    assert statement.code, f"{statement.id}: no file of its name, and none is named"
    assert statement.page is not None
    assert statement.tests, f"{statement.id} names no test"
    for path in statement.code:
        assert (ROOT / path).is_file(), path
    for test in statement.tests:
        path, _, name = test.partition("::")
        source = (ROOT / path).read_text()
        node = next((x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.FunctionDef) and x.name == name), None)
        assert node is not None, f"{statement.id}: there is no {test}"
        said = re.search(rf"(?<![\w.]){re.escape(statement.id)}(?![\w.]*\w)", ast.get_docstring(node) or "")
        assert said, f"{test} does not say {statement.id}"


def test_every_statement_is_built():
    assert [x.id for x in STATEMENTS.values() if not x.built] == []


def test_what_is_where_is_up_to_date():
    assert (ROOT / live.WHERE).read_text() == live.where_page(), "run: python docs/_ext/live.py"


def test_a_row_of_what_is_where_leads_to_everything_but_a_figure():
    rows = [re.split(r"(?<!\\)\|", x)[1:-1] for x in live.where_page().splitlines() if x.startswith("| ")][1:]
    assert len(rows) == len(BUILT)
    for words, equation, code, test, _, name in rows:
        assert all(cell.strip() for cell in (words, equation, code, test, name)), name


def test_no_file_cites_what_a_reader_cannot_open():
    """The statements are in the repository: nothing points at a specification elsewhere."""
    told = {"tests/test_docs.py"}
    for folder in ("teamtr_jax", "theory", "tests", "experiments", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in {".py", ".md"} and name not in told:
                assert not re.search(r"(?<![\w-])theory\.md", path.read_text()), name


def test_page_of_an_id():
    stems = ["notation", "p3_1", "p3_4", "s4", "s4r", "s7", "r1"]
    ids = {
        "P3.4": "p3_4",
        "P3.1": "p3_1",
        "P3.10": None,
        "S4": "s4",
        "S4R": "s4r",
        "S7": "s7",
        "S7b": "s7",
        "S70": None,
    }
    assert {name: live.page_of({"id": name}, stems) for name in ids} == ids
    assert live.page_of({"id": "R3", "page": "theory/derivations/r1.md#regimes"}, stems) == "r1"
    assert live.page_of({"id": "S7", "page": "missing.md"}, stems) is None


def test_every_page_is_reached_from_the_landing_page(pages):
    seen, left = set(), ["docs/index.md"]
    while left:
        page = left.pop()
        seen.add(page)
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", pages[page], re.M | re.S):
            for entry in re.findall(r"^[^:\s].*$", block, re.M):
                base = (PurePosixPath(page).parent / entry).as_posix()
                found = [name for name in (f"{base}.md", f"{base}.ipynb") if name in pages]
                assert found, f"{page}: no page {entry}"
                left += [name for name in found if name not in seen]
    assert seen == set(pages)
    assert {live.location(path) for path in DERIVATIONS} <= seen


@pytest.mark.parametrize("source", SOURCES)
def test_links_of_the_sources(source):
    """Every relative link leads to a file or a folder, every anchor to a heading."""
    for target in live.links((ROOT / source).read_text()):
        path = live.resolve(target, source) or (source if target.startswith("#") else None)
        if path is not None:
            assert (ROOT / path).exists(), f"{source}: {target}"
            anchor = target.partition("#")[2]
            assert not anchor or path.endswith(".py") or anchor in anchors((ROOT / path).read_text()), (
                f"{source}: {target}"
            )


def test_links_of_the_pages(pages):
    """After relinking, a link between documents names a page, not the file it was made from."""
    made_from = set(live.PROJECT) | set(DERIVATIONS)
    for page, text in pages.items():
        for target in live.links(text) if page.endswith(".md") else []:
            path = live.resolve(target, page)
            assert path is None or path in pages or (ROOT / path).is_file(), f"{page}: {target}"
            assert path is None or path in pages or not path.endswith(".md"), (
                f"{page}: {target} is no page: Sphinx refuses it"
            )
            assert path not in made_from, f"{page}: {target}"


def test_relink():
    text = (
        "[a](../../README.md#what-is-where) [b](s0.md) `[c](../../README.md)` $E[X](s)$ "
        "[d](../../teamtr_jax/claims/s7.py) [e](https://x.org)"
    )
    assert live.links(text) == [
        "../../README.md#what-is-where",
        "s0.md",
        "../../teamtr_jax/claims/s7.py",
        "https://x.org",
    ]
    moved = live.relink(text, "theory/derivations/s7.md", "docs/derivations/s7.md")
    assert "[a](../project/readme.md#what-is-where)" in moved
    assert "`[c](../../README.md)`" in moved
    assert "[d](../api/teamtr_jax.claims.s7.md)" in moved
    assert live.relink(moved, "docs/derivations/s7.md", "docs/derivations/s7.md") == moved
    assert live.relink("[x](../LICENSE)", "docs/index.md", "docs/api/index.md") == "[x](../../LICENSE)"


def test_live_numbers(tmp_path):
    """A page gets the rows of its ids and their figure; a page without rows gets nothing."""
    (tmp_path / "theory/derivations").mkdir(parents=True)
    (tmp_path / "docs/verify").mkdir(parents=True)
    shutil.copy(ROOT / "docs/verify/scaling.png", tmp_path / "docs/verify")
    ledger = json.loads((ROOT / "docs/verify/ledger.json").read_text())
    row = next(row for row in ledger["claims"] if row["id"] == "S7")
    second = row | {
        "id": "S7c",
        "instances": 1234567,
        "tightest": 0.98765,
        "figure": "scaling.png",
        "interval": [1.5, 2.25],
    }
    third = row | {
        "id": "R9",
        "page": "t0",
        "figure": "not_drawn.png",
        "exponent": 2.0,
        "interval": None,
        "tightest": None,
        "evidence": "a|b",
    }
    (tmp_path / "docs/verify/ledger.json").write_text(
        json.dumps({"claims": [row, second | {"exponent": 1.875}, third]})
    )
    for stem in ("s7", "t0", "s10", "s3", "rates", "notation"):
        (tmp_path / f"theory/derivations/{stem}.md").write_text(f"# {stem.upper()}\n\nText.\n")
    pages = live.derivation_pages(tmp_path)
    assert pages["s3.md"] == "# S3\n\nText.\n\n"
    assert f"| S7 | {row['instances']:,} | {row['violations']} | {row['inconclusive']} |" in pages["s7.md"]
    assert "| S7c | 1,234,567 | 0 | 0 | 0.988 |" in pages["s7.md"]
    assert "| 1.88 [1.50, 2.25] |" in pages["s7.md"]
    assert "](../verify/scaling.png)" in pages["s7.md"]
    assert "| R9 |" in pages["t0.md"]
    assert "| – | " in pages["t0.md"]
    assert "| 2.00 | a\\|b |" in pages["t0.md"]
    assert ".png" not in pages["t0.md"]
    assert re.findall(r"^\w+$", pages["index.md"], re.M) == ["notation", "t0", "s3", "s7", "s10", "rates"]


def test_live_numbers_of_the_repository():
    """Each row of the ledger is on exactly the page that is its own."""
    stems, pages = live.derivation_stems(), live.derivation_pages()
    for row in live.ledger_rows():
        line = f"| {row['id']} | {row['instances']:,} | {row['violations']} | "
        holding = [stem for stem in stems if line in pages[f"{stem}.md"].partition("## Live numbers")[2]]
        page = live.page_of(row, stems)
        assert holding == ([page] if page else []), row["id"]


def test_publish_is_clean(tmp_path):
    live.publish(tmp_path / "x", {"a.md": "1", "b.md": "2"})
    os.utime(tmp_path / "x/a.md", (0, 0))
    live.publish(tmp_path / "x", {"a.md": "1", "c.md": "3"})
    assert {path.name: path.read_text() for path in (tmp_path / "x").iterdir()} == {"a.md": "1", "c.md": "3"}
    assert (tmp_path / "x/a.md").stat().st_mtime == 0


def test_a_page_per_module():
    made = set(live.api_pages())
    for path in (ROOT / "teamtr_jax").rglob("*.py"):
        assert PurePosixPath(live.location(path.relative_to(ROOT).as_posix())).name in made, path


def test_docstrings_as_restructuredtext():
    lines = [
        "`γ`s of |gap_i| ≤ 2*x, `a|b_`; ``S`` and x_: see :func:`f`.",
        "* a point",
        "",
        ">>> f(*x) | y_",
        "`z`",
        "",
        "w* `v`",
    ]
    assert live.escape_rst(lines) == [
        "``γ``\\ s of \\|gap_i\\| ≤ 2\\*x, ``a|b_``; ``S`` and x\\_: see :func:`f`.",
        "* a point",
        "",
        ">>> f(*x) | y_",
        "`z`",
        "",
        "w\\* ``v``",
    ]


@pytest.mark.parametrize("page", [*DERIVATIONS, "docs/code.md"])
def test_named_code_exists(page):
    """`path.py: name, name` or `path.py` (`name`, `name`): the file is there, and so are the names."""
    form = r"`((?:teamtr_jax|theory|tests|benchmarks|experiments)/[\w/.]+\.py)(?:::?\s*([\w., ]+))?`(?:\s\(([^()]*)\))?"
    named = re.findall(form, (ROOT / page).read_text())
    for path, after_colon, in_brackets in named:
        assert (ROOT / path).is_file(), f"{page}: {path}"
        text = (ROOT / path).read_text()
        for name in [*re.findall(r"\w+", after_colon), *re.findall(r"`(\w+)`", in_brackets)]:
            assert re.search(rf"\b{name}\b", text), f"{page}: {path}: {name}"
    assert named or "## In the code" not in (ROOT / page).read_text(), f"{page}: names no file"


@pytest.mark.parametrize("value", [dict[str, int], tuple[int, str], 3, {"a": 1}])
def test_the_documentation_of_a_builtin_is_no_docstring(value):
    """What Sphinx finds for data without a docstring of its own is that of its type, or of the type it is an alias of."""
    lines = (inspect.getdoc(value) or "").split("\n")
    assert lines[0]
    live._process_docstring(None, "data", "name", value, None, lines)
    assert lines == []
