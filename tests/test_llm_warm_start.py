"""The supervised start: what is learned from, by whom, and when it ends."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.layout import author, emitted, messages, random_router
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_team, is_trained, policy_logits
from teamtr_jax.llm.tasks import Copy, Problem, draw, is_held_out, layout_of
from teamtr_jax.llm.warm_start import WarmStart, demonstration_loss, demonstrations, warm_start
from teamtr_jax.validation import InputError

TASK = Copy(symbols=4, agents=2, length=2, shares=False)  # chance solves 1 in 256
SMALL = ModelConfig(width=16, layers=1, heads=2)
SETTINGS = WarmStart(batch=32, learning_rate=1e-2, every=16, most=800, prompts=256)


def made(config: ModelConfig = SMALL, **options) -> LanguageTeam:
    layout = layout_of(TASK, **options)
    return LanguageTeam(layout, (config,) * layout.agents)


@pytest.fixture(scope="module")
def started():
    team = made()
    start = init_team(team, jax.random.key(0))
    return team, start, warm_start(team, TASK, start, seed=3, settings=SETTINGS)


logits_of = jax.jit(policy_logits, static_argnums=(0, 1))
loss_of = jax.jit(demonstration_loss, static_argnums=(0, 1))


def equal(x, y) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def test_the_band_is_reached_and_the_measurement_is_of_what_is_returned(started):
    team, _, (params, record) = started
    assert 0.2 <= record.accuracy <= 0.4
    assert record.measured[0][0] == 0
    assert record.measured[0][1] < 0.05
    assert (record.steps, record.accuracy) in record.measured
    assert len(record.loss) == 2
    assert all(0 < loss < np.log(4) for loss in record.loss)  # of each agent; who knows nothing has the logarithm
    again, same = warm_start(team, TASK, params, seed=3, settings=SETTINGS)  # in the band from the first
    assert same.steps == 0
    assert same.accuracy == record.accuracy
    assert equal(again, params)


def test_one_seed_one_result(started):
    team, start, (params, record) = started
    assert equal(warm_start(team, TASK, start, seed=3, settings=SETTINGS)[0], params)
    other, found = warm_start(team, TASK, start, seed=4, settings=SETTINGS)
    assert not equal(other, params)
    assert found.measured != record.measured


def test_the_loss_is_the_mean_over_the_agents_own_tokens():
    team = made()
    params = init_team(team, jax.random.key(1))
    tokens, speaker = demonstrations(
        team.layout, TASK, np.random.default_rng(0), draw(TASK, np.random.default_rng(1), 5, False)
    )
    for agent in range(2):
        own_params = jax.tree.map(lambda x, k=agent: x[k], params)
        logits = np.asarray(logits_of(SMALL, team.layout, own_params, jnp.asarray(tokens)), np.float64)
        total = []
        for row in range(5):
            first = team.layout.start(agent) + 1
            for p in range(first, first + team.layout.message):
                total.append(np.log(np.exp(logits[row, p - 1]).sum()) - logits[row, p - 1, tokens[row, p]])
        found = loss_of(team, 0, own_params, agent, jnp.asarray(tokens), jnp.asarray(speaker), 0.0)
        np.testing.assert_allclose(found, np.mean(total), rtol=1e-5)


def test_nobody_learns_from_what_others_say_later():
    team = made()
    params = jax.tree.map(lambda x: x[0], init_team(team, jax.random.key(1)))
    problems = draw(TASK, np.random.default_rng(1), 3, False)
    tokens, speaker = demonstrations(team.layout, TASK, np.random.default_rng(0), problems)
    changed = tokens.copy()
    changed[:, team.layout.start(1) + 1 :] = 0
    loss = jax.jit(jax.value_and_grad(lambda p, x: demonstration_loss(team, 0, p, 0, x, jnp.asarray(speaker))))
    assert equal(loss(params, jnp.asarray(tokens)), loss(params, jnp.asarray(changed)))


def test_demonstrations_follow_the_router():
    team = made(router=random_router(2))
    problems = draw(TASK, np.random.default_rng(1), 64, False)
    tokens, speaker = demonstrations(team.layout, TASK, np.random.default_rng(0), problems)
    assert 0.2 < speaker.mean() < 0.8
    headers = tokens[:, [team.layout.start(turn) for turn in range(team.layout.turns)]]
    assert np.array_equal(headers - team.layout.vocabulary.header(0), speaker)
    assert np.array_equal(np.asarray(author(team.layout, jnp.asarray(speaker)))[:, team.layout.start(1)], speaker[:, 1])
    assert emitted(team.layout, jnp.asarray(tokens)).sum() == 64 * 4
    for problem, said in zip(problems, messages(team.layout, tokens), strict=True):
        assert TASK.verify(problem, said) == 1


def test_agents_of_different_size_and_frozen_adapters():
    layout = layout_of(TASK)
    team = LanguageTeam(layout, (ModelConfig(16, 1, 2, lora_rank=2), ModelConfig(8, 1, 2)))
    start = init_team(team, jax.random.key(0))
    settings = WarmStart(low=0.35, high=0.6, batch=32, learning_rate=1e-2, every=8, prompts=64)
    with pytest.raises(InputError, match=r"warm start: found mean reward 0\.\d+ after 8 steps"):
        warm_start(team, TASK, start, 0, replace(settings, most=8))
    easy = Copy(symbols=4, agents=2, length=2)  # every character is rewarded: chance earns 1/4
    params, record = warm_start(team, easy, start, 0, settings)
    assert record.steps > 0
    adapters = jax.tree.leaves(is_trained(start[0]))
    for old, new, adapter in zip(jax.tree.leaves(start[0]), jax.tree.leaves(params[0]), adapters, strict=True):
        assert np.array_equal(old, new) == adapter
    assert not any(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(start[1]), jax.tree.leaves(params[1]), strict=True)
    )


def test_a_leap_over_the_band_is_halved(started):
    """The same run with a band below where it ended: the last stretch leaps over it."""
    team, start, (_, whole) = started
    high = whole.accuracy - 0.02
    settings = replace(SETTINGS, low=max(whole.measured[-2][1] + 0.02, high - 0.1), high=high)
    _, record = warm_start(team, TASK, start, 3, settings)
    until = len(whole.measured)
    assert record.measured[:until] == whole.measured
    assert record.measured[until][0] == whole.steps - SETTINGS.every // 2
    assert record.steps < whole.steps
    assert settings.low <= record.accuracy <= settings.high
    assert (record.steps, record.accuracy) in record.measured


def test_a_team_that_hedges_knows_more_than_it_shows():
    team = made()
    settings = WarmStart(batch=32, learning_rate=1e-2, every=16, most=800, prompts=256, smoothing=0.3)
    params, record = warm_start(team, TASK, init_team(team, jax.random.key(0)), 3, settings)
    assert 0.2 <= record.accuracy <= 0.4
    problems = draw(TASK, np.random.default_rng(9), 128, False)
    tokens, speaker = demonstrations(team.layout, TASK, np.random.default_rng(0), problems)
    own = emitted(team.layout, jnp.asarray(tokens)) & (author(team.layout, jnp.asarray(speaker)) == 0)
    logits = logits_of(SMALL, team.layout, jax.tree.map(lambda x: x[0], params), jnp.asarray(tokens))
    likeliest = np.asarray(logits.argmax(-1))[:, :-1] == tokens[:, 1:]
    assert likeliest[np.asarray(own)[:, 1:]].mean() > 0.9


def test_label_smoothing_is_a_mixture_of_targets():
    team = made()
    params = jax.tree.map(lambda x: x[0], init_team(team, jax.random.key(1)))
    tokens, speaker = demonstrations(
        team.layout, TASK, np.random.default_rng(0), draw(TASK, np.random.default_rng(1), 5, False)
    )
    tokens, speaker = jnp.asarray(tokens), jnp.asarray(speaker)
    zero, some, all_ = (float(loss_of(team, 0, params, 0, tokens, speaker, s)) for s in (0.0, 0.25, 1.0))
    assert some == pytest.approx(0.75 * zero + 0.25 * all_, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.05}, "low, high: found 0.05, 0.4, expected 0.1 ≤ low < high ≤ 0.6"),
        ({"high": 0.7}, "low, high: found 0.2, 0.7"),
        ({"low": 0.4}, "low, high: found 0.4, 0.4"),
        ({"low": float("nan")}, "low: found nan, expected a finite number"),
        ({"batch": 0}, "batch: found 0, expected an integer from 1 to 1000000"),
        ({"every": 10**7}, "every: found 10000000, expected an integer from 1 to 1000000"),
        ({"most": 1.5}, "most: found 1.5"),
        ({"prompts": 10**12}, "prompts: found 1000000000000"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate: found inf"),
        ({"smoothing": 1.0}, "smoothing: found 1.0"),
        ({"smoothing": -0.1}, "smoothing: found -0.1, expected a finite number at least 0 and less than 1"),
    ],
)
def test_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        WarmStart(**settings)


def test_a_task_that_is_too_easy_is_refused():
    class Given(Copy):
        def verify(self, problem: Problem, messages) -> float:
            return 1.0

    team = made()
    task = Given(symbols=4, agents=2, length=2)
    with pytest.raises(InputError, match="untrained team"):
        warm_start(team, task, init_team(team, jax.random.key(0)), 0, SETTINGS)


class Watched(Copy):
    """Copy, with a list of the problems that were demonstrated and verified."""

    def demonstrate(self, problem, rng):
        DEMONSTRATED.append(problem.prompt)
        return super().demonstrate(problem, rng)

    def verify(self, problem, messages):
        VERIFIED.append(problem.prompt)
        return super().verify(problem, messages)


DEMONSTRATED: list[str] = []
VERIFIED: list[str] = []


def test_what_the_warm_start_sees(started):
    """Training prompts only; those of step k are drawn from the seed and k; one set of prompts for every measurement."""
    team, start, (params, record) = started
    DEMONSTRATED.clear()
    VERIFIED.clear()
    task = Watched(symbols=4, agents=2, length=2, shares=False)
    again, found = warm_start(team, task, start, seed=3, settings=SETTINGS)
    assert equal(again, params)
    assert not any(is_held_out(prompt) for prompt in (*DEMONSTRATED, *VERIFIED))
    steps = max(steps for steps, _ in record.measured)
    wanted = [p.prompt for k in range(steps) for p in draw(TASK, np.random.default_rng([3, 1, k]), 32, held_out=False)]
    assert wanted == DEMONSTRATED
    asked = [p.prompt for p in draw(TASK, np.random.default_rng([3, 0]), 256, held_out=False)]
    assert asked * len(found.measured) == VERIFIED


def test_an_untrained_team_above_the_band_needs_no_start(started):
    """A mean reward of .5 from the first, above the band of .2 to .4 and below `HIGHEST`."""

    class Half(Copy):
        def verify(self, problem, messages):
            return 0.5

    team, start, _ = started
    params, record = warm_start(team, Half(symbols=4, agents=2, length=2), start, 0, SETTINGS)
    assert equal(params, start)
    assert (record.steps, record.accuracy, record.measured) == (0, 0.5, ((0, 0.5),))


def test_a_loss_that_is_not_a_number_ends_the_start(started):
    team, start, _ = started
    broken = {**start, "embedding": start["embedding"].at[1].set(jnp.nan)}
    message = "warm start: loss or parameters of agent 1 are not numbers after step 16: a smaller learning rate"
    with pytest.raises(ArithmeticError, match=message):
        warm_start(team, TASK, broken, seed=3, settings=SETTINGS)


def test_seeds_of_the_start_are_checked(started):
    team, start, _ = started
    for seed in (-1, 2**32, True):
        with pytest.raises(InputError, match="seed: found"):
            warm_start(team, TASK, start, seed, SETTINGS)
