"""Text teams: what is booked is what the networks say of each agent's own ids; who reads what; the law of conversations."""

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from inspect import unwrap
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from text_teams import LLAMA, MISTRAL, QWEN, Pieces, agent, params_of, rescored

from teamtr_jax.llm import pens, text_sampler, writing
from teamtr_jax.llm.conversations import own_messages, reading_of
from teamtr_jax.llm.external import ends
from teamtr_jax.llm.language_model import logits_of
from teamtr_jax.llm.llama.adapters import adapted
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.text.drift import DriftPolicy
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Scribe
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_team import TextAgent, TextTeam, text_params
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"
FALSE_ALARM = 1e-4
"""Of one chi-square test, if the sampler were run with a random key; the keys are fixed."""
TURNS, KEY = 6, jax.random.key(3)


@dataclass(frozen=True)
class Forgetful(Pieces):
    """Says of its second message that two of those before it were left out."""

    def told_next(self, own_ids, heard, used=0):
        return super().told_next(own_ids, heard, used)._replace(dropped=2)


PROBLEMS = ("abc", "dab" * 8, "cd" * 8, "ac" * 9)
TEAM = TextTeam(
    (
        agent("a", LLAMA),
        agent("b", QWEN, cap=8, pieces=("a", "<", "b", ".", ">", "?", "c", "bc", "aa", "ba"), stops=((3, 4), (5,))),
        (third := agent("c", MISTRAL, cap=5))._replace(scribe=Forgetful(**vars(third.scribe))),
    ),
    turns=TURNS,
    temperature=1.3,
)
"""Three families, two tokenizers, a stop of two ids; "ab" and "bc" are pieces, so text drifts."""


@pytest.fixture(scope="session")
def talk():
    params = params_of(TEAM)
    return params, converse(TEAM, params, PROBLEMS, KEY, 2)


@pytest.mark.parametrize("which", range(3), ids=["llama", "qwen", "mistral"])
def test_booked_is_what_the_network_says(talk, which):
    """Every id's log-probability, by one pass without a cache over the view, padded on the right."""
    params, found = talk
    reading, own = reading_of(TEAM, found, which), own_messages(TEAM, found, which)
    np.testing.assert_allclose(rescored(TEAM, params[which], which, reading), own.logp, atol=1e-4)
    assert own.turn.tolist() == [[which, which + 3]] * 8
    assert (own.agent == which).all()
    np.testing.assert_array_equal(reading.own.sum(-1), found.length[:, [which, which + 3]])
    assert (own.logp[reading.own] < 0).all()
    assert not own.logp[~reading.own].any()
    assert reading.ids.shape == (8, 1, writing.bucket(int(found.views[which].length.max())))
    wider = reading_of(TEAM, found, which, length=128)
    np.testing.assert_array_equal(wider.written, reading.written)
    with pytest.raises(InputError, match="length: found 7"):
        reading_of(TEAM, found, which, length=7)


def test_messages_end_with_their_first_stop_or_at_the_cap(talk):
    """Nothing is read after a stop; all kinds of ends occur."""
    _, found = talk
    kinds = Counter()
    for row, turn in np.ndindex(8, TURNS):
        role, _, scribe = TEAM.agents[turn % 3]
        ids = found.ids[row, turn, : found.length[row, turn]].tolist()
        assert not found.ids[row, turn, len(ids) :].any()
        end = ends(ids, scribe.stops)
        assert bool(found.stopped[row, turn]) == (end is not None)
        assert len(ids) == (role.cap if end is None else end)
        assert found.said[row][turn] == scribe.read(ids)
        kinds[
            turn % 3, len(ids) == role.cap, next((s for s in scribe.stops if end and tuple(ids[-len(s) :]) == s), None)
        ] += 1
    assert kinds[1, False, (3, 4)]
    assert kinds[1, False, (5,)]
    assert kinds[0, True, None]
    assert kinds[0, False, (3,)]


def test_views_are_own_ids_and_what_others_said_encoded_again(talk):
    """Own ids are kept as they were drawn, other agents' never appear; a view ends with the agent's last message."""
    _, found = talk
    names = TEAM.names
    for k, view in enumerate(found.views):
        scribe = TEAM.agents[k].scribe
        for row in range(8):
            said = list(zip(names * 2, found.said[row], strict=True))
            first = found.ids[row, k, : found.length[row, k]].tolist()
            second = found.ids[row, k + 3, : found.length[row, k + 3]].tolist()
            expected = [*scribe.told_first(found.problems[row], said[:k]).ids, *first]
            assert view.begin[row, k] == len(expected) - len(first)
            expected += [*scribe.told_next(first, said[k + 1 : k + 3]).ids, *second]
            assert view.ids[row, : view.length[row]].tolist() == expected
            assert not view.ids[row, view.length[row] :].any()
            assert (view.begin[row] >= 0).sum() == 2
    assert found.drifted.any()  # some own ids are none that their text encodes to: kept all the same
    np.testing.assert_array_equal(found.dropped, np.where(np.arange(TURNS) == 5, 2, np.zeros((8, 1))))


def test_settings_are_recorded(talk):
    settings = talk[1].settings
    assert settings == (1.3, None, None, ("float32",) * 3, ("own",) * 3, DriftPolicy())


def test_a_row_depends_on_no_other_row(talk):
    """Other problems beside it, another order of work, a prompt read once or by each rollout: the same ids."""
    params, found = talk
    others = [PROBLEMS[0], "c", "db", PROBLEMS[3]]
    for again in (
        converse(TEAM, params, others, KEY, 2),
        converse(TEAM, params, [p for p in PROBLEMS for _ in range(2)], KEY),
        converse(TEAM, params, PROBLEMS, KEY, 2, halve=False),
    ):
        for rows in (slice(0, 2), slice(6, 8)):
            np.testing.assert_array_equal(again.ids[rows], found.ids[rows])
            np.testing.assert_allclose(again.logp[rows], found.logp[rows], atol=1e-5)
    assert len({tuple(row) for row in found.ids[:2].reshape(2, -1).tolist()}) == 2


def test_a_router(talk):
    """Who speaks is drawn row by row; an agent works on its rows alone or on all: the same conversations, booked right."""
    team = replace(
        TEAM, agents=TEAM.agents[:2], turns=4, sharing=None, router=lambda said: (0.75, 0.25) if said else (0.5, 0.5)
    )
    params = talk[0][:2]
    found, again = (converse(team, params, PROBLEMS, KEY, 2, halve=halve) for halve in (True, False))
    np.testing.assert_array_equal(found.ids, again.ids)
    np.testing.assert_array_equal(found.speaker, again.speaker)
    assert set(found.chance[:, 0]) == {0.5}
    np.testing.assert_array_equal(found.chance[:, 1:], np.where(found.speaker[:, 1:] == 0, 0.75, 0.25))
    assert (found.speaker[:, 1:] == found.speaker[:, :-1]).any()  # somebody speaks twice running
    for which in (0, 1):
        reading, own = reading_of(team, found, which), own_messages(team, found, which)
        np.testing.assert_array_equal((own.turn >= 0).sum(1), (found.speaker == which).sum(1))
        np.testing.assert_allclose(rescored(team, params[which], which, reading), own.logp, atol=1e-4)
        assert (own.logp[reading.own] < 0).all()


def test_rows_that_have_ended_leave_the_batch(talk, monkeypatch):
    """Halved again and again, and put back for the next turn: the same conversations."""
    team, params = replace(TEAM, agents=TEAM.agents[1:2], turns=2, sharing=None), talk[0][1:2]
    whole = converse(team, params, PROBLEMS, KEY, 2, halve=False)
    sizes, write = set(), writing.write
    monkeypatch.setattr(pens, "HALVED", 2)
    monkeypatch.setattr(writing, "write", lambda *x, **more: sizes.add(len(x[3].done)) or write(*x, **more))
    found = converse(team, params, PROBLEMS, KEY, 2)
    assert sizes >= {8, 4, 2}
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_array_equal(found.stopped, whole.stopped)
    np.testing.assert_allclose(found.logp, whole.logp, atol=1e-5)


def test_drift(talk):
    """Kept, refused, or drawn again; what is drawn again stands where the network reads it, and is booked."""
    params, found = talk
    assert not found.redrawn.any()
    with pytest.raises(InputError, match="drift: found message of turn 0 in conversation"):
        converse(TEAM, params, PROBLEMS, KEY, 2, drift=DriftPolicy("refuse"))
    again = converse(TEAM, params, PROBLEMS, KEY, 2, drift=DriftPolicy("resample", 2))
    assert again.redrawn.max() == 2
    assert again.drift.redrawn == again.redrawn.sum()
    assert (found.drift.drifted, found.drift.messages) == (found.drifted.sum(), 8 * TURNS)
    assert (again.drifted <= (again.redrawn == 2)).all()
    np.testing.assert_array_equal(again.redrawn[:, 0] > 0, found.drifted[:, 0])
    stays = ~found.drifted[:, 0]
    np.testing.assert_array_equal(again.ids[stays, 0], found.ids[stays, 0])
    assert (again.ids[~stays, 0] != found.ids[~stays, 0]).any(1).all()
    for which in range(3):
        booked = own_messages(TEAM, again, which).logp
        np.testing.assert_allclose(
            rescored(TEAM, params[which], which, reading_of(TEAM, again, which)), booked, atol=1e-4
        )


def test_checkpoints_talk():
    """Two checkpoints, each with its own tokenizer and chat template, one of them unrolled with adapters to write with."""
    loaded = [load_agent(CHECKPOINTS / name, lora=lora) for name, lora in (("llama3", Lora(rank=2)), ("qwen2", None))]
    agents = []
    for one, role in zip(
        loaded, (Role("solver", "Solve it.", cap=6), Role("checker", cap=5, sees="last")), strict=True
    ):
        agents.append(TextAgent(role, replace(one.model, unroll=not agents), Scribe(one.tokenizer, role)))
    team = TextTeam(tuple(agents), turns=4)
    params = [
        jax.tree_util.tree_map_with_path(lambda path, x: x + 0.1 * ("lora_b" in str(path)), one.params)
        for one in loaded
    ]
    found = converse(team, params, ["1 + 2", "what?"], jax.random.key(0), 2)
    for which in (0, 1):
        reading, own = reading_of(team, found, which), own_messages(team, found, which)
        np.testing.assert_allclose(rescored(team, params[which], which, reading), own.logp, atol=1e-4)
        assert own.logp[reading.own].min() < -1
        for row in range(4):
            scribe, problem = agents[which].scribe, found.problems[row]
            first, second = (found.ids[row, t, : found.length[row, t]].tolist() for t in (which, which + 2))
            other = [(team.names[1 - which], text) for text in found.said[row][1 - which :: 2]]
            opening = [*scribe.opening(problem, other[:which]), *first]
            expected = [*opening, *scribe.between(first, other[which : which + 1], len(opening)), *second]
            view = found.views[which]
            assert view.ids[row, : view.length[row]].tolist() == expected
    assert found.settings.dtype == ("float32", "float32")


# ----------------------------------------------------------------------------------------------------- the law


TINY = replace(LLAMA, vocabulary=4, layers=1, heads=1, kv_heads=1, head_dim=8)
SAMPLES = 10_000


def by_text(said):
    """Who speaks second depends on what was said first."""
    return (0.5, 0.5) if not said else (0.8, 0.2) if "a" in said[0][1] else (0.25, 0.75)


LAW = TextTeam(
    tuple(agent(name, TINY, cap=2, pieces=(">", "a", ".", "b"), stops=((2,),), system="") for name in "ab"),
    turns=2,
    router=by_text,
    temperature=0.7,
)


def messages():
    """All of at most two ids."""
    return [(2,), *((x, y) for x in (0, 1, 3) for y in range(4))]


def law(params):
    """The probability of each ``(speaker, message, speaker, message)``, from logits alone."""
    tables: dict[tuple, np.ndarray] = {}

    def of(k, view, ids):
        """Probability of a message after a view."""
        p = 1.0
        for at, written in enumerate(ids):
            read = (k, *view, *ids[:at])
            if read not in tables:
                row = jnp.asarray([[*read[1:], *[0] * (16 - len(read))]])
                features, _ = forward(params[k], row, jnp.arange(15)[None] < len(read) - 1)
                tables[read] = np.asarray(
                    jax.nn.softmax(logits_of(features[0, len(read) - 2], TINY.head(params[k])) / LAW.temperature),
                    np.float64,
                )
            p *= tables[read][written]
        return p

    forward = jax.jit(TINY.features)
    out = {}
    for k, first, j, second in itertools.product((0, 1), messages(), (0, 1), messages()):
        scribe, other = LAW.agents[k].scribe, LAW.agents[j].scribe
        view = scribe.told_first("ab", []).ids
        p = by_text([])[k] * of(k, view, first)
        said = [(LAW.names[k], scribe.read(first))]
        then = [*view, *first, *scribe.told_next(first, []).ids] if j == k else other.told_first("ab", said).ids
        out[k, first, j, second] = p * by_text(said)[j] * of(j, then, second)
    return out


def chi_square(observed, probability):
    """p-value; cells of fewer than 5 expected merged into one."""
    expected = probability * observed.sum()
    small = expected < 5
    o, e = (np.append(x[~small], x[small].sum()) for x in (observed, expected))
    return scipy.stats.chi2.sf(((o - e) ** 2 / np.maximum(e, 1e-300)).sum(), len(o) - 1), len(o)


def test_the_law_of_conversations(monkeypatch):
    """Two turns, a router by text, a temperature, stops and the cap: against all 676 conversations, at a level of 1e-4."""
    monkeypatch.setattr(pens, "bucket", lambda count, least=4: writing.bucket(count, 4))  # many rows: few slots
    params = params_of(LAW, seed=3)
    found = converse(LAW, params, ["ab"], jax.random.key(2), SAMPLES, halve=False)
    expected = law(params)
    assert abs(sum(expected.values()) - 1) < 1e-5
    number = {outcome: k for k, outcome in enumerate(expected)}
    probability = np.array(list(expected.values()))
    ids = [
        [tuple(m[:n]) for m, n in zip(*x, strict=True)]
        for x in zip(found.ids.tolist(), found.length.tolist(), strict=True)
    ]
    which = [number[k, a, j, b] for (k, j), (a, b) in zip(found.speaker.tolist(), ids, strict=True)]
    observed = np.bincount(which, minlength=len(probability))
    p, cells = chi_square(observed, probability / probability.sum())
    assert cells > 60
    assert p > FALSE_ALARM
    flatter = probability**0.93 / (probability**0.93).sum()  # the test would see another temperature
    assert chi_square(observed, flatter)[0] < FALSE_ALARM
    booked = found.logp.astype(float).sum((1, 2)) + np.log(found.chance).sum(1)
    np.testing.assert_allclose(booked, np.log(probability[which]), atol=1e-4)


def test_ids_follow_the_law_of_bfloat16_features():
    """Noise in bfloat16 would have 128 values: ids are drawn and booked in float32 whatever the features are."""
    k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
    features = jnp.repeat(jax.random.normal(k1, (1, 16), jnp.bfloat16), SAMPLES, axis=0)
    head, uniform = jax.random.normal(k2, (600, 16), jnp.bfloat16), jax.random.uniform(k3, (SAMPLES, 1, 2), jnp.float32)
    stops = writing.stop_table([])
    message = writing.begin(features, head, uniform, stops, np.float32(2.0), np.zeros(SAMPLES, bool))
    logits = np.asarray(features[0], np.float64) @ np.asarray(head, np.float64).T / 2
    log_p = logits - scipy.special.logsumexp(logits)
    assert message.logp.dtype == jnp.float32
    np.testing.assert_allclose(message.logp[:, 0], log_p[np.asarray(message.ids[:, 0])], atol=1e-5)
    p, cells = chi_square(np.bincount(np.asarray(message.ids[:, 0]), minlength=600), np.exp(log_p))
    assert cells > 100
    assert p > FALSE_ALARM


# ----------------------------------------------------------------------------------------------------- sharing


def test_sharers_have_one_set_of_parameters_and_a_view_each():
    """Views differ by role; `credited` follows the sharing; adapters on a base that is in memory once."""
    config = replace(LLAMA, lora=Lora(rank=2))
    base = params_of(TextTeam((agent("x"),), turns=1))[0]
    own = [adapted(config, jax.tree.map(jnp.copy, base), jax.random.key(k)) for k in (0, 1)]
    own = [jax.tree_util.tree_map_with_path(lambda path, x: x + 0.3 if "lora_b" in str(path) else x, p) for p in own]
    agents = (agent("a", config), agent("b", config, cap=6), agent("c", config, system="gg"))
    team = TextTeam(agents, turns=4, schedule=lambda t: (0, 2, 1, 0)[t], sharing=Sharing((0, 1, 0)))
    params = text_params(team, own)
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(params[0]), jax.tree.leaves(params[1]), strict=True
    ):
        assert (one is two) == ("lora_" not in str(path))
    found = converse(team, params, PROBLEMS, jax.random.key(0), 2)
    reading, messages_ = reading_of(team, found, 0, 2), own_messages(team, found, 0)
    assert reading.ids.shape[:2] == (8, 2)
    assert messages_.turn.tolist() == [[0, 1, 3]] * 8
    np.testing.assert_allclose(rescored(team, params[0], 0, reading), messages_.logp, atol=1e-4)
    np.testing.assert_array_equal(reading.credited, reading.own & (messages_.agent == 2)[..., None])
    joint = replace(team, sharing=Sharing((0, 1, 0), "joint"))
    np.testing.assert_array_equal(reading_of(joint, found, 0, 2).credited, reading.own)
    assert found.views[1].ids.shape != found.views[2].ids.shape
    with pytest.raises(InputError, match="agent: found 1, expected one of"):
        reading_of(team, found, 0, 1)


def test_what_is_refused():
    """By name, before any work."""
    alone = (agent("a"),)
    sees_nobody = alone[0]._replace(role=replace(alone[0].role, sees=("solvr",)))
    refused = [
        (dict(agents=()), "agents"),
        (dict(agents=(1,)), r"agents\[0\]: found 1, expected a TextAgent"),
        (dict(agents=(alone[0]._replace(role=None),)), r"agents\[0\]: found None, expected a Role"),
        (dict(agents=(sees_nobody,)), r"agents\[0\].role.sees: found 'solvr', expected a role of the team: a"),
        (dict(agents=alone, router=0.5), "router: found 0.5, expected a function"),
        (dict(agents=alone, schedule=[0, 0]), r"schedule: found \[0, 0\], expected a function"),
        (dict(agents=alone * 2), "named 'a'"),
        (dict(agents=alone, turns=0), "turns"),
        (dict(agents=alone, temperature=0.0), "temperature"),
        (dict(agents=alone, schedule=lambda t: t), r"schedule\(1\)"),
        (dict(agents=alone, schedule=lambda t: 0, router=lambda s: (1.0,)), "both"),
        (dict(agents=(agent("a", QWEN, stops=((11,),)),)), "stops"),
        (dict(agents=alone, sharing=Sharing((0, 0))), "sharing"),
        (dict(agents=(agent("a"), agent("b", MISTRAL)), sharing=Sharing((0, 0))), r"agents\[1\].model"),
    ]
    for wrong, match in refused:
        with pytest.raises(InputError, match=match):
            TextTeam(**{"turns": 2, **wrong})
    team = TextTeam((agent("a", replace(LLAMA, longest=24)), agent("b")), turns=2)
    params, key = params_of(team), jax.random.key(0)
    for arguments, match in (
        ((params[:1], ["a"], key), "params: found 1"),
        ((params, "a", key), "problems"),
        ((params, [("a",)], key), r"problems\[0\]"),
        ((params, ["a"], key, 0), "group"),
        ((params, ["ac" * 12], key), "view of a: found 25 ids read and a message of 4, expected at most 24"),
    ):
        with pytest.raises(InputError, match=match):
            converse(team, *arguments)
    for wrong, match in (([3], r"problems\[0\]: found 3"), (3, "problems: found 3"), ([None], "found None")):
        with pytest.raises(InputError, match=match):
            unwrap(text_sampler._rows)(team, params, cast(Any, wrong), 1, {})  # without the suite's type checker
    with pytest.raises(InputError, match="external"):
        converse(team, params, ["a"], key, external={2: lambda *x: ([], [])})
    with pytest.raises(InputError, match="params: found 1"):
        text_params(team, params[:1])
    broken = jax.tree.map(lambda x: x * np.nan, params[0])
    with pytest.raises(ArithmeticError, match="message of a: the logits of its network are not numbers"):
        converse(team, (broken, params[1]), ["a"], key)
    with pytest.raises(InputError, match="router: found"):
        converse(replace(team, router=lambda said: (0.5, 0.6)), params, ["a"], key)
    for wrong in (0.5, "ab", None, ((0.5, 0.5),)):
        with pytest.raises(InputError, match=r"router: found .* expected 2 probabilities"):
            converse(replace(team, router=lambda said, wrong=wrong: wrong), params, ["a"], key)
