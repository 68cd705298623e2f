"""How a run of the paper's questions is made: seeds, settings, starts, what is timed and what is kept; nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import commands, explorer, figures, saved
from experiments.reproduce import tables, training
from experiments.reproduce.tables import TableRun
from experiments.reproduce.training import LARGER, SMALL, Run, Way
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.tasks import is_held_out
from teamtr_jax.validation import InputError

SAMPLED = "carry digits=2"
RUN = Run(Way("mine", "teamtr", 0.25, 0.5, monitor="k1", measured=0.125), SAMPLED, 3, 2, 64)


def keys(found):
    return [jax.random.key_data(key).tolist() for key in found]


def test_settings_of_an_update():
    """What a way names, on 256 rollouts a minibatch; all else is the method's."""
    found = training.settings_of(RUN)
    assert (found.learning_rate, found.delta, found.monitor, found.measured) == (0.25, 0.5, "k1", 0.125)
    assert (found.minibatch, found.micro_batch) == (256, 64)
    own = METHODS["teamtr"].settings
    named = dict(learning_rate=own.learning_rate, delta=own.delta, monitor=own.monitor, measured=own.measured)
    assert replace(found, **named, minibatch=own.minibatch, micro_batch=own.micro_batch) == own


def test_a_tolerance_is_that_of_the_certified_shift(monkeypatch):
    asked = []
    schedule = METHODS["teamtr"].schedule
    monkeypatch.setattr(training, "certificate_driven", lambda *given: asked.append(given) or schedule)
    training.method_of(Way("", "teamtr@0.07"))
    training.method_of(Way("", "teamtr"))
    assert asked == [(0.07, None)]


@pytest.fixture
def stages(monkeypatch):
    """`stages_of` with a clock: three seconds a stage, five more for its audit; the keys of the stages and what watches."""
    clock, seen = [0.0], SimpleNamespace(keys=[], watched=[])

    def audit(states, records, schedule):
        clock[0] += 5
        return {}

    def train_stage(training, backend, state, key, stage):
        clock[0] += 3
        backend.audit([], [], None)
        seen.keys.append(key)
        return state, []

    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    method = SimpleNamespace(lone=False)
    monkeypatch.setattr(training, "set_up", lambda run: SimpleNamespace(method=method, task=None))
    monkeypatch.setattr(training, "ground", lambda *_: SimpleNamespace(world="a world"))
    monkeypatch.setattr(training, "_audit", lambda world, run, watch: audit)
    monkeypatch.setattr(training, "backend_of", lambda training, audit, log: SimpleNamespace(audit=audit))
    monkeypatch.setattr(training, "train_stage", train_stage)
    monkeypatch.setattr(training, "MonitorWatch", lambda delta, seed: seen.watched.append((delta, seed)))
    seen.took = lambda run: [took for *_, took in training.stages_of(run, SimpleNamespace(params=()))]
    return seen


def test_a_stage_has_a_key_of_its_own_and_its_time_is_without_audits(stages):
    assert stages.took(RUN) == [3, 3]
    root = jax.random.key(RUN.seed)
    assert keys(stages.keys) == keys(jax.random.fold_in(root, k) for k in (1, 2))
    stages.took(replace(RUN, seed=4, stages=1, watch=("ranks",)))
    assert keys(stages.keys[2:]) == keys([jax.random.fold_in(jax.random.key(4), 1)])
    assert stages.watched == []
    stages.took(replace(RUN, watch=("monitor",)))
    assert stages.watched == [(0.5, 3)]


def test_starts_are_of_a_seed_and_of_a_member(monkeypatch):
    asked = []
    monkeypatch.setattr(training, "init_team", lambda team, key: asked.append(key) or "params")
    for seed, member in ((3, 0), (3, 2), (4, 0)):
        assert training.start_of.__wrapped__(SAMPLED, False, seed, None, member) == "params"
    expected = [
        jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), k) for seed, k in ((3, 0), (3, 2), (4, 0))
    ]
    assert keys(asked) == keys(expected)


def test_a_start_that_leaps_over_its_band_takes_smaller_steps(monkeypatch):
    """A quarter each time, three times; random networks above the band are left as they are; all else is an error."""
    rates = []

    def starting(*errors):
        rates.clear()
        left = iter(errors)

        def warm_start(team, task, params, seed, how):
            rates.append(how.learning_rate)
            if (error := next(left, None)) is not None:
                raise error
            return "warm", None

        monkeypatch.setattr(training, "warm_start", warm_start)
        return training.start_of.__wrapped__(SAMPLED, False, 0, 0.25)

    monkeypatch.setattr(training, "init_team", lambda team, key: "random")
    leaps = InputError("high", "0.9", "a band that is reached, or a smaller learning rate")
    assert (starting(), rates) == ("warm", [3e-3])
    assert (starting(leaps, leaps), rates) == ("warm", [3e-3, 3e-3 / 4, 3e-3 / 16])
    assert (starting(leaps, leaps, leaps), rates) == ("warm", [3e-3, 3e-3 / 4, 3e-3 / 16, 3e-3 / 64])
    assert (starting(InputError("low", "0.5 of the untrained team", "less")), rates) == ("random", [3e-3])
    for errors in ((leaps,) * 4, (InputError("x", 1, "2"),)):
        with pytest.raises(InputError):
            starting(*errors)


def test_sampled_teams_are_measured_on_prompts_that_were_held_out(monkeypatch):
    """256 of them, two conversations each, the same random numbers for every team of a seed; and the networks are larger."""
    asked = []

    def converse(team, params, task, problems, samples, key, rows):
        asked.append((params, problems, samples, key, rows))
        return SimpleNamespace(reward=np.array([0.25, 0.75]))

    monkeypatch.setattr(training, "converse", converse)
    assert training.value_of(SAMPLED, False, "params", 5) == 0.5
    ((params, problems, samples, key, rows),) = asked
    assert (params, len(problems), samples, rows) == ("params", 256, 2, 512)
    assert all(is_held_out(problem.prompt) for problem in problems)
    assert keys([key]) == keys([jax.random.fold_in(jax.random.key(5), 10**6)])
    assert training.ground(SAMPLED, False).team.models == (LARGER,) * 3
    assert training.ground("quota agents=3", False, 2).team.models == (replace(SMALL, window=2),) * 3
    assert (SMALL.width, SMALL.layers, LARGER.width, LARGER.layers) == (16, 1, 32, 2)


def test_what_is_kept_of_an_update():
    """What the audit knows and was asked for, what was watched, diagnostics of the rollouts under a name of their own."""
    record = SimpleNamespace(
        exact={"kl": 1.0, "zeta": 2.0, "objective_before": 3.0, "nobody": 4.0, "watch_k1": 5.0},
        info={"tokens": 6, "nobody": 7},
        stage=8, update=9, agent=10, resampled=True, rollouts=11, path_kl=12.0, surrogate=13.0,
    )  # fmt: skip
    booked = {"stage": 8, "update": 9, "agent": 10, "resampled": True, "rollouts": 11, "path_kl": 12.0}
    exact = {"kl": 1.0, "zeta": 2.0, "objective_before": 3.0, "watch_k1": 5.0}
    assert training._known(record) == booked | exact | {"sampled.tokens": 6}
    record.exact, record.info = None, {}
    assert training._known(record) == booked


def test_tables_by_stage(monkeypatch):
    """Sums of absolute values over the updates of a stage, means over the stages; each stage has its key and number."""
    seen = []
    found = {
        "improvement": [[[-0.2, 0.1], [0.4, -0.6]], [[0.0, 0.0], [-0.2, 0.2]]],  # [stage][update][seed]
        "seq_minus_stale": [[[-1.0, 2.0], [3.0, 4.0]], [[5.0, -6.0], [7.0, 8.0]]],
        "occupancy_tv_stale": [[[0.0, 0.0], [0.25, 0.5]], [[0.0, 0.0], [0.75, 1.0]]],
        "regression": [[[1, 0], [0, 1]], [[0, 0], [1, 0]]],
    }

    def run_stage(backend, state, order, schedule, key, stage):
        seen.append((key, stage, list(order)))
        before, after = ([x + stage for x in pair] for pair in ((0.0, 0.5), (1.0, 1.5)))
        records = [
            SimpleNamespace(exact={name: np.array(x[stage][update]) for name, x in found.items()})
            for update in range(2)
        ]
        records[0].exact["objective_before"], records[-1].exact["objective_after"] = np.array(before), np.array(after)
        return state, records

    monkeypatch.setattr(tables, "run_stage", run_stage)
    monkeypatch.setattr(tables, "_teams", lambda *_: (SimpleNamespace(agents=2), None))
    monkeypatch.setattr(tables, "team_state", lambda team, policy: None)
    monkeypatch.setattr(TableRun, "_backend", lambda self, team: None)
    out = TableRun("quota agents=2", 1, "fresh", 0.5, 2, 2, seed=6).work()
    root = jax.random.key(6)
    assert keys(key for key, *_ in seen) == keys(jax.random.fold_in(root, stage) for stage in (0, 1))
    assert [x[1:] for x in seen] == [(0, [0, 1]), (1, [0, 1])]
    assert out["values"] == [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]
    assert out["delta_stale"] == [(1 + 3 + 5 + 7) / 2, (2 + 4 + 6 + 8) / 2]
    assert out["d_occ"] == [(0.25 + 0.75) / 2, (0.5 + 1) / 2]
    assert out["instability"] == pytest.approx([(0.2 + 0.2) / 4, 0.6 / 4])
    assert out["regressions"] == [0.5, 0.25]


def test_steps_of_tables(monkeypatch):
    """Of the radius of the run: the exact one without rollouts, the paper's with them."""
    asked = []
    monkeypatch.setattr(tables, "kl_constrained", asked.append)
    monkeypatch.setattr(tables, "ppo_clip", lambda radius, backtracks: asked.append((radius, backtracks)))
    monkeypatch.setattr(tables, "exact_backend", lambda team, step: None)
    monkeypatch.setattr(tables, "sampled_backend", lambda team, step, sampling: None)
    one = TableRun("quota agents=2", 1, "fresh", 0.5, 2, 2, radius=0.3)
    for run in (one, replace(one, rollouts=64)):
        run._backend(SimpleNamespace(agents=2))
    assert asked == [0.3, (0.3, 6)]


# ------------------------------------------------------------------------------------------------- how programs end, the explorer


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (InputError("x", 1, "2"), 2, "p: error: x: found 1, expected 2\n"),
        (ArithmeticError("no number\nat all"), 3, "p: error: no number at all\n"),
        (OSError(28, "No space left", "a/b"), 3, "p: error: a/b: "),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(capsys, error, code, said):
    def run():
        if error is not None:
            raise error

    assert commands.exit_code("p", run) == code
    found = capsys.readouterr().err
    assert found.startswith(said)
    assert found.count("\n") == bool(said)


def test_an_error_that_nobody_foresaw_is_not_swallowed():
    def run():
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        commands.exit_code("p", run)


def test_what_was_there_stays_whole_on_a_full_disk(tmp_path, monkeypatch):
    """The result of a run, a figure, the values of the explorer: what was written before, and nothing beside it."""
    path = saved.write_json(tmp_path / "a.json", {"x": 1})
    for name in ("b.png", "c.json"):
        (tmp_path / name).write_bytes(b"old")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    class Figure:
        def savefig(self, place, **_):
            place.write_bytes(b"half a figure")

    monkeypatch.setattr(explorer, "document", dict)
    monkeypatch.setattr(figures.plt, "close", lambda figure: None)
    monkeypatch.setattr(type(path), "write_bytes", full)
    for write in (
        lambda: saved.write_json(path, {"x": 2}), lambda: figures.save(Figure(), tmp_path / "b.png"),
        lambda: explorer.main(tmp_path / "c.json"),
    ):  # fmt: skip
        with pytest.raises(InputError, match="No space left on device"):
            write()
    assert saved.read(path, "") == {"x": 1}
    assert [(tmp_path / name).read_bytes() for name in ("b.png", "c.json")] == [b"old"] * 2
    assert {x.name for x in tmp_path.iterdir()} == {"a.json", "b.png", "c.json"}


def test_the_file_of_the_explorer(tmp_path, monkeypatch, capsys):
    """Six digits, families by their axes, outermost first; the committed file is written again from its own numbers."""
    monkeypatch.setattr(explorer, "AXES", {"one": {"n": (1, 2), "delta": (0.1, 0.2)}})
    monkeypatch.setattr(explorer, "MAKE", {"one": lambda n, delta: (n, delta)})
    monkeypatch.setattr(explorer, "values", lambda stage: {
        "before": stage[0] / 3, "brings": stage[1], "kl": 4.0, "schedules": [[1.23456789, None], [2e-9 / 3, 5]]
    })  # fmt: skip
    found = explorer.document()
    assert found["one"]["axes"] == explorer.AXES["one"]
    assert found["one"]["values"][0] == [0.333333, 0.1, 4.0, 1.23457, None, 6.66667e-10, 5.0]
    assert [row[:2] for row in found["one"]["values"]] == [
        [0.333333, 0.1],
        [0.333333, 0.2],
        [0.666667, 0.1],
        [0.666667, 0.2],
    ]
    monkeypatch.setattr(explorer, "document", lambda: json.loads(explorer.VALUES.read_text()))
    explorer.main(tmp_path / "values.json")
    assert (tmp_path / "values.json").read_bytes() == explorer.VALUES.read_bytes()
    size = Path(explorer.VALUES).stat().st_size
    assert capsys.readouterr().out == f"{tmp_path / 'values.json'}: {size:,} bytes\n"
