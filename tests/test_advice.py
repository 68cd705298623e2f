"""Advice, scalars, thresholds: the verdict's own decisions as values, from records as they are or as JSON has them."""

import json
import math

import numpy as np
import pytest
from monitor_logs import joined, sampled, world

from teamtr_jax.formats import dump
from teamtr_jax.monitor import (
    SCALARS,
    Settings,
    advices,
    command,
    monitor,
    read_stages,
    token_log,
    verdicts,
    write_token_log,
)
from teamtr_jax.monitor.advice import Advice, Reason, _advice, advice, advice_json, checked_record
from teamtr_jax.monitor.events import Events
from teamtr_jax.monitor.scalars import Threshold, passed, scalars, thresholds
from teamtr_jax.monitor.tex import latex_tables
from teamtr_jax.monitor.verdict import Answer, Verdict
from teamtr_jax.monitor_settings import Watching
from teamtr_jax.validation import InputError

SETTINGS = Settings(delta=0.02, tolerance=0.3, held_out=True)


@pytest.fixture(scope="module")
def report():
    """Three stages, two of them of one team whose first agent's update spoils the second's context."""
    rng = np.random.default_rng(4)
    parts = []
    for stage in range(3):
        parts.append(sampled(world(np.random.default_rng(1), step=0.6), rng, 150, 4))
        parts[-1]["stage"] += stage
    return monitor(token_log(joined(parts)), SETTINGS)


def read_back(records):
    return [json.loads(dump(r)) for r in records]


def answer(verdict, question):
    (found,) = [x for x in verdict.answers if x.question.startswith(question)]
    return found


def test_it_is_the_verdict(report):
    """Each value is the one behind the verdict's words, with the same reason, for every agent."""
    found = advices(report)
    assert [x.agents for x in found] == [(0,), (1,), (2,)]
    kept = set()
    for x, verdict in zip(found, verdicts(report), strict=True):
        rollouts, radius, spoils = (answer(verdict, q) for q in ("New rollouts", "What radius", "Whose"))
        assert x.update == f"2.{x.agents[0]}"
        assert x.keep_rollouts == {"keep the rollouts": True, "no word on resampling": None}.get(rollouts.answer, False)
        assert (x.radius is None) == (radius.answer == "no other radius")
        assert x.radius is None or f"try {x.radius:.2g}" == radius.answer
        named = spoils.answer.startswith("spoils agent")
        assert x.hold == (x.agents if named else () if spoils.answer.startswith("spoils") else None)
        assert x.reasons["radius"].why == f"{radius.answer}. {radius.because}"
        assert x.reasons["keep_rollouts"].information == ("prior" if x.agents == (0,) else "estimable")
        assert x.reasons["hold"].information == "estimable"
        wanted = "estimable" if x.radius is None else "estimable, with ϱ declared (prior)"
        assert x.reasons["radius"].information == wanted
        kept.add(x.keep_rollouts)
    assert kept == {True, False}
    assert any(x.hold for x in found)
    assert any(x.hold == () for x in found)
    assert {x.radius is None for x in found} == {True, False}


def test_who_spoils_nothing_but_its_own_contexts_is_not_held():
    """Whoever clearly spoils those of another agent is; where nothing is known, nothing is said."""
    for agent, spoiled, hold in (
        ([1], (1,), ()), ([1], (0,), (1,)), ([1], (1, 2), (1,)), ([1], (), ()), ([0, 2], (0, 2), ()), ([0, 2], (1,), (0, 2)),
        ([1], None, None),
    ):  # fmt: skip
        asked = [Answer("?", "x", "y.", "open", value) for value in (None, None, spoiled, None, None)]
        assert _advice(Verdict(agent[0], asked, agent), {"stage": 0, "update": 3}).hold == hold


def test_records_say_the_same(report):
    """From the records alone, and from what JSON makes of them: the last agent's advice is that of the report."""
    last = advices(report)[-1]
    assert advice(report.records, SETTINGS) == last
    assert advice(read_back(report.records), SETTINGS) == last
    for count in range(1, len(report.records)):
        cut = report._replace(
            records=report.records[:count],
            interactions=[m for m in report.interactions if m.stage <= report.records[count - 1]["stage"]],
        )
        agent = report.records[count - 1]["agents"][0]
        if count % 3 == 0:  # a whole stage: the matrix of the report is that of the records
            assert advice(report.records[:count], SETTINGS) == next(x for x in advices(cut) if x.agents == (agent,))


def test_infinities_come_back_from_json(report):
    """Strict JSON writes them as words; an update in doubt has them everywhere."""
    none = {"lower": -math.inf, "label": "none: tokens are masked", "alpha": 0.1, "rung": "S9", "union": 3}
    interval = {"value": math.inf, "low": -math.inf, "high": math.inf, "n": 1}
    r = report.records[1] | {"certificate": none, "surrogate": interval, "kl_episode": interval}
    assert '"low": "-inf"' in dump(r)
    assert advice(read_back([r]), SETTINGS) == advice(r, SETTINGS)
    (again,) = read_back([r])
    assert checked_record(again) == checked_record(r)
    assert [again["surrogate"][end] for end in ("value", "low", "high")] == ["inf", "-inf", "inf"]


def test_one_record_will_do(report):
    found = advice(report.records[4], SETTINGS)
    assert (found.agents, found.update, found.keep_rollouts) == ((1,), "1.1", report.records[4]["skippable"])


def test_where_nothing_is_known(report):
    """An update in doubt: no word on rollouts and radius; no matrix: nobody is held, or not."""
    doubt = report.records[1] | {
        "invalid": ["tokens are masked"],
        "shift_rung": "none: the rollouts are in doubt",
        "interaction": None,
    }
    found = advice(doubt, SETTINGS)
    assert (found.keep_rollouts, found.radius, found.hold) == (None, None, None)
    assert found.reasons["keep_rollouts"].why.startswith("no word on resampling. Nothing bounds the shift at 0.1")
    assert "None of its updates has fresh rollouts without doubt" in found.reasons["radius"].why
    assert found.reasons["hold"].why.startswith("contexts unknown")
    idle = advice(report.records[1] | {"agents": []}, SETTINGS)
    assert idle[:5] == ((), "0.1", None, None, None)
    assert idle.reasons["radius"].why == "Update 0.1 moved nobody."


def test_it_is_strict_json(report):
    for found in advices(report):
        line = dump(advice_json(found))
        assert json.loads(line)["keep_rollouts"] is found.keep_rollouts
        assert json.loads(line)["reasons"]["hold"] == found.reasons["hold"]._asdict()
        assert json.loads(line)["schema"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_k1": 0.5}, "record: key kl_k1: found 0.5, expected value, low, high, n or null"),
        ({"kl_k3": {"value": math.nan, "low": 0.0, "high": 1.0, "n": 3}}, "record: key kl_k3"),
        ({"agents": [True]}, "record: key agents"),
        ({"schema": 2}, "record: key schema: found 2"),
        ({"shift_upper": "much"}, "record: key shift_upper: found 'much'"),
        ({"rungs": []}, "record: key rungs"),
        ({"delta": 0.5}, "settings: found delta = 0.02, expected 0.5, as record 0.1 has it"),
        ({"interaction": [{"update": 0}]}, "record: key interaction"),
        ({"interaction": [{"update": 0, "agents": [0]}]}, "record: key interaction"),
        ({"shift_rung": None}, "record: key shift_rung: found None, expected a text with shift_upper"),
        ({"outside": None}, "record: key outside: found null, expected true or false"),
        ({"certificate": {"lower": 0.1, "label": "held-out", "alpha": 0.1}}, "record: key certificate"),
        ({"floor": 0.1}, "record: key floor: found 0.1"),
        ({"agents": [-1]}, r"record: key agents: found \[-1\], expected a list of agents"),
        ({"shift_upper": True}, "record: key shift_upper: found True"),
        ({"update": True}, "record: key update: found True, expected an integer"),
    ],
)
def test_a_bad_record_is_named(report, change, message):
    with pytest.raises(InputError, match=message):
        advice(report.records[1] | change, SETTINGS)


@pytest.mark.parametrize(
    "change", [{"id": None}, {"certificate": {"value": math.inf, "low": 0.0, "high": 1.0, "n": 3}}]
)
def test_a_bad_rung_is_named(report, change):
    rungs = [x | change for x in report.records[1]["rungs"]]
    with pytest.raises(InputError, match="record: key rungs"):
        advice(report.records[1] | {"rungs": rungs}, SETTINGS)


def test_bad_records_are_named(report):
    first, second = report.records[:2]
    for records, message in (
        ([], "records: found none"),
        ([second, first], "records: found update 0.0 after 0.1"),
        ([first, first], "records: found update 0.0 after 0.0, expected each update once, ascending"),
        ([first, {}], "record 2: key stage: found nothing"),
        ([first, {k: x for k, x in second.items() if k != "invalid"}], "record 2: key invalid: found nothing"),
    ):
        with pytest.raises(InputError, match=message):
            advice(records, SETTINGS)
    with pytest.raises(InputError, match="sharers: found 1 agents, expected 2 at least"):
        advice(second, Settings(delta=0.02, sharers=(0,)))
    with pytest.raises(InputError, match="settings: found alpha = "):
        advice(second, Settings(delta=0.02, alpha=0.2))


# ------------------------------------------------------------------------------------------------------------------ scalars


def test_scalars_have_stable_names(report):
    """Numbers of the record under its own keys, all of them known beforehand, finite."""
    r = report.records[1]
    found = scalars(r)
    assert set(found) <= {f"teamtr/{key}" for key in SCALARS}
    assert {"teamtr/kl_k1", "teamtr/kl_k3", "teamtr/ess", "teamtr/shift_upper", "teamtr/certificate_lower"} <= set(
        found
    )
    assert found["teamtr/kl_k1"] == r["kl_k1"]["value"]
    assert found["teamtr/kl_k1_low"] == r["kl_k1"]["low"]
    assert found["teamtr/outside"] == float(r["outside"])
    assert found["teamtr/ess"] == r["weights_update"]["ess"]
    assert found["teamtr/certificate_lower"] == r["certificate"]["lower"]
    assert all(type(x) is float and math.isfinite(x) for x in found.values())
    assert "teamtr/kl_deployed" not in found  # no engine in this log: missing is not 0
    assert "teamtr/kl_episode_upper" not in scalars(r | {"kl_episode_upper": math.inf})
    from teamtr_jax.monitor.columns import COLUMNS

    keys = {column.key for column in COLUMNS}
    bare = {x.removesuffix(end) for x in SCALARS for end in ("_low", "_high", "_lower") if x.endswith(end)}
    weights = {x for x in SCALARS if "ess" in x or "weight_" in x}
    assert {x for x in SCALARS if not x.endswith(("_low", "_high", "_lower"))} - weights - {
        "doubts",
        "floor_k3",
        "mean_weight_below_one",
        "mean_weight_above_one",
    } <= keys
    assert bare <= keys | {"mean_weight", "floor_k3"}


WITH_ENDS = (
    "reward", "kl_k1", "kl_k3", "kl_episode", "mean_weight", "surrogate", "surrogate_tokens", "improvement", "gap",
    "improvement_next", "drift", "kl_sampler_current", "kl_sampler_new", "sampler_misses", "kl_deployed", "improvement_deployed",
    "floor_episode", "floor_shift", "kl_k3_corrected",
)  # fmt: skip
AS_THEY_ARE = (
    "prompts", "rollouts", "tokens", "messages", "messages_max", "off_policy", "kl_episode_upper", "shift", "shift_upper",
    "shift_booked", "floor_token", "scored_twice", "outside", "skippable", "resampled", "limit_cut", "sampler_cuts",
)  # fmt: skip


def test_every_scalar_is_the_number_of_its_name():
    """Of a record each of whose numbers is another one."""
    number = iter(range(1, 1000))
    record = {key: next(number) for key in (*AS_THEY_ARE, "mean_weight_low", "mean_weight_high")}
    record |= {key: {end: next(number) for end in ("value", "low", "high", "n")} for key in (*WITH_ENDS, "floor")}
    limits = ("certificate", "certificate_finite_sample", "certificate_deployed", "certificate_deployed_finite_sample")
    record |= {key: {"lower": next(number), "estimate": next(number)} for key in limits}
    tails = ("ess", "p95", "p99", "largest", "above_ten", "n")
    record |= {key: {x: next(number) for x in tails} for key in ("weights_update", "weights_behaviour")}
    record |= {"invalid": ["a"] * 3, "below_floor": ["b"] * 5}
    wanted = {key: record[key] for key in AS_THEY_ARE}
    wanted |= {"mean_weight_below_one": record["mean_weight_low"], "mean_weight_above_one": record["mean_weight_high"]}
    for name, key in (*((key, key) for key in WITH_ENDS), ("floor_k3", "floor")):
        wanted |= {name: record[key]["value"], f"{name}_low": record[key]["low"], f"{name}_high": record[key]["high"]}
    wanted |= {f"{key}_lower": record[key]["lower"] for key in limits}
    for before, key in (("", "weights_update"), ("behaviour_", "weights_behaviour")):
        names = ("ess", "weight_p95", "weight_p99", "weight_largest", "weight_above_ten")
        wanted |= {f"{before}{name}": record[key][x] for name, x in zip(names, tails, strict=False)}
    wanted |= {"doubts": 3, "below_floor": 5}
    assert scalars(record, "") == wanted
    assert sorted(SCALARS) == sorted(wanted)


def test_thresholds():
    record = {
        "stage": 3, "update": 1, "agents": [0, 2], "kl_k1": {"value": 0.07, "low": 0.01, "high": 0.2}, "shift_upper": None,
        "kl_episode_upper": math.inf, "outside": True, "invalid": ["a", "b"],
    }  # fmt: skip
    limits = thresholds("--fail-above", ["kl_k1=0.05", "teamtr/shift_upper=.2", "kl_episode_upper=9", "doubts=1"], True)
    assert limits[0] == Threshold("kl_k1", 0.05, True)
    assert passed(record, limits) == [
        "update 3.1 of agents 0+2: kl_k1 is 0.07, above 0.05",
        "update 3.1 of agents 0+2: kl_episode_upper is inf, above 9",
        "update 3.1 of agents 0+2: doubts is 2, above 1",
    ]
    assert (
        passed(record, thresholds("--fail-above", ["kl_k1=0.07", "outside=1"], True)) == []
    )  # the limit itself is not above
    below = thresholds("--fail-below", ["kl_k1=0.08", "kl_k1_low=0.01"], False)
    assert passed(record, below) == ["update 3.1 of agents 0+2: kl_k1 is 0.07, below 0.08"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl_k1", "--fail-above: found 'kl_k1', expected KEY=VALUE"),
        ("kl=0.1", "--fail-above: found no number 'kl', expected one of kl_episode_upper"),
        ("kl_k1=much", "--fail-above kl_k1: found nan, expected a finite number"),
        ("kl_k1=inf", "--fail-above kl_k1: found inf, expected a finite number"),
    ],
)
def test_a_bad_threshold_is_named(text, message):
    with pytest.raises(InputError, match=message):
        thresholds("--fail-above", [text], True)


# ------------------------------------------------------------------------------------------------------------------ command


def test_standard_error_names_five_updates_and_counts_the_rest(capsys):
    records = [{"stage": 0, "update": k, "agents": [0], "kl_k1": {"value": 0.1 * k}} for k in range(9)]
    limits = thresholds("--fail-above", ["kl_k1=0.15"], True)
    for count, more in ((7, ""), (8, "teamtr: and 1 more\n"), (9, "teamtr: and 2 more\n")):
        assert command._failed(records[:count], limits)
        named = "".join(f"teamtr: update 0.{k} of agent 0: kl_k1 is {0.1 * k:.3g}, above 0.15\n" for k in range(2, 7))
        assert capsys.readouterr().err == named + more
    assert not command._failed(records[:2], limits)
    assert capsys.readouterr().err == ""


def test_what_is_unknown_is_said_to_be(report, monkeypatch, capsys):
    reasons = {key: Reason(f"why {key}.", "estimable") for key in ("keep_rollouts", "radius", "hold")}
    found = Advice((0, 2), "3.1", None, 0.25, (), reasons)
    monkeypatch.setattr(command, "advices", lambda _: [found])
    command._advise(report, json=False)
    assert capsys.readouterr().out.splitlines() == [
        "Agents 0+2, update 3.1", "  keep_rollouts: unknown (estimable). why keep_rollouts.",
        "  radius: 0.25 (estimable). why radius.", "  hold: () (estimable). why hold.",
    ]  # fmt: skip


def test_the_command_line(report, tmp_path, capsys, monkeypatch):
    """Exit code 4 and which update; advice as JSON and in words; events."""
    w = world(np.random.default_rng(1), step=0.6)
    path = write_token_log(tmp_path / "log.jsonl", sampled(w, np.random.default_rng(4), 20, 4))
    assert command.run(path, SETTINGS, json=True, watching=Watching(fail_above=("kl_k1=1e-9",))) == command.PASSED == 4
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.startswith("teamtr: update 0.")
    assert "above 1e-09" in err
    assert command.run(path, SETTINGS, json=True, watching=Watching(fail_above=("kl_k1=9",))) == 0
    for value, code in ((9, 4), (-9, 0)):
        assert command.run(path, SETTINGS, json=True, watching=Watching(fail_below=(f"kl_k3={value}",))) == code
    assert capsys.readouterr().err.count(", below 9\n") == 3
    told = []
    monkeypatch.setattr(Events, "write", lambda self, record: told.append((record["stage"], record["update"])))
    assert command.run(path, SETTINGS, json=True, latex=tmp_path / "a.tex", tensorboard=tmp_path / "all") == 0
    assert told == [(0, 0), (0, 1), (0, 2)]
    assert len(capsys.readouterr().out.splitlines()) == 3
    monkeypatch.undo()
    report = monitor(read_stages(path, SETTINGS.match), SETTINGS)
    assert (tmp_path / "a.tex").read_text() == latex_tables(report, str(path))
    assert command.run(path, SETTINGS, json=True, advice=True, tensorboard=tmp_path / "events") == 0
    lines = [json.loads(x) for x in capsys.readouterr()[0].splitlines()]
    assert [x["agents"] for x in lines] == [[0], [1], [2]]
    assert list((tmp_path / "events").iterdir())
    assert command.run(path, SETTINGS, advice=True) == 0
    assert "  keep_rollouts: False (prior). resample as the stage begins." in capsys.readouterr()[0]
    with pytest.raises(InputError, match="--until-idle: found no --follow"):
        command.run(path, SETTINGS, watching=Watching(until_idle=1.0))


def test_an_update_that_is_told_again_keeps_its_number(tmp_path, report, monkeypatch):
    events, written = Events(tmp_path / "events"), []
    monkeypatch.setattr(events._writer, "add_scalar", lambda key, value, step: written.append((key, step)))
    first, second, third = report.records[:3]
    for record in (first, second, first, second, third):
        events.write(record)
    events.close()
    key = "outside"
    assert [step for name, step in written if name.endswith(f"/{key}")] == [0, 1, 0, 1, 2]
    assert {name for name, _ in written if name.endswith(f"/{key}")} == {f"teamtr/agent {k}/{key}" for k in range(3)}
