"""95 % of the optimal return with every update certified (`benchmarks/end_to_end.py`), checked from the outside."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import end_to_end, monitor, report, stage
from benchmarks.end_to_end import FLOORS, SHARE, floor, run, team_of
from benchmarks.llm import __main__ as networks
from benchmarks.writer import writer


def exact(team, policy):
    """`V` and `J` by LAPACK."""
    P, r, gamma = np.asarray(team.dynamics.transition), np.asarray(team.reward), float(team.dynamics.discount)
    v = np.linalg.solve(np.eye(len(r)) - gamma * np.einsum("sa,sat->st", policy, P), (policy * r).sum(-1))
    return v, float(np.asarray(team.initial) @ v)


def extreme(team, policy, free, best):
    """Least or greatest values over the rows of `free`, by policy iteration."""
    P, r, gamma = np.asarray(team.dynamics.transition), np.asarray(team.reward), float(team.dynamics.discount)
    policy = policy.copy()
    for _ in range(100):
        v, j = exact(team, policy)
        q = r + gamma * P @ v
        chosen = np.eye(r.shape[1])[q.argmax(-1) if best else q.argmin(-1)]
        better = np.where(free[:, None], chosen, policy)
        if (better == policy).all():
            return v, j
        policy = better
    raise AssertionError("policy iteration did not end")


@pytest.mark.parametrize(("way", "sharp"), [("weighted", FLOORS[1]), ("greedy", "")])
def test_every_update_is_certified(way, sharp):
    """No certificate is negative or above the improvement; the end is at `SHARE` of the optimum."""
    for seed in (0, 1):
        team = team_of(seed)
        S, A = team.reward.shape
        start = np.full((S, A), 1 / A)
        out = jax.device_get(run(team, jnp.asarray(start), way, sharp))
        k = int(out.updates)
        j = out.objective[: k + 1]
        _, optimum = extreme(team, start, np.ones(S, bool), True)
        assert float(out.optimum) == pytest.approx(optimum, rel=1e-9)
        assert j[0] == pytest.approx(exact(team, start)[1], rel=1e-12)
        assert j[k] >= SHARE * optimum > j[k - 1]
        gained = np.diff(j)
        np.testing.assert_allclose(out.improvement[:k], gained, rtol=0, atol=1e-12 * optimum)
        assert (out.certificate[:k] > 0).all()
        assert (out.certificate[:k] <= gained + 1e-12 * optimum).all()
        assert (out.slack[:k] >= 0).all()
        if way == "weighted":
            assert out.certificate[:k].sum() > 0.4 * gained.sum()  # and they are worth something


def test_floor():
    """(F) holds with rounding; the floor is the worst that the free rows can do, to the accuracy of the iteration."""
    team = team_of(2)
    rng = np.random.default_rng(0)
    S, A = team.reward.shape
    policy = rng.dirichlet(np.ones(A), S)
    own = np.asarray(team.active) == 1
    for free in (own, np.ones(S, bool)):
        phi, slack = jax.jit(floor)(team, jnp.asarray(policy), jnp.asarray(free))
        worst, _ = extreme(team, policy, free, False)
        assert float(slack) >= 0
        assert (np.asarray(phi) <= worst).all()
        np.testing.assert_allclose(phi, worst, atol=1e-6)
        others = np.where(free[:, None], rng.dirichlet(np.ones(A), S), policy)
        assert (np.asarray(phi) <= exact(team, others)[0]).all()


def measured(seed, way, sharp):
    """A row of the results, written by hand."""
    numbers = dict.fromkeys(
        ("seconds", "seconds_cpu", "seconds_compiled", "least_certificate", "certified_part"), 1.5 + seed
    )
    counts = dict(updates=7, reached=True, negative=0, violations=0, floor_violations=0)
    return dict(seed=seed, way=way, floor=sharp if way == "weighted" else "", **numbers, **counts)


def test_results_say_where_they_were_measured(tmp_path, monkeypatch, capsys):
    """The file names machine, versions, commit and load; the report shows them, and says so where an old file does not."""
    monkeypatch.setattr(end_to_end, "measure", measured)
    path = tmp_path / "results" / "end_to_end-here.json"
    end_to_end.main(["--seeds", "3", "--json", str(path)])
    result = json.loads(path.read_text())
    assert set(result["machine"]) == {"cpu", "cores", "memory_gib", "system"}
    assert result["versions"]["jax"] == jax.__version__
    assert result["versions"]["numpy"] == np.__version__
    assert len(result["rows"]) == 9
    (tmp_path / "results" / "end_to_end-old.jsonl").write_text("\n".join(map(json.dumps, result["rows"])))
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.main()
    text = (tmp_path / "README.md").read_text()
    new, old = text.split("## end_to_end-here")[1].split("## end_to_end-old")
    assert f"jax {jax.__version__}" in new
    assert result["machine"]["cpu"] in new
    assert report.UNKNOWN in old
    assert report.UNKNOWN not in new
    for part in (new, old):
        assert "| greedy | 3 | 2.5 [2, 3], most 3.5 |" in part


def no_work(*_, **__):
    raise AssertionError("begun before the place was tried")


@pytest.mark.parametrize(
    ("place", "found"),
    [("folder", "folder, a folder"), ("file/here.json", "file, a file"), ("folder/link.json", "link.json, a device")],
)
@pytest.mark.parametrize(
    ("program", "work", "more"),
    [
        (stage, "run_setup", []),
        (end_to_end, "measure", []),
        (networks, "measure", ["--without-torch"]),
        (monitor, "made_up", []),
    ],
)
def test_the_place_of_the_results_is_tried_before_the_work(tmp_path, monkeypatch, program, work, more, place, found):
    monkeypatch.setattr(program, work, no_work)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link.json").symlink_to("/dev/null")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit, match=rf"^--json: found .*/{found}, expected a [^\n]*$"):
        program.main(["--json", str(tmp_path / place), *more])
    assert sorted(x.name for x in tmp_path.rglob("*")) == ["file", "folder", "link.json"]


def test_results_are_whole_or_not_there(tmp_path, monkeypatch, capsys):
    """A folder is made when there is something to write; what was there stays where writing fails; nothing else is left."""
    path = tmp_path / "new" / "here.json"
    write = writer(str(path))
    assert not path.parent.exists()
    write({"rows": [1.5]})
    assert json.loads(path.read_text()) == {"rows": [1.5]}
    with pytest.raises(TypeError):
        write({"rows": [object()]})
    assert json.loads(path.read_text()) == {"rows": [1.5]}
    assert list(path.parent.iterdir()) == [path]

    def full(self, text):
        self.write_bytes(text[:5].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_text", full)
        with pytest.raises(Exception, match="No space left"):
            write({"rows": [2.5]})
    assert json.loads(path.read_text()) == {"rows": [1.5]}
    assert list(path.parent.iterdir()) == [path]
    writer(None)({"rows": []})
    assert capsys.readouterr().out == f"written: {path}\n"


def network(group, size, **samples):
    """A comparison of `benchmarks.llm`, written by hand."""
    rows = [row._asdict() for row in networks.rows_of(group, size, samples)]
    return dict(group=group, size=size, shape=networks.SIZES[size]._asdict(), load=0.5, rows=rows, samples=samples)


def test_networks_are_judged_on_medians_and_one_peak(tmp_path, monkeypatch, capsys):
    comparisons = [
        network("sample", "large", jax_matmul=[0.4] * 3, one=[1.0] * 3, hf=[1.9, 2.0, 9.0], hand=[1.8, 1.8, 9.0],
                torch_matmul=[0.1, 0.2, 0.4]),
        network("team", "large", three=[3.9, 3.9, 9.0], alone_0=[1.0] * 3, alone_1=[1.0] * 3, alone_2=[1.0] * 3,
                jax_matmul=[0.3] * 3),
    ]  # fmt: skip
    machine = dict(cpu="a processor", cores=2, memory_gib=1.0, system="a system")
    result = dict(
        machine=machine, versions=dict(jax="0"), commit="abc", setup="all-cores", cores=2, comparisons=comparisons
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "llm-here.json").write_text(json.dumps(result))
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.main()
    text = (tmp_path / "README.md").read_text().split("## llm-here")[1]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert f"torch's {2 * 2048**3 / 0.2 / 1e9:.3g} GFLOP/s" in text.replace("\n", " ")
    assert lines["transformers generate"].endswith("| 2.00 [1.95, 5.50] MISSED (≥ 3.0) |")
    assert lines["hand-written torch loop"].endswith("| 1.80 [1.80, 5.40] met (≥ 1.8) |")
    assert lines["package, three agents"].endswith("| 1.30 [1.30, 2.15] met (≤ 1.3) |")
    tokens, flops = networks.SIZES["large"].tokens, networks.SIZES["large"].flops()
    share = flops / (2 * 2048**3 / 0.2)
    assert (
        lines["package, one agent"]
        == f"| package, one agent | {tokens:,} | 1 s [1 s, 1 s] | {flops / 1e9:.3g} | {share:.1%} |  |"
    )
    assert "a processor, 2 cores" in text
    assert "load 0.5" in text
    assert "GRPO step" not in text.split("### Sampler")[1]


def test_networks_of_another_width():
    """`large` at that width; anything else is refused by name before a process starts."""
    size = networks.size_of("512")
    assert size == networks.SIZES["large"]._replace(width=512, heads=16)
    assert networks.rows_of("sample", "512", dict(one=[1.0] * 3))[0].gflops == size.flops() / 1e9
    steps = networks.rows_of("step", "large", dict(step=[0.9] * 3, step_all=[1.0] * 3, trl=[1.9] * 3))
    assert [(row.name, row.ratio and row.ratio[1], row.met) for row in steps] == [
        ("step", 0.9, None), ("step_all", None, None), ("trl", 1.9, False)]  # fmt: skip
    for bad in ("huge", "0", "100"):
        with pytest.raises(SystemExit):
            networks.main(["--without-torch", "--sizes", bad])


def test_the_monitor_is_timed_and_judged_on_the_command(tmp_path, monkeypatch, capsys):
    """Small logs, no page, the command an interpreter that does nothing; a target that nothing meets is missed."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(monitor, "KINDS", {"made up": False})
    monkeypatch.setattr(monitor, "write_page", lambda *_: None)
    monkeypatch.setattr(monitor, "COMMAND", (sys.executable, "-c", ""))
    path = tmp_path / "results" / "monitor-here.json"
    monitor.main(["--rows", "10000", "--rounds", "2", "--large", "10000", "--json", str(path)])
    result = json.loads(path.read_text())
    assert [log["form"] for log in result["logs"]] == ["parquet", "jsonl"]
    assert {name: len(x) for name, x in result["logs"][0]["samples"].items()} == dict.fromkeys(report.MONITOR_STEPS, 2)
    assert [log["memory"][0] > 10**6 for log in result["logs"]] == [True, True]
    result["logs"][0]["target"] = 0.0
    path.write_text(json.dumps(result))
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.main()
    text = (tmp_path / "README.md").read_text().split("## monitor-here")[1]
    assert result["machine"]["cpu"] in text
    assert f"numpy {np.__version__}" in text
    first, second = (line for line in text.splitlines() if line.startswith("| made up"))
    assert "MISSED (≤ 0 s)" in first
    assert "met (≤ 10 s)" in second
    (large,) = result["large"]
    assert f"Parquet of {large['rows']:,} rows" in text
    assert "of memory at most: met (≤ 1500 MB)" in text
    assert "MISSED (≤ 0 MB)" in report.large_line(large | {"target": 0.0})
    monkeypatch.setattr(monitor, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(SystemExit, match="exit code 3"):
        monitor.command(path)
