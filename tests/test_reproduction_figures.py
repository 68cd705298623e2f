"""What the figures of the reproduction draw: every line and point, from the committed data, worked out here again."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import t as student

from experiments import figures, paper
from experiments.reproduce.__main__ import QUESTIONS
from experiments.reproduce.questions.monitor import ZETA
from experiments.reproduce.questions.scaling import COMPARED, TASKS

DATA = Path(__file__).parents[1] / "docs/reproduction/data"
BY_SLUG = {question.slug: question for question in QUESTIONS}


class Drawn:
    """The axes of a figure: lines by their label (those without one in order), bands and error bars."""

    def __init__(self, slug, monkeypatch, tmp_path):
        monkeypatch.setattr(plt, "close", lambda figure: None)
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: Path(path).touch())
        self.data = json.loads((DATA / f"{slug}.json").read_text())["data"]
        BY_SLUG[slug].draw(self.data, tmp_path / f"{slug}.png")
        self.axes = plt.gcf().axes
        monkeypatch.undo()
        plt.close("all")

    def line(self, axis, label):
        (found,) = [x for x in self.axes[axis].lines if x.get_label() == label]
        return np.asarray(found.get_data(), float)

    def band(self, axis, number):
        """Lower and upper edge of a filled band, in the order of the points."""
        corners = self.axes[axis].collections[number].get_paths()[0].vertices
        xs = np.unique(corners[:, 0])
        return np.array([[f(corners[corners[:, 0] == x, 1]) for x in xs] for f in (min, max)])

    def bars(self, axis, number):
        """Lower and upper end of the error bars of one series."""
        ends = self.axes[axis].containers[number].lines[2][0].get_segments()
        return np.array([[y[0, 1], y[1, 1]] for y in ends]).T

    def rows(self, axis, count):
        """Value, low and high of the intervals that are drawn one a row."""
        found = self.axes[axis].lines[: 2 * count]
        return np.array(
            [[dot.get_xdata()[0], *bar.get_xdata()] for bar, dot in zip(found[::2], found[1::2], strict=True)]
        )


def interval(seeds):
    """Mean and 95 % t interval over the last axis."""
    seeds = np.asarray(seeds, float)
    half = student.ppf(0.975, seeds.shape[-1] - 1) * seeds.std(-1, ddof=1) / np.sqrt(seeds.shape[-1])
    return seeds.mean(-1), seeds.mean(-1) - half, seeds.mean(-1) + half


def same(found, expected):
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=1e-9, atol=1e-9)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    return lambda slug: Drawn(slug, monkeypatch, tmp_path)


def test_every_figure_is_looked_at():
    assert {name.removesuffix(".json") for name in (path.name for path in DATA.iterdir())} == set(BY_SLUG)
    here = Path(__file__).read_text()
    assert [slug for slug in BY_SLUG if f'drawn("{slug}")' not in here] == []


def test_gaps_of_updates(drawn):
    found = drawn("fig-2")
    pairs = [(task, way) for task in found.data["gaps"] for way in found.data["gaps"][task]]
    for axis, (task, way) in enumerate(pairs):
        gaps = 100 * np.asarray(found.data["gaps"][task][way])  # [seeds, stages, update]
        for update in (0, 1):
            value, low, high = interval(gaps[:, :, update].T)
            same(found.line(axis, f"update {update + 2}"), [np.arange(1, len(value) + 1), value])
            same(found.band(axis, update), [np.maximum(low, 0), high])
        assert found.axes[axis].get_title().endswith(way)


def test_courses_and_regressions(drawn):
    found = drawn("fig-3")
    for axis, key in enumerate(("curve", "curve_at_one_rate")):
        for number, (way, curves) in enumerate(found.data[key].items()):
            value, low, high = interval(np.asarray(curves).T)
            same(found.line(axis, way), [np.arange(len(value)), value])
            same(found.band(axis, number), [low, high])
    same(found.rows(2, 4), [interval(x) for x in found.data["regressions"].values()])


def test_outside_and_certificates(drawn):
    found = drawn("fig-4")
    dots = [x for x in found.axes[0].lines if x.get_marker() == "o"]
    theirs = [x for x in found.axes[0].lines if x.get_marker() == "s"]
    bars = [x for x in found.axes[0].lines if x.get_marker() == "None"]
    for i, (way, seeds) in enumerate(found.data["outside"].items()):
        value, low, high = interval(seeds)
        same([dots[i].get_xdata()[0], *bars[i].get_xdata()], [value, low, high])
        same(theirs[i].get_xdata(), [100 * paper.OUTSIDE[way]])
        same([x.get_ydata()[0] for x in (dots[i], theirs[i], bars[i])], [i, i, i])
    clouds = [x for x in found.axes[1].lines if x.get_marker() == "."]
    keys = [key for key in found.data["certificates"][0] if key not in ("improvement",)]
    x = 100 * np.concatenate([c["improvement"] for c in found.data["certificates"]])
    ours = {key: 100 * np.concatenate([c[key] for c in found.data["certificates"]]) for key in keys}
    assert len(clouds) == 2
    for cloud in clouds:
        same(cloud.get_xdata(), x)
        assert sum(np.allclose(cloud.get_ydata(), y, rtol=1e-12) for y in ours.values()) == 1


def test_shifts_of_logits(drawn):
    found = drawn("fig-5")
    shift = found.data["shift"]
    both = [i for i, (x, y) in enumerate(zip(*shift.values(), strict=True)) if x is not None and y is not None]
    for number, side in enumerate(("inside", "outside")):
        rows = np.array([shift[side][i] for i in both]).T
        value, low, high = interval(rows)
        same(found.line(0, f"{side} the region"), [np.arange(1, len(rows) + 1), value])
        same(found.band(0, number), [np.maximum(low, 0), high])


def test_replacement(drawn):
    found = drawn("fig-6-tab-11")
    for number, (name, colour) in enumerate(figures.REPLACED.items()):
        value, low, high = interval(np.asarray(found.data["courses"][name]).T)
        same(found.line(0, name), [np.arange(len(value)), value])
        same(found.band(0, number), [low, high])
        assert [x.get_color() for x in found.axes[0].lines if x.get_label() == name] == [colour]


def test_tasks(drawn):
    found = drawn("tab-1")
    tasks = found.data["tasks"]
    ways = list(next(iter(tasks.values()))["end"])
    for k, way in enumerate(ways):
        ends = [np.asarray(x["end"][way]) for x in tasks.values()]
        value, low, high = np.array([interval(x) for x in [*ends, np.mean(ends, 0)]]).T
        dots = found.axes[0].containers[k].lines[0]
        same(dots.get_data(), [np.arange(len(tasks) + 1) + 0.16 * (k - 1.5), value])
        same(found.bars(0, k), [low, high])
        assert found.axes[0].containers[k].get_label() == way
    starts = [np.mean([x["start"][way] for way in ways]) for x in tasks.values()]
    same(found.line(0, "start"), [range(len(tasks)), starts])


def test_weights(drawn):
    found = drawn("tab-10")
    clouds = [x for x in found.axes[1].lines if x.get_marker() == "."]
    for number, (name, columns) in enumerate(found.data["values"].items()):
        x = np.arange(1, 6)
        value, low, high = interval(np.asarray(columns["weight_ess"]).T)
        same(found.line(0, f"ours, {name}"), [x, value])
        same(found.band(0, number), [low, high])
        value, low, high = interval(np.asarray(columns["weight_max"]).T)
        same(found.line(2, name), [x, value])
        same(found.band(2, number), [np.maximum(low, 1), high])
        same(clouds[number].get_data(), [np.ravel(columns["path_kl"]), np.ravel(columns["weight_ess"])])
    kl, course = found.line(1, "exp(−2K)")
    same(course, np.exp(-2 * kl))
    same([kl[0], kl[-1]], [0, np.max([c["path_kl"] for c in found.data["values"].values()])])
    same(found.line(0, "the paper"), list(zip(*paper.IMPORTANCE["ess_share"].items(), strict=True)))


def test_growth_with_the_agents(drawn):
    found = drawn("tab-2a")
    sizes = found.data["sizes"]
    for axis, ax in enumerate(found.axes):
        ours = [x.get_label() for x in ax.lines if x.get_label().startswith("ours")]
        for label in ours:
            task, way = next(
                (task, way)
                for task in TASKS
                for way in found.data["values"][task]
                if label == f"ours, {TASKS[task][1]}, {way}"
            )
            x, y = found.line(axis, label)
            same(x, sizes)
            same(y, np.mean(found.data["values"][task][way][list(COMPARED)[axis]], -1))
    same([ax.get_xticks() for ax in found.axes], [sizes] * len(found.axes))


def test_ablation(drawn):
    found = drawn("tab-2b-9")
    ends = {name: np.asarray(x) for name, x in found.data["end"].items()}
    names = list(ends)[1:]
    assert next(iter(ends)) == "full"
    same(found.rows(0, len(names)), [interval(ends[name] - ends["full"]) for name in names])
    assert [x.get_text() for x in found.axes[0].get_yticklabels()] == names
    theirs = [paper.ABLATION[name.removesuffix(", same sets")] - paper.ABLATION["full"] for name in names]
    same(found.axes[1].lines[0].get_data(), [theirs, range(len(names))])
    for tried in found.data["tuning"]:
        label = tried["way"]
        if label in [x.get_label() for x in found.axes[2].lines]:
            same(found.line(2, label), [tried["rates"], 100 * np.mean(tried["ends"], -1)])
    same(found.axes[2].lines[-1].get_ydata(), [np.mean(found.data["start"])] * 2)


def test_cost(drawn):
    found = drawn("tab-6")
    names = list(found.data["tokens"])
    panels = [np.asarray(list(found.data["tokens"].values())) / 1000,
              np.median(list(found.data["seconds"].values()), -1), np.asarray(list(found.data["end"].values()))]  # fmt: skip
    for axis, seeds in enumerate(panels):
        same(found.rows(axis, len(names)), np.transpose(interval(seeds)))
    assert [x.get_text() for x in found.axes[0].get_yticklabels()] == names


def test_monitor(drawn):
    found = drawn("tab-7-8")
    data = found.data
    rows = [x for way in data["zeta"] for x in (data["gain"][way], *(data["zeta"][way][key] for key in ZETA))]
    same(found.rows(0, len(rows)), [interval(x) for x in rows])
    labels = [x.get_text() for x in found.axes[0].get_yticklabels()]
    assert labels == [f"{way}: {label}" for way in data["zeta"] for label in ("L^seq", *ZETA.values())]
    parts = sorted(paper.MONITOR_FLIPS)
    assert parts[-1] == 1
    same(found.line(1, "the paper"), [[100 * x for x in parts], [paper.MONITOR_FLIPS[x] for x in parts]])
    assert len(found.axes[1].containers) == len(data["flips"])
    for number, by_part in enumerate(data["flips"].values()):
        seeds = [[100 * np.mean(x) for x in by_part[f"{part:g}"] if x] for part in parts[:-1]]
        value, low, high = np.array([*map(interval, seeds), (0, 0, 0)]).T  # who sees everything flips nothing
        same(found.axes[1].containers[number].lines[0].get_data(), [[100 * x for x in parts], value])
        same(found.bars(1, number), [low, high])


def test_networks_with_tied_rows(drawn):
    found = drawn("tab-2b-tied")
    kinds = found.data["kinds"]
    for axis, way in enumerate(("no resampling", "no resampling, same sets")):
        less = [np.subtract(kind[way]["end"], kind["full"]["end"]) for kind in kinds.values()]
        same(found.rows(axis, len(kinds)), [interval(x) for x in less])
        theirs = paper.ABLATION["no resampling"] - paper.ABLATION["full"]
        same(found.axes[axis].lines[-1].get_xdata(), [theirs] * 2)
    assert [x.get_text() for x in found.axes[0].get_yticklabels()] == list(kinds)


def test_tables_with_tied_rows(drawn):
    found = drawn("tab-2a-tied")
    sizes, exact = found.data["sizes"], found.data["exact"]
    for view, ways in exact.items():
        ends, stale = ({way: np.array([x[key] for x in ways[way]]) for way in ("TeamTR", "naive")}
                       for key in ("end", "delta_stale"))  # fmt: skip
        for way in ends:
            same(found.line(0, f"{view}, {way}"), [sizes, ends[way].mean(-1)])
            if (stale[way] > 0).all():
                same(found.line(2, f"{view}, {way}"), [sizes, stale[way].mean(-1)])
        same(found.line(1, view), [sizes, (ends["naive"] - ends["TeamTR"]).mean(-1)])
    same([found.band(0, 0)], [interval([x["end"] for x in exact["whole transcript"]["TeamTR"]])[1:]])
    naive, ours = (paper.SCALING_ENDS[way]["accuracy"] for way in ("naive", "TeamTR"))
    same(found.line(1, "the paper"), [(2, 8), np.subtract(naive, ours)])
