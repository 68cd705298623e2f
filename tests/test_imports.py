"""Imports go down only in all three trees, the library imports nothing that is built on it, and importing it changes nothing."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import teamtr_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "teamtr_jax"

LEVELS = [
    {
        "types",
        "validation",
        "files",
        "sizes",
        "intervals",
        "command_line",
        "html",
        "formats",
        "path_shift",
        "sharing",
        "programs",
        "hosts",
        "monitor_settings",
        "sampler_settings",
        "latex",
        "lazy_names",
    },
    {"dynamics"},
    {"teams", "divergences"},
    {"visits"},
    {"values"},
    {"ties"},
    {"chi_square"},
    {"surrogates"},
    {"bounds", "cube", "interaction", "padded"},
    {"certificates", "finite_sample", "declared_budget", "trust_region", "schedules", "rollouts", "exact", "mismatch"},
    {"stage", "chain_audit"},
    {"tabular"},
    {"sampled"},
    {"records", "stage_page", "import_commands"},
    {"checkpoint"},
    {"training"},
    {"monitor"},
    {"integrations"},
    {"llm"},
    {"claims"},
    {"cli"},
]
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
OUTSIDE = {"theory", "experiments", "benchmarks", "tests", "docs", "builders", "oracle"}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The module or subpackage right under `teamtr_jax` that a file belongs to; ``""`` for the package itself."""
    return path.parts[0].removesuffix(".py") if path != Path("__init__.py") else ""


def imported(path: Path, root: Path = PACKAGE):
    """``(line, dotted name)`` of every import of a file, anywhere in it, relative ones resolved."""
    package = [root.name, *path.parent.parts]
    for node in ast.walk(ast.parse((root / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down_only(path):
    """types, validation → dynamics → teams, divergences → visits → … → cli; a subpackage may import itself."""
    source = unit(path)
    assert source == "" or source in LEVEL, f"give {source!r} a level in tests/test_imports.py"
    for line, name in imported(path):
        parts = name.split(".")
        assert parts[0] not in OUTSIDE, f"{path}:{line} imports {name}: nothing outside the package may be imported"
        if name == "teamtr_jax":
            assert source == "cli", (
                f"{path}:{line}: only the command line asks for the version; names come from their modules"
            )
        elif parts[0] == "teamtr_jax" and source != "":  # the package offers names from below: the next test
            target = parts[1]
            allowed = target == source or LEVEL[target] < LEVEL[source] or {source, target} <= LEVELS[0]
            assert allowed, f"{path}:{line} imports {name}: {source} may import only what lies below it"


INNER = [
    {"checked", "drawing", "language_model"},
    {"devices", "layout", "mesh", "sizes", "text", "token_statistics"},
    {"model", "tasks", "text_sizes"},
    {"llama"},
    {"external", "text_team", "writing"},
    {"checkpoint_team", "conversations", "pens"},
    {"text_sampler"},
    {"sampler", "description", "transcript_tree"},
    {"enumeration", "losses", "step_rules", "warm_start"},
    {"update_settings"},
    {"given"},
    {"ascend", "diagnose"},
    {"go_back"},
    {"update"},
    {"self_kl", "text_update", "text_warm_start", "token_log"},
    {"networks"},
    {"alignment", "backend", "methods", "text_backend"},
    {"replacement"},
    {"text_replacement"},
]


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "llm" and p.name != "__init__.py"], ids=str)
def test_imports_of_llm_go_down_only(path):
    """checked → layout → model → sampler → enumeration, losses, warm start → update → alignment, backend, methods → the rest."""
    level = {name: i for i, names in enumerate(INNER) for name in names}
    source = path.parts[1].removesuffix(".py")
    assert source in level, f"give {source!r} a level in tests/test_imports.py"
    for line, name in imported(path):
        if name.startswith("teamtr_jax.llm."):
            target = name.split(".")[2]
            assert target == source or level[target] < level[source], f"{path}:{line} imports {name}"


TREES = ("teamtr_jax", "theory", "experiments")


def modules(root: Path) -> dict[str, Path]:
    """`{dotted name: path below the root}` of every module of a tree; notebooks are imported by nobody."""
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    named = {".".join((root.name, *path.with_suffix("").parts)).removesuffix(".__init__"): path for path in paths}
    return {name: path for name, path in sorted(named.items()) if path.parts[0] != "notebooks"}


def graph(root: Path) -> dict[str, set[str]]:
    """Each module of a tree and those that it imports, also only for types or inside a function."""
    known = modules(root)
    out = {}
    for name, path in known.items():
        found = (dotted if dotted in known else dotted.rpartition(".")[0] for _, dotted in imported(path, root))
        out[name] = {target for target in found if target in known and target != name}
    return out


def circle(arrows: dict[str, set[str]]) -> str:
    """One circle, ``""`` without."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


@pytest.mark.parametrize("tree", TREES)
def test_no_circle(tree):
    """No module is imported, by whatever way round, by what it imports: not for types and not inside a function either."""
    arrows = graph(ROOT / tree)
    assert len(arrows) > 30
    assert not (found := circle(arrows)), f"{found}: imports go one way"


def test_a_circle_is_found(tmp_path):
    """Through a package, relative, for types only, and inside a function."""
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "__init__.py").write_text("from tree.inner.b import x\n")
    (tree / "inner" / "b.py").write_text("from ..c import y\n")
    (tree / "c.py").write_text("def f():\n    from tree import d\n")
    (tree / "d.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tree.inner\n")
    assert set(circle(graph(tree)).split(" → ")) == {"tree.inner", "tree.inner.b", "tree.c", "tree.d"}
    (tree / "d.py").write_text("")
    assert circle(graph(tree)) == ""


THEORY = [
    {"fits", "ledger", "processes", "constructions"},
    {"networks", "families", "tiers", "proved"},
    {"exact_audit"},
    {"audit", "plugins", "adversarial"},
    {"evidence", "figures", "claims", "regimes", "studies", "noise"},
    {"run"},
    {"__main__"},
]
ONE_WAY = {
    "teamtr_jax.exact": ["numbers", "stage", "solved", "mismatch", "rungs", "cube", "checks", "__init__"],
    "theory.adversarial": ["search", "instances", "__init__", "__main__"],
}


def part(module: str) -> str:
    """What lies right under the tree."""
    return module.split(".")[1] if "." in module else ""


def test_imports_of_theory_go_down_only():
    """Tools → teams → exact arithmetic → audit, search → studies → the run; within a level, one way (`test_no_circle`)."""
    level = {name: i for i, names in enumerate(THEORY) for name in names}
    for source, targets in graph(ROOT / "theory").items():
        assert part(source) in {"", *level}, f"give {part(source)!r} a level in tests/test_imports.py"
        for target in targets:
            assert level[part(target)] <= level[part(source)], f"{source} imports {target}"


@pytest.mark.parametrize("package", ONE_WAY)
def test_one_way_down(package):
    """Each module imports those before it only."""
    inner = {name: i for i, name in enumerate(ONE_WAY[package])}
    arrows = {
        name: targets for name, targets in graph(ROOT / package.split(".")[0]).items() if name.startswith(package)
    }

    def place(module: str) -> int:
        return inner[module.removeprefix(package).removeprefix(".") or "__init__"]

    assert len(arrows) == len(inner)
    for source, targets in arrows.items():
        for target in targets & arrows.keys():
            assert place(target) < place(source), f"{source} imports {target}"


STUDIES = {"tabular": set(), "llm": set(), "reproduce": {"llm"}, "trl": set()}
"""Programs under `experiments/`, and those whose parts they may use."""


def test_imports_of_experiments_go_down_only():
    """What the programs share imports no program."""
    for source, targets in graph(ROOT / "experiments").items():
        for target in targets:
            own, other = part(source), part(target)
            allowed = other not in STUDIES or other == own or other in STUDIES.get(own, ())
            assert allowed, f"{source} imports {target}"


@pytest.mark.parametrize("tree", ["theory", "experiments"])
def test_theory_knows_no_experiment(tree):
    """`experiments/` may use tools of `theory/`, never the reverse; neither imports tests, documents or timings."""
    outside = OUTSIDE - {"theory"} - ({"experiments"} if tree == "experiments" else set())
    for name, path in modules(ROOT / tree).items():
        for line, dotted in imported(path, ROOT / tree):
            assert dotted.split(".")[0] not in outside, f"{name}:{line} imports {dotted}"


def test_the_order_is_that_of_real_files():
    """Every level names something that exists, or will soon be missed."""
    assert {unit(path) for path in FILES} - {""} <= set(LEVEL)
    assert {"types", "dynamics", "divergences", "visits", "values", "surrogates", "bounds"} <= {unit(p) for p in FILES}


def test_the_names_of_a_first_session():
    """What `teamtr_jax` offers is what type checkers see, what is documented and what is there."""
    for_checkers = {
        name.removeprefix("teamtr_jax.") for _, name in imported(Path("__init__.py")) if "teamtr_jax" in name
    }
    assert for_checkers == {f"{home}.{name}" for name, home in teamtr_jax._HOMES.items()}
    assert list(teamtr_jax._HOMES) == teamtr_jax.__all__
    for name, home in teamtr_jax._HOMES.items():
        found = getattr(teamtr_jax, name)
        assert found is getattr(importlib.import_module(f"teamtr_jax.{home}"), name)
        assert found.__module__ == f"teamtr_jax.{home}"
        assert name in dir(teamtr_jax)
    assert teamtr_jax.__version__ == importlib.metadata.version("teamtr-jax")
    with pytest.raises(AttributeError, match="'teamtr_jax' has no attribute 'teem'"):
        teamtr_jax.teem  # noqa: B018


def test_the_package_alone_imports_nothing():
    """`import teamtr_jax` is light; a name brings what it needs."""
    script = """
import sys
before = set(sys.modules)
import teamtr_jax
dir(teamtr_jax), teamtr_jax.__version__
heavy = {name.split(".")[0] for name in set(sys.modules) - before} & {"jax", "numpy", "scipy", "jaxtyping", "optax", "rich"}
assert not heavy, heavy
assert [name for name in sys.modules if name.startswith("teamtr_jax")] == ["teamtr_jax"]
from teamtr_jax import Team, evaluate_stage, run_stage
assert Team.__module__ == "teamtr_jax.types"
assert "jax" in sys.modules
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_importing_changes_no_setting():
    """Importing every module leaves all settings of jax, its environment and NumPy's error state as they were."""
    modules = [".".join(("teamtr_jax", *path.with_suffix("").parts)).removesuffix(".__init__") for path in FILES]
    script = f"""
import os, jax, numpy as np
before = dict(jax.config.values), dict(os.environ), np.geterr(), np.get_printoptions()
import importlib.metadata
for name in {modules!r}:
    if not name.endswith("__main__"):
        importlib.import_module(name)
after = dict(jax.config.values), dict(os.environ), np.geterr(), np.get_printoptions()
assert before == after, [(k, v, after[0][k]) for k, v in before[0].items() if after[0][k] != v]
assert not jax.config.jax_enable_x64
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_the_monitor_needs_no_networks():
    """Anybody's trainer: `import teamtr_jax.monitor` in a fresh process brings neither flax nor `teamtr_jax.llm`."""
    script = """
import sys, teamtr_jax.monitor as monitor
[getattr(monitor, name) for name in monitor.__all__]
found = sorted(x for x in sys.modules if x.partition(".")[0] == "flax" or x.startswith("teamtr_jax.llm"))
assert not found, found
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("--help", 0), ("--version", 0), ("stage --help", 0), ("stage --jsn", 2), ("bogus", 2)],
)
def test_a_command_line_is_read_without_jax(arguments, code):
    """Help, version and bad options import nothing that takes long; `teamtr stage` does, when it begins to work."""
    script = f"""
import sys
from teamtr_jax import cli
sys.argv = ["teamtr", *{arguments.split()!r}]
try:
    cli.main()
except SystemExit as stop:
    assert stop.code == {code}, stop.code
found = {{name.split(".")[0] for name in sys.modules}}
heavy = found & {{"jax", "jaxlib", "scipy", "optax", "flint", "matplotlib", "pyarrow", "gymnasium", "pyspiel"}}
assert not heavy, heavy
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_a_stage_brings_no_statistics_and_no_figures(tmp_path):
    """`teamtr stage --json` imports neither scipy.stats, scipy.sparse, Rich, flint nor matplotlib."""
    policy = np.full((2, 1), 1.0)
    tables = {
        "transition": np.full((2, 1, 2), 0.5),
        "reward": policy,
        "initial": np.full(2, 0.5),
        "discount": np.array(0.5),
    }
    np.savez(tmp_path / "stage.npz", **tables, active=np.arange(2), current=policy, target=policy)
    script = f"""
import sys
from teamtr_jax import cli
sys.argv = ["teamtr", "stage", "--json", {str(tmp_path / "stage.npz")!r}]
try:
    cli.main()
except SystemExit as stop:
    assert stop.code == 0
found = sys.modules.keys() & {{"scipy.stats", "scipy.sparse", "rich.table", "flint", "matplotlib", "optax", "pyarrow"}}
assert not found, found
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_student_is_asked_in_one_place():
    """Quantiles of Student's t come from `teamtr_jax.intervals.quantile`; tests have their own, to compare."""
    files = [path for tree in ("teamtr_jax", "theory", "experiments") for path in (ROOT / tree).rglob("*.py")]
    found = [path.name for path in files if re.search(r"stdtrit|\bt\.(ppf|isf|interval)\b", path.read_text())]
    assert found == ["intervals.py"]


def test_threads_may_use_names_for_the_first_time_at_once():
    """Every name by four threads: all of them get it, the same one, and no thread meets a module half made."""
    script = """
import threading, teamtr_jax
found, failed, start = set(), [], threading.Barrier(4 * len(teamtr_jax.__all__))
def use(name):
    start.wait()
    try:
        found.add((name, id(getattr(teamtr_jax, name))))
    except BaseException as error:
        failed.append((name, error))
threads = [threading.Thread(target=use, args=(name,)) for name in 4 * teamtr_jax.__all__]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
assert len(found) == len(teamtr_jax.__all__)
assert [name for name in dir(teamtr_jax) if not name.startswith("_") and name not in teamtr_jax.__all__
        and type(getattr(teamtr_jax, name)).__name__ != "module"] == []
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
