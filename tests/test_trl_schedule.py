"""The books of `TeamTRSchedule`: order, who samples when, ids, trust regions, what is logged. Fakes, no torch."""

import subprocess
import sys

import numpy as np
import pytest

from teamtr_jax.integrations.log_writer import LogWriter
from teamtr_jax.integrations.schedule import Alignment, TeamTRSchedule, promising
from teamtr_jax.integrations.team_rollouts import TeamRollouts, moved, require_rollouts
from teamtr_jax.monitor.reading import read_token_log
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

PROMPTS, GROUP = 6, 4


class Coins:
    """Agents that each write one token, 1 with probability σ(θ); paid for ones. A step of a trainer adds `size` to θ."""

    names = ("a", "b", "c")
    sampler = Sampler(temperature=1.0)

    def __init__(self, size=0.2, steps=3):
        self.theta, self.size, self.steps = [0.0, 0.0, 0.0], size, steps
        self.rng = np.random.default_rng(0)
        self.calls = []

    def prompts(self):
        self.calls.append("prompts")
        return len(self.calls)

    def sample(self, prompts):
        self.calls.append(("sample", prompts, tuple(self.theta)))
        n = PROMPTS * GROUP
        agent = np.tile(np.arange(3), (n, 1))
        token = (self.rng.random((n, 3)) < 1 / (1 + np.exp(-np.array(self.theta)))).astype(int)
        return TeamRollouts(np.ones((n, 3), bool), agent, agent, token, token.mean(1), GROUP)

    def score(self, agent, rollouts, rows=None):
        token = rollouts.token if rows is None else rollouts.token[rows]
        out = np.full(token.shape, np.nan)
        out[:, agent] = -np.log1p(np.exp(-self.theta[agent] * (2 * token[:, agent] - 1)))
        return out

    def train(self, agent, rollouts, stop):
        self.calls.append(("train", agent, rollouts))
        for step in range(self.steps):
            self.theta[agent] += self.size
            if stop():
                return step + 1
        return self.steps

    def weights(self, agent):
        return self.theta[agent]

    def load(self, agent, weights):
        self.theta[agent] = weights

    def between(self, inside, outside, share):
        return inside + share * (outside - inside)

    def tell(self, agent, step, scalars):
        self.calls.append(("tell", agent, step, scalars))

    def align(self, agent, newcomer, probes, radius):
        self.calls.append(("align", agent, newcomer, probes.prompts, radius))
        self.theta[agent] = newcomer
        return Alignment(1.0, 0.1, 1.0, 0.1, 5, True)


def sampled(team):
    return [call[2] for call in team.calls if call[0] == "sample"]


def trained(team):
    return [call[1] for call in team.calls if call[0] == "train"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("given", [0, 1, 2]), ("reversed", [2, 1, 0]), (lambda n, updates, rng: [1, 2, 0], [1, 2, 0])],
)
def test_fresh_rollouts_are_of_the_team_with_its_updates(order, expected):
    """Before update i the first i agents of the order have moved, and what it trains on is what was sampled then."""
    team = Coins()
    records = TeamTRSchedule(team, radius=np.inf, order=order).stage()
    assert trained(team) == [x.agent for x in records] == expected
    theta = [0.0, 0.0, 0.0]
    for update, (x, seen) in enumerate(zip(records, sampled(team), strict=True)):
        assert seen == pytest.approx(theta)
        assert (x.update, x.source, x.resampled, x.steps, x.share) == (update, update, True, 3, 1.0)
        theta[expected[update]] += 0.6
    assert len({call[1] for call in team.calls if call[0] == "sample"}) == 1  # the stage's prompts


def test_once_is_the_stages_start_for_everybody():
    team = Coins()
    records = TeamTRSchedule(team, radius=np.inf, resample="once").train(2)
    assert len(sampled(team)) == 2
    assert [(x.stage, x.update, x.source, x.resampled) for x in records] == [
        (s, u, 0, u == 0) for s in range(2) for u in range(3)
    ]
    used = [call[2] for call in team.calls if call[0] == "train"]
    assert used[0] is used[1] is used[2] is not used[3]
    assert records[2].path_kl == pytest.approx(sum(x.kl_episode for x in records[:3]))
    assert records[2].shift == pytest.approx(np.sqrt(records[2].path_kl / 2))


def test_orders_by_seed_and_by_promise():
    team = Coins(size=0.0)
    orders = [[x.agent for x in TeamTRSchedule(team, order="random", seed=4).train(4)] for _ in range(2)]
    assert orders[0] == orders[1]
    assert len({tuple(orders[0][i : i + 3]) for i in range(0, 12, 3)}) > 1
    (x,) = TeamTRSchedule(Coins(), radius=np.inf).stage()[:1]
    before = [x._replace(agent=0, surrogate=0.1, kl_episode=0.01), x._replace(agent=2, surrogate=0.3, kl_episode=0.04)]
    assert promising(3, before, np.random.default_rng(0)) == [1, 2, 0]
    assert promising(3, [*before, before[0]._replace(surrogate=0.2)], np.random.default_rng(0)) == [1, 0, 2]


@pytest.mark.parametrize("halvings", [0, 6])
def test_who_leaves_its_region_goes_back_into_it(halvings):
    """After the third step of .5 the KL is outside: what is kept lies between the second and the third, and is inside."""
    team = Coins(size=0.5, steps=9)
    delta = 0.13
    (x,) = TeamTRSchedule(team, radius={"a": delta, "b": 9.0, "c": 9.0}, halvings=halvings).stage()[:1]
    assert x.steps == 3
    assert x.went_back
    assert x.kl <= delta < x.kl_reached
    assert x.radius == delta
    assert team.theta[0] == pytest.approx(1.0 + 0.5 * x.share)
    if halvings:
        assert x.kl > 0.95 * delta
        assert x.share > 0
    else:
        assert x.share == 0
    assert team.theta[1] == 4.5  # its own radius


@pytest.mark.parametrize("estimator", ["k1", "larger"])
def test_the_radius_by_the_papers_monitor(estimator):
    """Then k1 is inside, whatever k3 is."""
    records = TeamTRSchedule(Coins(size=0.5, steps=9), radius=0.05, estimator=estimator).train(2)
    assert all(x.kl_k1 <= 0.05 for x in records)
    assert any(x.went_back for x in records)
    assert all(x.kl <= 0.05 for x in records) == (estimator == "larger")


def test_a_score_that_is_no_number_is_outside():
    """A step that breaks the weights is taken back: nothing of it is kept, and no NaN is booked."""
    team = Coins(size=np.nan, steps=2)
    records = TeamTRSchedule(team, radius=np.inf).stage()
    assert team.theta == [0.0, 0.0, 0.0]
    assert [(x.steps, x.share, x.kl) for x in records] == [(1, 0.0, 0.0)] * 3


class Rounds(Coins):
    """Every agent speaks twice in a rollout."""

    def sample(self, prompts):
        self.calls.append(("sample", prompts, tuple(self.theta)))
        n = PROMPTS * GROUP
        agent, turn = np.tile(np.arange(6) % 3, (n, 1)), np.tile(np.arange(6), (n, 1))
        token = self.rng.integers(2, size=(n, 6))
        return TeamRollouts(np.ones((n, 6), bool), agent, turn, token, token.mean(1), GROUP)

    def score(self, agent, rollouts, rows=None):
        token = rollouts.token if rows is None else rollouts.token[rows]
        return np.where(np.arange(6) % 3 == agent, -np.log1p(np.exp(-self.theta[agent] * (2 * token - 1))), np.nan)


@pytest.mark.parametrize("resample", ["fresh", "once"])
def test_what_a_record_says(resample):
    """k3, k1 and L of two messages a rollout by loops: a message's KL and a rollout's; the rollouts' own reward."""
    team, told = Rounds(size=0.3, steps=2), []
    records = TeamTRSchedule(team, radius=np.inf, resample=resample, report=told.append).stage()
    assert told == records
    path = 0.0
    for x, (_, agent, rollouts) in zip(records, [call for call in team.calls if call[0] == "train"], strict=True):
        own = rollouts.token[:, [agent, agent + 3]]
        d = np.log(2) - np.log1p(np.exp(-0.6 * (2 * own - 1)))  # from a fair coin
        terms = np.exp(d) - 1 - d
        reward = rollouts.reward.reshape(PROMPTS, GROUP)
        others = (reward.sum(1, keepdims=True) - reward) / (GROUP - 1)
        promise = (reward - others).ravel() * (np.exp(d) - 1).sum(1)
        expected = (terms.mean(), -d.mean(), terms.sum(1).mean(), promise.mean(), reward.mean())
        assert (x.kl, x.kl_k1, x.kl_episode, x.surrogate, x.reward) == pytest.approx(expected)
        assert x.kl_reached == pytest.approx(x.kl)
        path = x.kl_episode if resample == "fresh" else path + x.kl_episode
        assert (x.path_kl, x.shift) == pytest.approx((path, np.sqrt(path / 2)))


def test_certified_rollouts_are_kept():
    """`Reuse` is asked before every update but the first, with what was measured on these very rollouts."""
    still = TeamTRSchedule(Coins(size=0.01), radius=np.inf, resample="certificate", tolerance=0.2).stage()
    assert [x.source for x in still] == [0, 0, 0]
    assert still[1].answer
    assert still[1].answer.rung.startswith("S3")
    far = TeamTRSchedule(Coins(size=0.6), radius=np.inf, resample="certificate", tolerance=0.2).stage()
    assert [x.source for x in far] == [0, 1, 2]
    assert far[0].answer is None
    assert not far[1].answer
    assert far[1].answer.shift > 0.2


def test_the_level_of_answers_is_shared_by_the_updates_of_a_stage():
    """A stage of three updates at α = .3: each limit at .1, which is wider at a smaller α."""
    shifts = []
    for alpha in (0.3, 0.03):
        schedule = TeamTRSchedule(Coins(size=0.05), radius=np.inf, resample="certificate", tolerance=1.0, alpha=alpha)
        assert schedule._books is not None
        assert schedule._books.level == pytest.approx(alpha / 3)
        shifts.append(schedule.stage()[1].answer.shift)
    assert shifts[0] < shifts[1] < 1


def test_a_function_decides_on_new_rollouts():
    """It is given the updates since the rollouts in use were sampled."""
    asked = []
    schedule = TeamTRSchedule(
        Coins(), radius=np.inf, resample=lambda since: asked.append(since) or since[-1].agent == 0
    )
    records = schedule.stage()
    assert [x.source for x in records] == [0, 1, 1]
    assert [x.resampled for x in records] == [True, True, False]
    assert asked == [[records[0]], [records[1]]]


def test_the_log_has_every_update(tmp_path):
    """Ids, sources, the start scored again, other agents' rows, the second scoring; the next run goes on behind it."""
    team = Coins()
    schedule = TeamTRSchedule(team, radius=np.inf, log=tmp_path / "log", twice=0.5)
    records = schedule.train(2)
    schedule.close()
    log = read_token_log(tmp_path / "log")
    assert log.sampler == team.sampler
    first = log.transcripts[:-1]
    for x in records:
        here = (log.stage[first] == x.stage) & (log.update[first] == x.update)
        sources = log.source[here]
        assert sorted(set(sources.tolist())) == sorted({0, x.update})
        assert (np.bincount(sources)[[0, x.update]] == PROMPTS * GROUP).all()
        rows = np.repeat(here & (log.source == x.update), np.diff(log.transcripts))
        moves = log.logp_new[rows] != log.logp_current[rows]
        assert (moves == (log.agent[rows] == x.agent)).all()
        assert (log.updated[rows] == x.agent).all()
        again = log.logp_again[rows]
        assert np.isnan(again).mean() == 0.5
        assert (again == log.logp_current[rows])[~np.isnan(again)].all()
        d = (log.logp_new - log.logp_current)[rows]
        assert np.expm1(d).sum() - d.sum() == pytest.approx(x.kl * PROMPTS * GROUP)
    assert [(a.source, a.state) for a in log.again] == [(0, "whole")] * 4  # updates 1 and 2 of two stages
    # of the start's rows, as scored again: current has the updates since, behaviour has none
    start = (log.stage == 0) & (log.update == 2) & np.repeat(log.source == 0, np.diff(log.transcripts))
    since = log.logp_current[start] != log.logp_behaviour[start]
    assert (since == (log.agent[start] < 2)).all()
    assert len(np.unique(log.prompt[log.stage == 0])) == PROMPTS
    assert not set(log.prompt[log.stage == 0]) & set(log.prompt[log.stage == 1])
    following = TeamTRSchedule(Coins(), radius=np.inf, log=tmp_path / "log")
    assert [x.stage for x in following.stage()] == [2, 2, 2]
    following.close()


def test_what_a_log_is_asked_to_hold(tmp_path):
    """Without the start scored again every update has the rollouts in use alone; stages are counted from where one says."""
    schedule = TeamTRSchedule(Coins(), radius=np.inf, log=tmp_path / "log", start_again=False, first_stage=5, twice=0.0)
    assert [x.stage for x in schedule.train(2)] == [5] * 3 + [6] * 3
    schedule.close()
    log = read_token_log(tmp_path / "log")
    assert np.unique(log.stage).tolist() == [5, 6]
    assert (log.source == log.update[log.transcripts[:-1]]).all()
    assert not log.again
    assert np.isnan(log.logp_again).all()
    message, other = r"log: found a writer for Sampler\(temperature=0.5", Sampler(temperature=0.5)
    with LogWriter(tmp_path / "other", sampler=other) as writer, pytest.raises(InputError, match=message):
        TeamTRSchedule(Coins(), log=writer)


def test_numbers_for_the_trainers_own_logger():
    team = Coins(size=0.5, steps=9)
    records = TeamTRSchedule(team, radius=0.13).train(2)
    told = [call[1:] for call in team.calls if call[0] == "tell"]
    assert [(agent, step) for agent, step, _ in told] == [(k, s) for s in range(2) for k in range(3)]
    for x, (_, _, scalars) in zip(records, told, strict=True):
        assert scalars["teamtr/kl_k3"] == pytest.approx(x.kl)  # of its own messages
        assert scalars["teamtr/share"] == x.share
        assert scalars["teamtr/radius"] == 0.13


def test_a_replacement_is_aligned_and_logged(tmp_path):
    """Probes are of the team with the outgoing agent; the change is an update of a stage of its own."""
    team = Coins()
    schedule = TeamTRSchedule(team, radius=0.02, log=tmp_path / "log")
    info = schedule.replace("b", 1.5, radius=0.3)
    assert info.inside
    assert sampled(team) == [(0.0, 0.0, 0.0)]
    assert ("align", 1, 1.5, PROMPTS, 0.3) in team.calls
    assert [x.stage for x in schedule.stage()] == [1, 1, 1]
    schedule.close()
    log = read_token_log(tmp_path / "log")
    rows = log.stage == 0
    assert rows.sum() == PROMPTS * GROUP * 3
    assert ((log.logp_new != log.logp_current)[rows] == (log.agent[rows] == 1)).all()
    again = log.logp_again[rows]
    assert np.isnan(again).mean() == 1 - 4 / (PROMPTS * GROUP)  # an eighth, four at least
    assert (again == log.logp_current[rows])[~np.isnan(again)].all()
    own = TeamTRSchedule(Coins(), radius={"a": 0.1, "b": 0.2, "c": 0.3})
    own.replace("b", 1.5)
    assert ("align", 1, 1.5, PROMPTS, 0.2) in own.team.calls  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="agent: found 'd', expected a or b or c"):
        schedule.replace("d", 0.0)


def test_moved_is_what_the_equations_say():
    """Two messages of two tokens each, of another agent too; k3, k1, K and L by hand."""
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1]], bool)
    agent = np.tile([0, 0, 1, 1, 0, 0], (2, 1))
    turn = np.tile([0, 0, 1, 1, 2, 2], (2, 1))
    rollouts = TeamRollouts(mask, agent, turn, np.zeros_like(turn), np.array([1.0, 0.0]), 2)
    d = np.array([[0.1, -0.2, 7, 7, 0.3, 7], [0.2, 0.1, 7, 7, -0.1, 0.4]])
    found = moved(rollouts, 0, d)
    own = d[mask & (agent == 0)]
    assert found.kl == pytest.approx((np.expm1(own) - own).sum() / 4)  # messages
    assert found.k1 == pytest.approx(-own.sum() / 4)
    assert found.episode == pytest.approx((np.expm1(own) - own).sum() / 2)  # rollouts
    promise = (np.expm1(-0.1) + np.expm1(0.3)) * 1 + (np.expm1(0.3) + np.expm1(0.3)) * -1
    assert found.surrogate == pytest.approx(promise / 2)


BAD = [
    (dict(order="best"), "order: found 'best'"),
    (dict(order=lambda n, updates, rng: [0, 0, 1]), r"order: found \[0, 0, 1\], expected a permutation of 0 … 2"),
    (dict(resample="never"), "resample: found 'never', expected fresh or once or certificate"),
    (dict(radius=0.0), "radius: found 0.0"),
    (dict(radius={"a": 0.1}), "radius: found a, expected one for each of a, b, c"),
    (dict(radius={"a": 0.1, "b": -1.0, "c": 1.0}), "radius of b: found -1.0"),
    (dict(estimator="k2"), "estimator: found 'k2'"),
    (dict(halvings=-1), "halvings"),
    (dict(twice=2.0), "twice"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_settings(settings, message):
    team = Coins()
    with pytest.raises(InputError, match=message):
        TeamTRSchedule(team, **settings).stage()
    assert not trained(team)


def test_bad_rollouts():
    good = Coins().sample(0)
    for change, message in (
        (dict(reward=np.where(np.arange(24) == 3, np.nan, good.reward)), r"reward: found \[nan\]"),
        (dict(reward=good.reward[:-1]), r"reward: found shape \[23\]"),
        (dict(group=5), "24 in groups of 5"),
        (dict(agent=np.minimum(good.agent, 1)), "no token of agent 2"),
        (dict(agent=good.agent + 1), "agent: found 3"),
        (dict(token=good.token[:, :2]), r"token: found shape \[24, 2\]"),
        (dict(behaviour=np.full((24, 3), np.nan)), "behaviour of rollout 0, token 0: found nan"),
        (dict(behaviour=np.full((24, 3), 0.1)), "behaviour of rollout 0, token 0: found 0.1"),
        (dict(behaviour=np.full((24, 3), 1e-4)), "behaviour of rollout 0, token 0: found 0.0001"),
        (dict(agent=np.where(np.arange(72).reshape(24, 3) == 9, -1, good.agent)), "agent: found -1"),
    ):
        with pytest.raises(InputError, match=message):
            require_rollouts(good._replace(**change), 3)


def test_a_missing_score_is_refused():
    """It never becomes 0."""
    team = Coins()
    team.score = lambda agent, rollouts, rows=None: np.full(rollouts.mask.shape, np.nan)
    with pytest.raises(InputError, match="score of rollout 0, token 0: found nan"):
        TeamTRSchedule(team).stage()
    assert not trained(team)


def test_weights_that_stay_broken_are_refused():
    """Where an agent has no score after its update, with the old weights back, nothing is booked."""
    team = Coins()
    score = team.score
    team.score = lambda *asked: score(*asked) * (np.nan if trained(team) else 1.0)
    schedule = TeamTRSchedule(team)
    with pytest.raises(InputError, match="score after the update of rollout 0, token 0: found nan"):
        schedule.stage()
    assert schedule.updates == []


def test_importing_is_light():
    """Neither torch nor TRL, nor jax: a trainer's environment may lack them until they are used."""
    script = """
import sys
import teamtr_jax.integrations.schedule, teamtr_jax.integrations.trl_team, teamtr_jax.integrations.trl_alignment
from teamtr_jax.integrations import TeamTRSchedule, TrlTeam, TurnTaking, team_reward
heavy = {"torch", "trl", "transformers", "datasets", "jax", "scipy"} & {x.partition(".")[0] for x in sys.modules}
assert not heavy, heavy
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
