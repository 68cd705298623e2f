"""What a log says besides its tokens: a second scoring, and how the tokens were drawn; in arrays, JSON lines and Parquet."""

import json

import numpy as np
import pytest
from monitor_logs import sampled, world

from experiments.llm.keeping import merge_logs
from teamtr_jax.monitor import (
    append_token_log,
    monitor,
    read_stages,
    read_token_log,
    token_log,
    token_rows,
    write_token_log,
)
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FORMS = ("jsonl", "parquet")
SAMPLER = Sampler(0.6, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.1, precision="bfloat16")


@pytest.fixture(scope="module")
def table():
    """Three updates of nine rollouts of six tokens, in order; of every third rollout there is a second scoring."""
    rng = np.random.default_rng(5)
    columns = sampled(world(rng), rng, 3, 3, again=False)
    order = np.lexsort([columns[key] for key in ("t", "turn", "rollout", "prompt", "update", "stage")])
    columns = {key: column[order] for key, column in columns.items()}
    noise = np.minimum(columns["logp_current"] + 0.01 * rng.normal(size=order.size), 0)
    return columns | {"logp_again": np.where(columns["rollout"] % 3 == 0, noise, np.nan)}


def changed(table, key, row, value):
    column = table[key].copy()
    column[row] = value
    return table | {key: column}


def refused(call, *arguments, **settings):
    with pytest.raises(InputError) as error:
        call(*arguments, **settings)
    return str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read(table, tmp_path, form):
    path = write_token_log(tmp_path / f"log.{form}", table, sampler=SAMPLER)
    (log,) = read_stages(path)
    np.testing.assert_array_equal(log.logp_again, table["logp_again"])
    assert np.isnan(log.logp_again).sum() == 2 * table["t"].size // 3
    assert log.sampler == SAMPLER == read_token_log(path).sampler
    np.testing.assert_array_equal(log.columns()["logp_again"], table["logp_again"])
    bare = write_token_log(tmp_path / f"bare.{form}", {key: x for key, x in table.items() if key != "logp_again"})
    log = read_token_log(bare)
    assert (log.logp_again, log.sampler) == (None, None)
    assert "logp_again" not in log.columns()
    append_token_log(path, table | {"stage": table["stage"] + 1}, sampler=SAMPLER)
    append_token_log(path, table | {"stage": table["stage"] + 2})
    log = read_token_log(path)
    np.testing.assert_array_equal(log.logp_again, np.tile(table["logp_again"], 3))
    assert log.sampler == SAMPLER
    for file, sampler in ((path, Sampler(1.0)), (bare, SAMPLER)):
        before = file.read_bytes()
        more = table if file == path else {key: x for key, x in table.items() if key != "logp_again"}
        assert f"{file}: sampler settings: found " in refused(append_token_log, file, more, sampler=sampler)
        assert file.read_bytes() == before


def test_other_columns_are_as_without_it(table):
    """A second scoring and settings change nothing of what was known without them."""
    bare = {key: column for key, column in table.items() if key != "logp_again"}
    for a, b in zip(monitor(token_log(bare)).records, monitor(token_log(table)).records, strict=True):
        assert a["kl_k1"] == b["kl_k1"]
        assert a["surrogate"] == b["surrogate"]


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_value_of_another_column_is_refused(table, tmp_path, form):
    for key in ("logp_current", "logp_new", "logp_behaviour", "reward"):
        assert f"column {key}, row 5: found nan" in refused(token_log, changed(table, key, 4, np.nan))
    path = tmp_path / f"log.{form}"
    if form == "parquet":
        columns = pa.table(table)
        at = columns.column_names.index("logp_new")
        values = pa.array(np.where(np.arange(table["t"].size) == 4, np.nan, table["logp_new"]), from_pandas=True)
        parquet.write_table(columns.set_column(at, "logp_new", values), path)
    else:
        lines = write_token_log(path, table).read_text().splitlines()
        lines[4] = lines[4].replace(f'"logp_new": {float(table["logp_new"][4])!r}', '"logp_new": null')
        path.write_text("\n".join(lines))
    assert f"column logp_new, {'row' if form == 'parquet' else 'line'} 5: found no value" in refused(
        read_token_log, path
    )


def test_missing_values_of_the_second_scoring(table, tmp_path):
    """NaN in arrays, null or absent in files, in all rows of a rollout at an update or in none; never 0, never infinite."""
    there, gone = (int(np.argmax(x)) for x in (~np.isnan(table["logp_again"]), np.isnan(table["logp_again"])))
    assert (table["rollout"][there], table["rollout"][gone]) == (0, 1)
    for row, value in ((there + 1, np.nan), (gone + 2, -1.0)):
        message = refused(token_log, changed(table, "logp_again", row, value))
        assert f"column logp_again, row {row + 1}: found" in message
        assert message.endswith("a number in all rows of a rollout at an update, or in none")
    for value in (np.inf, -np.inf, 0.5, 0.05, -1e101):
        assert f"column logp_again, row {there + 1}: found {value}" in refused(
            token_log, changed(table, "logp_again", there, value)
        )
    other = changed(table, "logp_again", slice(None), np.nan)
    for rows in (other, {key: list(x) for key, x in other.items()}):
        assert np.isnan(token_log(rows).logp_again).all()
    written = pa.table({key: pa.array(column, from_pandas=key == "logp_again") for key, column in table.items()})
    assert written.column("logp_again").null_count
    parquet.write_table(written, tmp_path / "null.parquet")
    lines = write_token_log(tmp_path / "log.jsonl", table).read_text()
    assert "NaN" not in lines
    (tmp_path / "absent.jsonl").write_text(lines.replace(', "logp_again": null', ""))
    for name in ("null.parquet", "log.jsonl", "absent.jsonl"):
        np.testing.assert_array_equal(read_token_log(tmp_path / name).logp_again, table["logp_again"])
    (tmp_path / "log.jsonl").write_text(lines.replace('"logp_again": null', '"logp_again": "NaN"'))
    assert "column logp_again, line 7: found 'NaN', expected a number" in refused(
        read_token_log, tmp_path / "log.jsonl"
    )


def test_rows_of_rollouts_without_token():
    """Of a rollout of which nothing is left it stays known whether it was scored twice."""
    rows = token_rows([[0, 0], [0, 0], [1, 1]], logp_again=[[-1.0, -1.0], [np.nan, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(rows["logp_again"], [0.0, np.nan, np.nan, np.nan])
    rows = token_rows([[0, 0], [1, 1]], logp_again=np.array([np.nan, -2.0]))
    np.testing.assert_array_equal(rows["logp_again"], [np.nan, -2.0, -2.0])


def test_lines_are_counted_with_the_header(table, tmp_path):
    path = write_token_log(tmp_path / "log.jsonl", table, sampler=SAMPLER)
    header, *lines = path.read_text().splitlines()
    assert json.loads(header) == {"teamtr_token_log": 1, "sampler": SAMPLER.to_json()}
    for text, expected in (
        ([header, *lines[:3], "{"], "line 5: found"),
        (
            [header, *lines[:3], lines[3].replace('"t": 3', '"t": -7').replace('"turn": 3', '"turn": -7')],
            "column turn, line 5",
        ),
        ([header, lines[0], header, lines[1]], "line 3: found no value"),  # two files, one after the other
        ([header], "found no rows"),
        ([header.replace("1,", "2,", 1), *lines], "line 1, teamtr_token_log: found 2, expected 1"),
        ([header.replace("0.6", "-1"), *lines], "line 1, sampler: temperature: found -1"),
        ([header.replace("top_k", "topk"), *lines], "line 1, sampler: found 'topk'"),
        (['{"teamtr_token_log": 1, "sampler": 3}', *lines], "line 1, sampler: found 3"),
    ):
        path.write_text("\n".join(text) + "\n")
        assert expected in refused(read_token_log, path)
    path.write_text("\n".join(['{"teamtr_token_log": 1}', *lines]))
    assert read_token_log(path).sampler is None


@pytest.mark.parametrize("form", FORMS)
def test_logs_of_stages_are_joined(table, tmp_path, form):
    """By `experiments.llm`: how the tokens were drawn is said where all stages say the same."""
    (tmp_path / "token_log").mkdir()
    for second, sampler in ((SAMPLER, SAMPLER), (None, None), (Sampler(1.0), None)):
        for stage, own in enumerate((SAMPLER, second)):
            columns = table | {"stage": table["stage"] + stage}
            write_token_log(tmp_path / "token_log" / f"{stage:08d}.{form}", columns, sampler=own)
        log = read_token_log(merge_logs(tmp_path, form, 2))
        assert log.sampler == sampler
        np.testing.assert_array_equal(log.logp_again, np.tile(table["logp_again"], 2))
