"""`teamtr`: output, conventions, exit codes. Numbers against a textbook computation in NumPy that shares no code."""

import json
import sys

import numpy as np
import pytest
from test_stage_file import episodic, product_tables, tables

from teamtr_jax import cli

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
def save(tmp_path):
    def write(arrays, name="stage.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def textbook(t):
    """The report of a turn-taking, discounted, dense file by the definitions of theory.md, section 1."""
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
    code, out, err = run("import-gym", "FrozenLake", "--agents", 3, "--router", router, "-o", path)
    assert (code, out, err) == (0, f"{path}\n", "")
    record = strict(run("stage", path, "--json")[1])
    np.testing.assert_allclose(record["kl"], 0.01, rtol=1e-9)  # improve:0.01, each step on its own occupancy
    assert np.all(np.diff(record["objective"]) > 0)


def test_import_gym_random_target_and_seed(run, tmp_path):
    path = [tmp_path / f"{k}.npz" for k in range(3)]
    for k, seed in enumerate((1, 1, 2)):
        args = ("--target", "random:0.3", "--seed", seed, "--discount", 0.9, "-o", path[k])
        assert run("import-gym", "CliffWalking", "--agents", 2, *args)[0] == 0
    loaded = []
    for p in path:
        with np.load(p) as archive:
            loaded.append(dict(archive))
    assert loaded[0]["discount"] == 0.9
    assert np.array_equal(loaded[0]["target"], loaded[1]["target"])
    assert not np.array_equal(loaded[0]["target"], loaded[2]["target"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("NoSuchLake", "--agents", 2), "ENV: found 'NoSuchLake'"),
        (("CartPole", "--agents", 2), "ENV: found 'CartPole"),
        (("FrozenLake", "--agents", 0), "agents: found 0, expected at least 1"),
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


def test_import_gym_unwritable(run, tmp_path):
    code, _, err = run("import-gym", "FrozenLake", "--agents", 2, "-o", tmp_path / "no" / "x.npz")
    assert code == 2
    assert "--output: found no folder" in err
