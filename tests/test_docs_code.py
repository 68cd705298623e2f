"""What the pages show is what their code prints; `python docs/_ext/shown.py` writes it again."""

import importlib.util
from pathlib import Path

import pytest

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
