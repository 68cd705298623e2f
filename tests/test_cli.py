"""`teamtr`: output, conventions, exit codes. Numbers against a textbook computation in NumPy that shares no code."""

import importlib.metadata
import json
import os
import re
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stage_file import episodic, product_tables, tables
from test_teams import MADE, Toy, changed

from teamtr_jax import certificates, claims, cli, exact, import_commands, padded, programs
from teamtr_jax.bounds import DEFAULT, least
from teamtr_jax.claims import STAGE_CLAIMS, Check, Claim, Judged
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import gymnasium, openspiel, read_stage
from teamtr_jax.validation import InputError

LISTS = (
    "surrogate_intermediate surrogate_stale surrogate_cached gap_fresh gap_stale gap_cached kl kl_stale tv share span_g "
    "advantage_max occupancy_tv_fresh occupancy_tv_stale penalty_paper penalty_stale_paper lower_bound_paper"
).split()
SCALARS = "delta_stale d_occ stage_bound_paper stage_bound_stale_paper improvement".split()


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `teamtr` in this process; returns exit code, stdout, stderr."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["teamtr", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return call


@pytest.fixture
def state(monkeypatch):
    """State other claims: their program is made for this test, and kept nowhere."""

    def call(stated):
        monkeypatch.setenv(programs.CACHE, "off")
        monkeypatch.setattr(programs, "_made", {})
        monkeypatch.setattr(claims, "STAGE_CLAIMS", tuple(stated))

    return call


@pytest.fixture
def save(tmp_path):
    def write(arrays, name="stage.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def textbook(t):
    """The report of a turn-taking, discounted, dense file by the definitions of theory/derivations/notation.md."""
    P, r, rho, gamma = t["transition"], t["reward"], t["initial"], float(t["discount"])
    S, _, active = *r.shape, t["active"]
    n = int(t.get("agents", active.max() + 1))
    order = t.get("order", np.arange(n))
    policies = [t["current"]]
    for agent in order:
        policies.append(np.where((active == agent)[:, None], t["target"], policies[-1]))
    V, m, A = [], [], []
    for pi in policies:
        M = np.linalg.inv(np.eye(S) - gamma * np.einsum("sa,sat->st", pi, P))
        V.append(M @ (pi * r).sum(-1))
        m.append(rho @ M)
        A.append(r + gamma * P @ V[-1] - V[-1][:, None])
    d = [(1 - gamma) * x for x in m]
    J = [rho @ v for v in V]
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(t["current"] / t["target"])
    kl = np.where(t["current"] > 0, t["current"] * log, 0).sum(-1)
    tv = 0.5 * abs(t["target"] - t["current"]).sum(-1)
    out = {key: [] for key in LISTS}
    for i, agent in enumerate(order):
        own = active == agent
        g = (policies[i + 1] * A[i]).sum(-1) * own
        L = {
            "intermediate": m[i] @ g,
            "stale": m[0] @ g,
            "cached": m[0] @ ((policies[i + 1] - policies[i]) * A[0]).sum(-1),
        }
        for name, value in L.items():
            out[f"surrogate_{name}"].append(value)
            out["gap_" + {"intermediate": "fresh"}.get(name, name)].append(J[i + 1] - J[i] - value)
        out["kl"].append(np.where(own & (d[i] > 0), d[i] * kl, 0).sum())
        out["kl_stale"].append(np.where(own & (d[0] > 0), d[0] * kl, 0).sum())
        out["tv"].append(d[i] @ (tv * own))
        out["share"].append(d[i] @ own)
        out["span_g"].append(g.max() - g.min())
        out["advantage_max"].append(abs(A[i]).max())
        out["occupancy_tv_fresh"].append(0.5 * abs(d[i + 1] - d[i]).sum())
        out["occupancy_tv_stale"].append(0.5 * abs(d[i] - d[0]).sum())
    c = np.sqrt(2) * gamma * np.array(out["advantage_max"]) / (1 - gamma) ** 2
    out["penalty_paper"] = c * np.sqrt(out["kl"])
    out["penalty_stale_paper"] = c * np.cumsum(np.sqrt(out["kl"]))
    out["lower_bound_paper"] = np.array(out["surrogate_intermediate"]) - out["penalty_paper"]
    seq, stale = np.array(out["surrogate_intermediate"]), np.array(out["surrogate_stale"])
    return {
        **out, "objective": J, "delta_stale": abs(seq - stale).sum(), "d_occ": sum(out["occupancy_tv_stale"]),
        "stage_bound_paper": out["lower_bound_paper"].sum(), "improvement": J[-1] - J[0],
        "stage_bound_stale_paper": (stale - out["penalty_stale_paper"]).sum(),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_stage_json_against_the_textbook(run, save, seed):
    rng = np.random.default_rng(seed)
    arrays = tables(rng, n=3) | {"order": rng.permutation(3), "discount": np.array([0.5, 0.9, 0.99][seed])}
    path = save(arrays)
    code, out, err = run("stage", path, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    record = strict(out)
    assert (record["schema"], record["file"], record["form"], record["protocol"]) == (
        1,
        str(path),
        "discounted",
        "turn-taking",
    )
    assert record["order"] == arrays["order"].tolist()
    assert record["agents"] == 3
    assert {len(record[key]) for key in LISTS} == {3}
    assert len(record["objective"]) == 4
    for key, expected in textbook(arrays).items():
        np.testing.assert_allclose(record[key], expected, rtol=1e-8, atol=1e-10, err_msg=key)


def test_every_form_prints_every_key(run, save):
    files = [
        save(tables(), "a.npz"), save(episodic(tables()), "b.npz"), save(product_tables(), "c.npz"),
        save(episodic(product_tables()), "d.npz"),
    ]  # fmt: skip
    code, out, _ = run("stage", *files, "--json")
    records = [strict(line) for line in out.splitlines()]
    assert code == 0
    assert [r["file"] for r in records] == [str(f) for f in files]
    assert [r["form"] for r in records] == ["discounted", "episodic"] * 2
    assert [r["protocol"] for r in records] == ["turn-taking", "turn-taking", "product", "product"]
    for record in records:
        assert not {"schema", "objective", *LISTS, *SCALARS} - set(record)
        for gap, penalty in (
            ("gap_fresh", "penalty_paper"),
            ("gap_stale", "penalty_stale_paper"),
            ("gap_fresh", "penalty_log_sum"),
        ):
            assert (np.abs(record[gap]) <= np.array(record[penalty], float) + 1e-12).all(), (record["file"], gap)
    code, out, _ = run("stage", *files)
    assert code == 0
    assert "penalty_stale_paper" in out


def test_ordinary_input_is_not_an_error(run, save):
    """Agents that own nothing, target = current, γ = 0 and 0.999, one agent, 64 agents, zero-probability actions."""
    plain = tables()
    corner = np.eye(3)[np.zeros(4, int)]
    files = [
        save(plain | {"agents": np.array(64)}, "many.npz"),
        save(plain | {"target": plain["current"]}, "still.npz"),
        save(plain | {"discount": np.array(0.0)}, "myopic.npz"),
        save(plain | {"discount": np.array(0.999)}, "patient.npz"),
        save(plain | {"active": np.zeros(4, int)}, "one.npz"),
        save(plain | {"current": corner, "target": corner}, "corner.npz"),
        save(plain | {"current": corner}, "opens.npz"),
    ]
    code, out, err = run("stage", *files, "--json")
    assert (code, err) == (0, "")
    records = {r["file"].rsplit("/", 1)[1]: r for r in map(strict, out.splitlines())}
    assert "NaN" not in out
    assert records["many.npz"]["share"][2:] == [0.0] * 62
    for key in ("gap_fresh", "gap_stale", "gap_cached", "kl", "tv", "surrogate_intermediate", "penalty_paper"):
        assert records["still.npz"][key] == [0.0, 0.0], key
    assert records["myopic.npz"]["penalty_paper"] == [0.0, 0.0]
    assert records["myopic.npz"]["gap_fresh"] == [0.0, 0.0]


def test_infinite_kl_is_a_string(run, save):
    """A target that drops an action: "inf" if the state is visited, nothing at all if it is not; 0·∞ = 0 at γ = 0."""
    arrays = tables()
    arrays["target"] = arrays["current"].copy()
    arrays["target"][0] = [1.0, 0.0, 0.0]
    dropped = strict(run("stage", save(arrays), "--json")[1])
    assert dropped["kl"] == ["inf", 0.0]
    assert dropped["penalty_paper"] == ["inf", 0.0]
    assert dropped["lower_bound_paper"][0] == "-inf"
    assert dropped["stage_bound_paper"] == "-inf"
    assert dropped["penalty_stale_paper"] == ["inf", "inf"]
    assert strict(run("stage", save(arrays | {"discount": np.array(0.0)}), "--json")[1])["penalty_paper"] == [0.0, 0.0]
    away = arrays["transition"].copy()
    away[..., 1] += away[..., 0]
    away[..., 0] = 0.0
    hidden = arrays | {"transition": away, "initial": np.array([0.0, 0.5, 0.25, 0.25])}
    record = strict(run("stage", save(hidden), "--json")[1])
    assert record["kl"] == [0.0, 0.0]
    assert record["penalty_paper"] == [0.0, 0.0]


def test_everything_is_validated_before_the_first_line(run, save):
    good, bad = save(tables(), "good.npz"), save({"reward": np.zeros((2, 2))}, "bad.npz")
    code, out, err = run("stage", good, bad, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"teamtr: error: {bad}: discount, horizon: found neither, expected exactly one")
    assert err.count("\n") == 1


def test_no_file(run):
    code, out, err = run("stage")
    assert (code, out) == (2, "")
    assert "FILE: found none, expected at least one stage file" in err


@pytest.mark.parametrize("team", [tables, pytest.param(lambda: episodic(product_tables()), marks=pytest.mark.slow)])
def test_check_says_what_holds(run, save, monkeypatch, team):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("check", save(team()))
    assert code == 0
    for claim in ("T0", "T1", "T2", "P3.1", "P3.3", "P3.4", "P3.6", "P3.7", "P3.8", "S0", "S7"):
        assert f"│ {claim} " in out, claim
    assert "holds" in out
    assert "VIOLATED" not in out


@pytest.mark.parametrize("router", ["round_robin", "random"])
def test_import_gym(run, tmp_path, router):
    path = tmp_path / "lake.npz"
    with pytest.warns(
        UserWarning, match="FrozenLake: its TimeLimit of 100 steps is no part of its table and is dropped"
    ):
        code, out, err = run("import-gym", "FrozenLake", "--agents", 3, "--router", router, "-o", path)
    assert (code, out, err) == (0, f"{path}\n", "")
    assert read_stage(path).team.dynamics.discount == 0.99  # unless another one is given
    record = strict(run("stage", path, "--json")[1])
    np.testing.assert_allclose(record["kl"], 0.01, rtol=1e-9)  # improve:0.01, each step on its own occupancy
    assert np.all(np.diff(record["objective"]) > 0)


def test_import_gym_random_target_and_seed(run, tmp_path):
    path = [tmp_path / f"{k}.npz" for k in range(3)]
    for k, seed in enumerate(((), ("--seed", 0), ("--seed", 2))):  # the seed is 0 unless another one is given
        args = ("--target", "random:0.25", *seed, "--discount", 0.9, "-o", path[k])
        assert run("import-gym", "CliffWalking", "--agents", 2, *args)[0] == 0
    loaded = []
    for p in path:
        with np.load(p) as archive:
            loaded.append(dict(archive))
    assert loaded[0]["discount"] == 0.9
    assert np.array_equal(loaded[0]["target"], loaded[1]["target"])
    assert not np.array_equal(loaded[0]["target"], loaded[2]["target"])
    drawn = (loaded[0]["target"] - 0.75 / 4) / 0.25  # a quarter of the way to the rows that were drawn
    assert drawn.min() >= -1e-15
    assert abs(drawn - 1 / 4).max() > 0.5
    assert loaded[0]["initial"].max() == 1.0  # round robin unless random is asked for: agent 0 begins


def test_targets_at_the_ends_of_their_range():
    """All of the way to a random policy, or none of it; a step without a size is none."""
    assert import_commands._target("random:0") == ("random", 0.0)
    assert import_commands._target("random:1") == ("random", 1.0)
    assert import_commands._target("improve:1e-9") == ("improve", 1e-9)
    for text in ("improve:0", "improve:-0.0", "random:-1e-9", "random:1.0001", "better:0.1"):
        with pytest.raises(
            InputError, match=f"^--target: found '{text}', expected improve:δ with δ > 0, or random:ε with"
        ):
            import_commands._target(text)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("NoSuchLake", "--agents", 2), "ENV: found 'NoSuchLake'"),
        (("CartPole", "--agents", 2), "ENV: found 'CartPole"),
        (("FrozenLake", "--agents", 0), "agents: found 0, expected an integer, at least 1"),
        (("FrozenLake", "--agents", 2, "--discount", 1.0), "discount: found 1.0, expected a discount in [0, 1)"),
        (("FrozenLake", "--agents", 2, "--target", "improve"), "--target: found 'improve', expected improve:δ"),
        (("FrozenLake", "--agents", 2, "--target", "improve:-1"), "--target: found 'improve:-1'"),
        (("FrozenLake", "--agents", 2, "--target", "random:2"), "--target: found 'random:2'"),
    ],
)
def test_import_gym_bad_input(run, tmp_path, args, message):
    code, out, err = run("import-gym", *args, "-o", tmp_path / "x.npz")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_import_openspiel(run, tmp_path):
    """A game as a stage file: what its players see, uniform before, steps of the size that was asked for; claims hold."""
    pytest.importorskip("pyspiel")
    path = tmp_path / "hanabi.npz"
    assert run("import-openspiel", "tiny_hanabi", "-o", path) == (0, f"{path}\n", "")
    stage = read_stage(path)
    assert stage.team.observation is not None
    there = np.r_[:4, 12:24]  # where somebody decides; the first step has fewer histories than the second
    np.testing.assert_array_equal(stage.current[there], np.full((16, 3), 1 / 3))
    np.testing.assert_array_equal(stage.current[4:12], np.tile([1.0, 0, 0], (8, 1)))
    record = strict(run("stage", path, "--json")[1])
    np.testing.assert_allclose(record["kl"], 0.01, rtol=1e-9)
    assert np.all(np.diff(record["objective"]) > 0)
    code, out, _ = run("check", path)
    assert (code, "VIOLATED" in out) == (0, False)
    box = (
        "import-openspiel",
        "coop_box_pushing",
        "--param",
        "horizon=2",
        "--param",
        "fully_observable=True",
        "-o",
        path,
    )
    assert run(*box, "--view", "everything", "--target", "random:0.1") == (0, f"{path}\n", "")
    stage = read_stage(path)
    assert (stage.team.observation, stage.team.factors, stage.team.dynamics.horizon) == (None, (4, 4), 2)


def test_a_game_in_which_nobody_gains_alone(run, tmp_path):
    """Two who must choose alike, both at random: every row is as good as any, the file says so and is written."""
    pytest.importorskip("pyspiel")
    with pytest.warns(
        UserWarning, match="matrix_coordination: no agent gains alone on the uniform team, so that the target"
    ):
        assert run("import-openspiel", "matrix_coordination", "-o", tmp_path / "x.npz")[0] == 0
    stage = read_stage(tmp_path / "x.npz")
    np.testing.assert_array_equal(stage.target, np.full((2, 1, 2), 0.5))


def test_import_openspiel_random_target_and_seed(run, tmp_path):
    pytest.importorskip("pyspiel")
    path = [tmp_path / f"{k}.npz" for k in range(3)]
    for k, seed in enumerate(((), ("--seed", 0), ("--seed", 2))):  # the seed is 0 unless another one is given
        args = ("--target", "random:0.25", *seed, "-o", path[k])
        assert run("import-openspiel", "tiny_hanabi", *args)[0] == 0
    first, same, other = (np.asarray(read_stage(p).target) for p in path)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first[4:12], np.tile([1.0, 0, 0], (8, 1)))
    drawn = (np.delete(first, np.r_[4:12], 0) - 0.75 / 3) / 0.25  # a quarter of the way to the rows that were drawn
    assert drawn.min() >= -1e-15
    assert abs(drawn - 1 / 3).max() > 0.1


def test_what_a_game_is_asked_for(run, tmp_path, monkeypatch):
    """Every setting reaches the game; where none is given, the documented ones."""
    asked = []

    def game(*arguments, **options):
        asked.append((*arguments, options))
        raise InputError("GAME", "one that is asked for", "its settings")

    monkeypatch.setattr(openspiel, "openspiel_game", game)
    path = tmp_path / "x.npz"
    assert run("import-openspiel", "g", "-o", path)[0] == 2
    more = ("--view", "observation", "--most", 7, "--param", "a=1", "--param", "b=True")
    assert run("import-openspiel", "h", "-o", path, *more)[0] == 2
    texts = {"texts": False}
    assert asked == [
        ("g", {}, "information", 250_000, texts),
        ("h", {"a": "1", "b": "True"}, "observation", 7, texts),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nogame",), "GAME: found 'nogame', expected a game of OpenSpiel; identical payoffs have"),
        (("hanabi",), "GAME: found 'hanabi' with some "),
        (("tiny_hanabi", "--param", "foo=3"), "parameter foo: found no such parameter of tiny_hanabi"),
        (("tiny_hanabi", "--param", "foo"), "--param: found 'foo', expected NAME=VALUE"),
        (("tiny_hanabi", "--param", "num_chance=2", "--param", "num_chance=2"), "--param: found num_chance twice"),
        (("tiny_hanabi", "--most", "54"), "GAME: found more than 54 histories, expected a game of at most 54"),
        (("tiny_hanabi", "--most", "0"), "--most: found 0, expected an integer, at least 1"),
        (("tiny_hanabi", "--seed", "-1"), "--seed: found -1, expected an integer, at least 0"),
        (("tiny_hanabi", "--target", "random"), "--target: found 'random', expected improve:δ"),
        (("tiny_hanabi", "--view", "all"), "invalid choice 'all' for argument '--view'"),
    ],
)
def test_import_openspiel_bad_input(run, tmp_path, args, message):
    pytest.importorskip("pyspiel")
    code, out, err = run("import-openspiel", *args, "-o", tmp_path / "x.npz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_import_gym_unwritable(run, tmp_path):
    code, _, err = run("import-gym", "FrozenLake", "--agents", 2, "-o", tmp_path / "no" / "x.npz")
    assert code == 2
    assert "--output: found no folder" in err


# ------------------------------------------------------------------------------------ what is printed, what is refused


def rows(out):
    """The cells of the lines of a table, without its frame."""
    lines = [line for line in out.splitlines() if line.strip().startswith(("│", "|"))]
    return [[cell.strip() for cell in line.strip("│| ").split("│")] for line in lines]


@pytest.mark.parametrize("form", [tables, lambda: episodic(product_tables())])
def test_every_number_of_a_stage_is_the_reports(run, save, monkeypatch, form):
    """Each key of the record is its field or its function of the report; each cell of the table stands in its column."""
    arrays = form() | {"order": np.array([1, 0])}
    path = save(arrays)
    record = strict(run("stage", path, "--json")[1])
    report = evaluate_stage(read_stage(path))
    product = "factors" in arrays
    expected = {name: getattr(report, name) for name in ("objective", "delta_stale", "d_occ", "improvement")}
    expected |= {name: getattr(report, name) for name in LISTS if not name.startswith(("penalty", "lower"))}
    expected |= {name: getattr(report, name) for name in ("surrogate_reused", "gap_reused") if product}
    expected |= {rung.name: rung.fn(report) for rung in DEFAULT if record["form"] in rung.forms}
    expected |= {
        "penalty_least": least(report, "fresh"),
        "penalty_stale_least": least(report, "stale"),
        "certificate_paper": expected["surrogate_intermediate"] - expected["penalty_paper"],
        "lower_bound_paper": expected["surrogate_intermediate"] - expected["penalty_paper"],
        "certificate_estimable": expected["surrogate_intermediate"] - expected["penalty_log_sum"],
        "certificate_weighted": certificates.certificate_weighted(report),
        "stage_bound_cached": certificates.stage_bound_cached(report),
        "stage_bound_reused": certificates.stage_bound_reused(report),
        "stage_bound_weighted": certificates.stage_bound_weighted(report),
    }
    if product:  # the episodic one
        expected["stage_bound_chi_square"] = certificates.stage_bound_chi_square(report)
    expected["certificate"] = expected["surrogate_intermediate"] - expected["penalty_least"]
    expected["stage_bound_paper"] = expected["certificate_paper"].sum()
    expected["stage_bound_stale_paper"] = (report.surrogate_stale - expected["penalty_stale_paper"]).sum()
    expected["stage_bound_least"] = expected["certificate"].sum()
    labels = {"schema": 1, "file": str(path), "agents": 2, "order": [1, 0]}
    labels |= {"form": "episodic" if product else "discounted", "protocol": "product" if product else "turn-taking"}
    assert {key: record[key] for key in labels} == labels
    gained = np.diff(record["objective"])
    share = record["certified_share"]
    assert set(record) == set(expected) | set(labels) | {"certified_share"}
    for key, value in expected.items():
        np.testing.assert_allclose(np.array(record[key], float), value, rtol=1e-12, atol=1e-15, err_msg=key)
    for i in range(2):
        assert (share[i] is None) == (gained[i] <= 0)
        assert share[i] is None or abs(share[i] - record["certificate"][i] / gained[i]) < 1e-9 * abs(share[i])

    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = run("stage", path)
    shown = {cells[0]: cells[1:] for cells in rows(out)}
    assert code == 0
    for key, value in record.items():
        if isinstance(value, list) and key not in ("order", "objective"):
            assert shown[key] == ["–" if x is None else f"{float(x):.6g}" for x in value], key
        elif isinstance(value, float):
            assert re.search(rf"^ *{key}  {re.escape(f'{value:.6g}')}$", out, re.MULTILINE), key
    assert re.search(r"update \(agent\) *┃ *1 ┃ *0 ┃", out)
    for word in (record["form"], record["protocol"], *(f"{x:.6g}" for x in record["objective"])):
        assert word in out


def constant(id, statement, forms=("discounted",), **checks):
    return Claim(
        id, statement, "here", lambda stage, report: {k: Check(*map(jnp.asarray, v)) for k, v in checks.items()}, forms
    )


@pytest.mark.parametrize(("worst", "code"), [(0.5, 0), (1.0, 0), (1.0 + 2e-9, 1)])
def test_check_prints_and_returns_its_verdicts(run, save, state, monkeypatch, worst, code):
    """Claims with numbers chosen by hand: verdict, number of instances and ratio of each; 1 only beyond the rounding budget."""
    budget = [1e-9] * 3
    stated = (
        constant("C1", "first", part=([0.25, worst, 0.125], [1.0, 1.0, 0.5], budget)),
        constant("C2", "second", **{"": ([0.25, 0.5], [1.0, 1.5], [1e-9] * 2)}),
        Claim("C3", "third", "here", lambda s, r: {"": Check(jnp.zeros(4), jnp.zeros(4), jnp.ones(4), jnp.ones(4))}),
        constant("C4", "fourth", ("episodic",), part=([2.0], [1.0], [0.0])),
    )
    state(stated)
    monkeypatch.setenv("COLUMNS", "40")
    path = save(tables(), "x[/b].npz")
    found, out, err = run("check", path)
    verdict = {0.5: "holds", 1.0: "inconclusive ×1"}.get(worst, "VIOLATED ×1")
    assert (found, err) == (code, "")
    assert rows(out)[-3:] == [
        ["C1", "part", verdict, "3", f"{worst:.3g}", "float"],
        ["C2", "second", "holds", "2", "0.333", "float"],
        ["C3", "third", "holds", "4", "identity", "float"],
    ]
    assert "x[/b].npz:discounted,2agents,4states" in "".join(out.split())


@pytest.fixture
def found(monkeypatch):
    """What the checks of one claim find, file by file: no program is made for it."""

    def call(*verdicts):
        kinds = [
            np.array([[kind == word for kind in verdict] for word in ("VIOLATED", "open", "NaN")])
            for verdict in verdicts
        ]
        answers = iter([{"C1": {"": Judged(k[0], k[1], np.full(k.shape[1], 0.5), k[2], None)}} for k in kinds])
        monkeypatch.setattr(claims, "STAGE_CLAIMS", (Claim("C1", "first", "here", lambda stage, report: {}),))
        monkeypatch.setattr(padded, "run", lambda function, stage: next(answers))

    return call


@pytest.mark.parametrize(
    ("first", "second", "code"), [("holds", "holds", 0), ("VIOLATED", "holds", 1), ("holds", "VIOLATED", 1)]
)
def test_one_file_that_fails_is_enough(run, save, found, first, second, code):
    """Exit code 1 whichever of the files it is; each has its table, with its form."""
    found([first], [second])
    files = save(tables(), "a.npz"), save(episodic(tables()), "b.npz")
    got, out, err = run("check", *files)
    assert (got, err) == (code, "")
    assert [row[2].split()[0] for row in rows(out)[-1:] + rows(out.split("b.npz")[0])[-1:]] == [second, first]
    head = next(line for line in out.splitlines() if "claim" in line)
    assert re.findall(r"\w+", head) == ["claim", "check", "verdict", "instances", "tightest", "evidence"]
    titles = "".join(out.split())
    assert "a.npz:discounted,2agents,4states" in titles
    assert "b.npz:episodic,2agents,12states" in titles  # three steps of four


def test_what_is_open_hides_no_violation(run, save, found, monkeypatch):
    """One instance that is not decided, one that is and is violated, one that floats see to be violated."""
    found(["open", "open", "VIOLATED", "holds"])
    monkeypatch.setattr(exact, "decide", lambda *_: ["open", "violated"])
    code, out, _ = run("check", save(tables()))
    assert (code, rows(out)[-1]) == (1, ["C1", "first", "VIOLATED ×2", "4", "0.5", "float, 1 exact"])


def test_a_check_without_a_name_is_called_by_its_claim(run, save, found):
    found(["NaN"])
    path = save(tables())
    assert run("check", path) == (
        3,
        "",
        f"teamtr: error: {path}: C1: not a number (the linear solve did not succeed)\n",
    )


def test_the_limits_of_exact_decisions_are_the_documented_ones(run, save, found):
    """What is printed below the tables, and docs/stage-files.md."""
    found(["holds"])
    out = " ".join(run("check", save(tables()))[1].split())
    page = " ".join((Path(__file__).parents[1] / "docs" / "stage-files.md").read_text().split())
    states, work = re.search(r"at most (\d+) states and ([\d,]+) states × actions × agents", page).groups()
    assert (int(states), int(work.replace(",", ""))) == (exact.EXACT_STATES, exact.EXACT_WORK)
    assert (
        f"not decided (more than {states} states, more than {work} states × actions × agents, or balls that overlap)"
        in out
    )


class Says:
    """A command that prints a line and says whether numbers have 64 bits."""

    def run(self):
        sys.stdout.write("a line\n")
        return 0 if jax.config.jax_enable_x64 else 9


def test_numbers_have_64_bits(capsys):
    """Whatever jax was set to before."""
    jax.config.update("jax_enable_x64", False)
    try:
        assert cli._run(Says()) == 0
    finally:
        jax.config.update("jax_enable_x64", True)
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_what_could_not_be_printed_is_an_error(monkeypatch, capsys):
    """The last lines wait in a buffer: that they could not be written is said, once, and closing says nothing more."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli._run(Says()) == 3
    err = capsys.readouterr().err
    assert err == "teamtr: error: OSError: No space left on device (TEAMTR_TRACEBACK=1 shows where)\n"


def test_a_warning_is_one_line(run, monkeypatch):
    """No place in the code, no control character."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # `main` sets its own
    run("--version")
    assert warnings.formatwarning("x\x1b[2J", UserWarning, "file.py", 1) == "teamtr: warning: x\\x1b[2J\n"


def relay():
    """The team of docs/stage-files.md: 18 states, in which T1 is attained."""
    steps, levels = 6, 3
    move = np.zeros((levels, 2, levels))
    for s in range(levels):
        move[s, 0, s] = move[s, 1, min(s + 1, levels - 1)] = 1.0
    reward = np.zeros((steps, levels, 2))
    reward[-1] = move[..., -1]
    active = np.tile(np.arange(steps)[:, None] % 2, (1, levels))
    current, target = (np.tile(row, (levels, 1)) for row in ([0.9, 0.1], [0.8, 0.2]))
    return {
        "transition": move, "reward": reward, "initial": np.eye(levels)[0], "horizon": np.array(steps), "active": active,
        "current": current, "target": target, "order": np.array([1, 0]),
    }  # fmt: skip


def test_what_is_attained_in_a_small_team_is_decided(run, save):
    """T1 holds with equality, which floats cannot say; nothing stays inconclusive."""
    code, out, err = run("check", save(relay()))
    found = [row for row in rows(out) if len(row) == 6]  # without the further lines of a long statement
    assert (code, err) == (0, "")
    assert {row[2] for row in found} == {"holds"}
    evidence = {row[0]: row[5] for row in found}
    assert re.fullmatch(r"float, [1-9]\d* exact", evidence["T1"])
    assert evidence["S9"] == evidence["T0"] == "float"


@pytest.mark.parametrize("form", [tables, relay, product_tables], ids=["discounted", "episodic", "product"])
def test_every_claim_is_decided_where_floats_say_nothing(run, save, monkeypatch, form):
    """Every instance of every inequality made inconclusive: each has its exact form, and holds by it."""
    judge = padded.run

    def vague(check):
        everywhere = np.ones_like(check.inconclusive)
        return check if check.identity is not None else check._replace(inconclusive=everywhere, violated=~everywhere)

    def run_vaguely(function, stage):
        return {name: {part: vague(x) for part, x in found.items()} for name, found in judge(function, stage).items()}

    monkeypatch.setattr(padded, "run", run_vaguely)
    code, out, err = run("check", save(form()))
    found = [row for row in rows(out) if len(row) == 6]  # without the further lines of a long statement
    assert (code, err) == (0, "")
    assert {row[2] for row in found} == {"holds"}
    floats = {(row[0], row[1]) for row in found if not row[5].endswith("exact")}
    identities = {
        ("T0", "stage"),
        ("T0", "update"),
        ("P3.1", "KL"),
        ("S11", "product"),
    }  # a float verdict is one of two
    assert floats == identities
    assert len(found) > 35


@pytest.mark.parametrize(
    ("decided", "code", "verdict", "evidence"),
    [
        ("exact", 0, "holds", "float, 1 exact"),
        ("enclosed", 0, "holds", "float, 1 exact"),
        ("violated", 1, "VIOLATED ×1", "float, 1 exact"),
        ("open", 0, "inconclusive ×1", "float"),
    ],
)
def test_an_exact_decision_is_the_verdict(run, save, state, monkeypatch, decided, code, verdict, evidence):
    """It is asked for what is open, by claim, check and place; a violation that it finds is one."""
    claim = constant("C1", "first", part=([0.25, 1.0, 0.125], [1.0, 1.0, 0.5], [1e-9] * 3))
    asked = []
    state((claim,))
    monkeypatch.setattr(exact, "decide", lambda stage, *where: asked.append(where) or [decided])
    found, out, _ = run("check", save(tables()))
    assert (found, rows(out)[-1]) == (code, ["C1", "part", verdict, "3", "1", evidence])
    assert [(id_, name, list(places)) for id_, name, places in asked] == [("C1", "part", [1])]


def test_a_team_of_more_states_stays_inconclusive(run, save, state, monkeypatch):
    monkeypatch.setattr(exact.checks, "EXACT_STATES", 17)
    state(tuple(claim for claim in STAGE_CLAIMS if claim.id == "T1"))
    code, out, _ = run("check", save(relay()))
    row = next(row for row in rows(out) if row[0] == "T1")
    assert (code, row[5]) == (0, "float")
    assert row[2].startswith("inconclusive ×")


@pytest.mark.parametrize("part", range(4))
def test_a_number_that_could_not_be_computed_is_no_violation(run, save, state, monkeypatch, part):
    """NaN in what is measured, in the bound, in the budget or the scale: exit code 3, which claim, and no table."""
    numbers = [[0.5], [1.0], [0.0], [1.0]]
    numbers[part] = [float("nan")]
    state((constant("C1", "first", part=tuple(numbers)),))
    path = save(tables())
    assert run("check", path) == (
        3,
        "",
        f"teamtr: error: {path}: C1 part: not a number (the linear solve did not succeed)\n",
    )


def test_overflow_is_not_a_verdict(run, save):
    path = save(tables() | {"reward": tables()["reward"] * 1e308})
    code, out, err = run("stage", path)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert re.match(rf"teamtr: error: {path}: \w+: not a number", err)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("no\nluck \x1b[2J"), 3, r"RuntimeError: no luck \x1b[2J (TEAMTR_TRACEBACK=1 shows where)"),
        (MemoryError(), 3, "MemoryError: MemoryError (TEAMTR_TRACEBACK=1 shows where)"),
        (
            OSError(28, "No space left on device"),
            3,
            "OSError: No space left on device (TEAMTR_TRACEBACK=1 shows where)",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(1), 3, "standard output was closed"),
        (ZeroDivisionError("by zero"), 3, "by zero"),
    ],
)
def test_what_is_not_expected_is_not_exit_code_one(run, save, monkeypatch, error, code, line):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr(programs, "run", fail)
    for command in ("check", "stage"):
        found = run(command, save(tables()))
        assert found[0] == code
        assert found[1:] == ("", f"teamtr: error: {line}\n") or isinstance(error, ZeroDivisionError)
    assert line in found[2]
    monkeypatch.setenv("TEAMTR_TRACEBACK", "1")
    assert "in fail\n    raise error" in run("check", save(tables()))[2]


def test_names_are_shown_as_they_are(run, save, state, monkeypatch, tmp_path):
    """Markup is no markup, control characters are none, long names are shortened: in titles and in messages."""
    state(())
    monkeypatch.setenv("COLUMNS", "400")
    path = save(tables(), "x[/b][red]\x1b[31m.npz")
    monkeypatch.chdir(tmp_path)  # a title is as wide as its table: a long folder would break it
    for command in ("stage", "check"):
        code, out, _ = run(command, path.relative_to(tmp_path))
        assert code == 0
        assert r"x[/b][red]\x1b[31m.npz: discounted" in out
    bad = save({"a[/b]\x1b": np.zeros(1)}, "y[/b]\x1b.npz")
    code, out, err = run("stage", bad)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert r"y[/b]\x1b.npz: discount, horizon: found neither" in err
    long = run("stage", "/" + "a" * 4000)[2]
    assert len(long) < 1000
    assert "…" in long


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--discount", "nan"), "discount: found nan, expected a finite number"),
        (("--seed", "-1"), "--seed: found -1, expected an integer, at least 0"),
        (("--target", "improve:nan"), "--target: found 'improve:nan'"),
        (("--target", "improve:inf"), "--target: found 'improve:inf'"),
        (("--target", "random:nan"), "--target: found 'random:nan'"),
        (("--agents", 10**12), "agents: found 1000000000000, which takes "),
        (("--env-arg", "is_slippery"), "--env-arg: found 'is_slippery', expected NAME=VALUE"),
        (("--env-arg", "=1"), "--env-arg: found '=1', expected NAME=VALUE"),
        (("--env-arg", "is_slippery=0", "--env-arg", "is_slippery=1"), "--env-arg: found is_slippery twice"),
        (("--env-arg", "is_slippery=Flase"), "option is_slippery: found 'Flase', expected True or False"),
        (("--env-arg", "success_rate=1.5"), "P, state 0, action 0, entry 0, probability: found -0.25"),
        (("--env-arg", "slip[/b]=1"), "--env-arg: found 'slip[/b]=1', expected NAME=VALUE"),
        (("--env-arg", "slip=1"), "option slip: found no such option of FrozenLake"),
    ],
)
def test_import_gym_refuses_settings_by_name(run, tmp_path, args, message):
    code, out, err = run("import-gym", "FrozenLake", "--agents", 2, "-o", tmp_path / "x.npz", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("import-gym", "FrozenLake", "--agents", "1.5", "-o", "x"), "Error parsing --agents: invalid literal for int() with"),
        (("import-gym", "FrozenLake"), "Missing from teamtr import-gym: --agents INT (required) -o PATH, --output PATH"),
        (("import-gym", "FrozenLake", "--agents", "1", "-o", "x", "--router", "lot"), "invalid choice 'lot' for argument"),
        (("bogus",), "Unrecognized options: bogus; Available subcommands: stage, check, import-gym, import-openspiel, monitor"),
        (("stage", "--jsn"), "Unrecognized options: --jsn"),
        (("monitor", "log.jsonl", "--alpha", "2"), "--alpha: found 2.0, expected a finite number greater than 0 and less"),
        ((), "Expected one of {stage, check, import-gym, import-openspiel, monitor}."),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read(run, args, line):
    """One line, and no frame of tyro's."""
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"teamtr: error: {line}")
    assert not set(err) & set("╭╮╰╯│─")


def test_help_is_help(run):
    code, out, err = run("stage", "--help")
    assert (code, err) == (0, "")
    assert "usage: teamtr stage" in out


def test_version(run):
    """That of the installed package; where compiled programs are kept, and how much."""
    version = importlib.metadata.version("teamtr-jax")
    assert run("--version") == (0, f"teamtr {version}\n{programs.described()}\n", "")


def test_places_are_tried_before_the_work(run, tmp_path, monkeypatch):
    def work(*args):
        raise AssertionError("the work began")

    monkeypatch.setattr(gymnasium, "read_table", work)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for place, found in [
        ("folder", "a folder"),
        ("pipe", "a pipe"),
        ("/dev/null", "a device"),
        ("no/x.npz", "no folder"),
    ]:
        code, out, err = run("import-gym", "FrozenLake", "--agents", 2, "-o", tmp_path / place)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("teamtr: error: --output: found")
        assert found in err
        assert run("import-openspiel", "nogame", "-o", tmp_path / place) == (2, "", err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_options_reach_the_environment(run, tmp_path):
    """Dry ice: every row is certain. Values are read by their type, and a text is a text."""
    path = tmp_path / "dry.npz"
    args = ("--env-arg", "is_slippery=False", "--env-arg", "map_name=8x8", "--target", "random:0.25")
    with pytest.warns(UserWarning, match="its TimeLimit of 100 steps"):
        assert run("import-gym", "FrozenLake", "--agents", 1, "-o", path, *args)[:2] == (0, f"{path}\n")
    stage = read_stage(path)
    assert stage.team.dynamics.prob.shape == (65, 4, 1)
    assert set(np.asarray(stage.team.dynamics.prob).ravel()) == {1.0}
    assert import_commands._options("--env-arg", ("a=False", "b=3", "c=.5", "d=None", "e=[1, 2]", "f=x=y", "g=", "h='3'")) == {
        "a": False, "b": 3, "c": 0.5, "d": None, "e": [1, 2], "f": "x=y", "g": "", "h": "3",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*TimeLimit")
def test_what_a_state_does_not_offer_has_probability_zero(run, tmp_path):
    """Current and target, by both kinds of target; the rows that are left are uniform before."""
    MADE["now"] = lambda: Toy(changed(lambda t: (t[1].pop(0), t.update({3: {}}))), [1.0, 0, 0, 0])
    for target in ("random:0.5", "improve:0.05"):
        path = tmp_path / "toy.npz"
        assert run("import-gym", "TeamtrToy-v0", "--agents", 2, "-o", path, "--target", target)[0] == 0
        stage = read_stage(path)
        for policy in (stage.current, stage.target):
            assert policy[2:4].tolist() == [[0.0, 1.0]] * 2
        assert np.all(np.delete(np.asarray(stage.current), [2, 3], 0) == 0.5)
        assert stage.target[5, 1] != 0.5  # agent 1 in state 2, where the actions differ
