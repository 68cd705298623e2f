"""Enumerated teams of transformers against a list of all transcripts, and their stages through the exact core."""

import itertools
import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from builders import flat

from teamtr_jax.bounds import DEFAULT, ladder
from teamtr_jax.chain_audit import OPTIONS
from teamtr_jax.claims import STAGE_CLAIMS, judge
from teamtr_jax.divergences import message_kl_current_to_new
from teamtr_jax.llm import enumeration as en
from teamtr_jax.llm.layout import Layout, Router, Vocabulary, messages, random_router, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, agent_params, init_team, policy_logits, with_agent_params
from teamtr_jax.schedules import fresh
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError
from theory import networks
from theory.ledger import Row, merged
from theory.studies import s8_networks

SMALL = ModelConfig(width=8, layers=1, heads=1, dtype="float64")
"""float64, so that rows of different lengths agree beyond doubt."""
TALLER = ModelConfig(width=16, layers=1, heads=2, dtype="float64")


def heads_or_tails(last_id):
    """Agent 0 mostly after an odd id, agent 2 mostly after an even one: numbers, for the router and for the oracle."""
    return [[0.7, 0.1, 0.2], [0.1, 0.0, 0.9]][1 - last_id % 2]


def _by_text(view):
    at = 1 + view.turn * 3 - 1  # the id before this turn's header (P = 1, L = 2)
    odd = (view.tokens[:, at] % 2 == 1)[:, None]
    return jnp.where(odd, jnp.array([0.7, 0.1, 0.2]), jnp.array([0.1, 0.0, 0.9]))


BY_TEXT = Router("by text", _by_text)


class Case(NamedTuple):
    team: LanguageTeam
    prompts: tuple[str, ...]
    weights: tuple[float, ...]
    levels: int


CASES = {
    "round robin": Case(
        LanguageTeam(Layout(Vocabulary("01", 2, "?!*", ends=False), 2, 1, 3, round_robin(2)), (SMALL,) * 2),
        ("?", "!*", "*"), (0.5, 0.3, 0.2), 2 + 3,
    ),
    "by text, unlike networks": Case(
        LanguageTeam(
            Layout(Vocabulary("01", 3, "?", ends=False), 1, 2, 2, BY_TEXT), (SMALL, TALLER, SMALL)
        ),
        ("?",), (1.0,), 2 * (2 + 2),
    ),
    "random, END, caps": Case(
        LanguageTeam(Layout(Vocabulary("01", 3, "?"), 1, 2, 2, random_router(3), caps=(1, 2, 2), temperature=0.7), (SMALL,) * 3),
        ("?",), (1.0,), 2 * (1 + 2),
    ),
    "END by schedule, caps": Case(
        LanguageTeam(Layout(Vocabulary("01", 2, "?"), 1, 3, 3, round_robin(2), caps=(1, 3)), (SMALL,) * 2),
        ("?",), (1.0,), 1 + 3 + 1,
    ),
}  # fmt: skip


TRAINED = ("round robin", "by text, unlike networks")
# A scope, so that the tests of one case follow each other on one worker: its programs compile once.
each_case = pytest.mark.parametrize("name", CASES, scope="module")
each_trained = pytest.mark.parametrize("name", TRAINED, scope="module")
message_kl = jax.jit(message_kl_current_to_new)


def outcome(tokens):
    """Some function of the whole transcript, different nearly everywhere, in [0, 1]."""
    return np.array(
        [math.sin(sum((k + 1) ** 2 * int(x) for k, x in enumerate(row))) ** 2 for row in np.asarray(tokens)]
    )


class Transcript(NamedTuple):
    """What the oracle knows of one transcript: its ids, the chance of prompt and routers, (agent, position, symbol)."""

    row: list
    chance: float
    written: list


def all_transcripts(case):
    """Every transcript of positive chance, by plain recursion over turns; no tree, no package code but ids of the vocabulary."""
    layout, v = case.team.layout, case.team.layout.vocabulary
    symbols = range(len(v.characters) + v.ends)

    def texts(cap):
        if not v.ends:
            return [list(x) for x in itertools.product(symbols, repeat=cap)]
        whole = [list(x) for x in itertools.product(symbols[1:], repeat=cap)]
        return whole + [[*x, 0] for n in range(cap) for x in itertools.product(symbols[1:], repeat=n)]

    def speakers(turn, row):
        if layout.router is BY_TEXT:
            return heads_or_tails(row[-1])
        if layout.router.schedule is None:
            return [1 / v.agents] * v.agents
        return [float(k == turn % v.agents) for k in range(v.agents)]

    def grow(turn, row, chance, written):
        if turn == layout.turns:
            return [Transcript(row, chance, written)]
        out = []
        for agent, p in enumerate(speakers(turn, row)):
            if p == 0:
                continue
            cap = layout.message if layout.caps is None else layout.caps[agent]
            for text in texts(cap):
                more = [(agent, len(row) + 1 + k, x) for k, x in enumerate(text)]
                filled = [*row, v.header(agent), *text, *[v.pad] * (layout.message - len(text))]
                out += grow(turn + 1, filled, chance * p, written + more)
        return out

    starts = layout.encode_prompts(list(case.prompts)).tolist()
    return [x for row, w in zip(starts, case.weights, strict=True) for x in grow(0, row, w, [])]


LOGITS = jax.jit(policy_logits, static_argnums=(0, 1))


def brute_force(case, params, transcripts):
    """The probability of every transcript: whole rows through each network, softmax in NumPy."""
    tokens = jnp.asarray([x.row for x in transcripts], jnp.int32)
    layout = case.team.layout
    each = [
        np.asarray(LOGITS(case.team.models[a], layout, agent_params(case.team, params, a), tokens), np.float64)
        for a in range(case.team.agents)
    ]
    out = []
    for b, x in enumerate(transcripts):
        p = x.chance
        for agent, at, symbol in x.written:
            row = np.exp(each[agent][b, at - 1] - each[agent][b, at - 1].max())
            p *= row[symbol] / row.sum()
        out.append(p)
    return np.array(out)


@cache
def world_of(name) -> Any:
    case = CASES[name]
    return en.enumerate_world(case.team, case.prompts, outcome, case.weights)


def far_params(team, seed, scale=3.0):
    """Random parameters far from a uniform policy."""
    return jax.tree.map(lambda x: jax.device_put(scale * np.asarray(x)), init_team(team, jax.random.key(seed)))


@each_case
def test_law_and_objective_of_all_transcripts(name):
    """Every transcript occurs once, with its probability; J is the mean outcome; the tree has the levels that it should."""
    case, world = CASES[name], world_of(name)
    assert world.team.dynamics.horizon == case.levels
    params = far_params(case.team, 0)
    expected = all_transcripts(case)
    probability = brute_force(case, params, expected)
    assert abs(probability.sum() - 1) < 1e-12

    policy = en.enumerated_policy(world, params)
    np.testing.assert_allclose(policy.sum(1), 1, atol=1e-12)
    law = np.asarray(en.transcript_law(world, policy))
    found = dict(zip(map(tuple, np.asarray(world.tokens).tolist()), law, strict=True))
    assert len(found) == len(world.tokens) == len(expected)
    for x, p in zip(expected, probability, strict=True):
        assert found[tuple(x.row)] == pytest.approx(p, rel=1e-9)

    report = en.chain_report(world.team, np.stack([policy, policy]), np.zeros(1, int))
    assert float(report.objective[0]) == pytest.approx(probability @ outcome([x.row for x in expected]), rel=1e-10)
    rewards = outcome([x.row for x in expected])
    assert float(report.return_range) == pytest.approx(np.ptp(rewards), rel=1e-12)


@each_case
def test_visits_count_prefixes(name):
    """An agent's visits are the expected numbers of its turns' symbols; copies and nobody's nodes are never its own."""
    case, world = CASES[name], world_of(name)
    params = far_params(case.team, 1)
    expected = all_transcripts(case)
    probability = brute_force(case, params, expected)
    policy = en.enumerated_policy(world, params)
    m = en.chain_report(world.team, np.stack([policy, policy]), np.zeros(1, int)).visits[0]
    active = np.asarray(world.team.active)
    for agent in range(case.team.agents):
        symbols = sum(p * sum(a == agent for a, *_ in x.written) for p, x in zip(probability, expected, strict=True))
        assert float(m[active == agent].sum()) == pytest.approx(symbols, rel=1e-9)
    assert float(m.sum()) == pytest.approx(case.levels, rel=1e-12)
    own = [
        {tuple(x.row[:at]) for x in expected for a, at, _ in x.written if a == agent}
        for agent in range(case.team.agents)
    ]
    assert int((np.asarray(m) > 0)[active >= 0].sum()) == sum(map(len, own))  # prefixes, each node counted once


@each_case
def test_an_update_is_a_path_kl(name):
    """P3.2: δ^ep of one agent's update is the KL of the two laws of the whole transcript, and so is the KL of messages."""
    case, world = CASES[name], world_of(name)
    params, agent = far_params(case.team, 2), case.team.agents - 1
    own = jax.tree.map(lambda x: 2 * np.asarray(x), agent_params(case.team, params, agent))
    new = with_agent_params(case.team, params, agent, own)
    chain = en.chain_policies(world, [params, new], [agent])
    others = np.asarray(world.team.active) != agent
    assert (chain[0][others] == chain[1][others]).all()
    expected = all_transcripts(case)
    p, q = brute_force(case, params, expected), brute_force(case, new, expected)
    report = en.chain_report(world.team, chain, np.array([agent]))
    assert float(report.kl[0]) == pytest.approx(p @ np.log(p / q), rel=1e-8)
    assert float(report.kl[0]) > 1e-3
    assert float(message_kl(world.team.dynamics, *chain)) == pytest.approx(float(report.kl[0]), rel=1e-10)
    gain = (q - p) @ outcome([x.row for x in expected])
    assert float(report.improvement) == pytest.approx(gain, abs=1e-12)


def test_every_row_is_read_once():
    """Each agent reads the prefixes of which it has no longer one, and nothing twice."""
    for name, case in CASES.items():
        world, expected = world_of(name), all_transcripts(case)
        for reading in world.readings:
            for member, agent in enumerate(reading.members):
                prefixes = {tuple(x.row[:at]) for x in expected for a, at, _ in x.written if a == agent}
                longest = {p for p in prefixes if not any(len(q) > len(p) and q[: len(p)] == p for q in prefixes)}
                begin, end = int(reading.first[member]), int(reading.first[member + 1])
                rows = {
                    tuple(row)
                    for row in np.asarray(reading.tokens[begin:end]).reshape(-1, reading.tokens.shape[2]).tolist()
                }
                assert len(rows) == len(longest)
                size = reading.tokens.shape[1]
                assert end - begin == -(-len(longest) // size)


def updates(world, params, rate=4.0, order=None):
    """A stage of actual policy-gradient steps, each on the exact gradient of the team as it stands."""
    states = [params]
    for agent in range(world.team.agents) if order is None else order:
        _, grad = en.policy_gradient(world, states[-1], agent)
        own = agent_params(world.language, states[-1], agent)
        own = jax.tree.map(lambda x, g: x + rate * g, own, grad)
        states.append(with_agent_params(world.language, states[-1], agent, own))
    return states


HAND = LanguageTeam(Layout(Vocabulary("01", 2, "?", ends=False), 1, 1, 4, round_robin(2)), (SMALL,) * 2)


def test_report_is_that_of_the_team_written_by_hand():
    """Four turns of one binary symbol, as a table of 15 states: all fields against sums over all trajectories in NumPy."""
    world = en.enumerate_world(HAND, ["?"], outcome)
    states = updates(world, far_params(HAND, 3), order=[1, 0])
    chain = en.chain_policies(world, states, [1, 0])
    report = en.chain_report(world.team, chain, jnp.array([1, 0]))

    prefixes = [x for t in range(4) for x in itertools.product((0, 1), repeat=t)]
    place = {x: k for k, x in enumerate(prefixes)}
    v = HAND.layout.vocabulary
    P, r = np.zeros((15, 2, 15)), np.zeros((15, 2))
    for x, a in itertools.product(prefixes, (0, 1)):
        if len(x) < 3:
            P[place[x], a, place[*x, a]] = 1
        else:
            row = [v.encode("?")[0], *itertools.chain(*((v.header(t % 2), s) for t, s in enumerate((*x, a))))]
            r[place[x], a] = outcome([row])[0]
    rho = np.eye(15)[0]
    clock = np.array([len(x) for x in prefixes])
    hand = {"P": P, "r": r, "rho": rho, "T": 4, "clock": clock}
    expected = oracle.stage(hand, np.asarray(chain[0]), np.asarray(chain[-1]), np.array([1, 0]), clock % 2)
    assert abs(np.asarray(expected["improvement"])) > 1e-3
    ours = flat(report)
    compared = [name for name in expected if name in ours]
    assert {"gap_fresh", "gap_stale", "gap_cached", "kl", "visits", "values", "advantage_max", "layer_kl", "return_range",
            "later_turns", "weighted_floor"} <= set(compared)  # fmt: skip
    for name in compared:
        np.testing.assert_allclose(
            np.asarray(ours[name], float),
            np.asarray(expected[name], float),
            rtol=1e-7,
            atol=1e-12,
            err_msg=name,
        )


@pytest.mark.parametrize("name", [pytest.param(TRAINED[0], marks=pytest.mark.slow), TRAINED[1]])
def test_stages_of_actual_updates(name):
    """Claims hold on an untrained team, its policy-gradient updates, and the team that they made; no rung is broken."""
    case, world = CASES[name], world_of(name)
    params = init_team(case.team, jax.random.key(4))
    order = list(range(case.team.agents))
    states = updates(world, params, order=order)
    for before, after in ((states[0], states[-1]), (states[-1], updates(world, states[-1], order=order)[-1])):
        stage = en.network_stage(world, before, after, order)
        report, verdicts, penalties = jax.tree.map(np.asarray, audited(stage))
        assert float(abs(report.gap_fresh).max()) > 1e-6
        assert {"T0", "P3.3", "P3.4", "P3.6", "P3.7", "S0", "S1", "S2", "S3", "S4", "S7", "S7b", "S7c", "E1"} <= {
            id_ for id_, _ in verdicts
        }
        assert not [key for key, v in verdicts.items() if v.violated.any()]
        for rung, penalty in penalties.items():
            gap = next(r.gap for r in DEFAULT if r.name == rung)
            slack = getattr(report.rounding, gap)
            assert (abs(getattr(report, f"gap_{gap}")) <= penalty + slack).all(), rung


@partial(jax.jit, compiler_options=OPTIONS)
def audited(stage):
    report = stage_report(stage)
    verdicts = {
        (claim.id, name): judge(check)
        for claim in STAGE_CLAIMS
        if "episodic" in claim.forms and claim.id != "P3.8"
        for name, check in claim.check(stage, report).items()
    }
    return report, verdicts, ladder(report)


@each_trained
def test_policy_gradient(name):
    """The gradient by blocks is that of J by differentiating the whole enumeration; and it goes up."""
    case, world = CASES[name], world_of(name)
    params = init_team(case.team, jax.random.key(5))
    value, whole = jax.jit(jax.value_and_grad(lambda p: en.exact_objective(world, p)))(params)
    for agent in range(case.team.agents):
        j, own = en.policy_gradient(world, params, agent)
        assert float(j) == pytest.approx(float(value), rel=1e-12)
        expected = agent_params(case.team, whole, agent)
        for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
    states = updates(world, params, rate=0.5)
    assert float(en.policy_gradient(world, states[-1], 0)[0]) > float(value)


class State(NamedTuple):
    params: object


def test_audit_of_a_backend():
    """`run_stage` with `network_audit`: each record has the exact numbers of its own update."""
    case, world = CASES["round robin"], world_of("round robin")

    def estimate(state, data, agent, schedule):
        return en.policy_gradient(world, state.params, agent)

    def update(state, estimate, agent):
        own = jax.tree.map(lambda x, g: x + g, agent_params(case.team, state.params, agent), estimate[1])
        return State(with_agent_params(case.team, state.params, agent, own)), {"surrogate": 0.1, "kl": 0.01}

    backend = Backend(2, lambda state, key: None, estimate, update, audit=en.network_audit(world))
    start = State(init_team(case.team, jax.random.key(6)))
    end, records = run_stage(backend, start, [1, 0], fresh)
    chain = en.chain_policies(world, [start.params, end.params, end.params], [1, 0])
    report = en.chain_report(world.team, chain, jnp.array([1, 0]))
    for i, record in enumerate(records):
        exact = record.exact
        assert exact is not None
        assert exact["violations"] == 0
        assert not any(name.startswith("zeta") for name in exact)
        assert exact["certificate"] <= exact["improvement"] + 1e-15
        assert exact["surrogate_in_use"] == pytest.approx(exact["surrogate_intermediate"])  # fresh
        for name in ("gap_fresh", "kl", "surrogate_intermediate"):
            assert float(exact[name]) == pytest.approx(float(getattr(report, name)[i]), rel=1e-9)
    before, after = (float(en.policy_gradient(world, state.params, 0)[0]) for state in (start, end))
    assert sum(float(r.exact["improvement"]) for r in records if r.exact) == pytest.approx(after - before, rel=1e-8)

    booked = [UpdateRecord(0, i, a, True, 0.2, 0.0, source=i, info={"gain": 0.3}) for i, a in enumerate((1, 0))]
    exact = en.network_audit(world)([start, end, end], booked, fresh)
    np.testing.assert_allclose(exact["zeta"], abs(0.2 - exact["surrogate_intermediate"]))


def test_presets():
    """65,536 transcripts each, of which END leaves those that differ."""
    for preset, v, horizon, agents in (
        (en.PRESET_4_8, 4, 8, 4),
        (en.PRESET_4_8_END, 4, 8, 3),
        (en.PRESET_2_16, 2, 16, 8),
    ):
        world = en.enumerate_world(preset, ["?"], lambda tokens: tokens[:, -1] == 1)
        tree: Any = world.team.dynamics
        assert (tree.branching, tree.horizon, world.team.agents) == (v, horizon, agents)
        assert v**horizon == 65_536
        assert len(world.tokens) == (13**4 if preset.layout.vocabulary.ends else 65_536)


def test_verified_reward():
    """A task's verifier reads prompt and messages."""

    class Problem(NamedTuple):
        prompt: str
        answer: str

    layout = CASES["END by schedule, caps"].team.layout
    problems = [Problem("?", "0 10")]
    reward = en.verified(layout, problems, lambda problem, said: float(" ".join(said[:2]) == problem.answer))
    world = en.enumerate_world(CASES["END by schedule, caps"].team, ["?"], reward)
    tree: Any = world.team.dynamics
    table = np.asarray(world.team.reward)[tree.level(tree.horizon - 1)].ravel()
    for row, leaf in zip(messages(layout, world.tokens), np.asarray(world.leaf), strict=True):
        assert table[leaf] == (row[:2] == ["0", "10"])
    assert table.sum() > 0
    with pytest.raises(InputError, match="problems: found two with the same prompt"):
        en.verified(layout, problems * 2, lambda problem, said: 0.0)


def test_refusals():
    team = CASES["round robin"].team

    def world(team=team, prompts=("?",), reward=outcome, weights=None):
        return en.enumerate_world(team, prompts, reward, weights)

    with pytest.raises(InputError, match="prompts: found none"):
        world(prompts=())
    with pytest.raises(InputError, match="rows that sum to 1"):
        world(prompts=("?", "!"), weights=(0.5, 0.6))
    with pytest.raises(InputError, match=r"weights: found shape \[1\]"):
        world(prompts=("?", "!"), weights=(1.0,))
    with pytest.raises(InputError, match=r"reward: found shape"):
        world(reward=lambda tokens: np.zeros(3))
    with pytest.raises(InputError, match="reward: found nan"):
        world(reward=lambda tokens: np.full(len(tokens), np.nan))
    long = LanguageTeam(Layout(Vocabulary("01", 2, "?", ends=False), 1, 12, 2, round_robin(2)), (SMALL,) * 2)
    with pytest.raises(InputError, match=r"found 2\^24 leaves"):
        world(long)
    lost = Router("lost", lambda view: jnp.full((*view.last.shape, 2), jnp.where(view.turn == 0, 0.5, 0.4)))
    with pytest.raises(InputError, match=r"router lost: found probabilities that sum to 0.8"):
        world(LanguageTeam(Layout(Vocabulary("01", 2, "?"), 1, 1, 2, lost), (SMALL,) * 2))
    with pytest.raises(InputError, match="agent: found 2"):
        en.policy_gradient(world_of("round robin"), init_team(team, jax.random.key(0)), 2)
    with pytest.raises(InputError, match="states: found 1 for 1 updates"):
        en.chain_policies(world_of("round robin"), [init_team(team, jax.random.key(0))], [0])


def test_rows_of_one_claim_are_one_row():
    """What the suite finds about a claim on networks is counted in the claim's own row."""
    rows = [
        Row("S8", "", "simulated", 5, 1, 0, 0.3, 0.2, checks=2, note="networks"),
        Row("S0", "s", "float", 1, 0, 0, None, None),
        Row("S8", "P ≥ 1 − α", "simulated", 10, 0, 0, 0.7, 0.5, checks=4, note="relay"),
    ]
    found = {row.id: row for row in merged(rows)}
    assert len(found) == 2
    assert found["S8"] == Row("S8", "P ≥ 1 − α", "simulated", 15, 1, 0, 0.7, 0.2, checks=6, note="relay; networks")


def test_rollouts_of_the_enumerated_law():
    """S8 on networks: no certificate above the improvement more often than it may; P3.2 to a few units."""
    row = s8_networks.run(np.random.default_rng(0), teams=2, repeats=100)
    assert (row.violations, row.instances) == (0, 200)
    message, tokens = networks.message_chain_rule(np.random.default_rng(1), 50)
    assert message.shape == (50,)
    assert message.max() > 0.1
    np.testing.assert_allclose(message, tokens, rtol=1e-9, atol=1e-14)
