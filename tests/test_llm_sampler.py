"""The sampler against the enumeration: the law of transcripts, log-probabilities, one program."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sampler_runs import talked
from test_llm_enumeration import CASES, SMALL, all_transcripts, brute_force, each_case, far_params

from teamtr_jax.llm import sampler
from teamtr_jax.llm.layout import Layout, Vocabulary, by_turn, emitted, messages, random_router, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_team
from teamtr_jax.llm.sampler import sample
from teamtr_jax.validation import InputError

ROOT = Path(__file__).parents[1]
FALSE_ALARM = 1e-4
"""Of one chi-square test, if the sampler were run with a random key; the keys are fixed."""
ROWS = 8192


def drawn(name, seed=0, scale=3.0):
    """Transcripts of a case, prompts drawn by their weights; and the oracle's law with everything it knows."""
    case = CASES[name]
    params = far_params(case.team, 10, scale)
    asked = np.random.default_rng(seed).choice(len(case.prompts), ROWS, p=case.weights)
    prompts = jnp.asarray(case.team.layout.encode_prompts(list(case.prompts))[asked])
    out = sample(case.team, params, prompts, jax.random.key(seed))
    expected = all_transcripts(case)
    return case, out, expected, brute_force(case, params, expected)


def chi_square(observed, probability):
    """p-value; cells of fewer than 5 expected merged into one."""
    expected = probability * observed.sum()
    small = expected < 5
    cells = [(observed[~small], expected[~small])]
    if expected[small].sum() > 0:
        cells.append((observed[small].sum()[None], expected[small].sum()[None]))
    o, e = (np.concatenate(x) for x in zip(*cells, strict=True))
    return scipy.stats.chi2.sf(((o - e) ** 2 / e).sum(), len(o) - 1), len(o)


@each_case
def test_law_of_transcripts(name):
    """Round robin, random router, router by text, caps, END: chi-square over whole transcripts; nothing impossible occurs."""
    _, out, expected, probability = drawn(name, scale=1.0)
    number = {tuple(x.row): k for k, x in enumerate(expected)}
    which = np.array([number[tuple(row)] for row in np.asarray(out.tokens).tolist()])
    observed = np.bincount(which, minlength=len(expected))
    p, cells = chi_square(observed, probability)
    assert cells > 10
    assert p > FALSE_ALARM
    skewed = probability * np.where(
        np.arange(len(probability)) % 2, 1.2, 0.8
    )  # the test would see a law that is off by a fifth
    assert chi_square(observed, skewed / skewed.sum())[0] < FALSE_ALARM


@each_case
def test_behaviour_log_probabilities(name):
    """Of every transcript the sum over its tokens; zero where nobody wrote; the speaker is the one of the header."""
    case, out, expected, probability = drawn(name, seed=1)
    layout = case.team.layout
    known = {tuple(x.row): np.log(p / x.chance) for x, p in zip(expected, probability, strict=True)}
    log_p = np.array([known[tuple(row)] for row in np.asarray(out.tokens).tolist()])
    np.testing.assert_allclose(out.logp.sum(1), log_p, rtol=1e-5, atol=1e-5)
    assert not np.asarray(out.logp)[~np.asarray(emitted(layout, out.tokens))].any()
    headers = np.asarray(out.tokens)[:, [layout.start(t) for t in range(layout.turns)]]
    np.testing.assert_array_equal(headers - layout.vocabulary.header(0), out.speaker)
    assert {len(row) for row in messages(layout, out.tokens)} == {layout.turns}
    assert by_turn(layout, out.logp).shape == (ROWS, layout.turns, layout.message)


def test_scheduled_and_sorted_rows_are_the_same():
    """The round robin without its schedule goes by sorted blocks: same uniforms, same transcripts."""
    planned = Layout(Vocabulary("01", 3, "?"), 1, 2, 4, round_robin(3), caps=(1, 2, 2))
    sorted_ = Layout(planned.vocabulary, 1, 2, 4, round_robin(3)._replace(schedule=None), caps=(1, 2, 2))
    teams = [LanguageTeam(layout, (SMALL,) * 3) for layout in (planned, sorted_)]
    params = far_params(teams[0], 2)
    prompts = jnp.asarray(planned.encode_prompts(["?"] * 333))
    a, b = (sample(team, params, prompts, jax.random.key(3)) for team in teams)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.speaker, b.speaker)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


def test_key_and_programs():
    """The key decides everything; other prompts and keys compile nothing."""
    layout = Layout(Vocabulary("01", 2, "?!"), 2, 2, 3, random_router(2))
    team = LanguageTeam(layout, (SMALL,) * 2)
    params = init_team(team, jax.random.key(0))
    prompts = jnp.asarray(layout.encode_prompts(["?", "!?"] * 20))
    first = sample(team, params, prompts, jax.random.key(1))
    program: Any = sampler._sample
    before = program._cache_size()
    again = sample(team, params, prompts, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = sample(team, params, prompts, jax.random.key(2))
    assert (np.asarray(first.tokens) != np.asarray(other.tokens)).any()
    sample(team, init_team(team, jax.random.key(4)), prompts[::-1], jax.random.key(3))
    assert program._cache_size() == before
    np.testing.assert_array_equal(first.tokens[:, :2], prompts)
    with pytest.raises(InputError, match=r"prompts: found shape \[40, 1\]"):
        sample(team, params, prompts[:, :1], jax.random.key(0))


@pytest.mark.parametrize("case", ["round robin", "random", "unlike"])
def test_rows_of_a_prompt_read_it_once(case):
    """Groups draw what the same rows with a prompt each draw, whatever the router and the networks; padded prompts too."""
    router = random_router(2) if case == "random" else round_robin(2)
    layout = Layout(Vocabulary("01", 2, "?!"), 3, 3, 3, router)
    deep = ModelConfig(8, 2, 2)  # with one layer it would not matter what a prompt may read
    models = (deep, ModelConfig(8, 1, 2)) if case == "unlike" else (deep,) * 2
    team = LanguageTeam(layout, models)
    params = far_params(team, 6, 0.5)
    prompts = jnp.asarray(layout.encode_prompts(["?", "!?1", "0!"]))
    shared = sample(team, params, prompts, jax.random.key(3), 40)
    apart = sample(team, params, jnp.repeat(prompts, 40, axis=0), jax.random.key(3))
    assert len(np.unique(shared.tokens, axis=0)) > 30
    np.testing.assert_array_equal(shared.tokens, apart.tokens)
    np.testing.assert_array_equal(shared.speaker, apart.speaker)
    np.testing.assert_allclose(shared.logp, apart.logp, atol=1e-5)
    with pytest.raises(InputError, match="group: found 0"):
        sample(team, params, prompts, jax.random.key(0), 0)


ON_TWO = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from tests.sampler_runs import talked
np.savez(sys.argv[1], **talked(2))
"""


def test_rows_over_devices(tmp_path):
    """Two devices converse apart, with the same uniforms: the same transcripts, in the same order."""
    path = tmp_path / "two.npz"
    subprocess.run([sys.executable, "-c", ON_TWO, str(path)], check=True, cwd=ROOT, timeout=120)
    with jax.enable_x64(False):
        found = talked(1), np.load(path)
    assert len(np.unique(found[0]["tokens"], axis=0)) > 50
    assert np.array_equal(found[0]["tokens"], found[1]["tokens"])
    assert np.array_equal(found[0]["speaker"], found[1]["speaker"])
    assert found[0]["odd"].shape[0] == 12
    assert np.array_equal(found[0]["odd"], found[1]["odd"])
    np.testing.assert_allclose(found[1]["logp"], found[0]["logp"], atol=1e-5)
