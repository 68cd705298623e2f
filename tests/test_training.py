"""The loop around stages: resume to the same records after any end, refusals, full disks, two processes."""

import contextlib
import errno
import functools
import importlib
import io
import json
import math
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from teamtr_jax import checkpoint, training
from teamtr_jax.records import UPDATE_SCHEMA, update_lines
from teamtr_jax.training import CHECKPOINTS, JOURNAL, LOCK, read_records, train
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError

STAGES = 3
SETTINGS = {"seed": 1, "update": {"radius": 0.01, "clip": [0.1, float("inf")]}}


def begin():
    return {"policy": np.full((4, 3), 1 / 3), "count": 0, "noise": jax.random.key(7), "empty": np.zeros((0, 2))}


def stage(state, key, k):
    """A random walk of a softmax table in NumPy: every bit depends on the key and on the state."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    logits = np.log(np.asarray(state["policy"])) + 0.1 * rng.normal(size=(4, 3))
    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    state = {**state, "policy": policy, "count": state["count"] + 1, "noise": jax.random.fold_in(state["noise"], k)}
    return state, [
        {"stage": k, "update": u, "surrogate": policy[u, 0], "kl": rng.normal(size=2), "bound": float("inf")}
        for u in range(2)
    ]


def run(folder, stages=STAGES, settings=SETTINGS, do=stage, state=None, seed=0, **more):
    state = begin() if state is None else state
    return train(do, state, stages, jax.random.key(seed), folder, settings, progress=False, **more)


def records(folder):
    """The journal without its time stamps, byte for byte otherwise."""
    return [line.partition(', "time"')[0] for line in (folder / JOURNAL).read_text().splitlines()]


def same_state(first, second):
    def equal(x, y):
        x, y = (jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in (x, y))
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

    jax.tree.map(equal, first, second)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its state and its records."""
    folder = tmp_path_factory.mktemp("whole")
    state, _ = run(folder)
    return state, records(folder)


def assert_resumes(folder, whole):
    state, path = run(folder)
    same_state(state, whole[0])
    assert path == folder / JOURNAL
    assert records(folder) == whole[1]
    assert not list((folder / CHECKPOINTS).glob(".*"))


# Killed, in processes of their own: `driver` imports everything once and forks before a backend of jax starts (a child of a
# process with a running backend hangs in its first compilation, so nothing at the top of this file may make an array).


def driver(mode: str, root: str, low: int, high: int, by: int) -> None:
    importlib.import_module("orbax.checkpoint")  # before any fork
    out = {}
    if mode == "points":
        for point in range(low, high, by):
            out[point] = _forked(lambda point=point: _die_at(point, Path(root, str(point))))
    else:
        rng, began = random.Random(low), time.monotonic()
        _forked(lambda: run(Path(root, "timed"), stages=8))
        whole = time.monotonic() - began
        for turn in range(low, high):
            out[turn] = _forked(lambda: run(Path(root, "random"), stages=8), rng.uniform(0.05, 0.7) * whole)
    sys.stdout.write(json.dumps(out))


def _forked(job, seconds=None) -> int:
    """The status of a child that does `job`; killed after so many `seconds`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            job()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _die_at(point: int, folder: Path) -> None:
    """Kill this process right before its file operation number `point` in `folder`, Orbax's included."""
    left, inside = [point], str(folder)
    kept = os.fsync

    def count():
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def audit(event, args):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate") and (
            any(inside in str(x) for x in args[:2]) or event != "open"
        ):
            count()

    def fsync(number):
        count()
        kept(number)

    sys.addaudithook(audit)
    os.fsync = fsync
    run(folder)


def drive(mode, root, low, high, by=1, timeout=100):
    here = Path(__file__).parent
    program = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        f"import test_training; test_training.driver({mode!r}, {str(root)!r}, {low}, {high}, {by})"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return {int(k): v for k, v in json.loads(done.stdout).items()}, done.stderr


def test_killed_before_file_operations(tmp_path, whole):
    """SIGKILL right before the p-th operation on files, real processes, spread over the first stages."""
    ends, told = drive("points", tmp_path, 20, 220, 45)
    assert set(ends.values()) == {-signal.SIGKILL}, told
    done = [checkpoint.latest(tmp_path / str(point) / CHECKPOINTS) for point in ends]
    assert max(step or 0 for step in done) >= 1
    for point in ends:
        assert_resumes(tmp_path / str(point), whole)


@pytest.mark.slow
def test_killed_before_every_file_operation(tmp_path, whole):
    ends, told = drive("points", tmp_path, 0, 130, timeout=500)
    assert set(ends.values()) == {-signal.SIGKILL}, told
    for point in ends:
        assert_resumes(tmp_path / str(point), whole)


def test_killed_at_random_times(tmp_path):
    """One run, killed again and again by another process; the state never goes back, the records are the same."""
    ends, told = drive("random", tmp_path, 0, 5)
    assert set(ends.values()) <= {-signal.SIGKILL, 0}, told
    assert -signal.SIGKILL in ends.values()
    run(tmp_path / "whole", stages=8)
    state, _ = run(tmp_path / "random", stages=8)
    same_state(state, run(tmp_path / "whole", stages=8)[0])
    assert records(tmp_path / "random") == records(tmp_path / "whole")


# What a kill leaves on the disk, at every point: the folder is copied before each operation on files.


class Snapshots:
    """Copies of `folder` before every operation on files of this process, equal ones once."""

    def __init__(self, folder: Path, copies: Path):
        self.folder, self.copies, self.seen, self.busy, self.points = folder, copies, {}, False, 0

    def take(self):
        if self.busy:
            return
        self.busy = True
        try:
            self.points += 1
            content = {}
            for path in sorted(self.folder.rglob("*")):
                try:
                    content[path.relative_to(self.folder)] = None if path.is_dir() else path.read_bytes()
                except OSError:  # Orbax's writers are at work
                    continue
            if (key := repr(content)) not in self.seen:
                self.seen[key] = place = self.copies / str(len(self.seen))
                place.mkdir(parents=True)
                for name, data in content.items():
                    path = place / name
                    if data is None:
                        path.mkdir(parents=True, exist_ok=True)
                    else:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(data)
        finally:
            self.busy = False


WATCH: list[Snapshots] = []
EVENTS = frozenset(["open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"])


def _watch(event, args):
    if WATCH and event in EVENTS:
        WATCH[0].take()


sys.addaudithook(_watch)  # it cannot be taken away; without a watcher it does nothing


def test_resumes_from_what_any_kill_leaves(tmp_path, monkeypatch):
    kept = os.fsync

    def fsync(number):
        _watch("open", ())
        kept(number)

    monkeypatch.setattr(os, "fsync", fsync)
    before = Snapshots(tmp_path / "run", tmp_path / "copies")
    (tmp_path / "run").mkdir()
    WATCH.append(before)
    try:
        state, _ = run(tmp_path / "run", stages=2)
    finally:
        WATCH.clear()
    monkeypatch.undo()
    expected = records(tmp_path / "run")
    assert before.points > 150
    assert len(before.seen) > 40
    for place in before.seen.values():
        assert_resumes_to(place, state, expected)


def assert_resumes_to(place, state, expected):
    steps = checkpoint.latest(place / CHECKPOINTS)
    calls = []

    def counted(state, key, k):
        calls.append(k)
        return stage(state, key, k)

    again, _ = run(place, stages=2, do=counted)
    assert calls == list(range(steps or 0, 2))  # what was saved is not done again
    same_state(again, state)
    assert records(place) == expected
    assert not list((place / CHECKPOINTS).glob(".*"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks up in /proc what is synced")
def test_what_is_on_the_disk_before_what(tmp_path, monkeypatch):
    """Against a power cut, in this order: the folder of the run; the records; files and folders of a checkpoint; its name.

    What is removed has lost its name before.
    """
    events, checkpoints = [], tmp_path.resolve() / CHECKPOINTS
    sync, rename, remove = os.fsync, os.rename, shutil.rmtree

    def synced(number):
        place = Path(os.readlink(f"/proc/self/fd/{number}"))
        events.append(("sync", place, place.stat().st_size))
        sync(number)

    def renamed(old, new):
        if Path(new).parent == checkpoints and not Path(new).name.startswith("."):
            vouched = json.loads((Path(old) / "manifest.json").read_text())["metadata"]["journal"]["bytes"]
            events.append(("named", Path(old), {Path(old), *Path(old).rglob("*")}, vouched))
        rename(old, new)

    def removed(place, *more, **options):
        events.append(("removed", Path(place)))
        remove(place, *more, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", removed)
    run(tmp_path, stages=2)
    named = [i for i, (what, *_) in enumerate(events) if what == "named"]
    assert len(named) == 3
    journal, last = tmp_path.resolve() / JOURNAL, 0
    for i in named:
        _, _, whole, vouched = events[i]
        assert whole <= {place for what, place, *_ in events[last:i] if what == "sync"}
        assert len(whole) > 5
        sizes = [event[2] for event in events[last:i] if event[:2] == ("sync", journal)]
        assert sizes[-1:] == [vouched] * (vouched > 0)
        assert events[i + 1][:2] == ("sync", checkpoints)
        last = i
    first = next(i for i, event in enumerate(events) if event[:2] == ("sync", journal) and event[2] > 0)
    assert ("sync", tmp_path.resolve()) in [event[:2] for event in events[:first]]
    assert [place.name for what, place, *_ in events if what == "removed"] == [".00000000.partial"]


@pytest.mark.parametrize("tail", [b'{"schema": 1, "sta', b"\0" * 5000, b'{"schema": 1}\n'])
def test_a_tail_after_the_last_checkpoint_is_cut(tmp_path, whole, tail):
    run(tmp_path, stages=2)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(tail)
    assert len(read_records(tmp_path)) == 4
    assert_resumes(tmp_path, whole)


# Ends within the process: Ctrl-C, a full disk, NaN.


def raising(kind):
    return KeyboardInterrupt() if kind == "interrupt" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("kind", ["interrupt", "disk full"])
@pytest.mark.parametrize("point", [0, 13, 14, 20, 27])
def test_an_error_at_any_sync(tmp_path, monkeypatch, whole, capsys, kind, point):
    """The write that fails leaves earlier stages whole and nothing half."""
    left, kept = [point], os.fsync

    def fsync(number):
        left[0] -= 1
        if left[0] < 0:
            raise raising(kind)
        kept(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        expected, text = (
            (KeyboardInterrupt, None) if kind == "interrupt" else (InputError, "found No space left on device")
        )
        with pytest.raises(expected, match=text):
            run(tmp_path)
    steps = checkpoint.latest(tmp_path / CHECKPOINTS)
    if steps is not None and (tmp_path / JOURNAL).exists():
        assert records(tmp_path) == whole[1][: 2 * steps]
    if kind == "interrupt":
        assert f"interrupted: {steps or 0} of 3 stages are saved in {tmp_path}" in capsys.readouterr().err
    else:
        assert not list((tmp_path / CHECKPOINTS).glob(".*"))
    assert_resumes(tmp_path, whole)


def test_the_disk_is_full_within_a_line(tmp_path, monkeypatch, whole):
    class Full(io.FileIO):
        def write(self, data):
            if len(data) > 100:
                return super().write(bytes(data[:100]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run(tmp_path, stages=1)
    real = open
    with monkeypatch.context() as patch:
        patch.setattr(
            training,
            "open",
            lambda p, mode, buffering=-1: Full(p, mode) if buffering == 0 else real(p, mode),
            raising=False,
        )
        with pytest.raises(InputError, match=f"{JOURNAL}: found No space left on device, expected a place"):
            run(tmp_path)
    assert records(tmp_path) == whole[1][:2]
    assert_resumes(tmp_path, whole)


def test_a_disk_that_is_full(tmp_path, whole):
    """A real one, of 100 kB: it fills within the run; with more room the same call ends with the same records."""
    here = Path(__file__).parent
    program = (
        "import jax, subprocess, sys; jax.config.update('jax_enable_x64', True)\n"
        "from test_training import *\n"
        "disk = Path(sys.argv[1])\n"
        "try: run(disk / 'run')\n"
        "except InputError as error: print(error)\n"
        "print(checkpoint.latest(disk / 'run' / CHECKPOINTS), len(records(disk / 'run')))\n"
        "subprocess.run(['mount', '-o', 'remount,size=10m', str(disk)], check=True)\n"
        "run(disk / 'run')\n"
        "print(json.dumps(records(disk / 'run')))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    mount = 'mount -t tmpfs -o size=100k none "$1" 2>/dev/null || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, program]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip("may not mount a file system")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    error, saved, lines = done.stdout.splitlines()
    assert error.endswith(f"{CHECKPOINTS}: found No space left on device, expected a place that can be written")
    steps, count = saved.split()
    assert int(steps) < STAGES
    assert int(count) == 2 * int(steps)
    assert json.loads(lines) == whole[1]


def test_ctrl_c_in_a_stage(tmp_path, whole, capsys):
    def interrupted(state, key, k):
        if k == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return stage(state, key, k)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the one that starts the tests ignores
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, do=interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted: 2 of 3 stages are saved in" in capsys.readouterr().err
    assert records(tmp_path) == whole[1][:4]
    assert_resumes(tmp_path, whole)


def test_nan_stops_with_stage_and_key(tmp_path, whole):
    def bad(state, key, k):
        state, found = stage(state, key, k)
        if k == 1:
            found[1]["kl"] = np.array([0.0, np.nan])
        return state, found

    with pytest.raises(ArithmeticError, match="stage 1, record 1: kl: not a number"):
        run(tmp_path, do=bad)
    assert records(tmp_path) == whole[1][:2]
    assert_resumes(tmp_path, whole)


@pytest.mark.parametrize("every", [1, 2])
def test_a_state_with_nan_is_never_saved(tmp_path, whole, every):
    """The run ends with the leaf's name; the stages before it stay, the records of its own go."""

    def bad(state, key, k):
        state, found = stage(state, key, k)
        return (state | {"policy": jnp.asarray(state["policy"]).at[1, 2].set(jnp.nan)} if k == 2 else state), found

    with pytest.raises(
        ArithmeticError, match=r"^state after 3 stages: tree\['policy'\]: 1 of 12 entries are not a number$"
    ):
        run(tmp_path, do=bad, every=every)
    assert records(tmp_path) == whole[1][:4]
    assert_resumes(tmp_path, whole)


# Resume and its refusals.


def test_what_is_written(tmp_path):
    state, path = run(tmp_path)
    assert path == tmp_path / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["stage"], x["update"]) for x in lines] == [(k, u) for k in range(3) for u in range(2)]
    assert all(x["schema"] == UPDATE_SCHEMA and x["bound"] == "inf" and x["time"].endswith("+00:00") for x in lines)
    assert read_records(tmp_path) == lines
    assert int(state["count"]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINTS, LOCK, JOURNAL]
    assert sorted(p.name for p in (tmp_path / CHECKPOINTS).iterdir()) == ["00000002", "00000003"]


def test_records_of_run_stage_are_written_as_lines(tmp_path):
    """`train` takes what `run_stage` returns: the same lines as `update_lines` makes; NaN is named, infinities are text."""
    given = [
        UpdateRecord(0, u, 1 - u, True, 0.5, np.float64(0.1), path_kl=math.inf, info={"gain": jnp.ones(2)})
        for u in (0, 1)
    ]
    for folder, made in ((tmp_path / "a", given), (tmp_path / "b", update_lines(given))):
        train(
            lambda state, key, k, made=made: (state, made), jnp.zeros(1), 1, jax.random.key(0), folder, progress=False
        )
    assert records(tmp_path / "a") == records(tmp_path / "b")
    first = read_records(tmp_path / "a")[0]
    assert (first["schema"], first["agent"], first["path_kl"], first["info"]) == (
        UPDATE_SCHEMA,
        1,
        "inf",
        {"gain": [1.0, 1.0]},
    )
    bad = given[1]._replace(info={"gain": math.nan})
    with pytest.raises(ArithmeticError, match="stage 0, record 1: gain: not a number"):
        train(lambda state, key, k: (state, [given[0], bad]), jnp.zeros(1), 1, jax.random.key(0), progress=False)


@pytest.mark.parametrize(("page", "agents"), [("checkpoints.md", 3), ("llm.md", 2)])
def test_the_example_of_the_page(page, agents, tmp_path, monkeypatch, capsys):
    """The first program of a page prints what the page says, and writes the records of three stages."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    code, output = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.S).groups()
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(code)
    runpy.run_path("example.py")
    assert capsys.readouterr().out == output
    (folder,) = tmp_path.glob("results/*")
    found = [(x["stage"], x["update"], x["agent"]) for x in read_records(folder)]
    assert found == [(k, u, u) for k in range(3) for u in range(agents)]


def test_keys_are_folded_in():
    seen = []

    def watch(state, key, k):
        seen.append(np.asarray(jax.random.key_data(key)).tolist())
        return state, []

    key = jax.random.key(5)
    train(watch, jnp.zeros(1), 3, key, progress=False)
    assert seen == [np.asarray(jax.random.key_data(jax.random.fold_in(key, k))).tolist() for k in range(3)]


def test_without_a_folder(whole):
    state, path = run(None)
    assert path is None
    same_state(state, whole[0])


@pytest.mark.parametrize("every", [2, 5])
def test_saving_less_often(tmp_path, whole, every):
    """What was not saved is computed again, to the same bits."""

    def interrupted(state, key, k):
        if k == {2: 1, 5: 2}[every]:
            raise RuntimeError
        return stage(state, key, k)

    with pytest.raises(RuntimeError):
        run(tmp_path, do=interrupted, every=every)
    assert checkpoint.latest(tmp_path / CHECKPOINTS) == 0
    assert records(tmp_path) == []
    assert_resumes(tmp_path, whole)
    run(tmp_path / "all", stages=3, every=every)  # the last stage is saved whatever its number
    assert checkpoint.latest(tmp_path / "all" / CHECKPOINTS) == 3


def test_a_finished_run_is_returned_and_can_be_continued(tmp_path, whole):
    first, _ = run(tmp_path, stages=2)
    before = (tmp_path / JOURNAL).read_bytes()

    def never(state, key, k):
        raise AssertionError

    again, _ = run(tmp_path, stages=2, do=never)
    same_state(first, again)
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert_resumes(tmp_path, whole)
    with pytest.raises(InputError, match="stages: found 2, expected at least 3"):
        run(tmp_path, stages=2)


def test_a_resumed_program_computes_the_same_bits(tmp_path):
    """Weak types and Python numbers would promote differently after a restore; a jitted stage must not notice."""

    @jax.jit
    def step(state, key):
        x = state["x"] * state["scale"] + jax.random.normal(key, (5,), jnp.float32)  # float32 only if scale is weak
        return {"x": (x / 3).astype(jnp.float32), "scale": state["scale"] * 1.01}

    def jitted(state, key, k):
        state = step(state, key)
        return state, [{"stage": k, "x": state["x"], "scale": state["scale"]}]

    start = {"x": jnp.ones(5, jnp.float32), "scale": jnp.asarray(0.7)}
    assert start["scale"].weak_type
    whole_state, _ = run(tmp_path / "whole", 6, do=jitted, state=start)
    for stages in (1, 3, 6):
        state, _ = run(tmp_path / "parts", stages, do=jitted, state=start)
    same_state(state, whole_state)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


CHANGED = [
    (lambda: dict(settings=SETTINGS | {"seed": 2}), "settings: found seed = 2, expected seed = 1, as in "),
    (lambda: dict(settings={"seed": 1, "update": {"radius": 0.02, "clip": [0.1, float("inf")]}}),
     "settings: found update.radius = 0.02, expected update.radius = 0.01, as in "),
    (lambda: dict(settings=SETTINGS | {"new": None}), "settings: found new = null, expected no new, as in "),
    (lambda: dict(settings=SETTINGS | {"more": {}}), "settings: found more = {}, expected no more, as in "),
    (lambda: dict(settings=SETTINGS | {"seed": True}), "settings: found seed = true, expected seed = 1, as in "),
    (lambda: dict(settings={"seed": 1}), r"settings: found no update.radius, no update.clip, expected update.radius = 0.01"),
    (lambda: dict(settings=None), r"settings: found no seed, no update.radius, no update.clip, expected seed = 1, update.radius"),
    (lambda: dict(seed=1), r"key: found .*\[0, 1\].*, expected .*\[0, 0\].*, as in "),
    (lambda: dict(state=begin() | {"count": 1}), r"initial state: tree\['count'\]: found other numbers"),
    (lambda: dict(state=begin() | {"noise": jax.random.key(8)}), r"initial state: tree\['noise'\]: found other numbers"),
    (lambda: dict(state=begin() | {"policy": np.ones((4, 2))}), r"policy'\]: found float64 \[4, 3\], expected float64 \[4, 2\]"),
    (lambda: dict(state=begin() | {"policy": np.ones((4, 3), "f4")}), r"\['policy'\]: found float64 \[4, 3\], expected float32"),
    (lambda: dict(state=begin() | {"more": 1}), r"tree\['more'\]: found no such leaf, expected int64 \[\]"),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder, stages=1)
    return folder


@pytest.mark.parametrize(("change", "message"), CHANGED, ids=[m[:40] for _, m in CHANGED])
def test_a_changed_run_is_refused(finished, change, message):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != LOCK}
    with pytest.raises(InputError, match=message) as error:
        run(finished, **change())
    assert "\n" not in str(error.value)
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != LOCK}


def test_damaged_records_are_refused(tmp_path):
    run(tmp_path, stages=1)
    path = tmp_path / JOURNAL
    data = path.read_bytes()
    for position in (0, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        for use in (lambda: run(tmp_path), lambda: read_records(tmp_path)):
            with pytest.raises(InputError, match=f"{JOURNAL}: found damaged records, SHA-256"):
                use()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match=f"{JOURNAL}: found {len(data) - 1} bytes, expected at least {len(data)}"):
        run(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=f"{JOURNAL}: found no such file"):
        run(tmp_path)
    for place, expected in (
        (path, "the records of the run"),
        (tmp_path / CHECKPOINTS / "00000001/manifest.json", "the manifest"),
    ):
        place.unlink(missing_ok=True)
        os.mkfifo(place)
        signal.alarm(10)  # nobody writes into the pipe
        try:
            with pytest.raises(InputError, match=f"{place.name}: found a pipe, expected {expected}"):
                read_records(tmp_path)
        finally:
            signal.alarm(0)


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "below"):
        with pytest.raises(InputError, match="expected a place that can be written"):
            run(folder)
    (tmp_path / JOURNAL).write_text("somebody else's\n")
    with pytest.raises(InputError, match="found records without a checkpoint"):
        run(tmp_path)
    assert (tmp_path / JOURNAL).read_text() == "somebody else's\n"


def test_one_process_at_a_time(tmp_path, whole):
    (tmp_path / LOCK).write_text("9" * 20)  # of one that has ended, with a longer number
    with (
        training._locked(tmp_path),
        pytest.raises(InputError, match=f"found in use by process {os.getpid()}, expected a folder that no other run"),
    ):
        run(tmp_path)
    assert_resumes(tmp_path, whole)


BAD_STAGES = [
    (lambda s, key, k: ({**s, "policy": s["policy"][:2]}, []), r"state after stage 0: tree\['policy'\]: found float64 \[2, 3\]"),
    (lambda s, key, k: ({**s, "policy": s["policy"].astype("f4")}, []), r"tree\['policy'\]: found float32 \[4, 3\]"),
    (lambda s, key, k: ({"policy": s["policy"]}, []), r"tree\['count'\]: found no such leaf, expected int64"),
    (lambda s, key, k: (s, [{"time": 1}]), "stage 0, record 0: found a key 'time'"),
    (
        lambda s, key, k: (s, [UpdateRecord(0, 0, np.zeros(2, int), True, np.zeros(2), np.zeros(2))]),
        r"stage 0, record 0: found a batch of 2 teams, expected update_lines\(records, labels\)",
    ),
    (lambda s, key, k: (s, [{"x": object()}]), "stage 0, record 0: found Object of type object is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("do", "message"), BAD_STAGES, ids=[m[:50] for _, m in BAD_STAGES])
def test_a_stage_that_breaks_its_promise(do, message):
    with pytest.raises(InputError, match=message):
        run(None, do=do)


def test_another_jax_is_told(tmp_path, monkeypatch):
    run(tmp_path, stages=1)
    monkeypatch.setattr(jax, "__version__", "0.0")
    with pytest.warns(UserWarning, match=r"written by jax .* on cpu, this is 0.0 on cpu: the last bits may differ"):
        run(tmp_path, stages=1)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.warns(
        UserWarning, match=rf"on cpu, this is {re.escape(jax.__version__)} on tpu: the last bits may differ"
    ):
        run(tmp_path, stages=1)


def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path):
    start = {"x": np.ones(2, np.float32)}
    run(tmp_path, 1, state=start, do=lambda state, key, k: (state, []))
    with (
        jax.enable_x64(False),
        pytest.raises(InputError, match=r"^jax_enable_x64: found False, expected True, as in "),
    ):
        run(tmp_path, 2, state=start, do=lambda state, key, k: (state, []))


def test_the_bar_counts_stages(tmp_path, monkeypatch):
    """Those of the whole run, those that are done; none where nobody looks or nobody asked."""
    seen = []

    class Bar:
        def add_task(self, name, total, completed):
            seen.append((name, total, completed))

        def advance(self, task):
            seen.append("one more")

    monkeypatch.setattr(training, "_bar", lambda shown: contextlib.nullcontext(Bar()))
    run(tmp_path, stages=1)
    run(tmp_path, stages=3)
    assert seen == [("stages", 1, 0), "one more", ("stages", 3, 1), "one more", "one more"]
    monkeypatch.undo()
    for terminal in (False, True):
        monkeypatch.setattr(training, "Console", functools.partial(Console, force_terminal=terminal))
        assert [training._bar(shown).disable for shown in (True, False)] == [not terminal, True]


def test_another_device_is_told(tmp_path, monkeypatch):
    run(tmp_path, stages=1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.warns(UserWarning, match=rf"on cpu, this is {jax.__version__} on gpu: the last bits may differ"):
        run(tmp_path, stages=1)


def test_errors_of_the_stage_pass_through(tmp_path, whole):
    def failing(state, key, k):
        if k == 1:
            raise OSError("its own")
        return stage(state, key, k)

    with pytest.raises(OSError, match="its own"):
        run(tmp_path, do=failing)
    assert_resumes(tmp_path, whole)
    with pytest.raises(InputError, match="stages: found -1, expected an integer, at least 0"):
        run(None, stages=-1)
    with pytest.raises(InputError, match="every: found 0, expected an integer, at least 1"):
        run(None, every=0)
