"""Logs that cannot be what they say: masked rollouts, scores of another law than the samples', filters, overflow.

What is honest is rarely accused: the bets have an exact mean, and simulated logs with heavy tails are let be.
"""

import itertools
import json
import math

import numpy as np
import pytest
from monitor_logs import log_probs, rows, sampled, world
from monitor_oracle import betting
from scipy.stats import binom

from teamtr_jax import intervals
from teamtr_jax.monitor import (
    Settings,
    monitor,
    read_token_log,
    token_log,
    token_rows,
    write_page,
    write_token_log,
)
from teamtr_jax.monitor import estimates as est
from teamtr_jax.monitor.doubts import (
    FALSE_ALARM,
    ROLLOUT_STAKES,
    TOKEN_STAKES,
    contradiction,
    holes,
    log_evidence,
    one_sided_groups,
    unequal,
)
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.monitor.terminal import tables
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError

AGENT = np.array([0])


def flat(current, new, behaviour=None, reward=None, group=4):
    """One agent, one message per rollout, [N, L] log-probabilities."""
    N, L = current.shape
    reward = np.random.default_rng(9).random(N) < 0.5 if reward is None else reward
    mask = np.ones((N, L), int)
    ids = np.arange(N)
    behaviour = current if behaviour is None else behaviour
    return token_rows(
        mask, stage=0, update=0, prompt=ids // group, rollout=ids % group, agent=0, turn=0, logp_behaviour=behaviour,
        logp_current=current, logp_new=new, reward=reward * 1.0,
    )  # fmt: skip


def one(table, **settings):
    report = monitor(token_log(table), Settings(**settings))
    for record in report.records:
        dump(record)  # no NaN
    return report, report.records[0]


def no_certificate(record, reason, *more):
    assert record["invalid"] == [reason, *more]
    assert record["certificate"]["lower"] == -np.inf
    assert record["certificate"]["label"] == f"none: {reason}"
    assert all(rung["lower"] == -np.inf for rung in record["rungs"])
    assert record["kl_episode_upper"] == np.inf
    finite = record["certificate_finite_sample"]
    assert finite is None or (finite["lower"], finite["label"]) == (-np.inf, f"none: {reason}")


# ---------------------------------------------------------------------------------------------------------- masked rollouts


def cut_off(prompts=400, group=4, before=0.5, after=0.3):
    """Answers that run to the limit earn 0; the update makes them rarer. Its improvement is (before − after)·0.6."""
    rng, length = np.random.default_rng(0), 6
    N = prompts * group
    cut, right = rng.random(N) < before, rng.random(N) < 0.6
    mask = (np.arange(length) < np.where(cut, length, 2)[:, None]).astype(int)
    current, new = np.zeros((N, length)), np.zeros((N, length))
    current[:, 0] = np.log(np.where(cut, before, 1 - before))
    new[:, 0] = np.log(np.where(cut, after, 1 - after))
    ids = np.arange(N)
    columns = dict(
        stage=0, update=0, prompt=ids // group, rollout=ids % group, agent=0, turn=0, logp_behaviour=current,
        logp_current=current, logp_new=new, reward=np.where(cut, 0.0, right),
    )  # fmt: skip
    return mask, cut, columns


def test_masked_rollouts_stay_and_have_no_certificate():
    mask, cut, columns = cut_off()
    _, whole = one(token_rows(mask, **columns), held_out=True)
    assert (whole["invalid"], whole["masked"]) == ([], 0)
    assert 0 < whole["certificate_finite_sample"]["lower"] < 0.12
    report, record = one(token_rows(mask * ~cut[:, None], **columns), held_out=True)
    assert (record["rollouts"], record["masked"]) == (1600, cut.sum())
    assert record["reward"] == whole["reward"]
    assert record["tokens"] == 2 * (~cut).sum()
    no_certificate(
        record, "tokens are masked", "the log contradicts itself"
    )  # E new/current is 1.4 on the other tokens
    assert f"{cut.sum()} rollouts of 1 update (0.0) lack tokens" in "\n".join(remarks(report))
    dropped = {key: np.asarray(value)[~cut] if np.ndim(value) else value for key, value in columns.items()}
    _, filtered = one(token_rows(mask[~cut], **dropped), held_out=True)  # of a trainer who drops such rollouts
    no_certificate(
        filtered,
        "the log contradicts itself",
        "groups of unequal size: rollouts may be missing",
        "rollout ids are missing",
    )
    assert filtered["contradiction"]["statistic"] == "KL of a rollout, k1"
    assert filtered["contradiction"]["value"] == pytest.approx(-math.log(1.4))
    assert filtered["groups"] == [1, 4]


def small():
    """Two prompts of three rollouts; rollout 1 of prompt 0 and rollout 2 of prompt 1 have no token."""
    mask = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    rng = np.random.default_rng(3)
    current = -rng.exponential(1.0, mask.shape)
    new = current + 0.3 * rng.normal(size=mask.shape)
    new = np.minimum(new, -0.01)
    reward = np.array([1.0, 0.5, 0.0, 0.25, 1.0, 0.75])
    columns = dict(
        stage=0, update=0, prompt=[0, 0, 0, 1, 1, 1], rollout=[0, 1, 2, 0, 1, 2], agent=np.zeros(mask.shape, int),
        turn=np.zeros(mask.shape, int), logp_behaviour=current, logp_current=current, logp_new=new, reward=reward,
        token=rng.integers(0, 9, mask.shape), source=0,
    )  # fmt: skip
    return mask, columns


@pytest.mark.parametrize("form", [None, "jsonl", "parquet"])
def test_a_rollout_without_token_counts(form, tmp_path):
    """Against loops: it has its reward, the baseline of the others, log weight 0, no message and no token."""
    mask, columns = small()
    table = token_rows(mask, **columns)
    assert table["t"].tolist() == [0, 1, 2, -1, 0, 1, 0, 0, 1, -1]
    assert table["reward"].tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.25, 1.0, 1.0, 0.75]
    assert table["token"][[3, 9]].tolist() == [-1, -1]
    log = token_log(table) if form is None else read_token_log(write_token_log(tmp_path / f"log.{form}", table))
    assert log.masked.tolist() == [False, True, False, False, False, True]
    assert log.rows == 8
    (record,) = monitor(log, Settings(draws=1)).records
    log_ratio = (columns["logp_new"] - columns["logp_current"]) * mask
    reward = columns["reward"].reshape(2, 3)
    advantage = reward - (reward.sum(1, keepdims=True) - reward) / 2
    weight = np.exp(log_ratio.sum(1)).reshape(2, 3)
    kl = (np.exp(log_ratio) - 1 - log_ratio).sum(1).reshape(2, 3)
    expected = {
        "reward": reward.mean(1), "kl_episode": kl.mean(1), "improvement": (advantage * (weight - 1)).mean(1),
        "mean_weight": weight.mean(1), "surrogate": (advantage * (weight - 1)).mean(1),
    }  # fmt: skip
    for key, values in expected.items():
        assert record[key]["value"] == pytest.approx(values.mean(), abs=1e-15), key
        assert record[key]["n"] == 2
    assert record["kl_k1"]["value"] == pytest.approx(-log_ratio.sum() / 4)
    assert (record["tokens"], record["messages"], record["messages_max"]) == (8, 4 / 6, 1)
    assert (record["share_tokens"], record["share_messages"]) == ({"0": 1.0}, {"0": 1.0})
    assert record["weights_update"]["n"] == 6
    assert (record["rollouts"], record["masked"]) == (6, 2)
    no_certificate(record, "tokens are masked")
    assert monitor(log, Settings(delta=9.0)).records[0]["outside"] is None  # masked tokens are not counted
    assert monitor(log, Settings(delta=1e-9)).records[0]["outside"] is True


def test_nothing_but_masked_rollouts_at_an_update():
    mask, columns = small()
    some, none = token_rows(mask, **columns), token_rows(0 * mask, **columns | {"update": 1, "source": 1})
    both = {key: np.concatenate([some[key], none[key]]) for key in some}
    record = monitor(token_log(both)).records[1]
    assert (record["tokens"], record["share_tokens"], record["agents"]) == (0, {}, [])
    no_certificate(record, "tokens are masked")
    assert record["skippable"] is None
    with pytest.raises(InputError, match="no token"):
        token_log(none)
    told = both | {"updated": np.full(both["t"].size, -1), "agent": np.where(both["t"] < 0, 5, both["agent"])}
    assert monitor(token_log(told)).records[0]["agents"] == [0]  # who wrote nothing is no agent


def test_a_hole_in_a_message_is_a_mask():
    mask, columns = small()
    table = token_rows(
        mask[[0, 2, 3, 4]], **{k: np.asarray(v)[[0, 2, 3, 4]] if np.ndim(v) else v for k, v in columns.items()}
    )
    assert one(table, complete=True)[1]["invalid"] == []
    for gone in (0, 1):
        hole = {key: np.delete(value, gone) for key, value in table.items()}
        _, record = one(hole, complete=True)
        assert record["masked"] == 1
        no_certificate(record, "tokens are masked")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("t", -2, "column t, row 4: found -2, expected an integer ≥ 0, or −1 for a rollout without token"),
        ("logp_new", -0.5, "column logp_new, row 4: found -0.5, expected 0: t = −1 is a rollout without token"),
        ("rollout", 0, "column t, row 4: found -1, expected no other row"),
        ("token", 5, None),
    ],
)
def test_the_row_of_a_rollout_without_token(key, value, expected):
    table = token_rows(small()[0], **small()[1])
    table[key][3] = value
    if key == "rollout":
        table["reward"][3] = 1.0
    if expected is None:
        token_log(table)
        return
    with pytest.raises(InputError) as error:
        token_log(table)
    assert expected in str(error.value)


def test_rows_of_a_mask_that_keeps_nothing_need_one_value():
    mask, columns = small()
    wide = np.repeat(columns["reward"][:, None], 3, 1)
    assert token_rows(mask, reward=wide)["reward"][3] == 0.5
    wide[1, 2] = 9.0
    with pytest.raises(InputError, match="reward, row 1: found several values and no token"):
        token_rows(mask, reward=wide)
    for bad in (np.ones(3), np.ones((2, 0)), np.full((2, 2), "a")):
        with pytest.raises(InputError, match=r"^mask: "):
            token_rows(bad)
    with pytest.raises(InputError, match=r"^reward: "):
        token_rows(mask, reward=[[1.0], [1.0, 2.0]])


def test_a_mask_at_an_old_set_spoils_shift_and_matrix():
    """The start is scored again with a rollout whose tokens are masked: K of it would be too small."""
    table = sampled(world(np.random.default_rng(5)), np.random.default_rng(2), 40, 4)
    assert len(monitor(token_log(table)).interactions) == 1
    one_of = (table["rollout"] == 0) & (table["prompt"] == 0)
    keep = ~(one_of & (table["turn"] > 0))
    masked = {key: value[keep].copy() for key, value in table.items()}
    there = one_of[keep]
    masked["t"][there] = -1
    for key in ("logp_behaviour", "logp_current", "logp_new"):
        masked[key][there] = 0.0
    report = monitor(token_log(masked | {"source": np.where(masked["rollout"] < 4, 0, masked["update"])}))
    assert report.interactions == []
    for record in report.records[1:]:
        assert (record["masked"], record["source"]) == (0, record["update"])
        no_certificate(record, "tokens are masked")
        assert (record["shift"], record["shift_upper"], record["skippable"]) == (1.0, 1.0, None)


# ------------------------------------------------------------------------------------------------------------ contradictions


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def language(temperature, N=400, L=30, V=8, move=0.05, seed=0):
    """Tokens sampled at a temperature; log-probabilities of current and new, at it and at 1."""
    rng = np.random.default_rng(seed)
    z = 2.0 * rng.normal(size=(N, L, V))
    z2 = z + move * rng.normal(size=z.shape)
    p = np.exp(log_softmax(z / temperature))
    a = (p.cumsum(-1) > rng.random((N, L, 1))).argmax(-1)

    def pick(logits):
        return np.take_along_axis(log_softmax(logits), a[..., None], -1)[..., 0]

    return pick(z / temperature), pick(z2 / temperature), pick(z), pick(z2)


WRONG = {
    "raw behaviour and current, new at the temperature": lambda c, n, raw, raw_new: (raw, n, raw),
    "raw behaviour, the rest at the temperature": lambda c, n, raw, raw_new: (c, n, raw),
    "raw behaviour, wrong current, new raw": lambda c, n, raw, raw_new: (c, raw_new, raw),
    "new shifted by a token": lambda c, n, raw, raw_new: (c, np.roll(n, -1, 1), c),
    "current shifted by a token": lambda c, n, raw, raw_new: (np.roll(c, 1, 1), np.roll(n, 1, 1), c),
    "all but new shifted": lambda c, n, raw, raw_new: (np.roll(c, 1, 1), n, np.roll(c, 1, 1)),
    "base 10": lambda c, n, raw, raw_new: (c, n / math.log(10), c),
}  # fmt: skip


@pytest.mark.parametrize("temperature", [0.6, 0.9, 1.5])
@pytest.mark.parametrize("name", WRONG)
def test_scores_of_another_law_are_told(name, temperature):
    current, new, behaviour = WRONG[name](*language(temperature))
    report, record = one(flat(current, new, behaviour), held_out=True)
    if temperature > 1 and name.startswith("raw behaviour, wrong"):
        return  # two wrongs that this cannot see: the weights' means are below 1
    no_certificate(record, "the log contradicts itself")
    assert record["outside"] is True
    c = record["contradiction"]
    assert c["low"] > 1 if c["allowed"] == "at most 1" else c["high"] < 0
    text = next(x for x in remarks(report) if "contradicts itself at 1 update (0.0)" in x)
    assert f"the {c['statistic']}, {c['ratio']}, is {c['value']:.3g} [" in text
    for cause in ("temperature", "shifted by a token", "mask", "bfloat16", "top-k"):
        assert cause in text
    assert "in-sample" not in text
    assert "in-sample, an update that raised" in "\n".join(remarks(one(flat(current, new, behaviour))[0]))


@pytest.mark.parametrize("temperature", [0.6, 0.9, 1.5])
def test_scores_of_the_law_are_not_accused(temperature):
    """Also where current is another policy than the behaviour, or new one at another temperature."""
    c, n, raw, raw_new = language(temperature)
    for current, new, behaviour in ((c, n, c), (raw, raw_new, c), (c, raw_new, c), (n, n, c)):
        _, record = one(flat(current, new, behaviour), held_out=True)
        assert record["invalid"] == []
        assert record["contradiction"] is None
        assert record["certificate"]["lower"] > -np.inf


def test_what_the_statistics_are():
    """By hand: the k1 of a log whose new scores are all higher by 0.1 and the mean weight e^0.1."""
    current = np.full((400, 5), -1.0)
    _, record = one(flat(current, current + 0.1))
    assert record["contradiction"] | {"log_evidence": 0} == {
        "ratio": "new/current", "statistic": "KL of a rollout, k1", "value": pytest.approx(-0.5), "low": pytest.approx(-0.5),
        "high": pytest.approx(-0.5), "n": 100, "allowed": "at least 0", "log_evidence": 0,
    }  # fmt: skip
    behaviour = current - np.arange(400)[:, None] % 2  # every second rollout is not on-policy
    _, mixed = one(flat(current, current + 0.1, behaviour))
    assert mixed["contradiction"]["ratio"] in ("new/behaviour", "current/behaviour")
    close = contradiction(token_log(flat(current, current + 0.1, behaviour)), np.arange(400), AGENT, 2.0, 0.1)
    assert close["ratio"] == "new/current"
    # Σ log w = 2000·0.1; the mean over sixteen bets, eight of them on current/behaviour that stay at 1.
    others = [math.fsum([2000 * math.log1p(x * math.expm1(0.1))]) for x in TOKEN_STAKES[1:]]
    others += [400 * math.log1p(x * math.expm1(0.5)) for x in ROLLOUT_STAKES]
    capital = np.logaddexp.reduce([200.0, *others, *[0.0] * 8]) - math.log(16)
    assert record["contradiction"]["log_evidence"] == pytest.approx(capital)


def test_the_level_of_an_accusation():
    """All log-probabilities higher by x in all tokens: just below and just above the million to one."""
    tokens = 8 * 5
    base = np.full((8, 5), -3.0)

    def capital(x):
        bets = [tokens * math.log1p(s * math.expm1(x)) for s in TOKEN_STAKES]
        bets += [8 * math.log1p(s * math.expm1(5 * x)) for s in ROLLOUT_STAKES]
        return np.logaddexp.reduce([*bets, *[0.0] * 8]) - math.log(16)

    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if capital(middle) < -math.log(1e-6) else (low, middle)
    assert FALSE_ALARM == 1e-6
    assert TOKEN_STAKES[0] == max(*TOKEN_STAKES, *ROLLOUT_STAKES) == 1.0
    assert len({*TOKEN_STAKES}) + len({*ROLLOUT_STAKES}) == 8  # for each of the two policies
    for x, accused in ((low - 1e-6, False), (high + 1e-6, True)):
        log = token_log(flat(base, base + x))
        assert (contradiction(log, np.arange(8), AGENT, 1e-4, 0.1) is not None) is accused
        other = contradiction(log, np.arange(8), np.array([1]), 1e-4, 0.1)
        assert other is None  # not an updated agent's


def test_the_bets_have_mean_one():
    """Over every transcript of an enumerated team the mean capital is 1 at every stake, by tokens and by rollouts.

    It is less where the new policy opens what the old one never does. So (Ville) the false-alarm rate is at most `FALSE_ALARM`.
    """
    w = world(np.random.default_rng(5), owners=(0, 1, 0), letters=3, order=(0, 1), step=1.5)
    old, new = (log_probs(w, w.tables[h])[0] for h in (0, 1))
    p = np.exp(old.sum(-1))
    x = new - old
    for stake in TOKEN_STAKES:
        assert p @ np.exp([log_evidence(row, stake) for row in x]) == pytest.approx(1.0, abs=1e-12)
    for stake in (*ROLLOUT_STAKES, 1.0):
        assert p @ np.exp([log_evidence(row[None], stake) for row in x.sum(-1)]) == pytest.approx(1.0, abs=1e-12)
    spoken = old[:, 0] > old[:, 0].min()
    q, y = p * spoken, x.copy()
    y[:, 0] += np.log(1 - np.exp(old[~spoken][0, 0]))  # old renormalised without its rarest first letter
    q /= q.sum()
    assert q @ np.exp([log_evidence(row, 1.0) for row in y]) < 1 - 1e-3


def test_honest_logs_with_heavy_tails_are_not_accused():
    """400 honest sets, log weights with standard deviations from below 0.1 to above 4.

    At 1e-6 each, one accusation among them has probability 4e-4 at most.
    """
    rng, sets = np.random.default_rng(0), 400
    shape = (sets, 32, 6, 5)
    z = rng.normal(size=shape) * rng.uniform(0.5, 3, (sets, 1, 1, 1))
    z2 = z + rng.uniform(0.02, 2.5, (sets, 1, 1, 1)) * rng.normal(size=shape)
    a = (np.exp(log_softmax(z)).cumsum(-1) > rng.random((*shape[:3], 1))).argmax(-1)[..., None]
    c, n = (np.take_along_axis(log_softmax(x), a, -1)[..., 0].reshape(-1, 6) for x in (z, z2))
    spread = (n - c).sum(1).reshape(sets, 32).std(1)
    assert spread.min() < 0.1 < 4 < spread.max()
    log = token_log(flat(c, n))
    found = [contradiction(log, np.arange(32 * i, 32 * i + 32), AGENT, 1e-4, 0.1) for i in range(sets)]
    assert found == [None] * sets


def test_rounding_is_not_accused():
    """Scores that carry float32 rounding, and a behaviour that is off by less than match, always to one side."""
    rng = np.random.default_rng(0)
    c = -rng.exponential(1.0, (400, 500)) - 1e-3
    noisy = c + 1e-6 * rng.normal(size=c.shape)
    for current, new, behaviour in ((c, noisy, c), (c, c, c - 9e-5), (noisy, c + 5e-5, c + 9e-5)):
        log = token_log(flat(current, new, behaviour))
        assert contradiction(log, np.arange(400), AGENT, 1e-4, 0.1) is None


WITHHELD = "none: a limit exceeds high − mean reward"


def test_no_limit_where_one_exceeds_the_room():
    """Weights that are above 1, too little to accuse: the limits would exceed `high − mean reward`, the S8 limit too."""
    current = np.full((12, 1), -2.0)
    report, record = one(flat(current, current + np.linspace(-0.1, 0.7, 12)[:, None], reward=np.full(12, 0.9), group=1))
    assert (record["invalid"], record["limit_cut"]) == ([], True)
    assert max(rung["lower"] for rung in record["rungs"]) > 0.1
    for key in ("certificate", "certificate_finite_sample"):
        assert (record[key]["lower"], record[key]["label"]) == (-np.inf, WITHHELD)
    assert "none is printed for 1 update (0.0)" in "\n".join(remarks(report))
    assert tables(report)[3][2][0][5:8] == ["none", "-inf", "-inf"]
    current = np.full((100, 1), -2.0)
    up = np.linspace(0.08, 0.12, 100)[:, None]
    _, record = one(flat(current, current + up, reward=np.full(100, 1.0 - 1e-6), group=1))
    assert record["invalid"] == []
    assert record["certificate_finite_sample"]["lower"] == record["certificate"]["lower"] == -np.inf
    assert record["certificate_finite_sample"]["estimate"] > 0.1
    assert record["limit_cut"]
    assert not one(flat(*language(1.0)[:2]))[1]["limit_cut"]


def test_a_rare_event_that_the_update_removes_is_no_contradiction():
    """Every rollout earned 1 and became likelier by 1e-3: honest, and nothing is left to gain.

    S9 would certify 1e-3: no limit, and no accusation.
    """
    current = np.full((400, 1), -1.0)
    _, record = one(flat(current, current + 1e-3, reward=np.ones(400)), tolerance=0.1)
    assert record["invalid"] == []
    assert record["rungs"][2]["lower"] == pytest.approx(1e-3)
    assert record["limit_cut"]
    assert record["certificate"]["lower"] == record["certificate_finite_sample"]["lower"] == -np.inf
    _, idle = one(flat(current, current, reward=np.ones(400)))
    assert (idle["limit_cut"], idle["certificate"]["lower"]) == (False, 0.0)  # at equality
    assert record["outside"] is False


@pytest.mark.parametrize(("more", "high"), [(0.12, False), (0.16, True)])
def test_no_limit_against_a_mean_weight_above_one(more, high):
    """Too little for an accusation: at a tenth of α by the betting bound, against bisection over its capital by hand."""
    prompts = 60
    weight = np.tile([0.7, 1.3], prompts // 2) + more
    current = np.full((prompts, 1), -2.0)
    report, record = one(
        flat(current, current + np.log(weight)[:, None], reward=np.arange(prompts) % 2, group=1), held_out=True
    )
    assert (betting(list(weight - 1), 0.01) > 0) is high
    assert (record["invalid"], record["mean_weight_high"], record["limit_cut"]) == ([], high, False)
    label = "none: the mean weight new/current lies above 1" if high else "held-out"
    for key in ("certificate", "certificate_finite_sample"):
        assert record[key]["label"] == label
        assert (record[key]["lower"] == -np.inf) is high
    text = [
        x for x in remarks(report) if x.startswith("The mean weight new/current of rollouts lies above 1 in 1 update")
    ]
    assert len(text) == high
    assert not high or "1.16 [" in text[0]
    assert not high or "at most 1 % of updates" in text[0]


def test_honest_logs_keep_their_limits():
    """Simulated sets: at a tenth of α = 0.1, 200 of them lose more than nine limits with probability below 1e-4."""
    rng, sets, prompts = np.random.default_rng(1), 200, 24
    z = rng.normal(size=(sets, prompts * 4, 5, 4))
    z2 = z + rng.uniform(0.02, 0.8, (sets, 1, 1, 1)) * rng.normal(size=z.shape)
    a = (np.exp(log_softmax(z)).cumsum(-1) > rng.random((*z.shape[:3], 1))).argmax(-1)[..., None]
    c, n = (np.take_along_axis(log_softmax(x), a, -1)[..., 0].reshape(-1, 5) for x in (z, z2))
    table = flat(c, n)
    stage = np.repeat(np.arange(sets), prompts * 4 * 5)
    found = monitor(token_log(table | {"stage": stage}), Settings(held_out=True, draws=1)).records
    assert len(found) == sets
    assert all(r["invalid"] == [] and r["contradiction"] is None for r in found)
    assert binom.sf(9, sets, 0.01) < 1e-4
    assert sum(r["mean_weight_high"] for r in found) <= 9


def test_a_mean_weight_below_one_is_told():
    """What the new policy does is not in the sample: no accusation, and k1 is above k3 by what is missing."""
    current = np.full((400, 1), math.log(0.999))
    report, record = one(flat(current, current - math.log(2) + np.random.default_rng(0).normal(0, 0.01, current.shape)))
    assert record["mean_weight"]["value"] == pytest.approx(0.5, abs=0.01)
    assert record["mean_weight_low"]
    assert record["invalid"] == []
    assert record["kl_k1"]["value"] - record["kl_k3"]["value"] == pytest.approx(0.5, abs=0.01)
    assert "lies below 1 at 1 update (0.0)" in "\n".join(remarks(report))
    assert not one(flat(*language(1.0)[:2]))[1]["mean_weight_low"]


# ----------------------------------------------------------------------------------------------------------------- selection


def groups(prompts, group=4, mixed=True, values=(0.0, 1.0)):
    reward = np.tile([values[0], *[values[1]] * (group - 1)], prompts)
    if not mixed:
        reward[:group] = values[1]
    current = np.full((reward.size, 1), -1.0)
    return flat(current, current - 0.01, reward=reward, group=group)


def test_prompts_without_advantage_that_are_not_there():
    """Groups of four: none of n prompts is one-sided with probability at most (7/8)ⁿ, below 1e-6 from n = 104 on."""
    assert (7 / 8) ** 103 > 1e-6 > (7 / 8) ** 104
    every = np.arange(104 * 4)
    assert one_sided_groups(token_log(groups(104)), every) == 104
    assert one_sided_groups(token_log(groups(103)), every[: 103 * 4]) == 0
    assert one_sided_groups(token_log(groups(104, mixed=False)), every) == 0
    three = groups(104)
    three["reward"][:2] = 0.5
    assert one_sided_groups(token_log(three), every) == 0
    report, record = one(groups(104), held_out=True)
    no_certificate(record, "prompts whose rollouts have equal rewards were left out")
    assert "No prompt has rollouts of equal rewards in 1 update (0.0)" in "\n".join(remarks(report))


def test_groups_of_unequal_size_and_missing_ids_have_no_certificate():
    """Unless the reader declares that no rollout was left out."""
    table = groups(30, mixed=False)
    every = np.arange(120)
    assert unequal(token_log(table), every) is None
    assert holes(token_log(table), every) == 0
    short = {key: value[1:] for key, value in table.items()}
    report, record = one(short, held_out=True)
    assert (record["groups"], record["ids_missing"]) == ([3, 4], 1)
    no_certificate(record, "groups of unequal size: rollouts may be missing", "rollout ids are missing")
    assert one(short, held_out=True, complete=True)[1]["certificate_finite_sample"]["label"] == "held-out"
    assert "(--complete: none was left out)" in "\n".join(remarks(report))
    assert "Prompts have 3 to 4 rollouts in 1 update (0.0)" in "\n".join(remarks(report))
    best = (np.arange(120) * 7 % 11) % 4 == table["rollout"]  # one or none of four
    some = {key: value[best] for key, value in table.items()}
    count = np.unique(some["prompt"]).size
    report, record = one(some, held_out=True)
    assert record["ids_missing"] == 4 * count - best.sum() > 0
    assert record["invalid"][-1] == "rollout ids are missing"
    assert "(--complete: none was left out)" in "\n".join(remarks(report))
    numbered = table | {"rollout": np.arange(120)}
    assert holes(token_log(numbered), every) == 0
    gone = {key: np.delete(value, [4, 5, 6, 7]) for key, value in numbered.items()}
    assert holes(token_log(gone), every[:116]) == 4
    report, record = one(gone, held_out=True)
    no_certificate(record, "rollout ids are missing")
    assert "(--complete: none was left out)" in "\n".join(remarks(report))
    assert "4 rollout ids are missing in 1 update (0.0)" in "\n".join(remarks(report))
    hashed = table | {"rollout": np.random.default_rng(0).permutation(2**40 + 2**20 * np.arange(120))}
    assert holes(token_log(hashed), every) == 0


def test_ids_that_are_sixteen_times_as_many_say_nothing():
    """Four rollouts of which 60 ids lack between the first and the last are a sixteenth of what was; of 61 ids are hashes."""
    current = np.full((4, 1), -1.0)
    for last, missing in ((63, 60), (64, 0)):
        table = flat(current, current, group=1) | {"rollout": np.array([0, 5, 9, last])}
        assert holes(token_log(table), np.arange(4)) == missing


# ------------------------------------------------------------------------------------------------------------------ overflow


@pytest.mark.parametrize("v", [30.0, 690.0, 1000.0, 3.4e38])
@pytest.mark.parametrize("where", ["new lower", "new higher", "behaviour lower", "behaviour lower, everywhere"])
def test_exponentials_that_overflow(where, v, tmp_path):
    """No NaN, K and the weights at least the truth, no certificate above 0, no zero that is ∞ − ∞; tables and page are made."""
    c, n, *_ = language(1.0, N=32, seed=5)
    b, c, n = c.copy(), c.copy(), n.copy()
    if where == "new lower":
        n[0, 0] = -v
        kl = v / 32 - 1
    elif where == "new higher":
        b[0, 0] = c[0, 0] = -v
        n[0, 0] = 0.0
        kl = math.exp(v - math.log(32)) * (1 - 1e-9) if v < 700 else math.inf
    else:
        b[: 1 if where == "behaviour lower" else 32, 0] = -v
        kl = 0.0
    report, record = one(flat(c, n, b))
    assert record["kl_episode"]["value"] >= kl
    assert record["certificate"]["lower"] <= 0
    if where.startswith("behaviour"):
        assert record["surrogate"]["value"] != 0
        assert record["surrogate"]["low"] < record["surrogate"]["high"]
    if where == "new higher" and v >= 690:
        assert record["improvement"]["value"] != 0
        assert record["improvement"]["low"] == -math.inf
    assert "nan" not in json.dumps(json.loads(dump(record))).lower()
    assert not any("nan" in cell for _, _, body, _ in tables(report) for row in body for cell in row)
    if (where, v) == ("new higher", 1000.0):
        assert ">nan" not in write_page(report, tmp_path / "page.html", "log").read_text().lower()


def test_overflow_in_opposite_directions_is_no_zero():
    """Every rollout's weight is e^1000: the advantages of a group add up to 0, the sum of their products does not."""
    c = np.full((32, 2), -1000.0)
    reward = np.arange(32) % 2
    _, record = one(flat(c, c + 1000.0, c, reward=reward))
    for key in ("surrogate", "improvement", "surrogate_tokens"):
        assert (record[key]["value"], record[key]["low"], record[key]["high"]) == (-math.inf, -math.inf, math.inf), key
    table = flat(c, c, c - 1000.0, reward=reward) | {"logp_new": np.full(64, -999.5)}
    _, record = one(table)
    assert record["evidence"] == "reused"
    assert (record["surrogate"]["value"], record["surrogate"]["high"]) == (-math.inf, math.inf)


def test_gain_is_the_difference():
    """`w(r − 1) = wr − w`, and where that difference is ∞ − ∞ the sign and the size by logarithms."""
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-3, 3, 13), np.linspace(-2, 2, 9)))
    np.testing.assert_allclose(est.gain(x, y), np.exp(x + y) - np.exp(x), rtol=1e-12, atol=1e-15)
    assert est.gain(np.array([1000.0, 1000.0, 1000.0]), np.array([1.0, -1.0, 0.0])).tolist() == [np.inf, -np.inf, 0.0]
    assert est.gain(np.array([705.0]), np.array([-1e-6]))[0] == pytest.approx(
        -math.exp(705.0 - math.log(1e6)), rel=1e-6
    )


def test_means_of_what_is_infinite():
    inf = math.inf
    assert intervals.mean(np.array([1.0, inf]), 0.1) == (inf, -inf, inf, inf, 2)
    assert intervals.mean(np.array([1.0, -inf]), 0.1) == (-inf, -inf, inf, inf, 2)
    assert intervals.mean(np.array([-inf, inf]), 0.1) == (-inf, -inf, inf, inf, 2)
    assert intervals.ratio(np.array([1.0, inf]), np.ones(2), 0.1) == (inf, -inf, inf, inf, 2)
    assert intervals.lower_limit(intervals.mean(np.array([1.0, inf]), 0.1), 0.1) == -inf
    assert intervals.upper_limit(intervals.mean(np.array([1.0, -inf]), 0.1), 0.1) == inf
    assert est.k3(np.array([1000.0, -1000.0])).tolist() == [inf, 999.0]


# -------------------------------------------------------------------------------------------------- values that cannot be


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-np.inf, "a token that the policy cannot write: cut off by top-k or top-p"),
        (float(np.finfo(np.float64).min), "a mask or a shift by one"),
        (0.0078125, "bfloat16 rounds it up by so much: take log_softmax in float32"),
        (0.0625, "bfloat16"),
        (1.5, "found 1.5, expected a log-probability, at most 0"),
        (np.nan, "found nan, expected a finite number"),
        (np.inf, "found inf, expected a finite number"),
    ],
)
@pytest.mark.parametrize("key", ["logp_behaviour", "logp_current", "logp_new"])
def test_a_log_probability_that_cannot_be_says_why(key, value, expected):
    table = flat(*language(1.0, N=8)[:2])
    table[key] = table[key].copy()
    table[key][7] = value
    with pytest.raises(InputError, match=f"column {key}, row 8") as error:
        token_log(table)
    assert expected in str(error.value)
    assert ("bfloat16" in str(error.value)) == ("bfloat16" in expected)


def test_float32_fillers_are_numbers():
    table = flat(*language(1.0, N=8)[:2])
    table["logp_new"][7] = float(np.finfo(np.float32).min)
    assert one(table)[1]["kl_episode"]["value"] > 1e36


def test_rows_is_what_the_world_draws():
    """The helpers of this file agree with those of the enumerated worlds."""
    w = world(np.random.default_rng(5), owners=(0,), order=(0,))
    table = rows(w, 0, 0, np.arange(6), np.zeros(6, int), np.arange(6) % 3, np.arange(6) % 2)
    c, n = table["logp_current"][:, None], table["logp_new"][:, None]
    again = flat(c, n, reward=table["reward"], group=1)
    for key, value in itertools.chain(again.items()):
        np.testing.assert_array_equal(value, table[key], err_msg=key)
