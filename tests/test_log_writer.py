"""LogWriter: parts that are there whole or not at all, ids that never collide, what is refused; and folders of parts, read."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from monitor_logs import joined, sampled, world, write_folder
from test_monitor_log import a_disk_of

from teamtr_jax import integrations
from teamtr_jax.integrations import LogWriter, Sampler, log_writer
from teamtr_jax.monitor import monitor, read_stages, read_token_log, token_log, token_rows
from teamtr_jax.monitor import parts as names
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.validation import InputError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SAMPLER = Sampler(temperature=0.7, precision="bfloat16")
ROOT = Path(__file__).parents[1]
ABSENT = {"jax", "jaxlib", "scipy", "torch", "flax", "optax", "jaxtyping", "transformers", "matplotlib"}


def rows(update=0, prompt=0, stage=0, rollouts=2, **more):
    """Two tokens of each rollout of one prompt."""
    logp = np.full((rollouts, 2), -0.5)
    about = dict(prompt=prompt, rollout=np.arange(rollouts), stage=stage, update=update, agent=0, turn=0, reward=1.0)
    about |= dict.fromkeys(("logp_behaviour", "logp_current", "logp_new"), logp) | more
    return token_rows(np.ones(logp.shape), **about)


def writer_of(folder, **settings):
    return LogWriter(folder, **{"sampler": SAMPLER} | settings)


def written(folder, *tables, **settings):
    with writer_of(folder, **settings) as writer:
        for table in tables:
            writer.add(table)
    return folder


def refused(call, *arguments, **settings):
    with pytest.raises(InputError) as error:
        call(*arguments, **settings)
    return str(error.value)


def parts(folder):
    return [part.name for part in names.parts_of(folder)]


# --------------------------------------------------------------------------------------------------------- other processes


ALONE = f"""
import importlib.abc, runpy, sys
class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Nowhere())
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / "tests" / "light_writer.py")!r}, run_name="__main__")
"""
"""A process in which these cannot be imported."""


def test_killed_in_the_middle_of_a_flush_without_jax(tmp_path):
    """By SIGKILL, in four places: what was flushed before is there, what was not is not. Two processes at once: all is there."""
    run = subprocess.run([sys.executable, "-c", ALONE, tmp_path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert not ABSENT & {name.partition(".")[0] for name in found["modules"]}
    for place, what in found["killed"].items():
        updates = 2 if place == "a part" else 1
        assert what == {"signal": 9, "last": [0, updates - 1], "updates": [*range(updates)], "rows": 24 * updates,
                        "prompts": 3 * updates, "sampler": True}, place  # fmt: skip
    assert found["at once"] == {"codes": [0, 0], "rows": 2 * 4 * 24, "transcripts": 2 * 4 * 6}


# ------------------------------------------------------------------------------------------------------------- what is read


def test_a_folder_is_the_log(tmp_path):
    """Parts of three processes give the report of the log in one piece, number by number; so does every stage by itself."""
    rng = np.random.default_rng(0)
    tables = []
    for stage in (0, 3):
        tables.append(sampled(world(rng, owners=(0, 1, 0), order=(0, 1)), rng, 6, 3))
        tables[-1]["stage"] += stage
    columns = joined(tables)
    folder = write_folder(tmp_path / "log", columns, SAMPLER, processes=3)
    assert len(parts(folder)) == 3 * 2 * 2
    expected, whole, pieces = token_log(columns, sampler=SAMPLER), read_token_log(folder), list(read_stages(folder))
    for name, a, b in zip(expected._fields, expected, whole, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert [np.unique(piece.stage).tolist() for piece in pieces] == [[0], [3]]
    assert {piece.sampler for piece in pieces} == {whole.sampler} == {SAMPLER}
    assert repr(monitor(pieces).records) == repr(monitor(expected).records)
    told = []
    for _ in read_stages(folder, progress=lambda *x: told.append(x)):
        pass
    assert told == [(columns["t"].size // 2, columns["t"].size)]


def test_what_is_no_part(tmp_path):
    """Temporary files, locks, parts set aside and notes are none; what looks like a log and is not named so is refused."""
    folder = written(tmp_path / "log", rows())
    for name in (f".{parts(folder)[0]}.0123.tmp", "notes.md", f"{parts(folder)[0]}.aside-0"):
        (folder / name).write_text("no log")
    (folder / "inner.parquet").mkdir()
    assert (folder / ".writer-0000.lock").exists()
    assert read_token_log(folder).rows == 4
    for name in ("log.parquet", "0-0-0-0.parquet", "log.jsonl", parts(folder)[0].replace("-0000.", "-00000.")):
        (folder / name).write_text("no log")
        assert f"{name}: found another name, expected STAGE-UPDATE-PROCESS-SERIAL.parquet" in refused(
            read_token_log, folder
        )
        assert name in refused(writer_of, folder)
        (folder / name).unlink()
    (tmp_path / "empty").mkdir()
    for read in (read_token_log, read_stages):
        assert "found a folder without parts" in refused(lambda read=read: list(read(tmp_path / "empty")))


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    """Not of their names: a stage may have nine digits."""
    places = [
        (99_999_999, 0, 0, 1),
        (100_000_000, 0, 0, 0),
        (3, 9999, 0, 0),
        (3, 10_000, 0, 0),
        (3, 9999, 1, 0),
        (3, 2, 5, 7),
    ]
    for place in places:
        (tmp_path / names.Part(*place).name).touch()
    assert [tuple(part) for part in names.parts_of(tmp_path)] == sorted(places)


def test_a_part_whose_disk_is_not_there_is_missing(tmp_path):
    """A link to nothing: the report of the rest would be one of fewer rollouts, or updates."""
    folder = written(tmp_path / "log", rows(), rows(1, prompt=2))
    part = folder / parts(folder)[-1]
    part.rename(tmp_path / "elsewhere.parquet")
    part.symlink_to(tmp_path / "elsewhere.parquet")
    assert read_token_log(folder).rows == 8
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "nowhere.parquet")
    for read in (read_token_log, read_stages):
        assert f"{part.name}: found" in refused(lambda read=read: list(read(folder)))


def test_nobody_says_anything(tmp_path):
    """An update or a stage may be without token, a log may not."""
    table = rows()
    mute = token_rows(np.zeros((2, 1)), **{key: column[::2] for key, column in table.items() if key != "t"})
    folder = written(tmp_path / "log", mute)
    for read in (read_token_log, lambda path: list(read_stages(path))):
        assert "found no token" in refused(read, folder)
    written(folder, rows(stage=1), process=1, processes=2)
    assert [x.rows for x in read_stages(folder)] == [0, 4]


def test_parts_that_do_not_belong_together(tmp_path):
    """In one stage: one sampler and one set of columns. Another stage may have others, unless both are wanted at once."""
    other = Sampler(temperature=1.0)
    for stage, number in ((0, 1), (1, 2)):
        folder = written(tmp_path / f"sampler{stage}", rows())
        written(folder, rows(stage=stage, prompt=1), sampler=other, process=1, processes=2)
        assert "0001-0000.parquet: sampler settings: found" in refused(read_token_log, folder)
        if number == 2:
            assert [x.sampler for x in read_stages(folder)] == [SAMPLER, other]
        else:
            assert "as 00000000-0000-0000-0000.parquet has" in refused(lambda folder=folder: list(read_stages(folder)))
    folder = written(tmp_path / "columns", rows())
    written(folder, rows(prompt=1, token=7), process=1, processes=2)
    assert "0001-0000.parquet: columns: found" in refused(read_token_log, folder)
    folder = written(tmp_path / "names", rows())
    path = folder / parts(folder)[0]
    for name, key in (("00000001-0000-0000-0000", "stage"), ("00000000-0001-0000-0000", "update")):
        path = path.rename(folder / f"{name}.parquet")
        assert f"{name}.parquet: column {key}, row 1: found 0, expected 1, as the name of the file says" in refused(
            read_token_log, folder
        )
    folder = written(tmp_path / "twice", rows(rollouts=3))
    (folder / "00000000-0000-0000-0001.parquet").write_bytes((folder / parts(folder)[0]).read_bytes())
    message = refused(read_token_log, folder)
    assert "0001.parquet: column t, row 1: found 0, and 0 in row 1 of" in message
    assert message.endswith("own rollout id")


def test_a_damaged_part_is_named(tmp_path):
    folder = written(tmp_path / "log", *(rows(update, prompt=update) for update in range(3)))
    path = folder / parts(folder)[1]
    whole = path.read_bytes()
    column = parquet.ParquetFile(path).metadata.row_group(0).column(7)
    at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 3  # in its values
    for data in (
        b"",
        whole[:-9],
        whole[: len(whole) // 2],
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        whole * 2,
    ):
        path.write_bytes(data)
        message = refused(read_token_log, folder)
        assert message.startswith(f"{path}: found "), message
        assert message.isprintable()
    for key, value in ((b"teamtr_sampler", b"{"), (b"teamtr_sampler", b"[1]"), (b"teamtr_sampler", b'{"temperature": 0}'),
                       (b"teamtr_sampler", b'{"top_k": 3}'), (b"teamtr_sampler", b'{"temperature": 1, "heat": 3}')):  # fmt: skip
        path.write_bytes(whole)
        table = parquet.read_table(path)
        parquet.write_table(table.replace_schema_metadata(table.schema.metadata | {key: value}), path)
        assert f"{path}: metadata teamtr_sampler" in refused(read_token_log, folder)


# --------------------------------------------------------------------------------------------------------------------- ids


def test_ids_never_collide(tmp_path):
    """Over updates, processes, restarts with more and with fewer processes, and after going back."""
    rng = np.random.default_rng(0)
    folder, update = tmp_path / "log", 0
    for processes in (2, 3, 1, 4, 2):
        writers = [writer_of(folder, process=p, processes=processes) for p in range(processes)]
        for _ in range(3):
            for writer in rng.permutation(np.array(writers, object)).tolist():
                prompt, rollout = writer.ids(int(rng.integers(1, 4)), 2)
                assert (prompt % processes == writer.process).all()
                assert rollout.tolist() == [0, 1] * (prompt.size // 2)
                logp = np.full((prompt.size, 1), -1.0)
                about = dict.fromkeys(("logp_behaviour", "logp_current", "logp_new"), logp)
                table = token_rows(np.ones(logp.shape), stage=0, update=update, agent=0, turn=0, reward=0.0, prompt=prompt,
                                   rollout=rollout, **about)  # fmt: skip
                writer.add(table)
                if rng.random() < 0.5:
                    writer.flush()
            update += 1
        for writer in writers:
            writer.close()
        log = read_token_log(folder)
        assert np.unique(log.prompt).size * 2 == log.transcripts.size - 1
    with writer_of(folder, processes=2) as writer:
        before = writer.ids(1, 1)[0]
        writer.go_back(0, 2)
        assert writer.ids(1, 1)[0] > before > log.prompt.max()


def test_ids_of_a_user(tmp_path):
    """Who numbers prompts himself does not meet those that are given later."""
    written(tmp_path / "log", rows(prompt=41))
    with writer_of(tmp_path / "log", process=2, processes=5) as writer:
        assert writer.ids(1, 1)[0] == [47]  # above 41, and 2 modulo 5
    written(tmp_path / "lower", rows(0, prompt=41), rows(1, prompt=3))
    with writer_of(tmp_path / "lower") as writer:
        assert writer.ids(1, 1)[0] == [42]  # whatever the last part has
    for wrong in ((-1, 2), (1, 0), (True, 2)):
        assert "an integer, at least" in refused(writer.ids, *wrong)


# ---------------------------------------------------------------------------------------------------------- writing, restarts


def test_a_part_for_each_update(tmp_path):
    """Rows of a new update flush those before; several parts of one update are counted; nothing to flush makes no file."""
    with writer_of(tmp_path / "log", process=1, processes=2, trainer="a loop") as writer:
        assert writer.flush() is None
        writer.add(rows(0, prompt=0))
        writer.add(rows(0, prompt=1))
        writer.add({key: column[:0] for key, column in rows(5).items()})
        assert parts(writer.path) == []
        writer.add(rows(1, prompt=2))
        assert parts(writer.path) == ["00000000-0000-0001-0000.parquet"]
        writer.flush()
        writer.add(rows(1, prompt=3))
        path = writer.flush()
        writer.add(rows(0, stage=1, text=0))
        assert writer.last == (0, 1)
    assert parts(writer.path)[1:] == [f"{name}.parquet" for name in ("00000000-0001-0001-0000", "00000000-0001-0001-0001",
                                                                      "00000001-0000-0001-0000")]  # fmt: skip
    assert path.name == "00000000-0001-0001-0001.parquet"
    assert parquet.read_metadata(path).metadata[b"teamtr_trainer"] == b"a loop"
    assert read_token_log(writer.path).rows == 5 * 4
    assert "found a closed writer" in refused(writer.add, rows(7))
    writer.close()


def test_a_part_is_on_the_disk_when_it_is_flushed(tmp_path, monkeypatch):
    """Before its name is there: where the machine stops, a part is whole or not there."""
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, parts(tmp_path))) or sync(file))
    with writer_of(tmp_path) as writer:
        writer.add(rows(0))
        assert not synced
        path = writer.flush()
    assert (path.stat().st_ino, []) in synced


def test_a_reused_array_does_not_change_what_was_added(tmp_path):
    table = rows()
    with writer_of(tmp_path / "log") as writer:
        writer.add(table)
        table["logp_new"][:] = -9.0
    assert read_token_log(writer.path).logp_new.tolist() == [-0.5] * 4


def test_an_error_writes_nothing_of_the_update(tmp_path):
    def interrupted():
        with writer_of(tmp_path / "log") as writer:
            writer.add(rows(0))
            writer.add(rows(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert np.unique(read_token_log(tmp_path / "log").update).tolist() == [0]


def test_training_goes_on_from_a_checkpoint(tmp_path):
    """What the folder has is not written again; `go_back` sets this process's parts aside, the last first, and no other's."""
    folder = written(tmp_path / "log", *(rows(update, prompt=update) for update in range(4)))
    written(folder, *(rows(update, prompt=9 + update) for update in range(4)), process=1, processes=2)
    for update in (2, 3):
        with pytest.raises(InputError, match="go_back"), writer_of(folder, processes=2) as writer:
            writer.add(rows(update))
    with writer_of(folder, processes=2) as writer:
        assert writer.last == (0, 3)
        moved = writer.go_back(0, 2)
        assert [path.name for path in moved] == [f"00000000-000{u}-0000-0000.parquet.aside-0" for u in (3, 2)]
        assert writer.last == (0, 1)
        assert "update 1 of stage 0, expected an update after 1 of stage 0" in refused(writer.add, rows(1))
        writer.add(rows(2, prompt=77))
        assert len(writer.go_back(0, 2)) == 0  # not flushed: dropped
        writer.add(rows(2, prompt=78))
        writer.flush()
        assert [path.name for path in writer.go_back(0, 2)] == ["00000000-0002-0000-0000.parquet.aside-1"]
        writer.add(rows(2, prompt=79))
        assert writer.go_back(5, 0) == []  # what is later: nothing; and rows that were not flushed are gone
        assert writer.go_back(0, 0)[-1].name == "00000000-0000-0000-0000.parquet.aside-0"
        assert writer.last is None
        writer.add(rows(0))
    assert sorted(set(read_token_log(folder).prompt.tolist())) == [0, 9, 10, 11, 12]
    assert "stage: found -1" in refused(writer.go_back, -1, 0)


def test_training_goes_on_with_fewer_processes(tmp_path):
    """Parts of processes that there are no more are looked after too: by process number modulo so many."""
    folder = tmp_path / "log"
    for process in range(5):
        written(
            folder, *(rows(update, prompt=10 * process + update) for update in range(3)), process=process, processes=5
        )
    for process in range(2):
        with writer_of(folder, process=process, processes=2) as writer:
            assert writer.last == (0, 2)
            assert "expected an update after 2 of stage 0" in refused(writer.add, rows(2))
            moved = [path.name[9:18] for path in writer.go_back(0, 1)]
            assert moved == [f"{u:04d}-000{p}" for u in (2, 1) for p in (4, 3, 2, 1, 0) if p % 2 == process]
            writer.add(rows(1, prompt=writer.ids(1, 1)[0].item()))
    assert sorted({*read_token_log(folder).prompt.tolist()}) == [0, 10, 20, 30, 40, 44, 47]


def test_float16_is_kept(tmp_path):
    """And float32 stays as wide as it is."""
    for kind, name in ((np.float16, "float"), (np.float32, "float")):
        table = rows()
        table["logp_new"] = table["logp_new"].astype(kind)
        folder = written(tmp_path / np.dtype(kind).name, table)
        assert str(parquet.read_schema(folder / parts(folder)[0]).field("logp_new").type) == name
        assert read_token_log(folder).logp_new.tolist() == [-0.5] * 4


def test_what_add_refuses(tmp_path):
    """Nothing of it is kept, and the writer goes on."""
    several = joined([rows(0), rows(1)])
    nan = rows(0, logp_new=np.nan)
    with writer_of(tmp_path / "log") as writer:
        writer.add(rows(1, token=3))
        for table, message in (
            (several, "rows: column update, row 5: found 1, expected 0, as in row 1"),
            (joined([rows(0), rows(0, stage=1)]), "rows: column stage, row 5: found 1"),
            (nan, "rows: column logp_new, row 1: found nan, expected a finite number"),
            (joined([rows(1, token=1), rows(1, token=1)]), "rows: column t, row 5: found 0"),
            ({key: column for key, column in rows(1).items() if key != "reward"}, "rows: columns: found no reward"),
            (rows(0, token=3), "rows: found update 0 of stage 0, expected an update after 1 of stage 0"),
            (rows(2), "rows: columns: found"),
        ):
            assert refused(writer.add, table).startswith(message)
        writer.sampler = Sampler(1.0)
        assert refused(writer.add, rows(2, token=3)).startswith('sampler: found {"temperature": 1.0')
        writer.sampler = SAMPLER
    assert read_token_log(tmp_path / "log").rows == 4
    with writer_of(
        tmp_path / "log", sampler=Sampler(1.0)
    ) as writer:  # as where training is started again with another one
        assert "one sampler for each stage" in refused(writer.add, rows(2, token=3))
        writer.add(rows(0, stage=1))
        writer.flush()
        writer.add(rows(1, stage=1, prompt=1))
        writer.add(rows(1, stage=1, prompt=1))
        assert refused(writer.flush).startswith("rows: column t, row 5")
        assert writer.flush() is None


def test_a_rollout_that_was_not_scored_twice(tmp_path):
    """A part without the column, and rows without it: NaN, never 0."""
    with writer_of(tmp_path / "log") as writer:
        writer.add(rows(0, prompt=0))
        writer.add(rows(0, prompt=1, logp_again=-0.4))
        writer.add(rows(1, prompt=2))
        writer.add(rows(2, prompt=3, logp_again=[[-0.3, -0.3], [np.nan, np.nan]]))
    for log in (read_token_log(writer.path), *read_stages(writer.path)):
        np.testing.assert_array_equal(
            log.logp_again, [np.nan] * 4 + [-0.4] * 4 + [np.nan] * 4 + [-0.3] * 2 + [np.nan] * 2
        )


# ------------------------------------------------------------------------------------------------------------------- places


def test_places_are_tried_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "found" in refused(writer_of, tmp_path / "file")
    assert "found" in refused(writer_of, tmp_path / "file" / "log")
    assert "/proc" in refused(writer_of, "/proc/log")
    for settings, message in (
        ({"sampler": {"temperature": 1.0}}, "sampler: found"),
        ({"process": 2, "processes": 2}, "process: found 2, expected an integer from 0 to 1"),
        ({"processes": 0}, "processes: found 0"),
        ({"path": "log.jsonl"}, "log.jsonl: found suffix '.jsonl', expected a folder"),
    ):
        path = settings.pop("path", tmp_path / "log")
        assert refused(writer_of, path, **settings).startswith(message)
        assert not (tmp_path / "log").exists()
    monkeypatch.setattr(log_writer, "optional_import", lambda name: optional_import("no_" + name))
    assert "no_pyarrow: found no such package" in refused(writer_of, tmp_path / "log")


def test_two_writers_with_one_number(tmp_path):
    """Every process of a run that forgets its number would write the ids of the others."""
    with writer_of(tmp_path / "log", processes=2) as first:
        message = refused(writer_of, tmp_path / "log")
        assert "another writer with process 0 open in this program, expected one: close() the other" in message
        other = f"from teamtr_jax.integrations import *; LogWriter({str(tmp_path / 'log')!r}, sampler=Sampler(1.0))"
        message = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, cwd=ROOT).stderr
        assert message.strip().endswith(
            "another open writer with process 0, expected a number for each: process=RANK, processes=WORLD SIZE"
        )
        writer_of(tmp_path / "log", process=1, processes=2).close()
        first.add(rows(0))
        log_writer._unlock(
            os.dup(first._lock), (os.getpid() + 1, str(tmp_path / "log"), 0)
        )  # a child that was forked ends
        assert log_writer._tried(tmp_path / "log" / ".writer-0000.lock") is None
        inherited = os.dup(first._lock)  # as in a child that was forked, and lives longer
    writer_of(tmp_path / "log").close()
    os.close(inherited)


def test_a_writer_that_nobody_has_lets_others_have_the_folder(tmp_path):
    """A notebook's cell that runs again: the old trainer and its writer are gone, though each holds the other."""
    trainer = SimpleNamespace(writer=writer_of(tmp_path / "log"))
    trainer.writer.trainer_of_it = trainer
    trainer.writer.add(rows(0))
    trainer.writer.flush()
    del trainer
    with writer_of(tmp_path / "log") as again:
        assert again.last == (0, 0)
    with pytest.raises(InputError, match="closed writer"):
        again.add(rows(1))


def test_a_full_disk_keeps_the_rows(tmp_path):
    """Until there is room; of the part nothing is left."""
    with writer_of(tmp_path / "log") as writer:
        writer.add(rows(0))
        with a_disk_of(1000):
            assert "00000000-0000-0000-0000.parquet: found" in refused(writer.flush)
            assert "found" in refused(writer.add, rows(1))
        assert [path.name for path in writer.path.iterdir()] == [".writer-0000.lock"]
        assert writer.flush() is not None
        writer.add(rows(1))
    assert np.unique(read_token_log(writer.path).update).tolist() == [0, 1]
    with a_disk_of(0):
        assert "found" in refused(writer_of, tmp_path / "other")


def test_parts_that_nobody_wrote_like_this(tmp_path):
    """A part without the number from which ids go on: refused, for ids could collide."""
    folder = written(tmp_path / "log", rows())
    path = folder / parts(folder)[0]
    table = parquet.read_table(path)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != log_writer.FOLLOWING.encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert f"{path}: metadata teamtr_following_prompt: found" in refused(writer_of, folder)
    writer_of(tmp_path / "new").close()  # and no lock is left behind
    path.unlink()
    writer_of(folder).close()


# ----------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", float("inf")), ("temperature", "1"), ("top_k", -1), ("top_k", 2.0), ("top_p", 0.0),
     ("top_p", 1.1), ("min_p", 1.0), ("min_p", -0.1), ("repetition_penalty", 0.0), ("precision", "fp32")],
)  # fmt: skip
def test_samplers_that_are_none(name, value):
    assert refused(Sampler, **{"temperature": 1.0} | {name: value}).startswith(f"{name}: found ")


def test_samplers():
    assert Sampler(1.0).plain
    assert not Sampler(1.0).cuts
    for cut in ({"top_k": 1}, {"top_p": 0.99}, {"min_p": 0.01}):
        assert Sampler(1.0, **cut).cuts
        assert not Sampler(1.0, **cut).plain
    assert not Sampler(1.0, repetition_penalty=1.1).cuts
    assert not Sampler(1.0, repetition_penalty=1.1).plain


def test_names_of_integrations():
    """Each comes from where the table says; nothing else is there."""
    for name in integrations.__all__:
        home = integrations._HOMES[name]
        if home.rpartition(".")[2] in ("log_writer", "sampler_settings"):
            assert getattr(integrations, name) is getattr(importlib.import_module(home), name)
        assert name in dir(integrations)
    with pytest.raises(AttributeError, match=r"'teamtr_jax\.integrations' has no attribute 'LogWritr'"):
        integrations.LogWritr  # noqa: B018
