"""What must not be said, wherever it is said, and who must be named on the pages that use their work."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/reproduction/report.md", "docs/verify/*.md",
          "theory/**/*.md", "theory/**/*.py", "teamtr_jax/**/*.py", "experiments/**/*.py", "benchmarks/**/*.py")  # fmt: skip
SENTENCE = re.compile(r"(?<=[.;|:])\s+|\n\s*\n|\n(?=\s*[*|#-] )")
LINEAR = re.compile(r"linear(ly)?( (in|with))?\s+\$?n\b|linear error|error is linear")


def errors_called_linear(text: str) -> list[str]:
    """Sentences that call an *error* linear in n. Its bound is (S7c); the error itself can grow like n² below it (R1)."""
    found = [" ".join(x.split()) for x in SENTENCE.split(text)]
    return [x for x in found if "error" in x and LINEAR.search(x) and "bound" not in x]


def called_not_reproducible(text: str) -> list[str]:
    """Our runs of the paper's questions differ at toy scale; its models were not run."""
    return re.findall(
        r"(?:does|do|did|could|can) ?n[o']t (?:be )?reproduced?\b|fails? to reproduce|irreproducib\w+", text
    )


def unqualified_reverse(text: str) -> list[str]:
    """"Reverse KL" only where it is said to be the paper's word for KL(current‖new)."""  # fmt: skip
    found = [" ".join(x.split()) for x in re.split(r"(?<=[.:])\s+|\n\s*\n", text)]
    return [x for x in found if re.search(r"reverse[ -]KL", x) and "paper" not in x]


FILES = sorted({path for place in PLACES for path in ROOT.glob(place)})
STATED = "the signed error of a stage of cached updates is linear in $n$"
"""Quoted on the page of corrections, as what was said first."""


@pytest.mark.parametrize("rule", [errors_called_linear, called_not_reproducible, unqualified_reverse])
def test_no_page_says_it(rule):
    assert len(FILES) > 200
    wrong = {str(path.relative_to(ROOT)): found for path in FILES if (found := rule(path.read_text()))}
    quoted = wrong.pop("theory/derivations/corrections.md", []) if rule is errors_called_linear else []
    assert not wrong
    assert [x.strip(" |") for x in quoted] == [STATED] * bool(quoted)


@pytest.mark.parametrize(
    ("rule", "wrong", "right"),
    [
        (
            errors_called_linear,
            "The error of a cached stage is linear in n.",
            "The *bound* on the error is linear in n.",
        ),
        (errors_called_linear, "S7c: a linear error in\nδ", "a linear bound in δ"),
        (errors_called_linear, "The signed error grows\nlinearly in $n$ here", "the gap's square is linear in $m$"),
        (called_not_reproducible, "Figure 3 does not reproduce.", "Figure 3 differs at toy scale."),
        (unqualified_reverse, "We use the reverse KL here.", "The paper calls KL(current‖new) the reverse KL."),
    ],
)
def test_the_rules_see_it(rule, wrong, right):
    assert rule(wrong)
    assert not rule(right)


NAMED = {
    "t1": ("Achiam", "1705.10528", "Schulman"),
    "s4": ("Pirotta",),
    "s7": ("Schulman", "1502.05477", "Metelli", "1809.06098", "2512.23075"),
    "e1": ("2512.23075",),
    "p3_4": ("2109.11251", "2111.04051", "2302.06205"),
    "s9": ("Dayan", "PoWER", "2006.11266", "Kumar and Zilberstein", "1203.3490", "Wu, Zilberstein and Jennings"),
    "pe_10": ("Davis", "Recht", "2510.13651"),
    "s8": ("Karampatziakis", "2210.10768", "Metelli"),
    "u1": ("2111.04051", "2508.10340"),
}


@pytest.mark.parametrize("page", NAMED)
def test_who_is_named_where(page):
    text = " ".join((ROOT / f"theory/derivations/{page}.md").read_text().split())
    assert [x for x in NAMED[page] if x not in text] == []


def test_what_is_fair_to_the_paper():
    """S5 is about one form of the bound, S7's horizon is inside ϱ and K, and S9 (d), (e) are not ours."""
    page = {
        name: " ".join((ROOT / f"theory/derivations/{name}.md").read_text().split())
        for name in ("statements", "s5", "s9")
    }
    assert "beyond $\\varrho$ and that KL there is no horizon" in page["statements"]
    for name in ("statements", "s5"):
        assert "discounted" in page[name]
        assert "proxy" in page[name]
    assert "expectation-maximisation for Dec-POMDPs" in page["s9"]
    assert "toy scale" in (ROOT / "README.md").read_text()
