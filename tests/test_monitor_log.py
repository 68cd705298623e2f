"""Token logs: what is read, what is refused and how it is named, what is written; the command and its outputs."""

import importlib
import inspect
import json
import os
import re
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from monitor_logs import sampled, world

from teamtr_jax.monitor import (
    Settings,
    append_token_log,
    lines,
    monitor,
    read_stages,
    read_token_log,
    run,
    show,
    token_log,
    token_rows,
    write_page,
    write_token_log,
)
from teamtr_jax.monitor import reading as module
from teamtr_jax.monitor.growing import growing
from teamtr_jax.records import TOKEN_LOG_COLUMNS, dump
from teamtr_jax.sampler_settings import Sampler
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


@pytest.mark.parametrize(
    "by", [("turn",), ("t", "prompt"), ("rollout", "turn"), ("prompt",), ("update", "rollout"), None]
)
def test_rows_in_any_order(table, by):
    """Whole transcripts in another order, transcripts in several places, and rows at random."""
    rows = table["t"].size
    if by is None:
        order = np.random.default_rng(0).permutation(rows)
    else:
        order = np.lexsort([np.arange(rows), *(-table[key] for key in by[::-1])])
    expected = token_log(
        {
            key: value[np.lexsort([table[key] for key in ("t", "turn", "rollout", "prompt", "update", "stage")])]
            for key, value in table.items()
        }
    )
    for name, a, b in zip(expected._fields, expected, token_log({k: x[order] for k, x in table.items()}), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


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


@pytest.mark.parametrize("form", FORMS)
def test_a_failed_write_leaves_the_old_file(table, tmp_path, form, monkeypatch):
    path = write_token_log(tmp_path / f"log.{form}", table)
    before = path.read_bytes()

    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(InputError, match="disk full"):
        write_token_log(path, table)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_invalid_table_is_not_written(table, tmp_path):
    with pytest.raises(InputError, match="logp_new"):
        write_token_log(tmp_path / "log.jsonl", changed(table, "logp_new", 3, np.nan))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def a_disk_of(size):
    """No file may grow beyond `size` bytes: writing fails as on a full disk."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_old_log(table, tmp_path, form):
    path = write_token_log(tmp_path / f"log.{form}", table)
    before = path.read_bytes()
    other = table | {"stage": table["stage"] + 1}
    for room in (len(before) + 100, len(before) // 2):
        with a_disk_of(room), pytest.raises(InputError, match=re.escape(str(path))) as error:
            append_token_log(path, other)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == before
    with a_disk_of(10), pytest.raises(InputError):
        write_token_log(tmp_path / f"new.{form}", table)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    append_token_log(path, other)
    assert read_token_log(path).rows == 2 * table["t"].size


@pytest.mark.parametrize("form", FORMS)
def test_links_are_followed(table, tmp_path, form):
    real, link = tmp_path / f"real.{form}", tmp_path / f"link.{form}"
    link.symlink_to(real)
    append_token_log(link, table)
    append_token_log(link, table | {"stage": table["stage"] + 1})
    assert link.is_symlink()
    assert read_token_log(real).rows == 2 * table["t"].size
    with pytest.raises(InputError, match="a folder"):
        write_token_log(tmp_path / "link.jsonl" if form == "x" else _folder(tmp_path / f"folder.{form}"), table)


def _folder(path):
    path.mkdir()
    return path


def test_a_last_line_that_is_cut_off_is_not_written_after(table, tmp_path):
    """A line without its line break is completed, half a line is refused and stays; so are rows of other columns."""
    path = write_token_log(tmp_path / "log.jsonl", table)
    whole, other = path.read_bytes(), table | {"stage": table["stage"] + 1}
    path.write_bytes(whole[:-1])
    append_token_log(path, other)
    assert path.read_bytes().startswith(whole + b'{"prompt"')
    assert read_token_log(path).rows == 2 * table["t"].size
    for torn in (whole[:-2], whole[:-40], whole + b"{", whole + b"\x00\x00", whole + b"7\n"):
        path.write_bytes(torn)
        with pytest.raises(InputError, match="last line: found cut off, expected a JSON object"):
            append_token_log(path, other)
        assert path.read_bytes() == torn
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"columns: found .*source.*, expected"):
        append_token_log(path, other | {"source": other["update"]})
    assert path.read_bytes() == whole
    append_token_log(path, other | {"note": np.full(other["t"].size, "further columns are free")})
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert read_token_log(append_token_log(empty, table)).rows == table["t"].size
    long = tmp_path / "long.jsonl"
    line = json.dumps({key: value[0].item() for key, value in table.items()} | {"note": "x" * 200_000})
    long.write_text(line + "\n" + line[:-5])
    with pytest.raises(InputError, match="last line: found cut off"):
        append_token_log(long, other)


def test_other_columns_are_not_added_to_parquet(table, tmp_path):
    path = write_token_log(tmp_path / "log.parquet", table)
    with pytest.raises(InputError, match=r"columns: found .*source.*, expected"):
        append_token_log(path, table | {"source": table["update"]})


# ---------------------------------------------------------------------------------------------------------- damaged files


def values_of(log):
    return {key: column.tolist() for key, column in log.columns().items()}


def read_or_message(path):
    try:
        return read_token_log(path), ""
    except InputError as error:
        return None, str(error)


def test_every_flipped_byte_of_parquet_is_seen(table, tmp_path):
    """Pages have checksums: one line that says what is damaged, or (in statistics and the like) the same values as before."""
    few = {key: value[:12] for key, value in table.items()}
    path = write_token_log(tmp_path / "log.parquet", few)
    whole, values, refused_at = path.read_bytes(), values_of(read_token_log(path)), 0
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    step = 23
    for i in range(0, len(whole), step):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        found, message = read_or_message(path)
        refused_at += found is None and i < footer
        assert found is None or values_of(found) == values
        assert found is not None or (str(path) in message and message.isprintable())
    assert refused_at > footer / step / 3
    path.write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"a damaged file .*expected a Parquet file"):
        append_token_log(path, few)


def test_a_flipped_bit_of_a_value_in_parquet(table, tmp_path):
    """A bit of the data itself, without the checksums another number."""
    from pyarrow import parquet

    path = write_token_log(tmp_path / "log.parquet", table)
    column = parquet.ParquetFile(path).metadata.row_group(0).column(list(table).index("logp_new"))
    at = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[at + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a damaged file \(.*(CRC|corrupt|checksum)"):
        read_token_log(path)


def test_two_parquet_files_one_after_the_other(table, tmp_path, monkeypatch):
    """The footer of the second would be read with the pages of the first."""
    first = write_token_log(tmp_path / "a.parquet", table).read_bytes()
    other = {key: value[::2] for key, value in table.items()} | {"reward": 1.0 - table["reward"][::2]}
    second = write_token_log(tmp_path / "b.parquet", other, check=False).read_bytes()
    for data in (first + first, first + second, second + second):
        (tmp_path / "c.parquet").write_bytes(data)
        with pytest.raises(InputError, match=r"c\.parquet: found two files, one after the other"):
            read_token_log(tmp_path / "c.parquet")
    for size in range(8, 24):  # wherever a block ends
        monkeypatch.setattr(module, "BUFFER", size)
        assert module._joined(tmp_path / "c.parquet")
        assert not module._joined(tmp_path / "a.parquet")


@pytest.mark.parametrize("end", ["", "\n"])
def test_rows_after_a_first_line_that_somebody_wrote(table, tmp_path, end):
    """The sampler settings stand there, and nothing else yet."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"teamtr_token_log": 1, "sampler": {"temperature": 0.7}}' + end)
    with pytest.raises(InputError, match="sampler settings: found"):
        append_token_log(path, table, sampler=Sampler(temperature=1.0))
    for update in range(2):
        append_token_log(path, {key: x[table["update"] == update] for key, x in table.items()})
    log = read_token_log(path)
    assert (log.rows, log.sampler) == ((table["update"] < 2).sum(), Sampler(temperature=0.7))


def test_what_is_not_there_is_no_log(tmp_path):
    """A folder that a trainer has not made yet has no suffix either."""
    for read in (read_token_log, read_stages, growing):
        with pytest.raises(InputError, match="run: found no such file, expected a token log"):
            read(tmp_path / "run")


def test_the_page_and_the_tables_are_two_files(table, tmp_path):
    path = write_token_log(tmp_path / "log.jsonl", table)
    with pytest.raises(InputError, match=r"--latex: found .*, expected another file than the page"):
        run(path, Settings(), html=tmp_path / "out", latex=tmp_path / "." / "out")
    assert not (tmp_path / "out").exists()


def test_masked_arrays_are_refused(table):
    """NumPy drops the mask, and what was under it would count."""
    masked = np.ma.MaskedArray(table["reward"], mask=table["prompt"] == 0)
    with pytest.raises(InputError, match="column reward: found a masked array"):
        token_log(table | {"reward": masked})
    with pytest.raises(InputError, match="mask: found a masked array"):
        token_rows(np.ma.MaskedArray([[1, 1]], mask=[[0, 1]]))
    token_log(table | {"reward": np.ma.MaskedArray(table["reward"])})


def test_a_column_that_no_log_has_is_not_looked_at(table):
    assert token_log(table | {"ids": [[1]] + (table["t"].size - 1) * [[1, 2]]}).rows == token_log(table).rows


def test_a_tensor_that_needs_its_gradient_is_refused(table):
    """torch raises RuntimeError where NumPy asks it for its numbers."""

    class Tensor:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")

    with pytest.raises(InputError, match=r"column logp_new: found .*Use tensor.detach\(\)"):
        token_log(table | {"logp_new": Tensor()})
    with pytest.raises(InputError, match=r"logp_new: found .*Use tensor.detach\(\)"):
        token_rows([[1]], logp_new=Tensor())


def test_damaged_json_lines_are_one_line(table, tmp_path):
    path = write_token_log(tmp_path / "log.jsonl", {key: value[:4] for key, value in table.items()})
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        for other in (0, 0xFF, whole[i] ^ 4):
            path.write_bytes(whole[:i] + bytes([other]) + whole[i + 1 :])
            found, message = read_or_message(path)
            assert found is not None or (str(path) in message and message.isprintable())


# -------------------------------------------------------------------------------------------------- sizes, places, settings


def test_what_is_no_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    device = tmp_path / "device.parquet"
    device.symlink_to("/dev/zero")
    empty = _folder(tmp_path / "folder.parquet")
    for path, found in ((pipe, "a pipe"), (device, "a device"), (empty, "a folder without parts")):
        with pytest.raises(InputError, match=f"found {found}, expected a token log"):
            read_token_log(path)
    for path, found in ((pipe, "a pipe"), (device, "a device")):
        for write in (write_token_log, append_token_log):
            with pytest.raises(InputError, match=found):
                write(path, {})


@pytest.mark.parametrize("form", FORMS)
def test_a_log_that_does_not_fit_is_refused_before_it_is_read(table, tmp_path, form, monkeypatch):
    """Its rows are in the footer, or estimated from the length of the first lines, within 10 %."""
    path = write_token_log(tmp_path / f"log.{form}", table)
    rows, each = table["t"].size, lines.AT_ONCE if form == "jsonl" else module.PIECEWISE
    monkeypatch.setattr("teamtr_jax.sizes.memory", lambda: int(0.9 * rows * each))
    monkeypatch.setattr(lines, "checked_log", None)
    monkeypatch.setattr(module, "log_of", None)
    with pytest.raises(InputError) as error:
        read_token_log(path)
    found = float(re.search(r"found about ([\d.e+]+) rows, which take ([\d.]+) [kM]B", str(error.value)).group(1))
    assert found == pytest.approx(rows, rel=0.1)
    assert f"at most {0.9 * rows:.3g} rows in " in str(error.value)
    monkeypatch.undo()
    assert read_token_log(path).rows == rows


def test_a_file_of_a_terabyte_is_refused(table, tmp_path):
    path = write_token_log(tmp_path / "log.jsonl", table)
    os.truncate(path, 2**40)
    with pytest.raises(InputError, match=r"found about [4-7]\.\d+e\+0?9 rows"):
        read_token_log(path)
    hole = tmp_path / "hole.jsonl"
    hole.touch()
    os.truncate(hole, 2**40)
    with pytest.raises(InputError, match="line 1: found no line break in 1048576 bytes"):
        read_token_log(hole)


def test_columns_that_are_there_twice(table, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    names = [*table, "reward"]
    path = tmp_path / "log.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(table[key]) for key in names], names=names), path)
    with pytest.raises(InputError, match="columns: found reward twice"):
        read_token_log(path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("draws", 10**12, "an integer from 1 to 10000"),
        ("draws", 2.5, "an integer from 1 to 10000"),
        ("draws", True, "an integer"),
        ("seed", -1, "an integer, at least 0"),
        ("seed", None, "an integer, at least 0"),
        ("alpha", float("nan"), "greater than 0 and less than 1"),
        ("alpha", "0.1", "a finite number"),
        ("delta", float("inf"), "a finite number greater than 0"),
        ("match", float("inf"), "a finite number at least 0"),
        ("match", None, "a finite number"),
        ("reward_range", ("0", "1"), "LOW < HIGH"),
        ("tolerance", float("nan"), "at least 0 and at most 1"),
        ("reward_range", (0.0, float("inf")), "LOW < HIGH, both finite"),
        ("reward_range", (0.0, 1.0, 2.0), "LOW < HIGH"),
        ("reward_range", 1.0, "LOW < HIGH"),
        ("held_out", "no", "True or False"),
    ],
)
def test_settings_of_another_kind_are_refused(table, name, value, expected):
    with pytest.raises(InputError, match=f"^--{name.replace('_', '-')}: found ") as error:
        monitor(token_log(table), Settings(**{name: value}))
    assert expected in str(error.value)


def test_other_arguments_are_refused(table):
    for match in (-1.0, float("nan")):
        with pytest.raises(InputError, match=r"^match: "):
            token_log(table, match=match)
    for wrong in ((list(table), Settings()), (None, Settings()), (token_log(table), {"alpha": 0.1})):
        with pytest.raises(InputError, match=r"^log, settings: "):
            inspect.unwrap(monitor)(*wrong)  # past the checks of annotations that tests run under
    assert "column prompt" in refused(table | {"prompt": [[1], [2, 3]]})
    large = table["prompt"].astype(np.uint64)
    large[5] = 2**63 + 3
    assert "column prompt, row 6: found 9223372036854775811, expected an integer below" in refused(
        table | {"prompt": large}
    )


def test_places_are_tried_before_the_work(table, tmp_path, monkeypatch):
    path = write_token_log(tmp_path / "log.jsonl", table)
    before = path.read_bytes()
    link, other = tmp_path / "link.html", tmp_path / "link.jsonl"
    link.symlink_to(path)
    other.symlink_to(path)
    monkeypatch.setattr("teamtr_jax.monitor.command.read_stages", None)
    for html, found in (
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
        (tmp_path / "no" / "page.html", "no folder"),
        (path, "expected another file than the log"),
        (link, "expected another file than the log"),
    ):
        with pytest.raises(InputError, match=r"^--html: ") as error:
            run(path, Settings(), html=html)
        assert found in str(error.value)
    with pytest.raises(InputError, match="another file than the log"):
        run(other, Settings(), html=path)
    assert path.read_bytes() == before


def test_names_are_text(table, tmp_path, capsys, monkeypatch):
    """Markup and control characters in the name of a file are neither obeyed nor shown as such."""
    path = write_token_log(tmp_path / "x[b]<i>\x1b[2J\u202e.parquet", table)
    page = tmp_path / "p.html"
    monkeypatch.setattr("teamtr_jax.monitor.page.svg", lambda *_: "<svg></svg>")
    assert run(path, Settings(draws=1), html=page) == 0
    out, html = capsys.readouterr().out, page.read_text()
    assert r"x[b]<i>\x1b[2J\u202e.parquet" in out
    assert "\x1b" not in out + html
    assert "\u202e" not in out + html
    assert html.count(r"x[b]&lt;i&gt;\x1b[2J\u202e.parquet") == 2
    assert "<i>" not in html
    with pytest.raises(InputError) as error:
        read_token_log(tmp_path / "none\x07\n.jsonl")
    assert str(error.value).isprintable()


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
        ("[" * 100_000, "line 3: .*a JSON object"),
        ('{"prompt": "a"}', "column prompt, line 3: found 'a', expected an integer"),
        ('{"prompt": 1.5}', "column prompt, line 3: found 1.5, expected an integer"),
        (f'{{"prompt": {2**63}}}', f"column prompt, line 3: found {2**63}, expected an integer below 2"),
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
        ("missing.jsonl", None, "found no such file, expected a token log"),
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
    assert html.count("<svg") == 6
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
