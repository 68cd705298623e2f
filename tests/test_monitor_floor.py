"""The floor: what two scorings say of the noise of one, k3 without it, and limits under noise, against enumerated truth."""

import json
import math

import numpy as np
import pytest
from monitor_oracle import LOW, columns, stage
from scipy.stats import binom
from scipy.stats import t as student

from teamtr_jax.intervals import Interval, upper_limit
from teamtr_jax.monitor import Settings, monitor, run, token_log, verdicts, write_page, write_token_log
from teamtr_jax.monitor.doubts import _widened, beyond_softmax, contradiction
from teamtr_jax.monitor.floor import Sums, _corrected, _kind, floor_of, left
from teamtr_jax.monitor.remarks import refused, remarks
from teamtr_jax.monitor.terminal import show, tables
from teamtr_jax.monitor.updates import updates_of
from teamtr_jax.monitor_settings import Watching
from teamtr_jax.sampler_settings import Sampler
from theory.noise import KINDS, coverage, enumerated, sampled

GROUPS = {2: 3, 5: 2, 7: 4, 11: 1}
OPTIONS = Settings(alpha=0.2, reward_range=(LOW, 3.0), complete=True, draws=1)


def scored_twice(seed=31, size=0.1, skip=(7,), **more):
    """A log made by hand whose prompts but `skip` have a second score."""
    table = columns(stage(seed, [[0]], {0: [0]}, GROUPS), shuffle=3)
    again = table["logp_current"] + size * np.random.default_rng(seed).normal(size=table["t"].size)
    return table | {"logp_again": np.where(np.isin(table["prompt"], skip), np.nan, np.minimum(again, 0.0))} | more


def by_prompt(table):
    """`{prompt: {rollout: [(mine, d, x)]}}`, d again − current (NaN: not scored twice), x new − the mean of both."""
    out = {}
    for row in zip(*(table[k].tolist() for k in ("prompt", "rollout", "agent", "logp_current", "logp_again", "logp_new")),
                   table["turn"].tolist(), strict=True):  # fmt: skip
        prompt, rollout, agent, c, a, n, turn = row
        out.setdefault(prompt, {}).setdefault(rollout, []).append((agent == 0, a - c, n - (a + c) / 2, turn, n - c))
    return dict(sorted(out.items()))


def k3(x):
    return math.exp(x) - 1 - x


def linearised(total, count, alpha):
    """`ΣX/ΣN ± t·√(n/(n−1)·Σ(X − rN)²)/ΣN`."""
    n, whole = len(total), sum(count)
    value = sum(total) / whole
    error = math.sqrt(n / (n - 1) * sum((x - value * m) ** 2 for x, m in zip(total, count, strict=True))) / whole
    half = student.ppf(1 - alpha / 2, n - 1) * error
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def near(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-14), key


def test_the_floor_by_loops():
    """Mean of `Σ_u e^d − 1 − d` over the updated agent's messages that were scored twice; prompts, not tokens, are the units."""
    table = scored_twice()
    (r,) = monitor(token_log(table), OPTIONS).records
    known = {p: x for p, x in by_prompt(table).items() if p != 7}
    count = [len({(g, y[3]) for g, x in rolls.items() for y in x if y[0]}) for rolls in known.values()]
    d = [[y[1] for x in rolls.values() for y in x if y[0]] for rolls in known.values()]
    near(r["floor"], linearised([sum(map(k3, x)) for x in d], count, 0.2))
    near(r["floor_shift"], linearised([sum(x) for x in d], count, 0.2))
    flat = [x for prompt in d for x in prompt]
    assert r["floor_token"] == pytest.approx(np.std(flat) / 2**0.5)
    per = [np.mean([sum(k3(y[1]) for y in x if y[0]) for x in rolls.values()]) for rolls in known.values()]
    half = student.ppf(0.9, 2) * np.std(per, ddof=1) / 3**0.5
    near(r["floor_episode"], {"value": np.mean(per), "low": np.mean(per) - half, "high": np.mean(per) + half, "n": 3})
    assert (r["scored_twice"], r["floor_law"], r["not_corrected"]) == (6, "alike", "")
    steps = [[math.exp(y[2]) for x in rolls.values() for y in x if y[0]] for rolls in known.values()]
    middle = np.mean([x for prompt in steps for x in prompt])
    taken = [
        sum(
            k3(x) + (r - middle) * x * x / 2 + k3(math.log(r) + x / 2) - k3(math.log(r) - x / 2)
            for x, r in zip(*pair, strict=True)
        )
        for pair in zip(d, steps, strict=True)
    ]  # the floor, the product, and k3 of new against the first score less that against the second
    everyone = by_prompt(table)
    whole = [sum(k3(y[4]) for x in rolls.values() for y in x if y[0]) for rolls in everyone.values()]
    number = [len({(g, y[3]) for g, x in rolls.items() for y in x if y[0]}) for rolls in everyone.values()]
    at = [list(known).index(p) if p in known else None for p in everyone]
    y, m = ([0.0 if i is None else values[i] for i in at] for values in (taken, count))
    first, second = sum(whole) / sum(number), sum(y) / sum(m)
    assert r["kl_k3_corrected"]["value"] == pytest.approx(first - second)
    a = [(4 / 3) ** 0.5 * (x - first * n) / sum(number) for x, n in zip(whole, number, strict=True)]
    b = [(3 / 2) ** 0.5 * (x - second * n) / sum(m) for x, n in zip(y, m, strict=True)]
    va, vb = sum(x * x for x in a), sum(x * x for x in b)
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    error = math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
    wide = r["kl_k3_corrected"]["high"] - r["kl_k3_corrected"]["value"]
    assert wide == pytest.approx(student.ppf(0.9, freedom) * error)


def test_by_how_much_weights_are_too_large():
    """`max(Λ, 1)(e^D − 1 − D)` of a rollout and of a token, D of all agents; Λ by the mean of both scores, of agent 0 alone."""
    table = scored_twice()
    log = token_log(table)
    (u,) = updates_of(log, OPTIONS)
    floor = floor_of(log, u, OPTIONS)
    known = {p: x for p, x in by_prompt(table).items() if p != 7}

    def raised(d, step):
        return math.exp(max(sum(step), 0.0)) * k3(sum(d))

    pairs = [[[(y[1], y[2] if y[0] else 0.0) for y in x] for x in rolls.values()] for rolls in known.values()]
    whole = [np.mean([raised(*zip(*x, strict=True)) for x in rolls]) for rolls in pairs]
    tokens = [y for rolls in pairs for x in rolls for y in x]
    assert (floor.path.value, floor.path.n) == (pytest.approx(np.mean(whole)), 3)
    assert floor.excess.value == pytest.approx(np.mean([raised([d], [s]) for d, s in tokens]))


def test_s8_pays_for_noise():
    """Half of α for the bets, half for the upper limit of what noise adds."""
    log = sampled(TEAM, np.random.default_rng(2), 0.05, prompts=60, share=2)
    (u,) = updates_of(log, Settings())
    floor = floor_of(log, u, Settings())
    noisy, bare = (
        monitor(x, Settings(alpha=alpha, draws=1)).records[0]["certificate_finite_sample"]["lower"]
        for x, alpha in ((log, 0.1), (log._replace(logp_again=None), 0.05))
    )
    assert noisy == pytest.approx(bare - upper_limit(floor.path, 0.05))
    assert upper_limit(floor.path, 0.05) > floor.path.value > 0.01


def test_which_score_is_the_second():
    """`e^d − 1 − d` is not even: of d = ln 2 it is 1 − ln 2, of −ln 2 it is ln 2 − ½."""
    table = scored_twice(skip=())
    for sign, value in ((1, 1 - math.log(2)), (-1, math.log(2) - 0.5)):
        shifted = {key: x - 1.0 if key.startswith("logp") else x for key, x in table.items()}
        shifted["logp_again"] = shifted["logp_current"] + sign * math.log(2)
        log = token_log(shifted)
        (u,) = updates_of(log, OPTIONS)
        floor = floor_of(log, u, OPTIONS)
        messages = zip(*(shifted[key][shifted["agent"] == 0] for key in ("prompt", "rollout", "turn")), strict=True)
        tokens = (shifted["agent"] == 0).sum() / len({*messages})
        assert floor.kl.value == pytest.approx(value * tokens)
        assert floor.shift.value == pytest.approx(sign * math.log(2) * tokens)


def test_a_constant_is_no_noise():
    log = sampled(TEAM, np.random.default_rng(1), 0.0, prompts=20, share=1)
    (r,) = monitor(log._replace(logp_again=log.logp_current + 0.2), Settings(draws=1)).records
    assert (r["floor_law"], r["kl_k3_corrected"]) == ("off", None)
    assert r["invalid"] == ["scored twice, the current policy is off itself by more than its floor"]
    assert r["certificate"]["lower"] == -np.inf


def test_left_of_prompts_that_are_the_same():
    """X = Y: the difference is exact; and by hand with half of the prompts."""
    x, n = np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])
    assert left(x, n, x, n, 0.1)[:3] == (0.0, 0.0, 0.0)
    y, m = np.array([2.0, 0.0, 9.0]), np.array([1.0, 0.0, 3.0])
    found = left(x, n, y, m, 0.1)
    assert found.value == 2.5 - 2.75
    a = np.array([-0.5, -1.0, 1.5]) / 6 * 1.5**0.5
    b = np.array([-0.75, 0.0, 0.75]) / 4 * 2**0.5
    assert found.error == pytest.approx(np.linalg.norm(a - b))
    assert left(x, n, y * (m < 2), m * (m < 2), 0.1).low == -np.inf  # one prompt


def test_a_floor_above_a_millionth_is_reckoned_with():
    """Nats a rollout; one that is not known, of scores without a number, too."""
    log = token_log(scored_twice())
    (u,) = updates_of(log, OPTIONS)
    floor = floor_of(log, u, OPTIONS)
    for value, visible in ((1e-6, False), (np.nextafter(1e-6, 1), True), (0.0, False), (math.nan, True)):
        assert floor._replace(episode=floor.episode._replace(value=value)).visible is visible
    hidden = Interval(1e-7, 0.0, 1e-6, 1e-7, 9)
    for path, raised in ((1e-6, False), (1e-5, True)):  # weights that are too large, though no KL shows it
        of_path = Interval(path, 0.0, 1.0, 0.25, 9)
        found = _widened(floor._replace(episode=hidden, path=of_path, excess=hidden))
        limit = path + student.ppf(1 - 1e-6, 8) * 0.25
        assert found[1] == pytest.approx(math.log1p(limit) if raised else 0.0)
        thrice = _widened(floor._replace(episode=hidden, path=of_path, excess=hidden), 3.0)
        assert thrice[1] == pytest.approx(math.log1p(3 * path) if raised else 0.0)


SPREAD = np.tile([1.0, -1.0], 5)
"""Ten prompts of one message: of `m + SPREAD` the mean is m, its error √(10/9·10)/10 = 1/3."""
HALF = student.ppf(1 - 1e-3 / 2, 9) / 3
"""How far a mean of nine degrees of freedom has to be from 0, two-sided at 1e-3."""


@pytest.mark.parametrize(
    ("shift", "floor", "law"),
    [
        (HALF - 1e-6, 100.0, "alike"),
        (1e-6 - HALF, 100.0, "alike"),
        (HALF + 1e-6, 100.0, "apart"),
        (-HALF - 1e-6, 100.0, "apart"),
        (HALF + 0.5 - 1e-6, 0.5, "apart"),
        (HALF + 0.5 + 1e-6, 0.5, "off"),
        (-HALF - 0.5 - 1e-6, 0.5, "off"),
        (-2 * HALF, None, "drawn"),  # E e^d = 1: the floor is what the mean of d lacks
        (-HALF + 1e-6, None, "alike"),
    ],
)
def test_the_law_of_two_scores_is_tested_at_a_thousandth(shift, floor, law):
    d = shift + SPREAD
    assert _kind(d, -d if floor is None else np.full(10, floor), np.ones(10)) == law


def test_why_k3_is_not_corrected():
    """The second scores are of another law; of one prompt there is no interval; or k3 lies below its noise, at 1e-3."""
    (r,) = monitor(token_log(scored_twice(skip=(2, 5, 7))), OPTIONS).records
    assert (r["floor"]["n"], r["kl_k3_corrected"], r["not_corrected"]) == (1, None, "one prompt was scored twice")
    one = np.ones(10)
    for more, why in ((1e-6, "k3 is too far below its noise: that has not one law"), (-1e-6, "")):
        taken = HALF * 1.0 + more + SPREAD  # k3 itself is 0
        found, unknown = _corrected(Sums(0 * one, one, taken, 0 * one, 0 * one, one), "alike", 0.1)
        assert ((found is None), unknown) == (why != "", why)
    for kind in ("drawn", "apart", "off"):
        found, unknown = _corrected(Sums(one, one, one, one, one, one), kind, 0.1)
        assert (found, unknown) == (None, "scored twice, the current policy is off itself in the mean")


def test_weights_of_old_rollouts_are_too_large_by_noise_too():
    """On rollouts of another policy the weight is current or new over behaviour, by the mean of both scores."""
    table = scored_twice()
    table["logp_behaviour"] = table["logp_current"] - np.random.default_rng(3).random(table["t"].size)
    log = token_log(table)
    (u,) = updates_of(log, OPTIONS)
    assert u.evidence == "reused"
    rollouts = {}
    for row in zip(
        *(
            table[k].tolist()
            for k in ("prompt", "rollout", "agent", "logp_behaviour", "logp_current", "logp_again", "logp_new")
        ),
        strict=True,
    ):
        prompt, rollout, agent, b, c, a, n = row
        middle = (c + a) / 2
        if prompt != 7:
            rollouts.setdefault(prompt, {}).setdefault(rollout, []).append(
                (middle - b, n - middle if agent == 0 else 0.0, a - c)
            )
    means = []
    for rolls in rollouts.values():
        sums = [[sum(x) for x in zip(*tokens, strict=True)] for tokens in rolls.values()]
        means.append(np.mean([math.exp(since + max(step, 0.0)) * k3(d) for since, step, d in sums]))
    assert floor_of(log, u, OPTIONS).path.value == pytest.approx(np.mean(means))


def test_a_rollout_without_token_has_no_noise():
    table = scored_twice()
    bare = {key: np.array([0.0 if key.startswith(("logp", "reward")) else 0]) for key in table}
    bare |= {"prompt": np.array([2]), "rollout": np.array([99]), "t": np.array([-1])}
    both = {key: np.concatenate([table[key], bare[key].astype(table[key].dtype)]) for key in table}
    (one,), (two,) = (monitor(token_log(x), OPTIONS).records for x in (table, both))
    assert two["scored_twice"] == one["scored_twice"] + 1
    assert two["masked"] == 1
    for key in ("floor", "floor_token", "floor_shift"):
        assert two[key] == one[key]


# ----------------------------------------------------------------------------------------------- against enumerated truth

TEAM = enumerated(np.random.default_rng(3))
REPETITIONS, FALSE_ALARM = 40, 1e-4


@pytest.fixture(scope="module")
def found():
    return {kind: coverage(TEAM, np.random.default_rng([11, i]), REPETITIONS, 0.17, kind, prompts=80, share=2)
            for i, kind in enumerate(KINDS) if kind != "in common"}  # fmt: skip


def test_what_is_corrected_covers_the_kl(found):
    """Noise of .17 a token, as much a message of two tokens as bfloat16 makes in 64: k3 itself never covers the KL."""
    least, most = (binom.ppf(q, REPETITIONS, 0.9) / REPETITIONS for q in (FALSE_ALARM, 1 - FALSE_ALARM))
    for kind in ("alike", "rare tokens", "with current"):
        assert least <= found[kind].covered <= most, kind
        assert found[kind].corrected > 0.9
        assert found[kind].bare == 0.0
    assert found["drawn"].corrected < 0.9  # there the mean of d is not 0


def test_limits_err_as_seldom_as_they_say(found):
    most = binom.ppf(1 - FALSE_ALARM, REPETITIONS, 0.1) / REPETITIONS
    for x in found.values():
        assert max(x.wrong, x.wrong_s8) <= most
        assert x.accused <= 0.05
        assert x.limits > 0.9


def exact_means(size):
    """Every transcript of TEAM with its probability, and noise at two points ±size on every token: means over both are exact."""
    weight = TEAM.law(TEAM.current).ravel()
    step = (TEAM.new - TEAM.current)[..., TEAM.agent == 0].reshape(weight.size, -1)
    return weight, step, np.cosh(size) ** 2  # the mean of e^(e2 − e0)


def test_k3_is_too_large_by_the_floor_exactly():
    """`E k̂3 = KL + E Σ (G − 1)`, G = E e^(e2 − e0) of one law for all tokens: the product is 0, and the floor is the rest."""
    weight, step, G = exact_means(0.17)
    messages = np.unique(TEAM.turn[TEAM.agent == 0]).size
    measured = weight @ (np.exp(step) * G - 1 - step).sum(-1)
    floor = (G - 1) * step.shape[1]
    assert measured - floor == pytest.approx(TEAM.kl_message * messages, abs=1e-12)


def test_steady_rungs_are_not_raised_by_noise():
    """S7 by token ratios: `L + E A r(G − 1) − ϱ(K + E r(G − 1))`, below L − ϱK; by messages, in long ones, it can be above."""
    weight, step, _ = exact_means(0.17)
    reward = TEAM.reward.ravel()
    centred = reward - np.repeat(
        (TEAM.law(TEAM.current) * TEAM.reward).sum(-1) * len(TEAM.reward), TEAM.reward.shape[1]
    )
    bare = weight @ (centred * np.expm1(step).sum(-1) - (np.exp(step) - 1 - step).sum(-1))
    whole = weight @ (centred * np.expm1(step.sum(-1)) - (np.exp(step) - 1 - step).sum(-1))
    raised = []
    for size in (0.17, 1.5):
        G = np.cosh(size) ** 2
        penalty = (np.exp(step) * G - 1 - step).sum(-1)
        assert weight @ (centred * (np.exp(step) * G - 1).sum(-1) - penalty) <= bare
        raised.append(weight @ (centred * (np.exp(step.sum(-1)) * G ** step.shape[1] - 1) - penalty) > whole)
    assert raised == [False, True]  # at 1.5 nats a token: what is why they have no limit


def test_weights_of_noisy_scores_are_not_accused():
    """Honest logs whose mean weight is above 1 by noise alone; a temperature is still told."""
    rng = np.random.default_rng(0)
    N, L, V = 400, 30, 8
    logits = 2.0 * rng.normal(size=(N, L, V))
    moved = logits + 0.05 * rng.normal(size=logits.shape)

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def record(temperature, size, scored=True):
        law = np.exp(log_softmax(logits / temperature))
        letter = (law.cumsum(-1) > rng.random((N, L, 1))).argmax(-1)
        c, n = (np.take_along_axis(log_softmax(z), letter[..., None], -1)[..., 0] - 1 for z in (logits, moved))
        e = size * rng.normal(size=(3, N, L))
        n = n if temperature == 1 else 0.9 * n - 0.1
        ids, before = np.repeat(np.arange(N), L), (c + e[0]).ravel()
        again = (c + e[2]).ravel() if scored else before + np.nan
        table = {
            "stage": 0 * ids, "update": 0 * ids, "prompt": ids // 4, "rollout": ids % 4, "agent": 0 * ids, "turn": 0 * ids,
            "t": np.tile(np.arange(L), N), "reward": (ids * 7 % 3 == 0) * 1.0, "logp_behaviour": before, "logp_current": before,
            "logp_new": (n + e[1]).ravel(), "logp_again": np.where(ids // 4 % 4 == 0, again, np.nan),
        }  # fmt: skip
        log = token_log(table)
        (u,) = updates_of(log, Settings())
        floor = floor_of(log, u, Settings())
        return contradiction(log, u.chosen, np.array([0]), 1e-4, 0.1, floor)

    assert record(1.0, 0.0, scored=False) is None
    assert record(1.0, 0.2, scored=False)["allowed"] == "at most 1"  # accused of what noise does
    assert record(1.0, 0.2) is None
    assert record(0.6, 0.2) is not None


@pytest.mark.parametrize(
    ("temperature", "noise", "invalid"),
    [
        (1.0, 0.05, []),
        (1.0, 1e-8, []),
        (0.6, 0.05, ["weights are too large for noise as it was measured, and little was scored twice"]),
        (0.6, 1e-8, ["the log contradicts itself"]),
    ],
)
def test_one_prompt_scored_twice_excuses_no_wrong_temperature(temperature, noise, invalid):
    """Its noise has no upper limit: no accusation where there is noise, but no certificate. The truth: current is not the law."""
    rng, rows = np.random.default_rng(7), 6000
    p = np.array([0.5, 0.3, 0.2])
    drawn = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    token = rng.choice(3, rows, p=drawn)
    new = p**1.5 / (p**1.5).sum()
    score = np.log(p[token]) + noise * rng.normal(size=rows)
    again = np.where(np.arange(rows) < 60, np.log(p[token]) + noise * rng.normal(size=rows), np.nan)
    zero, place = np.zeros(rows, int), np.arange(rows)
    table = dict(
        stage=zero, update=zero, agent=zero, turn=zero, prompt=place // 60, rollout=place // 15 % 4, t=place % 15
    )
    table |= dict(logp_behaviour=score, logp_current=score, logp_again=again)
    table |= dict(logp_new=np.log(new[token]) + noise * rng.normal(size=rows))
    table |= dict(reward=np.repeat((token == 0).reshape(-1, 15).mean(1), 15))
    (r,) = monitor(token_log(table, sampler=Sampler(temperature=1.0)), Settings(draws=1, held_out=True)).records
    assert r["invalid"] == invalid
    assert (r["contradiction"] is None) == (invalid != ["the log contradicts itself"])
    assert (r["certificate"]["lower"] > -np.inf) == (not invalid)


# ------------------------------------------------------------------------------------------------------- what is said


def test_what_is_below_the_floor_decides_nothing(tmp_path, capsys):
    log = sampled(enumerated(np.random.default_rng(3), step=0.01), np.random.default_rng(1), 0.3, share=2)
    report = monitor(log, Settings(draws=1, held_out=True))
    (r,) = report.records
    assert {"kl_k1", "kl_k3", "outside", "kl_episode", "certificate"} <= set(r["below_floor"])
    assert abs(r["certificate"]["lower"]) <= r["floor_episode"]["high"]
    inside, certified, *_, radius = verdicts(report)[0].answers
    assert radius.because.startswith("Its steps are below the floor.")
    assert (inside.answer, inside.tone) == ("below the floor", "open")
    assert f"floor {r['floor']['value']:.3g} [" in inside.because
    assert "score in float32" in inside.because
    alone = log._replace(logp_again=np.where(log.prompt == log.prompt.min(), log.logp_again, np.nan))
    inside = verdicts(monitor(alone, Settings(draws=1)))[0].answers[0]
    assert (inside.answer, "score rollouts of more prompts twice" in inside.because) == ("below the floor", True)
    assert certified.answer in ("certificate below the floor", "not certified")
    k1 = 0.5 * (r["floor"]["value"] + r["floor"]["high"])
    at = log._replace(
        logp_new=log.logp_new + np.where(log.agent == 0, (r["kl_k1"]["value"] - k1) / 2, 0.0)
    )  # two tokens
    (moved,) = monitor(at, Settings(draws=1)).records
    assert moved["kl_k1"]["value"] == pytest.approx(k1)
    assert {"kl_k1", "outside"} <= set(moved["below_floor"])  # by the upper end
    cells = {h: cell for _, heads, rows, _ in tables(report) for h, cell in zip(heads, rows[0], strict=True)}
    assert cells["δ = 0.01"].endswith("δ, below the floor")
    assert cells["floor, k3"].startswith(f"{r['floor']['value']:.3g} [")
    assert cells["k3 − floor"] != "–"
    page = write_page(report, tmp_path / "page.html", "log").read_text()
    show(report, "log")
    for text in (page, capsys.readouterr().out, "\n".join(remarks(report))):
        assert "below the floor" in text
    rungs = {x["name"]: x["lower"] for x in r["rungs"]}
    assert rungs["message ratios"] == -np.inf
    assert rungs["token ratios"] > -np.inf
    assert r["certificate_finite_sample"]["bound"] == "betting, less what noise adds (asymptotic)"
    quiet = monitor(sampled(TEAM, np.random.default_rng(1), 1e-5, share=2), Settings(draws=1)).records[0]
    assert (quiet["below_floor"], quiet["certificate_finite_sample"]["bound"]) == ([], "betting")
    assert quiet["rungs"][0]["lower"] > -np.inf


def test_one_prompt_scored_twice_in_float32_hides_nothing():
    """Its floor has no upper end, but at 1e-13 nats nobody needs one; of a visible one everything may be below."""
    for noise, hidden in ((1e-7, False), (0.1, True)):
        log = sampled(TEAM, np.random.default_rng(1), noise, share=2)
        log = log._replace(logp_again=np.where(log.prompt == log.prompt[0], log.logp_current + noise, np.nan))
        (r,) = monitor(log, Settings(draws=1)).records
        assert (r["floor"]["n"], r["floor"]["high"]) == (1, np.inf)
        assert ({"kl_k1", "kl_k3", "kl_episode", "outside", "certificate"} & set(r["below_floor"]) != set()) == hidden
        same = log._replace(logp_new=log.logp_current + np.where(log.agent == 0, 1e-9, 0.0))
        assert "kl_k3" in monitor(same, Settings(draws=1)).records[0]["below_floor"]


def test_precision_without_a_second_score():
    """bfloat16 says that there is a floor, not how high it is: S8 and S7 by messages have no limit, S9 has."""
    log = sampled(TEAM, np.random.default_rng(1), 0.0, share=0)
    for precision, limited in (("float32", True), ("float64", True), ("bfloat16", False), ("float16", False)):
        report = monitor(log._replace(sampler=Sampler(1.0, precision=precision)), Settings(draws=1))
        (r,) = report.records
        assert (r["certificate_finite_sample"]["lower"] > -np.inf) == limited
        assert (r["rungs"][0]["lower"] > -np.inf) == limited
        assert r["rungs"][2]["lower"] > -np.inf
        assert ("the floor is not known" in "\n".join(remarks(report))) != limited
        assert f"precision {precision}" in "\n".join(remarks(report))


def wrong():
    """Rows whose new scores are all higher."""
    table = columns(stage(5, [[0]], {0: [0]}, dict.fromkeys(range(40), 4)))
    return table | {"logp_new": np.minimum(table["logp_current"] + 0.5, 0.0)}


def test_a_contradiction_without_settings_is_refused(tmp_path, capsys):
    table, settings = wrong(), Settings(reward_range=(LOW, 3.0), draws=1)
    assert run(write_token_log(tmp_path / "log.jsonl", table), settings, json=True) == 2
    out, err = capsys.readouterr()
    assert "teamtr: refused: " in err
    assert "no sampler settings: nothing is certified or decided" in err
    record = json.loads(out)
    assert (record["invalid"], record["sampler"]) == (["the log contradicts itself"], None)
    likely = {
        "top_k = 50": Sampler(1.0, top_k=50),
        "sampled at temperature 0.7": Sampler(0.7),
        "rounding of bfloat16": Sampler(1.0, precision="bfloat16"),
        "rather a shift, a mask or a filter": Sampler(1.0),
    }
    for cause, sampler in likely.items():
        report = monitor(token_log(table, sampler=sampler), settings)
        assert refused(report) == ""
        assert cause in next(x for x in remarks(report) if "contradicts itself at" in x)
    assert run(write_token_log(tmp_path / "said.jsonl", table, sampler=Sampler(0.7)), settings, json=True) == 0
    capsys.readouterr()
    passed = Watching(fail_above=("doubts=0",))
    assert run(tmp_path / "log.jsonl", settings, json=True, watching=passed) == 2  # not what a threshold says
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in err] == [" update 0.0 of agents 0+1", " refused"]
    assert run(tmp_path / "said.jsonl", settings, json=True, watching=passed) == 4


def test_settings_that_no_score_shows():
    """A cut that is declared and booked nowhere certifies nothing; without settings a remark says what is taken for granted."""
    log = sampled(TEAM, np.random.default_rng(1), 0.0, share=0)
    report = monitor(log, Settings(draws=1))
    assert report.records[0]["invalid"] == []
    assert "No sampler settings in the log" in "\n".join(remarks(report))
    for more, beyond in (
        ({"top_k": 50}, "top_k = 50"), ({"repetition_penalty": 1.1}, "repetition_penalty = 1.1"), ({"top_p": 0.9}, "top_p = 0.9"),
        ({"min_p": 0.05}, "min_p = 0.05"), ({"top_k": 9, "min_p": 0.1}, "top_k = 9, min_p = 0.1"),
    ):  # fmt: skip
        (r,) = monitor(log._replace(sampler=Sampler(0.7, **more)), Settings(draws=1)).records
        assert r["invalid"] == [f"the sampler has {beyond}, and the scores do not show it"]
        assert beyond_softmax(r["sampler"]) == beyond
    (r,) = monitor(log._replace(sampler=Sampler(0.7)), Settings(draws=1)).records
    assert r["invalid"] == []
    assert "No sampler" not in "\n".join(remarks(monitor(log._replace(sampler=Sampler(0.7)), Settings(draws=1))))
    off = 2e-4 * (-1.0) ** np.arange(log.stage.size)  # a distance of either sign: nothing that a cut leaves out
    near = log._replace(logp_behaviour=log.logp_current + off)
    for more, wanted in (({"repetition_penalty": 1.1}, []), ({"top_k": 50}, 1 * ["top_k = 50"])):
        (r,) = monitor(near._replace(sampler=Sampler(0.7, **more)), Settings(draws=1)).records
        assert (r["evidence"], r["invalid"]) == (
            "reused", [f"the sampler has {x}, and the scores do not show it" for x in wanted],
        )  # fmt: skip
    booked = log._replace(logp_behaviour=log.logp_current + 0.3, sampler=Sampler(0.7, top_p=0.9))  # as the engine cut
    assert monitor(booked, Settings(draws=1)).records[0]["invalid"] == []
