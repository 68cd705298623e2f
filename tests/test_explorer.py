"""The explorer of the documentation: its values against an oracle, its page in headless Chromium, without a network."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chromium import dumped, measured

from experiments import explorer

ROOT = Path(__file__).parents[1]
DATA = json.loads(explorer.VALUES.read_text())
SAMPLE = [
    ("relay", (1, 0.01, 1e-3)), ("relay", (4, 0.001, 1e-5)), ("relay", (8, 0.1, 1e-1)),
    ("random", (1, 0.5, 1, 1e-4)), ("random", (4, 0.9, 2, 1e-3)), ("random", (8, 0.99, 3, 1e-1)),
]  # fmt: skip


def written(family, setting):
    """The row of the committed values."""
    place = next(i for i, other in explorer.settings(family) if other == setting)
    return DATA[family]["values"][place]


def textbook(stage):
    """J, improvement, mean KL and, for every schedule, promises and gaps: dense matrices in NumPy, no package mathematics."""
    team, n = stage.team, stage.team.agents
    S, A = team.reward.shape
    if team.dynamics.horizon is None:
        P, gamma = np.asarray(team.dynamics.transition), float(team.dynamics.discount)
    else:
        X, T = S // team.dynamics.horizon, team.dynamics.horizon
        P, gamma = np.zeros((S, A, S)), 1.0
        for t in range(T - 1):
            P[t * X : (t + 1) * X, :, (t + 1) * X : (t + 2) * X] = np.asarray(team.dynamics.kernel.transition)
    r, rho, active = np.asarray(team.reward), np.asarray(team.initial), np.asarray(team.active)
    old, new = np.asarray(stage.current), np.asarray(stage.target)
    chain = [np.where((active < i)[:, None], new, old) for i in range(n + 1)]
    solved = []
    for pi in chain:
        M = np.linalg.inv(np.eye(S) - gamma * np.einsum("sa,sat->st", pi, P))
        V = M @ (pi * r).sum(-1)
        solved.append((rho @ V, rho @ M, r + gamma * P @ V - V[:, None]))
    J = np.array([x[0] for x in solved])
    norm = 1.0 if gamma == 1.0 else 1 - gamma
    kl = np.where(old > 0, old * np.log(np.where(old > 0, old, 1) / np.where(old > 0, new, 1)), 0).sum(-1)
    spent = np.mean([norm * (solved[i][1] * kl)[active == i].sum() for i in range(n)])

    def promise(i, occupancy, advantage):
        return (solved[occupancy][1] * ((chain[i + 1] - chain[i]) * solved[advantage][2]).sum(-1)).sum()

    rows = [[promise(i, i // k * k, i // k * k) for i in range(n)] for k in (1, 2, 4, n)]
    rows.append([promise(i, 0, i) for i in range(n)])
    return J[0], J[-1] - J[0], spent, np.array([[sum(row), abs(np.diff(J) - row).sum()] for row in rows])


def test_the_file_is_whole():
    assert explorer.VALUES.stat().st_size < 500_000
    assert DATA["command"] == "python -m experiments.explorer"
    assert tuple(DATA["schedules"]) == explorer.SCHEDULES
    assert tuple(DATA["numbers"]) == explorer.NUMBERS
    for family, axes in explorer.AXES.items():
        assert {name: tuple(axis) for name, axis in DATA[family]["axes"].items()} == axes
        assert len(DATA[family]["values"]) == np.prod([len(axis) for axis in axes.values()])
        assert {len(row) for row in DATA[family]["values"]} == {3 + len(explorer.SCHEDULES) * len(explorer.NUMBERS)}


@pytest.mark.parametrize(("family", "setting"), SAMPLE)
def test_values_are_those_of_the_textbook(family, setting):
    row = written(family, setting)
    before, brings, kl, schedules = textbook(explorer.MAKE[family](*setting))
    np.testing.assert_allclose(row[:3], [before, brings, kl], rtol=2e-6, atol=1e-9)
    found = np.array(row[3:], float).reshape(len(explorer.SCHEDULES), -1)
    np.testing.assert_allclose(found[:, :2], schedules, rtol=1e-5, atol=1e-9)
    assert kl <= setting[-1] * (1 + 1e-9)


@pytest.mark.parametrize(("family", "setting"), SAMPLE[1::3])
def test_values_are_made_by_the_command(family, setting):
    """What the command would write again, certificates included."""
    found = explorer.values(explorer.MAKE[family](*setting))
    again = [found[key] for key in ("before", "brings", "kl")] + [x for row in found["schedules"] for x in row]
    row = written(family, setting)
    assert [x is None for x in again] == [x is None for x in row]
    np.testing.assert_allclose(*([x for x in side if x is not None] for side in (again, row)), rtol=2e-5, atol=1e-13)


@pytest.mark.parametrize("family", explorer.AXES)
def test_what_must_hold_everywhere(family):
    """Certificates are below the truth; with one agent all schedules agree; the paper bounds two schedules only."""
    for _, setting in explorer.settings(family):
        row = written(family, setting)
        table = np.array(row[3:], float).reshape(len(explorer.SCHEDULES), -1)
        promised, gaps, certified, paper = table.T
        room = 1e-5 * abs(row[1]) + 1e-12
        assert (certified <= row[1] + room).all(), setting
        assert (paper[[0, 4]] <= row[1] + room).all(), setting
        assert np.isnan(paper[1:4]).all()
        assert (gaps >= abs(row[1] - promised) - 1e-5 * abs(promised) - room).all(), setting
        assert row[1] >= -room
        if setting[0] == 1:
            np.testing.assert_allclose(promised, promised[0], rtol=1e-5)
            np.testing.assert_allclose(gaps, gaps[0], rtol=1e-5, atol=1e-12)
        if setting[0] <= 4:
            np.testing.assert_allclose(table[2], table[3])  # every 4th update is once


def test_old_rollouts_cost_one_more_power_of_n():
    """R1 at small steps: gaps of fresh rollouts add up to n·ε², stale (3n² − n)/2·ε², cached (2n² − n)·ε²."""
    n = np.array([1, 2, 4, 8])
    stages = [explorer.relay(int(k), 0.001, 1e-5) for k in n]
    step = np.array([float(stage.target[0, 1] - stage.current[0, 1]) for stage in stages])
    gaps = np.array([written("relay", (k, 0.001, 1e-5))[3:] for k in n], float).reshape(4, -1, 4)[:, :, 1]
    for schedule, count in ((0, n), (4, (3 * n**2 - n) / 2), (3, 2 * n**2 - n)):
        np.testing.assert_allclose(gaps[:, schedule] / step**2, count, rtol=0.05)


# --------------------------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page as Sphinx makes it of docs/explorer.md alone."""
    source, out = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("html")
    shutil.copy(ROOT / "docs/explorer.md", source / "index.md")
    shutil.copytree(ROOT / "docs/explorer", source / "explorer")
    settings = "extensions = ['myst_parser']\nhtml_theme = 'furo'\nsuppress_warnings = ['myst.xref_missing']\n"
    (source / "conf.py").write_text(settings)
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(out)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out / "index.html"


def numbers(dom):
    return {name: float(x) for name, x in re.findall(r'<data id="explorer-value-(\w+)" value="([^"]*)"', dom)}


def test_nothing_from_the_network(page):
    source = (ROOT / "docs/explorer/explorer.html").read_text() + (ROOT / "docs/explorer.md").read_text()
    assert "http" not in source
    assert not re.search(r"\b(src|href|fetch|import)\s*[=(]", source)
    text = page.read_text()
    embedded = re.search(r'<script type="application/json" id="explorer-values">(.*?)</script>', text, re.S)
    assert json.loads(embedded[1]) == DATA


def check_plot(dom, family, setting, schedule):
    """The curves are the gaps of all numbers of agents, on logarithmic axes; the ring stands where the sliders do."""
    plot = re.search(r'<svg id="explorer-plot".*?</svg>', dom, re.S)[0]
    n = np.array(explorer.AXES[family]["n"])
    gaps = np.array([written(family, (k, *setting[1:]))[4::4] for k in n], float).T
    low = np.floor(np.log10(gaps[gaps > 1e-12].min()))
    high = max(np.ceil(np.log10(gaps.max())), low + 1)
    x, y = 52 + 328 * np.log(n) / np.log(n[-1]), 262 - 250 * (np.log10(np.maximum(gaps, 1e-300)) - low) / (high - low)
    lines = re.findall(r'<polyline points="([^"]*)"', plot)
    assert len(lines) == len(explorer.SCHEDULES)
    for line, own, size in zip(lines, y, gaps, strict=True):
        found = np.array([pair.split(",") for pair in line.split()], float).reshape(-1, 2)
        np.testing.assert_allclose(found, np.stack([x, own], 1)[size > 1e-12], atol=1e-6)
    here = list(n).index(setting[0])
    rings = np.array(re.findall(r'<circle cx="([^"]*)" cy="([^"]*)" r="8"', plot), float)
    assert len(rings) == (gaps[schedule, here] > 1e-12)
    np.testing.assert_allclose(rings, [[x[here], y[schedule, here]]] * len(rings), atol=1e-6)


@pytest.mark.parametrize(
    ("address", "family", "setting", "schedule"),
    [
        ("", "relay", (4, 0.01, 1e-3), 0),
        ("#team=relay&n=8&delta=0.1&p=0.1&schedule=3", "relay", (8, 0.1, 1e-1), 3),
        ("#team=random3&n=16&delta=0.00001&gamma=0.99&schedule=4", "random", (16, 0.99, 3, 1e-5), 4),
        ("#team=random1&n=2&delta=0.03&gamma=0.5&schedule=1", "random", (2, 0.5, 1, 3e-2), 1),
        ("#team=nobody&n=5&delta=x&schedule=<b>", "relay", (4, 0.01, 1e-3), 0),
    ],
)
def test_sliders_change_the_numbers_to_the_right_ones(page, tmp_path, address, family, setting, schedule):
    dom = dumped(page, tmp_path, address)
    row = written(family, setting)
    promised, gaps, certified, paper = row[3:][4 * schedule : 4 * schedule + 4]
    expected = {"before": row[0], "brings": row[1], "gaps": gaps, "promised": promised, "certified": certified}
    if paper is not None:
        expected["paper"] = paper
    assert numbers(dom) == expected
    assert ("it has no bound for this way of collecting" in dom) == (paper is None)
    axes = explorer.AXES[family]
    words = {
        name: re.search(rf'id="explorer-{name}-text"[^>]*>([^<]*)<', dom)[1] for name in ("n", "other", "schedule")
    }
    assert words["n"] == str(setting[0])
    assert float(words["other"]) == setting[1]
    assert words["schedule"] == explorer.SCHEDULES[schedule]
    check_plot(dom, family, setting, schedule)
    for name in ("n", "delta"):
        top = re.search(rf'id="explorer-{name}"[^>]*max="(\d+)"|max="(\d+)"[^>]*id="explorer-{name}"', dom)
        assert int(top[1] or top[2]) == len(axes[name]) - 1


def test_moving_a_slider_moves_the_page(page, tmp_path):
    """Not by the address but by the sliders themselves: events on the inputs, as a hand makes them."""
    moves = """<script>addEventListener("load", () => {
      const set = (name, value, event) => {
        const slider = document.getElementById("explorer-" + name);
        slider.value = value; slider.dispatchEvent(new Event(event)); };
      set("team", 2, "change"); set("n", 3, "input"); set("delta", 6, "input"); set("other", 3, "input");
      set("schedule", 2, "input"); });</script>"""
    moved = page.with_name("moved.html")
    moved.write_text(page.read_text().replace("</body>", moves + "</body>"))
    row = written("random", (8, 0.95, 2, 1e-2))
    found = numbers(dumped(moved, tmp_path))
    assert found == {"before": row[0], "brings": row[1], "promised": row[11], "gaps": row[12], "certified": row[13]}


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(page, tmp_path, width):
    found = measured(page, tmp_path, width)
    assert found["wanted"] <= width
    assert found["letters"] >= 10
