"""What `make mutants` is told about the code: moved files would be left out without a word."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUPS = tomllib.loads((ROOT / "tests/mutants/groups.toml").read_text())
HARMLESS = tomllib.loads((ROOT / "tests/mutants/harmless.toml").read_text())["harmless"]


@pytest.mark.parametrize("name", GROUPS)
def test_files_of_a_group_are_there(name):
    group = GROUPS[name]
    assert [pattern for pattern in group["modules"] if not list(ROOT.glob(pattern))] == []
    assert [test for test in group["tests"] if not (ROOT / test).exists()] == []


@pytest.mark.parametrize("row", HARMLESS, ids=lambda row: row["path"])
def test_a_harmless_change_is_one_of_the_code(row):
    lines = (ROOT / row["path"]).read_text().splitlines()
    assert [change for change in row["change"] if change[:1] == "-" and change[1:] not in lines] == []
