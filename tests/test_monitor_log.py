"""Token logs: what is read, what is refused and how it is named, what is written; the command and its outputs."""

import importlib
import json
import re

import numpy as np
import pytest
from monitor_logs import sampled, world

from teamtr_jax.llm.monitor import (
    Settings,
    append_token_log,
    monitor,
    read_token_log,
    run,
    show,
    token_log,
    token_rows,
    write_page,
    write_token_log,
)
from teamtr_jax.llm.monitor import log as module
from teamtr_jax.records import TOKEN_LOG_COLUMNS, dump
from teamtr_jax.validation import InputError

pytest.importorskip("pyarrow")
FORMS = ("jsonl", "parquet")


@pytest.fixture(scope="module")
def table():
    return sampled(world(np.random.default_rng(5), length=2, owners=(0, 1, 2)), np.random.default_rng(2), 6, 3)


def refused(columns, **options) -> str:
    with pytest.raises(InputError) as error:
        token_log(columns, **options)
    return str(error.value)


def changed(table, key, row, value):
    column = table[key].copy()
    column[row] = value
    return table | {key: column}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read(table, tmp_path, form):
    path = write_token_log(tmp_path / f"log.{form}", table | {"text": np.full(table["t"].size, "a")})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found, expected = read_token_log(path), token_log(table)
    for name, a, b in zip(found._fields, found, expected, strict=True):
        if b is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert found.rows == table["t"].size


@pytest.mark.parametrize("form", FORMS)
def test_appending(table, tmp_path, form):
    path = tmp_path / f"log.{form}"
    for update in range(3):
        append_token_log(path, {key: value[table["update"] == update] for key, value in table.items()})
    np.testing.assert_array_equal(read_token_log(path).logp_new, token_log(table).logp_new)


def test_rows_of_a_padded_batch(table):
    """What a trainer holds as [N, T] gives the log again; padding on either side."""
    n = table["t"].size // 6
    mask = np.zeros((n, 9), int)
    mask[:, 2:8] = 1
    wide = {}
    for key in set(table) - {"t"}:
        wide[key] = np.full((n, 9), 7, table[key].dtype)
        wide[key][:, 2:8] = table[key].reshape(n, 6)
    rows = token_rows(mask, **wide)
    for key in table:
        np.testing.assert_array_equal(rows[key], table[key], err_msg=key)
    with pytest.raises(InputError, match="reward"):
        token_rows(mask, reward=np.zeros(n + 1))


def test_rows_in_any_order(table):
    order = np.random.default_rng(0).permutation(table["t"].size)
    a, b = token_log(table), token_log({key: value[order] for key, value in table.items()})
    for x, y in zip(a, b, strict=True):
        if x is not None:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("form", FORMS)
def test_a_failed_write_leaves_the_old_file(table, tmp_path, form, monkeypatch):
    path = write_token_log(tmp_path / f"log.{form}", table)
    before = path.read_bytes()

    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module.Path, "replace", stop)
    with pytest.raises(OSError, match="disk full"):
        write_token_log(path, table)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_invalid_table_is_not_written(table, tmp_path):
    with pytest.raises(InputError, match="logp_new"):
        write_token_log(tmp_path / "log.jsonl", changed(table, "logp_new", 3, np.nan))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("key", TOKEN_LOG_COLUMNS)
def test_missing_column(table, key):
    assert f"no {key}" in refused({k: v for k, v in table.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("logp_behaviour", np.nan, "a finite number"),
        ("logp_new", -np.inf, "a finite number"),
        ("logp_current", 0.2, "at most 0"),
        ("reward", np.inf, "a finite number"),
        ("agent", -1, "an integer ≥ 0"),
        ("turn", -3, "an integer ≥ 0"),
    ],
)
def test_bad_value_is_named_with_its_row(table, key, value, expected):
    assert re.search(f"column {key}, row 18: .*{expected}", refused(changed(table, key, 17, value)))


def test_rounding_above_zero_is_accepted(table):
    token_log(changed(table, "logp_new", 3, 5e-7))


@pytest.mark.parametrize(
    ("key", "row", "value", "expected"),
    [
        ("t", 1, 0, "column t, row 2: .*one row for each"),
        ("agent", 1, 2, "column agent, row 2: .*one agent for all tokens of a turn"),
        ("reward", 5, 0.25, "column reward, row 6: .*one reward"),
    ],
)
def test_contradictions_between_rows(table, key, row, value, expected):
    assert re.search(expected, refused(changed(table, key, row, value)))


def test_contradictions_are_named_by_the_row_of_the_file(table):
    order = np.arange(table["t"].size)[::-1]
    wrong = {key: value[order] for key, value in changed(table, "agent", 1, 2).items()}
    rows = table["t"].size
    assert re.search(f"row {rows - 1}: found 2, and 0 in row {rows},", refused(wrong))


def test_updated_and_schema_columns(table):
    rows = table["t"].size
    assert "column updated" in refused(table | {"updated": np.arange(rows) % 2})
    assert re.search("column schema, row 1: found 7", refused(table | {"schema": np.full(rows, 7)}))
    token_log(table | {"schema": np.full(rows, 1), "updated": np.asarray(table["update"])})
    assert "no rows" in refused({key: value[:0] for key, value in table.items()})
    assert "dtype float64" in refused(table | {"prompt": table["prompt"] * 1.0})
    assert f"[{rows}]" in refused(table | {"turn": table["turn"][1:]})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 3: .*a JSON object"),
        ("[1]", "line 3: found a list"),
        ('{"prompt": "a"}', "column prompt, line 3: found 'a', expected an integer"),
        ('{"prompt": 1.5}', "column prompt, line 3: found 1.5, expected an integer"),
        ('{"reward": "1"}', "column reward, line 3: found '1', expected a number"),
        ('{"reward": 1}', "column prompt, line 3: found no value"),
    ],
)
def test_a_bad_line_is_named(table, tmp_path, line, expected):
    path = write_token_log(tmp_path / "log.jsonl", table)
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as error:
        read_token_log(path)
    assert re.search(expected, str(error.value))
    assert str(path) in str(error.value)


def test_nan_in_json(table, tmp_path):
    path = write_token_log(tmp_path / "log.jsonl", table)
    lines = path.read_text().splitlines()
    lines[4] = re.sub('"logp_new": [^,]*', '"logp_new": NaN', lines[4])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 5"):
        read_token_log(path)


def test_files_that_are_none(table, tmp_path):
    for name, text, expected in (
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", "", "an empty file"),
        ("empty.parquet", "", "an empty file"),
        ("log.csv", "a", "suffix '.csv'"),
        ("noise.parquet", "noise", "a Parquet file"),
        ("blank.jsonl", "\n\n", "expected"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as error:
            read_token_log(tmp_path / name)
        assert expected in str(error.value)
        assert "\n" not in str(error.value)


def test_parquet_of_another_schema_or_with_holes(table, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "log.parquet"
    arrays = pa.table({key: pa.array(value) for key, value in table.items()})
    parquet.write_table(arrays.replace_schema_metadata({"teamtr_token_log_schema": "9"}), path)
    with pytest.raises(InputError, match="found 9, expected 1"):
        read_token_log(path)
    holes = [None if i == 3 else float(x) for i, x in enumerate(table["reward"])]
    parquet.write_table(arrays.set_column(arrays.column_names.index("reward"), "reward", pa.array(holes)), path)
    with pytest.raises(InputError, match="column reward, row 4: found no value"):
        read_token_log(path)
    parquet.write_table(arrays.drop_columns(["turn"]), path)
    with pytest.raises(InputError, match="no turn"):
        read_token_log(path)


def test_without_the_extra(monkeypatch, tmp_path, table):
    real = importlib.import_module

    def block(name, *args):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args)

    path = write_token_log(tmp_path / "log.parquet", table)
    monkeypatch.setattr("importlib.import_module", block)
    with pytest.raises(InputError, match=r"pyarrow: .*teamtr-jax\[monitor\]"):
        read_token_log(path)


def test_a_reward_outside_the_declared_range(table):
    with pytest.raises(InputError, match="--reward-range"):
        monitor(token_log(table | {"reward": 3 * table["reward"]}))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(delta=0.0), dict(alpha=1.0), dict(tolerance=-0.1), dict(reward_range=(1.0, 0.0)), dict(match=-1.0), dict(draws=0),
    ],
)  # fmt: skip
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        Settings(**wrong).check()


# -------------------------------------------------------------------------------------------------------- the outputs


def test_records_are_strict_json(table):
    def refuse(name):
        raise AssertionError(name)

    report = monitor(token_log(table))
    for record in report.records:
        again = json.loads(dump(record), parse_constant=refuse)
        assert again["schema"] == 1
        assert set(again) == set(report.records[0])


def test_the_command(table, tmp_path, capsys):
    path, page = write_token_log(tmp_path / "log.parquet", table), tmp_path / "page.html"
    assert run(path, Settings(), html=page) == 0
    text = capsys.readouterr().out
    for word in ("Token-KL monitor", "M[k,i]", "S8", "in-sample", "estimable", "could"):
        assert word in text
    html = page.read_text()
    assert html.count("<svg") == 5
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert run(path, Settings(), json=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["agents"] for line in lines] == [[0], [1], [2]]


def test_nothing_is_shown_of_a_bad_log(table, tmp_path, capsys):
    path = write_token_log(tmp_path / "log.jsonl", changed(table, "logp_new", 3, 2.0), check=False)
    with pytest.raises(InputError, match="line 4"):
        run(path, Settings(), html=tmp_path / "page.html")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(InputError, match="--html"):
        run(path, Settings(), html=tmp_path / "no" / "page.html")


def test_the_page_and_tables_of_a_poor_log(tmp_path, capsys):
    """One prompt, one rollout each, one agent, nothing changed: no number is invented, nothing fails."""
    columns = {
        key: np.array([0, 0]) for key in TOKEN_LOG_COLUMNS if not key.startswith("logp") and key not in ("t", "reward")
    }
    columns |= {"t": np.array([0, 1]), "reward": np.array([1.0, 1.0])}
    columns |= {key: np.array([-0.5, -0.25]) for key in TOKEN_LOG_COLUMNS if key.startswith("logp")}
    report = monitor(token_log(columns))
    show(report, "poor")
    assert "changed nothing" in capsys.readouterr().out
    assert "No interaction matrix" in write_page(report, tmp_path / "page.html", "poor").read_text()
    assert json.loads(dump(report.records[0]))["certificate"]["lower"] == "-inf"
