"""Which rollouts were scored again: whole sets, token by token, said by `source` or found. All else is new, or set aside."""

import numpy as np
import pytest
from monitor_logs import World, joined, log_probs, rows, sampled, truth, world

from teamtr_jax.monitor import Settings, monitor, read_token_log, token_log, write_token_log
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError

PROMPTS, GROUP = 40, 4
BETWEEN = (
    "shift",
    "shift_upper",
    "shift_rung",
    "shift_booked",
    "skippable",
    "interaction",
    "drift",
    "kl_k3",
    "surrogate",
)


@pytest.fixture(scope="module")
def table():
    """Three updates, the start scored at each; it has the rollout ids 0 … 3, the others' begin at 4 and 8."""
    return sampled(world(np.random.default_rng(5)), np.random.default_rng(2), PROMPTS, GROUP)


def told(table):
    return table | {"source": np.where(table["rollout"] < GROUP, 0, table["update"])}


def lines(table, **settings):
    return [dump(r) for r in monitor(token_log(table), Settings(**settings)).records]


def kept(table, mask):
    return {key: value[mask] for key, value in table.items()}


def old(table, update):
    """The rows of the start at a later update."""
    return (table["rollout"] < GROUP) & (table["update"] == update)


def seen(table, update=2):
    """What a record says of older sets, as (source, size, same, missing, changed, extra, state)."""
    report = monitor(token_log(table))
    (record,) = (r for r in report.records if r["update"] == update)
    return report, record, [tuple(x.values()) for x in record["scored_again"]]


# ------------------------------------------------------------------------------------------------------------- said or found


def test_said_and_found_are_the_same(table):
    assert lines(table) == lines(told(table))
    _, record, found = seen(table)
    assert found == [(0, 160, 160, 0, 0, 0, "whole")]
    assert (record["source"], record["rollouts"], record["evidence"]) == (2, 160, "fresh")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_source_and_token_are_written_and_read(table, tmp_path, form):
    columns = told(table) | {"token": np.arange(table["t"].size) % 7}
    log = read_token_log(write_token_log(tmp_path / f"log.{form}", columns))
    assert log.told
    order = np.lexsort([columns[key] for key in ("t", "turn", "rollout", "prompt", "update")])
    for key, column in log.columns().items():
        np.testing.assert_array_equal(column, columns[key][order], err_msg=key)
    assert set(log.columns()) == set(columns)
    assert "source" not in token_log(table).columns()


@pytest.mark.parametrize(
    ("row", "value", "expected"),
    [
        (0, -1, "column source, row 1: found -1, expected the update at which"),
        (0, 1, "column source, row 1: found 1, expected the update at which .* from 0 to the update of this row"),
        (-1, 1, r"column source, row \d+: found 1, and 2 in row \d+, expected one for all rows of a rollout"),
    ],
)
def test_a_source_that_cannot_be(table, row, value, expected):
    columns = told(table)
    columns["source"][row] = value
    with pytest.raises(InputError, match=expected):
        token_log(columns)


def test_new_and_old_rollouts_of_one_id_at_one_update_are_refused(table):
    """Also where `source` could tell them apart: ids name a transcript."""
    columns = told(table) | {"rollout": table["rollout"] % GROUP}
    with pytest.raises(InputError, match=r"column t, row .*needs an own rollout id"):
        token_log(columns)


# ----------------------------------------------------------------------------------------------------- ids that begin again


def begins_again(w, seed, prompts, group):
    """New rollouts at every update; ids that differ, and ids that begin again."""
    rng, parts = np.random.default_rng(seed), []
    question = np.arange(prompts) % w.reward.shape[0]
    ids = np.repeat(np.arange(prompts), group), np.tile(np.arange(group), prompts)
    for update in range(len(w.order)):
        c = np.cumsum(np.exp(log_probs(w, w.tables[update]).sum(-1)), -1)[question]
        u = rng.random((prompts, group))
        index = np.array([np.searchsorted(c[b] / c[b, -1], u[b], "right") for b in range(prompts)]).ravel()
        parts.append(rows(w, update, update, ids[0], ids[1] + group * update, question[ids[0]], index))
    distinct = joined(parts)
    return distinct, distinct | {"rollout": distinct["rollout"] % group}


def sparse(seed=0):
    """Agent 0 moves on one kind of prompt in five, far; on the others nothing happens, so that whole transcripts coincide."""
    base = world(np.random.default_rng(seed), owners=(0, 1), length=1, letters=2, prompts=5, step=0.0, order=(0, 1))
    first = [np.full_like(p, 0.5) for p in base.tables[0]]
    moved = [p.copy() for p in first]
    moved[0][0, 0] = [0.95, 0.05]
    last = [moved[0], moved[1].copy()]
    last[1][1] = [0.6, 0.4]
    return World((0, 1), 1, 2, [first, moved, last], (0, 1), np.ones_like(base.reward))


@pytest.mark.parametrize(("prompts", "group", "whole"), [(500, 4, False), (60, 1, False), (4, 1, True), (1, 2, True)])
def test_ids_that_begin_again_are_new_rollouts(prompts, group, whole):
    """A uniform team with equal rewards: transcripts coincide in everything but token ids.

    Where the moved kind of prompt is left out, whole sets do. Shift, skipping and matrix are those of distinct ids.
    """
    w = sparse()
    if whole:
        w = w._replace(tables=[[p[1:] for p in x] for x in w.tables], reward=w.reward[1:])
    distinct, same = begins_again(w, 1, prompts, group)
    expected, found = (monitor(token_log(x), Settings(tolerance=0.1)) for x in (distinct, same))
    assert found.interactions == []
    for a, b in zip(expected.records, found.records, strict=True):
        assert {key: a[key] for key in BETWEEN} == {key: b[key] for key in BETWEEN}
        assert b["resampled"]
        assert b["source"] == b["update"]
    if not whole:
        p, q = (np.exp(log_probs(w, x).sum(-1)) / 5 for x in w.tables[:2])
        assert found.records[1]["shift_upper"] > 0.5 * abs(p - q).sum() > 0.08
        assert found.records[1]["skippable"] is False
    (again,) = found.records[1]["scored_again"]
    assert again["state"] == ("unclear" if whole else "part")
    assert (again["size"], again["missing"]) == (prompts * group, 0)
    assert again["same"] + again["changed"] == prompts * group
    assert found.records[0]["improvement_next"] is None  # perhaps the same rollouts
    assert any(
        ("perhaps new and the same by chance" if whole else "not used as scored again") in x for x in remarks(found)
    )
    assert lines(same | {"source": same["update"]}, tolerance=0.1)[0].count('"scored_again": []') == 1


def test_with_source_ids_may_begin_again():
    """Said to be new, they are: also the next rewards are compared."""
    distinct, same = begins_again(sparse(), 1, 60, 1)
    said = monitor(token_log(same | {"source": same["update"]})).records
    assert said[0]["improvement_next"]["value"] == 0.0
    assert [r["scored_again"] for r in said] == [[], []]
    for a, b in zip(monitor(token_log(distinct)).records, said, strict=True):
        assert {key: value for key, value in a.items() if key != "ids_missing"} == {
            key: value for key, value in b.items() if key != "ids_missing"
        }


def test_ids_of_another_stage_are_others(table):
    """The same rows as a second stage: nothing of it is a set of the first."""
    two = joined([table, table | {"stage": np.ones_like(table["stage"])}])
    first, second = (monitor(token_log(two)).records[i::3] for i in (0, 0))
    records = monitor(token_log(two)).records
    assert [r["scored_again"] for r in records[:3]] == [r["scored_again"] for r in records[3:]]
    alone = kept(table, table["update"] > 0)
    again = joined([kept(table, table["update"] == 0), alone | {"stage": np.ones_like(alone["stage"])}])
    assert monitor(token_log(again)).records[1]["scored_again"] == []
    assert first[0]["scored_again"] == second[0]["scored_again"] == []


# ------------------------------------------------------------------------------------------------------------ parts of sets


def swapped(table, mask):
    """Two tokens of every rollout trade their `logp_behaviour`: the sum stays."""
    out = table["logp_behaviour"].copy()
    at = np.flatnonzero(mask)
    out[at[::6]], out[at[1::6]] = table["logp_behaviour"][at[1::6]], table["logp_behaviour"][at[::6]]
    return table | {"logp_behaviour": out}


def moved_by(table, mask, amount):
    out = table["logp_behaviour"].copy()
    out[np.flatnonzero(mask)[::6]] += amount
    return table | {"logp_behaviour": out}


def shortened(table, mask):
    """Retokenised: a message of each has a token more."""
    at = np.flatnonzero(mask)[::6]
    more = {key: value[at] for key, value in table.items()} | {"t": np.ones(at.size, int)}
    return joined([table, more])


DAMAGE = {
    "missing": (lambda x, m: kept(x, ~m), (160, 120, 40, 0, 0)),
    "another token's log-probability": (swapped, (160, 120, 0, 40, 0)),
    "a log-probability that differs by more than match": (lambda x, m: moved_by(x, m, -2e-4), (160, 120, 0, 40, 0)),
    "a token more": (shortened, (160, 120, 0, 40, 0)),
    "another reward": (lambda x, m: x | {"reward": np.where(m, 0.5, x["reward"])}, (160, 120, 0, 40, 0)),
    "another agent": (lambda x, m: x | {"agent": np.where(m, 2 - x["agent"], x["agent"])}, (160, 120, 0, 40, 0)),
    "another turn": (lambda x, m: x | {"turn": np.where(m, x["turn"] + 1, x["turn"])}, (160, 120, 0, 40, 0)),
}


@pytest.mark.parametrize("say", [True, False])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_part_of_a_set_is_not_scored_again(table, name, say):
    """Ten prompts of the start are damaged at update 2: the matrix is of updates 0 and 1, and the numbers are told."""
    damage, (size, same, missing, changed, extra) = DAMAGE[name]
    columns = told(table) if say else table
    report, record, found = seen(damage(columns, old(columns, 2) & (columns["prompt"] < 10)))
    assert found == [(0, size, same, missing, changed, extra, "part")]
    (matrix,) = report.interactions
    assert [x is None for x in matrix.drift] == [False, False, True]
    assert record["drift"] is None
    assert record["source"] == 2
    text = next(x for x in remarks(report) if "not used as scored again" in x)
    numbers = f"{same} the same, {changed} with other tokens, {missing} missing, {extra} others."
    assert text.startswith("1 update (0.2): not used as scored again, as only whole sets are.")
    assert text.endswith(f"Of the 160 rollouts of update 0 there are at 0.2: {numbers}")
    assert record["shift_rung"] == ("S3, re-scored rollouts" if say else "none: the rollouts are in doubt")
    if say:  # what is said to be old is set aside, and the new rollouts are as if it were not there
        clean = monitor(token_log(kept(columns, ~old(columns, 2)))).records[2]
        assert {
            key: record[key] for key in ("reward", "certificate", "improvement", "evidence", "rollouts", "invalid")
        } == {key: clean[key] for key in ("reward", "certificate", "improvement", "evidence", "rollouts", "invalid")}
    else:  # all count as sampled there, and are not of the team before the update
        assert record["evidence"] == "incomplete"
        assert record["certificate"]["lower"] == -np.inf


def test_other_token_ids_are_another_transcript(table):
    columns = told(table) | {"token": np.zeros_like(table["t"])}
    assert seen(columns)[2] == [(0, 160, 160, 0, 0, 0, "whole")]
    columns["token"] = np.where(old(table, 2) & (table["prompt"] == 7) & (table["turn"] == 3), 1, 0)
    assert seen(columns)[2] == [(0, 160, 156, 0, 4, 0, "part")]


def test_log_probabilities_within_match_are_the_same(table):
    assert seen(moved_by(table, old(table, 2), -0.9e-4))[2] == [(0, 160, 160, 0, 0, 0, "whole")]


def test_rollouts_that_the_set_does_not_have(table):
    """Said to be of update 0, and not there; or of an update that the log does not have."""
    columns = told(table)
    columns["rollout"] = np.where(old(columns, 2) & (columns["rollout"] == 3), 77, columns["rollout"])
    assert seen(columns)[2] == [(0, 160, 120, 40, 0, 40, "part")]
    columns = told(table)
    assert seen(kept(columns, columns["update"] > 0))[2] == [(0, 0, 0, 0, 0, 160, "part")]
    one = kept(columns, old(columns, 2) & (columns["rollout"] == 3))
    more = joined([columns, one | {"rollout": one["rollout"] + 70}])  # the whole set, and more that is said to be of it
    assert seen(more)[2] == [(0, 160, 160, 0, 0, 40, "part")]


@pytest.mark.parametrize("say", [True, False])
def test_only_a_part_and_nothing_new_has_no_certificate(say):
    """Which rollouts are left may depend on them: estimates are shown, and no limit, no answer, no pair of rewards."""
    table = sampled(world(np.random.default_rng(5)), np.random.default_rng(2), PROMPTS, GROUP, fresh=False)
    table = told(table) if say else table
    part = kept(table, ~(old(table, 1) & (table["reward"] == 0) & (table["rollout"] == 0)))
    report = monitor(token_log(part), Settings(held_out=True))
    record = report.records[1]
    assert record["evidence"] == "incomplete"
    assert record["invalid"][0] == "rollouts scored again are not all there"
    assert record["certificate"]["lower"] == -np.inf
    assert record["certificate"]["label"] == "none: rollouts scored again are not all there"
    assert record["kl_episode_upper"] == np.inf
    assert all(rung["lower"] == -np.inf for rung in record["rungs"])
    assert (record["shift"], record["shift_upper"], record["skippable"]) == (1.0, 1.0, None)
    assert record["gap"] is record["improvement_next"] is None
    assert record["certificate_finite_sample"]["lower"] == -np.inf
    assert report.records[0]["improvement_next"] is None
    assert [x is None for x in report.interactions[0].drift] == [False, True, False]
    assert report.records[0]["certificate"]["label"] == "held-out"


# ---------------------------------------------------------------------------------------------------------- which old set


def test_a_set_that_was_never_on_policy_is_not_recognised(table):
    """Without `source`: its rollouts drawn anew would be off-policy too. With it, it is what it is said to be."""
    off = table | {"logp_behaviour": table["logp_behaviour"] - 0.01}
    assert [x[-1] for x in seen(off)[2]] == ["unclear"]
    assert [x[-1] for x in seen(told(off))[2]] == ["whole"]
    assert monitor(token_log(told(off))).interactions == []


def test_a_set_on_which_nothing_moved_is_unclear():
    """The start, scored again before anything changed it, is the same as rollouts drawn anew: at update 2 it is recognised."""
    w = world(np.random.default_rng(5))
    w = w._replace(tables=[w.tables[0], *w.tables[:-1]])  # update 0 changes nothing
    table = kept(sampled(w, np.random.default_rng(2), PROMPTS, GROUP, fresh=False), slice(None))
    records = monitor(token_log(table)).records
    assert [[x["state"] for x in r["scored_again"]] for r in records] == [[], ["unclear"], ["whole"]]
    assert records[1]["improvement_next"] is None
    assert records[0]["improvement_next"] is None
    assert records[2]["source"] == 0
    said = monitor(token_log(told(table))).records
    assert [[x["state"] for x in r["scored_again"]] for r in said] == [[], ["whole"], ["whole"]]
    assert [r["resampled"] for r in said] == [True, False, False]
    assert (said[1]["shift"], said[2]["evidence"]) == (0.0, "reused")


def test_ids_that_begin_again_and_an_old_set_after_them():
    """Update 1 has new rollouts under the ids of the start, update 2 the start again: recognised past them."""
    w = world(np.random.default_rng(5))
    table = sampled(w, np.random.default_rng(2), PROMPTS, GROUP)
    mixed = kept(table, (table["update"] == 0) | ((table["update"] == 1) ^ (table["rollout"] < GROUP)))
    mixed = kept(mixed, ~((mixed["update"] == 2) & (mixed["rollout"] >= GROUP)))
    mixed["rollout"] = mixed["rollout"] % GROUP
    report, record, found = seen(mixed)
    assert (0, 160, 160, 0, 0, 0, "whole") in found
    assert (record["source"], record["evidence"]) == (0, "reused")
    assert [x is None for x in report.interactions[0].drift] == [False, True, False]
    at_ease = Settings(tolerance=1.0)  # the rollouts in use are those of the start
    shift = monitor(token_log(mixed), at_ease).records[2]["shift"]
    assert shift == monitor(token_log(table), at_ease).records[2]["shift"] > 0.1
    assert shift == pytest.approx((truth(w).path[2] / 2) ** 0.5, rel=0.2)
