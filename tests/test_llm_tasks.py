"""Tasks: demonstrations are right, wrong answers earn nothing, splits are disjoint, settings and lengths are checked."""

import doctest
import importlib.util
import itertools
import math
import sys

import numpy as np
import pytest

from teamtr_jax.llm.layout import messages, random_router
from teamtr_jax.llm.tasks import (
    TASKS,
    Carry,
    Copy,
    Parity,
    Problem,
    Recipe,
    Relay,
    Task,
    base,
    check_task,
    draw,
    is_held_out,
    layout_of,
    make_task,
    reasoning,
    reasoning_gym_task,
)
from teamtr_jax.validation import InputError

GYM = importlib.util.find_spec("reasoning_gym") is not None
needs_gym = pytest.mark.skipif(not GYM, reason="reasoning_gym is not installed (extra `tasks`)")

OWN = [
    ("carry", {}),
    ("carry", dict(numbers=4, digits=5)),
    ("carry", dict(numbers=10, digits=2, low_first=False)),
    ("carry", dict(numbers=2, digits=1)),
    ("relay", {}),
    ("relay", dict(keys=7, agents=3, rounds=2)),
    ("relay", dict(keys=26, agents=4, hops_each=3)),
    ("relay", dict(keys=3, agents=2)),
    ("copy", {}),
    ("copy", dict(symbols=2, agents=8, length=2, shares=False)),
    ("parity", {}),
    ("parity", dict(agents=5, bits=1, shares=True)),
]
FROM_GYM = [
    ("chain_sum", {}),
    ("chain_sum", dict(agents=2, min_terms=2, max_terms=7, max_digits=3)),
    ("chain_sum", dict(agents=5, min_terms=2, max_terms=2)),
    ("gcd", {}),
    ("gcd", dict(agents=5, max_value=1000)),
    ("gcd", dict(agents=4, min_numbers=3, max_numbers=4)),
    ("spell_backward", {}),
    ("spell_backward", dict(agents=4, max_word_len=10)),
]
ALL = [pytest.param(name, settings, id=f"{name}-{i}") for i, (name, settings) in enumerate(OWN)] + [
    pytest.param(name, settings, id=f"{name}-{i}", marks=needs_gym) for i, (name, settings) in enumerate(FROM_GYM)
]


def expected(task, prompt):
    """The answer by other means than the package's."""
    if isinstance(task, Carry):
        step = -1 if task.low_first else 1
        return str(sum(int(x[::step]) for x in prompt.split("+")))
    if isinstance(task, Relay):
        here = prompt[-1]
        for _ in range(task.agents * task.rounds * task.hops_each):
            here = prompt[prompt.index(here.upper()) - 1]
        return here
    if isinstance(task, Copy):
        return prompt
    if isinstance(task, Parity):
        return str(sum(map(int, prompt)) % 2)
    if task.name == "gcd":
        return str(math.gcd(*map(int, prompt.split(","))))
    if task.name == "chain_sum":
        terms = "".join(f" {c} " if c in "+-" else c for c in prompt).split()
        return str(
            int(terms[0])
            + sum(int(x) if op == "+" else -int(x) for op, x in zip(terms[1::2], terms[2::2], strict=True))
        )
    return prompt[::-1]


def answer_given(task, messages):
    """What the conversation says the answer is, in the form of `expected`."""
    if isinstance(task, Carry):
        return str(int(messages[-1][::-1] if task.low_first else messages[-1]))
    if isinstance(task, Relay):
        return messages[-1][-1]
    return "".join(messages) if isinstance(task, Copy) else messages[-1]


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_demonstrations_solve(name, settings):
    """A hundred problems: the answer is that of an independent calculation, the demonstration gives it and earns 1."""
    task = make_task(name, **settings)
    assert isinstance(task, Task)
    check_task(task, seed=5)
    rng = np.random.default_rng(1)
    prompts = set()
    for _ in range(100):
        problem = task.sample(rng)
        messages = task.demonstrate(problem, rng)
        prompts.add(problem.prompt)
        assert problem.answer.lower() == expected(task, problem.prompt) == answer_given(task, messages)
        assert task.verify(problem, messages) == 1
        assert len(problem.prompt) <= task.prompt_length
        assert all(len(text) <= task.message_length for text in messages)
    assert len(prompts) > 1


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_wrong_answers_earn_nothing(name, settings):
    """A last message that says something else earns 0, and so does a conversation of another length."""
    task = make_task(name, **settings)
    whole = not getattr(task, "shares", False)
    rng = np.random.default_rng(2)
    for problem in [task.sample(rng) for _ in range(20)]:
        right = task.demonstrate(problem, rng)
        last = right[-1]
        for at, other in itertools.product(range(len(last)), task.characters):
            wrong = [*right[:-1], last[:at] + other + last[at + 1 :]]
            reward = task.verify(problem, wrong)
            said = wrong[-1]
            if said == last:
                assert reward == 1
            elif not whole:
                assert 0 <= reward < 1
            elif isinstance(task, Relay) and at < len(last) - 1:
                assert reward == 1  # only where it ends counts
            elif isinstance(task, Carry) or name == "chain_sum":
                step = -1 if isinstance(task, Carry) and task.low_first else 1
                value = (sign := -1 if said[0] == "-" else 1) and said[::step].lstrip("-" if sign < 0 else "")
                assert reward == float(value.isdigit() and sign * int(value) == int(problem.answer))
            else:
                assert reward == 0
        for broken in (
            [],
            right[:-1],
            [*right, last],
            [""] * len(right),
            ["²"] * len(right),
            ["\x00" * 9] * len(right),
        ):
            if broken != right:
                assert task.verify(problem, broken) == 0
        assert (
            task.verify(problem, [*right[:-1], "9" * 5000]) == 0 or not whole
        )  # Python refuses to read longer integers


def test_share_of_right_messages():
    copy = Copy(symbols=4, agents=3, length=2)
    problem = Problem("abcdab", "abcdab")
    for said, share in [
        (["ab", "cd", "ab"], 6),
        (["ab", "cd", "ba"], 4),
        (["aa", "cd", "bb"], 4),
        (["abc", "cd", "a"], 2),
    ]:
        assert copy.verify(problem, said) == share / 6
        assert Copy(4, 3, 2, shares=False).verify(problem, said) == (share == 6)
    parity = Parity(agents=3, bits=2, shares=True)
    assert parity.verify(Problem("100111", "0"), ["1", "1", "0"]) == 2 / 3
    assert Parity(agents=3, bits=2).verify(Problem("100111", "0"), ["0", "1", "0"]) == 1  # only the last one counts


@pytest.mark.parametrize("low_first", [True, False])
@pytest.mark.parametrize("numbers", [2, 3, 10])
def test_carries_by_value(numbers, low_first):
    """Carry into column j is ⌊Σ (x mod 10^j) / 10^j⌋; digits and carry together are the sum."""
    task, rng = Carry(numbers, 4, low_first), np.random.default_rng(3)
    for problem in [task.sample(rng) for _ in range(200)]:
        values = [int(x[::-1] if low_first else x) for x in problem.prompt.split("+")]
        carries, digits, total = task.demonstrate(problem, rng)
        assert carries == "".join(str(sum(x % 10**j for x in values) // 10**j) for j in range(1, 5))
        assert int(carries[-1] + digits[::-1]) == sum(values) == int(problem.answer)
        assert total == (digits + carries[-1] if low_first else carries[-1] + digits[::-1])


def test_relay_is_a_cycle_in_random_order():
    """The table is one cycle through all keys; every key comes first somewhere; each message is one hop from the one before."""
    task, rng = Relay(keys=6, agents=2, rounds=2), np.random.default_rng(4)
    first = set()
    for problem in [task.sample(rng) for _ in range(200)]:
        arrows = {problem.prompt[i + 1].lower(): problem.prompt[i] for i in range(0, 12, 2)}
        here, seen = "a", set()
        while here not in seen:
            seen.add(here)
            here = arrows[here]
        assert seen == set("abcdef")
        said = task.demonstrate(problem, rng)
        assert all(arrows[a] == b for a, b in itertools.pairwise([problem.prompt[-1], *said]))
        first.add(problem.prompt[1])
    assert first == set("ABCDEF")


@needs_gym
def test_scratch_of_reasoning_gym():
    """First messages are useful: totals so far, steps of Euclid, the letters from the end."""
    chain, gcd, spell = (reasoning_gym_task(name) for name in ("chain_sum", "gcd", "spell_backward"))
    rng = np.random.default_rng(0)
    assert chain.demonstrate(Problem("8+4-9-4", "-1"), rng) == ["12", "3", "-1"]
    assert chain.demonstrate(Problem("3-9+1-4", "-9"), rng) == ["-6", "-5", "-9"]
    assert gcd.demonstrate(Problem("21,28", "7"), rng) == ["28,21", "21,7", "7"]
    assert gcd.demonstrate(Problem("9,3", "3"), rng) == ["3,0", "3,0", "3"]
    assert spell.demonstrate(Problem("vang", "gnaV"), rng) == ["gn", "gna", "gnav"]


@needs_gym
@pytest.mark.parametrize(("name", "settings"), FROM_GYM)
def test_verifier_is_that_of_reasoning_gym(name, settings):
    """On right answers, other problems' answers and their mixtures: the score of the dataset on its own entry, or 0 below 1."""
    import reasoning_gym

    strict, lax = (make_task(name, partial=partial, **settings) for partial in (False, True))
    dataset = reasoning_gym.create_dataset(name, seed=0, size=2**31, **dict(strict.options))
    indices = np.random.default_rng(6).integers(2**31, size=50).tolist()
    rng = np.random.default_rng(6)
    problems = [strict.sample(rng) for _ in indices]
    answers = [p.answer for p in problems[:12]] + ["", "-", "1" + problems[0].answer, problems[0].answer[:-1]]
    partly = 0
    for index, problem in zip(indices, problems, strict=True):
        entry = dataset[index]
        assert entry["answer"] == problem.answer
        assert str(entry["metadata"].get("numbers", [problem.prompt])[0]) in problem.prompt
        for answer in [problem.answer, "1" + problem.answer, *answers]:
            score = dataset.score_answer(answer, entry)
            said = [""] * (strict.turns - 1) + [answer]
            assert lax.verify(problem, said) == score
            assert strict.verify(problem, said) == (score == 1)
            partly += 0 < score < 1
    assert partly > 0


@needs_gym
def test_any_dataset_with_a_recipe():
    """count_bits: the binary digits, then how many are 1."""
    recipe = Recipe(
        roles=("converter", "answerer"),
        options=lambda agents: {"max_n": 255},
        characters="0123456789",
        prompt_only="",
        lengths=lambda options, agents: (len(str(options["max_n"])), options["max_n"].bit_length()),
        prompt=lambda entry: str(entry["metadata"]["number"]),
        steps=lambda prompt, answer, agents: [format(int(prompt), "b")] * (agents - 1) + [answer],
    )
    task = reasoning_gym_task("count_bits", agents=2, recipe=recipe)
    check_task(task)
    assert task.verify(Problem("9", "2"), ["1001", "2"]) == 1
    assert reasoning_gym_task("count_bits", 3, recipe=recipe, max_n=7).roles == (
        "converter 1",
        "converter 2",
        "answerer",
    )


def test_split_by_value():
    """BLAKE2b of the prompt, eight bytes little-endian, divisible by 8: computed elsewhere (`b2sum -l 64`)."""
    assert [x for x in map(str, range(40)) if is_held_out(x)] == "17 18 19 25 29 30 39".split()
    held = np.mean([is_held_out(str(i)) for i in range(40_000)])
    assert abs(held - 1 / 8) < 5 * math.sqrt(7 / 64 / 40_000)  # five standard errors: false alarm 6e-7


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_draw(name, settings):
    """Both splits fill, share no prompt, and come again from the same seed."""
    task = make_task(name, **settings)
    train, held = (draw(task, np.random.default_rng(7), 64, side) for side in (False, True))
    assert len(train) == len(held) == 64
    assert all(is_held_out(p.prompt) for p in held)
    assert not any(is_held_out(p.prompt) for p in train)
    assert draw(task, np.random.default_rng(7), 16, True) == held[:16]
    assert draw(task, np.random.default_rng(8), 16, True) != held[:16]


def test_draw_without_repetition(monkeypatch):
    """Copy of three letters of four has 64 prompts: each side is enumerated, and one more is refused."""
    monkeypatch.setattr(base, "MISSES", 1000)
    every = {"".join(x) for x in itertools.product("abcd", repeat=3)}
    for side in (False, True):
        mine = {x for x in every if is_held_out(x) == side}
        assert {p.prompt for p in draw(Copy(), np.random.default_rng(0), len(mine), side, distinct=True)} == mine
        with pytest.raises(InputError, match=f"gave {len(mine)} of {len(mine) + 1} distinct"):
            draw(Copy(), np.random.default_rng(0), len(mine) + 1, side, distinct=True)
    with pytest.raises(InputError, match="'parity', which gave 0 of 1 held-out prompts and then none in 1000"):
        draw(Parity(agents=1, bits=1), np.random.default_rng(0), 1, True)  # "0" and "1" are both for training


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_layout(name, settings):
    """Everything that prompts and demonstrations hold is in the alphabet, and is read back as it was written."""
    task = make_task(name, **settings)
    layout = layout_of(task)
    problems = [task.sample(np.random.default_rng(seed)) for seed in range(50)]
    said = [task.demonstrate(problem, np.random.default_rng(0)) for problem in problems]
    speaker = np.tile(np.arange(task.turns, dtype=np.int32) % len(task.roles), (50, 1))
    tokens = layout.encode_transcripts([p.prompt for p in problems], said, speaker)
    assert messages(layout, tokens) == said
    assert (layout.agents, layout.turns, layout.temperature) == (len(task.roles), task.turns, 1.0)
    assert set("".join(p.prompt for p in problems)) <= set(task.characters + task.prompt_only)


def test_layout_with_other_settings():
    layout = layout_of(Relay(), random_router(3), temperature=0.8, turns=5)
    assert (layout.router, layout.temperature, layout.turns, layout.vocabulary.ends) == (
        random_router(3),
        0.8,
        5,
        False,
    )
    assert layout_of(Carry()).vocabulary.ends
    assert layout_of(Carry()).caps == (3, 3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Carry(numbers=1), r"numbers: found 1, expected an integer from 2 to 10"),
        (lambda: Carry(numbers=11), r"numbers: found 11"),
        (lambda: Carry(digits=0), r"digits: found 0, expected an integer from 1 to 4096"),
        (lambda: Relay(keys=27), r"keys: found 27"),
        (lambda: Relay(keys=6, agents=3, rounds=2), r"keys: found 6, expected an integer from 7 to 26"),
        (lambda: Relay(agents=0), r"agents: found 0"),
        (
            lambda: Relay(agents=9, rounds=3),
            r"agents, rounds, hops_each: found 9, 3, 1, expected a product of at most 25",
        ),
        (lambda: Carry(digits=10**9), r"digits: found 1000000000, expected an integer from 1 to 4096"),
        (lambda: Carry(low_first=1), r"low_first: found 1, expected True or False"),
        (lambda: Copy(agents=10**9), r"agents: found 1000000000, expected an integer from 1 to 256"),
        (lambda: Copy(length=2.0), r"length: found 2.0"),
        (lambda: Copy(shares="no"), r"shares: found 'no', expected True or False"),
        (lambda: Parity(bits=10**9), r"bits: found 1000000000"),
        (lambda: reasoning_gym_task("gcd", max_value=10**30), r"max_value: found 1000000000"),
        (lambda: reasoning_gym_task("gcd", agents=10**6), r"agents: found 1000000, expected an integer from 2 to 256"),
        (lambda: reasoning_gym_task("chain_sum", max_digits=10**6), r"max_digits: found 1000000, expected .* 0 to 100"),
        (lambda: draw(Copy(), np.random.default_rng(0), 10**12, True), r"size: found 1000000000000"),
        (lambda: Relay(rounds=True), r"rounds: found True"),
        (lambda: Relay(hops_each=0), r"hops_each: found 0"),
        (lambda: Copy(symbols=1), r"symbols: found 1"),
        (lambda: Copy(length=0), r"length: found 0"),
        (lambda: Copy(agents=0), r"agents: found 0"),
        (lambda: Parity(bits=0), r"bits: found 0"),
        (lambda: Parity(agents=0), r"agents: found 0"),
        (lambda: make_task("sums"), r"task: found 'sums', expected one of carry, "),
        (lambda: make_task("carry", digit=2), r"settings of 'carry': found .*'digit'"),
        (
            lambda: reasoning_gym_task("sudoku"),
            r"name: found 'sudoku', expected one of chain_sum, gcd, spell_backward, or a rec",
        ),
        (lambda: reasoning_gym_task("gcd", agents=1), r"agents: found 1"),
        (lambda: reasoning_gym_task("gcd", max_numbers_=3), r"settings of 'gcd': found 'max_numbers_'"),
        (lambda: draw(Copy(), np.random.default_rng(0), -1, True), r"size: found -1"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


@needs_gym
def test_bad_settings_of_reasoning_gym():
    with pytest.raises(InputError, match=r"reasoning-gym dataset 'gcd': found max_value must be > min_value"):
        reasoning_gym_task("gcd", max_value=0)
    with pytest.raises(InputError, match=r"settings of 'chain_sum': found 'allow_negation'"):
        make_task("chain_sum", allow_negation=True)


def test_without_reasoning_gym(monkeypatch):
    reasoning.dataset_of.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        InputError, match=r"reasoning_gym: found not installed, expected pip install 'teamtr-jax\[tasks\]'"
    ):
        make_task("gcd")
    make_task("carry")


def test_tasks_are_settings():
    """Two tasks with the same settings are equal and hash alike."""
    names = [name for name in TASKS if name in dict(OWN) or GYM]
    assert all(make_task(name) == make_task(name) and hash(make_task(name)) == hash(make_task(name)) for name in names)


def test_a_task_takes_ten_lines():
    """The example in the docstring of `Task`: ten lines under its head, and everything it says holds."""
    example = doctest.DocTestParser().get_examples(base.Task.__doc__ or "")[0].source
    assert example.startswith("class ")
    assert len(example.splitlines()) <= 11
    assert doctest.testmod(base, extraglobs={"np": np}).failed == 0


class Broken(Copy):
    """Copy, with one thing wrong."""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(demonstrate=lambda s, p, r: ["a"]), r"demonstrate: found 1 messages"),
        (dict(demonstrate=lambda s, p, r: ["a"] * 3), r"demonstrate: found \['a', 'a', 'a'\] for .* reward 0"),
        (dict(demonstrate=lambda s, p, r: ["aa"] * 3), r"message: found 'aa'"),
        (dict(sample=lambda s, r: Problem("abcd", "abcd")), r"prompts: found 'abcd', 4 characters"),
        (dict(sample=lambda s, r: Problem("xyz", "xyz")), r"text: found 'x'"),
        (
            dict(sample=lambda s, r: Copy.sample(s, np.random.default_rng())),
            r"sample, demonstrate: found other results",
        ),
        (dict(verify=lambda s, p, m: 2.0), r"verify: found 2.0"),
        (dict(verify=lambda s, p, m: float(m[2] == p.answer[2])), r"verify: found IndexError"),
        (dict(prompt_only="a"), r"characters, prompt_only"),
        (dict(caps=(1, 1, 2)), r"caps"),
    ],
)
def test_check_task_finds_what_is_wrong(wrong, message):
    with pytest.raises(InputError, match=message):
        check_task(type("Wrong", (Broken,), wrong)())
