"""What the monitor shows: every cell under its heading, every remark and its number, every point of a figure.

The records are made by hand, each field with a value of its own, so that a field in another's place is seen.
"""

import io
import re
from html import unescape

import numpy as np
import pytest
from monitor_oracle import columns, stage
from rich.console import Console

from teamtr_jax import intervals
from teamtr_jax.monitor import (
    INFORMATION,
    Settings,
    figures,
    monitor,
    show,
    terminal,
    token_log,
    verdicts,
    write_page,
)
from teamtr_jax.monitor import columns as columns_of
from teamtr_jax.monitor import page as pages
from teamtr_jax.monitor.dashboard import drawn, line_of
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.remarks import remarks
from teamtr_jax.monitor.terminal import shortened, tables

SETTINGS = Settings(delta=0.035, alpha=0.2, tolerance=0.15, reward_range=(-1.0, 3.0), draws=70, complete=True)

LABEL = "in-sample: not a guarantee"


def iv(value, width=0.5, n=9):
    return {"value": value, "low": value - width, "high": value + 2 * width, "n": n}


def weights(first, n):
    names = ("ess", "p95", "p99", "largest", "above_ten")
    return {name: first + k for k, name in enumerate(names)} | {"n": n}


FULL = {
    "stage": 7, "update": 3, "agents": [2, 5], "kind": "joint", "changed_besides": [], "evidence": "fresh", "resampled": True,
    "source": 23, "off_policy": 0.0625, "prompts": 11, "rollouts": 44, "tokens": 555, "reward": iv(1.25),
    "share_tokens": {"2": 0.256, "5": 0.744}, "share_messages": {"2": 0.3, "5": 0.7}, "messages": 1.238, "messages_max": 4,
    "delta": 0.035, "kl_k1": iv(2.25), "kl_k3": iv(3.25), "outside": True, "flips_25": 0.756, "flips_50": 0.933,
    "kl_episode": iv(4.25), "kl_episode_upper": 5.0, "surrogate": iv(5.25), "surrogate_tokens": iv(6.25),
    "surrogate_normalised": iv(7.25), "gap": iv(8.25), "improvement": iv(9.25),
    "rungs": [
        {"id": "S7", "name": "message ratios", "information": "estimable", "certificate": iv(10.25), "lower": 0.1},
        {"id": "S7", "name": "token ratios", "information": "estimable", "certificate": iv(11.25), "lower": 0.3},
        {"id": "S9", "name": "value-weighted", "information": "estimable", "certificate": iv(12.25), "lower": 0.2},
    ],
    "certificate": {"rung": "S7, token ratios", "lower": 0.3, "alpha": 0.2, "union": 3, "label": LABEL},
    "certificate_finite_sample": {"lower": -0.7, "estimate": 0.4, "alpha": 0.2, "estimator": "path", "bound": "betting",
                                  "label": LABEL},
    "weights_update": weights(21.0, 44), "weights_behaviour": weights(31.0, 66) | {"source": 1},
    "improvement_next": iv(13.25), "paired": True, "shift": 0.11, "shift_upper": 0.22, "shift_rung": "S3, re-scored rollouts",
    "shift_booked": 0.33, "skippable": True, "interaction": None, "drift": None,
    "kl_sampler_current": iv(14.25), "kl_sampler_new": iv(15.25), "sampler_misses": iv(16.25), "sampler_cuts": False,
    "kl_deployed": iv(17.25), "improvement_deployed": iv(18.25),
    "certificate_deployed": {"rung": "S9, value-weighted", "certificate": iv(19.25), "lower": -0.8, "alpha": 0.2, "label": LABEL},
    "certificate_deployed_finite_sample": {"lower": -0.9, "estimate": 0.6, "alpha": 0.2, "estimator": "path", "bound": "betting",
                                           "label": LABEL},
}  # fmt: skip
POOR = FULL | dict.fromkeys(
    ("kl_k1", "kl_k3", "outside", "flips_25", "flips_50", "gap", "improvement", "certificate_finite_sample", "skippable",
     "weights_behaviour", "improvement_next", "paired", "shift", "shift_upper", "shift_rung", "shift_booked", "kl_deployed",
     "improvement_deployed", "certificate_deployed", "certificate_deployed_finite_sample")
) | {
    "stage": 8, "update": 0, "agents": [], "kind": "nothing changed", "resampled": False, "evidence": "reused", "source": 2,
    "reward": iv(-1.5), "certificate": FULL["certificate"] | {"lower": -np.inf},
    "rungs": [FULL["rungs"][0] | {"certificate": {"value": 0.25, "low": -np.inf, "high": np.inf, "n": 1}, "lower": -np.inf}],
}  # fmt: skip


@pytest.fixture(scope="module")
def real():
    """A report of the monitor, whose records are then written over."""
    return monitor(token_log(columns(stage(9, [[0]], {0: [0]}, {4: 3, 5: 2}))), SETTINGS)


def made(real, *records, interactions=(), **settings):
    return real._replace(
        records=[real.records[0] | r for r in records],
        interactions=list(interactions),
        settings=Settings(**{name: getattr(SETTINGS, name) for name in SETTINGS.__dict__} | settings),
    )


def matrix(number, first=0.0, agents=((2,), (5, 6)), unit=1.0):
    """Updates 4 and 6; one entry is not there, one is clear."""

    def entry(value, n=9):
        return intervals.Interval(unit * value, value - 0.5, value + 1.0, 0.25, n)

    return Interaction(
        number,
        [4, 6],
        [list(a) for a in agents],
        [[entry(first + 1.25), entry(first + 2.25)], [None, entry(first + 3.25)]],
        [None, entry(first + 4.25)],
        [[False, True], [False, False]],
    )


# --------------------------------------------------------------------------------------------------------------- tables


def test_numbers_are_shown_with_three_figures():
    for x, text in (
        (None, "–"), (0.0, "0"), (1.0, "1"), (0.012345, "0.0123"), (-1234.5, "-1.23e+03"), (9999.0, "1e+04"),
        (10000.0, "1.0e+04"), (-123456.0, "-1.2e+05"), (np.inf, "inf"), (-np.inf, "-inf"), (1e-9, "1e-09"), (17, "17"),
    ):  # fmt: skip
        assert columns_of.number(x) == text


def test_every_cell_is_under_its_heading(real):
    found = tables(made(real, FULL, POOR))
    titles = [title for title, *_ in found]
    grids = [[dict(zip(heads, row, strict=True)) for row in rows] for _, heads, rows, _ in found]
    assert titles == [
        "Rollouts (estimable)", "Token-KL monitor (estimable)", "Importance weights of whole rollouts (estimable)",
        "Certificates (estimable; ranges declared: prior)", "Resampling (estimable)",
        "Trainer and sampler (estimable; ranges declared: prior)",
    ]  # fmt: skip
    one, two = {"update": "7.3", "agent": "2+5"}, {"update": "8.0", "agent": "nobody"}
    rollouts = {
        "kind": "joint", "evidence": "fresh", "prompts": "11", "rollouts": "44", "tokens": "555", "reward": "1.25 [0.75, 2.25]",
        "share of tokens": "2:0.26 5:0.74", "messages (max)": "1.24 (4)",
    }  # fmt: skip
    assert grids[0] == [
        one | rollouts,
        two | rollouts | {"kind": "nothing changed", "evidence": "reused", "reward": "-1.5 [-2, -0.5]"},
    ]
    monitored = {
        "k1 per message": "2.25 [1.75, 3.25]", "k3 per message": "3.25 [2.75, 4.25]", "δ = 0.035": "> δ",
        "flips %, 25 / 50": "76 / 93", "K per episode": "4.25 [3.75, 5.25]",
        **dict.fromkeys(("floor, k3", "k3 − floor", "floor of K", "noise per token"), "–"),
    }  # fmt: skip
    assert grids[1] == [one | monitored, two | dict.fromkeys(monitored, "–") | {"K per episode": "4.25 [3.75, 5.25]"}]
    names = ("ESS/B", "P95", "P99", "max", "Pr[w > 10]")

    def weighed(ratio, rollouts, first):
        return {"ratio": ratio, "rollouts": rollouts} | {name: str(first + k) for k, name in enumerate(names)}

    assert grids[2] == [
        one | weighed("new/current", "44", 21),
        one | weighed("current/behaviour", "66", 31),
        two | weighed("new/current", "44", 21),
    ]
    certified = {
        "surrogate L": "5.25 [4.75, 6.25]", "gap": "8.25 [7.75, 9.25]", "certificate": "11.2 [10.8, 12.2]",
        "rung": "S7, token ratios", "lower": "0.3", "S8 lower": "-0.7", "next rollouts say": "13.2 [12.8, 14.2]",
    }  # fmt: skip
    none = {"gap": "–", "certificate": "0.25 [-inf, inf]", "lower": "-inf", "S8 lower": "–", "next rollouts say": "–"}
    assert grids[3] == [one | certified, two | certified | none]
    resampled = {
        "new rollouts": "yes", "source": "23", "shift": "0.11", "upper": "0.22", "rung": "S3, re-scored rollouts",
        "as booked": "0.33", "tolerance 0.15": "could be skipped",
    }  # fmt: skip
    assert grids[4] == [
        one | resampled, two | dict.fromkeys(resampled, "–") | {"new rollouts": "no", "source": "2"},
    ]  # fmt: skip
    apart = {
        "K(sampler‖current)": "14.2 [13.8, 15.2]",
        "K(sampler‖new)": "15.2 [14.8, 16.2]",
        "sampler misses": "16.2 [15.8, 17.2]",
    }
    deployed = {
        "K(sampler‖deployed)": "17.2 [16.8, 18.2]", "deployed gains": "18.2 [17.8, 19.2]", "S9 lower": "-0.8", "S8 lower": "-0.9",
    }  # fmt: skip
    assert grids[5] == [one | apart | deployed, two | apart | dict.fromkeys(deployed, "–")]


def test_answers_in_words(real):
    found = tables(made(real, FULL | {"outside": False, "skippable": False, "flips_25": 0.0, "flips_50": 1.0}))
    assert found[1][2][0][6:8] == ["≤ δ", "0 / 100"]
    assert found[4][2][0][-1] == "needed"


def test_captions_say_levels_and_labels(real):
    captions = [caption for *_, caption in tables(made(real, FULL, POOR))]
    flips = "flips: share of 70 sub-samples of 25 or 50 % of the tokens that decide otherwise"
    limits = (
        "lower limits of level 0.8: S6, best of the rungs, each at α over their number, asymptotic; S8, no asymptotics"
    )
    sampler = "nats a rollout, all agents, under the policy that wrote the rollouts (S12)"
    assert captions == [
        "80 % intervals, clusters are prompts",
        f"KL(current‖new), nats; 80 % intervals, clusters are prompts; {flips}",
        "",
        f"{limits}; {LABEL}",
        "total variation between the team that wrote the rollouts and the team now; booked: √(½ΣK) of fresh K",
        f"{sampler}; deployed: the sampler with the weights after the update; {LABEL}",
    ]
    held = FULL | {"certificate": FULL["certificate"] | {"label": "held-out"}}
    assert "; S8, no asymptotics; held-out" in tables(made(real, held, held_out=True))[3][3]


def test_one_matrix(real):
    found = tables(made(real, FULL, interactions=[matrix(5)]))
    assert len(found) == 7
    title, heads, rows, caption = found[6]
    assert title == "Interaction M[k,i], stage 5 (R5, estimable): by how much update k moves the surrogate of update i"
    assert heads == ["", "4 (agent 2)", "6 (agent 5+6)"]
    assert rows == [
        ["after update 4 of agent 2", "1.25 [0.75, 2.25]", "2.25 [1.75, 3.25] *"],
        ["after update 6 of agent 5+6", "–", "3.25 [2.75, 4.25]"],
        ["L^seq − L^stale", "–", "4.25 [3.75, 5.25]"],
    ]
    assert caption == (
        "80 % intervals, clusters are prompts; * excludes 0 at α over the number of entries; negative: k spoiled the context of i"
    )


def test_the_last_three_matrices_and_their_mean(real):
    matrices = [matrix(number, first=number, agents=((2,), (5,))) for number in range(5)]
    found = tables(made(real, FULL, interactions=matrices))
    assert len(found) == 10
    title, heads, rows, caption = found[6]
    assert title == "Interaction M[k,i], mean over 5 stages (R5, estimable)"
    assert caption == "80 % intervals, clusters are prompts; negative: k spoiled the context of i"
    assert heads == ["", "agent 2", "agent 5"]
    half = 1.3968153 * 0.25 * 5**0.5 / 5  # t at 0.9 with 8 degrees of freedom
    cells = {x: f"{x:.3g} [{x - half:.3g}, {x + half:.3g}]" for x in (3.25, 4.25, 5.25)}
    assert rows == [["after agent 2", cells[3.25], cells[4.25]], ["after agent 5", "–", cells[5.25]]]
    assert [title.split(" (")[0] for title, *_ in found[7:]] == [f"Interaction M[k,i], stage {k}" for k in (2, 3, 4)]
    assert [rows[0][1][:4] for _, _, rows, _ in found[7:]] == ["3.25", "4.25", "5.25"]


def test_long_tables_are_cut_at_their_beginning():
    rows = [[str(k)] for k in range(5)]
    assert shortened(rows, 5) == (rows, "")
    assert shortened(rows, 6) == (rows, "")
    assert shortened(rows, 3) == ([["2"], ["3"], ["4"]], " The last 3 of 5 rows; --json has all.")


# -------------------------------------------------------------------------------------------------------------- remarks


def line(report, word):
    """The remark with that word, or nothing."""
    found = [x for x in remarks(report) if word in x]
    assert len(found) <= 1
    return found[0] if found else None


def test_held_out_or_not(real):
    assert line(made(real, FULL), "In-sample").endswith("Limits are no guarantee; --held-out says otherwise.")
    assert line(made(real, FULL), "Held-out") is None
    assert line(made(real, FULL, held_out=True), "In-sample") is None
    assert "as declared" in line(made(real, FULL, held_out=True), "Held-out")


def test_remarks_count_their_updates(real):
    clean = FULL | {"kind": "single"}
    named = [clean | {"update": k} for k in range(8)]
    quiet = made(real, *named, interactions=[matrix(5)])
    words = (
        "other agents than",
        "at once",
        "changed nothing",
        "of the current team",
        "One agent only",
        "No interaction matrix",
    )
    assert [line(quiet, word) for word in words] == [None] * 6
    noisy = made(real, *[r | {"changed_besides": [1] if r["update"] < 3 else []} for r in named])
    assert line(noisy, words[0]).startswith("Log-probabilities of other agents than `updated` changed in 3 updates;")
    joint = made(real, *[r | {"kind": "joint" if r["update"] > 0 else "single"} for r in named])
    assert line(joint, words[1]).startswith("Several agents changed at once in 7 updates (7.1, 7.2, 7.3, 7.4, 7.5 …):")
    assert "at once in 1 update (7.0):" in line(made(real, named[0] | {"kind": "joint"}), words[1])
    idle = made(real, *[r | {"kind": "nothing changed" if r["update"] < 7 else "single"} for r in named])
    assert line(idle, words[2]) == "7 updates changed nothing: 7.0, 7.1, 7.2, 7.3, 7.4."
    off = {1: 0.01, 4: 0.456, 6: 0.02}
    reused = [
        r | {"evidence": "reused" if r["update"] in off else "fresh", "off_policy": off.get(r["update"], 9.0)}
        for r in named
    ]
    text = line(made(real, *reused), words[3])
    assert text.startswith("3 updates have no rollouts")
    assert text.endswith("by up to 0.46 nats a token.")
    alone = [r | {"share_tokens": {"2": 1.0}} for r in named]
    assert line(made(real, *alone), words[4]).startswith("One agent only:")
    assert line(made(real, *alone[:-1], named[-1]), words[4]) is None
    assert line(made(real, *named), words[5]).startswith("No interaction matrix: at every update")


def test_the_remark_on_resampling_counts_tokens_of_those_that_could_be_skipped(real):
    answers = [(None, 1), (True, 20), (False, 300), (True, 4000), (None, 50000), (False, 600000)]
    records = [FULL | {"update": k, "skippable": s, "tokens": n} for k, (s, n) in enumerate(answers)]
    wanted = "2 of 4 resamplings could have been skipped (4020 tokens)."
    assert line(made(real, *records), "resamplings") == wanted
    assert line(made(real, *records[2:3]), "resamplings") == "0 of 1 resamplings could have been skipped (0 tokens)."
    assert line(made(real, records[0]), "resamplings") is None


def test_remarks_on_the_floor(real):
    """The largest one; a millionth of a nat is none; what is hidden counts where a decision or a limit is."""
    floor = {
        "floor": iv(0.25),
        "floor_token": 0.0625,
        "scored_twice": 12,
        "floor_episode": iv(1e-6),
        "not_corrected": "",
    }
    one, two = FULL | floor | {"update": 0}, FULL | floor | {"update": 1, "floor": iv(0.5), "scored_twice": 13}
    found = made(real, one, two, one)
    assert line(found, "Scored twice") == (
        "Scored twice, the current policy is 0.5 [0, 1.5] nats a message from itself at 7.1 (k3, the largest floor; 0.0625 nats "
        "a token of noise, 13 rollouts)."
    )
    words = ("below the floor", "is not corrected", "weights too large in the mean", "the floor is not known")
    assert [line(found, word) for word in words] == [None] * 4
    assert line(made(real, one | {"below_floor": ["kl_k1", "kl_k3"]}), words[0]) is None
    for key in ("outside", "certificate", "certificate_finite_sample"):
        said = line(made(real, one | {"below_floor": [key]}, two), words[0])
        assert said.startswith(
            "Decisions or certificates of 1 update (7.0) are below the floor: roundings alone could have"
        )
    assert line(made(real, one, two | {"not_corrected": "why"}), words[1]) == (
        "k3 is not corrected for the floor at 1 update (7.1), at 7.1: why."
    )
    said = line(made(real, one | {"floor_episode": iv(float(np.nextafter(1e-6, 1)))}, two), words[2])
    assert said.startswith(
        "Noise makes weights too large in the mean at 1 update (7.0): S7 by message ratios and S7c have no limit"
    )
    coarse = {"floor": None, "sampler": {"precision": "bfloat16", "temperature": 1.0}}
    assert line(made(real, FULL | coarse), words[3]) == (
        "Scored in bfloat16, and nothing scored twice in 1 update (7.3): the floor is not known, so S8, S7c and S7 by message "
        "ratios have no limit. Score a share of the rollouts twice (`logp_again`)."
    )
    assert line(made(real, one | {"sampler": coarse["sampler"]}), words[3]) is None
    for precision in ("float32", "float64"):
        assert line(made(real, FULL | {"floor": None, "sampler": {"precision": precision}}), words[3]) is None


def test_remarks_on_weights_and_on_what_is_left_out(real):
    """Each names its updates, and the number at the first of them."""
    plain = FULL | {
        "limit_cut": False, "mean_weight_high": False, "mean_weight_low": False, "mean_weight": iv(1.5), "invalid": [],
        "groups": None, "ids_missing": 0, "masked": 0,
    }  # fmt: skip
    six = [plain | {"update": k} for k in range(6)]
    words = ("A limit exceeded", "lies above 1 in", "over behaviour lies above", "never writes some", "lies below 1 at",
             "rollouts in", "rollout ids are missing", "lack tokens")  # fmt: skip
    assert [line(made(real, *six), word) for word in words] == [None] * 8
    cut = line(made(real, *[r | {"limit_cut": True} for r in six]), words[0])
    assert cut.startswith(
        "A limit exceeded high − mean reward, the largest improvement that there can be, and none is printed for"
    )
    assert "6 updates (7.0, 7.1, 7.2, 7.3, 7.4 …)" in cut
    heavy = line(made(real, six[0], six[1] | {"mean_weight_high": True}), words[1])
    assert heavy.startswith(
        "The mean weight new/current of rollouts lies above 1 in 1 update (7.1), at 7.1 1.5 [1, 2.5], and no"
    )
    assert "in at most 2 % of updates" in heavy  # a tenth of α
    reused = line(made(real, six[2] | {"mean_weight_high": True, "evidence": "reused"}), words[2])
    assert reused.startswith(
        "The mean weight of new and current over behaviour lies above 1 in 1 update (7.2), and no limit is"
    )
    assert "at most 2 % of updates" in reused
    cuts = line(made(real, six[3] | {"sampler_cuts": True}), words[3])
    assert "at 1 update (7.3), at 7.3 16.2 [15.8, 17.2] of its rollouts" in cuts
    low = line(made(real, six[4] | {"mean_weight_low": True}), words[4])
    assert low.startswith(
        "The mean weight new/current of rollouts lies below 1 at 1 update (7.4), at 7.4 1.5 [1, 2.5]: rare"
    )
    for key, word in (("sampler_cuts", words[3]), ("mean_weight_low", words[4])):
        assert line(made(real, plain | {key: True, "invalid": ["x"]}), word) is None
    groups = line(made(real, plain, six[5] | {"groups": [3, 8], "ids_missing": 7}), words[5])
    assert groups.startswith("Prompts have 3 to 8 rollouts in 1 update (7.5).")
    assert line(made(real, six[5] | {"groups": [3, 8], "ids_missing": 7}), words[6]) is None  # said once
    ids = line(made(real, six[0] | {"ids_missing": 7}, six[1] | {"ids_missing": 9}, complete=False), words[6])
    assert ids.startswith("7 rollout ids are missing in 2 updates (7.0, 7.1): limits hold only if which are left out")
    assert ids.endswith("(--complete: none was left out).")
    masked = line(made(real, six[0] | {"masked": 2}, six[1], six[2] | {"masked": 40}), words[7])
    assert masked.startswith("42 rollouts of 2 updates (7.0, 7.2) lack tokens")


def test_remark_on_a_contradiction(real):
    """The statistic and its interval; how improbable it is, a power of ten: e^23.1 is 10^10.03."""
    c = iv(1.5) | {
        "statistic": "mean weight of a token",
        "ratio": "new/current",
        "allowed": "at most 1",
        "log_evidence": 23.1,
    }
    record = FULL | {"contradiction": c, "sampler": None, "scored_twice": 0}
    text = line(made(real, record), "The log contradicts itself")
    assert text.startswith(
        "The log contradicts itself at 1 update (7.3). At 7.3 the mean weight of a token, new/current, is 1.5 [1, 2.5]; where "
        "tokens are drawn from the behaviour it is at most 1 (by chance with probability below 1e-10). The log has no sampler "
        "settings, which would tell the likely one."
    )
    assert text.endswith("; or, in-sample, an update that raised the probability of its own rollouts.")
    held = line(made(real, record, held_out=True), "The log contradicts itself")
    assert held.endswith("rollouts left out for what they say.")


# -------------------------------------------------------------------------------------------------------- the terminal


def test_an_update_in_one_line(real):
    """Every cell under its heading, as where a log is followed without a terminal."""
    one, two = made(real, FULL | {"invalid": ["a", "b"]}, POOR).records
    assert line_of(one) == (
        "update 7.3, agent 2+5, reward 1.25 [0.75, 2.25], k1 per message 2.25 [1.75, 3.25], δ outside, L 5.25 [4.75, 6.25], "
        "lower 0.3, S8 lower -0.7, shift upper 0.22, doubts 2"
    )
    assert line_of(two).endswith(
        "k1 per message –, δ –, L 5.25 [4.75, 6.25], lower -inf, S8 lower –, shift upper –, doubts 0"
    )
    assert ", δ inside, " in line_of(one | {"outside": False})


def test_the_screen_has_the_last_eight_updates(real):
    """Values without intervals; what is good is green, what is bad is red."""
    records = [FULL | {"update": 100 + k, "invalid": []} for k in range(9)]
    report = made(real, *records)
    console = Console(width=400, record=True, file=io.StringIO(), force_terminal=True)
    console.print(drawn(report, "log", "Ctrl-C ends"))
    text = console.export_text(clear=False)
    assert [f"7.{100 + k}" in text for k in range(9)] == [False, *[True] * 8]
    (last,) = [x.split() for x in text.splitlines() if "7.108" in x]
    assert last == ["7.108", "2+5", "1.25", "2.25", "outside", "5.25", "0.3", "-0.7", "0.22", "0"]
    assert f"log: {report.rows:,} tokens, 9 updates" in text
    tones = {
        span.style: x.plain[span.start : span.end]
        for x in drawn(report, "log", "").renderables[1:3]
        for span in x.spans
    }
    assert {
        answer.answer: {"good": "green", "bad": "red"}.get(answer.tone)
        for v in verdicts(report)
        for answer in v.answers
    }[tones["red"]] == "red"


def printed(report, capsys):
    show(report, "a[b]")
    return capsys.readouterr().out


def test_the_terminal_shows_the_tables(real, capsys, monkeypatch):
    """Names left, numbers right; every cell of `tables`, in its column; captions, remarks, levels."""
    monkeypatch.setattr(terminal, "WIDTH", 400)
    report = made(real, FULL, POOR, interactions=[matrix(5)])
    text = printed(report, capsys)
    lines = text.splitlines()
    assert lines[0] == f"a[b]: {report.rows} tokens, 2 updates"
    said = [
        line for v in verdicts(report) for line in (f"Agent {v.agent}: {v.headline}", *(f"  {x}" for x in v.answers))
    ]
    assert " ".join(text.split()).startswith(" ".join(" ".join([lines[0], *said, "Rollouts (estimable)"]).split()))
    found, width = [], {}
    for x in lines:
        if x.startswith("┃"):
            raw = x.strip("┃").split("┃")
            width = {i: len(cell) - 2 for i, cell in enumerate(raw)}
            found.append([[cell.strip() for cell in raw]])
        elif x.startswith("│"):
            raw = x.strip("│").split("│")
            found[-1].append([cell.strip() for cell in raw])
            for i, cell in enumerate(raw):
                text_of = cell.strip()
                assert cell[1:-1] == (text_of.ljust(width[i]) if i < 2 else text_of.rjust(width[i]))
    assert found == [[heads, *rows] for _, heads, rows, _ in tables(report)]
    for title, _, _, caption in tables(report):
        assert title in " ".join(text.split())  # they are folded to the width of the table
        assert caption in " ".join(text.split())
    assert [x.removeprefix("• ") for x in lines if x.startswith("• ")] == remarks(report)
    at = lines.index("Information levels:")
    assert lines[at + 1 :] == [f"  {key}: {level}. {meaning}" for key, (level, meaning) in INFORMATION.items()]


def test_nothing_is_cut_off_in_a_narrow_terminal(real, capsys, monkeypatch):
    """Cells are folded: over the lines of a row its columns have every letter."""
    monkeypatch.setattr(terminal, "WIDTH", 60)
    report = made(real, FULL | {"weights_behaviour": None})
    found: list[list[str]] = []
    for x in printed(report, capsys).splitlines():
        if x.startswith("┏"):
            found.append([])
        elif x.startswith("│"):
            parts = [cell.replace(" ", "") for cell in x.strip("│").split("│")]
            found[-1] = [a + b for a, b in zip(found[-1] or [""] * len(parts), parts, strict=True)]
    assert found == [[cell.replace(" ", "") for cell in row] for _, _, (row,), _ in tables(report)]


def test_the_terminal_shows_sixty_rows(real, capsys):
    """In 160 columns where it is no terminal."""
    assert (terminal.ROWS, terminal.WIDTH, pages.LIMIT) == (60, 160, 200)
    records = [FULL | {"stage": 900, "update": 100 + k, "weights_behaviour": None} for k in range(61)]
    text = printed(made(real, *records), capsys)
    table = [x for x in text.splitlines() if x.startswith("│")]
    assert not any("900.100" in x for x in table)
    assert all(sum(f"900.{100 + k} " in x for x in table) == 6 for k in range(1, 61))
    assert " ".join(text.split()).count("The last 60 of 61 rows; --json has all.") == 6
    assert 80 < max(map(len, table)) <= 160
    whole = printed(made(real, *records[:60]), capsys)
    assert "The last" not in whole


# ------------------------------------------------------------------------------------------------------------- the page


def plot(draw, report):
    """What a figure shows: lines by label, levels, vertical lines, texts."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.subplots()
    draw(ax, report)
    points = {x.get_label(): (np.array(x.get_xdata(), float), np.array(x.get_ydata(), float)) for x in ax.lines}
    spans = [segment for group in ax.collections if hasattr(group, "get_segments") for segment in group.get_segments()]
    return ax, points, np.array([x for x in spans if len(x)])


def near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


ONE = {"value": 0.5, "low": -np.inf, "high": np.inf, "n": 1}


WHO = "agents 2+5"


def test_figure_of_the_reward(real):
    """A colour for each agent, the same in every figure; names of the updates as in the tables."""
    alone = FULL | {"update": 4, "agents": [2], "reward": iv(2.25)}
    other = alone | {"update": 5, "agents": [1], "reward": ONE}
    ax, points, spans = plot(figures._reward, made(real, FULL, POOR, alone, other, alone))
    near(points[f"reward, {WHO}"], [[0], [1.25]])
    near(points["reward, nobody"], [[1], [-1.5]])
    near(points["reward, agent 2"], [[2, 4], [2.25, 2.25]])
    near(points["reward, agent 1"], [[3], [0.5]])
    near(spans, [[[1, -2.0], [1, -0.5]], *[[[x, 1.75], [x, 3.25]] for x in (2, 4)], [[0, 0.75], [0, 2.25]]])
    colours = {x.get_label(): x.get_color() for x in ax.lines}
    assert colours["reward, agent 2"] == figures.colour_of([2]) == figures.AGENTS[2]
    assert colours["reward, agent 1"] == figures.AGENTS[1]
    assert figures.colour_of([10]) == figures.colour_of([2])
    assert colours[f"reward, {WHO}"] == figures.SEVERAL
    assert colours["reward, nobody"] == figures.NOBODY
    assert len({*figures.AGENTS, figures.SEVERAL, figures.NOBODY, figures.LEVEL}) == 11
    assert [x.get_text() for x in ax.get_xticklabels()] == ["7.3", "8.0", "7.4", "7.5", "7.4"]
    assert (ax.get_title(), ax.get_ylabel()) == ("Reward of the rollouts", "mean reward")


def test_what_is_too_large_for_a_figure_is_not_drawn(real):
    """Above 1e30, or infinite: its axis would show nothing else."""
    records = [FULL | {"reward": ONE | {"value": x}} for x in (1.0, 1e29, 1e31, -1e31, np.inf)]
    _, points, _ = plot(figures._reward, made(real, *records))
    near(points[f"reward, {WHO}"], [[0, 1], [1.0, 1e29]])


def test_figure_of_the_kl(real):
    third = FULL | {"kl_k1": ONE, "kl_k3": iv(0.75)}
    fourth = FULL | {"kl_k1": ONE | {"low": 0.25}, "kl_k3": ONE | {"high": 0.75}}
    ax, points, spans = plot(figures._kl, made(real, FULL, POOR, third, fourth))
    near(points[f"k1 per message, {WHO}"], [[-0.1, 1.9, 2.9], [2.25, 0.5, 0.5]])
    near(points[f"k3 per message, {WHO}"], [[0.1, 2.1, 3.1], [3.25, 0.75, 0.5]])
    near(points["δ = 0.035"][1], [0.035, 0.035])
    near(spans, [[[-0.1, 1.75], [-0.1, 3.25]], [[0.1, 2.75], [0.1, 4.25]], [[2.1, 0.25], [2.1, 1.75]]])
    assert (ax.get_title(), ax.get_ylabel()) == ("Token KL(current‖new) per message", "nats")
    assert ax.get_xlabel() == "update (stage.update)"
    assert [x.get_text() for x in ax.get_legend().get_texts()] == ["k1 per message", "k3 per message", "δ = 0.035"]


def test_figure_of_the_weights(real):
    ax, points, _ = plot(figures._weights, made(real, FULL, POOR))
    for kind, at, first in (("new/current", -0.1, 21.0), ("current/behaviour", 0.1, 31.0)):
        for k, heading in ((1, "P95"), (2, "P99"), (3, "max")):
            near(points[f"{kind}, {heading}, {WHO}"], [[at], [first + k]])
            last = [[1 + at], [first + k]] if kind == "new/current" else np.zeros((2, 0))
            near(points[f"{kind}, {heading}, nobody"], last)
    levels = [y for label, (_, y) in points.items() if label.startswith("_")]
    near(levels, [[10, 10]])
    assert ax.get_yscale() == "log"
    assert ax.get_title() == "Tails of the importance weights"
    _, points, _ = plot(figures._weights, made(real, POOR))
    assert not any(label.startswith("current/behaviour") for label in points)


def test_figure_of_the_certificates(real):
    ax, points, spans = plot(figures._certificates, made(real, FULL, POOR))
    near(points[f"surrogate L, {WHO}"], [[-0.2], [5.25]])
    near(points["surrogate L, nobody"], [[0.8], [5.25]])
    near(points[f"next rollouts say, {WHO}"], [[-0.05], [13.25]])
    near(points[f"lower, {WHO}"], [[0.1], [0.3]])
    near(points[f"S8 lower, {WHO}"], [[0.2], [-0.7]])
    for name in ("next rollouts say", "lower", "S8 lower"):
        assert points[f"{name}, nobody"][0].size == 0
    near([y for label, (_, y) in points.items() if label.startswith("_")], [[0, 0]])
    near(spans, [[[0.8, 4.75], [0.8, 6.25]], [[-0.2, 4.75], [-0.2, 6.25]], [[-0.05, 12.75], [-0.05, 14.25]]])
    assert (ax.get_title(), ax.get_ylabel()) == ("Surrogate and certificate", "reward")


def test_figure_of_the_shift(real):
    second = FULL | {"skippable": False, "shift": 0.44, "shift_upper": 0.66}
    ax, points, spans = plot(figures._shift, made(real, FULL, second, POOR))
    near(points[f"could be skipped, {WHO}"], [[0], [0.11]])
    near(points[f"needed, or none, {WHO}"], [[1], [0.44]])
    assert points["needed, or none, nobody"][0].size == 0
    near(points["tolerance 0.15"][1], [0.15, 0.15])
    near(spans, [[[0, 0.11], [0, 0.22]], [[1, 0.44], [1, 0.66]]])
    assert (ax.get_title(), ax.get_ylabel()) == ("Shift since the rollouts in use", "total variation, at most")


def test_figure_of_the_matrix(real):
    """Row: whose update; column: whose surrogate; the greatest entry gives the range of the colours."""
    matrices = [matrix(number, first=number - 5.0, agents=((2,), (5,)), unit=1 / 64) for number in range(3)]
    ax, _, _ = plot(figures._matrix, made(real, FULL, interactions=matrices))
    (image,) = ax.images
    near(np.ma.filled(image.get_array(), np.nan), [[-2.75 / 64, -1.75 / 64], [np.nan, -0.75 / 64]])
    near(image.get_clim(), [-2.75 / 64, 2.75 / 64])
    texts = {x.get_position(): (x.get_text(), x.get_color()) for x in ax.texts}
    assert texts == {(0, 0): ("-0.043", "white"), (1, 0): ("-0.027", "white"), (1, 1): ("-0.012", "black")}
    for axis, before in ((ax.get_xticklabels(), "agent"), (ax.get_yticklabels(), "after agent")):
        assert [x.get_text() for x in axis] == [f"{before} 2", f"{before} 5"]
        assert [x.get_color() for x in axis] == [figures.colour_of([2]), figures.colour_of([5])]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("i: whose surrogate", "k: whose update")
    assert ax.get_title() == "Interaction M[k,i], mean over stages"


def test_labels_are_those_of_the_tables(real):
    """A legend has the headings of the tables, with the settings in them."""
    report = made(real, FULL, FULL | {"skippable": False}, interactions=[matrix(5)])
    heads = {head for _, heads, _, _ in tables(report) for head in heads}
    cells_of = {cell for *_, rows, _ in tables(report) for row in rows for cell in row}
    for draw in (figures._kl, figures._certificates, figures._weights, figures._shift):
        labels = [x.get_text() for x in plot(draw, report)[0].get_legend().get_texts()]
        for part in (part for label in labels for part in label.split(", ") if part not in ("needed", "or none")):
            assert part in heads | cells_of, part


def test_many_updates_make_a_wide_figure(real):
    records = [FULL | {"update": k} for k in range(41)]
    assert [figures.is_long(figures._kl, made(real, *records[:n])) for n in (40, 41)] == [False, True]
    assert not figures.is_long(figures._matrix, made(real, *records))
    ax, _, _ = plot(figures._reward, made(real, *records))
    assert [x.get_text() for x in ax.get_xticklabels()] == [f"7.{k}" for k in range(0, 41, 3)]


def cells(fragment, tag):
    return [unescape(x) for x in re.findall(rf"<{tag}>(.*?)</{tag}>", fragment, re.S)]


def test_the_page_is_the_tables_and_the_figures(real, tmp_path):
    pytest.importorskip("matplotlib")
    records = [FULL | {"update": 1000 + k, "weights_behaviour": None} for k in range(200)] + [POOR]
    report = made(real, *records, interactions=[matrix(5)])
    path = tmp_path / "page.html"
    assert write_page(report, path, "log <1> & co") == path
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert cells(text, "title") == cells(text, "h1") == ["log <1> & co"]
    assert f"<p>{report.rows} tokens, 201 updates.</p>" in text
    found = [
        [cells(row, "th") or cells(row, "td") for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)]
        for table in re.findall(r"<table>(.*?)</table>", text, re.S)
    ]
    wanted = tables(report)
    assert found == [[heads, *rows[-200:]] for _, heads, rows, _ in wanted]
    titles = [unescape(x) for x in re.findall(r"<h2[^>]*>(.*?)</h2>", text, re.S)]
    assert titles == ["Verdict", "Figures", "Before using a number", *(title for title, *_ in wanted)]
    notes = [unescape(x) for x in re.findall(r"<p class=note>(.*?)</p>", text, re.S)][2:]
    left = " The last 200 of 201 rows; --json has all."
    assert notes == [caption + left * (len(rows) > 200) for *_, rows, caption in wanted]
    assert notes[0].endswith(left)
    assert notes[6] == wanted[6][3]
    assert [plain_text(x) for x in re.findall(r"<li>(.*?)</li>", text, re.S)] == [
        x.replace("`", "") for x in remarks(report)
    ]
    drawn = re.findall(r"<figure[^>]*>(.*?)</figure>", text, re.S)
    names = ("Reward of the", "Token KL", "Surrogate and", "Shift since", "Tails of the", "Interaction M")
    assert len(drawn) == len(names)
    assert all(name in figure and "<svg" in figure for name, figure in zip(names, drawn, strict=True))
    captions = [plain_text(x) for x in re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S)]
    assert captions == [caption for _, caption in (*figures.FIGURES, figures.MATRIX)]


def plain_text(fragment):
    return unescape(re.sub(r"</?code>", "", fragment))


def test_the_page_begins_with_the_verdicts(real, tmp_path, monkeypatch):
    """Question, answer and reason of each agent, in its colour; a phone's width; nothing from the net, no script."""
    monkeypatch.setattr(pages, "svg", lambda *_: "<svg/>")
    odd = {"agents": [2], "certificate": FULL["certificate"] | {"label": "none: 1 < 2 & 3"}}
    report = made(real, FULL, FULL | odd, POOR, interactions=[matrix(5)])
    text = write_page(report, tmp_path / "page.html", "log").read_text(encoding="utf-8")
    assert text.index("Verdict") < text.index("Figures") < text.index("Before using a number") < text.index("<table>")
    assert "<meta name=viewport content='width=device-width,initial-scale=1'>" in text
    assert "1 &lt; 2 &amp; 3" in text
    assert not re.search(r"<script|<link|https?://|@import|src=|url\(", text)
    found = re.findall(
        r'<section class=card style="border-left-color:(.*?)"><h3>Agent (\d)</h3>(.*?)</section>', text, re.S
    )
    assert [(colour, int(agent)) for colour, agent, _ in found] == [(figures.colour_of([k]), k) for k in (2, 5)]
    for verdict, (*_, card) in zip(verdicts(report), found, strict=True):
        parts = re.findall(r"<dt>(.*?) <b class=(\w+)>(.*?)</b></dt><dd>(.*?)</dd>", card, re.S)
        assert [tuple(map(unescape, x)) for x in parts] == [
            (x.question, x.tone, x.answer, x.because) for x in verdict.answers
        ]
    key = re.findall(r'<span><i style="background:(.*?)"></i>(.*?)</span>', text)
    assert key == [(figures.NOBODY, "nobody"), (figures.colour_of([2]), "agent 2"), (figures.SEVERAL, "agents 2+5")]


CAPTIONS = {
    "Reward of the": ["of the rollouts that stand at an update", "with its interval: J of the team before that update"],
    "Token KL": [
        "nats a message", "k1 averages log π_current/π_new and k3 r − 1 − log r, where r = π_new/π_current",
        "k3 is never negative", "k1 above δ: outside the radius", "floor: k3 of the current policy with itself, scored twice",
        "what is not above it decides nothing",
    ],
    "Surrogate and": [
        "Surrogate L: what the update promises", "lower: what is certified of it", "S8 lower: without asymptotics",
        "Above 0, the update raises J", "next rollouts say: what then happened",
    ],
    "Shift since": [
        "How far the team had moved since the rollouts in use", "the line ends at its upper limit",
        "Where that is within the tolerance, new rollouts could have been skipped",
    ],
    "Tails of the": [
        "By which factor the probability of a whole rollout changed: the largest, and what 1 and 5 % of rollouts exceed",
        "Beyond the line, 10, few rollouts carry the estimates", "new/current: by the update",
        "current/behaviour: since the rollouts were sampled",
    ],
    "Interaction M": [
        "By how much the update of the row's agent moves what the update of the column's agent is worth",
        "Negative, red: it brings the team into contexts where that update is worth less, it spoils them",
    ],
}  # fmt: skip
"""What a figure's caption has to say, by how its title begins; the figures themselves are tested above."""


def test_what_is_said_under_the_figures_and_beside_them(real, tmp_path, monkeypatch):
    """Axes, signs, thresholds and colours, and the symbols of the verdict; red is what is negative."""
    wanted = zip((*figures.FIGURES, figures.MATRIX), CAPTIONS.items(), strict=True)
    for (draw, caption), (title, parts) in wanted:
        ax, _, _ = plot(draw, made(real, FULL, interactions=[matrix(0, agents=((2,), (5,)))] * 2))
        assert ax.get_title().startswith(title)
        assert [part for part in parts if part not in caption] == []
    ax, _, _ = plot(figures._matrix, made(real, FULL, interactions=[matrix(0, agents=((2,), (5,)))] * 2))
    (image,) = ax.images
    (red, _, _, _), (_, _, blue, _) = image.cmap(0.0), image.cmap(1.0)
    assert min(red, blue) > 0.3 > max(image.cmap(0.0)[1:3])
    monkeypatch.setattr(pages, "svg", lambda *_: "<svg/>")
    text = write_page(made(real, FULL, interactions=[matrix(5)]), tmp_path / "page.html", "log").read_text(
        encoding="utf-8"
    )
    said = unescape(re.sub(r"<[^>]*>", "", text))
    for part in (
        "Of each agent's last update, if nothing else is said; update 3.1 is update 1 of stage 3.",
        "J: mean reward of the team. k1: an estimate of KL(current‖new) of a message, in nats, which trainers monitor",
        "; δ: its declared threshold. L: what an update promises. ϱ·K: what it may cost, width of the rewards × KL(current‖new)",
        " of a rollout; so L − ϱ·K is a lower bound of what it brings (S7).",
        "Total variation: the share of rollouts that have to be others.",
        f"{len(remarks(made(real, FULL, interactions=[matrix(5)])))} remarks on this log.",
        "M[k,i]by how much update k, alone, moves the surrogate of update i (R5)",
        "L^seq − L^staleby how much all earlier updates together moved it",
        "certificate S7L − ϱ·K, by messages and by tokens; ϱ: width of the declared range. estimable, with ϱ declared (prior)",
        "certificate S7cL of reused rollouts − ϱ·ΣK. estimable, with ϱ declared (prior)",
        "certificate S9E (R − floor) log Λ; mismatch (S12): E (R − floor) log Λ' + (ceiling − R) log Λ, over the behaviour",
        ", over the behaviour. estimable, with the range of the reward declared (prior)",
        "Whom an update is of: agents 2+5",
    ):  # fmt: skip
        assert part in said, part
    tones = dict(re.findall(r"b\.(\w+)\{background:#(\w{6})\}", text))
    assert tones.keys() == {"good", "bad", "open"}
    shade = {tone: [int(colour[i : i + 2], 16) for i in (0, 2, 4)] for tone, colour in tones.items()}
    assert max(range(3), key=shade["good"].__getitem__) == 1  # green
    assert max(range(3), key=shade["bad"].__getitem__) == 0  # red
    assert len(set(shade["open"])) == 1


def test_every_heading_is_explained_under_its_table(real, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "svg", lambda *_: "<svg/>")
    report = made(real, FULL, interactions=[matrix(5)])
    text = write_page(report, tmp_path / "page.html", "log").read_text(encoding="utf-8")
    parts = re.findall(r"<table>(.*?)</table>.*?<details>(.*?)</details>", text, re.S)
    assert len(parts) == 7
    for table, details in parts[:2] + parts[3:6]:
        terms = [x.format_map(vars(SETTINGS)) for dt in cells(details, "dt") for x in dt.split(" / ")]
        heads = [part for head in cells(table, "th") for part in head.split(" / ")]
        assert [x for x in terms if not x.startswith("certificate S")] == heads
    meanings = " ".join(plain_text(x) for _, details in parts for x in cells(details, "dd"))
    for column in columns_of.COLUMNS:
        if column.cells():
            assert column.meaning.replace("`", "") in meanings


def test_no_figure_of_a_matrix_where_there_is_none(real, tmp_path, monkeypatch):
    """Nor where all updates are joint: no agent has an entry of its own. Drawing is left out."""
    drawn = []
    monkeypatch.setattr(pages, "svg", lambda draw, report: drawn.append(draw) or "<svg/>")
    five = [figures._reward, figures._kl, figures._certificates, figures._shift, figures._weights]
    for interactions, extra in (
        ([], []),
        ([matrix(5, agents=((2, 3), (5, 6)))], []),
        ([matrix(5)], [figures._matrix]),
    ):
        drawn.clear()
        write_page(made(real, FULL, interactions=interactions), tmp_path / "page.html", "log")
        assert drawn == five + extra
