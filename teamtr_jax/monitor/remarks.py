"""What a reader has to know before using a number of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teamtr_jax.monitor.columns import Record, interval_text, name, number
from teamtr_jax.monitor.doubts import beyond_softmax
from teamtr_jax.monitor.floor import FINE, VISIBLE
from teamtr_jax.monitor.limits import RARELY
from teamtr_jax.monitor.report import MonitorReport

__all__ = ["remarks", "names", "refused"]


def names(records: list[Any]) -> str:
    """How many updates, and the first of them."""
    some = ", ".join(map(name, records[:5])) + " …" * (len(records) > 5)
    return f"{len(records)} update{'s' * (len(records) != 1)} ({some})"


def _those(report: MonitorReport, pick: Callable[[Record], Any]) -> list[Record]:
    return [r for r in report.records if pick(r)]


def refused(report: MonitorReport) -> str:
    """Why the log is refused: it contradicts itself and does not say how its tokens were drawn; nothing where it is not."""
    found = _those(report, lambda r: r["contradiction"] and r["sampler"] is None)
    if not found:
        return ""
    return (
        f"the log contradicts itself at {names(found)}, and has no sampler settings: nothing is certified or decided. Write the "
        "temperature, top-k and top-p with which the tokens were drawn (docs/records.md, token log)"
    )


def _suspect(record: Record) -> str:
    """The likely cause of a contradiction, as far as the settings say."""
    if (sampler := record["sampler"]) is None:
        return "The log has no sampler settings, which would tell the likely one. "
    if beyond := beyond_softmax(sampler):
        return f"Likely, as the log says how tokens were drawn: {beyond}, and scores that leave it out. "
    if record["scored_twice"] == 0 and sampler["precision"] not in FINE:
        return f"Likely: rounding of {sampler['precision']}; score a share of the rollouts twice, and it is reckoned with. "
    if sampler["temperature"] != 1:
        return f"Likely: sampled at temperature {sampler['temperature']:g} and scored at 1. "
    return "Tokens were drawn from the plain softmax at temperature 1, as the log says: rather a shift, a mask or a filter. "


def _sampler(report: MonitorReport) -> list[str]:
    """What is known of the law of the tokens."""
    if any(r["sampler"] is None for r in report.records):
        out = (
            "No sampler settings in the log: all that is said holds if tokens were drawn from the softmax that was scored, at "
            "its temperature and with no top-k, top-p or penalty. Libraries have defaults of their own: write the settings."
        )
        return [out]
    laws = {", ".join(f"{key} {value}" for key, value in r["sampler"].items()) for r in report.records}
    return [f"Tokens were drawn and scored with {x}." for x in sorted(laws)]


def _floor(report: MonitorReport) -> list[str]:
    """Noise of the scores, and what it hides."""
    out = []
    known = _those(report, lambda r: r["floor"] is not None)
    if known:
        r = max(known, key=lambda r: r["floor"]["value"])
        out.append(
            f"Scored twice, the current policy is {interval_text(r['floor'])} nats a message from itself at {name(r)} (k3, the "
            f"largest floor; {number(r['floor_token'])} nats a token of noise, {r['scored_twice']} rollouts)."
        )
    if hidden := _those(
        report, lambda r: set(r["below_floor"]) & {"outside", "certificate", "certificate_finite_sample"}
    ):
        out.append(
            f"Decisions or certificates of {names(hidden)} are below the floor: roundings alone could have made them. Score in "
            "float32 (the heads at least), current and new in one shape, without dropout."
        )
    if unknown := _those(report, lambda r: r["not_corrected"]):
        out.append(
            f"k3 is not corrected for the floor at {names(unknown)}, at {name(unknown[0])}: {unknown[0]['not_corrected']}."
        )
    if noisy := _those(report, lambda r: r["floor"] is not None and r["floor_episode"]["value"] > VISIBLE):
        out.append(
            f"Noise makes weights too large in the mean at {names(noisy)}: S7 by message ratios and S7c have no limit there, S8 "
            "pays for it; S7 by token ratios and S9 hold as they are. `improvement`, `gap`, shifts and the interaction carry it."
        )
    coarse = _those(report, lambda r: r["floor"] is None and r["sampler"] and r["sampler"]["precision"] not in FINE)
    if coarse:
        out.append(
            f"Scored in {coarse[0]['sampler']['precision']}, and nothing scored twice in {names(coarse)}: the floor is not "
            "known, so S8, S7c and S7 by message ratios have no limit. Score a share of the rollouts twice (`logp_again`)."
        )
    return out


def _without_certificate(report: MonitorReport) -> list[str]:
    """Why there are updates without one."""
    out = []
    if invalid := _those(report, lambda r: r["invalid"]):
        reasons = sorted({reason for r in invalid for reason in r["invalid"]})
        out.append(f"No certificate, and no word on resampling, of {names(invalid)}: {'; '.join(reasons)}.")
    if wrong := _those(report, lambda r: r["contradiction"]):
        c = wrong[0]["contradiction"]
        fit = "; or, in-sample, an update that raised the probability of its own rollouts"
        fit = "" if report.settings.held_out else fit
        out.append(
            f"The log contradicts itself at {names(wrong)}. At {name(wrong[0])} the {c['statistic']}, {c['ratio']}, is "
            f"{interval_text(c)}; where tokens are drawn from the behaviour it is {c['allowed']} (by chance with probability "
            f"below 1e{-int(min(c['log_evidence'], 1e15) / 2.302585)}). {_suspect(wrong[0])}Causes: scored at another "
            f"temperature than sampled, log-probabilities shifted by a token, a wrong mask, low precision (bfloat16), a top-k or "
            f"top-p cut, rollouts left out for what they say{fit}."
        )
    if masked := _those(report, lambda r: r["masked"]):
        out.append(
            f"{sum(r['masked'] for r in masked)} rollouts of {names(masked)} lack tokens (none, or `t` does not run from 0 to "
            f"n − 1): their probabilities may have changed too. Log the tokens that were sampled, whatever the loss masks."
        )
    return out


def _left_out(report: MonitorReport) -> list[str]:
    """Rollouts and prompts that are not there."""
    out = []
    unless = "" if report.settings.complete else " (--complete: none was left out)"
    if mixed := _those(report, lambda r: "prompts whose rollouts have equal rewards were left out" in r["invalid"]):
        out.append(
            f"No prompt has rollouts of equal rewards in {names(mixed)}, which chance does not do: log the prompts without "
            f"advantage too."
        )
    if unequal := _those(report, lambda r: r["groups"]):
        low, high = unequal[0]["groups"]
        out.append(
            f"Prompts have {low} to {high} rollouts in {names(unequal)}. If which are there depends on what they say or earn, "
            f"these are a selected sample, and no estimate or limit of them holds{unless}."
        )
    if gaps := _those(report, lambda r: r["ids_missing"] and not r["groups"]):
        out.append(
            f"{gaps[0]['ids_missing']} rollout ids are missing in {names(gaps)}: limits hold only if which are "
            f"left out does not depend on what they say or earn{unless}."
        )
    return out


def _weights(report: MonitorReport) -> list[str]:
    """Limits and weights that are larger than they can be, or smaller."""
    out = []
    if cut := _those(report, lambda r: r["limit_cut"]):
        out.append(
            f"A limit exceeded high − mean reward, the largest improvement that there can be, and none is printed for "
            f"{names(cut)}: rollouts that the update made rarer were not drawn, or the scores are of another law than "
            "the rollouts."
        )
    share = f"{100 * RARELY * report.settings.alpha:g} %"
    if heavy := _those(report, lambda r: r["mean_weight_high"] and r["evidence"] == "fresh"):
        out.append(
            f"The mean weight new/current of rollouts lies above 1 in {names(heavy)}, at {name(heavy[0])} "
            f"{interval_text(heavy[0]['mean_weight'])}, and no limit is printed: where tokens are drawn from current this is so "
            f"in at most {share} of updates. Otherwise the causes are those of a log that contradicts itself."
        )
    if heavy := _those(report, lambda r: r["mean_weight_high"] and r["evidence"] != "fresh"):
        out.append(
            f"The mean weight of new and current over behaviour lies above 1 in {names(heavy)}, and no limit is printed: where "
            f"tokens are drawn from the behaviour this is so in at most {share} of updates."
        )
    if cuts := _those(report, lambda r: r["sampler_cuts"] and not r["invalid"]):
        out.append(
            f"The sampler never writes some of what the current policy plays at {names(cuts)}, at {name(cuts[0])} "
            f"{interval_text(cuts[0]['sampler_misses'])} of its rollouts, as under a top-p or top-k cut: k3 is too small by "
            "that, so S7c has no limit there; S9 (mismatch) and S8 hold."
        )
    if tails := _those(report, lambda r: r["mean_weight_low"] and not r["invalid"]):
        r = tails[0]
        out.append(
            f"The mean weight new/current of rollouts lies below 1 at {names(tails)}, at {name(r)} "
            f"{interval_text(r['mean_weight'])}: rare rollouts that were not drawn hold the rest, and k3, S7, `improvement` and "
            "`gap` miss them; S8 does not."
        )
    return out


def _scored_again(report: MonitorReport) -> list[str]:
    """Older sets that are here in part, or perhaps."""
    out = []
    for state, meaning in (
        ("part", "not used as scored again, as only whole sets are"),
        (
            "unclear",
            "perhaps scored again, perhaps new and the same by chance: taken as new; the column `source` would say it",
        ),
    ):
        found = [(r, x) for r in report.records for x in r["scored_again"] if x["state"] == state]
        if found:
            r, x = found[0]
            out.append(
                f"{names([r for r, _ in found])}: {meaning}. Of the {x['size']} rollouts of update {x['source']} there are "
                f"at {name(r)}: {x['same']} the same, {x['changed']} with other tokens, {x['missing']} missing, "
                f"{x['extra']} others."
            )
    return out


def remarks(report: MonitorReport) -> list[str]:
    """What a reader has to know before using a number."""
    out = []
    if not report.settings.held_out:
        out.append(
            "In-sample: the updates were trained on these rollouts. Limits are no guarantee; --held-out says otherwise."
        )
    else:
        out.append("Held-out, as declared: S8 holds if prompts are independent and no update saw these rollouts.")
    for found in (_sampler, _without_certificate, _left_out, _weights, _floor, _scored_again):
        out += found(report)
    noisy = [r for r in report.records if r["changed_besides"]]
    if noisy:
        out.append(
            f"Log-probabilities of other agents than `updated` changed in {len(noisy)} updates; taken as unchanged."
        )
    if joint := [r for r in report.records if r["kind"] == "joint"]:
        out.append(f"Several agents changed at once in {names(joint)}: joint update, certificates of it.")
    if idle := [r for r in report.records if r["kind"] == "nothing changed"]:
        out.append(f"{len(idle)} updates changed nothing: {', '.join(map(name, idle[:5]))}.")
    if reused := [r for r in report.records if r["evidence"] != "fresh"]:
        out.append(
            f"{len(reused)} updates have no rollouts of the current team: KL and L are under other rollouts, certificate S7c or "
            f"S9 (mismatch), behaviour and current differ by up to {max(r['off_policy'] for r in reused):.2g} nats a token."
        )
    if all(len(r["share_tokens"]) == 1 for r in report.records):
        out.append("One agent only: whole-rollout weights and shares need the tokens of all agents.")
    skipped = [r for r in report.records if r["skippable"]]
    asked = [r for r in report.records if r["skippable"] is not None]
    if asked:
        saved = sum(r["tokens"] for r in skipped)
        out.append(f"{len(skipped)} of {len(asked)} resamplings could have been skipped ({saved} tokens).")
    if not report.interactions:
        out.append(
            "No interaction matrix: at every update also score the rollouts of the stage's start, all of them, and write "
            "their rows with that `update`, the same `source`, prompt and rollout ids and logp_behaviour, new logp_current and "
            "logp_new."
        )
    return out
