"""Pages of the documentation that are made from files elsewhere: derivations with their live numbers, notebooks, API.

`generate` fills the folders `derivations`, `notebooks`, `api` and `project` of `docs/` (git-ignored) before Sphinx looks for
pages. What it did not write is removed from them. Links are written for the repository, as a reader of the sources sees it;
`relink` turns them into links between pages. A link to a file that is no page becomes a download.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_origin

__all__ = [
    "ROOT",
    "WHERE",
    "Statement",
    "api_pages",
    "appendix",
    "derivation_pages",
    "derivation_stems",
    "escape_rst",
    "execute",
    "generate",
    "ledger_rows",
    "links",
    "location",
    "page_of",
    "publish",
    "relink",
    "resolve",
    "statements",
    "where_page",
]

ROOT = Path(__file__).resolve().parents[2]
PROJECT = {
    "README.md": "docs/project/readme.md",
    "CONTRIBUTING.md": "docs/project/contributing.md",
    "CHANGELOG.md": "docs/project/changelog.md",
    "benchmarks/README.md": "docs/project/benchmarks.md",
    "tests/mutants/README.md": "docs/project/mutants.md",
    "proofs/README.md": "docs/project/proofs.md",
}
WHERE = "docs/what-is-where.md"
FOLDERS = {
    "benchmarks": "docs/project/benchmarks.md",
    "teamtr_jax": "docs/api/index.md",
    "theory/derivations": "docs/derivations/index.md",
    "theory/notebooks": "docs/notebooks/index.md",
}
KINDS = "TPESRU"  # tools, paper, episodic forms, sharper, rates, updates: the order of the derivations

# ------------------------------------------------------------------------------------------------------------- links

CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*~*[ ]*$|(`+)(?!`).+?(?<!`)\2(?!`)|\$\$.+?\$\$|\$[^$\n]+\$", re.M | re.S)
LINK = re.compile(r"\]\(<?(?P<inline>[^()\s<>]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]\n]+\]:\s+(?P<definition>\S+)", re.M)


def _matches(text: str) -> Iterator[tuple[int, int]]:
    hidden = [match.span() for match in CODE.finditer(text)]
    for match in LINK.finditer(text):
        if not any(start <= match.start() < end for start, end in hidden):
            yield match.span("inline" if match["inline"] else "definition")


def links(text: str) -> list[str]:
    """Targets of the links and images of a Markdown text; code and formulas are no links."""
    return [text[start:end] for start, end in _matches(text)]


def resolve(target: str, origin: str) -> str | None:
    """The path, from the root of the repository, of a link in the file `origin`; `None` for an address or an anchor."""
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z][a-z0-9+.-]*:", path):
        return None
    return os.path.normpath(PurePosixPath(origin).parent / path)


def location(path: str, root: Path = ROOT) -> str:
    """Where a file or folder of the repository is found in the documentation; the path itself if it is no page."""
    if path in PROJECT:
        return PROJECT[path]
    if path in FOLDERS:
        return FOLDERS[path]
    pure = PurePosixPath(path)
    match pure.parts:
        case ("theory", "derivations", name) if pure.suffix == ".md":
            return f"docs/derivations/{'index.md' if name == 'README.md' else name}"
        case ("theory", "notebooks", _) if pure.suffix == ".py":
            return f"docs/notebooks/{pure.stem}.ipynb"
        case ("teamtr_jax", *_) if pure.suffix == ".py" or (root / path / "__init__.py").exists():
            return f"docs/api/{'.'.join(pure.with_suffix('').parts).removesuffix('.__init__')}.md"
    return path


def relink(text: str, origin: str, page: str, root: Path = ROOT) -> str:
    """`text` of the file `origin`, with the relative links that it needs as the page `page`; broken ones are left alone."""
    parts, last = [], 0
    for start, end in _matches(text):
        target = text[start:end]
        path = resolve(target, origin)
        if path is None or not (path in FOLDERS or (root / path).exists()):
            continue
        found = location(path, root)
        anchor = target.partition("#")[2] if found.endswith(".md") and path.endswith(".md") else ""
        parts += [text[last:start], os.path.relpath(found, PurePosixPath(page).parent), anchor and f"#{anchor}"]
        last = end
    return "".join([*parts, text[last:]])


# ------------------------------------------------------------------------------------------- derivations, live numbers


def ledger_rows(root: Path = ROOT) -> list[dict[str, Any]]:
    """The claims of `docs/verify/ledger.json`."""
    return json.loads((root / "docs/verify/ledger.json").read_text())["claims"]


def derivation_stems(root: Path = ROOT) -> list[str]:
    """Names of the derivation pages, `notation` and `statements` first, then T0, T1, …, P3.1, …, S0, …; other names last."""
    found = [path.stem for path in (root / "theory/derivations").glob("*.md") if path.stem not in ("README", "index")]

    def key(stem: str):
        kind = KINDS.find(stem[0].upper()) if re.match(r"[a-z]+_?\d", stem) else -1
        if kind < 0 and stem not in ("notation", "statements"):
            kind = len(KINDS)
        return kind, [int(number) for number in re.findall(r"\d+", stem)], stem

    return sorted(found, key=key)


def page_of(row: dict[str, Any], stems: list[str]) -> str | None:
    """The derivation page of a claim: its `page`, or the page named like its id, or like its number.

    `P3.4` is on `p3_4`, `S7c` on `s7c` if there is one, else on `s7`.
    """
    if row.get("page"):
        stem = PurePosixPath(row["page"].partition("#")[0]).stem
        return stem if stem in stems else None
    name = re.match(r"[A-Za-z]+[\d.]*\w*", row["id"])
    full = name.group().lower().replace(".", "_") if name else ""
    number = re.match(r"[a-z]+[\d_]*", full)
    return next((stem for stem in (full, number and number.group()) if stem in stems), None)


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"


def appendix(rows: list[dict[str, Any]], root: Path = ROOT) -> str:
    """The section *Live numbers* of a page: a table of these rows of the ledger, their notes and figures. Empty without rows."""
    if not rows:
        return ""
    heads = ("id", "instances", "violations", "inconclusive", "tightest ratio", "detects", "exponent", "evidence")
    table, notes, figures = [], [], []
    for row in rows:
        exponent = "–" if row.get("exponent") is None else f"{row['exponent']:.2f}"
        if row.get("interval"):
            exponent += " [{:.2f}, {:.2f}]".format(*row["interval"])
        table.append((
            row["id"], f"{row['instances']:,}", str(row["violations"]), str(row["inconclusive"]), _number(row.get("tightest")),
            _number(row.get("detects")), exponent, row["evidence"],
        ))  # fmt: skip
        if row.get("note"):
            notes.append(f"* **{row['id']}**: {row['note']}")
        figure = PurePosixPath(row.get("figure") or "").name
        if figure and figure not in figures and (root / "docs/verify" / figure).is_file():
            figures.append(figure)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (heads, *table)]
    lines.insert(1, "|" + "---|" * len(heads))
    explained = (
        "Rows of the [claim ledger](../verify/ledger.md), which `python -m theory` writes. *Tightest ratio*: largest "
        "measured/bound. *Detects*: smallest relative error of a constant that this audit would catch."
    )
    images = [
        f"![{', '.join(row['id'] for row in rows)}: figure of the last audit](../verify/{name})" for name in figures
    ]
    text = ["## Live numbers", explained, "\n".join(lines), "\n".join(notes), *images]
    return "\n\n".join(filter(None, text)) + "\n"


def derivation_pages(root: Path = ROOT) -> dict[str, str]:
    """Every page of `theory/derivations/` with its live numbers, and their index."""
    stems = derivation_stems(root)
    rows = ledger_rows(root)
    pages = {}
    for stem in stems:
        own = [row for row in rows if page_of(row, stems) == stem]
        pages[f"{stem}.md"] = f"{_moved(f'theory/derivations/{stem}.md', root).rstrip()}\n\n{appendix(own, root)}"
    named = next((name for name in ("README", "index") if (root / f"theory/derivations/{name}.md").exists()), None)
    about = "# Derivations\n\nOne page per statement, from the definitions, with the numbers of the last audit.\n"
    text = _moved(f"theory/derivations/{named}.md", root) if named else about
    pages["index.md"] = f"{text.rstrip()}\n\n{_toctree(stems)}"
    return pages


# --------------------------------------------------------------------------------------------------------- statements


class Statement(NamedTuple):
    """A statement of `theory/derivations/statements.md`, with what the rest of the repository says of its id."""

    id: str
    words: str  #: those of the claim's record, of the ledger, or the heading
    title: str  #: its heading
    equation: str  #: the claim's record, or the ledger
    code: list[str]
    tests: list[str]  #: `tests/test_….py::test_…`
    figure: str  #: a file in `docs/verify`, or nothing
    page: str | None
    built: bool


HEADING = re.compile(r"^### ([A-Z]+[\d.]*\w*): ([^\n]*)\n(.*?)(?=^##|\Z)", re.M | re.S)


def statements(root: Path = ROOT) -> list[Statement]:
    """The statements in the order of their page."""
    rows, stems, found = ledger_rows(root), derivation_stems(root), []
    for name, title, text in HEADING.findall((root / "theory/derivations/statements.md").read_text()):
        file = f"{name.lower().replace('.', '_')}.py"
        own = [
            f"{folder}/{file}" for folder in ("teamtr_jax/claims", "theory/studies") if (root / folder / file).exists()
        ]
        record = _claim_record(root / own[0]) if own else {}
        measured = [row for row in rows if row["id"] == name or row["id"].startswith(f"{name}.")]
        alone = measured[0] if len(measured) == 1 else {}
        found.append(
            Statement(
                id=name,
                words=record.get("words") or alone.get("words") or f"{title[0].upper()}{title[1:]}.",
                title=f"{name}: {title}",
                equation=record.get("statement") or alone.get("statement", ""),
                code=own + re.findall(r"`((?:teamtr_jax|theory)/[\w/]+\.py)`", text),
                tests=re.findall(r"`(tests/\w+\.py::\w+)`", text),
                figure=next((PurePosixPath(row["figure"]).name for row in measured if row.get("figure")), ""),
                page=page_of(measured[0] if measured else {"id": name}, stems),
                built="**Not built yet.**" not in text,
            )
        )
    return found


def _claim_record(path: Path) -> dict[str, Any]:
    for node in ast.parse(path.read_text()).body:
        if "CLAIM" in _targets(node) and isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            return {x.arg: x.value.value for x in node.value.keywords if x.arg and isinstance(x.value, ast.Constant)}
    return {}


def where_page(root: Path = ROOT) -> str:
    """`docs/what-is-where.md`: a line for each statement that is built, meaning first and id last."""

    def link(path: str) -> str:
        file, _, test = path.partition("::")
        return f"[{test or PurePosixPath(file).name}](../{file})"

    def anchor(title: str) -> str:
        return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

    listed = "../theory/derivations/statements.md"
    lines = ["| in words | equation | code | test | figure | id |", "|---|---|---|---|---|---|"]
    for x in statements(root):
        if x.built:
            cells = [
                x.words,
                f"`{x.equation}`" if x.equation else f"[in full]({listed}#{anchor(x.title)})",
                "<br>".join(map(link, x.code)),
                "<br>".join(map(link, x.tests)),
                f"[{PurePosixPath(x.figure).stem}](verify/{x.figure})" if x.figure else "",
                f"[{x.id}](../theory/derivations/{x.page}.md)",
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    about = (
        "# What is where\n\nEvery statement that the project checks: what it says, the line that is tested, "
        "the code that checks it, a test that would\nnotice a wrong constant, the figure that shows it (none is drawn for some). "
        "The id leads to the proof. In full:\n"
        "[statements](../theory/derivations/statements.md). Code that belongs to no statement: [map of the code](code.md). "
        "Machine-checked\nproofs are not in this repository yet. This page is made by `python docs/_ext/live.py` from "
        "the records of the claims, the\nstatements and the ledger."
    )
    return about + "\n\n" + "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------- notebooks, API


def notebook_pages(root: Path = ROOT) -> dict[str, str]:
    """Every `theory/notebooks/*.py` as a notebook without outputs, and their index."""
    import jupytext

    pages = {}
    for path in sorted((root / "theory/notebooks").glob("*.py")):
        notebook = jupytext.read(path)
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # else random, and every build would execute every notebook again
            if cell["cell_type"] == "markdown":
                name = f"theory/notebooks/{path.name}"
                cell["source"] = relink(cell["source"], name, location(name, root), root)
        notebook.metadata.setdefault(
            "kernelspec", {"display_name": "Python 3", "language": "python", "name": "python3"}
        )
        pages[f"{path.stem}.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    about = (
        "# Notebooks\n\nExecuted when these pages are built. `make notebooks` writes them as `.ipynb`, to be changed.\n"
    )
    pages["index.md"] = f"{about}\n{_toctree([Path(name).stem for name in pages])}"
    return pages


def api_pages(root: Path = ROOT) -> dict[str, str]:
    """One page per module of `teamtr_jax`, and their index. A package lists what it exports and documents nothing twice."""
    pages, table = {}, ["| module | |", "|---|---|"]
    for path in sorted((root / "teamtr_jax").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        pages[f"{name}.md"] = _module_page(name, tree, package=path.name == "__init__.py")
        summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        table.append(f"| [{name}]({name}.md) | {summary} |")
    about = (
        "# API\n\nFrom the docstrings. Shapes are those of `jaxtyping`: `S` states, `A` actions, `n` agents, `T` steps."
    )
    contents = _toctree([name.removesuffix(".md") for name in pages], hidden=True)
    pages["index.md"] = "\n\n".join([about, "\n".join(table), contents])
    return pages


def _module_page(name: str, tree: ast.Module, package: bool) -> str:
    assigned = {
        x: node.value for node in tree.body for x in _targets(node) if isinstance(node, ast.Assign | ast.AnnAssign)
    }
    public = list(ast.literal_eval(value)) if (value := assigned.get("__all__")) else []
    data = [x for x in public if x in assigned]
    origin = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)  # some are imported for type checkers alone
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    directives = [f".. automodule:: {name}"]
    if not package:
        directives.append("   :members:" + (f"\n   :exclude-members: {', '.join(data)}" if data else ""))
    for x in data:
        value = assigned[x]
        shown = isinstance(value, ast.Constant | ast.Subscript) and len(ast.unparse(value)) <= LONGEST
        directives.append(f"\n.. autodata:: {name}.{x}" + ("" if shown else "\n   :no-value:"))
    text = [f"# {name}"]
    if isinstance(claim := assigned.get("CLAIM"), ast.Call):
        fields = {x.arg: x.value.value for x in claim.keywords if isinstance(x.value, ast.Constant)}
        text += [
            f"* {key}: `` {fields[key]} ``" for key in ("id", "words", "statement", "source", "tight") if key in fields
        ]
    text.append("```{eval-rst}\n" + "\n".join(directives) + "\n```")
    if package and (again := [x for x in public if x in origin]):
        text += ["Exports:", "\n".join(f"* {{py:obj}}`{x} <{origin[x]}.{x}>`" for x in again)]
    return "\n\n".join(text) + "\n"


def _targets(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


LITERAL = re.compile(r"(\w?)(`+)(?!`)(.+?)(?<!`)\2(?!`)(\w?)", re.S)
LONGEST = 300  #: letters of a value that an API page shows
ROLE = re.compile(r":[a-z:]+:$")


def escape_rst(lines: list[str]) -> list[str]:
    """A docstring in the house's plain Markdown as reStructuredText: code is literal, everything else is text."""
    out: list[str] = []
    prose: list[str] = []

    def flush() -> None:
        text, last = "\n".join(prose), 0
        parts = []
        for match in LITERAL.finditer(text):
            if ROLE.search(text[last : match.start(2)]):
                continue
            parts += [_plain(text[last : match.end(1)]), "\\ " if match[1] else ""]
            parts += [f"``{match[3]}``", "\\ " if match[4] else ""]
            last = match.start(4)
        out.extend("".join([*parts, _plain(text[last:])]).split("\n") if prose else [])
        prose.clear()

    example = False
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example:
            flush()
            out.append(line)
        else:
            prose.append(line)
    flush()
    return out


def _plain(text: str) -> str:
    text = re.sub(r"(?<=\S)([*|])|([*|])(?=\S)", r"\\\1\2", text)
    return re.sub(r"_(?!\w)", r"\\_", text)


# ---------------------------------------------------------------------------------------------------------- writing


def _toctree(names: list[str], hidden: bool = False) -> str:
    options = ":hidden:\n" if hidden else ":maxdepth: 1\n"
    return "```{toctree}\n" + options + "\n" + "\n".join(names) + "\n```\n"


def _moved(path: str, root: Path) -> str:
    return relink((root / path).read_text(), path, location(path, root), root)


def publish(folder: Path, pages: dict[str, str]) -> None:
    """Make `folder` hold these files and nothing else; a file that would not change keeps its time stamp."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def generate(root: Path = ROOT) -> None:
    """Write all generated pages below `docs/`."""
    docs = root / "docs"
    publish(docs / "derivations", derivation_pages(root))
    publish(docs / "notebooks", notebook_pages(root))
    publish(docs / "api", api_pages(root))
    publish(docs / "project", {PurePosixPath(page).name: _moved(path, root) for path, page in PROJECT.items()})


def execute(folder: Path, executed: Path, timeout: int) -> None:
    """Execute all notebooks of `folder`, as many at once as there are cores, into the cache from which myst-nb takes them.

    One that fails is not in the cache: myst-nb executes it again, and says why it fails.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.executors import load_executor

    shutil.rmtree(executed, ignore_errors=True)
    cache = get_cache(executed)
    for path in sorted(folder.glob("*.ipynb"), key=lambda path: path.stat().st_size, reverse=True):
        cache.add_nb_to_project(str(path))
    load_executor("local-parallel", cache).run_and_cache(timeout=timeout)


def _builder_inited(app: Any) -> None:
    generate()
    if app.config.execute == "force":
        config = app.config
        execute(ROOT / "docs/notebooks", Path(config.nb_execution_cache_path), config.nb_execution_timeout)


def _source_read(app: Any, docname: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md":
        page = path.relative_to(ROOT).as_posix()
        source[0] = relink(source[0], page, page)


def _process_docstring(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    del app, name, options
    types = (type(obj), get_origin(obj)) if what == "data" else ()
    first = (lines[0].strip() if lines else "") or "\n"
    borrowed = first.startswith("Alias for field number") or any(
        (inspect.getdoc(x) or "").startswith(first) for x in types if x is not None
    )
    lines[:] = [] if borrowed else escape_rst(lines)


def _short_types(app: Any, doctree: Any) -> None:
    del app
    for text in doctree.findall(lambda node: node.astext() == "jaxlib._jax.Array" and not node.children):
        text.parent.replace(text, type(text)("Array"))


def _tagged_formulas(app: Any, doctree: Any) -> None:
    """Sphinx puts formulas of several lines into `split`, where MathJax takes no tag."""
    del app
    for node in doctree.findall(lambda node: node.tagname == "math_block" and not node["nowrap"]):
        text = node.astext().strip()
        if "\\tag" in text and "\\\\" in text:
            node[:] = [type(node[0])("\\begin{equation*}\n" + text + "\n\\end{equation*}")]
            node["nowrap"] = True


def _without_sidebar(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """No list of all pages beside those of a folder: Furo lays it out for each page anew, four fifths of the time of writing."""
    del app, template, doctree
    if "/" in page:
        context["toctree"] = lambda **_: ""


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_config_value("execute", "force", "env")
    app.connect("builder-inited", _builder_inited)
    app.connect("source-read", _source_read)
    app.connect("autodoc-process-docstring", _process_docstring, priority=100)  # before napoleon
    app.connect("doctree-read", _short_types)
    app.connect("doctree-read", _tagged_formulas)
    if app.tags.has("quick"):
        app.connect("html-page-context", _without_sidebar, priority=400)  # before Furo
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    (ROOT / WHERE).write_text(where_page())
