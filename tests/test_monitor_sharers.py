"""The monitor where agents share parameters: whom an update moves, what that changes, and what is refused."""

import numpy as np
import pytest
from monitor_oracle import HIGH, LOW, columns, stage

from teamtr_jax import intervals
from teamtr_jax.cli import main
from teamtr_jax.monitor import Settings, monitor, page, pool, token_log, write_token_log
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.terminal import tables
from teamtr_jax.monitor.verdict import verdicts
from teamtr_jax.validation import InputError

GROUPS = {1: 4, 2: 4, 3: 4}
SHARERS = (0, 1, 0)


def log_of(told=(0, 1, 2), moved=((0, 2), (1,), (0, 2)), **more):
    """Agents 0 and 2 share: their updates are the first and the last, and the stage's start is scored at all three."""
    more = {"sets": {0: [0, 1, 2], 1: [1], 2: [2]}, "seed": 44} | more
    return columns(stage(more["seed"], moved, more["sets"], GROUPS, agents=3, told=list(told) if told else None))


def report(table, sharers=SHARERS, **settings):
    return monitor(token_log(table), Settings(reward_range=(LOW, HIGH), draws=1, sharers=sharers, **settings))


def k3(table, update, source, agents):
    """The mean over prompts, each with as many rollouts, of `Σ (r − 1 − log r)` over the tokens of some agents, by hand."""
    here = (table["update"] == update) & (table["source"] == source) & np.isin(table["agent"], agents)
    r = table["logp_new"][here] - table["logp_current"][here]
    return (np.expm1(r) - r).sum() / sum(GROUPS.values())


def test_an_update_moves_all_sharers():
    """K is a sum over the messages of both; without the declaration it is that of the one that is told."""
    table = log_of()
    found, undeclared = report(table).records, report(table, None).records
    assert [r["agents"] for r in found] == [[0, 2], [1], [0, 2]]
    assert [r["kind"] for r in found] == ["sharers", "single", "sharers"]
    assert [r["changed_besides"] for r in found] == [[], [], []]
    assert [r["agents"] for r in undeclared] == [[0], [1], [2]]
    assert [r["changed_besides"] for r in undeclared] == [[2], [], [0]]
    for r, bare, agents in zip(found, undeclared, ([0, 2], [1], [0, 2]), strict=True):
        assert r["kl_episode"]["value"] == pytest.approx(k3(table, r["update"], r["update"], agents))
        assert bare["kl_episode"]["value"] == pytest.approx(k3(table, r["update"], r["update"], bare["agents"]))
    assert found[0]["kl_episode"]["value"] > 1.2 * undeclared[0]["kl_episode"]["value"]


def test_sharers_move_twice():
    """On the stage's rollouts alone the second update of the set pays both KLs, and the KL booked no longer adds up."""
    table = log_of(sets={0: [0, 1, 2]})
    found = report(table).records
    names = [r["rungs"][0]["name"] for r in found]
    assert names == ["message ratios", "reused rollouts", "reused, agent moved twice"]
    fresh = report(log_of(sets={0: [0], 1: [1], 2: [2]}), tolerance=1.0).records
    assert [r["shift_booked"] for r in fresh][1] == pytest.approx(np.sqrt(fresh[0]["kl_episode"]["value"] / 2))
    assert fresh[2]["shift_booked"] == pytest.approx(np.sqrt(sum(r["kl_episode"]["value"] for r in fresh[:2]) / 2))
    again = report(log_of(told=(0, 2, 1), moved=((0, 2), (0, 2), (1,)), sets={0: [0], 1: [1], 2: [2]}), tolerance=1.0)
    assert again.records[2]["shift_booked"] == 1.0
    assert again.records[2]["shift_rung"].startswith("S2")  # the triangle inequality does not mind


def test_sharers_that_were_not_scored():
    """A log in which only the updated agent was scored again has lost a part of K: no certificate."""
    table = log_of()
    rows = (table["agent"] == 2) & (table["update"] == 0)
    table["logp_new"] = np.where(rows, table["logp_current"], table["logp_new"])
    found = report(table).records
    assert [r["invalid"] for r in found] == [["messages of sharers were not scored"], [], []]
    assert found[0]["certificate"]["lower"] == -np.inf
    assert found[0]["certificate"]["label"] == "none: messages of sharers were not scored"
    assert all(r["invalid"] == [] for r in report(table, None).records)
    idle = log_of()
    still = idle["update"] == 0
    idle["logp_new"] = np.where(still, idle["logp_current"], idle["logp_new"])
    assert report(idle).records[0]["kind"] == "nothing changed"
    assert report(idle).records[0]["invalid"] == []


def test_one_verdict_for_a_set(tmp_path):
    """Sharers are judged together, under their names; the mean matrix has one row for them."""
    moved, told, sets = ((0, 2), (1,), (0, 2)), [0, 1, 2], {0: [0, 1, 2], 1: [1], 2: [2]}
    stages = (stage(seed, moved, sets, GROUPS, number=k, agents=3, told=told) for k, seed in enumerate((44, 47)))
    found = report(columns(*stages))
    assert [(v.agent, v.members, v.whose) for v in verdicts(found)] == [(0, [0, 2], "Agents 0+2"), (1, [1], "Agent 1")]
    pooled = pool(found.interactions, 0.1, SHARERS)
    assert pooled.agents == [0, 1]
    assert pool(found.interactions, 0.1).agents == [1]
    entries = [m.entries[k][1].value for m in found.interactions for k in (0, 2)]
    assert pooled.entries[0][1].value == pytest.approx(sum(entries) / 4)
    ((head, rows),) = ((head, rows) for title, head, rows, _ in tables(found) if "mean over 2 stages" in title)
    assert head == ["", "agents 0+2", "agent 1"]
    assert [row[0] for row in rows] == ["after agents 0+2", "after agent 1"]
    page.write_page(found, tmp_path / "page.html", "log")
    text = (tmp_path / "page.html").read_text()
    assert "<h3>Agents 0+2</h3>" in text
    assert "after agents 0+2" in text


def test_pooled_by_hand():
    """Entries of a whole set count; of a part of it, or of more than it, they do not."""

    def x(value):
        return intervals.interval(value, 0.5, 9, 0.3)

    matrix = Interaction(0, [0, 1, 2], [[0, 2], [0], [0, 1, 2]], [[x(float(3 * k + i)) for i in range(3)] for k in range(3)],
                         [None] * 3, [[False] * 3] * 3)  # fmt: skip
    found = pool([matrix], 0.1, SHARERS)
    assert found.agents == [0]
    assert found.entries[0][0].value == 0.0


def test_declarations_that_do_not_fit(tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError, match=r"^--sharers: found 2 agents, expected 3 at least: agent 2 is in the log$"):
        report(log_of(), (0, 0))
    with pytest.raises(InputError, match=r"^--sharers: found 1 agents, expected 3 at least: agent 2 is in the log$"):
        report(log_of(told=(0, 1, 2)) | {"agent": np.zeros(len(log_of()["t"]), int)}, (0,))
    with pytest.raises(InputError, match=r"^--sharers: found \[0, 2\], expected for each agent"):
        Settings(sharers=(0, 2)).check()
    file = write_token_log(tmp_path / "log.jsonl", log_of())
    arguments = ["monitor", str(file), "--reward-range", "-1", "3", "--draws", "1", "--sharers", "0", "1", "0"]
    assert run_cli(monkeypatch, arguments) == 0
    assert "Agents 0+2: " in capsys.readouterr().out
    assert run_cli(monkeypatch, [*arguments[:-3], "0", "0"]) == 2
    assert "--sharers: found 2 agents" in capsys.readouterr().err


def run_cli(monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["teamtr", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0
