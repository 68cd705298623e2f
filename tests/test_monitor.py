"""The monitor's estimators against enumerated truth: exact means over all transcripts, and coverage of the intervals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from monitor_logs import every_transcript, joined, log_probs, rows, sampled, truth, world
from scipy.stats import binom, ttest_ind
from scipy.stats import t as student

from teamtr_jax import intervals
from teamtr_jax.chain_audit import OPTIONS
from teamtr_jax.finite_sample import finite_sample_certificate
from teamtr_jax.interaction import interaction_matrix
from teamtr_jax.monitor import Settings, monitor, token_log
from teamtr_jax.monitor import estimates as est
from teamtr_jax.monitor.interaction import gap_values, interaction_values, pool
from teamtr_jax.monitor.own import _rungs
from teamtr_jax.monitor.scored import per_prompt, score
from teamtr_jax.rollouts import weight_diagnostics
from teamtr_jax.schedules import path_shift
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import relay_stage
from teamtr_jax.visits import hybrids

WORLDS = {
    "tokens": dict(),
    "messages of two tokens": dict(owners=(0, 1, 2, 0), length=2),
    "another order": dict(order=(2, 0, 1), step=0.6),
    "two agents, three letters": dict(owners=(1, 0, 1, 0), letters=3, order=(0, 1)),
}


@pytest.fixture(params=WORLDS)
def case(request):
    w = world(np.random.default_rng(5), **WORLDS[request.param])
    return w, truth(w)


def whole(w, hybrid, update):
    """Every transcript of `hybrid` scored at `update`, and its probability."""
    columns, weight = every_transcript(w, hybrid, update)
    return score(token_log(columns), np.arange(weight.size), np.array([w.order[update]])), weight


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


# -------------------------------------------------------------------------------------------------------- exact means


def test_means_over_all_transcripts_are_the_truth(case):
    """Lone rollouts have the advantage R: `E Z` of every estimator on rollouts of the current team, summed exactly."""
    w, t = case
    for i in range(len(w.order)):
        s, weight = whole(w, i, i)
        close(weight @ s.reward, t.J[i])
        close(weight @ s.sums(s.k1), t.K[i])
        close(weight @ s.sums(s.k3), t.K[i])
        close(weight @ (s.advantage * s.sums(np.expm1(s.new))), t.surrogate[i])
        close(weight @ gap_values(s), t.gap[i])
        close(weight @ (s.advantage * np.expm1(s.sums(s.new))), t.J[i + 1] - t.J[i])


def test_the_interaction_matrix_is_unbiased(case):
    """R5: `M[k,i]` for all pairs, and `L_i^seq − L_i^stale`, from rollouts of the stage's first team alone."""
    w, t = case
    n = len(w.order)
    scored = [whole(w, 0, i) for i in range(n)]
    weight = scored[0][1]
    values = interaction_values(dict(enumerate(s for s, _ in scored)), {i: [w.order[i]] for i in range(n)})
    close([[weight @ values.entries[k, i] for i in range(n)] for k in range(n)], t.matrix)
    close([weight @ values.drift[i] for i in range(n)], t.surrogate - t.stale)
    assert abs(t.matrix).max() > 1e-4


def test_the_matrix_from_the_rows_of_one_update(case):
    """Where only update i was scored again: the ratio of k < i is current/behaviour on k's tokens."""
    w, t = case
    last = len(w.order) - 1
    s, weight = whole(w, 0, last)
    values = interaction_values({last: s}, {i: [w.order[i]] for i in range(last + 1)})
    assert sorted(values.entries) == [(k, last) for k in range(last + 1)]
    close([weight @ values.entries[k, last] for k in range(last + 1)], t.matrix[:, last])


def test_reused_rollouts(case):
    """S7c and S3: cached surrogate and path KL of rollouts of the stage's first team."""
    w, t = case
    for i in range(len(w.order)):
        s, weight = whole(w, 0, i)
        close(weight @ (s.advantage * s.sums(np.expm1(s.new))), t.cached[i])
        close(weight @ s.sums(s.k3_new), t.path[i + 1])
        close(weight @ s.sums(s.k3_current), t.path[i])


def test_no_certificate_is_above_the_improvement(case):
    """The mean of every rung, S7 by messages and by tokens, S9 and S7c, is at most `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`; S7 is `L − K`."""
    w, t = case
    for i in range(len(w.order)):
        for hybrid, evidence in ((i, "fresh"), (0, "reused")):
            s, weight = whole(w, hybrid, i)
            for ident, name, found in _rungs(s, evidence, Settings()):
                values = {
                    ("S7", "message ratios"): s.reward * s.sums(np.expm1(s.new)) - s.sums(s.k3),
                    ("S7", "token ratios"): s.reward * s.steps - s.sums(s.k3),
                    ("S9", "value-weighted"): s.reward * s.sums(s.new),
                    ("S7c", "reused rollouts"): s.reward * s.sums(np.expm1(s.new)) - s.sums(s.k3_new),
                    ("S9", "mismatch"): s.reward * s.sums(s.current + s.new) + (1 - s.reward) * s.sums(s.current),
                }[ident, name]
                assert found.value == pytest.approx(values.mean())  # what is averaged
                assert weight @ values <= t.J[i + 1] - t.J[i] + 1e-13
        s, weight = whole(w, i, i)
        close(weight @ (s.advantage * s.sums(np.expm1(s.new)) - s.sums(s.k3)), t.surrogate[i] - t.K[i])


def test_an_agent_that_moved_twice_since_the_rollouts():
    """S7c without the telescope: both KLs are paid, and the surrogate is `L_b(new) − L_b(current)`."""
    rng = np.random.default_rng(3)
    w = world(rng, order=(0, 0))
    first, middle = w.tables[0], w.tables[1]
    third = [np.where(w.owners[t] == 0, np.roll(p, 1, -1), p) for t, p in enumerate(middle)]
    w = w._replace(tables=[first, middle, third])
    s, weight = whole(w, 0, 1)
    (ident, name, found), mismatch = _rungs(s, "reused", Settings())
    assert (ident, name) == ("S7c", "reused, agent moved twice")
    assert mismatch[:2] == ("S9", "mismatch")
    J = [(np.exp(log_probs(w, x).sum(-1)) * w.reward).sum() / len(w.reward) for x in w.tables]
    values = s.reward * s.sums(np.exp(s.current + s.new) - np.exp(s.current)) - s.sums(s.k3_new + s.k3_current)
    assert found.value == pytest.approx(values.mean())
    assert weight @ values <= J[2] - J[1]


def test_the_exact_relay():
    """R1, three agents: the package's own report and interaction matrix, from the log of every path of the relay."""
    relay = relay_stage(3, 0.4, 0.15, slots=3)

    @partial(jax.jit, compiler_options=OPTIONS)
    def exact(relay):
        report = evaluate_stage(relay)
        return report, interaction_matrix(relay, report), hybrids(relay).policies

    report, matrix, policies = jax.tree.map(np.asarray, exact(relay))
    n, steps = 3, 6
    action = np.indices((2,) * steps).reshape(steps, -1).T
    context = np.minimum(np.cumsum(action, 1) - action, 2)
    state = np.arange(steps) * 3 + context
    logp = np.log(policies[:, state, action])  # [n+1, N, T]
    reward = np.minimum(action.sum(1), 2) == 2
    paths = np.arange(len(action))

    def scored(behaviour, update):
        size = action.shape
        columns = dict(
            prompt=np.repeat(paths, steps),
            rollout=np.zeros(action.size, int),
            stage=np.zeros(action.size, int),
            update=np.full(action.size, update),
            agent=np.broadcast_to(np.arange(steps) % n, size).ravel(),
            turn=np.broadcast_to(np.arange(steps), size).ravel(),
            t=np.zeros(action.size, int),
            reward=np.repeat(reward.astype(float), steps),
        )
        for name, hybrid in (("behaviour", behaviour), ("current", update), ("new", update + 1)):
            columns[f"logp_{name}"] = logp[hybrid].ravel()
        return score(token_log(columns), paths, np.array([update])), np.exp(logp[behaviour].sum(-1))

    for i in range(n):
        s, weight = scored(i, i)
        close(weight @ s.sums(s.k3), report.kl[i])
        close(weight @ (s.reward * s.sums(np.expm1(s.new))), report.surrogate_intermediate[i])
        close(weight @ gap_values(s), report.gap_fresh[i])
    again = [scored(0, i) for i in range(n)]
    weight = again[0][1]
    values = interaction_values(dict(enumerate(s for s, _ in again)), {i: [i] for i in range(n)})
    close([[weight @ values.entries[k, i] for i in range(n)] for k in range(n)], matrix)
    close([weight @ values.drift[i] for i in range(n)], report.seq_minus_stale)
    close([weight @ (s.reward * s.sums(np.expm1(s.new))) for s, _ in again], report.surrogate_cached)
    assert abs(matrix).min() > 1e-4


# ----------------------------------------------------------------------------------------------------------- coverage

REPETITIONS, FALSE_ALARM = 200, 1e-4
STAGES = 20
"""Stages of one log: each is judged by its own rows."""


@pytest.fixture(scope="module")
def coverage():
    """How often the 90 % intervals of a stage of 3 agents cover the truth, by name."""
    w = world(np.random.default_rng(5), step=0.35)
    t = truth(w)
    rng = np.random.default_rng(11)
    settings = Settings(alpha=0.1, draws=1)
    count: dict[str, int] = {}

    def book(name, found, true):
        count[name] = count.get(name, 0) + (found["low"] <= true <= found["high"])

    for _ in range(REPETITIONS // STAGES):
        parts = [sampled(w, rng, prompts=100, group=4) for _ in range(STAGES)]
        parts = [part | {"stage": np.full_like(part["stage"], k)} for k, part in enumerate(parts)]
        for r in monitor(token_log(joined(parts)), settings).records:
            i = r["update"]
            book(f"reward {i}", r["reward"], t.J[i])
            book(f"k1 {i}", r["kl_k1"], t.K[i] / r["messages"])
            book(f"k3 {i}", r["kl_k3"], t.K[i] / r["messages"])
            book(f"K {i}", r["kl_episode"], t.K[i])
            book(f"L {i}", r["surrogate"], t.surrogate[i])
            book(f"improvement {i}", r["improvement"], t.J[i + 1] - t.J[i])
            if i == 0:
                book("gap 0", r["gap"], t.gap[0])
            book(f"S7 {i}", r["rungs"][0]["certificate"], t.surrogate[i] - t.K[i])
            if i < 2:
                book(f"next {i}", r["improvement_next"], t.J[i + 1] - t.J[i])
            for k, entry in enumerate(r["interaction"]):
                if t.matrix[k, i] != 0 and abs(t.matrix[k, i]) > 1e-12:
                    book(f"M[{k},{i}]", entry["entry"], t.matrix[k, i])
            if i:
                book(f"drift {i}", r["drift"], t.surrogate[i] - t.stale[i])
            if r["certificate"]["lower"] > t.J[i + 1] - t.J[i]:
                count["S6 above"] = count.get("S6 above", 0) + 1
            if r["certificate_finite_sample"]["lower"] > t.J[i + 1] - t.J[i]:
                count["S8 above"] = count.get("S8 above", 0) + 1
    return count, t


def test_intervals_cover_the_enumerated_truth(coverage):
    """200 stages; at nominal 90 % a count this low has probability at most 1e-4 for each name, under 0.01 for all."""
    count, _ = coverage
    names = [name for name in count if "above" not in name]
    assert any(name.startswith("M[") for name in names)
    least = binom.ppf(FALSE_ALARM, REPETITIONS, 0.9)
    most = binom.ppf(1 - FALSE_ALARM, REPETITIONS, 0.9)
    low = {name: count[name] for name in names if count[name] < least}
    assert not low, f"covered less than {least:g} of {REPETITIONS} times: {low}"
    wide = {name: count[name] for name in names if count[name] > most}
    assert not wide, f"covered more than {most:g} of {REPETITIONS} times, so too wide: {wide}"


def test_lower_limits_are_rarely_above_the_improvement(coverage):
    """S6 and S8 at α = 0.1, three updates each: as many exceptions as 10 % gives have probability 1e-4."""
    count, _ = coverage
    for name in ("S6 above", "S8 above"):
        assert count.get(name, 0) <= binom.ppf(1 - FALSE_ALARM, 3 * REPETITIONS, 0.1)


# -------------------------------------------------------------------------------------------------------- estimators


def test_the_finite_sample_certificate_is_that_of_the_package():
    w = world(np.random.default_rng(5))
    rng = np.random.default_rng(2)
    log = token_log(sampled(w, rng, 60, 4, again=False))
    report = monitor(log, Settings(held_out=True))
    s = score(log, np.flatnonzero(log.update[log.transcripts[:-1]] == 0), np.array([0]))
    found = report.records[0]["certificate_finite_sample"]
    expected = finite_sample_certificate(s.reward.reshape(60, 4), s.sums(s.new).reshape(60, 4, 1), alpha=0.1)
    assert found["lower"] == pytest.approx(expected.lower, abs=1e-12)
    assert found["estimate"] == pytest.approx(expected.estimate)
    assert found["label"] == "held-out"


def test_another_reward_range_is_a_unit():
    """Rewards 3 + 2R in [3, 5]: surrogate and certificates double, KLs stay."""
    w = world(np.random.default_rng(5))
    table = sampled(w, np.random.default_rng(2), 60, 4)
    one = monitor(token_log(table), Settings()).records
    two = monitor(token_log(table | {"reward": 3 + 2 * table["reward"]}), Settings(reward_range=(3, 5))).records
    for a, b in zip(one, two, strict=True):
        for pick in (
            lambda r: r["surrogate"]["value"],
            lambda r: r["certificate"]["lower"],
            lambda r: r["certificate_finite_sample"]["lower"],
            lambda r: r["drift"]["value"],
        ):
            assert pick(b) == pytest.approx(2 * pick(a))
        assert a["kl_k3"] == b["kl_k3"]


def test_weights_are_those_of_the_rollouts_module():
    x = np.random.default_rng(0).normal(0, 2, (20, 8))
    found, expected = est.weights(x.ravel()), weight_diagnostics(jnp.exp(x))
    np.testing.assert_allclose(found[:5], [float(y) for y in expected], rtol=1e-12)


def test_ratio_interval_by_hand():
    """X = (2, 4, 9), N = (1, 2, 3): 15/6; residuals −0.5, −1, 1.5; √(3/2·3.5)/6."""
    found = intervals.ratio(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0]), 0.1)
    assert found.value == 2.5
    assert found.error == pytest.approx((1.5 * 3.5) ** 0.5 / 6)
    assert found.high - found.value == pytest.approx(2.919986 * found.error, rel=1e-6)  # t with 2 degrees of freedom


def test_leave_one_out_with_unequal_groups():
    reward, cluster = np.array([1.0, 0.0, 1.0, 0.5]), np.array([0, 0, 0, 1])
    np.testing.assert_allclose(est.leave_one_out(reward, cluster, 2), [0.5, -1.0, 0.5, 0.5])


def test_flips_of_two_values():
    """Half of the tokens 0, half 2: the decision at threshold 0.999 flips in just under half of the sub-samples of 25 %."""
    values = np.tile([0.0, 2.0], 500)
    rng = np.random.default_rng(0)
    near, half = est.flips(values, 1000, 0.999, (0.25, 0.5), 4000, rng)
    assert abs(near - 0.474) < 0.04  # P(Hypergeometric(1000, 500, 250) ≤ 124)
    assert abs(half - 0.474) < 0.04
    assert est.flips(values, 1000, 1.9, (0.25,), 200, rng) == [0.0]
    assert est.flips(values, 1000, 0.1, (0.25,), 200, rng) == [0.0]


# ----------------------------------------------------------------------------------------------- reading the updates


def stage(again=True, fresh=True, prompts=40, **options):
    w = world(np.random.default_rng(5), **options)
    return w, sampled(w, np.random.default_rng(2), prompts, 4, fresh, again)


def test_who_is_updated_and_on_what():
    _, table = stage()
    records = monitor(token_log(table)).records
    assert [r["agents"] for r in records] == [[0], [1], [2]]
    assert [r["kind"] for r in records] == ["single"] * 3
    assert [r["evidence"] for r in records] == ["fresh"] * 3
    assert [r["source"] for r in records] == [0, 1, 2]
    assert [r["rollouts"] for r in records] == [160] * 3  # those scored again are not pooled with the new ones
    assert records[0]["weights_behaviour"] is None
    assert records[1]["weights_behaviour"]["source"] == 0


def test_ids_that_begin_again_with_every_update():
    """New rollouts under the ids of the old ones are new rollouts: their tokens have other log-probabilities."""
    w = world(np.random.default_rng(5))
    rng = np.random.default_rng(2)
    parts = []
    for update in range(3):
        part = sampled(w, rng, 40, 4, again=False)
        mine = part["update"] == update
        parts.append({key: value[mine] for key, value in part.items()})
        parts[-1]["rollout"] = parts[-1]["rollout"] % 4
        parts[-1]["reward"] = np.ones_like(parts[-1]["reward"])
    records = monitor(token_log(joined(parts))).records
    assert [r["resampled"] for r in records] == [True] * 3
    assert [r["evidence"] for r in records] == ["fresh"] * 3
    assert [r["rollouts"] for r in records] == [160] * 3


def test_reused_rollouts_are_called_so():
    _, table = stage(fresh=False)
    report = monitor(token_log(table))
    assert [r["evidence"] for r in report.records] == ["fresh", "reused", "reused"]
    assert [r["resampled"] for r in report.records] == [True, False, False]
    assert report.records[2]["certificate"]["rung"] == "S7c, reused rollouts"
    assert report.records[2]["certificate_finite_sample"]["estimator"] == "mismatch"
    assert report.records[2]["gap"] is None
    assert len(report.interactions) == 1


def test_joint_update_and_idle_update():
    w = world(np.random.default_rng(5))
    joint = w._replace(tables=[w.tables[0], w.tables[2]])
    ids = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    index = np.random.default_rng(0).integers(0, 64, 120)
    question = ids[0] % 3
    two = rows(joint, 0, 0, *ids, question, index)
    record = monitor(token_log(two)).records[0]
    assert (record["agents"], record["kind"]) == ([0, 1], "joint")
    s = score(token_log(two), np.arange(120), np.array([0, 1]))
    assert record["kl_episode"]["value"] == pytest.approx(per_prompt(s, s.sums(s.k3)).mean())
    told = monitor(token_log(two | {"updated": np.zeros_like(two["agent"])})).records[0]
    assert (told["agents"], told["kind"], told["changed_besides"]) == ([0], "single", [1])
    assert told["kl_episode"]["value"] < record["kl_episode"]["value"]
    idle = monitor(token_log(two | {"logp_new": two["logp_current"]})).records[0]
    assert (idle["kind"], idle["agents"], idle["kl_k1"]) == ("nothing changed", [], None)
    assert idle["surrogate"]["value"] == 0.0


def test_shift_and_skipping():
    """With rows scored again the shift is S3 of the estimated path KL; without, fresh KLs are summed by the triangle."""
    w, table = stage(prompts=200)
    t = truth(w)
    for tolerance, expected in ((0.0, [False, False]), (1.0, [True, True])):
        records = monitor(token_log(table), Settings(tolerance=tolerance)).records
        assert [r["skippable"] for r in records] == [None, *expected]
    assert records[2]["shift"] == pytest.approx(float(path_shift(t.path[2], None)), rel=0.05)
    assert records[2]["shift_rung"].startswith("S3")
    assert records[2]["shift"] < records[2]["shift_upper"] < 1.1 * records[2]["shift"]
    _, plain = stage(prompts=200, again=False)
    records = monitor(token_log(plain), Settings(tolerance=1.0)).records
    each = [float(path_shift(r["kl_episode"]["value"], None)) for r in records]
    assert records[1]["shift_rung"].startswith("S3")  # one update: its own rollouts say
    assert records[2]["shift_rung"].startswith("S2")
    assert records[2]["shift"] == pytest.approx(each[0] + each[1])
    assert records[2]["shift_booked"] == pytest.approx((each[0] ** 2 + each[1] ** 2) ** 0.5)


def test_no_rows_scored_again_no_matrix():
    _, table = stage(again=False)
    report = monitor(token_log(table))
    assert report.interactions == []
    assert all(r["interaction"] is None and r["drift"] is None for r in report.records)


def test_the_matrix_is_of_whole_sets():
    """Rows of ten prompts are missing at the last update, perhaps for what they say: its column is as if no row were there."""
    _, table = stage()
    start = (table["rollout"] < 4) & (table["update"] == 2)

    def matrix(dropped):
        return monitor(token_log({key: value[~dropped] for key, value in table.items()})).interactions[0]

    some, none = matrix(start & (table["prompt"] < 10)), matrix(start)
    assert some.entries == none.entries
    assert some.drift == none.drift
    assert some.entries[0][1].n == 40
    assert some.entries[0][2] is None


def test_one_turn_each_has_an_empty_diagonal():
    """R4: with one turn each `fresh = 0`: the entry is exactly zero, not rounding with an interval around it."""
    _, table = stage(owners=(0, 1, 2))
    matrix = monitor(token_log(table)).interactions[0]
    for i in range(3):
        for k in range(i, 3):
            assert matrix.entries[k][i][:3] == (0.0, 0.0, 0.0)
            assert not matrix.clear[k][i]


def test_one_prompt_has_no_interval():
    _, table = stage(prompts=1)
    record = monitor(token_log(table)).records[0]
    assert record["surrogate"]["low"] == -np.inf
    assert record["certificate"]["lower"] == -np.inf


def test_limits_are_at_the_level_of_the_union():
    """S6: the limit of each of m rungs is `Z̄ − t_{1−α/m}·s/√B`, and the greatest is named."""
    _, table = stage()
    record = monitor(token_log(table), Settings(alpha=0.06)).records[0]
    s = score(token_log(table), np.arange(160), np.array([0]))
    values = per_prompt(s, s.reward * s.sums(s.new))
    error = values.std(ddof=1) / 40**0.5
    rungs = {rung["id"]: rung for rung in record["rungs"]}
    assert rungs["S9"]["lower"] == pytest.approx(values.mean() - student.ppf(1 - 0.02, 39) * error)
    assert record["certificate"]["lower"] == max(rung["lower"] for rung in record["rungs"])
    assert record["certificate"]["union"] == 3
    best = max(record["rungs"], key=lambda rung: rung["lower"])
    assert record["certificate"]["rung"] == f"{best['id']}, {best['name']}"


def test_welch_by_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 9), rng.normal(1, 4, 23)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose(intervals.two_means(a, b, 0.1)[1:3], expected, rtol=1e-9)


def test_the_upper_limit_of_the_shift():
    """One-sided, at α over the updates of the stage: here S2 of update 0, from its own rollouts."""
    _, table = stage(again=False, prompts=50)
    records = monitor(token_log(table), Settings(alpha=0.09)).records
    s = score(token_log(table), np.arange(200), np.array([0]))
    values = per_prompt(s, s.sums(s.k3_new))
    upper = values.mean() + student.ppf(1 - 0.03, 49) * values.std(ddof=1) / 50**0.5
    assert records[1]["shift_upper"] == pytest.approx((upper / 2) ** 0.5)


def test_the_mean_over_stages():
    """Entry by entry the mean, error `√Σ SE²/S`; agents, not positions in the order, are rows and columns."""
    parts = []
    for number, order in enumerate([(0, 1, 2), (2, 0, 1)]):
        w = world(np.random.default_rng(5), order=order)
        part = sampled(w, np.random.default_rng(number), 40, 4)
        parts.append(part | {"stage": np.full_like(part["stage"], number)})
    first, second = monitor(token_log(joined(parts))).interactions
    pooled = pool([first, second], 0.1)
    assert pooled.agents == [0, 1, 2]
    a, b = first.entries[0][1], second.entries[1][2]  # of agent 0 on agent 1
    found = pooled.entries[0][1]
    assert found.value == pytest.approx((a.value + b.value) / 2)
    assert found.error == pytest.approx((a.error**2 + b.error**2) ** 0.5 / 2)
    assert found.n == 40
