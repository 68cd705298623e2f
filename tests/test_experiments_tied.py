"""The study of tied rows: its families, its budgets, its numbers by hand."""

import numpy as np
import pytest

from experiments.tabular.families import family
from experiments.tabular.rows import ABLATION
from experiments.tabular.runs import Records
from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies import tied
from teamtr_jax.tabular import team_state


def records(j, regression=0.0, rollouts=6.0):
    """A run of one update a stage: `j` ``[stages + 1, N]``."""
    j = np.asarray(j, float)
    change = np.diff(j, axis=0)[:, None]
    columns = {
        "exact.objective_before": j[:-1, None],
        "exact.objective_after": j[1:, None],
        "exact.improvement": change,
    }
    flags = {"exact.regression": np.full_like(change, regression), "rollouts": np.full_like(change, rollouts)}
    return Records({"optimum": [2.0] * j.shape[-1]}, columns | flags)


@pytest.mark.parametrize(("name", "labels"), [("drift", 2), ("drift-apart", 18), ("garnet-tied", 4)])
def test_families_by_what_is_seen(name, labels):
    """Blind or not, pushing and saying have rows of their own; the policies are of the team."""
    teams = family(name, 3, 0)
    assert (teams.name, teams.about["family"], teams.instances) == (name, name, 3)
    assert all(len(np.unique(one)) == labels for one in np.asarray(teams.team.observation))
    team_state(teams.team, teams.policy)
    assert (teams.optimum > 0).all()


def test_the_same_drift_teams():
    """What is earned, and the best that a team could do that sees all, do not depend on what is seen."""
    blind, apart = family("drift", 3, 1), family("drift-apart", 3, 1)
    np.testing.assert_array_equal(blind.team.reward, apart.team.reward)
    np.testing.assert_array_equal(blind.optimum, apart.optimum)
    assert (blind.about["observations"], apart.about["observations"]) == (1, 9)


def test_growth_behind_by_hand():
    """After one stage ½ of 1 is behind by 50 %, at the end 3 of 2 is ahead by 50 %: means over teams, then their ratio."""
    new, old = records([[0, 0], [1.5, 0.5], [3, 1]]), records([[0, 0], [0.5, 0.5], [4, 2]])
    assert [x.tolist() for x in tied.behind(old, new, 1)] == [[0.5, 0.5], [1.5, 0.5]]
    assert tied._share(*tied.behind(old, new, 1)) == 50
    assert tied._share(*tied.behind(old, new, 2)) == -50


def test_labels_of_rows():
    names = [tied._label(row.name) for rows in tied.GROUPS.values() for row in rows]
    assert names == [
        "exact, fresh", "exact, stale occupancy", "exact, no resampling",
        "16 x sampled, fresh", "16 x sampled, no resampling", "16 x sampled, importance weights",
        "sampled, fresh", "sampled, no resampling", "sampled, importance weights", "sampled, importance weights ≤ 5",
        "PPO, fresh", "PPO, no resampling", "PPO, importance weights",
    ]  # fmt: skip
    reuse = [row.schedule(family("drift", 1, 0)).reuse for row in tied.GROUPS["exact"]]
    assert reuse == ["rollouts", "occupancy", "rollouts"]
    assert all(row in ABLATION for row in tied.GROUPS["PPO"])


def test_the_table(monkeypatch, tmp_path, capsys):
    """Every group of every family, many rollouts where that is said, each row against the first of its group."""
    asked = []

    def trained(settings, name, rows):
        asked.append((name, settings.budget, len(rows)))
        return {row.name: records([[0, 0], [2 - k, 2 - k]], 0.25 * k, 1 + k) for k, row in enumerate(rows)}

    monkeypatch.setattr(tied, "trained", trained)
    settings = TabularSettings(out=tmp_path, families=("drift",), instances=2, stages=1, budget=48, progress=False)
    assert tied.run(settings) == [tmp_path / "tied.png"]
    assert asked[:4] == [("drift", 48, 3), ("drift", 16 * 48, 3), ("drift", 48, 4), ("drift", 48, 3)]
    assert tied._groups("garnet-tied") == ["exact", "sampled", "PPO"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "drift: exact" in line]
    assert [line.split("│")[2].split()[0] for line in lines] == ["0", "25.0", "50.0"]
    assert [line.split("│")[5].split()[:1] for line in lines] == [[], ["50.0"], ["100"]]
    assert [line.split("│")[6].strip() for line in lines] == ["1", "2", "3"]
