"""A log that is read stage by stage: the report of it read whole, bit for bit, in the memory of a stage, without jax."""

import itertools
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from monitor_logs import joined, sampled, world, write_folder

from teamtr_jax.monitor import Settings, command, monitor, read_stages, read_token_log, reading, run, token_log
from teamtr_jax.monitor import write_token_log as write
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[1]
NONE = {"t": -1, "turn": 0, "agent": 0, "token": -1, "logp_behaviour": 0.0, "logp_current": 0.0, "logp_new": 0.0}


@pytest.fixture(autouse=True)
def stage_by_stage(monkeypatch):
    """Logs of tests are small: a part has one stage, and is read in several pieces."""
    monkeypatch.setattr(reading, "PART", 1)
    monkeypatch.setattr(reading, "BLOCK", 37)


def stages(rng, count=3, prompts=None, length=1):
    """Stages with numbers that leave out some: new rollouts or none, the start scored again or not, orders that differ."""
    parts, stage = [], 0
    for _ in range(count):
        w = world(
            rng,
            length=length,
            owners=tuple(rng.integers(0, 3, 3)),
            order=tuple(rng.permutation(3)),
            step=rng.choice([0.1, 1.0]),
        )
        size = int(rng.integers(2, 6)) if prompts is None else prompts
        again = bool(rng.integers(2))
        parts.append(sampled(w, rng, size, 3, fresh=not again or bool(rng.integers(2)), again=again))
        parts[-1]["stage"] += stage
        stage += int(rng.integers(1, 4))
    return joined(parts)


def without(columns, mask):
    return {key: value[~mask] for key, value in columns.items()}


def without_tokens(columns, rollouts):
    """`rollouts` [rows]: of these a mask has kept nothing but one row."""
    gone = rollouts & ((columns["t"] > 0) | (columns["turn"] > 0))
    columns = without(columns, gone)
    bare = rollouts[~gone]
    return columns | {key: np.where(bare, NONE[key], columns[key]) for key in NONE if key in columns}


def spoil(columns, rng):
    """What logs have: optional columns, sets in parts, other tokens, masks, samples that were selected, off-policy, any order."""
    some = rng.random(10) < 0.4
    rows = columns["t"].size
    old, names = columns["rollout"] < 3, columns["stage"] * 10**6 + columns["prompt"] * 100 + columns["rollout"]
    if some[0]:
        columns = columns | {"source": np.where(old, 0, columns["update"])}
    if some[1]:
        columns = columns | {"token": rng.integers(0, 9, rows)}
    if some[2]:
        columns = columns | {"updated": (columns["update"] + columns["stage"]) % 3 - (rng.random() < 0.2)}
        columns["updated"] = np.maximum(columns["updated"], -1)
    if some[3]:
        at = columns["stage"] == rng.choice(columns["stage"])
        behaviour = columns["logp_behaviour"] - 3 * at * rng.random(rows)
        columns = columns | {"logp_behaviour": np.where(rng.random() < 0.5, behaviour, columns["logp_behaviour"])}
    if some[4]:  # whole rollouts are missing, of new ones and of old
        columns = without(columns, np.isin(names, rng.choice(names, 2)) & (columns["update"] > 0))
    if some[5]:  # no prompt whose rewards are equal
        key = columns["stage"] * 10**6 + columns["prompt"]
        mean = np.bincount(key, columns["reward"]) / np.maximum(np.bincount(key), 1)
        columns = without(columns, np.isin(mean[key], (0, 1)) & (rng.random() < 0.5))
    if some[6] and (columns["stage"] > 0).any():  # a stage in which nobody says anything
        columns = without_tokens(columns, columns["stage"] == columns["stage"].max())
    if some[7]:
        names = columns["stage"] * 10**6 + columns["prompt"] * 100 + columns["rollout"]
        columns = without_tokens(columns, np.isin(names, rng.choice(names, 3)))
    if some[8]:  # too large for an exponential
        at = rng.random(columns["t"].size) < 0.02
        columns = columns | {"logp_current": np.where(at & (columns["t"] >= 0), -800.0, columns["logp_current"])}
    if some[9]:  # rows of a stage in any order
        order = rng.permutation(columns["t"].size)
        order = order[np.argsort(columns["stage"][order], kind="stable")]
        columns = {key: value[order] for key, value in columns.items()}
    return columns


def same(found, expected):
    """Field by field; a float is written with all its bits."""
    assert found.rows == expected.rows
    assert found.settings == expected.settings
    assert len(found.records) == len(expected.records)
    for a, b in zip(found.records, expected.records, strict=True):
        assert list(a) == list(b)
        for key in a:
            assert repr(a[key]) == repr(b[key]), (key, b["stage"], b["update"])
    assert repr(found.interactions) == repr(expected.interactions)


def seen(report):
    """What a report shows, to know that the random logs have it all."""
    out = {(key, r[key]) for r in report.records for key in ("evidence", "shift_rung", "paired", "skippable")}
    out |= {reason for r in report.records for reason in r["invalid"]} | {
        r["certificate"]["label"] for r in report.records
    }
    out |= {x["state"] for r in report.records for x in r["scored_again"]}
    return out | {"matrix" for _ in report.interactions}


def test_stage_by_stage_is_whole(tmp_path):
    shown = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        columns = spoil(stages(rng), rng)
        if not columns["t"].size or (columns["t"] < 0).all():
            continue
        path = write(tmp_path / "log.parquet", columns, sampler=Sampler(1.0) if seed < 3 else None)
        settings = Settings(tolerance=0.4, complete=bool(seed % 3 == 0), held_out=bool(seed % 2), draws=20)
        expected = monitor(read_token_log(path), settings)
        parts = list(read_stages(path))
        assert [np.unique(x.stage).tolist() for x in parts] == [[x] for x in np.unique(columns["stage"])]
        same(monitor(read_stages(path), settings), expected)
        if seed < 3:  # parts of two processes
            folder = write_folder(tmp_path / f"{seed}", columns, Sampler(1.0), processes=2)
            same(monitor(read_stages(folder), settings), expected)
        shown |= seen(expected)
    for what in (
        ("evidence", "fresh"), ("evidence", "reused"), ("evidence", "incomplete"), ("paired", True), ("paired", False),
        ("skippable", True), ("skippable", False), ("shift_rung", "S3, re-scored rollouts"), "tokens are masked", "matrix",
        ("shift_rung", "S2, summed over updates"), "groups of unequal size: rollouts may be missing", "held-out", "part",
        "whole", "the log contradicts itself",
    ):  # fmt: skip
        assert what in shown, what


def test_several_stages_in_a_part(tmp_path, monkeypatch):
    """As many as have `PART` rows together, one at least; whatever the parts are, the report is the same."""
    columns = stages(np.random.default_rng(3), 7)
    path = write(tmp_path / "log.parquet", columns)
    settings = Settings(draws=20)
    expected = monitor(read_token_log(path), settings)
    sizes = np.unique(columns["stage"], return_counts=True)[1]
    for limit in (*np.cumsum(sizes).tolist(), *(np.cumsum(sizes) - 1).tolist()):
        monkeypatch.setattr(reading, "PART", limit)
        parts = list(read_stages(path))
        assert sum(x.t.size for x in parts) == columns["t"].size
        for part, following in itertools.pairwise(parts):
            several = np.unique(part.stage).size > 1
            assert part.t.size <= limit or not several
            assert part.t.size + (following.stage == following.stage[0]).sum() > limit
            assert part.stage[-1] < following.stage[0]
        same(monitor(parts, settings), expected)
    monkeypatch.setattr(reading, "PART", 2 * columns["t"].size)
    assert len(list(read_stages(path))) == 1


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_not_sorted_by_stage_is_read_whole(tmp_path, form):
    columns = stages(np.random.default_rng(4))
    order = np.random.default_rng(0).permutation(columns["t"].size)
    path = write(tmp_path / f"log.{form}", {key: value[order] for key, value in columns.items()})
    (part,) = read_stages(path)
    assert np.unique(part.stage).size == 3
    same(monitor(read_stages(path)), monitor(token_log(columns)))


def test_what_does_not_fit_says_what_to_sort_or_that_a_stage_has_to(tmp_path, monkeypatch):
    columns = stages(np.random.default_rng(4))
    rows, largest = columns["t"].size, int(np.bincount(columns["stage"]).max())
    path = write(tmp_path / "log.parquet", columns)
    monkeypatch.setattr("teamtr_jax.sizes.memory", lambda: largest * reading.PIECEWISE)
    with pytest.raises(InputError, match=rf"found about {rows:.3g} rows.*: sorted by stage it can be read in parts"):
        read_token_log(path)
    assert sum(x.t.size for x in read_stages(path)) == rows  # stage by stage it does
    other = write(tmp_path / "other.parquet", {key: value[::-1] for key, value in columns.items()})
    with pytest.raises(
        InputError, match=rf"about {rows:.3g} rows.*at most {largest:.3g} rows.*: sort its rows by stage, and"
    ):
        monitor(read_stages(other))
    monkeypatch.setattr("teamtr_jax.sizes.memory", lambda: largest * reading.PIECEWISE - 1)
    with pytest.raises(InputError, match=rf"about {largest:.3g} rows.*: a stage has to fit"):
        monitor(read_stages(path))


def test_so_much_memory_is_asked_for_as_was_measured():
    """180 bytes a row in pieces and 390 of JSON lines (docs/monitor.md), and some room."""
    assert 180 < reading.PIECEWISE < 2 * 180
    assert 390 < reading.AT_ONCE < 2 * 390


def changed(columns, key, row, value):
    return columns | {key: np.where(np.arange(columns["t"].size) == row, value, columns[key])}


@pytest.mark.parametrize("key", ["logp_new", "agent", "reward", "t", "stage"])
def test_a_bad_row_of_the_last_stage_has_its_number(tmp_path, key):
    """The same message as of the log read whole, by the row of the file, which is not the row of its stage."""
    columns = stages(np.random.default_rng(8), length=2)
    row = columns["t"].size - 1
    value = {"logp_new": 2.0, "reward": 0.5, "stage": -1, "t": 0}.get(key, columns[key][row] + 1)
    path = write(tmp_path / "log.parquet", changed(columns, key, row, value), check=False)
    with pytest.raises(InputError) as expected:
        read_token_log(path)
    with pytest.raises(InputError) as found:
        monitor(read_stages(path))
    assert str(found.value) == str(expected.value)
    assert str(row + 1) in str(found.value)


def test_no_value_in_a_later_piece(tmp_path):
    columns = stages(np.random.default_rng(8))
    row = columns["t"].size - 2
    for key in ("stage", "logp_new"):
        table = pa.table(
            columns | {key: pa.array([None if i == row else x for i, x in enumerate(columns[key].tolist())])}
        )
        parquet.write_table(table, tmp_path / "log.parquet")
        for read in (read_token_log, lambda path: monitor(read_stages(path))):
            with pytest.raises(InputError, match=f"column {key}, row {row + 1}: found no value, expected a number"):
                read(tmp_path / "log.parquet")


def test_a_log_without_token(tmp_path):
    """One stage may have none, the whole log may not."""
    columns = stages(np.random.default_rng(8))
    path = write(tmp_path / "log.parquet", without_tokens(columns, columns["t"] >= 0), check=False)
    with pytest.raises(InputError, match="found no token, expected at least one token"):
        monitor(read_stages(path))
    path = write(tmp_path / "log.parquet", without_tokens(columns, columns["stage"] == 0))
    assert monitor(read_stages(path)).records[0]["tokens"] == 0
    parquet.write_table(pa.table({key: value[:0] for key, value in columns.items()}), path)
    for read in (read_token_log, lambda path: monitor(read_stages(path))):
        with pytest.raises(InputError, match="found no rows, expected at least one token"):
            read(path)


def test_other_parts_are_refused():
    columns = stages(np.random.default_rng(8), 2)
    log = token_log(columns)
    for parts in (
        [log, log],
        [token_log(without(columns, columns["stage"] == 0)), token_log(without(columns, columns["stage"] > 0))],
    ):
        with pytest.raises(
            InputError, match=r"^log: found stage 0 after stage \d, expected parts of whole stages, ascending"
        ):
            monitor(parts)
    with pytest.raises(InputError, match=r"^log: found no part"):
        monitor([])


# --------------------------------------------------------------------------------------------------- memory, progress, imports


@pytest.mark.parametrize("folder", [False, True])
def test_of_a_part_nothing_is_kept(tmp_path, monkeypatch, folder):
    """When the next one is read the rows of the one before are gone: every column, and every view of it."""
    alive, filled, made = [], reading._fill, reading.log_of

    def watched(used, *arguments):
        assert used or not any(column() is not None for column in alive)
        return filled(used, *arguments)

    def noted(*arguments):
        log = made(*arguments)
        alive.extend(weakref.ref(getattr(log, key)) for key in ("stage", "logp_new", "reward", "transcripts", "source"))
        return log

    monkeypatch.setattr(reading, "_fill", watched)
    monkeypatch.setattr(reading, "log_of", noted)
    columns = stages(np.random.default_rng(3), 4)
    path = write(tmp_path / "log.parquet", columns)
    if folder:
        path = write_folder(tmp_path / "log", columns, Sampler(1.0))
    monitor(read_stages(path))
    assert len(alive) == 20


@pytest.mark.parametrize("group", [10**9, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_is_that_of_a_stage(tmp_path, group, monkeypatch):
    """Eight equal stages take what one takes and the report, of NumPy's memory and of pyarrow's; also in one row group."""
    monkeypatch.setattr(reading, "BLOCK", 1000)
    one = stages(np.random.default_rng(1), 1, prompts=150)
    rows = one["t"].size
    many = joined([one | {"stage": one["stage"] + i} for i in range(8)])
    path = tmp_path / "log.parquet"

    def peak(columns):
        parquet.write_table(pa.table(columns), path, row_group_size=group)
        held = []

        def parts():
            for part in read_stages(path):
                held.append(pa.total_allocated_bytes())
                yield part
                del part

        tracemalloc.start()
        report = monitor(parts(), Settings(draws=1))
        kept, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.rows == columns["t"].size
        return found - kept, max(held)

    peak(one)  # what is imported and kept at the first time
    (alone, _), (together, arrow) = peak(one), peak(many)
    assert together < 1.2 * alone
    assert arrow < 8 * rows * 11 * 8 / 4  # a quarter of what the columns take


def test_a_terminal_is_told_how_long_it_takes(tmp_path, monkeypatch, capsys):
    columns = stages(np.random.default_rng(3), 4)
    path = write(tmp_path / "log.parquet", columns)
    rows, sizes = columns["t"].size, np.unique(columns["stage"], return_counts=True)[1]
    for terminal, patience, expected in ((True, 0.0, 3), (True, 1e9, 0), (False, 0.0, 0)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(command, "PATIENCE", patience)
        assert run(path, Settings(draws=1), json=True) == 0
        said = capsys.readouterr().err
        assert said.count(f" of {rows:,} rows, about ") == expected
        for done in np.cumsum(sizes)[:-1] if expected else ():
            assert f"{100 * done // rows} % of" in said
        assert said.endswith(command.CLEAR if expected else "")


def test_a_report_needs_no_jax_and_no_statistics_package(tmp_path):
    """Start-up is what a small log takes: jax and scipy.stats would be two thirds of it. Figures are imported for the page."""
    path = write(tmp_path / "log.parquet", stages(np.random.default_rng(3), 2))
    program = f"""
import sys
from pathlib import Path
from teamtr_jax.monitor import Settings, run
slow = {{"jax", "jaxlib", "scipy.stats", "matplotlib", "pandas"}}
assert not {{*slow, "scipy", "pyarrow"}} & sys.modules.keys()
run(Path({str(path)!r}), Settings())
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Token-KL monitor" in done.stdout
