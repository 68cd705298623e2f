"""Every number of the monitor's records against plain loops over the definitions of docs/monitor.md, written apart.

Where a formula is needed it is in `monitor_oracle`. Logs are small; their rewards lie in [−1, 3].
"""

import functools
import itertools
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from monitor_oracle import FLIPS, HIGH, LOW, both, columns, expected, same, stage
from scipy.stats import norm
from scipy.stats import t as student

from teamtr_jax import intervals
from teamtr_jax.cli import main
from teamtr_jax.monitor import (
    INFORMATION,
    Settings,
    monitor,
    page,
    pool,
    run,
    token_log,
    write_token_log,
)
from teamtr_jax.monitor import estimates as est
from teamtr_jax.monitor.columns import COLUMNS
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor_settings import Watching
from teamtr_jax.records import TOKEN_LOG_COLUMNS, dump
from teamtr_jax.validation import InputError

# ------------------------------------------------------------------------------------------------------- whole records

FOUR, THREE = {2: 3, 5: 2, 7: 4, 11: 1}, {1: 3, 4: 2, 6: 2}
FRESH = {0: [0], 1: [1], 2: [2], 3: [3]}
AGAIN = {0: [0, 1, 2, 3], 1: [1, 2, 3], 2: [2, 3], 3: [3]}
TURN_BY_TURN = [[0], [1], [0], [1]]


def without(table, drop):
    return {key: value[~drop] for key, value in table.items()}


def scored_again():
    return columns(
        stage(2301, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR),
        stage(2302, [[1], [0]], {0: [0], 1: [1]}, THREE, number=1),
        stage(2303, [[0], [1]], {0: [0, 1], 1: [1]}, FOUR, number=4),
    )


def other_prompts():
    """At update 1 a prompt fewer, at update 2 as many as then but others, at update 3 those again."""
    table = columns(stage(1912, TURN_BY_TURN, FRESH, FOUR))
    table = without(table, (table["update"] > 0) & (table["prompt"] == 7))
    return table | {"prompt": np.where((table["update"] > 1) & (table["prompt"] == 5), 8, table["prompt"])}


LOGS = {
    "fresh, some scored again": scored_again,
    "reused, one agent moved twice": lambda: columns(stage(3388, [[0], [1], [0]], {0: [0, 1, 2]}, FOUR)),
    "several old sets": lambda: columns(stage(5, TURN_BY_TURN, {0: [0, 1, 2, 3], 1: [1, 2, 3], 2: [2]}, FOUR)),
    "who is updated is told": lambda: columns(
        stage(1706, [[0, 1], [0, 1], [1], [2]], AGAIN, FOUR, agents=3, told=[-1, 0, 1, 2])
    ),
    "an agent that never speaks": lambda: columns(stage(607, [[1]], {0: [0]}, FOUR, told=[2])),
    "joint, idle": lambda: columns(stage(1808, [[0, 2], [1], []], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR, agents=3)),
    "one prompt": lambda: columns(stage(9, [[0], [1]], {0: [0, 1], 1: [1]}, {4: 3})),
    "one prompt, nothing scored again": lambda: columns(stage(19, [[0], [1], [0]], {0: [0], 1: [1], 2: [2]}, {4: 3})),
    "an update without new rollouts": lambda: columns(stage(20, TURN_BY_TURN, {0: [0, 1], 2: [2], 3: [3]}, FOUR)),
    "rollouts that lag": lambda: columns(stage(2010, [[0], [1], [0], [1]], {0: [0, 1], 1: [1], 2: [2]}, FOUR, lag=1)),
    "all sets scored at every later update": lambda: columns(stage(2311, TURN_BY_TURN, AGAIN, FOUR)),
    "other prompts": other_prompts,
    "nothing scored again": lambda: columns(stage(513, TURN_BY_TURN, FRESH, FOUR)),
    "start scored at the update before": lambda: columns(
        stage(1214, TURN_BY_TURN, {0: [0, 1, 3], 1: [1], 2: [2], 3: [3]}, FOUR)
    ),
    "start not scored at one update": lambda: columns(
        stage(215, TURN_BY_TURN, {0: [0, 2, 3], 1: [1], 2: [2], 3: [3]}, FOUR)
    ),
    "a joint update not scored": lambda: columns(
        stage(3716, [[0], [1, 2], [0], [1]], {0: [0, 2, 3], 1: [1], 2: [2], 3: [3]}, FOUR, agents=3)
    ),
    "large steps": lambda: columns(stage(617, TURN_BY_TURN, FRESH, FOUR, step=1.5)),
    "idle first": lambda: columns(stage(21, [[], [0]], {0: [0, 1]}, FOUR)),
    "an engine with numbers of its own": lambda: columns(
        stage(4124, [[0], [1], [0]], {0: [0, 1], 1: [1], 2: [2]}, FOUR, engine=0.3)
    ),
    "an engine, large steps": lambda: columns(stage(4125, TURN_BY_TURN, FRESH, FOUR, step=1.2, engine=0.8)),
    "every message one token": lambda: columns(stage(3618, TURN_BY_TURN, AGAIN, FOUR, lengths=(1,))),
    "sharers in turn": lambda: columns(
        stage(44, [[0, 2], [1], [0, 2]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR, agents=3, told=[0, 1, 2])
    ),
    "sharers, nobody told": lambda: columns(
        stage(45, [[0, 2], [0, 2], [0, 1, 2]], {0: [0, 1, 2], 1: [1]}, FOUR, agents=3),
        stage(46, [[1], [0, 2]], {0: [0, 1], 1: [1]}, FOUR, agents=3, number=1),
    ),
}
SHARERS = {"sharers in turn": (0, 1, 0), "sharers, nobody told": (0, 1, 0)}
OPTIONS = (
    dict(alpha=0.2, delta=0.03, tolerance=0.0),
    dict(alpha=0.1, delta=0.08, tolerance=1.0, held_out=True),
    dict(alpha=0.2, delta=0.05, tolerance=0.45),
)


@functools.cache
def compared(name):
    """A log under every setting: the records, and what they are by hand."""
    table = LOGS[name]()
    return [both(table, **options, sharers=SHARERS.get(name)) for options in OPTIONS]


def test_every_column_is_computed_by_hand():
    """Those that are not are drawn, or say what is wrong with a log: tests of their own."""
    elsewhere = {*FLIPS, "ids_missing", "scored_again"}
    keys = {key for table in map(compared, LOGS) for _, wanted in table for record in wanted for key in record}
    assert {column.key for column in COLUMNS} - elsewhere == keys, "tests/monitor_oracle.py"


@pytest.mark.parametrize("name", LOGS)
def test_every_number_of_every_record(name):
    for i, (found, wanted) in enumerate(compared(name)):
        same(found, wanted, f"{name}, setting {i}")


def test_the_logs_show_every_case():
    """What the comparison above is worth: every answer, rung and label occurs in it, and weights that are large."""
    runs = [found for name in LOGS for found, _ in compared(name)]
    records = [r for found in runs for r in found]

    def seen(pick):
        return {json.dumps(pick(r)) for r in records}

    for key in ("outside", "paired", "skippable"):
        assert seen(lambda r, key=key: r[key]) == {"null", "true", "false"}
    for key in (
        "gap",
        "improvement",
        "improvement_next",
        "interaction",
        "drift",
        "weights_behaviour",
        "shift",
        "kl_k1",
        "improvement_deployed",
    ):
        assert {r[key] is None for r in records} == {True, False}
    assert seen(lambda r: r["kind"]) == {'"single"', '"sharers"', '"joint"', '"nothing changed"'}
    assert seen(lambda r: r["evidence"]) == {'"fresh"', '"reused"'}
    assert {r["shift_rung"] for r in records} == {
        None, "S3, re-scored rollouts", "S2, summed over updates", "none: no re-scored rollouts"
    }  # fmt: skip
    assert {r["certificate"]["rung"] for r in records} == {
        "S7, message ratios", "S7, token ratios", "S9, value-weighted", "S7c, reused rollouts", "S7c, reused, agent moved twice",
        "S9, mismatch",
    }  # fmt: skip
    assert any(r["changed_besides"] for r in records)
    assert any(r["weights_update"]["above_ten"] > 0 for r in records)
    for estimator in ("path", "mismatch"):
        mine = [r["certificate_finite_sample"] for r in records]
        assert any(x["lower"] > -4 for x in mine if x["estimator"] == estimator)
    assert any(r["shift"] is not None and 0 < r["shift"] < r["shift_upper"] < 1 for r in records)
    bases = {(r["update"], w["update"]) for found in runs for r, w in itertools.pairwise(found) if w["skippable"]}
    assert {(0, 1), (1, 2), (2, 3)} <= bases


def test_every_key_of_a_record_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "monitor.md").read_text(encoding="utf-8")
    records = [r for name in ("fresh, some scored again", "rollouts that lag") for r in compared(name)[0][0]]
    missing = {key for r in records for key in r if f"`{key}`" not in text}
    assert missing == set()
    assert {"mean_weight_high", "ids_missing", "shift_booked"} <= set(records[0])


def test_an_entry_is_clear_at_alpha_over_the_number_of_entries():
    """Nine entries: some exclude 0 at α only, some at α/9 too, from above and from below."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2]}, dict.fromkeys((0, 1, 3, 4, 8, 9), 4), step=0.8, turns=4))
    found, wanted = both(table, alpha=0.6)
    same(found, wanted)
    entries = [entry for r in wanted for entry in r["interaction"]]
    clear = [e["entry"]["value"] > 0 for e in entries if e["clear"]]
    assert set(clear) == {True, False}
    assert len(clear) < sum(not e["entry"]["low"] <= 0 <= e["entry"]["high"] for e in entries)


def test_order_of_rows_and_the_column_source_change_nothing():
    """Where whole sets were scored again they are recognised without being told."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR))
    found, wanted = both(table, alpha=0.2)
    same(found, wanted)
    order = np.random.default_rng(9).permutation(table["t"].size)
    again = {key: value[order] for key, value in table.items() if key != "source"}
    same(
        monitor(token_log(again), Settings(alpha=0.2, reward_range=(LOW, HIGH), complete=True, draws=1)).records,
        wanted,
    )


# ----------------------------------------------------------------------------------------------------------- at equality


def by_hand(messages, reward=(0.0, 1.0, 0.0, 1.0), update=0):
    """One rollout for each prompt; messages: by prompt, (agent, [(behaviour, current, new), …]) of every message."""
    out = {key: [] for key in (*TOKEN_LOG_COLUMNS, "source")}
    for prompt, spoken in enumerate(messages):
        for turn, (agent, tokens) in enumerate(spoken):
            for t, (b, c, n) in enumerate(tokens):
                values = (prompt, 0, 0, update, agent, turn, t, b, c, n, reward[prompt], update)
                for key, value in zip(out, values, strict=True):
                    out[key].append(value)
    return {key: np.array(value) for key, value in out.items()}


def test_the_threshold_is_not_exceeded_at_equality():
    """k1 of the messages: ¾, −¼, ¾, −¼; their mean is ¼ exactly."""
    table = by_hand([[(0, [(-1.0, -1.0, new)])] for new in (-1.75, -0.75, -1.75, -0.75)])
    for delta, outside in ((0.25, False), (np.nextafter(0.25, 0), True), (np.nextafter(0.25, 1), False)):
        (record,) = monitor(token_log(table), Settings(delta=float(delta))).records
        assert record["kl_k1"]["value"] == 0.25
        assert record["outside"] is outside
        assert record["delta"] == delta


def test_the_same_policy_at_equality():
    """|current − behaviour| = ⅛ a token, of both signs: on-policy at `match` = ⅛, and not below it."""
    table = by_hand([[(0, [(-1.0, -1.0 + x, -1.5 + x), (-1.0, -1.0, -0.75)])] for x in (0.125, -0.125, 0.0, 0.125)])
    for match, evidence in ((0.125, "fresh"), (float(np.nextafter(0.125, 0)), "reused")):
        (record,) = monitor(token_log(table), Settings(match=match)).records
        assert (record["evidence"], record["off_policy"]) == (evidence, 0.125)
        assert (record["gap"] is None) == (evidence == "reused")
        assert (record["weights_behaviour"] is None) == (evidence == "fresh")


@pytest.mark.parametrize(
    ("own", "twice"),
    [
        ((0.125, 0.125), False),  # ¼ = match times two tokens
        ((0.125, 0.0625), False),  # more than match, less than twice that
        ((0.125, 0.1875), True),
        ((-0.125, -0.1875), True),
    ],
)
def test_an_agent_has_moved_by_more_than_match_a_token(own, twice):
    """On rollouts that are old because of agent 1, agent 0 is updated."""
    spoken = [(0, [(-1.0, -1.0 + x, -0.875 + x) for x in own]), (1, [(-1.0, -1.5, -1.5)])]
    other = [(0, [(-1.0, -1.0, -1.125)]), (1, [(-1.0, -0.75, -0.75)])]
    (record,) = monitor(token_log(by_hand([spoken, other, spoken, other])), Settings(match=0.125)).records
    assert record["evidence"] == "reused"
    assert [rung["name"] for rung in record["rungs"]] == [
        "reused, agent moved twice" if twice else "reused rollouts", "mismatch"
    ]  # fmt: skip


def test_an_update_that_is_not_in_the_log_moved_the_team_nobody_knows_how_far():
    """Only rollouts of the start that were scored again after it measure it: the number of the whole log."""
    options = Settings(reward_range=(LOW, 3.0), tolerance=1.0, complete=True, draws=1)

    def records(sets, *gone):
        table = columns(stage(5, TURN_BY_TURN, sets, FOUR))
        return monitor(token_log(without(table, np.isin(table["update"], gone))), options).records

    whole, (first, third, last) = records(FRESH), records(FRESH, 1)
    assert (first["improvement_next"], whole[0]["improvement_next"] is None) == (None, False)
    assert third["improvement_next"] == whole[2]["improvement_next"]
    assert (third["shift"], third["shift_upper"], third["skippable"]) == (1.0, 1.0, None)
    assert (third["shift_rung"], third["shift_booked"]) == ("none: update 1 is not in the log", None)
    assert last["shift_rung"].startswith("S3")  # since update 2, whose rollouts are in use
    assert last["shift_booked"] > 0
    assert records(FRESH, 1, 2)[1]["shift_rung"] == "none: updates 1 to 2 are not in the log"
    for i, (found, wanted) in enumerate(zip(records(AGAIN, 1)[1:], records(AGAIN)[2:], strict=True)):
        assert (found["shift"], found["shift_rung"]) == (wanted["shift"], "S3, re-scored rollouts"), i
        assert (found["skippable"], found["shift_booked"]) == (True, None)


def test_a_resampling_at_the_tolerance_could_be_skipped():
    table = columns(stage(513, TURN_BY_TURN, FRESH, FOUR))
    upper = monitor(token_log(table), Settings(reward_range=(LOW, HIGH), complete=True, draws=1)).records[1][
        "shift_upper"
    ]
    for tolerance, answer in ((upper, True), (float(np.nextafter(upper, 0)), False)):
        records = monitor(
            token_log(table), Settings(reward_range=(LOW, HIGH), complete=True, draws=1, tolerance=tolerance)
        ).records
        assert records[1]["skippable"] is answer
        assert records[2]["shift_rung"].startswith("S2" if answer else "S3")  # the base is update 0 or update 1


def test_rewards_at_the_ends_of_the_range_are_in_it():
    table = by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4, reward=(-2.0, 5.0, 0.0, 1.0))
    assert monitor(token_log(table), Settings(reward_range=(-2.0, 5.0))).records[0]["reward"]["value"] == 1.0
    for low, high, bad in ((-1.5, 5.0, -2.0), (-2.0, 4.5, 5.0), (-1.5, 4.5, -2.0)):
        with pytest.raises(InputError, match="--reward-range") as error:
            monitor(token_log(table), Settings(reward_range=(low, high)))
        assert error.value.name == "column reward"
        assert error.value.found == str(bad)
        assert f"[{low:g}, {high:g}]" in error.value.expected


def test_a_report_says_what_it_is_of():
    table = columns(stage(9, [[0], [1]], {0: [0, 1], 1: [1]}, {4: 3}))
    settings = Settings(reward_range=(LOW, HIGH), complete=True)
    report = monitor(token_log(table), settings)
    assert report.rows == table["t"].size
    assert report.settings is settings
    assert len(report.interactions) == 1
    unit = by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4)
    assert monitor(token_log(unit)).settings == Settings()


# ---------------------------------------------------------------------------------------------------------------- flips


def flip_share(values, messages, threshold, share):
    """Over all sub-samples of that many tokens: how many decide otherwise."""
    n = len(values)
    whole = sum(values) / messages > threshold
    subsets = list(itertools.combinations(values, max(1, round(n * share))))
    return sum((sum(x) / len(x) * n / messages > threshold) != whole for x in subsets) / len(subsets)


SIGMAS = norm.isf(1e-6 / 2)
"""A false alarm of 1e-6 for each share of flips."""


@pytest.mark.parametrize(
    ("values", "messages", "threshold"),
    [
        ([0.0, 1.0] * 4, 8, 0.5),  # sub-samples at equality with the threshold
        ([0.0, 1.0] * 4, 8, 0.4),
        ([0.0, 1.0] * 4, 4, 0.9),
        ([0.0, 1.0, 2.0, 4.0, -1.0], 3, 1.75),
        ([0.0, 1.0, 2.0, 4.0, -1.0, 3.0, 0.5, 0.25, 0.0, -0.5], 5, 1.5),
        ([0.0, 1.0, 2.0], 2, 1.0),
        ([0.0, 3.0], 2, 1.0),
        ([2.0], 1, 1.0),
    ],
)
def test_flips_against_all_sub_samples(values, messages, threshold):
    draws = 4000
    found = est.flips(np.array(values), messages, threshold, (0.25, 0.5), draws, np.random.default_rng(3))
    for share, x in zip((0.25, 0.5), found, strict=True):
        p = flip_share(values, messages, threshold, share)
        assert abs(x - p) <= SIGMAS * math.sqrt(p * (1 - p) / draws)


def test_flips_of_many_tokens():
    """More tokens than blocks: a block's mean is over its own tokens, and tokens are dealt to blocks at random."""
    rng = np.random.default_rng(0)
    for threshold in (2 - 1e-6, 2 + 1e-6):  # of a constant, 1500 tokens in 750 messages
        assert est.flips(np.ones(1500), 750, threshold, (0.25, 0.5), 50, rng) == [0.0, 0.0]
    halves = np.repeat([0.0, 2.0], 1024)
    assert all(0.4 < x < 0.6 for x in est.flips(halves, 2048, 0.999, (0.25, 0.5), 2000, rng))  # near ½: Hypergeometric


def test_flips_in_the_record_are_of_its_tokens():
    draws, table = 4000, columns(stage(2, [[0]], {0: [0]}, {0: 1, 3: 2, 4: 1}, step=0.6, turns=3))
    own = table["agent"] == 0
    values = (table["logp_current"] - table["logp_new"])[own].tolist()
    messages = len(set(zip(*(table[key][own].tolist() for key in ("prompt", "rollout", "turn")), strict=True)))
    assert 2 < messages < len(values) < 16
    delta = 0.5 * sum(values) / messages
    (record,) = monitor(
        token_log(table), Settings(delta=delta, draws=draws, reward_range=(LOW, HIGH), complete=True)
    ).records
    for key, share in zip(FLIPS, (0.25, 0.5), strict=True):
        p = flip_share(values, messages, delta, share)
        assert 0.02 < p < 0.98
        assert abs(record[key] - p) <= SIGMAS * math.sqrt(p * (1 - p) / draws)
    assert abs(flip_share(values, messages, delta, 0.25) - flip_share(values, messages, delta, 0.5)) > 0.05

    def drawn(**options):
        (r,) = monitor(
            token_log(table), Settings(delta=delta, reward_range=(LOW, HIGH), complete=True, **options)
        ).records
        return [r[key] for key in FLIPS]

    assert drawn(draws=50, seed=1) == drawn(draws=50, seed=1)
    assert len({tuple(drawn(draws=50, seed=seed)) for seed in range(4)}) > 1
    assert all(8 * x == round(8 * x) for seed in range(4) for x in drawn(draws=8, seed=seed))
    assert all(x in (0.0, 1.0) for x in drawn(draws=1))


# ------------------------------------------------------------------------------------------------------ small estimates


def test_quantiles_of_intervals_and_limits():
    """Values 1, 2, 6: mean 3, s² = 7; t with 2 degrees of freedom, two-sided at α and one-sided at α (tables of Student's t)."""
    found = intervals.mean(np.array([1.0, 2.0, 6.0]), 0.1)
    error = math.sqrt(7 / 3)
    assert found.value == 3.0
    assert found.n == 3
    assert found.error == pytest.approx(error, rel=1e-12)
    assert found.low == pytest.approx(3 - 2.919985580 * error, rel=1e-8)
    assert found.high == pytest.approx(3 + 2.919985580 * error, rel=1e-8)
    assert intervals.lower_limit(found, 0.1) == pytest.approx(3 - 1.885618083 * error, rel=1e-8)
    assert intervals.upper_limit(found, 0.1) == pytest.approx(3 + 1.885618083 * error, rel=1e-8)
    assert est.plain(found) == {"value": found.value, "low": found.low, "high": found.high, "n": 3}
    assert est.plain(None) is None


def test_one_value_has_the_whole_line():
    one = np.array([2.0])
    for found, value in ((intervals.mean(one, 0.1), 2.0), (intervals.ratio(one, np.array([4.0]), 0.1), 0.5)):
        assert found == (value, -np.inf, np.inf, np.inf, 1)
        assert intervals.lower_limit(found, 0.1) == -np.inf
        assert intervals.upper_limit(found, 0.1) == np.inf
    assert intervals.two_means(np.array([1.0, 3.0]), one, 0.1) == (0.0, -np.inf, np.inf, np.inf, 1)
    assert intervals.two_means(one, np.array([1.0, 4.0]), 0.1) == (-0.5, -np.inf, np.inf, np.inf, 1)


def test_two_values_have_one_degree_of_freedom():
    """Values 0 and 2: mean 1, error 1, t₁ at 0.95 is 6.3138."""
    for found in (intervals.mean(np.array([0.0, 2.0]), 0.1), intervals.ratio(np.array([0.0, 2.0]), np.ones(2), 0.1)):
        assert found.high == pytest.approx(1 + 6.313751515, rel=1e-8)
        assert found.error == pytest.approx(1.0)
        assert intervals.lower_limit(found, 0.1) == pytest.approx(1 - 3.077683537, rel=1e-8)


def test_welch_by_hand():
    """Variances 2 and 8 over 2 and 4 values: 1 + 2; degrees of freedom 9/(1/1 + 4/3) = 27/7."""
    new, old = np.array([1.0, 3.0]), np.array([0.0, 8**0.5 * 1.5**0.5, 0.0, 8**0.5 * 1.5**0.5])
    found = intervals.two_means(new, old, 0.2)
    value = 2 - math.sqrt(12) / 2
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(math.sqrt(1 + old.var(ddof=1) / 4))
    parts = 1.0, old.var(ddof=1) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 3)
    assert found.high - value == pytest.approx(student.ppf(0.9, freedom) * found.error)
    assert found.n == 2
    assert intervals.two_means(np.ones(2), np.zeros(3), 0.2) == (1.0, 1.0, 1.0, 0.0, 2)


def test_weights_by_hand():
    """Weights 1, 2, 3, 14: Σ = 20, Σ² = 210; percentiles between the third and the fourth."""
    found = est.weights(np.log([1.0, 2.0, 3.0, 14.0]))
    np.testing.assert_allclose(found, [400 / 840, 3 + 0.85 * 11, 3 + 0.97 * 11, 14.0, 0.25, 4], rtol=1e-12)
    assert est.weights(np.log([9.99, 10.01])).above_ten == 0.5
    assert est.weights(np.array([-400.0, -400.0])).ess == pytest.approx(1.0)  # whose squares are 0 in floating point
    assert est.weights(np.array([-800.0, -800.0])) == (0.0, 0.0, 0.0, 0.0, 0.0, 2)  # underflow: no weight, no NaN
    huge = est.weights(np.array([0.0, 5000.0]))
    assert huge.largest == math.exp(700.0)
    assert huge.ess == pytest.approx(0.5)


def test_exponentials_are_cut_at_700():
    x = np.array([-3.0, 0.0, 1.0, 699.0, 701.0, 1e6])
    cut = [math.exp(min(v, 700.0)) for v in x]
    np.testing.assert_allclose(est.grow(x), cut, rtol=1e-15)
    np.testing.assert_allclose(est.growth(x), [v - 1 for v in cut], rtol=1e-15)
    assert est.growth(np.array([1e-12]))[0] == pytest.approx(1e-12, rel=1e-9)
    np.testing.assert_allclose(est.k3(x[:3]), [math.exp(-3) + 2, 0.0, math.e - 2], rtol=1e-14)


def test_normalised_advantages_by_hand():
    """Rewards 0, 2 and 1, 1, 4: μ = 1, σ² = 1 and μ = 2, σ² = 2."""
    reward, cluster = np.array([0.0, 2.0, 1.0, 1.0, 4.0]), np.array([0, 0, 1, 1, 1])
    wanted = [-1.0, 1.0, -(0.5**0.5), -(0.5**0.5), 2**0.5]
    np.testing.assert_allclose(est.normalised(reward, cluster, 2, epsilon=0.0), wanted, rtol=1e-12)
    np.testing.assert_allclose(est.normalised(reward, cluster, 2, epsilon=3.0)[:2], [-0.5, 0.5])
    assert est.normalised(np.array([1e-4, 0.0]), np.zeros(2, int), 1)[0] == pytest.approx(0.5e-4 / math.sqrt(1.25e-8))


# ------------------------------------------------------------------------------------------------- the mean over stages


def test_the_pooled_matrix_by_hand():
    """Two stages of agents 3 and 5 in either order, and one with a joint update, whose pairs are left out."""

    def x(value, error, n):
        return intervals.interval(value, error, n, 0.3)

    first = Interaction(0, [0, 1], [[3], [5]], [[x(1.0, 0.3, 9), x(2.0, 0.4, 9)], [None, x(-4.0, 0.5, 9)]],
                        [None, None], [[False] * 2] * 2)  # fmt: skip
    second = Interaction(1, [0, 1], [[5], [3]], [[x(6.0, 1.2, 4), x(8.0, 1.0, 4)], [x(5.0, 0.3, 4), x(3.0, 0.4, 4)]],
                         [None, None], [[False] * 2] * 2)  # fmt: skip
    joint = Interaction(2, [0, 1], [[3, 5], [3]], [[x(50.0, 1.0, 2)] * 2, [x(60.0, 1.0, 2), x(11.0, 0.0, 12)]],
                        [None, None], [[False] * 2] * 2)  # fmt: skip
    pooled = pool([first, second, joint], 0.1)
    assert pooled.agents == [3, 5]
    assert pooled.stages == 3
    wanted = [
        [(15 / 3, 0.5 / 3, 4), ((2 + 5) / 2, 0.5 / 2, 4)],
        [(8.0, 1.0, 4), ((-4 + 6) / 2, 1.3 / 2, 4)],
    ]
    for row, wanted_row in zip(pooled.entries, wanted, strict=True):
        for found, (value, error, n) in zip(row, wanted_row, strict=True):
            assert found.value == pytest.approx(value)
            assert found.error == pytest.approx(error)
            assert found.n == n
            assert found.high - value == pytest.approx(student.ppf(0.95, n - 1) * error)
    alone = pool([first], 0.1)
    assert alone.entries[1][0] is None
    assert alone.stages == 1
    assert pool([], 0.1) == ([], 0, [])


# -------------------------------------------------------------------------------------------- settings, levels, command


def test_defaults_are_those_of_the_documentation():
    s = Settings()
    assert (s.delta, s.alpha, s.tolerance, s.reward_range) == (0.01, 0.1, 0.1, (0.0, 1.0))
    assert (s.held_out, s.match, s.draws, s.seed) == (False, 1e-4, 100, 0)
    assert (s.complete, s.sharers) == (False, None)
    w = Watching()
    assert (w.follow, w.refresh, w.until_idle, w.settle, w.fail_above, w.fail_below) == (False, 2.0, None, 30.0, (), ())


def test_limits_of_watching():
    for name, good, bad in (("refresh", 1e-9, 0.0), ("settle", 0.0, -1e-9), ("until_idle", 0.0, -1e-9)):
        Watching(follow=True, **{name: good}).check()
        for value in (bad, math.nan, math.inf):
            with pytest.raises(InputError) as error:
                Watching(follow=True, **{name: value}).check()
            assert error.value.name == f"--{name.replace('_', '-')}"


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("delta", (1e-9, 5.0), (0.0, -1.0, INF, NAN)),
        ("alpha", (1e-9, 0.999), (0.0, 1.0, -0.1, 1.1, NAN)),
        ("tolerance", (0.0, 1.0), (-1e-9, 1.001, NAN)),
        ("reward_range", ((-1.0, -0.5), (0.0, 9.0)), ((0.0, 0.0), (1.0, 0.0), (-INF, 0.0), (0.0, INF), (NAN, 1.0))),
        ("match", (0.0, 2.0), (-1e-9, INF, NAN)),
        ("draws", (1, 10_000), (0, -1, 10_001)),
    ],
)
def test_limits_of_the_settings(name, good, bad):
    for value in good:
        Settings(**{name: value}).check()
    for value in bad:
        with pytest.raises(InputError) as error:
            Settings(**{name: value}).check()
        assert error.value.name == f"--{name.replace('_', '-')}"
        with pytest.raises(InputError):
            monitor(token_log(by_hand([[(0, [(-1.0, -1.0, -1.5)])]] * 4)), Settings(**{name: value}))


def test_information_levels():
    """Nothing is an oracle's; what uses a declared range says that it is declared."""
    assert INFORMATION.keys() >= {
        "reward", "kl_k1", "kl_k3", "kl_episode", "surrogate", "improvement", "gap", "shift", "interaction"
    }  # fmt: skip
    for key, (level, meaning) in INFORMATION.items():
        assert level.split(",")[0].split(" (")[0].split(";")[0] == "estimable"
        assert ("declared (prior)" in level) == key.startswith("certificate")
        assert meaning


@pytest.fixture
def teamtr(monkeypatch, capsys):
    """The command line: exit code, stdout, stderr."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # `main` sets its own

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["teamtr", "monitor", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call


def test_every_option_of_the_command_is_used(tmp_path, teamtr):
    """Under settings that each change a number: the lines are the records of Python, and they are right."""
    table = columns(stage(4, [[0], [1], [0]], {0: [0, 1, 2], 1: [1], 2: [2]}, FOUR))
    path = write_token_log(tmp_path / "log.jsonl", table)
    settings = Settings(0.07, 0.25, 0.5, (-2.0, 4.0), True, 1e-6, 30, 5, True)
    code, out, err = teamtr(path, "--delta", 0.07, "--alpha", 0.25, "--tolerance", 0.5, "--reward-range", -2, 4, "--held-out",
                            "--match", 1e-6, "--draws", 30, "--seed", 5, "--complete", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    records = monitor(token_log(table), settings).records
    assert out.splitlines() == [dump(r) for r in records]
    same(records, expected(table, settings))
    code, out, err = teamtr(path, "--reward-range", -1, 3)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: {table['t'].size} tokens, 3 updates")


def test_exit_code_of_bad_input(tmp_path, teamtr):
    """2, one line on stderr that names it, nothing printed, no page: of a setting, a folder, a file and a reward."""
    table = columns(stage(4, [[0]], {0: [0]}, FOUR))
    path = write_token_log(tmp_path / "log.jsonl", table)
    out_page = tmp_path / "page.html"
    for args, name in (
        ((path, "--alpha", 1.5, "--html", out_page), "--alpha"),
        ((tmp_path / "none.jsonl", "--html", out_page), "none.jsonl"),
        ((path, "--html", out_page), "column reward"),  # the range is [0, 1] by default
        ((path, "--reward-range", -1, 3, "--html", tmp_path / "no" / "page.html"), "--html"),
    ):
        code, out, err = teamtr(*args)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("teamtr: error: ")
        assert name in err
        assert not out_page.exists()


def test_settings_are_checked_before_the_file_is_read(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="--alpha"):
        run(tmp_path / "none.jsonl", Settings(alpha=2.0))
    with pytest.raises(InputError, match="--html"):
        run(tmp_path / "none.jsonl", Settings(), html=tmp_path / "no" / "page.html")


def test_match_is_used_in_reading(tmp_path, capsys):
    """Rollouts of update 0 scored again with `logp_behaviour` off by 0.01 a token are those only if `--match` says so."""
    pytest.importorskip("pyarrow")
    table = columns(stage(4, [[0], [1]], {0: [0, 1]}, FOUR))
    noisy = table | {"logp_behaviour": table["logp_behaviour"] - 0.01 * (table["update"] == 1)}
    noisy = {key: value for key, value in noisy.items() if key != "source"}
    path = write_token_log(tmp_path / "log.parquet", noisy)
    for match, resampled in ((1e-4, True), (0.1, False)):
        assert run(path, Settings(match=match, reward_range=(LOW, HIGH), complete=True), json=True) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [r["resampled"] for r in records] == [True, resampled]


def test_the_command_writes_tables_or_lines_and_a_page(tmp_path, capsys, monkeypatch):
    """Figures are left out here: test_monitor_tables.py has them."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(page, "svg", lambda *_: "<svg/>")
    table = columns(stage(4, [[0], [1]], {0: [0], 1: [1]}, FOUR))
    path = write_token_log(tmp_path / "log.parquet", table)
    settings = Settings(reward_range=(LOW, HIGH), complete=True)
    assert run(path, settings) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: {table['t'].size} tokens, 2 updates")
    assert '"schema"' not in text
    out = tmp_path / "page.html"
    assert run(path, settings, json=True, html=out) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    same(records, json.loads(json.dumps(expected(table, settings))))
    assert str(path) in out.read_text()
