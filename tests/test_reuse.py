"""May these rollouts be used for the next agent: the books against those of the driver, every number by hand, without jax."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monitor_logs import log_probs, rows, truth, world

from teamtr_jax.integrations import Reuse
from teamtr_jax.monitor import Settings, monitor, token_log
from teamtr_jax.schedules import certificate_driven
from teamtr_jax.sharing import Sharing, apart
from teamtr_jax.stage import _InUse
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError

ROOT = Path(__file__).parents[1]
ADDED, SCORED, SUMMED = "S3, added over agents", "S3, re-scored rollouts", "S2, summed over updates"


def reuse(**settings):
    return Reuse(**{"tolerance": 0.2, "alpha": 0.1, "updates": 3} | settings)


def drawn(**settings):
    found = reuse(**settings)
    found.resampled()
    return found


# --------------------------------------------------------------------------------------------------------------- the books


def test_different_agents_add_up_under_the_root():
    r = drawn()
    assert r.may_reuse(0) == (True, 0.0, ADDED, "the team has moved by up to 0 ≤ tolerance 0.2, in total variation")
    r.book(0, 0.02)
    r.book(2, 0.03)
    yes, shift, rung, _ = r.may_reuse(1)
    assert (yes, rung) == (True, ADDED)
    np.testing.assert_allclose(shift, math.sqrt(0.05 / 2), rtol=1e-12)
    r.book(1, 0.04)
    no = r.may_reuse(3)
    assert not no
    np.testing.assert_allclose(no.shift, math.sqrt(0.09 / 2), rtol=1e-12)
    assert no.reason == "the team has moved by up to 0.212 > tolerance 0.2, in total variation"
    r.resampled()
    assert r.may_reuse(3).shift == 0.0


def test_own_rollouts_add_up_as_they_are():
    """S2: also of an agent that moves twice, and after updates on the rollouts in use."""
    r = drawn(tolerance=1.0)
    r.book(0, 0.02)
    r.book(1, 0.02)
    r.book(0, 0.08, rollouts="own")
    r.book(0, 0.005, rollouts="own")
    _, shift, rung, _ = r.may_reuse(2)
    np.testing.assert_allclose(shift, math.sqrt(0.04 / 2) + math.sqrt(0.08 / 2) + 0.05, rtol=1e-12)
    assert rung == SUMMED
    with pytest.raises(InputError, match="rollouts: found in use, after own"):
        r.book(2, 0.01)


def test_the_tolerance_itself_will_do():
    r = drawn(tolerance=0.1)
    r.book(0, 0.02)
    assert r.may_reuse(1).shift == 0.1
    assert r.may_reuse(1)


def test_twice_moved_is_not_bounded():
    r = drawn(tolerance=1.0)
    r.book(0, 1e-6)
    asked = r.may_reuse(0)
    assert not asked
    assert "agent 0 has moved since" in asked.reason
    r.book(0, 1e-6)
    assert r.may_reuse(1) == (
        False,
        1.0,
        "none",
        "an agent moved twice, or its K has no limit: these do not add up",
    )


def test_a_sharer_moves_all():
    r = drawn(tolerance=1.0, sharers=(0, 0, 1))
    r.book(0, 1e-6)
    assert not r.may_reuse(1)
    assert r.may_reuse(2)
    r.book(1, 1e-6)
    assert r.may_reuse(2).shift == 1.0


@pytest.mark.parametrize("sharing", [apart(3), Sharing((0, 1, 0))])
def test_as_the_schedule_books_it(sharing):
    """Random orders with repeats: where `certificate_driven` asks for rollouts after the driver's own books, `Reuse` does too."""
    rng = np.random.default_rng(0)
    asked = 0
    for _ in range(30):
        tolerance = rng.choice([0.05, 0.15, 0.3])
        schedule = certificate_driven(tolerance, None)
        use = _InUse(None, np.array(0), np.zeros(3, bool), np.zeros(()))
        r = drawn(tolerance=tolerance, sharers=sharing.sharers)
        for update in range(5):
            agent, kl = int(rng.integers(3)), float(rng.choice([0.0, 0.004, 0.03]))
            use = use.moved_on(sharing.moves[agent], kl)
            r.book(agent, kl)
            record = UpdateRecord(0, update, agent, False, 0.0, kl, path_kl=float(use.path_kl))
            still = [k for k in range(3) if not use.moved[k]]  # an agent that moved is refused before it moves twice
            if still:
                assert (not r.may_reuse(still[0])) == bool(schedule.resample(update + 1, [record]))
                asked += 1
            assert bool(schedule.resample(update + 1, [record])) == (
                r.may_reuse(still[0] if still else 0).shift > tolerance
            )
    assert asked > 50


# -------------------------------------------------------------------------------------------------------------------- rows


def scored(w, update, n=400, seed=0, prompts=100):
    """Rollouts of the first team, scored at an update."""
    rng = np.random.default_rng(seed)
    q, size = rng.integers(0, w.reward.shape[0], n), w.reward.shape[1]
    p = np.exp(log_probs(w, w.tables[0]).sum(-1))
    index = np.array([rng.choice(size, p=p[i] / p[i].sum()) for i in q])
    return rows(w, 0, update, np.arange(n) // (n // prompts), np.arange(n), q, index)


def test_rows_measure_the_path():
    """K(rollouts‖now) of all agents by k3, its limit at α over the updates: an agent that moved twice is measured too."""
    w = world(np.random.default_rng(5), order=(0, 1, 2), step=0.15)
    table = scored(w, 1)  # after the updates of agents 0 and 1
    r = drawn(tolerance=0.5, updates=4)
    r.book(0, scored(w, 0))
    r.book(1, table)
    d = table["logp_new"] - table["logp_behaviour"]
    k = np.bincount(table["prompt"], np.expm1(d) - d) / 4
    t = 1.9842169515086827  # of 99 degrees of freedom at 1 − 0.1/4
    expected = math.sqrt((k.mean() + t * k.std(ddof=1) / 10) / 2)
    yes, shift, rung, _ = r.may_reuse(0)
    np.testing.assert_allclose(shift, expected, rtol=1e-9)
    assert (yes, rung) == (True, SCORED)
    assert shift > math.sqrt(truth(w).path[2] / 2)  # with this seed; in 97.5 % of them
    r.book(2, 0.01)  # and a number goes on from there
    np.testing.assert_allclose(r.may_reuse(0).shift, math.sqrt(expected**2 + 0.005), rtol=1e-9)
    r.book(0, 0.01)
    assert r.may_reuse(0).shift == 1.0


def test_rows_are_those_of_the_monitor():
    """`shift_upper` of a log in which the start is scored again is what `Reuse` says, at the same level."""
    w = world(np.random.default_rng(6), order=(0, 1, 2))
    parts = [scored(w, u) for u in range(3)]
    log = token_log(
        {key: np.concatenate([p[key] for p in parts]) for key in parts[0]} | {"source": np.zeros(3 * 2400, int)}
    )
    records = monitor(log, Settings(complete=True)).records
    r = drawn(updates=3)
    for agent, part, record in zip(range(2), parts, records[1:], strict=False):
        r.book(agent, part)
        np.testing.assert_allclose(r.may_reuse(2).shift, record["shift_upper"], rtol=1e-9)


def test_rows_in_doubt_bound_nothing():
    w = world(np.random.default_rng(6))
    table = scored(w, 0)
    table["logp_behaviour"] = table["logp_behaviour"] - 1.0  # not what they were drawn from
    r = drawn(tolerance=1.0)
    r.book(0, table)
    found = r.may_reuse(1)
    assert found == (False, 1.0, "none", "the rollouts are in doubt: the log contradicts itself")
    r.book(1, 0.01)  # a number that is added takes no doubt away
    assert r.may_reuse(2) == found


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reuse(tolerance=-1.0), "tolerance: found -1.0"),
        (lambda: reuse(alpha=1.0), "alpha: found 1.0"),
        (lambda: reuse(updates=0), "updates: found 0"),
        (lambda: reuse(sharers=(1, 0)), "sharers: found"),
        (lambda: reuse().book(0, 0.1), r"book: found an update before any rollouts, expected resampled\(\) first"),
        (lambda: drawn().book(0, math.nan), "kl: found nan, expected an upper limit of K"),
        (lambda: drawn().book(0, -1e-9), "kl: found -1e-09"),
        (lambda: drawn().book(-1, 0.1), "agent: found -1"),
        (lambda: drawn().book([], 0.1), "agents: found none"),
        (lambda: drawn(sharers=(0, 1)).may_reuse(2), "agent: found 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_bad_rows_are_named():
    w = world(np.random.default_rng(6))
    one, two = scored(w, 0), scored(w, 1)
    both = {key: np.concatenate([one[key], two[key]]) for key in one}
    alone = {key: x[one["agent"] == 1] for key, x in two.items()}
    for booked, rows_given, message in (
        ([], both, "rows: found 2 updates"),
        ([], two, r"rows: agents that changed: found \[1\], expected \[0\]"),
        ([(1, 0.1)], {key: x[one["agent"] == 0] for key, x in one.items()}, "rows: found no token of agent 1"),
        ([], {key: x for key, x in alone.items() if key != "reward"}, "rows: columns: found no reward"),
    ):
        r = drawn()
        for agent, kl in booked:
            r.book(agent, kl)
        with pytest.raises(InputError, match=message):
            r.book(0, rows_given)


def test_rows_of_other_rollouts_measure_nothing():
    """New rollouts of the team as it is now know nothing of the updates before it: √(K/2) of the last one alone."""
    w = world(np.random.default_rng(6))
    own = scored(w, 1, seed=1)
    own |= {"logp_behaviour": own["logp_current"]}
    renamed = {**scored(w, 1), "prompt": scored(w, 1)["prompt"] + 1}
    for other in (own, renamed, {key: x[2400 // 2 :] for key, x in scored(w, 1).items()}):
        r = drawn(tolerance=1.0)
        r.book(0, scored(w, 0))
        shift = r.may_reuse(1).shift
        with pytest.raises(InputError, match="rows: found other rollouts than those that were booked before"):
            r.book(1, other)
        assert r.may_reuse(1).shift == shift > 0  # nothing was booked
        r.book(1, scored(w, 1))
        assert r.may_reuse(2).shift > shift
        r.book(2, 0.01)
        with pytest.raises(InputError, match="rows: found other rollouts"):
            r.book(1, other)
        r.resampled()
        r.book(1, other)


def test_rows_drawn_after_an_update_that_was_booked_as_a_number():
    """Nothing of it shows in them: current is the behaviour."""
    w = world(np.random.default_rng(6))
    own = scored(w, 1)
    own |= {"logp_behaviour": own["logp_current"]}
    for kl, answer in ((0.01, False), (1e-8, True)):
        r = drawn(tolerance=1.0)
        r.book(0, kl)
        r.book(1, own)
        assert r.may_reuse(2).yes == answer
    r = drawn(tolerance=1.0)
    r.book(0, 0.01)
    r.book(1, own)
    late = "the rollouts are in doubt: they were drawn after updates that were booked"
    assert r.may_reuse(2).reason == late
    own["logp_behaviour"] = own["logp_current"] - 0.005  # within what counts as the same policy, where that is wide
    r = drawn(tolerance=1.0, match=0.01)
    r.book(0, 0.1)
    r.book(1, own)
    assert r.may_reuse(2).reason == late


def test_nothing_is_known_before_the_first_rollouts():
    assert reuse().may_reuse(0) == (False, 1.0, "none", "no rollouts were drawn yet")


def test_a_torch_trainer_needs_no_jax():
    """Asking and booking numbers needs NumPy alone; booking rows no jax either."""
    script = """
import sys
from teamtr_jax.integrations import Reuse
r = Reuse(tolerance=0.1, alpha=0.1, updates=2)
r.resampled(); r.book(0, 0.01); r.may_reuse(1)
heavy = {name.split(".")[0] for name in sys.modules} & {"jax", "scipy", "rich", "pyarrow", "matplotlib", "torch"}
assert not heavy, heavy
import numpy as np
zero = np.zeros(4, int)
rows = dict(prompt=np.arange(4), rollout=zero, stage=zero, update=zero, agent=zero + 1, turn=zero, t=zero, reward=zero + 0.5)
r.book(1, rows | dict(logp_behaviour=zero - 1.0, logp_current=zero - 1.0, logp_new=zero - 1.1))
r.may_reuse(0)
assert "jax" not in sys.modules
"""
    script = script.replace("r.book(1,", "r.resampled(); r.book(1,")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
