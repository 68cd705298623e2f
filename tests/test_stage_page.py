"""`teamtr stage FILE --html PAGE`: every number of the page by value, sizes, texts from outside, bad input."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chromium import measured
from test_cli import run, save, textbook  # noqa: F401
from test_stage_file import episodic, product_tables, tables

from teamtr_jax import certificates, stage_page
from teamtr_jax.bounds import DEFAULT, ladder
from teamtr_jax.html import escaped, number
from teamtr_jax.interaction import interaction_matrix
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import read_stage, relay_stage
from teamtr_jax.teams.stage_file import stage_from_tables
from teamtr_jax.validation import InputError

KINDS = {
    "discounted": lambda: tables(np.random.default_rng(5), S=6, n=3) | {"order": np.array([2, 0, 1])},
    "episodic": lambda: episodic(tables(np.random.default_rng(6), S=3, n=2)) | {"active": np.array([[0, 1, 0]] * 2 + [[1] * 3])},
    "product": lambda: product_tables() | {"order": np.array([1, 0])},
}  # fmt: skip


class Page(HTMLParser):
    """Numbers, rows and marks of a page; what stands outside an element with an id belongs to ``""``."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[tuple[str, str]] = []
        self.numbers: dict[str, list[float]] = {}
        self.shown: list[tuple[float, str]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.marks: dict[str, list[tuple[str, float, float]]] = {}
        self.text = ""
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)
        assert not self.stack, self.stack

    @property
    def where(self) -> str:
        return next((name for _, name in reversed(self.stack) if name), "")

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in self.VOID:
            return
        self.stack.append((tag, found.get("id", "")))
        if tag == "data":
            value = float(found["value"])
            self.numbers.setdefault(self.where, []).append(value)
            self.shown.append((value, ""))
        elif tag == "tr":
            self.rows.setdefault(self.where, []).append([])
        elif tag in ("td", "th"):
            self.rows[self.where][-1].append("")
        elif tag == "i" and "left" in found.get("style", ""):
            left, *width = (float(x) for x in re.findall(r"([\d.]+)%", found["style"]))
            self.marks.setdefault(self.where, []).append((found["class"], left, width[0] if width else 0.0))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, text):
        inside = [tag for tag, _ in self.stack]
        if "style" in inside:
            return
        self.text += text
        if inside[-1:] == ["data"]:
            self.shown[-1] = (self.shown[-1][0], text)
        if "td" in inside or "th" in inside:
            self.rows[self.where][-1][-1] += text


@pytest.fixture(scope="module", params=list(KINDS))
def made(request, tmp_path_factory):
    """One stage, its report, and its page."""
    path = tmp_path_factory.mktemp("page") / "stage.npz"
    np.savez(path, **KINDS[request.param]())
    stage = read_stage(path)
    report = evaluate_stage(stage)
    text = stage_page.stage_page(stage, report, path.name)
    gaps = ["fresh", "stale", "cached", *(["reused"] if stage.team.factors else [])]
    order = np.asarray(stage.order).tolist()
    numbers = stage_page._numbers(stage, report, DEFAULT)
    return SimpleNamespace(
        stage=stage, report=report, text=text, page=Page(text), numbers=numbers, gaps=gaps, order=order, n=len(order)
    )


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=1e-12, atol=1e-300)


def total(report, name):
    return float(getattr(certificates, name)(report).sum())


def brings(report):
    return np.asarray(report.surrogate_intermediate + report.gap_fresh)


def test_who_acts_where(made):
    stage, d = made.stage, np.asarray(made.report.visits[0] / made.report.visits[0].sum())
    expected, words = [], []
    for i, agent in enumerate(made.order):
        active = np.full(len(d), agent) if stage.team.active is None else np.asarray(stage.team.active)
        own = active == agent
        moved = (stage.current != stage.target).any(-1)
        moved = np.asarray(moved[agent] if stage.team.active is None else moved)[own].sum()
        expected += [100 * d[own].sum(), float(made.report.kl[i])]
        extra = [str(stage.team.factors[agent])] if stage.team.factors else []
        words.append([str(i + 1), f"agent {agent}", *extra, str(own.sum()), str(moved)])
    close(made.page.numbers["who"], expected)
    rows = made.page.rows["who"][1:]
    skip = 1 if made.report.episodic else 0
    assert [[*row[: len(words[0]) - 1], row[-2]] if not skip else [*row[:3], row[-2]] for row in rows] == words
    if made.report.episodic:
        assert [row[3] for row in rows] == ["2", "3"]  # of three steps, agent 0 has no turn in the last


def test_map_of_the_states(made):
    cells = re.findall(r'<span[^>]*style="background:(#\w+)">(\d+)</span>', made.text)
    if made.stage.team.active is None:
        assert not cells
    else:
        assert [int(agent) for _, agent in cells] == np.asarray(made.stage.team.active).tolist()
        assert len(set(cells)) == made.n  # one colour for each agent


def test_gaps_and_promises(made):
    r = made.report
    keys = {"fresh": "intermediate"}
    columns = [brings(r)]
    for gap in made.gaps:
        columns += [np.asarray(getattr(r, f"surrogate_{keys.get(gap, gap)}")), np.asarray(getattr(r, f"gap_{gap}"))]
    table = np.stack(columns, 1)
    close(made.page.numbers["gaps"], np.concatenate([table, table.sum(0)[None]]).ravel())
    for row, numbers in zip(made.page.rows["gaps"][1:], [*table, table.sum(0)], strict=True):
        assert [x[0] for x in row[2:] if x != "≈ 0"] == [
            "+" if value > 0 else "−" for x, value in zip(row[2:], numbers, strict=True) if x != "≈ 0"
        ]
    heads = made.page.rows["gaps"][0]
    assert heads[2:] == ["brings", *(x for gap in made.gaps for x in (f"{gap}: promised", f"{gap} gap"))]


def test_bars_of_the_gaps(made):
    table = np.stack([np.asarray(getattr(made.report, f"gap_{gap}")) for gap in made.gaps], 1) / max(
        float(abs(getattr(made.report, f"gap_{gap}")).max()) for gap in made.gaps
    )
    bars = [mark for mark in made.page.marks[""] if mark[0] in made.gaps]
    assert [kind for kind, _, _ in bars] == made.gaps * made.n
    for (_, left, width), x in zip(bars, table.ravel(), strict=True):
        np.testing.assert_allclose([left, left + width], sorted([50, 50 + 50 * x]), atol=0.11)


def test_every_rung_beside_its_gap(made):
    r, penalties = made.report, {name: np.asarray(x) for name, x in ladder(made.report).items()}
    low, high = made.page.numbers["axis"]
    finite = [*penalties.values(), *(abs(np.asarray(getattr(r, f"gap_{gap}"))) for gap in made.gaps)]
    largest = max(float(x.sum()) for x in finite if np.isfinite(x).all())
    close(high, 10.0 ** math.ceil(math.log10(largest)))  # whole powers of ten
    close(math.log10(low), round(math.log10(low)))
    seen = set()
    for name, pick in [("rungs-all", np.sum), *((f"rungs-{i}", lambda x, i=i: x[i]) for i in range(made.n))]:
        expected, marks = [], []
        for gap in made.gaps:
            size, budget = float(pick(abs(np.asarray(getattr(r, f"gap_{gap}"))))), float(pick(getattr(r.rounding, gap)))
            expected.append(size)
            size = size if size > budget else 0.0
            also = "reused" if gap == "cached" and not made.stage.team.factors else gap
            rungs = [rung for rung in DEFAULT if rung.gap in (gap, also) and rung.name in penalties]
            for rung in sorted(rungs, key=lambda rung: penalties[rung.name].sum()):
                penalty = float(pick(penalties[rung.name]))
                expected += [penalty, *([penalty / size] if size else [])]
                marks += [size, penalty]
                seen.add(rung.name)
        close(made.page.numbers[name], expected)
        at = [100 * math.log(min(max(x, low), high) / low) / math.log(high / low) for x in marks]
        found = made.page.marks[name]
        np.testing.assert_allclose([left for _, left, _ in found], at, atol=0.06)
        assert [kind for kind, _, _ in found[::2]] == ["gap"] * (len(found) // 2)
        assert min(left for kind, left, _ in found[1::2]) > 0
    assert seen == set(penalties)  # every rung of this form


def test_words_for_every_rung(made):
    assert set(stage_page.RUNG_WORDS) == {rung.name for rung in DEFAULT}
    for rung in DEFAULT:
        if ("episodic" if made.report.episodic else "discounted") in rung.forms and (
            rung.gap in made.gaps or rung.gap == "reused"
        ):
            words = f"{stage_page.RUNG_WORDS[rung.name]} [{rung.id}, {stage_page.INFORMATION[rung.information]}]"
            assert words in made.page.text


def test_certificates(made):
    r, true = made.report, float(made.report.improvement)
    budget = ["stage_bound_chi_square"] if r.episodic else []
    names = [
        *"certificate_estimable certificate_weighted stage_bound_cached stage_bound_reused stage_bound_weighted".split(),
        *budget, *"stage_bound_least stage_bound_paper stage_bound_stale_paper".split(),
    ]  # fmt: skip
    expected = []
    for name in names:
        value = total(r, name)
        expected += [value, *([100 * value / true] if true > 0 else [])]
    close(made.page.numbers["certificates"], [*expected, true])
    assert [re.findall(r"\[(.*)\]", row[0]) for row in made.page.rows["certificates"][1:-1]] == [
        [id] for id in [*"S7 S9 S7c S7c S9".split(), *(["S10"] if budget else []), *"S6 P3.6 P3.7".split()]
    ]
    by_update = [getattr(certificates, name)(r) for name in
                 ("certificate_estimable", "certificate_weighted", "certificate", "lower_bound_paper")]  # fmt: skip
    close(made.page.numbers["update-certificates"], np.stack([*by_update, brings(r)], 1).ravel())


def test_in_short(made):
    r, true = made.report, float(made.report.improvement)
    first = max(total(r, f"stage_bound_{name}") for name in ("cached", "reused", "weighted"))
    fresh = max(first, total(r, "certificate_estimable"), total(r, "certificate_weighted"))
    by_tables = ("least", "chi_square", "paper", "stale_paper")
    best = max(fresh, *(total(r, f"stage_bound_{name}") for name in by_tables))
    expected = [r.objective[0], r.objective[-1], true]
    for bound in (first, fresh, best):
        expected += [bound, *([100 * bound / true] if bound > 0 and true > 0 else [])]
    expected += [r.delta_stale, r.surrogate_intermediate.sum(), 100 * stage_page.SMALL]
    close(made.page.numbers["short"], expected)
    assert best <= true
    assert ("does not improve" in made.page.text) == (true <= 0)


def test_interaction_in_words(made):
    matrix, L = np.asarray(interaction_matrix(made.stage, made.report)), np.asarray(made.report.surrogate_intermediate)
    pairs = [(k, i) for k in range(made.n) for i in range(k + 1, made.n) if abs(matrix[k, i]) > 0.01 * abs(L[i])]
    pairs.sort(key=lambda pair: -abs(matrix[pair]))
    assert pairs
    found = re.findall(r"Agent (\d+)'s update (spoils|improves) agent (\d+)'s contexts: on rollouts from before, agent (\d+)'s "
                       r"update looks \S+(?: \(\S+ %\))? (better|worse) than it is", made.page.text)  # fmt: skip
    assert [verb == "spoils" for _, verb, *_ in found] == [matrix[pair] < 0 for pair in pairs]
    assert [(int(k), int(i)) for k, _, i, *_ in found] == [(made.order[k], made.order[i]) for k, i in pairs]
    assert all(again == i for _, _, i, again, _ in found)
    # better than it is: what the first rollouts promise is more than what fresh ones do, M < 0
    assert [verdict == "better" for *_, verdict in found] == [matrix[pair] < 0 for pair in pairs]
    expected = [x for k, i in pairs for x in (abs(matrix[k, i]), 100 * abs(matrix[k, i]) / abs(L[i]))]
    close(made.page.numbers["pairs"], expected)
    close(made.page.numbers["matrix"], matrix.ravel())


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_words_agree_with_the_textbook(save, seed):  # noqa: F811
    """Old rollouts promise more than new ones exactly where the page says that the update looks better than it is."""
    arrays = tables(np.random.default_rng(seed), S=5, n=2)
    arrays |= {"transition": arrays["transition"] ** 3}
    arrays |= {"transition": arrays["transition"] / arrays["transition"].sum(-1, keepdims=True)}
    arrays["target"] = 0.9 * arrays["current"] + 0.1 * arrays["target"]
    book = textbook(arrays)
    stage = read_stage(save(arrays))
    page = Page(stage_page.stage_page(stage, evaluate_stage(stage), "x"))
    drift = book["surrogate_intermediate"][1] - book["surrogate_stale"][1]
    np.testing.assert_allclose(page.numbers["matrix"][1], drift, rtol=0.1)  # the same but for the third order
    assert abs(drift) > 0.01 * abs(book["surrogate_intermediate"][1])
    assert f"{'worse' if drift > 0 else 'better'} than it is" in page.text


def test_what_the_paper_would_have_said(made):
    r, expected = made.report, []
    for gap, name, bound in (("fresh", "penalty_paper", "stage_bound_paper"),
                             ("stale", "penalty_stale_paper", "stage_bound_stale_paper")):  # fmt: skip
        penalty, size = float(ladder(r)[name].sum()), float(abs(getattr(r, f"gap_{gap}")).sum())
        expected += [penalty, size, penalty / size, total(r, bound), r.improvement]
    close(made.page.numbers["paper"], expected)
    assert ("never above zero" in made.page.text) == (not made.report.episodic)


def test_nothing_is_left_unchecked(made):
    known = {"short", "who", "gaps", "axis", "certificates", "update-certificates", "pairs", "matrix", "paper", "rungs-all",
             *(f"rungs-{i}" for i in range(made.n))}  # fmt: skip
    assert set(made.page.numbers) == known | {""}
    r = made.report
    largest = max(float(abs(getattr(r, f"gap_{gap}")).max()) for gap in made.gaps)
    budget = max(float(getattr(r.rounding, gap).max()) for gap in made.gaps)
    loose = [] if r.episodic else [float(r.discount)]
    close(made.page.numbers[""], [*loose, -largest, largest, budget])


def test_what_is_shown_is_the_value(made):
    """The text of every number is its value to three digits."""
    ordinary = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
    for value, text in made.page.shown:
        if text == "≈ 0":
            assert abs(value) < 1e-9
        elif text not in ("∞", "−∞"):
            plain = text.replace("·10", "e").translate(ordinary).replace(",", "")
            assert float(plain) == pytest.approx(value, rel=5.1e-3), (value, text)


def test_the_page_needs_nothing_else(made):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in made.page.tags
    }
    for _, attributes in made.page.tags:
        assert not [name for name in attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    text = made.text
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    assert "name=viewport" in text


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(made, tmp_path, width):
    """On a phone and on a desk: tables scroll by themselves, the page does not, and no letter is too small."""
    (tmp_path / "page.html").write_text(stage_page.stage_page(made.stage, made.report, "x" * 200), encoding="utf-8")
    found = measured(tmp_path / "page.html", tmp_path, width)
    assert found["wanted"] <= width
    assert found["letters"] >= 11


def test_numbers_in_text():
    shown = {
        0.0: "0", 1.0: "1", 1234.0: "1,234", 38612.3: "38,600", 999999.4: "1·10⁶", 0.00012349: "0.000123", 9.9e-5: "9.9·10⁻⁵",
        -5.222e-12: "−5.22·10⁻¹²", 100.4: "100", 12.345: "12.3", math.inf: "∞", -math.inf: "−∞",
    }  # fmt: skip
    for value, text in shown.items():
        assert number(value) == f'<data value="{value!r}">{text}</data>'
    assert number(0.5, sign=True) == '<data value="0.5">+0.5</data>'
    assert number(1e-9, floor=1e-8) == '<data value="1e-09">≈ 0</data>'
    assert number(-1e-8, floor=1e-8) == '<data value="-1e-08">≈ 0</data>'
    assert number(0.0, sign=True, floor=1e-8) == '<data value="0.0">0</data>'
    assert number(2e-8, floor=1e-8) == '<data value="2e-08">2·10⁻⁸</data>'


def test_text_from_files_is_no_markup(save):  # noqa: F811
    stage = read_stage(save(tables()))
    name = "<script>alert(1)</script>\x1b[2J\n" + "x" * 5000 + "'\"&"
    text = stage_page.stage_page(stage, evaluate_stage(stage), name)
    assert "<script" not in text
    assert "\x1b" not in text
    assert escaped(name) in text
    assert len(text) < 60_000
    assert Page(text).text.count("x" * 60) == 0


def test_rounding_is_no_gap():
    """In this relay the first update has no gap: 2e-18 is rounding, not a gap to compare bounds with."""
    stage = relay_stage(3, 0.2, 0.1, slots=3)
    report = evaluate_stage(stage)
    assert 0 < abs(float(report.gap_fresh[0])) < float(report.rounding.fresh[0])
    page = Page(stage_page.stage_page(stage, report, "x"))
    assert [row[4] == "≈ 0" for row in page.rows["gaps"][1:4]] == [True, False, False]
    assert page.numbers["axis"][0] > 1e-6
    penalties = sum(rung.name in ladder(report) for rung in DEFAULT)
    assert len(page.numbers["rungs-0"]) == 3 + penalties  # no ratios
    assert len(page.numbers["rungs-1"]) == 3 + 2 * penalties


def test_infinite_divergence(save):  # noqa: F811
    """A target that drops an action: infinite rungs and certificates, said as such."""
    arrays = tables()
    arrays["target"] = np.where(np.arange(3) == 0, 0.0, arrays["target"] / (1 - arrays["target"][:, :1]))
    stage = read_stage(save(arrays))
    page = Page(stage_page.stage_page(stage, evaluate_stage(stage), "x"))
    assert math.inf in page.numbers["who"]
    assert -math.inf in page.numbers["certificates"]
    assert "nan" not in page.text.lower()
    assert {left for kind, left, _ in page.marks["rungs-all"] if kind == "paper"} == {100.0}


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_nothing_moves(save, discount):  # noqa: F811
    """A stage in which nothing happens, and one without a future: no division by zero, no NaN."""
    arrays = tables() | {"discount": np.array(discount)}
    arrays |= {"target": arrays["current"]} if discount else {}
    page = Page(stage_page.stage_page(read_stage(save(arrays)), evaluate_stage(read_stage(save(arrays))), "x"))
    assert "nan" not in page.text.lower()
    assert "No update changes what a later one promises" in page.text
    assert "<b>" not in page.text
    assert "not needed" in page.text


def test_one_agent(save):  # noqa: F811
    stage = read_stage(save(tables(n=1)))
    page = Page(stage_page.stage_page(stage, evaluate_stage(stage), "x"))
    assert "Collect" not in page.text
    assert len(page.numbers["matrix"]) == 1


def test_large_stages_are_shortened(save):  # noqa: F811
    """45 agents and 700 states: the updates with the largest gaps, no map, no matrix, and all of it said."""
    rng = np.random.default_rng(0)
    arrays = tables(rng, S=700, n=45)
    prob = rng.dirichlet(np.ones(2), (700, 3))
    arrays |= {"successor_index": rng.integers(0, 700, (700, 3, 2)), "successor_prob": prob}
    del arrays["transition"]
    stage = read_stage(save(arrays))
    report = evaluate_stage(stage)
    text = stage_page.stage_page(stage, report, "x")
    page = Page(text)
    assert len(text) < 500_000
    assert "700 states are too many for a map" in page.text
    assert "The table of all 45 agents would be too wide" in page.text
    assert "The 40 updates with the largest gaps are shown; 5 are not." in page.text
    assert 0 < page.text.count("contexts: on rollouts") <= stage_page.SENTENCES
    size = np.max([abs(getattr(report, f"gap_{gap}")) for gap in ("fresh", "stale", "cached")], 0)
    largest = sorted(np.argsort(-size)[:40].tolist())
    assert [int(row[0]) - 1 for row in page.rows["gaps"][1:-1]] == largest
    close(page.numbers["gaps"][-7], report.improvement)  # sums are over all updates
    assert len(page.rows["update-certificates"]) == 41


def test_too_much_work(made, monkeypatch):
    """Without the matrix: what all earlier updates did together, which is exact, and that the rest is left out."""
    if made.stage.team.dynamics.horizon is not None:
        return
    monkeypatch.setattr(stage_page, "WORK", made.n * made.report.visits.shape[-1] ** 3 - 1)
    page = Page(stage_page.stage_page(made.stage, made.report, "x"))
    drift = np.asarray(made.report.surrogate_intermediate - made.report.surrogate_stale)
    promises = np.asarray(made.report.surrogate_intermediate)
    late = [i for i in np.argsort(-abs(drift)) if abs(drift[i]) > 0.01 * abs(promises[i])]
    assert late
    np.testing.assert_allclose(page.numbers["pairs"][::2], abs(drift[late]), rtol=1e-9)
    found = re.findall(r"What all earlier updates do together (?:spoils|improves) agent (\d+)'s contexts: on rollouts from "
                       r"before, agent (\d+)'s "
                       r"update looks [^.]*?\S+(?: \(\S+ %\))? (better|worse) than it is", page.text)  # fmt: skip
    names = [str(made.order[i]) for i in late]
    assert found == [(name, name, "better" if drift[i] < 0 else "worse") for name, i in zip(names, late, strict=True)]
    assert "takes too long to work out" in page.text
    assert "matrix" not in page.numbers
    assert "Collect" not in page.text


def test_command(run, save, tmp_path):  # noqa: F811
    path, place = save(tables()), tmp_path / "page.html"
    code, out, err = run("stage", path, "--json", "--html", place)
    assert (code, err, out.count("\n")) == (0, "", 1)
    stage = read_stage(path)
    assert place.read_text(encoding="utf-8") == stage_page.stage_page(stage, evaluate_stage(stage), "stage.npz")
    plain = run("stage", path)
    assert plain[1] == run("stage", path, "--html", place)[1]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["page.html", "stage.npz"]


def test_command_follows_links_and_replaces(run, save, tmp_path):  # noqa: F811
    place, link = tmp_path / "old.html", tmp_path / "link.html"
    place.write_text("old")
    place.chmod(0o640)
    link.symlink_to(place)
    assert run("stage", save(tables()), "--html", link)[0] == 0
    assert link.is_symlink()
    assert place.read_text().startswith("<!doctype html>")
    assert place.stat().st_mode & 0o777 == 0o640


def test_command_bad_input(run, save, tmp_path):  # noqa: F811
    path = save(tables())
    for arguments, message in [
        ((path, path, "--html", tmp_path / "a.html"), "--html: found 2 stage files, expected one stage file for one page"),
        ((path, "--html", path), "--html: found {}, the stage file itself, expected another place"),
        ((path, "--html", tmp_path), "--html: found {}, a folder, expected a file"),
        ((path, "--html", tmp_path / "no" / "a.html"), "--html: found no folder {}, expected a file in an existing folder"),
        ((tmp_path / "none.npz", "--html", tmp_path / "a.html"),
         "{}: file: found no such file, expected an .npz file (docs/stage-files.md)"),
    ]:  # fmt: skip
        before = path.read_bytes()
        code, out, err = run("stage", *arguments)
        where = {"a folder": tmp_path, "no folder": tmp_path / "no", "no such": tmp_path / "none.npz"}
        place = next((value for key, value in where.items() if key in message), path)
        assert (code, out, err) == (2, "", f"teamtr: error: {message.format(place)}\n")
        assert path.read_bytes() == before
        assert sorted(x.name for x in tmp_path.iterdir()) == ["stage.npz"]


def test_the_place_is_tried_before_the_work(run, save, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("teamtr_jax.teams.read_stage", lambda path: pytest.fail("read before the place was tried"))
    assert run("stage", save(tables()), "--html", tmp_path / "no" / "a.html")[0] == 2


def test_a_failed_write_keeps_the_old_page(run, save, tmp_path, monkeypatch):  # noqa: F811
    place = tmp_path / "page.html"
    place.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    code, out, err = run("stage", save(tables()), "--html", place)
    assert (code, out) == (2, "")
    assert "No space left on device" in err
    assert place.read_text() == "old"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["page.html", "stage.npz"]


def test_not_a_number_is_no_page(save, monkeypatch):  # noqa: F811
    stage = read_stage(save(tables()))
    report = evaluate_stage(stage)
    with pytest.raises(InputError, match="gap_fresh"):
        stage_page.stage_page(stage, report._replace(gap_fresh=report.gap_fresh * jnp.nan), "x")
    monkeypatch.setattr(stage_page, "interaction_matrix", lambda *_: jax.numpy.full((2, 2), jnp.nan))
    with pytest.raises(ArithmeticError, match="the interaction matrix: not a number"):
        stage_page.stage_page(stage, report, "x")


# ------------------------------------------------------------------------------------------------- what is but rounding


def page_of(text_tables):
    stage = stage_from_tables(text_tables)
    return Page(stage_page.stage_page(stage, evaluate_stage(stage), "x"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_but_rounding_is_not_reported(kind):
    """One reward everywhere: every advantage is 0, and float64 has 1e-16. No improvement, no certificate, no gap, no spoiling."""
    made = KINDS[kind]()
    page = page_of(made | {"reward": np.full_like(made["reward"], 0.3)})
    assert "It cannot be seen beyond rounding whether the stage improves the team" in page.text
    assert page.text.count("can certify nothing beyond rounding") == 3
    unseen = ", as far as can be seen beyond rounding." if kind != "episodic" else ""
    assert "are not needed" in page.text
    # Of a product team the arithmetic may happen to be exact.
    unseen = f"({unseen})?" if kind == "product" else unseen
    assert re.search(f"of all of them at most{unseen}", page.text)
    assert re.search(f"No update changes what a later one promises by more than 1 % of its promise{unseen}", page.text)
    assert "The gaps, all of them about zero" in page.text
    assert all(width == 0 for name, left, width in page.marks[""] if name in stage_page.GAPS)
    assert all(set(row[2:]) <= {"≈ 0", "0"} for row in page.rows["gaps"][1:])
    assert {x for row in page.rows["matrix"][1:] for x in row[1:]} <= {"≈ 0", "0"}
    assert page.rows["certificates"][-1][-2] == "≈ 0"
    assert {row[-1] for row in page.rows["update-certificates"][1:]} <= {"≈ 0", "0"}
    assert re.search(r"are wrong by (≈ )?0 in all; the right ones add up to (≈ )?0\.", page.text)
    assert {row[-1] for row in page.rows["certificates"][1:]} == {"–"}
    assert "times as large" not in page.text


def test_a_stage_that_does_nothing():
    made = KINDS["discounted"]()
    page = page_of(made | {"target": made["current"]})
    assert "The stage does not improve the team" in page.text
    assert page.text.count("certify nothing: at least 0 is known") == 3
    assert "The gaps, all of them about zero" in page.text


def test_the_error_of_old_rollouts_is_that_of_each_promise():
    """The reversed relay: two promises are wrong by 1.1 % and .3 % of all of them together, 1.4 % in all: 1 % is of one."""
    stage = relay_stage(3, 0.2, 0.1, slots=3)
    stage = replace(stage, order=stage.order[::-1])
    report = evaluate_stage(stage)
    whole = float(abs(report.surrogate_intermediate).sum())
    assert float(abs(report.seq_minus_stale).max()) < 0.011 * whole < float(report.delta_stale)
    text = Page(stage_page.stage_page(stage, report, "x")).text
    assert "are not needed, for an error of each promise of about 1 % of all of them at most." in text
    assert "The other pair of an earlier and a later update matters less." in text


def test_words_of_numbers_that_are_one():
    made = tables(np.random.default_rng(1), S=4, n=1) | {"active": np.zeros(4, int), "discount": np.float64(0.9999)}
    text = page_of(made).text
    assert "One stage of a discounted team (discount 0.9999): 1 agent, 4 states" in text
    assert "1 updates" not in text


def test_before_whom_to_collect(made):
    """The agents whose promise old rollouts miss by more than a hundredth of all promises; some are named, the rest counted."""
    matrix = np.asarray(interaction_matrix(made.stage, made.report))
    allowed = 0.01 * abs(np.asarray(made.report.surrogate_intermediate)).sum()
    late, used = [], 0  # since the rollouts in use
    for i in range(1, made.n):
        if abs(matrix[used:i, i].sum()) > allowed:
            late.append(made.order[i])
            used = i
    found = re.search(
        r"Collect new rollouts before the update of agent ([\d, ]+?)( and (\d+) more)?(; before the others old ones will do)?,",
        made.page.text,
    )
    if not late:
        assert found is None
        assert "are not needed" in made.page.text
        return
    named = [int(x) for x in found[1].split(", ")]
    assert named == late[: len(named)]
    assert len(named) + int(found[3] or 0) == len(late)
    assert len(named) == min(len(late), stage_page.SENTENCES)
    assert (found[4] is not None) == (len(late) < made.n - 1)


def test_what_a_line_of_the_map_is(made):
    steps = made.stage.team.dynamics.horizon
    mapped = made.stage.team.active is not None and len(made.stage.team.active) <= stage_page.CELLS
    assert ("A line is a step of the episode, a column a context" in made.page.text) == (mapped and steps is not None)
    assert ("A cell is a state, line by line" in made.page.text) == (mapped and steps is None)


def test_what_the_columns_of_who_acts_are(made):
    heads = ["update", "who", *(["actions"] if made.stage.team.factors else []), "states"]
    heads += ["steps with a turn"] if made.report.episodic else []
    assert made.page.rows["who"][0] == [*heads, "% of the time", "rows changed", "KL"]
    per = "summed over an episode" if made.report.episodic else "averaged over the time"
    assert f"KL(current‖new) in nats, {per}." in made.page.text
    lengths = {len(row) for row in made.page.rows["who"]}
    assert len(lengths) == 1


def test_range_of_the_gaps_is_written_with_its_signs(made):
    largest = max(float(abs(getattr(made.report, f"gap_{gap}")).max()) for gap in made.gaps)
    shown = number(largest, sign=True)
    low, high = (re.sub(r"<[^>]*>", "", x) for x in (number(-largest), shown))
    assert high.startswith("+")
    assert f"The gaps, from {low} (left) over zero to {high}" in made.page.text


def test_rounding_of_a_certificate_of_the_stage(made):
    """That of the promises and gaps it is made of, and eight roundings of the promises themselves."""
    budget, report = made.report.rounding, made.report
    brings_ = np.asarray(budget.surrogate + budget.fresh)
    expected = {
        "certificate_estimable": (np.asarray(budget.surrogate), report.surrogate_intermediate),
        "stage_bound_cached": (brings_ + np.asarray(budget.cached), report.surrogate_cached),
        "stage_bound_reused": (brings_ + np.asarray(budget.reused), report.surrogate_reused),
        "stage_bound_chi_square": (brings_ + np.asarray(budget.cached), report.surrogate_cached),
    }
    numbers = made.numbers
    for name, (of_promises, promises) in expected.items():
        close(numbers.unsure_of(name), of_promises.sum() + 8 * float(budget.relative) * float(abs(promises).sum()))


def test_nothing_is_said_to_be_left_out_of_a_small_stage(made):
    assert made.n < stage_page.UPDATES
    assert "with the largest gaps are shown" not in made.page.text


def test_what_rollouts_are_is_said_where_the_paper_stands(made):
    for gap in ("fresh", "stale"):
        words = re.sub(r"<[^>]*>", "", stage_page.GAPS[gap][0])
        assert f"With {gap} rollouts ({words}): gaps of at most" in made.page.text


# ------------------------------------------------------------------------------------------------------- what is said


SIZES = {
    "discounted": ("a discounted team (discount 0.9): 3 agents, 6 states, 3 actions", [2, 0, 1]),
    "episodic": ("an episodic team: 2 agents, 9 states, 3 actions, 3 steps", [0, 1]),
    "product": ("a discounted team (discount 0.9): 2 agents, 3 states, 6 actions", [1, 0]),
}


def kind_of(made):
    return "episodic" if made.report.episodic else "product" if made.stage.team.factors else "discounted"


def plain(value, **more):
    """A number as it stands on the page."""
    return re.sub(r"<[^>]*>", "", number(value, **more))


def names(made):
    return [f"agent {agent}" for agent in SIZES[kind_of(made)][1]]


def test_the_first_lines_say_what_the_stage_is(made):
    sizes, order = SIZES[kind_of(made)]
    said = (
        f"One stage of {sizes}. The agents are updated one after the other, in the order {', '.join(map(str, order))}."
    )
    assert said in made.page.text
    at_once = "All agents act at once in every state." in made.page.text
    assert (at_once, "In every state one agent acts." in made.page.text) == (
        kind_of(made) == "product",
        kind_of(made) != "product",
    )
    assert "computed from the tables of the file, in float64, none was sampled" in made.page.text


def test_every_table_names_its_updates_in_their_order(made):
    rows, own = made.page.rows, [[str(i + 1), name] for i, name in enumerate(names(made))]
    assert [row[:2] for row in rows["who"][1:]] == own
    assert [row[:2] for row in rows["gaps"][1:]] == [*own, ["all", f"{made.n} updates"]]
    assert rows["gaps"][0][:2] == ["update", "who"]
    assert [row[:2] for row in rows["update-certificates"][1:]] == own
    assert rows["update-certificates"][0] == [
        "update", "who", "range of the return × KL [S7]", "weighted log-sum [S9]", "exact tables [S6]", "the paper's [P3.4]",
        "brings",
    ]  # fmt: skip
    assert rows["matrix"][0] == ["this update … on the promise of", *names(made)]
    assert [row[0] for row in rows["matrix"][1:]] == names(made)


def test_the_bars_and_the_rungs_of_an_update_stand_under_its_name(made):
    text = made.text
    lanes = re.findall(r"<div class=row><p>([^<]*)</p><div class='axis lanes'>", text)
    assert lanes == [f"{i + 1}, {name}" for i, name in enumerate(names(made))]
    heads = [
        "The whole stage: sums over its updates",
        *(f"Update {i + 1}, {name}" for i, name in enumerate(names(made))),
    ]
    parts = re.findall(r"<details[^>]*><summary>(.*?)</summary>(.*?)</details>", text, re.S)
    assert [head for head, _ in parts] == heads
    for at, (_, part) in enumerate(parts):
        sizes = [abs(np.asarray(getattr(made.report, f"gap_{gap}"))) for gap in made.gaps]
        budgets = [np.asarray(getattr(made.report.rounding, gap)) for gap in made.gaps]
        pick = np.sum if at == 0 else lambda x, i=at - 1: x[i]
        assert [re.sub(r"<[^>]*>", "", head) for head in re.findall(r"<h3>(.*?)</h3>", part)] == [
            f"{gap} gap: {plain(pick(size), floor=float(pick(budget)))}"
            for gap, size, budget in zip(made.gaps, sizes, budgets, strict=True)
        ]
        papers = re.findall(r"\[([\w.]+), [^]]*\].*?<i class=(?!gap)(\w+)", part)
        assert papers
        assert all((kind == "paper") == id.startswith("P") for id, kind in papers)


OF_STATEMENT = {
    "S0": "trivial: all visits × the range of the update's gain", "P3.4": "the paper's: largest advantage × √KL",
    "P3.7": "the paper's: largest advantage × √KL of all updates so far", "S1": "the paper's, for the time in which",
    "S2": "Pinsker along the whole path", "S3": "Pinsker along the whole path, all updates so far", "S4": "second order",
    "S4R": "second order, for the agent's own later turns", "E1": "step by step, total variation or Pinsker",
    "S7": "log-sum: range of the return × KL", "S7c": "range of the return × KL of all updates so far",
    "S9": "log-sum, every KL weighted by the return to come",
    "S10": "standard deviation of the return × the largest χ² along an episode",
}  # fmt: skip
"""What a rung multiplies, by the statement it is from; S7b has two."""


def test_a_rung_is_called_by_what_it_multiplies():
    """And of old rollouts by whose moves count: those of all updates so far, or each agent's own."""
    needs = {"oracle": "needs exact tables", "prior": "needs declared ranges", "estimable": "needs rollouts"}
    assert needs == stage_page.INFORMATION
    advantage = {"penalty_log_sum_advantage", "penalty_stale_log_sum"}
    for rung in DEFAULT:
        words = stage_page.RUNG_WORDS[rung.name]
        of = "advantage" if rung.name in advantage else "return"
        assert OF_STATEMENT.get(rung.id, f"log-sum: range of the {of} × KL") in words, rung
        assert ("each agent on its own" in words) == (rung.gap == "reused"), rung
        later = rung.gap != "fresh" and rung.id not in ("S0", "S1") and rung.name != "penalty_reused_chi_square"
        assert ("all updates so far" in words) == later, rung


def test_the_range_of_the_advantage_is_not_that_of_the_return(made):
    """The words of the two rungs of S7b, by their numbers: the same KL, times one range and times the other."""
    if made.report.episodic:
        return
    r, penalties = made.report, {name: np.asarray(x) for name, x in ladder(made.report).items()}
    kl = np.asarray(r.kl) / (1 - float(r.discount))
    close(penalties["penalty_log_sum_advantage"], np.asarray(r.advantage_span) * kl / (1 - float(r.discount)))
    close(penalties["penalty_log_sum"], np.asarray(r.return_range) * kl)


def test_what_a_trainer_estimates_from(made):
    """The four gaps by the rollouts and the values behind the promise."""
    said = {
        "fresh": "new rollouts before this update",
        "stale": "the stage's first rollouts, advantages of the present team",
        "cached": "the stage's first rollouts and their advantages",
        "reused": "as cached, each agent compared with the stage's first team",
    }
    text = made.text
    found = [re.sub(r"<[^>]*>", "", x) for x in re.findall(r"<li>(<b>\w+</b>: .*?)</li>", text)]
    assert found == [f"{gap}: {said[gap]};" for gap in made.gaps]
    assert [re.sub(r"<[^>]*>", "", x) for x in re.findall(r"<p class='note key'>(.*?)</p>", text)] == [
        "".join(f"{gap} " for gap in made.gaps)
    ]
    assert re.findall(r"<i class=(\w+)></i>", text) == [*made.gaps, "gap", "rung", "paper"]


def test_signs_are_said(made):
    """What a gap is, and a negative entry of the matrix: the same sign convention as the numbers of the tables."""
    text, table = made.page.text, made.page.numbers["gaps"]
    assert "the gap is what the update brings minus what the surrogate promised" in text
    assert "In units of the return. A negative gap: more was promised than came." in text
    width = 1 + 2 * len(made.gaps)
    for row in np.reshape(table, (-1, width)):
        for j in range(1, width, 2):
            np.testing.assert_allclose(row[j + 1], row[0] - row[j], atol=1e-12)  # brings − promised
    assert "only what stands right of the diagonal happens in this order" in text
    assert "Minus: old rollouts promise too much. [R5]" in text


SECTIONS = [
    "In short", "Who acts where", "What each update promises and what it brings", "Every bound beside the gap",
    "Certificates", "Who spoils whose contexts", "What the paper would have said",
]  # fmt: skip
SENTENCES = """
Update: place in the order. States: in which the agent acts. % of the time: the share of it spent there before the stage.
Rows changed: states in which its policy moves. KL: how far it moves, KL(current‖new) in nats
A trainer does not see what an update will bring. It sees a surrogate, an estimate from rollouts of an earlier team;
A rung is an upper limit on the size of a gap that holds for every team.
The closer to the gap, the more of a promise can be certified.
some need exact tables (a maximum over all states), others rollouts and the range of the return, which is what a trainer has.
A certificate is a promise minus a rung: the improvement is at least that.
Below zero it says nothing, except how much could be lost at most.
Here the rollouts are exact expectations; what is estimated from some of them has a sampling error on top [S8].
rollouts collected before it tell a later agent less. In brackets: the share of the later agent's own promise.
only what stands right of the diagonal happens in this order, what stands left of it would in the reverse one.
The diagonal is, for small steps, the fresh gap.
TeamTR bounds every gap by the largest advantage anywhere and the root of the KL.
"""


def test_sections_and_what_their_words_mean(made):
    """A rung is above the gap, a certificate below the improvement; shares, units and whose promise a bracket is of."""
    text = made.text
    assert re.findall(r"<h2>(.*?)</h2>", text) == SECTIONS
    assert [said for said in SENTENCES.strip().splitlines() if said not in made.page.text] == []
    r = made.report
    penalties = {name: float(x.sum()) for name, x in ladder(r).items()}
    for gap, name, bound in (("fresh", "penalty_paper", "paper"), ("stale", "penalty_stale_paper", "stale_paper")):
        size = float(abs(np.asarray(getattr(r, f"gap_{gap}"))).sum())
        assert (
            f": gaps of at most {plain(penalties[name])} in all, where they are {plain(size)}, {plain(penalties[name] / size)} "
            f"times as large; an improvement of at least {plain(total(r, f'stage_bound_{bound}'), sign=True)}, where it is "
            f"{plain(r.improvement, sign=True)}."
        ) in made.page.text


CERTIFICATE_ROWS = [
    ["fresh rollouts: range of the return × KL [S7]", "rollouts"],
    ["fresh rollouts: weighted log-sum [S9]", "rollouts"],
    ["first rollouts: range of the return × KL [S7c]", "rollouts"],
    ["first rollouts, each agent on its own: range of the return × KL [S7c]", "rollouts"],
    ["first rollouts: weighted log-sum [S9]", "rollouts"],
    ["exact tables, first rollouts: standard deviation of the return × χ² [S10]", "exact tables"],
    ["exact tables: the least of all rungs [S6]", "exact tables"],
    ["the paper's, fresh rollouts [P3.6]", "exact tables"],
    ["the paper's, stale rollouts [P3.7]", "exact tables"],
    ["what the stage really brings", "exact tables"],
]


def test_a_certificate_says_of_what_rollouts_it_is_and_what_it_needs(made):
    rows = made.page.rows["certificates"]
    assert rows[0] == ["for the whole stage", "needs", "at least", "% of the truth"]
    wanted = [row for row in CERTIFICATE_ROWS if made.report.episodic or "[S10]" not in row[0]]
    assert [row[:2] for row in rows[1:]] == wanted


def test_in_short_in_sentences(made):
    """Each limit belongs to whoever can know it."""
    r, true = made.report, float(made.report.improvement)
    said = "improves" if true > 0 else "does not improve"
    before, after = plain(r.objective[0]), plain(r.objective[-1])
    assert (
        f"The stage {said} the team: its expected return goes from {before} to {after} ({plain(true, sign=True)})."
        in (made.page.text)
    )
    first = max(total(r, f"stage_bound_{name}") for name in ("cached", "reused", "weighted"))
    fresh = max(first, total(r, "certificate_estimable"), total(r, "certificate_weighted"))
    best = max(fresh, *(total(r, f"stage_bound_{name}") for name in ("least", "chi_square", "paper", "stale_paper")))
    for who, limit in (
        ("A trainer with the stage's first rollouts only", first),
        ("A trainer with fresh rollouts before every update", fresh),
        ("Somebody who knows the exact tables", best),
    ):
        shown = plain(limit, sign=True)
        share = f" ({plain(100 * limit / true)} %)" if true > 0 else ""
        word = f"certify {shown}{share}." if limit > 0 else f"certify nothing: at least {shown} is known."
        assert f"{who} can {word}" in made.page.text
    wrong, right = plain(r.delta_stale), plain(float(r.surrogate_intermediate.sum()), sign=True)
    assert (
        "Estimated on the stage's first rollouts, with advantages of the present team, the promises of the updates are wrong by "
        f"{wrong} in all; the right ones add up to {right}."
    ) in made.page.text
    assert "as far as can be seen" not in made.page.text  # nothing here is but rounding


def test_who_can_know_a_certificate(made):
    """One is .9, the others −1: whoever has what it needs can certify .9 of 2, that is 45 %, and the others nothing."""
    numbers = made.numbers._replace(improvement=2.0)
    first, fresh, tables_ = (
        "A trainer with the stage's first rollouts only", "A trainer with fresh rollouts before every update",
        "Somebody who knows the exact tables",
    )  # fmt: skip
    for name in stage_page.STAGE_CERTIFICATES:
        bounds = {key: np.array([0.9 if key == name else -1.0]) for key in stage_page.STAGE_CERTIFICATES}
        said = Page(stage_page._in_short(numbers._replace(certificates=bounds))).text
        knows = {tables_}
        if name.startswith(("stage_bound_cached", "stage_bound_reused", "stage_bound_weighted")):
            knows = {first, fresh, tables_}
        elif name.startswith("certificate_"):
            knows = {fresh, tables_}
        for who in (first, fresh, tables_):
            word = "certify +0.9 (45 %)." if who in knows else "certify nothing: at least −1 is known."
            assert f"{who} can {word}" in said, (name, who)


def test_pairs_that_are_not_named_are_counted(made, monkeypatch):
    """Of n agents there are n(n − 1)/2 of an earlier and a later one; where their matrix is too much work, updates are."""
    monkeypatch.setattr(stage_page, "SENTENCES", 1)
    rest = {2: 0, 3: 2}[made.n]
    said = Page(stage_page._interaction(made.numbers)).text
    assert said.count("contexts: on rollouts from before") == 1
    found = re.findall(r"The other ([^.]*)\.", said)
    assert found == ([f"{rest} pairs of an earlier and a later update matter less"] if rest else [])
    drift, promise = np.asarray(made.report.seq_minus_stale), np.asarray(made.report.surrogate_intermediate)
    assert (abs(drift) > 0.01 * abs(promise)).tolist() == [
        False,
        *[True] * (made.n - 1),
    ]  # the first has nothing before it
    said = Page(stage_page._interaction(made.numbers._replace(matrix=None))).text
    assert ("The other update with other contexts matters less." in said) == (made.n == 3)
    assert (
        f"Which of {made.n} agents it was takes too long to work out with {made.report.visits.shape[-1]} states."
        in said
    )


@pytest.mark.parametrize(("kind", "columns"), [("discounted", "auto-fill"), ("episodic", "3")])
def test_states_that_are_never_visited_are_pale(kind, columns):
    """The last state, or context, has no start and no way to it. Of an episode a line of the map is a step."""
    arrays = KINDS[kind]()
    arrays["transition"][..., -1] = 0.0
    arrays["transition"] /= arrays["transition"].sum(-1, keepdims=True)
    arrays["initial"] = np.r_[arrays["initial"][:-1] / arrays["initial"][:-1].sum(), 0.0]
    steps = 3 if kind == "episodic" else 1
    if kind == "episodic":
        arrays["active"] = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1]])
    stage = stage_from_tables(arrays)
    text = stage_page.stage_page(stage, evaluate_stage(stage), "x")
    cells = re.findall(r'<span( class=never)? style="background:#\w+">\d</span>', text)
    assert [bool(cell) for cell in cells] == steps * [*[False] * (arrays["initial"].size - 1), True]
    assert re.findall(r"grid-template-columns:repeat\(([\w-]+),", text) == [columns]
    assert "the number is the agent that acts there. Pale: never visited before the stage." in text
    if kind == "episodic":  # agent, states, and of three steps those with a turn
        assert [row[1:4] for row in Page(text).rows["who"][1:]] == [["agent 0", "4", "2"], ["agent 1", "5", "2"]]


def test_colours_of_agents_are_apart():
    assert len(set(stage_page.COLOURS)) == 8
    marks = re.findall(r"\.(gap|rung|paper)\{background:(#\w+)\}", stage_page.STYLE)
    assert [kind for kind, _ in marks] == ["gap", "rung", "paper"]
    assert len({colour for _, colour in marks}) == 3
    lanes = re.findall(r"i\.(\w+)\{background:(#\w+);top:([\d.]+)em", stage_page.STYLE)
    assert [kind for kind, *_ in lanes] == [*stage_page.GAPS]
    assert len({colour for _, colour, _ in lanes}) == len({top for *_, top in lanes}) == 4


def test_when_the_papers_certificate_is_never_above_zero(made):
    """At a discount of exactly 1/2 it is not, just below it may be, and in an episode too (S5)."""
    numbers = made.numbers
    for discount in (0.0, np.nextafter(0.5, 0), 0.5, 0.99):
        report = numbers.report._replace(discount=np.float64(discount))
        said = Page(stage_page._paper(numbers._replace(report=report))).text
        never = not made.report.episodic and discount >= 0.5
        assert ("With a discount of 1/2 or more the first of these is never above zero" in said) == never
    found = re.findall(r"With (\w+) rollouts \(.*?\[(P3\.\d)\]", made.page.text)
    assert found == [("fresh", "P3.6"), ("stale", "P3.7")]


def test_rounding_of_the_matrix_and_of_what_the_stage_brings(made):
    """`M[k,i] = Σ_s x_k(s) g_i(s)`: the error of g, that of `L_i = Σ_s m(s) g_i(s)` over the length Σm, and that of x."""
    numbers, r = made.numbers, made.report
    length = 3.0 if r.episodic else 10.0
    np.testing.assert_allclose(np.asarray(r.visits[0]).sum(), length, rtol=1e-12)
    for k in range(made.n):
        for i in range(made.n):
            moved, largest = float(abs(r.shift[k]).sum()), float(abs(r.conditional[i]).max())
            wanted = moved * float(r.rounding.surrogate[i]) / length + largest * float(r.rounding.shift[k])
            close(numbers.matrix_rounding[k, i], wanted)
    brought = np.asarray(r.rounding.surrogate) + np.asarray(r.rounding.fresh)
    close(numbers.unsure, brought.sum())
    close(numbers.rounding_of_promise("stale"), r.rounding.surrogate)


def test_the_axis_begins_at_the_power_of_ten_below_what_is_smallest(made):
    """But never more than twelve decades below its end."""
    values = [np.asarray(x) for x in ladder(made.report).values()]
    values += [abs(np.asarray(getattr(made.report, f"gap_{gap}"))) for gap in made.gaps]
    values += [x.sum() for x in values]
    positive = [float(x) for x in np.concatenate([np.atleast_1d(x) for x in values]) if 1e-15 < x < math.inf]
    assert made.page.numbers["axis"] == [
        pytest.approx(10.0 ** math.floor(math.log10(min(positive)))),
        pytest.approx(10.0 ** math.ceil(math.log10(max(positive)))),
    ]
    assert (
        f"from {plain(made.page.numbers['axis'][0])} to {plain(made.page.numbers['axis'][1])}; what is smaller stands at"
        in (made.page.text)
    )
    assert "what is smaller stands at the left end, what is infinite at the right." in made.page.text
    numbers = made.numbers
    tiny = [(rung, penalty * 1e-20) for rung, penalty in numbers.rungs[:1]]
    low, high = stage_page._axis(numbers._replace(rungs=[*tiny, *numbers.rungs[1:]]))
    close(low, high * 1e-12)


def test_a_share_of_nothing_is_not_shown():
    assert re.sub(r"<[^>]*>", "", stage_page._share(0.5, 2.0)) == " (25 %)"
    assert [stage_page._share(*x) for x in ((1.0, 0.0), (1.0, -1.0), (math.inf, 1.0), (-math.inf, 1.0))] == [""] * 4


def test_sizes_are_those_of_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "stage-files.md").read_text(encoding="utf-8")
    text = " ".join(text.split())
    for size in ("the 40 updates with the largest gaps", "up to 600 states", "up to 12 agents"):
        assert size in text
    assert (stage_page.UPDATES, stage_page.CELLS, stage_page.MATRIX, stage_page.SENTENCES) == (40, 600, 12, 12)
    assert stage_page.WORK == 3e11  # so many multiplications are a minute of two cores
