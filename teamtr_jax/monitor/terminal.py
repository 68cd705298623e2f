"""The report as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teamtr_jax.intervals import Interval
from teamtr_jax.monitor.interaction import pool
from teamtr_jax.monitor.report import INFORMATION, RARELY, Report, label
from teamtr_jax.validation import shown

__all__ = ["show", "tables", "remarks", "shortened"]

WIDTH = 160
"""Columns, where the output is not a terminal."""
ROWS = 60
"""Rows of a table that are shown."""
MATRICES = 3
"""Stages whose interaction matrix is shown, the last ones."""

Grid = tuple[str, list[str], list[list[str]], str]
"""Title, headings, rows, caption."""


def _number(x: Any) -> str:
    if x is None:
        return "–"
    return f"{x:.3g}" if abs(x) < 1e4 else f"{x:.1e}"


def _interval(x: dict[str, Any] | None) -> str:
    if x is None:
        return "–"
    return f"{_number(x['value'])} [{_number(x['low'])}, {_number(x['high'])}]"


def _entry(x: Interval | None) -> str:
    return _interval(None if x is None else x._asdict())


def _who(agents: list[int]) -> str:
    return "+".join(map(str, agents)) or "nobody"


def _name(record: dict[str, Any]) -> str:
    return f"{record['stage']}.{record['update']}"


def _names(records: list[dict[str, Any]]) -> str:
    """How many updates, and the first of them."""
    some = ", ".join(map(_name, records[:5])) + " …" * (len(records) > 5)
    return f"{len(records)} update{'s' * (len(records) != 1)} ({some})"


def tables(report: Report) -> list[Grid]:
    """What is printed, as text: the same tables on the terminal and on the page."""
    level = f"{100 * (1 - report.settings.alpha):g} % intervals, clusters are prompts"
    records = report.records
    rollouts, monitored, weighed, certified, resampled = [], [], [], [], []
    for r in records:
        head = [_name(r), _who(r["agents"])]
        shares = " ".join(f"{k}:{x:.2f}" for k, x in r["share_tokens"].items())
        rollouts.append(
            [*head, r["kind"], r["evidence"], str(r["prompts"]), str(r["rollouts"]), str(r["tokens"]), _interval(r["reward"]),
             shares, f"{r['messages']:.2f} ({r['messages_max']})"]
        )  # fmt: skip
        decision = "–" if r["outside"] is None else "> δ" if r["outside"] else "≤ δ"
        turned = "–" if r["flips_25"] is None else f"{100 * r['flips_25']:.0f} / {100 * r['flips_50']:.0f}"
        monitored.append(
            [*head, _interval(r["kl_k1"]), _interval(r["kl_k3"]), decision, turned, _interval(r["kl_episode"])]
        )
        for kind, key in (("new/current", "weights_update"), ("current/behaviour", "weights_behaviour")):
            if (w := r[key]) is not None:
                weighed.append(
                    [*head, kind, str(w["n"]), *(_number(w[x]) for x in ("ess", "p95", "p99", "largest", "above_ten"))]
                )
        c, f = r["certificate"], r["certificate_finite_sample"]
        best = max(r["rungs"], key=lambda x: x["lower"])
        certified.append(
            [*head, _interval(r["surrogate"]), _interval(r["gap"]), _interval(best["certificate"]),
             "none" if c["label"].startswith("none") else c["rung"],
             _number(c["lower"]), "–" if f is None else _number(f["lower"]), _interval(r["improvement_next"])]
        )  # fmt: skip
        answer = "–" if r["skippable"] is None else "could be skipped" if r["skippable"] else "needed"
        resampled.append(
            [*head, "yes" if r["resampled"] else "no", str(r["source"]), _number(r["shift"]), _number(r["shift_upper"]),
             r["shift_rung"] or "–", _number(r["shift_booked"]), answer]
        )  # fmt: skip
    update = ["update", "agent"]
    settings = report.settings
    out: list[Grid] = []

    def add(title: str, heads: list[str], rows: list[list[str]], caption: str) -> None:
        out.append((title, [*update, *heads], rows, caption))

    heads = ["kind", "evidence", "prompts", "rollouts", "tokens", "reward", "share of tokens", "messages (max)"]
    add("Rollouts (estimable)", heads, rollouts, level)
    heads = ["k1 per message", "k3 per message", f"δ = {settings.delta:g}", "flips %, 25 / 50", "K per episode"]
    caption = (
        f"KL(current‖new), nats; {level}; flips: share of {settings.draws} sub-samples of 25 or 50 % of the tokens"
    )
    add("Token-KL monitor (estimable)", heads, monitored, f"{caption} that decide otherwise")
    heads = ["ratio", "rollouts", "ESS/B", "P95", "P99", "max", "Pr[w > 10]"]
    add("Importance weights of whole rollouts (estimable)", heads, weighed, "")
    heads = ["surrogate L", "gap", "certificate", "rung", "lower", "S8 lower", "next rollouts say"]
    caption = (
        f"lower limits of level {1 - settings.alpha:g}: S6, best of the rungs, each at α over their number, asymptotic"
    )
    add(
        "Certificates (estimable; ranges declared: prior)",
        heads,
        certified,
        f"{caption}; S8, no asymptotics; {label(settings, [])}",
    )
    heads = ["new rollouts", "source", "shift", "upper", "rung", "as booked", f"tolerance {settings.tolerance:g}"]
    caption = "total variation between the team that wrote the rollouts and the team now; booked: √(½ΣK) of fresh K"
    add("Resampling (estimable)", heads, resampled, caption)
    note = "negative: k spoiled the context of i"
    if len(report.interactions) > 1:
        pooled = pool(report.interactions, settings.alpha)
        rows = [[f"after agent {k}", *map(_entry, row)] for k, row in zip(pooled.agents, pooled.entries, strict=True)]
        title = f"Interaction M[k,i], mean over {pooled.stages} stages (R5, estimable)"
        out.append((title, ["", *(f"agent {i}" for i in pooled.agents)], rows, f"{level}; {note}"))
    for matrix in report.interactions[-MATRICES:]:
        rows = [
            [
                f"after update {k} of agent {_who(agents)}",
                *(_entry(x) + " *" * mark for x, mark in zip(row, clear, strict=True)),
            ]
            for k, agents, row, clear in zip(matrix.updates, matrix.agents, matrix.entries, matrix.clear, strict=True)
        ]
        rows.append(["L^seq − L^stale", *map(_entry, matrix.drift)])
        heads = [f"{i} (agent {_who(agents)})" for i, agents in zip(matrix.updates, matrix.agents, strict=True)]
        title = f"Interaction M[k,i], stage {matrix.stage} (R5, estimable): by how much update k moves the surrogate of update i"
        out.append((title, ["", *heads], rows, f"{level}; * excludes 0 at α over the number of entries; {note}"))
    return out


def shortened(rows: list[list[str]], limit: int) -> tuple[list[list[str]], str]:
    """The last rows, and what to say of the others."""
    if len(rows) <= limit:
        return rows, ""
    return rows[-limit:], f" The last {limit} of {len(rows)} rows; --json has all."


def doubts(report: Report) -> list[str]:
    """Why there are updates without certificate, and what is odd about the rollouts of others."""
    out = []

    def those(pick: Any) -> list[dict[str, Any]]:
        return [r for r in report.records if pick(r)]

    if invalid := those(lambda r: r["invalid"]):
        reasons = sorted({reason for r in invalid for reason in r["invalid"]})
        out.append(f"No certificate, and no word on resampling, of {_names(invalid)}: {'; '.join(reasons)}.")
    if wrong := those(lambda r: r["contradiction"]):
        c = wrong[0]["contradiction"]
        fit = "; or, in-sample, an update that raised the probability of its own rollouts"
        fit = "" if report.settings.held_out else fit
        out.append(
            f"The log contradicts itself at {_names(wrong)}. At {_name(wrong[0])} the {c['statistic']}, {c['ratio']}, is "
            f"{_interval(c)}; where tokens are drawn from the behaviour it is {c['allowed']} (by chance with probability "
            f"below 1e{-int(min(c['log_evidence'], 1e15) / 2.302585)}). Causes: scored at another temperature than sampled, "
            f"log-probabilities shifted by a token, a wrong mask, low precision (bfloat16), a top-k or top-p cut, rollouts left "
            f"out for what they say{fit}."
        )
    if masked := those(lambda r: r["masked"]):
        out.append(
            f"{sum(r['masked'] for r in masked)} rollouts of {_names(masked)} lack tokens (none, or `t` does not run from 0 to "
            f"n − 1): their probabilities may have changed too. Log the tokens that were sampled, whatever the loss masks."
        )
    if mixed := those(lambda r: "prompts whose rollouts have equal rewards were left out" in r["invalid"]):
        out.append(
            f"No prompt has rollouts of equal rewards in {_names(mixed)}, which chance does not do: log the prompts without "
            f"advantage too."
        )
    unless = "" if report.settings.complete else " (--complete: none was left out)"
    if unequal := those(lambda r: r["groups"]):
        low, high = unequal[0]["groups"]
        out.append(
            f"Prompts have {low} to {high} rollouts in {_names(unequal)}. If which are there depends on what they say or earn, "
            f"these are a selected sample, and no estimate or limit of them holds{unless}."
        )
    if gaps := those(lambda r: r["ids_missing"] and not r["groups"]):
        out.append(
            f"{gaps[0]['ids_missing']} rollout ids are missing in {_names(gaps)}: limits hold only if which are "
            f"left out does not depend on what they say or earn{unless}."
        )
    if cut := those(lambda r: r["limit_cut"]):
        out.append(
            f"A limit exceeded high − mean reward, the largest improvement that there can be, and none is printed for "
            f"{_names(cut)}: rollouts that the update made rarer were not drawn, or the scores are of another law than "
            "the rollouts."
        )
    if heavy := those(lambda r: r["mean_weight_high"]):
        share = f"{100 * RARELY * report.settings.alpha:g} %"
        out.append(
            f"The mean weight new/current of rollouts lies above 1 in {_names(heavy)}, at {_name(heavy[0])} "
            f"{_interval(heavy[0]['mean_weight'])}, and no limit is printed: where tokens are drawn from current this is so "
            f"in at most {share} of updates. Otherwise the causes are those of a log that contradicts itself."
        )
    if tails := those(lambda r: r["mean_weight_low"] and not r["invalid"]):
        r = tails[0]
        out.append(
            f"The mean weight new/current of rollouts lies below 1 at {_names(tails)}, at {_name(r)} "
            f"{_interval(r['mean_weight'])}: rare rollouts that were not drawn hold the rest, and k3, S7, `improvement` and "
            "`gap` miss them; S8 does not."
        )
    for state, text in (
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
                f"{_names([r for r, _ in found])}: {text}. Of the {x['size']} rollouts of update {x['source']} there are "
                f"at {_name(r)}: {x['same']} the same, {x['changed']} with other tokens, {x['missing']} missing, "
                f"{x['extra']} others."
            )
    return out


def remarks(report: Report) -> list[str]:
    """What a reader has to know before using a number."""
    out = []
    if not report.settings.held_out:
        out.append(
            "In-sample: the updates were trained on these rollouts. Limits are no guarantee; --held-out says otherwise."
        )
    else:
        out.append("Held-out, as declared: S8 holds if prompts are independent and no update saw these rollouts.")
    out += doubts(report)
    noisy = [r for r in report.records if r["changed_besides"]]
    if noisy:
        out.append(
            f"Log-probabilities of other agents than `updated` changed in {len(noisy)} updates; taken as unchanged."
        )
    if joint := [r for r in report.records if r["kind"] == "joint"]:
        names = ", ".join(map(_name, joint[:5]))
        out.append(
            f"Several agents changed at once in {len(joint)} updates ({names} …): joint update, certificates of it."
        )
    if idle := [r for r in report.records if r["kind"] == "nothing changed"]:
        out.append(f"{len(idle)} updates changed nothing: {', '.join(map(_name, idle[:5]))}.")
    if reused := [r for r in report.records if r["evidence"] != "fresh"]:
        out.append(
            f"{len(reused)} updates have no rollouts of the current team: KL and L are under older rollouts, certificate S7c, "
            f"behaviour and current differ by up to {max(r['off_policy'] for r in reused):.2g} nats a token."
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


def show(report: Report, name: str) -> None:
    """Print the report."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    console.print(f"{shown(name)}: {report.rows} tokens, {len(report.records)} updates", highlight=False, markup=False)
    for title, heads, rows, caption in tables(report):
        rows, left = shortened(rows, ROWS)
        table = Table(title=escape(title), caption=escape(caption + left), title_justify="left", caption_justify="left")
        for i, head in enumerate(heads):
            table.add_column(escape(head), justify="left" if i < 2 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for line in remarks(report):
        console.print(f"• {line}", highlight=False, markup=False)
    console.print("Information levels:", highlight=False)
    for key, (level, meaning) in INFORMATION.items():
        console.print(f"  {key}: {level}. {meaning}", highlight=False, markup=False)
