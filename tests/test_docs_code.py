"""What the pages show is what their code prints; `python docs/_ext/shown.py` writes it again."""

import importlib
import importlib.util
import re
from pathlib import Path

import builders
import numpy as np
import pytest

from teamtr_jax.bounds import DEFAULT
from teamtr_jax.claims import Claim
from teamtr_jax.llm.language_model import LanguageModel
from teamtr_jax.surrogates import evaluate_stage

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("shown", ROOT / "docs/_ext/shown.py")
shown = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shown)


@pytest.mark.parametrize("page", shown.PAGES)
def test_outputs_of_a_page(page):
    text = (ROOT / page).read_text()
    assert text.count("\n```text\n") >= 1
    assert shown.outputs(text) == text


def test_a_block_without_output_runs_and_a_failing_one_is_an_error():
    page = "```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\nold\n```\n\n```sh\necho a | cat\n```\n\n```text\n```\n"
    assert shown.outputs(page) == page.replace("old\n", "2\n").replace("```text\n```", "```text\na\n```")
    assert shown.outputs("```sh\nfalse\n```\n") == "```sh\nfalse\n```\n"  # no output is shown: not run
    for wrong in ("```python\n1 / 0\n```\n", "```sh\nfalse | cat\n```\n\n```text\n```\n"):
        with pytest.raises(RuntimeError, match="exit code 1"):
            shown.outputs(wrong)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_examples_of_contributing_can_be_read():
    """None is cut short or says a thing twice, which Python refuses."""
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S):
        compile(code, "CONTRIBUTING.md", "exec")


def test_the_example_claim_has_the_fields_of_a_claim():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = next(x for x in re.findall(r"```python\n(.*?)```", text, re.S) if "CLAIM = Claim" in x)
    names = {"Claim": Claim, "check": lambda stage, report: {}}
    exec(code, names)  # noqa: S102
    assert all(names["CLAIM"])


def test_functions_of_a_model_are_those_that_contributing_names():
    """The interface is what the table of that section has."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("### a model of your own\n")[2].partition("\n### ")[0]
    named = {name for line in section.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    offered = {name for name in vars(LanguageModel) if not name.startswith("_")}
    assert named == offered, named ^ offered


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_what_a_page_imports_is_there(page):
    """Also on pages whose blocks are not run."""
    text = (ROOT / "docs" / page).read_text()
    for module, names in re.findall(r"^from (teamtr_jax[\w.]*) import (\([^)]*\)|.*)$", text, re.M):
        known = importlib.import_module(module)
        missing = [name for name in re.findall(r"\w+", names) if not hasattr(known, name)]
        assert not missing, f"{page}: {module} has no {missing}"


def test_the_example_rung_is_a_bound():
    """The one of CONTRIBUTING.md, on random turn-taking and product teams; it is no smaller than S4, and not by more than 1/γ."""
    code = next(
        x
        for x in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
        if "mine = Rung" in x
    )
    rng = np.random.default_rng(0)
    for protocol in ("turn-taking", "product"):
        case = builders.random_case(rng, "discounted", protocol, gamma=0.9)
        names = {"report": evaluate_stage(builders.as_stage(case))}
        exec(code, names)  # noqa: S102
        found = names["ladder"](names["report"], rungs=(*DEFAULT, names["mine"]))
        assert (abs(names["report"].gap_fresh) <= found["penalty_mine"] + 1e-12).all()
        np.testing.assert_allclose(0.9 * found["penalty_mine"], found["penalty_second_order"], rtol=1e-12)
