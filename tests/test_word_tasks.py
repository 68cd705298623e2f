"""Tasks in words: answers are right by other means, the strict reader resists cheating, roles matter, data sets are checked."""

import importlib.util
import json
import re
from dataclasses import dataclass

import numpy as np
import pytest

from teamtr_jax.llm.tasks import (
    WORD_TASKS,
    Problem,
    Relayed,
    Shop,
    WordProblems,
    WordTask,
    check_word_task,
    draw,
    gym_words,
    is_held_out,
    jsonl_task,
    make_word_task,
    parse_answer,
    views_of,
)
from teamtr_jax.llm.tasks.answers import choice, exact, number
from teamtr_jax.llm.text.role import Role
from teamtr_jax.validation import InputError

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning_gym (extra `tasks`)"
)
GYM = ("chain_sum", "spell_backward", "family_relationships")
ALL = [pytest.param(name, marks=needs_gym if name in GYM else ()) for name in WORD_TASKS]


# ------------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    "message",
    [
        "Answer: 42",
        "answer: 42.",
        "ANSWER:42",
        "3 bags of 14 make 42.\nAnswer: 42",
        "**Answer:** 42",
        "**Answer: 42**",
        "__Answer__: 42",
        "Final answer: 42\n\n",
        "Answer: +42",
        "Answer: 042",
        "Answer: 42.0",
        "Answer: 42.00.",
        "Answer: $42",
        "Answer: `42`",
        'Answer: "42"',
        r"So it is \boxed{42}.",
        r"$\boxed{42}$",
        r"$$\boxed{ 42 }$$",
        r"Answer: \boxed{42}.",
        r"Answer: $\boxed{42}$",
        "The answer is $42$.",
        "<answer>42</answer>",
        "<answer> 42\n</answer>",
        "The answer: <answer>42</answer>",
        "Answer: 42\nAnswer: 42.0",
        "Answer: 42\nso <answer>42</answer>",
        "The answer is 42",
        "So the answer is: 42.",
        "The final answer is **42**.",
        r"The answer is $\boxed{42}$.",
        "I first had 7 or 8, then 41.\nAnswer: 42",
    ],
)
def test_an_answer_is_read(message):
    assert parse_answer(message) == "42"


CHEATS = [
    "",
    "42",
    "It is 42.",
    "The answer is 7 or 42",
    "The answer is not 42",
    "The answer is 42 or so",
    "The answer is: 7\nThe answer is: 42",
    "The answer is 40 + 2 = 42",
    "The answer is\n42",
    "The answer isn't 42",
    "The answers are 42",
    "The answer was 42",
    "Answer:",
    "Answer: ",
    "Answer:\n42",
    "Answer: 7 or 42",
    "Answer: 7, 42",
    "Answer: 7,42",
    "Answer: 42, 7",
    "Answer: 42 7",
    "Answer: 42/7",
    "Answer: 42-7",
    "Answer: 42–7",
    "Answer: 7 42",
    "Answer: 7 or 8\nAnswer: 42",
    "Answer: 7\nAnswer: 42",
    "Answer: 42\nAnswer: 7",
    "Answer: 42\nAnswer:",
    "Answer: 42 Answer: 7",
    "Answer: 42. Or 7?",
    "Answer: 42\nor 7",
    "Answer: 42\n7\n8",
    "Answer: 42 apples",
    "Answer: forty-two",
    "Answer: not 42",
    "Answer: ~42",
    "Answer: <43",
    "Answer: 40+2",
    "Answer: 6*7",
    "Answer: 4.2e1",
    "Answer: 0x2a",
    "Answer: 4 2",
    "Answer: 4\u200b2",
    "Answer: ٤٢",
    "Answer: \uff14\uff12",
    "Answer: 42..",
    "Answer: 4,2",
    "Answer: 42,",
    "Answer: ,42",
    "Answer: +-42",
    "Answer: --42",
    "Answer: 42%",
    "Answer: 42?",
    "Answer: 42!",
    "Answer: (42)",
    "Answer: [42, 7]",
    "Answer: 4[...]2",
    "Answer: " + "0" * 5000 + "42",
    "myanswer: 42",
    "<answer>Answer: 42</answer>",
    "<answer>42",
    "42</answer>",
    "<answer>7</answer><answer>42</answer>",
    "<answer>7<answer>42</answer></answer>",
    "<answer>7 or 42</answer>",
    "<answer x=7>42</answer>",
    r"\boxed{42",
    r"\boxed{7}\boxed{42}",
    r"\boxed{7 \text{ or } 42}",
    r"\boxed{\boxed{42}}",
    r"<answer>7 and \boxed{42}",
    r"\boxed{7 <answer>42</answer>",
    r"\boxed {42}",
    r"\boxed{42} or 7",
    r"\boxed{42}, 7",
    r"Answer: 7 \boxed{42}",
    r"Answer: \boxed{42} \boxed{7}",
    r"Answer: \boxed{42}\boxed{42}",
    "<answer>42</answer> or 7",
    "Answer: 7\n<answer>42</answer>",
    "<answer>42</answer>\nAnswer: 7",
    "\nAnswer: 42\nProblem: 3 + 4?\nAnswer: 7",
    "Answer: 42\nHow many?",
]


@pytest.mark.parametrize("message", CHEATS)
def test_no_answer_for_cheats(message):
    """Whatever might be meant, one number at the end after a marker it is not; and it earns nothing in a task."""
    assert parse_answer(message) != "42"
    assert WordProblems(agents=1).verify(Problem("", "42"), [message]) == 0


def test_numbers_by_value():
    for text, value in [("1,234", "1234"), ("1,234,567.50", "1234567.5"), ("−7", "-7"), ("–7", "-7"), ("-0", "0"), ("-$5", "-5"),
                        ("$-5", "-5"), ("000", "0"), ("0.50", "0.5"), ("12.", "12"), ("9" * 60, "9" * 60)]:  # fmt: skip
        assert number(text) == value
    for text in (
        "12,34",
        "1,2345",
        "1234,567",
        ",123",
        "1,,234",
        ".5",
        "",
        "-",
        "$",
        "1.2.3",
        "1 234",
        "½",
        "²",
        "inf",
        "nan",
    ):
        assert number(text) is None
    assert number("0.1") != number("0.10000000000000000000001")  # no float in between
    for read, letter in ((number, "9"), (exact, "x")):  # 200 characters, and no more
        assert [read(letter * count) == letter * count for count in (200, 201)] == [True, False]


def test_texts_and_choices():
    assert parse_answer("Answer: mother-in-law.", exact) == "mother-in-law"
    assert parse_answer("Answer: red or blue", exact) != "red"
    assert parse_answer("Answer: red\nblue", exact) is None
    assert parse_answer("Answer: red\nAnswer: blue", exact) is None
    assert exact("cafe\u0301") == exact("caf\u00e9")
    assert exact("Red") != exact("red")
    assert parse_answer("Answer: (b).", choice) == "B"
    assert parse_answer("Answer: B or C", choice) is None
    assert parse_answer("Answer: B, because", choice) is None
    assert [choice(x) for x in ("BB", "É", "1", "A.B", "((A))")] == [None] * 5


def test_only_the_last_message_counts():
    """Right words elsewhere earn nothing, nor do missing messages or further ones."""
    task, problem = WordProblems(agents=3), Problem("", "42")
    assert task.verify(problem, ["", "", "Answer: 42"]) == 1
    for said in (["Answer: 42", "", ""], ["", "Answer: 42", "Answer: 41"], ["", "Answer: 42"], ["Answer: 42"], [],
                 ["", "", "", "Answer: 42"], ["", "", "Answer: 42", "Answer: 42"]):  # fmt: skip
        assert task.verify(problem, said) == 0


# -------------------------------------------------------------------------------------------------------------------- tasks

WAYS = [
    ("bad and are thrown away|eats|gives [0-9]+ .* to|loses|sells [0-9]+ .* to|borrows|spends|for a ticket|lends", "-"),
    ("more|another|finds|receives|gives [A-Z]|earns [0-9]+ dollars\\.|pays [A-Z]", "+"),
    ("times", "*"),
    ("shares|equal|split", "/"),
]
"""What a sentence does, seen from its words: the first that matches."""


def retold(prompt):
    """The number of a story, read from its sentences."""
    begin, *happened, _ask = re.split(r"(?<=[.]) ", prompt)
    total = int(np.prod([int(x) for x in re.findall(r"\d+", begin)]))
    for sentence in happened:
        (value,) = map(int, re.findall(r"\d+", sentence))
        way = next(
            sign for words, sign in WAYS if re.search(words, sentence) and not (sign == "+" and "times" in sentence)
        )
        assert way != "/" or total % value == 0
        assert way != "-" or value < total
        total = {"+": total + value, "-": total - value, "*": total * value, "/": total // value}[way]
    return len(happened) + (len(re.findall(r"\d+", begin)) == 2), total


@pytest.mark.parametrize(
    "settings",
    [{}, dict(min_steps=3, max_steps=3, largest=50, divide=True), dict(min_steps=1, max_steps=1, largest=9, multiply=False),
     dict(min_steps=1, max_steps=3, largest=2, divide=True), dict(max_steps=10, largest=1000)],
)  # fmt: skip
def test_word_problems_by_reading_them(settings):
    """Four hundred stories: the answer is what their sentences say, with as many operations as were asked for, in range."""
    task, rng = WordProblems(**settings), np.random.default_rng(0)
    steps, answers = set(), set()
    for problem in [task.sample(rng) for _ in range(400)]:
        count, total = retold(problem.prompt)
        assert str(total) == problem.answer
        assert total >= 0
        steps.add(count)
        answers.add(problem.answer)
        assert all(int(x) >= 2 or x == "1" for x in re.findall(r"\d+", problem.prompt))
        assert all(int(x) <= max(task.largest, 5) for x in re.findall(r"\d+", problem.prompt))
        assert ("times" in problem.prompt) <= task.multiply
    assert steps == set(range(task.min_steps, task.max_steps + 1))
    assert len(answers) > (10 if task.largest > 2 else 3)


def test_word_problems_vary():
    """Of 2,000 stories of the smallest setting nearly all are different, and an eighth is held out."""
    rng = np.random.default_rng(1)
    prompts = [WordProblems(max_steps=1).sample(rng).prompt for _ in range(2000)]
    assert len(set(prompts)) > 1950
    assert 0.09 < np.mean([is_held_out(x) for x in prompts]) < 0.16


@pytest.mark.parametrize("name", ALL)
def test_every_task(name):
    """The protocol, the split, the same problems again, a right answer earns 1 and a wrong one 0."""
    task = make_word_task(name)
    assert isinstance(task, WordTask)
    check_word_task(task)
    assert task == make_word_task(name)
    train, held = (draw(task, np.random.default_rng(3), 40, side) for side in (False, True))
    assert all(is_held_out(p.prompt) for p in held)
    assert not any(is_held_out(p.prompt) for p in train)
    assert draw(task, np.random.default_rng(3), 40, False) == train
    for problem in train:
        said = [""] * (task.turns - 1)
        assert task.verify(problem, [*said, f"Answer: {problem.answer}"]) == 1
        assert task.verify(problem, [*said, f"Answer: {problem.answer}x1"]) == 0
        assert task.verify(problem, [*said, problem.answer]) == 0
    assert "The answer is" in task.roles[-1].ending
    assert all("{" not in role.system + role.ending for role in task.roles)


@needs_gym
def test_reasoning_gym_says_what_is_right():
    """Prompts are its own words; the verdict is that of its `score_answer` on what stands after the marker."""
    import reasoning_gym

    for name in GYM:
        task, lax = gym_words(name, agents=1), gym_words(name, agents=1, partial=True)
        dataset = reasoning_gym.create_dataset(name, seed=0, size=2**31, **dict(task.options))
        indices = np.random.default_rng(6).integers(2**31, size=30).tolist()
        rng = np.random.default_rng(6)
        partly = 0
        for index in indices:
            entry, problem = dataset[index], task.sample(rng)
            assert (problem.prompt, problem.answer) == (entry["question"], entry["answer"])
            for answer in (entry["answer"], "1" + entry["answer"], entry["answer"].upper(), "uncle", "3"):
                read = parse_answer(f"Answer: {answer}", number if name == "chain_sum" else exact)
                score = 0.0 if read is None else dataset.score_answer(read, entry)
                assert lax.verify(problem, [f"Answer: {answer}"]) == score
                assert task.verify(problem, [f"Answer: {answer}"]) == (score == 1)
                partly += 0 < score < 1
        assert partly > 0 or name == "family_relationships"
    with pytest.raises(InputError, match="settings of 'chain_sum': found 'max_term'"):
        gym_words("chain_sum", max_term=3)
    with pytest.raises(InputError, match="dataset: found 'sudoku', expected one of chain_sum"):
        gym_words("sudoku")
    assert [role.name for role in gym_words("chain_sum", agents=4).roles] == [
        "solver",
        "checker 1",
        "checker 2",
        "answerer",
    ]


# -------------------------------------------------------------------------------------------------------------------- roles


def clerk(view, heard):
    del heard
    return " ".join(re.findall(r"One \w+ costs \d+ dollars\.", view)) or "I do not know."


def cashier(view, heard):
    prices = {x: int(price) for text in heard for x, price in re.findall(r"One (\w+) costs (\d+)", text)}
    order = re.search(r"buys (.*?)\.", view)
    wanted = re.findall(r"(\d+) (\w+)", order[1]) if order else []
    total = sum(int(n) * next((p for x, p in prices.items() if thing in (x, x + "s")), 0) for n, thing in wanted)
    return f"Answer: {total}"


def porter(view, heard):
    return heard[-1] if heard else "Nothing to carry."


def reader(view, heard):
    numbers = re.findall(r"\d+", view)
    return (
        f"{numbers[0]} {'-' if re.search(WAYS[0][0], view) else '+'} {numbers[1]}"
        if len(numbers) == 2
        else "Nothing to read."
    )


def calculator(view, heard):
    found = [re.fullmatch(r"(\d+) ([+-]) (\d+)", text) for text in heard[-1:]]
    return str(int(found[0][1]) + int(found[0][2] + found[0][3])) if found and found[0] else "No calculation."


def answerer(view, heard):
    return f"Answer: {heard[-1]}" if heard else "Answer: unknown"


def played(task, policies, size=200):
    """Share of problems that a team of functions of what it sees and hears solves."""
    rng, rewards = np.random.default_rng(5), []
    for problem in draw(task, rng, size, held_out=False):
        views, said = views_of(task, problem), []
        for turn in range(task.turns):
            agent = turn % len(task.roles)
            said.append(policies[agent](views[agent], list(said)))
        rewards.append(task.verify(problem, said))
    return np.mean(rewards)


SCRIPTED = [
    (Shop(goods=3, bought=2, most=4), (clerk, cashier)),
    (Shop(), (clerk, cashier)),
    (Shop(porters=1), (clerk, porter, cashier)),
    (Relayed(), (reader, calculator, answerer)),
]


@pytest.mark.parametrize(("task", "policies"), SCRIPTED)
def test_roles_matter(task, policies):
    """Whoever plays its own role solves everything; any two that change places solve nothing; nobody can do without the first."""
    assert played(task, policies) == 1
    for i in range(len(policies)):
        for j in range(i):
            swapped = list(policies)
            swapped[i], swapped[j] = policies[j], policies[i]
            assert played(task, swapped, 60) == 0, (i, j)
    silent = [lambda view, heard: "", *policies[1:]]
    assert played(task, silent, 60) == 0
    *_, last = task.roles
    assert views_of(task, task.sample(np.random.default_rng(0)))[-1] == "" or last.name == "cashier"


def test_what_a_role_is_told_last():
    """Its instruction stands behind the problem and what it heard, in every user message of its."""
    role = Role("answerer", ending="Answer now.")
    assert role.user_text("1 + 2", [("solver", "3")]) == "1 + 2\n\nsolver: 3\n\nAnswer now."
    assert role.user_text("", []) == "Answer now."
    assert Role("answerer").user_text("1 + 2", []) == "1 + 2"
    with pytest.raises(InputError, match="ending: found 3"):
        Role("answerer", ending=3)  # pyright: ignore[reportArgumentType]


def test_nobody_sees_the_whole():
    """No price is in the cashier's view, no order in the clerk's; the best guess of one price is right once in nineteen."""
    task, rng = Shop(), np.random.default_rng(2)
    answers = []
    for problem in [task.sample(rng) for _ in range(2000)]:
        listed, order = views_of(task, problem)
        assert "costs" not in order
        assert "buys" not in listed
        assert listed + "\n\n" + order == problem.prompt
        answers.append(problem.answer)
    assert max(answers.count(x) for x in set(answers)) / 2000 < 1 / 19 + 5 * np.sqrt(1 / 19 / 2000)


def test_the_numbers_of_a_shop():
    """Prices from 2 to the greatest, from one to the greatest number of each; so many different goods, some of them bought."""
    task, rng, prices, counts = Shop(goods=4, bought=2, most=3, largest=5), np.random.default_rng(3), set(), set()
    for problem in [task.sample(rng) for _ in range(200)]:
        listed, order = views_of(task, problem)
        costs = re.findall(r"One (\w+) costs (\d+) dollars", listed)
        wanted = re.findall(r"(\d+) (\w+)", order)
        assert len({thing for thing, _ in costs}) == len(costs) == 4
        assert len({thing for _, thing in wanted}) == len(wanted) == 2
        prices |= {int(price) for _, price in costs}
        counts |= {int(count) for count, _ in wanted}
    assert (prices, counts) == ({2, 3, 4, 5}, {1, 2, 3})


# --------------------------------------------------------------------------------------------------------------- data sets


def write(path, lines):
    path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))
    return path


def rows(count, **more):
    return [{"prompt": f"{i} + 1?", "answer": i + 1, **more} for i in range(count)]


def test_a_data_set(tmp_path):
    """Held out by hash; every prompt once; the roles are the solving ones; blank lines and a byte order mark are nothing."""
    path = tmp_path / "sums.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(x).encode() for x in rows(60)))
    task = jsonl_task(path)
    check_word_task(task)
    assert (task.name, task.turns) == ("sums.jsonl", 3)
    held = {f"{i} + 1?" for i in range(60) if is_held_out(f"{i} + 1?")}
    assert {p.prompt for p in draw(task, np.random.default_rng(0), 999, True, distinct=True, fewer=True)} == held
    assert len(draw(task, np.random.default_rng(0), 3, True, distinct=True, fewer=True)) == 3 < len(held)
    train = draw(task, np.random.default_rng(0), 60 - len(held), False, distinct=True)
    assert {p.prompt for p in train} == {f"{i} + 1?" for i in range(60)} - held
    assert task.verify(train[0], ["", "", f"Answer: {train[0].answer}.0"]) == 1
    assert {p.prompt for p in draw(task, np.random.default_rng(0), 500, False)} == {p.prompt for p in train}
    with pytest.raises(InputError, match=f"which has {len(held)} distinct held-out prompts"):
        draw(task, np.random.default_rng(0), len(held) + 1, True, distinct=True)
    assert jsonl_task(path) == task
    assert hash(jsonl_task(path)) == hash(task)
    write(path, rows(61))
    assert jsonl_task(path) != task


def test_splits_of_ones_own(tmp_path):
    lines = [{"prompt": x, "answer": a, "split": s} for x, a, s in
             [("sky?", "Blue", "train"), ("sun?", "A", "test"), ("sea?", "b", "validation")]]  # fmt: skip
    task = jsonl_task(write(tmp_path / "x.jsonl", lines), "exact", agents=1)
    assert [p.prompt for p in task.listed(True)] == ["sun?", "sea?"]
    assert task.verify(task.listed(False)[0], ["Answer: Blue"]) == 1
    assert task.verify(task.listed(False)[0], ["Answer: blue"]) == 0
    own = jsonl_task(tmp_path / "x.jsonl", "mine", own=lambda problem, messages: 0.25)
    assert own.verify(task.listed(False)[0], []) == 0.25
    with pytest.raises(InputError, match="line 1: answer: found Blue, expected what the verifier 'choice' can read"):
        jsonl_task(tmp_path / "x.jsonl", "choice")
    with pytest.raises(InputError, match="verifier: found 'regex', expected number or exact or choice"):
        jsonl_task(tmp_path / "x.jsonl", "regex")


def test_the_same_question_is_on_one_side(tmp_path):
    """Prompts that differ in case and blanks alone are held out as the first of them is."""
    lines = [{"prompt": x, "answer": 1} for i in range(40) for x in (f"Say {i}?", f"say  {i}? ", f" SAY {i}?")]
    task = jsonl_task(write(tmp_path / "x.jsonl", lines))
    train, held = ([" ".join(p.prompt.lower().split()) for p in task.listed(side)] for side in (False, True))
    assert not set(train) & set(held)
    assert len(held) == 3 * sum(is_held_out(f"Say {i}?") for i in range(40)) > 0


GOOD = '{"prompt": "1?", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"found no lines, expected one JSON object a line"),
        (["\n \n"], r"found no lines"),
        ([GOOD, "{prompt: 2}\n"], r"line 2: found Expecting property name"),
        ([GOOD, "\n", "[1, 2]\n"], r"line 3: found \[1, 2\]"),
        ([GOOD, '"text"\n'], r"line 2: found \"text\""),
        ([GOOD, {"prompt": "2?"}], r"line 2: answer: found none among prompt"),
        ([GOOD, {"question": "2?", "answer": "2"}], r"line 2: prompt: found none among question, answer"),
        ([GOOD, {"prompt": 2, "answer": "2"}], r"line 2: prompt: found 2, expected a text"),
        ([GOOD, {"prompt": " ", "answer": "2"}], r"line 2: prompt: found ' '"),
        (
            [GOOD, {"prompt": "2?", "answer": ""}],
            r"line 2: answer: found '', expected a text that is not empty or a whole",
        ),
        ([GOOD, {"prompt": "2?", "answer": 2.5}], r"line 2: answer: found 2.5"),
        ([GOOD, {"prompt": "2?", "answer": True}], r"line 2: answer: found True"),
        ([GOOD, {"prompt": "2?", "answer": None}], r"line 2: answer: found None"),
        ([GOOD, GOOD], r"line 2: found the prompt of line 1 again, expected each prompt once"),
        ([GOOD, '{"prompt": "2?", "answer": "2", "prompt": "3?"}\n'], r"line 2: found a key twice"),
        (
            [GOOD, {"prompt": "2?", "answer": "2", "split": "test"}],
            r"line 2: split: found one, expected one in all lines",
        ),
        ([{"prompt": "2?", "answer": "2", "split": "test"}, GOOD], r"line 2: split: found none"),
        ([{"prompt": "2?", "answer": "2", "split": "Test"}], r"line 1: split: found 'Test', expected train or"),
        ([{"prompt": "2?", "answer": "2", "split": 1}], r"line 1: split: found 1"),
        ([{"prompt": "2?", "answer": "2", "split": "test"}], r"found 1 prompts, none training by their splits"),
        ([{"prompt": "2?", "answer": "2", "split": "train"}], r"found 1 prompts, none held out by their splits"),
        ([GOOD], r"found 1 prompts, none held out by the hashes"),
        (["[" * 100_000 + "\n"], r"line 1: found"),
        (['{"prompt": "\\ud800?", "answer": "2"}\n'], r"line 1: prompt: found .*expected characters"),
        (['{"prompt": "2?", "answer": "\\ud800"}\n'], r"line 1: answer: found .*expected characters"),
        (
            [{"prompt": "Sum?", "answer": "2", "split": "train"}, {"prompt": "sum? ", "answer": "2", "split": "test"}],
            r"line 2: split: found test, for the prompt of line 1 but for case and blanks, expected one split for both",
        ),
    ],
)
def test_bad_data_sets(tmp_path, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        jsonl_task(write(tmp_path / "bad.jsonl", lines))
    assert "bad.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD.encode() + b'{"prompt": "caf\xe9?", "answer": "2"}\n')
    with pytest.raises(InputError, match=r"line 2: found byte 0xe9 at 15, which is not UTF-8"):
        jsonl_task(path)
    with pytest.raises(InputError, match="no such file"):
        jsonl_task(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="a folder"):
        jsonl_task(tmp_path)


# --------------------------------------------------------------------------------------------------------- tasks of one's own


@dataclass(frozen=True)
class Own:
    """A task, with one thing wrong."""

    name = "own"
    turns = 1
    roles = (Role("one", "", 8),)

    def sample(self, rng):
        return Problem(str(rng.integers(100)), "1")

    def verify(self, problem, messages):
        return float(messages == ["1"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(roles=()), r"task: roles: found \(\), expected a Role for each agent"),
        (dict(roles=("solver",)), r"task: roles"),
        (dict(roles=(Role("a", "", 1), Role("a", "", 1))), r"each name once"),
        (dict(turns=0), r"task: turns: found 0"),
        (dict(name=3), r"task: name: found 3, expected a text"),
        (dict(verify=None), r"task: verify: found None, expected a method"),
        (dict(verify=lambda s, p, m: 2.0), r"verify: found 2.0"),
        (dict(verify=lambda s, p, m: float(m[0])), r"verify: found .*Error"),
        (
            dict(sample=lambda s, r: Problem(str(np.random.default_rng().integers(10**9)), "")),
            r"sample: found other problems",
        ),
        (dict(sample=lambda s, r: "x"), r"sample: found 'x', expected a Problem"),
        (dict(views=lambda s, p: ("a", "b")), r"views: found \('a', 'b'\) for .* expected 1 texts"),
        (dict(views=lambda s, p: p.nothing), r"views: found AttributeError"),
    ],
)
def test_a_broken_task_is_refused(wrong, message):
    check_word_task(Own())
    with pytest.raises(InputError, match=message):
        check_word_task(type("Broken", (Own,), wrong)())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WordProblems(min_steps=3), r"min_steps, max_steps: found 3, 2"),
        (lambda: WordProblems(largest=1), r"largest: found 1"),
        (lambda: WordProblems(divide="no"), r"divide: found .no., expected True or False"),  # pyright: ignore[reportArgumentType]
        (lambda: WordProblems(agents=9), r"agents: found 9"),
        (lambda: WordProblems(cap=0), r"cap: found 0"),
        (lambda: Shop(goods=17), r"goods: found 17"),
        (lambda: Shop(goods=1), r"goods: found 1, expected an integer from 2 to 16"),
        (lambda: Shop(bought=4), r"bought: found 4, expected an integer from 1 to 3"),
        (lambda: Relayed(steps=0), r"min_steps: found 0"),
        (lambda: make_word_task("sums"), r"task: found 'sums', expected one of arithmetic, "),
        (lambda: make_word_task("shop", good=2), r"settings of 'shop': found .*'good'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
