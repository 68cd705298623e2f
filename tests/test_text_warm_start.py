"""The supervised start of teams that talk in text: what it learns from, what it moves, and what it must never see."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import CHECKPOINTS, same

from teamtr_jax.llm import text_warm_start as module
from teamtr_jax.llm.checkpoint_team import team_of
from teamtr_jax.llm.language_model import logits_of, split_trained
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.tasks import GymWords, Relayed, Shop, WordProblems, check_word_task, draw, gym_words, is_held_out
from teamtr_jax.llm.tasks.arithmetic import expression
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.text_warm_start import TextWarmStart, demonstrated_conversations, text_warm_start
from teamtr_jax.validation import InputError

TASK = Relayed(largest=3, cap=24)
FEW = TextWarmStart(steps=3, batch=2, learning_rate=0.03)


@partial(jax.jit, static_argnums=0)
def logits_after(model, params, ids):
    return logits_of(model.features(params, ids, jnp.ones_like(ids, bool))[0], model.head(params))


@pytest.fixture(scope="module")
def team():
    """Three roles on one base, at a temperature, and their parameters."""
    base = load_agent(CHECKPOINTS / "smollm2", lora=Lora(rank=2))
    return team_of(base, TASK.roles, TASK.turns, key=jax.random.key(0), temperature=0.7)


@pytest.fixture(scope="module")
def started(team):
    return text_warm_start(*team[:1], TASK, team[1], 5, FEW)


def test_it_learns_and_moves_adapters_only(team, started):
    """The loss of every agent falls; frozen leaves are the same arrays; B of every adapter has left 0."""
    params, record = started
    assert (record.steps, record.demonstrations, len(record.loss)) == (3, 6, 3)
    assert all(last < first for first, last in zip(record.loss[0], record.loss[-1], strict=True))
    for model, before, after in zip(team[0].models, team[1], params, strict=True):
        (old, frozen), (new, still) = (split_trained(own, model.trained(own)) for own in (before, after))
        assert all(x is y for x, y in zip(jax.tree.leaves(frozen), jax.tree.leaves(still), strict=True))
        moved = [not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
        assert all(moved)


def test_the_loss_is_the_policys_own_at_its_temperature(team, started):
    """Against views put together by hand: what each agent reads, then its message, one forward pass, softmax in NumPy."""
    team, params = team
    rng = np.random.default_rng([5, 1, 0])
    problems = draw(TASK, rng, FEW.batch, held_out=False)
    for k, agent in enumerate(team.agents):
        values = []
        for problem in problems:
            texts = TASK.demonstrate(problem, rng)
            heard = [] if k == 0 else [(team.names[k - 1], texts[k - 1])]
            read, own = agent.scribe.opening(problem.prompt, heard), agent.scribe.message(texts[k])
            ids = np.array(
                [[*read, *own, *[0] * (256 - len(read) - len(own))]]
            )  # one shape; nothing reads what follows it
            logits = np.asarray(logits_after(agent.model, params[k], ids), np.float64)[0] / 0.7
            logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            logp -= logits.max(-1, keepdims=True)
            values += [logp[len(read) + i - 1, x] for i, x in enumerate(own)]
        assert started[1].loss[0][k] == pytest.approx(-np.mean(values), rel=1e-4)


def test_held_out_problems_are_never_demonstrated(team, monkeypatch):
    """A third of these problems would be held out; each step has its own, which follow from seed and step alone."""
    shown = []

    def recorded(team, task, problems, rng):
        shown.append([x.prompt for x in problems])
        raise KeyboardInterrupt

    whole = module.demonstrated_conversations
    monkeypatch.setattr(module, "demonstrated_conversations", recorded)
    for seed in range(2):
        with pytest.raises(KeyboardInterrupt):
            text_warm_start(team[0], TASK, team[1], seed, TextWarmStart(1, batch=200))
    assert not any(is_held_out(prompt) for prompts in shown for prompt in prompts)
    assert shown[0] != shown[1]
    assert len(set(shown[0])) > 150

    def passed_on(team, task, problems, rng):
        shown.append([x.prompt for x in problems])
        return whole(team, task, problems, rng)

    shown.clear()
    monkeypatch.setattr(module, "demonstrated_conversations", passed_on)
    text_warm_start(team[0], TASK, team[1], 5, FEW)
    assert len({prompt for prompts in shown for prompt in prompts}) == FEW.demonstrations


def test_the_same_seed_gives_the_same_start(team, started):
    """Bit for bit; a shorter start is the beginning of a longer one; another seed is another start."""
    again, record = text_warm_start(*team[:1], TASK, team[1], 5, FEW)
    same(again, started[0])
    assert record == started[1]
    _, short = text_warm_start(*team[:1], TASK, team[1], 5, TextWarmStart(2, 2, 0.03))
    assert short.loss == started[1].loss[:2]
    _, other = text_warm_start(*team[:1], TASK, team[1], 6, TextWarmStart(1, 2, 0.03))
    assert other.loss[0] != started[1].loss[0]
    none, record = text_warm_start(*team[:1], TASK, team[1], 5, TextWarmStart())
    assert all(x is y for x, y in zip(none, team[1], strict=True))
    assert record.demonstrations == 0


def test_demonstrations_are_read_as_any_conversation(team):
    """Each agent's ids are those of its own text with the stop; the next one hears that text."""
    rng = np.random.default_rng(0)
    problems = draw(TASK, rng, 2, held_out=False)
    said = demonstrated_conversations(team[0], TASK, problems, rng)
    for row, problem in enumerate(problems):
        texts = TASK.demonstrate(problem, rng)
        assert said.said[row] == tuple(texts)
        for k, agent in enumerate(team[0].agents):
            length = said.length[row, k]
            assert agent.scribe.stop_of(said.ids[row, k, :length].tolist()) == agent.scribe.end
            assert agent.scribe.read(said.ids[row, k, :length].tolist()) == texts[k]
    assert said.stopped.all()
    assert not said.drifted.any()


def test_what_is_refused(team):
    with pytest.raises(InputError, match=r"warm.steps: found 3, expected 0: 'chain_sum' has no `demonstrate`"):
        text_warm_start(team[0], gym_words("chain_sum"), team[1], 0, FEW)
    tight = team_of(load_agent(CHECKPOINTS / "smollm2"), Relayed(cap=2).roles, 3)
    with pytest.raises(InputError, match=r"row 0: found .* ids, the first stop after"):
        text_warm_start(tight[0], TASK, tight[1], 0, FEW)
    routed = TextTeam(team[0].agents, 3, router=lambda said: [1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="team: found a router"):
        text_warm_start(routed, TASK, team[1], 0, FEW)
    for wrong in (dict(steps=-1), dict(batch=0), dict(learning_rate=0.0)):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TextWarmStart(**wrong)


@pytest.mark.parametrize(
    "task",
    [WordProblems(max_steps=4, divide=True), WordProblems(agents=1), Relayed(steps=2, multiply=True), Shop(porters=2)],
)
def test_demonstrations_solve_the_problem(task):
    """Every one earns 1, and the calculation in it has the value of the answer."""
    check_word_task(task)
    rng = np.random.default_rng(1)
    for problem in draw(task, rng, 100, held_out=False):
        texts = task.demonstrate(problem, rng)
        assert task.verify(problem, texts) == 1
        if task.name != "shop":
            assert eval(expression(problem.prompt)) == int(problem.answer)  # noqa: S307


def test_sentences_of_no_story_have_no_calculation():
    with pytest.raises(InputError, match=r"prompt: found 'Ben sleeps.'"):
        expression("Ben owns 2 books. Ben sleeps. How many books does Ben have now?")
    assert not hasattr(GymWords, "demonstrate")
