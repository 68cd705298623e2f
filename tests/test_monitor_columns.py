"""The table of columns: records, tables and the documentation are made of it."""

from pathlib import Path

from monitor_oracle import HIGH, LOW, columns, stage

from teamtr_jax.monitor import Settings, monitor, token_log
from teamtr_jax.monitor.columns import COLUMNS, GROUPS, HEAD
from teamtr_jax.monitor.terminal import tables

PAGE = Path(__file__).parents[1] / "docs" / "monitor.md"


def documented() -> str:
    """The table of docs/monitor.md."""
    lines = ["| key | in the tables | who can know it | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        headings = " / ".join(column.cells()).replace("{delta:g}", "…").replace("{tolerance:g}", "…")
        lines.append(f"| `{column.key}` | {headings} | {column.information} | {column.meaning} |")
    return "\n".join(lines) + "\n"


def test_the_documentation_has_the_table_of_columns():
    """Where this fails, what is printed is the table as it has to stand there."""
    assert documented() in PAGE.read_text(encoding="utf-8"), documented()


def test_records_have_the_keys_of_the_columns():
    keys = [column.key for column in COLUMNS]
    assert len(keys) == len(set(keys))
    log = token_log(columns(stage(4, [[0], [1]], {0: [0, 1], 1: [1]}, {0: 4, 1: 4, 3: 4})))
    report = monitor(log, Settings(reward_range=(LOW, HIGH), complete=True))
    assert [list(record) for record in report.records] == [keys, keys]


def test_a_table_has_the_headings_of_its_group():
    log = token_log(columns(stage(4, [[0]], {0: [0]}, {0: 4, 1: 4})))
    found = {
        title.split(" (")[0]: heads for title, heads, _, _ in tables(monitor(log, Settings(reward_range=(LOW, HIGH))))
    }
    assert {name for name, group in GROUPS.items() if group != HEAD and any(c.cells() for c in group)} | {
        "Importance weights of whole rollouts"
    } == set(found)
    for name, heads in found.items():
        if name != "Importance weights of whole rollouts":
            wanted = [heading for column in (*HEAD, *GROUPS[name]) for heading in column.cells()]
            assert heads == [x.format_map(vars(Settings())) for x in wanted]


def test_every_column_says_what_it_is():
    """Nothing is an oracle's, and `|` would break the table of the documentation."""
    for column in COLUMNS:
        assert column.meaning
        assert "|" not in column.meaning + column.information + "".join(column.cells())
        assert column.information == "" or column.information.startswith("estimable")


def test_nothing_is_said_to_be_inside_on_rollouts_in_doubt():
    """Groups of unequal size: k1 below δ means nothing unless they are declared complete, k1 above δ is outside anyway."""
    log = token_log(columns(stage(9, [[0]], {0: [0]}, {4: 3, 5: 2})))
    for delta, complete, outside in ((100.0, False, None), (100.0, True, False), (1e-9, False, True)):
        settings = Settings(delta=delta, reward_range=(LOW, HIGH), complete=complete)
        (record,) = monitor(log, settings).records
        assert record["kl_k1"]["value"] > 1e-9
        assert record["outside"] is outside
