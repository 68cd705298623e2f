"""Studies of training: each runs on tiny settings, trains nothing twice, and its numbers are those of its records."""

import re
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from experiments.saved import write_json
from experiments.tabular import runs as training
from experiments.tabular import summary
from experiments.tabular.__main__ import main
from experiments.tabular.families import family
from experiments.tabular.rows import ABLATION, EXACT, FULL, exact_step
from experiments.tabular.runs import Records
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies import ablation, cost, order, regressions, replacement, tied, tracking
from experiments.tabular.studies.ablation import trained
from experiments.tabular.summary import bootstrap, closed, outside, resampled
from teamtr_jax.divergences import kl_current_to_new
from teamtr_jax.intervals import Interval
from teamtr_jax.schedules import fresh
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import evaluate, exact_backend, team_state
from teamtr_jax.training import train
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.validation import InputError

TINY = {"instances": 2, "stages": 1, "budget": 48, "progress": False}


@pytest.fixture
def settings(tmp_path):
    return TabularSettings(out=tmp_path, families=("garnet",), **TINY)


def made(improvement, j=None, kl=None, **columns) -> Records:
    """Records written by hand: ``[stages, updates, N]``."""
    improvement = np.asarray(improvement, float)
    after = np.zeros_like(improvement) if j is None else np.asarray(j, float)
    about = {"optimum": [2.0] * improvement.shape[-1]}
    return Records(
        about,
        {"exact.improvement": improvement, "exact.regression": improvement < 0, "exact.objective_after": after,
         "exact.objective_before": np.ones_like(after), "kl": np.zeros_like(after) if kl is None else np.asarray(kl), **columns},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- statistics


def test_losses_and_falls_by_hand():
    run = made([[[0.5, -0.25]], [[-0.125, -0.25]]], j=[[[1.5, 0.75]], [[1.375, 0.5]]])
    assert regressions.lost(run).tolist() == [6.25, 25.0]
    assert regressions.fall(run).tolist() == [6.25, 25.0]  # the second falls below its start
    assert regressions.cumulative(run).tolist() == [[0, 1], [1, 2]]


def test_bands_hold_the_mean_and_shrink():
    rng = np.random.default_rng(0)
    for n, width in ((25, 0.8), (2500, 0.08)):
        middle, low, high = resampled(np.mean, rng.normal(size=(4, n)), repeats=1000)
        assert ((low < middle) & (middle < high)).all()
        assert (high - low).mean() == pytest.approx(width, rel=0.2)  # 2 · 1.96/√n


def test_resampling_by_hand():
    """The quantiles of `np.random`'s own draws; columns are resampled together; one instance has no spread."""
    x = np.random.default_rng(3).normal(size=(2, 12))
    picks = np.random.default_rng(0).integers(0, 12, (2000, 12))
    low, high = np.quantile(np.median(x[:, picks], -1), [0.025, 0.975], axis=-1)
    np.testing.assert_allclose(resampled(np.median, x), (np.median(x, -1), low, high), rtol=1e-12)
    found = bootstrap(x[0])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((np.median(x[0]), low[0], high[0], 12))
    together = resampled(lambda a, b, axis: (a - b).mean(axis), x[0], x[0] - 1)
    np.testing.assert_allclose(together, 1.0)
    assert bootstrap(x[0, :1]) == (x[0, 0], x[0, 0], x[0, 0], np.inf, 1)


def test_rank_correlation_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (3, 20)).astype(float), rng.integers(0, 5, (3, 20)).astype(float)

    def by_ranks(x, y):
        return pytest.approx(np.corrcoef(rankdata(x), rankdata(y))[0, 1])

    assert tracking.spearman(x, y) == by_ranks(x, y)
    assert tracking.spearman(x, -x) == pytest.approx(-1)
    assert tracking.spearman(x, np.full((3, 20), -np.inf)) == 0
    assert tracking.spearman(np.full((3, 20), 2.0), y) == 0
    first, second = np.r_[x.ravel(), -np.inf], np.r_[y.ravel(), -9]
    assert tracking.spearman(first, second) == by_ranks(first, second)


def test_instances_are_resampled_whole():
    """200 updates of each of 8 teams that differ in their mean: the interval is that of 8 numbers."""
    x = np.random.default_rng(0).normal(size=8) + np.zeros((10, 20, 1))
    pooled = tracking.clustered(lambda x: float(x.mean()), (x,))
    alone = bootstrap(x[0, 0], np.mean)
    assert pooled.value == pytest.approx(alone.value)
    assert pooled.high - pooled.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_spread_of_orders():
    finals = np.array([[1.0, 5.0], [2.0, 4.0], [4.0, 3.0]])
    assert order.spread(finals).tolist() == [3, 2]
    found = order.spread_of_means(finals)
    assert found == (
        0.5,
        0.5,
        3,
        np.inf,
        2,
    )  # the means 3, 3, 3.5; of the first team twice 1, 2, 4, of the second 5, 4, 3


@pytest.mark.parametrize(
    ("share", "gain", "worse", "found"),
    [
        (0.5, (-1, 1), (-1, 1), "yes"),
        (0.6, (-1, 1), (-1, 1), "–"),
        (0.5, (-4, 1), (-1, 1), "open"),
        (0.5, (-1, 1), (-1, 4), "open"),
        (0.5, (-4, -1), (-1, 1), "no"),
        (0.5, (-1, 1), (1, 4), "no"),
        (0.5, (-2, -1), (1, 2), "yes"),  # worse for certain, and by less than the margin
        (0.2, (5, 9), (-9, -5), "yes"),
    ],
)
def test_verdict(share, gain, worse, found):
    assert cost.verdict(share, *(Interval(0.0, low, high, np.inf, 20) for low, high in (gain, worse))) == found


def test_statistics_of_instances_by_hand():
    """Two stages of two updates, one instance: every count and share from its definition."""
    run = made(
        np.array([[[3.0], [5.0]], [[7.0], [1.0]]]),
        rollouts=np.array([[[3], [5]], [[7], [1]]]),
        **{
            "exact.improvement": np.array([[[0.5], [-0.25]], [[-0.125], [1.0]]]),
            "exact.regression": np.array([[[0.0], [1.0]], [[1.0], [0.0]]]),
            "exact.objective_before": np.array([[[0.5], [1.0]], [[0.75], [0.625]]]),
            "exact.objective_after": np.array([[[1.0], [0.75]], [[0.625], [1.625]]]),
            "exact.kl": np.array([[[0.0101], [0.0102]], [[0.0], [0.02]]]),
        },
    )
    run.about["optimum"] = [2.5]
    assert summary.rollouts(run).tolist() == [8.0]
    assert summary.objective(run)[:, 0].tolist() == [0.5, 0.75, 1.625]
    assert summary.closed(run).tolist() == [1.125 / 2.0]
    assert summary.regressions(run).tolist() == [0.5]
    assert summary.instability(run).tolist() == [100 * 0.375 / 4 / 2.5]
    assert outside(run, 0.01).tolist() == [0.5]  # above 1.01 of it, not at it


def test_monitor_and_truth_are_told_apart():
    run = made(np.ones((1, 2, 1)), kl=[[[0.02], [0.0]]], **{"exact.kl": np.array([[[0.0], [0.005]]])})
    assert tracking.monitored(run, 0.01).tolist() == [0.5]
    assert outside(run, 0.01).tolist() == [0.0]
    assert outside(run, 0.004).tolist() == [0.5]


def timed(seconds) -> Records:
    return Records({}, {"time_stage": np.asarray(seconds, float)[:, None, None]})


def test_wall_times_have_quartiles():
    """The first stage, which compiles, does not count, unless it is the only one."""
    assert cost.stage_times(timed([90, 1, 2, 3, 4, 5])).tolist() == [1, 2, 3, 4, 5]
    assert cost.stage_times(timed([90])).tolist() == [90]
    assert cost.spread_of(np.array([1.0, 2, 3, 4, 5]) / 2, ".2f") == "1.50 [1.00, 2.00]"


def test_monitor_share_by_hand(settings):
    """Six updates of 40 readings of 1 and 2 ms in a stage of 2 s."""
    record = {"monitor": [0.001, 0.002], "epochs": 40, "updates": 6, "stage": 2.0}
    write_json(settings.out / "cost-monitors.json", record)
    assert cost.monitor_share(settings).tolist() == pytest.approx([0.12, 0.24])


def test_numbers_are_printed_short():
    assert regressions.text(Interval(123.4, -0.0001, 0.256, np.inf, 3)) == "123 [0, 0.26]"


# --------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ("handover", "relay")),
        (["--families", "garnet"], ("garnet",)),
        (["--families", "relay", "garnet"], ("relay", "garnet")),
    ],
)
def test_families_that_are_asked_for(arguments, found, tmp_path, monkeypatch, capsys):
    """From the command line, `--families garnet` too; the study's usual ones otherwise. Text files have no trailing blanks."""

    def study(settings):
        sys.stdout.write(" ".join(teams_of(settings, ("handover", "relay"))) + "  \n")
        return []

    monkeypatch.setattr("experiments.tabular.__main__.STUDIES", {"order": study})
    monkeypatch.setattr(sys, "argv", ["tabular", "order", "--out", str(tmp_path), *arguments])
    assert main() == 0
    assert capsys.readouterr().out.startswith(" ".join(found))
    assert (tmp_path / "order.txt").read_text() == " ".join(found) + "\n"


class Asked(Exception):
    """What `teams_of` answered a study."""


@pytest.mark.parametrize(
    ("study", "usual"),
    [
        (ablation, ("garnet",)),
        (regressions, ("garnet", "handover")),
        (tracking, ("garnet", "handover")),
        (cost, ("garnet", "handover", "relay")),
        (order, ("garnet", "handover")),
        (replacement, ("garnet",)),
        (tied, ("drift", "drift-apart", "garnet-tied")),
    ],
    ids=lambda x: x.__name__.split(".")[-1] if hasattr(x, "__name__") else "",
)
def test_studies_ask_for_their_families(study, usual, tmp_path, monkeypatch):
    def asked(*arguments):
        raise Asked(teams_of(*arguments))

    monkeypatch.setattr(study, "teams_of", asked)
    for families, expected in ((None, usual), (("garnet",), ("garnet",)), (("relay",), ("relay",))):
        with pytest.raises(Asked) as found:
            study.run(TabularSettings(out=tmp_path, families=families, **TINY))
        assert found.value.args == (expected,)


def test_cost_has_no_frozenlake(settings):
    with pytest.raises(InputError, match="families: found frozenlake, expected one of garnet, handover, relay"):
        cost.run(replace(settings, families=("frozenlake",)))


# ------------------------------------------------------------------------------------------------------------------- rows


def test_schedules_of_the_cost_study():
    teams = cost.sized("garnet", TabularSettings(instances=2))
    assert (teams.name, teams.team.agents) == ("garnet-6", 6)
    setup = next(x for x in cost.CASES if x.base is FULL)
    sets = {name: row.schedule(teams).draws(6) for name, row in cost.rows(setup).items()}
    assert sets.pop("once, = budget") == 1
    assert set(sets.values()) == {6}  # as small as the fresh schedule's
    names = [row.name for setup in cost.CASES for row in cost.rows(setup).values()]
    assert len({(x.family, training.slug(row.name)) for x in cost.CASES for row in cost.rows(x).values()}) == len(names)


@pytest.mark.parametrize(
    "rows",
    [
        [row for group in regressions.GROUPS.values() for row in group]
        + [row for x in order.ROWS.values() for row in x],
        [*tracking.ROWS, *tracking.SOURCES],
    ],
)
def test_no_two_rows_share_a_folder(rows):
    by_folder = {}
    for row in rows:
        assert by_folder.setdefault(training.slug(row.name), row) is row, row.name


# ---------------------------------------------------------------------------------------------------------------- studies


def without_training(monkeypatch):
    """A stage that is trained now is an error."""

    def refuse(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "run_stage", refuse)


def test_a_second_call_trains_nothing_and_prints_the_same(settings, monkeypatch, capsys):
    small = {"U1, δ = 0.3, exact": regressions.GROUPS["U1, δ = 0.3, exact"][:1]}
    monkeypatch.setattr(regressions, "GROUPS", small)
    monkeypatch.setattr(regressions, "SHOWN", tuple(small))
    figures = regressions.run(settings)
    first = capsys.readouterr().out
    assert all(x.stat().st_size > 10_000 for x in figures)
    without_training(monkeypatch)
    assert regressions.run(settings) == figures
    assert capsys.readouterr().out == first
    with pytest.raises(AssertionError, match="trained again"):
        trained(replace(settings, out=settings.out / "new"), "garnet", EXACT[:1])


def test_the_table_against_a_direct_computation(settings):
    """One team alone, its J, KL and gap closed by the linear solves."""
    found = trained(settings, "garnet", EXACT[:1])[EXACT[0].name]
    teams = family("garnet", settings.instances, settings.seed)
    team, policy = jax.tree.map(lambda x: x[1], (teams.team, teams.policy))
    backend = exact_backend(team, kl_constrained(0.01), audit=False)
    chain = [policy]

    def update(*arguments):
        state, info = backend.update(*arguments)
        chain.append(state.policy)
        return state, info

    run_stage(backend._replace(update=update), team_state(team, policy), range(3), fresh)
    data = [evaluate(team, x) for x in chain]
    j = np.array([float(x.objective) for x in data])
    assert closed(found)[1] == pytest.approx((j[-1] - j[0]) / (teams.optimum[1] - j[0]), rel=1e-9)
    assert found["exact.improvement"][0, :, 1] == pytest.approx(np.diff(j), rel=1e-6)
    kl = [
        float((x.weight * kl_current_to_new(a, b)).sum())
        for x, a, b in zip(data[:-1], chain[:-1], chain[1:], strict=True)
    ]
    assert found["exact.kl"][0, :, 1] == pytest.approx(kl, rel=1e-9)
    assert outside(found, 0.0099)[1] == 1
    assert order.final(found)[1] == pytest.approx(100 * j[-1] / teams.optimum[1])


@pytest.mark.slow
def test_cached_samples_are_joint_updates(settings):
    """By samples no update between two rollouts can know what the others have become: `once` and `joint` are one thing."""
    rows = [replace(row, step=exact_step()) for row in regressions.named(ABLATION, "no resampling", "joint")]
    first, second = trained(replace(settings, families=("handover",)), "handover", rows).values()
    np.testing.assert_allclose(first["exact.objective_after"], second["exact.objective_after"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("study", [regressions, order, tracking, cost], ids=lambda x: x.__name__.split(".")[-1])
def test_study(study, settings, monkeypatch, capsys):
    budget = 96 if study is not cost else 48
    settings = replace(settings, budget=budget, stages=2)
    figures = study.run(settings)
    first = capsys.readouterr().out
    assert figures
    assert all(x.stat().st_size > 10_000 for x in figures)
    assert "paper" in first
    assert not re.search(r"\bnan\b", first)
    without_training(monkeypatch)
    assert study.run(settings) == figures
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_certificates_hold_and_the_finite_sample_one_covers(settings):
    settings = replace(settings, instances=4, stages=3, budget=192)
    found = tracking.finite_sample(settings)
    lower, improvement = found[tracking.FINITE], found["exact.improvement"]
    assert np.isfinite(lower).all()
    assert (lower > improvement).mean() <= tracking.ALPHA + 3 * np.sqrt(0.09 / lower.size)
    assert found["exact.violations"].sum() == 0
    assert jnp.asarray(lower).shape == (2, 4, 4)


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "study: found 'nothing', expected"),
        (["order", "--families", "sudoku"], "families: found 'sudoku', expected garnet or frozenlake or relay or handover"),
        (["order", "--instances", "0"], "instances: found 0, expected an integer from 1 to 1000000"),
        (["order", "--stages", "-1"], "stages: found -1"),
        (["order", "--budget", "10000000"], "budget: found 10000000"),
        (["order", "--seed", str(2**40)], f"seed: found {2**40}, expected an integer from 0 to 4294967295"),
        (["order", "--instances", "1000000", "--budget", "1000000"], "instances, budget: found 1000000, 1000000: at least 4"),
        (["order", "--out", "/dev/null"], "out: found /dev/null, a device, expected a folder"),
        (["order", "--stages", "one"], "--stages"),
    ],
)  # fmt: skip
def test_bad_input_of_studies_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("experiments.tabular.__main__.STUDIES", {"order": lambda settings: pytest.fail("worked")})
    monkeypatch.setattr(sys, "argv", ["tabular", *arguments])
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["order.txt", "order-garnet.png"])
def test_what_stands_in_the_place_of_a_result_is_refused_first(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.tabular.__main__.STUDIES", {"order": lambda settings: pytest.fail("worked")})
    monkeypatch.setattr(sys, "argv", ["tabular", "order", "--out", str(tmp_path)])
    (tmp_path / name).mkdir()
    assert main() == 2
    assert f"{tmp_path / name}, a folder, expected a file" in capsys.readouterr().err


def test_damaged_settings_of_a_run_are_named(tmp_path):
    """The files of a run written by hand; every fifth byte of its settings flipped, then records that do not fit."""
    line = {"update": 0, "instance": 0, "info": {"x": 0.5}, "exact": None}

    def stage(state, key, k):
        return state, [{**line, "stage": k}]

    train(stage, jnp.zeros(()), 2, jax.random.key(0), tmp_path, {"a": 1}, progress=False)
    write_json(tmp_path / training.ABOUT, {"optimum": [1.0]})
    assert training.load(tmp_path)["info.x"].tolist() == [[[0.5]], [[0.5]]]
    whole = (tmp_path / training.ABOUT).read_bytes()
    for at in range(0, len(whole), 5):
        (tmp_path / training.ABOUT).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"settings.json: found a damaged file"):
            training.load(tmp_path)
    (tmp_path / training.ABOUT).unlink()
    with pytest.raises(InputError, match=r"settings.json: found no such file"):
        training.load(tmp_path)
    other = tmp_path / "other"
    train(lambda state, key, k: (state, [{"stage": k}]), jnp.zeros(()), 1, jax.random.key(0), other, {}, progress=False)
    write_json(other / training.ABOUT, {"optimum": [1.0]})
    with pytest.raises(InputError, match=r"other: found records of another program \('update'\)"):
        training.load(other)
