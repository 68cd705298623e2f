"""The verdict on each agent: every answer from values that are set here, every number of its reason by hand."""

import math

import numpy as np
import pytest
from monitor_logs import truth, world

from teamtr_jax.intervals import Interval
from teamtr_jax.monitor import Settings, verdicts
from teamtr_jax.monitor.interaction import Interaction, pool
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.verdict import FURTHEST
from teamtr_jax.monitor.verdict import verdicts as of_report

SETTINGS = Settings(delta=0.05, alpha=0.2, tolerance=0.15, reward_range=(-1.0, 1.0))
LABEL = "in-sample: not a guarantee"


def iv(value, half=0.01, n=40):
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def rung(id, name, value, lower, n=40):
    return {"id": id, "name": name, "certificate": iv(value, n=n), "lower": lower}


RECORD = {
    "stage": 3, "update": 0, "agents": [0], "kl_k1": iv(0.03), "kl_k3": iv(0.048), "outside": False, "delta": 0.05, "invalid": [],
    "contradiction": None, "surrogate": iv(0.1), "kl_episode": iv(0.2), "evidence": "fresh", "mean_weight_high": False,
    "rungs": [rung("S7", "message ratios", -0.3, -0.4), rung("S7", "token ratios", -0.35, -0.5)],
    "certificate": {"rung": "S7, message ratios", "lower": -0.4, "alpha": 0.2, "union": 2, "label": LABEL},
    "certificate_finite_sample": {"lower": -0.7, "label": LABEL}, "shift_upper": None, "shift_rung": None,
    "floor": None, "kl_k3_corrected": None, "floor_episode": None, "below_floor": [],
}  # fmt: skip


def report(*records, interactions=(), **settings):
    found = Settings(**{name: getattr(SETTINGS, name) for name in vars(SETTINGS)} | settings)
    return MonitorReport([RECORD | r for r in records], list(interactions), found, 1)


def answers(*records, agent=0, **more):
    """(answer, reason, tone) by question of one agent."""
    (found,) = [v for v in of_report(report(*records, **more)) if v.agent == agent]
    return [(x.answer, x.because, x.tone) for x in found.answers]


RADIUS, CERTIFIED, SPOILS, ROLLOUTS, TRY = range(5)


# --------------------------------------------------------------------------------------------------------------- its radius


@pytest.mark.parametrize(
    ("record", "answer", "because", "tone"),
    [
        ({}, "inside", "k1 = 0.03 [0.02, 0.04] nats a message at update 3.0, δ = 0.05.", "good"),
        ({"kl_k1": iv(0.045)}, "inside", "[0.035, 0.055] nats a message at update 3.0, δ = 0.05; the interval reaches beyond δ.",
         "good"),
        ({"kl_k1": iv(0.07), "outside": True}, "outside",
         ("k1 = 0.07 [0.06, 0.08] nats a message at update 3.0, δ = 0.05. 0.845 times "
          "this step would be inside, to first order."),
         "bad"),
        ({"kl_k1": iv(0.055), "outside": True}, "outside",
         "δ = 0.05; the interval holds δ. 0.953 times this step would be inside, to first order.", "bad"),
        ({"outside": True, "contradiction": {"ratio": "new/current"}}, "outside",
         "δ = 0.05, which is not to be believed: the log contradicts itself.",
         "bad"),
        ({"outside": True, "kl_k1": iv(0.07), "invalid": ["tokens are masked"]}, "outside",
         "δ = 0.05, but the rollouts are in doubt (tokens are masked).", "bad"),
        ({"rungs": [rung("S7c", "reused, agent moved twice", -0.3, -0.4)]}, "inside",
         "at update 3.0, δ = 0.05, on tokens of an older policy of it, whose mean is not a KL.", "good"),
        ({"outside": True, "kl_k1": iv(-0.03)}, "outside", "not to be believed: a KL is not below 0, and weights are too large.",
         "bad"),
        ({"outside": None, "invalid": ["tokens are masked", "x"]}, "no word on its radius",
         "δ = 0.05, but the rollouts are in doubt (tokens are masked).", "open"),
        ({"outside": True, "contradiction": {"ratio": "x"}, "below_floor": ["kl_k1"], "floor": iv(0.05)}, "outside",
         "δ = 0.05, floor 0.05 [0.04, 0.06], which is not to be believed: the log contradicts itself.", "bad"),
        ({"floor": iv(0.02), "kl_k3_corrected": iv(0.03)}, "inside",
         "δ = 0.05, floor 0.02 [0.01, 0.03], k3 without it 0.03 [0.02, 0.04].", "good"),
        ({"below_floor": ["kl_k1", "outside"], "floor": iv(0.05)}, "below the floor",
         ("floor 0.05 [0.04, 0.06]. Roundings alone could do it: score in float32 (the heads at least), current and new in one "
         "shape, without dropout."), "open"),
        ({"below_floor": ["kl_k1", "outside"], "floor": iv(0.05, math.inf, 1)}, "below the floor",
         "Of one prompt alone it is not known how far a floor scatters: score rollouts of more prompts twice (`logp_again`).",
         "open"),
        ({"outside": None, "kl_k1": None, "kl_k3": None}, "not monitored", "The log has no token of it at update 3.0.", "open"),
    ],
)  # fmt: skip
def test_inside_or_outside(record, answer, because, tone):
    found = answers(record)[RADIUS]
    assert (found[0], found[2]) == (answer, tone)
    assert found[1].endswith(because)


def test_the_last_update_speaks_and_all_are_counted():
    records = [{"outside": True}, {"outside": True, "agents": [1]}, {"outside": None}, {"update": 7}]
    answer, because, _ = answers(*records)[RADIUS]
    assert answer == "inside"
    assert because.endswith("at update 3.7, δ = 0.05. Outside in 1 of its 2 updates.")


# ---------------------------------------------------------------------------------------------------------- its certificate


def limits(lower, finite=None, label=LABEL):
    return {
        "certificate": RECORD["certificate"] | {"lower": lower, "label": label},
        "certificate_finite_sample": None if finite is None else {"lower": finite, "label": label},
    }


@pytest.mark.parametrize(
    ("record", "answer", "because", "tone"),
    [
        (limits(0.02, -0.1), "certified in-sample",
         f"Update 3.0 raises J by at least 0.02 by S7, message ratios, asymptotic (level 0.8, {LABEL}).", "open"),
        (limits(0.02, 0.01, "held-out"), "certified",
         "at least 0.02 by S7, message ratios, asymptotic; 0.01 by S8, no asymptotics (level 0.8, held-out).", "good"),
        (limits(-0.02, 0.01, "held-out"), "certified", "at least 0.01 by S8, no asymptotics (level 0.8, held-out).", "good"),
        (limits(0.0, 0.0), "not certified", "promises.", "bad"),
        (limits(-math.inf, -math.inf, "none: tokens are masked"), "not certified", "Tokens are masked.", "bad"),
        ({}, "not certified", "The penalty 0.4 eats the surrogate L = 0.1: the step is too large for what it promises.", "bad"),
        ({"surrogate": iv(0.01, 0.02)}, "not certified",
         "The penalty 0.31 eats the surrogate L = 0.01, which is not clearly above 0 either.", "bad"),
        ({"surrogate": iv(-0.01)}, "not certified", "The surrogate L = -0.01 promises no improvement on these rollouts.", "bad"),
        ({"rungs": [rung("S7", "message ratios", -0.1, -0.2), rung("S9", "value-weighted", 0.01, -0.03)]}, "not certified",
         ("S9 is 0.01, but its lower limit -0.03 is not above 0: too few prompts. With the same spread about 640 instead of 40 "
         "would do."), "bad"),  # (0.04/0.01)² = 16 times as many
        ({"rungs": [rung("S7", "message ratios", 0.9, -math.inf), rung("S9", "value-weighted", 0.01, -0.01)]}, "not certified",
         ("S9 is 0.01, but its lower limit -0.01 is not above 0: too few prompts. With the same spread about 160 instead of 40 "
         "would do."), "bad"),  # the other has no limit, whatever the prompts
        (limits(0.02, 0.05, "held-out") | {"below_floor": ["certificate"], "floor_episode": iv(0.03), "floor": iv(0.03)},
         "certified", "asymptotic; 0.05 by S8, no asymptotics (level 0.8, held-out).", "good"),
        (limits(0.02, 0.05, "held-out") | {"below_floor": ["certificate", "certificate_finite_sample"],
                                           "floor_episode": iv(0.03), "floor": iv(0.03)},
         "certificate below the floor",
         ("The limit 0.05 is within ϱ times the floor, 0.03 [0.02, 0.04] nats a rollout. Roundings alone could do it: score in "
          "float32 (the heads at least), current and new in one shape, without dropout."), "open"),
        ({"rungs": [rung("S7", "message ratios", 0.1, -math.inf, n=1)]}, "not certified",
         "S7 is 0.1, but its lower limit -inf is not above 0: one prompt has no interval.", "bad"),
    ],
)  # fmt: skip
def test_certified_or_why_not(record, answer, because, tone):
    found = answers(record)[CERTIFIED]
    assert (found[0], found[2]) == (answer, tone)
    assert found[1].endswith(because)


def test_certified_updates_are_counted():
    records = [limits(0.1), limits(-0.1, 0.1), limits(0.0, 0.0), limits(-0.1) | {"agents": [1]}, {}]
    assert answers(*records)[CERTIFIED][1].endswith(" Certified in 2 of its 4 updates.")


def test_so_many_prompts_would_do():
    """The number that is asked for has its limit at 0, with the spread that there is and the normal's quantile."""
    value, error, n, quantile = 0.01, 0.02, 50, 1.3
    lower = value - quantile * error
    text = answers({"rungs": [rung("S7", "message ratios", value, lower, n=n)]})[CERTIFIED][1]
    wanted = int(text.split("about ")[1].split()[0])
    limit = [value - quantile * error * (n / m) ** 0.5 for m in (wanted - 1, wanted)]
    assert limit[0] < 0 <= limit[1]


# ------------------------------------------------------------------------------------------------------- whom it spoils


def matrix(entries, agents=((0,), (1,), (2,)), error=0.01, n=10**6):
    """Normal intervals at 80 %: ± 1.2816 errors."""

    def entry(x):
        return None if x is None else Interval(x, x - 1.2815516 * error, x + 1.2815516 * error, error, n)

    return Interaction(
        0, list(range(len(agents))), [list(a) for a in agents], [[entry(x) for x in row] for row in entries], [], []
    )


def test_whose_contexts_it_spoils():
    """Nine entries: an entry is apart from 0 at α/9, that is by 2.29 errors; one by 2 is not, though it is at α."""
    found = matrix([[0.0, -0.03, 0.05], [-0.02, 0.02, 0.0], [-0.04, -0.05, -0.06]])
    records = [{"agents": [k]} for k in range(3)]
    rows = [answers(*records, agent=k, interactions=[found])[SPOILS] for k in range(3)]
    assert [row[0] for row in rows] == ["spoils agent 1's contexts", "spoils nobody visibly", "spoils its own contexts"]
    assert [row[2] for row in rows] == ["bad", "open", "bad"]
    assert rows[0][1] == (
        "Its update moves the surrogate of agent 1's update by -0.03 [-0.0529, -0.00713], the surrogate of agent 2's update by "
        "0.05 [0.0271, 0.0729] (mean over 1 stage, α over 9 entries)."
    )
    assert rows[1][1] == "No entry of its row is clearly apart from 0 (mean over 1 stage, α over 9 entries)."


def test_only_what_comes_later_is_spoilt():
    """What agent 2, the last of the stage, would do to others it does in no order that was run. In the reverse one it does."""
    found = matrix([[0.0, -0.03, 0.05], [-0.02, 0.02, 0.0], [-0.04, -0.05, -0.06]])
    assert answers({"agents": [2]}, agent=2, interactions=[found])[SPOILS][1] == (
        "Its update moves the surrogate of its own update by -0.06 [-0.0829, -0.0371]; it would move the surrogate of agent 0's "
        "update by -0.04 [-0.0629, -0.0171], the surrogate of agent 1's update by -0.05 [-0.0729, -0.0271], had that come later "
        "(mean over 1 stage, α over 9 entries)."
    )
    reverse = matrix([row[::-1] for row in [[-0.04, -0.05, -0.06], [-0.02, 0.02, 0.0], [0.0, -0.03, 0.05]]],
                     agents=((2,), (1,), (0,)))  # fmt: skip
    assert answers({"agents": [2]}, agent=2, interactions=[reverse])[SPOILS][0] == (
        "spoils agent 0's, agent 1's and its own contexts"
    )


def test_an_agent_that_moved_twice_in_a_stage():
    """Four entries of one stage share their rollouts: their mean has the error of one, and in two stages √2/2 of it."""
    twice = matrix([[-0.02] * 2] * 2, agents=((0,), (0,)))
    for stages, half in ((1, 1.2815516), (2, 1.2815516 / 2**0.5)):
        found = pool([twice] * stages, 0.2).entries[0][0]
        assert (found.value, found.high - found.value) == (pytest.approx(-0.02), pytest.approx(0.01 * half, rel=1e-4))


def test_stages_without_an_agent_are_not_of_its_mean():
    found = [
        matrix([[0.0, -0.05], [0.0, 0.0]], agents=((0,), (1,))),
        matrix([[0.0, 0.0], [0.0, 0.0]], agents=((1,), (2,))),
    ]
    assert "(mean over 1 stage," in answers({}, interactions=found)[SPOILS][1]


def test_joint_updates_have_no_row():
    assert answers({"agents": [0, 1]})[SPOILS][1] == (
        "It was updated together with others only, and the mean matrix is of single updates."
    )


def test_means_over_stages_and_entries_that_are_not_there():
    """Two stages halve nothing but the error: √2/2 of it; and agents that were never scored again have no word."""
    found = [matrix([[None, x], [None, 0.0]], agents=((0,), (1,))) for x in (-0.02, -0.03)]
    answer, because, _ = answers({}, {"agents": [1]}, interactions=found)[SPOILS]
    assert answer == "spoils agent 1's contexts"
    assert "by -0.025 [-0.0366, -0.0134] (mean over 2 stages, α over 2 entries)" in because  # 1.645 · 0.01/√2
    assert answers({"agents": [5]}, agent=5, interactions=found)[SPOILS] == (
        "contexts unknown",
        "No matrix has its updates: it takes two of a stage, the rollouts of its start scored again, and no doubt.", "open",
    )  # fmt: skip
    assert answers({})[SPOILS][0] == "contexts unknown"


# ----------------------------------------------------------------------------------------------------------- its rollouts


def moved(upper, rung="S3, re-scored rollouts", **more):
    return {"shift_upper": upper, "shift_rung": rung} | more


def test_resample_or_keep():
    first = {}
    assert answers(first)[ROLLOUTS][0] == "resample as the stage begins"
    keep = answers(first, moved(0.15, update=2))[ROLLOUTS]
    assert keep == (
        "keep the rollouts",
        "Before update 3.2 the team had moved by up to 0.15 ≤ tolerance 0.15, in total variation (S3, re-scored rollouts).",
        "good",
    )
    answer, because, _ = answers(moved(0.1), moved(0.2, "S2, summed over updates"), first)[ROLLOUTS]
    assert answer == "resample"
    assert because.endswith(
        "by up to 0.2 > tolerance 0.15, in total variation (S2, summed over updates). Old ones would do in 1 of its 2 updates."
    )
    at = answers(moved(0.15), moved(0.16), moved(1.0, "none: no re-scored rollouts"))[
        ROLLOUTS
    ]  # of those that are bounded
    assert at[1] == "Nothing bounds the shift at 3.0: no re-scored rollouts. Old ones would do in 1 of its 2 updates."
    doubted = answers(moved(0.1), moved(1.0, "none: the rollouts are in doubt"))[ROLLOUTS]
    assert doubted == ("no word on resampling", "Nothing bounds the shift at 3.0: the rollouts are in doubt.", "open")


# ------------------------------------------------------------------------------------------------------- a radius to try


def test_a_smaller_radius():
    """ϱ = 2: L − ϱK = .1 − .4; at an eighth of the step .0125 − .00625, at 1/64 of the KL."""
    answer, because, _ = answers({})[TRY]
    assert answer == "try 0.00075"
    assert because == (
        "Over 1 update the surrogate L is 0.1 ± 0.01, ϱ·K is 0.4, k3 0.048 nats a message. To first order in the step L − ϱ·K is "
        "greatest at 0.125 times this step: 0.00625 instead of -0.3. Now δ = 0.05."
    )
    steps = np.linspace(0, 2, 100_001)
    assert (0.1 * steps - 0.4 * steps**2).max() == pytest.approx(0.00625)


def test_a_larger_radius_is_tried_to_twice_the_step_only():
    """L = 1, ϱK = .1: greatest at 5 times the step; at twice it 2 − .4, at four times the KL."""
    answer, because, _ = answers({"surrogate": iv(1.0), "kl_episode": iv(0.05)})[TRY]
    assert FURTHEST == 2
    assert answer == "try 0.19"
    assert "at 5 times this step, tried only to 2: 1.6 instead of 0.9." in because


def test_the_radius_is_that_of_all_its_clean_updates():
    """One slope `ΣL/Σ√k3` and one bend `ΣK/Σk3`, and √(.03² + .04²)/2 of the intervals.

    Updates in doubt, reused, too heavy, without a token or of others do not count.
    """
    wrong = {"surrogate": iv(9.0), "kl_episode": iv(9.0)}
    records = [
        {"surrogate": iv(0.1, 0.03), "kl_episode": iv(0.1), "kl_k3": iv(0.02)},
        {"surrogate": iv(0.3, 0.04), "kl_episode": iv(0.3), "kl_k3": iv(0.06)},
        wrong | {"invalid": ["x"]}, wrong | {"evidence": "reused"}, wrong | {"mean_weight_high": True}, wrong | {"agents": [1]},
        wrong | {"kl_k3": None, "kl_k1": None, "outside": None},
    ]  # fmt: skip
    answer, because, _ = answers(*records)[TRY]
    assert because.startswith("Over 2 updates the surrogate L is 0.2 ± 0.025, ϱ·K is 0.4, k3 0.04 nats a message.")
    # √.02, √.06: slope .4/.38637 = 1.03528, ϱ·bend 2·.4/.08 = 10; step 1.03528/20 = .051764, mean step .193185
    assert "at 0.268 times the mean step: 0.0268 instead of -0.2" in because
    assert answer == "try 0.0027"


@pytest.mark.parametrize("steps", [(1.0,), (0.3, 3.0), (0.0, 1.0), (0.5, 0.5, 2.0)])
def test_the_radius_is_the_same_from_whatever_steps(steps):
    """L = .1·t, K = .1·t², k3 = .032·t²: whatever steps were made, L − ϱK is greatest at t = .25, where k3 is .002."""
    records = [{"surrogate": iv(0.1 * t, 1e-6), "kl_episode": iv(0.1 * t**2), "kl_k3": iv(0.032 * t**2)} for t in steps]
    assert answers(*records)[TRY][0] == "try 0.002"
    assert "0.0125 instead of" in answers(*records)[TRY][1]


@pytest.mark.parametrize(
    ("record", "answer", "because"),
    [
        (
            {"surrogate": iv(0.009)},
            "no other radius",
            "L is 0.009 ± 0.01, not clearly above 0: more prompts before another radius.",
        ),
        (
            {"surrogate": iv(-0.02)},
            "no other radius",
            "L is -0.02 ± 0.01, not above 0: at no radius does such a step promise anything.",
        ),
        (
            {"surrogate": iv(0.0, 0.0)},
            "no other radius",
            "L is 0 ± 0, not above 0: at no radius does such a step promise anything.",
        ),
        (
            {"surrogate": iv(0.1, math.inf)},
            "no other radius",
            "is 0.1 ± inf, not clearly above 0: more prompts before another radius.",
        ),
        ({"kl_episode": iv(0.0)}, "no other radius", "L is 0.1 ± 0.01, and K is 0."),
        ({"kl_episode": iv(math.inf)}, "no other radius", "and K is inf."),
        ({"kl_k3": None}, "no other radius", "It wrote nothing on fresh rollouts without doubt."),
        (
            {"below_floor": ["kl_k3"], "floor": iv(0.05)},
            "no other radius",
            (
                "Its steps are below the floor. Roundings alone could do it: score in float32 (the heads at least), current and "
                "new in one shape, without dropout."
            ),
        ),
        ({"evidence": "reused"}, "no other radius", "None of its updates has fresh rollouts without doubt."),
    ],
)
def test_no_radius_where_nothing_speaks_for_one(record, answer, because):
    found = answers(record)[TRY]
    assert found[0] == answer
    assert found[1].endswith(because)


def test_to_first_order_the_surrogate_grows_with_the_step_and_the_kl_with_its_square():
    """What the radius to try rests on, exactly, in an enumerated team: half the step."""
    whole, half = (truth(world(np.random.default_rng(10), step=step)) for step in (0.02, 0.01))
    assert half.surrogate / whole.surrogate == pytest.approx(np.full(3, 0.5), rel=0.02)
    assert pytest.approx(np.full(3, 0.25), rel=0.02) == half.K / whole.K


# ------------------------------------------------------------------------------------------------------------------- all


def test_every_updated_agent_has_a_verdict():
    """Joint updates speak of each of their agents, updates of nobody of none; the headline is the five answers."""
    found = verdicts(report({"agents": [4, 2]}, {"agents": []}, {"agents": [3]}))
    assert [v.agent for v in found] == [2, 3, 4]
    assert found[0].headline == "inside, not certified, contexts unknown, resample as the stage begins, try 0.00075"
    assert (
        str(found[0].answers[0])
        == "Inside its radius? inside. k1 = 0.03 [0.02, 0.04] nats a message at update 3.0, δ = 0.05."
    )
    assert verdicts(report({"agents": []})) == []
