"""A log that is followed: the report of it read whole, bit for bit, in the memory of a stage; what ends it, what it refuses."""

import inspect
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from monitor_logs import joined, sampled, world, write_folder
from rich.console import Console

from teamtr_jax.formats import dump
from teamtr_jax.integrations import LogWriter, Sampler
from teamtr_jax.monitor import Follower, Settings, append_token_log, command, growing, monitor, read_stages
from teamtr_jax.monitor import write_token_log as write
from teamtr_jax.monitor.columns import number
from teamtr_jax.monitor.dashboard import drawn
from teamtr_jax.monitor.follow import follow
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor_settings import Watching
from teamtr_jax.validation import InputError

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[1]
SETTINGS = Settings(held_out=True, tolerance=0.3, draws=1)
PLAIN = Sampler(temperature=1.0)


def log(stages=3, prompts=4, seed=0):
    """Some with the start scored again, some without; agents and updates in several orders."""
    rng = np.random.default_rng(seed)
    parts = []
    for stage in range(stages):
        w = world(rng, owners=(0, 1, 2), order=tuple(rng.permutation(3)), step=rng.choice([0.1, 1.0]))
        again = bool(stage % 2)
        parts.append(sampled(w, rng, prompts, 3, fresh=not again or stage > 1, again=again))
        parts[-1]["stage"] += 2 * stage
    return joined(parts)


def of(columns, stage=None, update=None):
    kept = np.ones(columns["t"].size, bool)
    for key, wanted in (("stage", stage), ("update", update)):
        kept &= True if wanted is None else columns[key] == wanted
    return {key: x[kept] for key, x in columns.items()}


def places(columns):
    return sorted(set(zip(columns["stage"].tolist(), columns["update"].tolist(), strict=True)))


def same(a, b):
    """All of two reports: strings of floats are exact."""
    assert repr(a) == repr(b)


def until(columns, stage, update):
    """The last record of the log as it was at this update."""
    kept = (columns["stage"] < stage) | ((columns["stage"] == stage) & (columns["update"] <= update))
    return {key: x[kept] for key, x in columns.items()}


# --------------------------------------------------------------------------------------------------------------- the report


def test_lines_that_come_in_pieces(tmp_path):
    """Cut anywhere, in the middle of lines too: in the end the report of the whole; of each update the record as it was then."""
    columns = log()
    data = write(tmp_path / "whole.jsonl", columns).read_bytes()
    path, told = tmp_path / "run.jsonl", []
    path.touch()
    follower = Follower(path, SETTINGS, told.append)
    assert not follower.look()
    assert follower.report() is None
    rng = np.random.default_rng(1)
    cuts = [0, 3, *np.sort(rng.integers(3, len(data), 6)).tolist(), len(data)]
    for a, b in itertools.pairwise(cuts):
        with path.open("ab") as file:
            file.write(data[a:b])
        follower.look()
        lines = data[:b].count(b"\n")
        found = follower.report()
        assert (0 if found is None else found.rows) == lines  # the half of a line waits
        assert [(r["stage"], r["update"]) for r in told] == [
            x for x in places(columns) if x < max(seen(data[:b]), default=(0, 0))
        ]
    same(follower.end(), monitor(read_stages(tmp_path / "whole.jsonl"), SETTINGS))
    for record, place in zip(told, places(columns), strict=True):
        write(tmp_path / "cut.jsonl", until(columns, *place))
        assert dump(record) == dump(monitor(read_stages(tmp_path / "cut.jsonl"), SETTINGS).records[-1])


def seen(data):
    rows = map(json.loads, data[: data.rfind(b"\n") + 1].splitlines())
    return [(row["stage"], row["update"]) for row in rows]


@pytest.mark.parametrize("block", [2**24, 4000])
def test_a_last_line_without_its_end(tmp_path, monkeypatch, block):
    """It waits while the log is written, and counts in the end as it does in the log read whole; half of one never does."""
    monkeypatch.setattr(growing, "BLOCK", block)
    data = write(tmp_path / "whole.jsonl", log(2)).read_bytes().rstrip(b"\n")
    path = tmp_path / "run.jsonl"
    path.write_bytes(data)
    follower = Follower(path, SETTINGS)
    follower.look()
    assert follower.report().rows == data.count(b"\n")
    same(follower.end(), monitor(read_stages(tmp_path / "whole.jsonl"), SETTINGS))
    path.write_bytes(data[:-5])
    assert follow(path, SETTINGS, every=0.01, until_idle=0.02).report.rows == data.count(b"\n")


@pytest.mark.parametrize("block", [2**24, 4000])
def test_sampler_settings_and_second_scorings(tmp_path, monkeypatch, block):
    """The first line says how tokens were drawn; `logp_again` may be missing in some stages, and in some blocks of one."""
    monkeypatch.setattr(growing, "BLOCK", block)
    columns = log(3)
    none = (columns["stage"] == 2) | (columns["prompt"] > 1)
    again = np.where(none, np.nan, columns["logp_current"] + 1e-9)
    path = write(tmp_path / "run.jsonl", columns | {"logp_again": again}, sampler=PLAIN)
    follower = Follower(path, SETTINGS)
    follower.look()
    same(follower.end(), monitor(read_stages(path), SETTINGS))


def test_a_folder_of_parts(tmp_path):
    """Two processes, one behind the other: a stage is finished once both have begun a later one."""
    columns = log(3)
    told, finished = [], []
    follower = None
    with (
        LogWriter(tmp_path / "run", sampler=PLAIN, processes=2) as a,
        LogWriter(tmp_path / "run", sampler=PLAIN, process=1, processes=2) as b,
    ):
        for place in places(columns):
            for process, writer in enumerate((a, b)):
                rows = of(columns, *place)
                writer.add({key: x[rows["prompt"] % 2 == process] for key, x in rows.items()})
                writer.flush()
                if follower is None:
                    follower = Follower(tmp_path / "run", SETTINGS, lambda r: told.append((r["stage"], r["update"])))
                assert follower.look()
                assert not follower.look()
                finished.append((place, process, follower._source._done[0], len(told)))
    stages = [x[0] for x in places(columns)]
    for (stage, _), process, done, count in finished:
        before = stages.index(stage)
        assert done == (-1 if before == 0 else stages[before - 1] if process == 1 or count > before else done)
    assert [count for *_, count in finished] == [0, *(n // 2 for n in range(2 * len(stages) - 1))]
    same(follower.end(), monitor(read_stages(tmp_path / "run"), SETTINGS))
    assert told == places(columns)


def test_an_update_that_is_made_anew_is_told_again(tmp_path):
    """After `go_back` parts have the names of those that are gone; at no time are numbers of these in the report."""
    columns, told = log(1), []
    other = columns | {"logp_new": columns["logp_new"] * 1.01}
    with LogWriter(tmp_path / "run", sampler=PLAIN) as writer:
        follower = Follower(tmp_path / "run", SETTINGS, told.append)

        def written(table, update):
            writer.add(of(table, 0, update))
            writer.flush()

        for update in range(3):
            written(columns, update)
        follower.look()
        writer.go_back(0, 2)
        written(other, 2)
        assert follower.look()  # the same names as before
        same(follower.report(), monitor(read_stages(tmp_path / "run"), SETTINGS))
        writer.go_back(0, 1)
        follower.look()
        for update in (1, 2):
            written(other, update)
        follower.look()
        same(follower.end(), monitor(read_stages(tmp_path / "run"), SETTINGS))
    assert [r["update"] for r in told] == [0, 1, 1, 2]
    assert told[1]["kl_k1"] != told[2]["kl_k1"] == follower.report().records[1]["kl_k1"]


def test_training_goes_on_with_fewer_processes(tmp_path):
    """No update waits for those that are gone, though the stage does until the next but one."""
    columns, told = of(log(1), 0, 0), []
    follower = Follower(write_folder(tmp_path / "run", columns, PLAIN, processes=2), SETTINGS, told.append)
    follower.look()
    with LogWriter(tmp_path / "run", sampler=PLAIN) as writer:
        for update in range(1, 6):
            writer.add(columns | {"update": columns["update"] + update})
            writer.flush()
            follower.look()
            assert [r["update"] for r in told] == list(range(update if update > 2 else 0))


def test_an_update_whose_rows_come_late_is_told_again(tmp_path):
    """As where two processes append to one file: what was told of a half of its rollouts is put right."""
    columns, told = of(log(1), 0), []
    half = columns["prompt"] == columns["prompt"][0]
    path = write(tmp_path / "log.jsonl", {key: x[half] for key, x in columns.items()})
    follower = Follower(path, SETTINGS, told.append)
    follower.look()
    append_token_log(path, {key: x[~half] for key, x in columns.items()})
    follower.look()
    assert [(r["update"], r["rollouts"]) for r in told] == [(0, 3), (1, 3), (0, 12), (1, 12)]
    assert not follower.look()
    follower.end()
    assert [r["update"] for r in told[4:]] == [2]


def test_a_stage_waits_for_a_process_until_two_later_ones_have_begun(tmp_path):
    columns, done = of(log(1), 0, 0), []
    follower = Follower(write_folder(tmp_path / "run", columns, PLAIN, processes=2), SETTINGS)
    with LogWriter(tmp_path / "run", sampler=PLAIN) as writer:
        for stage in (1, 2, 3):
            writer.add(columns | {"stage": columns["stage"] + stage})
            writer.flush()
            follower.look()
            done.append(follower._source._done[0])
    assert done == [-1, 1, 2]


def test_what_is_told_of_two_stages_that_are_not_finished(tmp_path):
    """One process is behind: in the end the update of the later stage is told as it stands in the report, draws included."""
    columns, told, settings = log(2), [], Settings(held_out=True, draws=97, delta=1e-3)
    with (
        LogWriter(tmp_path / "run", sampler=PLAIN, processes=2) as a,
        LogWriter(tmp_path / "run", sampler=PLAIN, process=1, processes=2) as b,
    ):
        for place in places(columns)[:4]:
            for process, writer in enumerate((a, b)):
                if place[0] == 0 or process == 0:
                    rows = of(columns, *place)
                    writer.add({key: x[rows["prompt"] % 2 == process] for key, x in rows.items()})
    follower = Follower(tmp_path / "run", settings, told.append)
    follower.look()
    assert len(follower._current) == 2
    report = follower.end()
    assert 0 < report.records[-1]["flips_25"] < 1
    assert dump(told[-1]) == dump(report.records[-1])
    assert [(r["stage"], r["update"]) for r in told] == places(columns)[:4]


def test_late_rows_of_one_update_tell_it_again_alone(tmp_path):
    """Later ones have begun before, and are whole still."""
    columns, told = of(log(1), 0), []
    late = (columns["update"] == 0) & (columns["prompt"] == columns["prompt"][0])
    path = write(tmp_path / "log.jsonl", {key: x[~late] for key, x in columns.items()})
    follower = Follower(path, SETTINGS, told.append)
    follower.look()
    append_token_log(path, {key: x[late] for key, x in columns.items()})
    follower.look()
    assert [(r["update"], r["prompts"]) for r in told] == [(0, 3), (1, 4), (0, 4)]


def test_memory_does_not_grow_with_the_stages(tmp_path, monkeypatch):
    """Of 12 stages of equal size never more rows are held than one has; nothing of a finished one is read again."""
    one = sampled(
        world(np.random.default_rng(0), owners=(0, 1), order=(0, 1)), np.random.default_rng(0), 4, 2, again=False
    )
    path, size, held = tmp_path / "run.jsonl", one["t"].size, []
    follower = None
    for stage in range(12):
        append_token_log(path, one | {"stage": one["stage"] + stage})
        follower = follower or Follower(path, SETTINGS)
        follower.look()
        held.append(follower.held)
        assert sum(x.rows for x in follower._current) == size
    assert held == [size] * 12
    assert len(follower.end().records) == 24
    whole = path.stat().st_size
    monkeypatch.setattr(growing, "BLOCK", 5000)  # at once, from the beginning: in blocks, and as little
    late = Follower(path, SETTINGS)
    most = []
    original = growing.log_of
    monkeypatch.setattr(growing, "log_of", lambda used, *rest: most.append(used["t"].size) or original(used, *rest))
    late.look()
    assert whole > 5 * 5000
    assert max(most) == late.held == size
    same(late.end(), follower.end())
    monkeypatch.setattr(growing, "decoded_lines", None)  # nothing is decoded any more
    assert not late.look()


# --------------------------------------------------------------------------------------------------------------- what ends it


def test_it_ends_when_nothing_comes(tmp_path):
    path = write(tmp_path / "run.jsonl", log(1))
    found = follow(path, SETTINGS, every=0.01, until_idle=0.05)
    assert (found.because, found.record) == ("idle", None)
    same(found.report, monitor(read_stages(path), SETTINGS))


def test_it_ends_when_it_is_told(tmp_path):
    """While another thread writes: reports on the way, each record once, and the end."""
    columns, stop = log(2), threading.Event()
    path, reports, records = tmp_path / "run.jsonl", [], []
    path.touch()

    def trainer():
        for place in places(columns):
            append_token_log(path, of(columns, *place))
            time.sleep(0.02)
        stop.set()

    thread = threading.Thread(target=trainer)
    thread.start()
    found = follow(path, SETTINGS, every=0.01, on_report=reports.append, on_record=records.append, stop=stop)
    thread.join()
    assert found.because == "stopped"
    assert [(r["stage"], r["update"]) for r in records] == places(columns)
    assert [x.rows for x in reports] == sorted(x.rows for x in reports)
    same(found.report, monitor(read_stages(path), SETTINGS))


def test_a_callback_ends_it_at_once(tmp_path):
    """Nothing after that update is told, and no later stage is read."""
    columns = log()
    path, told = write(tmp_path / "run.jsonl", columns), []
    found = follow(path, SETTINGS, on_record=lambda r: told.append(r) or r["stage"] == 2)
    assert (found.because, found.record) == ("enough", told[-1])
    assert [(r["stage"], r["update"]) for r in told] == [x for x in places(columns) if x <= (2, 0)]
    assert {r["stage"] for r in found.report.records} == {0, 2}


def test_the_last_update_settles(tmp_path):
    """Without a later one it is whole after a while, and is told once."""
    path, told = write(tmp_path / "run.jsonl", of(log(1), update=0)), []
    follow(path, SETTINGS, every=0.01, settle=0.0, until_idle=0.05, on_record=told.append)
    assert len(told) == 1


class Clock(threading.Event):
    """Seconds that nothing takes but waiting, and looking, `look` each; `at` is what happens then."""

    def __init__(self, look, at=None):
        super().__init__()
        self.now, self.look, self.at, self.waits = 0.0, look, at or {}, []

    def monotonic(self):
        return self.now

    def is_set(self):
        return False

    def wait(self, timeout=None):
        self.waits.append(timeout)
        self.now += timeout
        for when in [x for x in self.at if x <= self.now]:
            self.at.pop(when)()


def timed(monkeypatch, clock, path, **more):
    """When each update was told, and when following ended."""
    looked, told = Follower.look, []

    def look(self):
        clock.now += clock.look
        return looked(self)

    monkeypatch.setattr(Follower, "look", look)
    monkeypatch.setattr(sys.modules["teamtr_jax.monitor.follow"], "time", clock)
    follow(path, SETTINGS, on_record=lambda r: told.append((r["update"], clock.now)), stop=clock, **more)
    return told


def test_an_update_settles_after_as_long_as_is_said(tmp_path, monkeypatch):
    """Half a minute without a row, looked at every two seconds; a row begins it anew."""
    columns = of(log(1), 0, 0)
    half = columns["prompt"] == columns["prompt"][0]
    path = write(tmp_path / "log.jsonl", {key: x[half] for key, x in columns.items()})
    clock = Clock(0.25)
    ((update, when),) = timed(monkeypatch, clock, path, until_idle=100.0)
    assert (update, set(clock.waits[:-1])) == (0, {2.0})
    assert 30 <= when - 0.25 < 32.5
    assert 100 <= clock.now - 0.25 < 103  # and a last look
    monkeypatch.undo()
    rest = {key: x[~half] for key, x in columns.items()}
    ((_, when),) = timed(monkeypatch, Clock(0.25, {20.0: lambda: append_token_log(path, rest)}), path, until_idle=50.0)
    assert 50 <= when < 55
    assert inspect.signature(follow).parameters["every"].default == Watching().refresh == 2.0
    assert inspect.signature(follow).parameters["settle"].default == Watching().settle == 30.0


def test_what_takes_long_is_looked_at_rarely(tmp_path, monkeypatch):
    """Nothing for four times as long as the last look took: a fifth of the time at most."""
    clock = Clock(3.0)
    timed(monkeypatch, clock, write(tmp_path / "log.jsonl", of(log(1), 0, 0)), every=0.5, until_idle=60.0)
    assert set(clock.waits) == {12.0}


def test_a_page_takes_a_sixth_of_the_time_at_most(tmp_path, monkeypatch):
    clock, written = Clock(0.0), []

    def write_page(*arguments):
        written.append(clock.now)
        clock.now += 2.0

    monkeypatch.setattr(command, "time", clock)
    monkeypatch.setattr(command, "write_page", write_page)
    pages = command._Pages(tmp_path / "page.html", "log", 2.0)
    for now in (0.0, 2.0, 11.9, 12.0, 13.0):
        clock.now = max(clock.now, now)
        pages.write(MonitorReport([], [], SETTINGS, 0))
    assert written == [0.0, 12.0]


def test_how_much_longer_it_takes(monkeypatch, capsys):
    """A terminal is told after two seconds: at the same pace three quarters take thrice as long as a quarter did."""
    clock = Clock(0.0)
    monkeypatch.setattr(command, "time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with command._progress() as tell:
        clock.now = 1.9
        tell(10, 1000)
        assert capsys.readouterr().err == ""
        clock.now = 3.0
        tell(250, 1000)
        assert capsys.readouterr().err.endswith("25 % of 1,000 rows, about 9 s left")
    assert capsys.readouterr().err == command.CLEAR


def test_advice_at_the_end_of_a_log_that_is_followed(tmp_path, capsys):
    """Nothing else is printed, neither lines of updates nor records."""
    path, still = write(tmp_path / "run.jsonl", log(1)), Watching(follow=True, until_idle=0.0)
    assert command.run(path, SETTINGS, advice=True, watching=still) == 0
    assert capsys.readouterr().out.startswith("Agent ")
    assert command.run(path, SETTINGS, advice=True, json=True, watching=still) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) >= {"keep_rollouts", "radius", "hold", "reasons", "schema"} for line in lines] == [True] * 3


def test_the_command_follows(tmp_path, capsys, monkeypatch):
    """Lines where there is no terminal, the verdict in the end, where the figures are; a threshold ends it, exit code 4."""
    path, page = write(tmp_path / "run.jsonl", log(1)), tmp_path / "page.html"
    still, pages = Watching(follow=True, until_idle=0.0, refresh=1.5), []
    original = command.write_page
    monkeypatch.setattr(command, "write_page", lambda *args: pages.append(original(*args).read_text()))
    assert command.run(path, SETTINGS, html=page, watching=still) == 0
    out = capsys.readouterr()[0]
    first, last = pages  # on the way and in the end
    assert "<meta http-equiv=refresh content=2>" in first
    assert "still written" in first
    assert "http-equiv=refresh" not in last
    assert last == page.read_text()
    assert out.startswith("update 0.0, agent")
    assert f"\nFigures: {page}\n" in out
    assert "Inside its radius?" in out
    failing = Watching(follow=True, until_idle=60.0, fail_above=("kl_k3=1e-12",))
    assert command.run(path, SETTINGS, json=True, watching=failing) == command.PASSED
    out, err = capsys.readouterr()
    assert [json.loads(x)["update"] for x in out.splitlines()] == [0]
    assert "teamtr: update 0.0 of" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT there")
def test_control_c_stops_and_then_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with command._stopped_by_hand() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_terminal_is_told_that_the_log_is_not_there_yet(tmp_path, capsys):
    path = tmp_path / "none.jsonl"
    with pytest.raises(InputError, match="found no such file"):
        command.run(path, SETTINGS, watching=Watching(follow=True, until_idle=0.0))
    assert capsys.readouterr() == ("", f"teamtr: {path} is not there yet: waiting (Ctrl-C ends)\n")


def test_no_number_is_cut_on_a_narrow_screen(tmp_path):
    """Whatever its width: verdicts and the last updates; before the first row that there is none."""
    report = monitor(read_stages(write(tmp_path / "run.jsonl", log(1))), SETTINGS)
    for width in (60, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(drawn(report, "run", "Ctrl-C ends"))
        text = console.export_text()
        assert "…" not in text
        assert "Agent 0: " in text
        assert "Ctrl-C ends" in text
        if width == 200:
            assert all(number(r["kl_k1"]["value"]) in text for r in report.records)
    console.print(drawn(None, "run", ""))
    assert "run: nothing yet" in console.export_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT there")
def test_control_c_ends_with_the_verdict(tmp_path):
    path = write(tmp_path / "run.jsonl", log(1))
    run = subprocess.Popen(
        [sys.executable, "-m", "teamtr_jax.cli", "monitor", str(path), "--follow", "--refresh", "0.1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout.readline().startswith("update 0.0")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "Inside its radius?" in out
    assert err == ""


# --------------------------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_followed_is_named(tmp_path):
    columns = log(3)
    parquet = write(tmp_path / "run.parquet", columns)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for call, message in (
        (lambda: Follower(parquet), "found one Parquet file, expected JSON lines or a folder of parts"),
        (lambda: Follower(tmp_path / "none.jsonl"), "found no such file"),
        (lambda: follow(empty, until_idle=0), "empty.jsonl: found nothing until now"),
        (lambda: follow(empty, every=0.0), "--refresh: found 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path):
    """Under any name: one that is no file's will be a folder."""
    path, columns = tmp_path / "run.teamtr", of(log(1), 0, 0)

    def train():
        with LogWriter(path, sampler=PLAIN) as writer:
            writer.add(columns)

    late = threading.Timer(0.1, train)
    late.start()
    assert len(follow(path, SETTINGS, every=0.02, until_idle=0.4).report.records) == 1
    late.join()
    for name in ("run", "run.jsonl"):
        with pytest.raises(InputError, match="found no such file, expected a token log"):
            follow(tmp_path / name, every=0.01, until_idle=0.02)


def test_bad_lines_are_named(tmp_path):
    """With the line of the file, whenever it was read."""
    columns, path = log(3), tmp_path / "run.jsonl"
    first, last = of(columns, 0), of(columns, 4)
    row = {key: x[0].item() for key, x in last.items()}
    number = first["t"].size + 1
    early = {key: x[0].item() for key, x in first.items()}
    for more, message in (
        ([{"stage": 4}], "run.jsonl: columns: found no prompt"),
        ([row, {"stage": 4}], f"column prompt, line {number + 1}: found no value"),
        ([[]], f"line {number}: found a list, expected a JSON object"),
        ([row | {"reward": 2}], "column reward: found 2.0"),
        ([row | {"logp_new": 1.0}], f"column logp_new, line {number}: found 1.0"),
        ([row, early], f"column stage, line {number + 1}: found 0, expected at least 4"),
        ([early], f"column t, line {number}: found 0, and 0 in line 1, expected one row"),
        ([row | {"token": 3}], f"column token, line {number}: found values, expected none, as in the lines before"),
        ([row | {"said": "a\u2028b"}, row | {"t": "x"}], f"column t, line {number + 1}: found 'x'"),
    ):
        write(path, first)
        follower = Follower(path, SETTINGS, lambda r: None)
        follower.look()
        with path.open("a") as file:
            file.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in more)
        with pytest.raises(InputError, match=message):
            follower.end()
    write(path, first)
    follower = Follower(path, SETTINGS)
    follower.look()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"found 100 bytes, after \d+ were read, expected a file that grows"):
        follower.look()


def test_a_line_without_an_end_is_named(tmp_path, monkeypatch):
    """More than any row has; a little less waits for the rest."""
    monkeypatch.setattr(growing, "HEAD", 100)
    path = tmp_path / "run.jsonl"
    for size, bad in ((99, False), (100, True)):
        path.write_text("x" * size)
        follower = Follower(path, SETTINGS)
        if bad:
            with pytest.raises(
                InputError, match="line 1: found no line break in 100 bytes, expected one JSON object per line"
            ):
                follower.look()
        else:
            follower.look()


def test_a_stage_that_does_not_fit_is_named(tmp_path, monkeypatch):
    columns = log(1)
    path, rows = write(tmp_path / "run.jsonl", columns), columns["t"].size
    for bytes_, bad in ((rows * growing.PIECEWISE, False), (rows * growing.PIECEWISE - 1, True)):
        monkeypatch.setattr("teamtr_jax.sizes.memory", lambda bytes_=bytes_: bytes_)
        follower = Follower(path, SETTINGS)
        if bad:
            with pytest.raises(InputError, match="a stage has to fit, see docs/monitor"):
                follower.look()
        else:
            assert follower.look()


def test_a_log_that_was_written_anew_is_named(tmp_path):
    """Longer than the one before: a part of each would be read as one."""
    columns = log(1)
    path = write(tmp_path / "log.jsonl", of(columns, 0, 0))
    follower = Follower(path, SETTINGS)
    follower.look()
    write(path, columns | {"logp_new": columns["logp_new"] * 1.01})
    with pytest.raises(InputError, match=r"found other lines than were read, .* it was cut or replaced, begin again"):
        follower.look()


def test_a_part_of_a_finished_stage_is_named(tmp_path):
    """Training that goes back behind it, or a process that is late."""
    columns = log(2)
    with LogWriter(tmp_path, sampler=PLAIN) as writer:
        for place in places(columns):
            writer.add(of(columns, *place))
        writer.flush()
        follower = Follower(tmp_path, SETTINGS)
        follower.look()
        assert follower._source._done[0] == 0
        writer.go_back(0, 2)
        with pytest.raises(InputError, match="other parts of stages up to 0 than were read"):
            follower.look()
