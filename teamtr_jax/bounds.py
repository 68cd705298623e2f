"""The ladder: rungs by id and name, each an upper bound on `|gap_i|` of every update of a stage.

A rung says which gap it bounds, in which form of team it holds, and who can print it:

* ``oracle``: needs a supremum over states or exact tables,
* ``prior``: needs only what is declared (ranges of the reward or the return, a per-state radius, whose turn it can be) and
  monitored averages,
* ``estimable``: needs rollouts beside what is declared, and then carries a confidence.

`ladder(report, rungs=DEFAULT)` evaluates all that apply; a reader's own `Rung` is passed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.chi_square import root_excess, root_increment
from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import Layers, StageReport, floats, require_report
from teamtr_jax.validation import InputError, one_of

__all__ = [
    "Rung", "ladder", "least", "DEFAULT", "BOTH", "Form", "Gap", "Information", "paper_constant", "path_kl", "zero_times",
    "penalty_trivial", "penalty_paper", "penalty_share", "penalty_path", "penalty_second_order", "penalty_later_turns",
    "penalty_layers", "penalty_log_sum", "penalty_log_sum_advantage", "penalty_weighted", "penalty_drift_paper",
    "penalty_stale_paper", "penalty_stale_share", "penalty_stale_path", "penalty_stale_second_order", "penalty_stale_log_sum",
    "penalty_stale_return_range", "penalty_cached_log_sum", "penalty_reused_log_sum",
    "penalty_chi_square", "penalty_cached_chi_square", "penalty_reused_chi_square", "stage_chi_square",
]  # fmt: skip

Form = Literal["discounted", "episodic"]
Gap = Literal["fresh", "stale", "cached", "reused"]
Information = Literal["oracle", "prior", "estimable"]


class Rung(NamedTuple):
    """One bound on one gap. `fn(report)` returns ``[n]``, in units of the return; it may be infinite, never NaN."""

    id: str
    name: str  #: the key it is printed under
    gap: Gap
    forms: tuple[Form, ...]
    information: Information
    fn: Callable[[StageReport], Float[Array, " n"]]


def zero_times(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x·y` with `0·∞ = 0`."""
    return jnp.where((x == 0) | (y == 0), 0.0, x * y)


def paper_constant(report: StageReport) -> Float[Array, " n"]:
    """`c_i = √2·γ·A_max,i/(1−γ)²` of a discounted team (P3.3)."""
    return jnp.sqrt(2.0) * report.discount * report.advantage_max / (1 - report.discount) ** 2


def penalty_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.4: discounted `c_i √δ_i`; episodic (E1, the paper's form) `2A_max Σ_t min(1, Σ_{u<t} √(κ_u/2))`."""
    if report.layers is None:
        return zero_times(paper_constant(report), jnp.sqrt(report.kl))
    return _layered_paper(report, exclusive_sum(jnp.sqrt(report.layers.kl / 2)))


def penalty_stale_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.7: discounted `c_i Σ_{k≤i} √δ_k` with the `A_max` of update i; episodic with `Σ_{k≤i}` inside the minimum."""
    if report.layers is None:
        return zero_times(paper_constant(report), jnp.cumsum(jnp.sqrt(report.kl)))
    return _layered_paper(report, jnp.cumsum(exclusive_sum(jnp.sqrt(report.layers.kl / 2)), 0))


def penalty_drift_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.3: the same sums over `k < i`, a bound on `|L_i^seq − L_i^stale|`."""
    if report.layers is None:
        return zero_times(paper_constant(report), exclusive_sum(jnp.sqrt(report.kl)))
    return _layered_paper(report, exclusive_sum(exclusive_sum(jnp.sqrt(report.layers.kl / 2)).T).T)


def penalty_share(report: StageReport) -> Float[Array, " n"]:
    """S1: P3.4 with `√(w_i δ_i)` for `√δ_i`, `w_i` the share of the time in which the agent speaks (of the layer, episodic)."""
    if report.layers is None:
        return zero_times(paper_constant(report), jnp.sqrt(zero_times(report.share, report.kl)))
    return _layered_paper(report, exclusive_sum(_layer_share(report.layers)))


def penalty_stale_share(report: StageReport) -> Float[Array, " n"]:
    """S1: P3.7 with `√(w_k δ_k)` for `√δ_k`."""
    if report.layers is None:
        return zero_times(paper_constant(report), jnp.cumsum(jnp.sqrt(zero_times(report.share, report.kl))))
    return _layered_paper(report, jnp.cumsum(exclusive_sum(_layer_share(report.layers)), 0))


def _layer_share(layers: Layers) -> Float[Array, "n T"]:
    return jnp.sqrt(zero_times(layers.share, layers.kl) / 2)


def _layered_paper(report: StageReport, shift: Float[Array, "n T"]) -> Float[Array, " n"]:
    return 2 * report.advantage_max * jnp.minimum(1.0, shift).sum(-1)


def _layered_span(layers: Layers, shift: Float[Array, "n T"]) -> Float[Array, " n"]:
    """`Σ_t min(1, TV_t)·span(g_t)`."""
    return zero_times(jnp.minimum(1.0, shift), layers.span).sum(-1)


def penalty_path(report: StageReport) -> Float[Array, " n"]:
    """S2: `Σm·TV·span(g_i)`, `TV = γ√(δ_i/(2(1−γ)))`; episodic `Σ_t min(1, √(½Σ_{u<t}κ_u))·span(g_t)`."""
    if report.layers is None:
        return _path(report, report.kl)
    return _layered_span(report.layers, jnp.sqrt(exclusive_sum(report.layers.kl) / 2))


def penalty_stale_path(report: StageReport) -> Float[Array, " n"]:
    """S3: the same with `Σ_{k≤i} δ⁰_k` (never the fresh δ) for `δ_i`: path KL adds over agents."""
    if report.layers is None:
        return _path(report, jnp.cumsum(report.kl_stale))
    return _layered_span(report.layers, jnp.sqrt(exclusive_sum(jnp.cumsum(report.layers.kl_stale, 0)) / 2))


def _path(report: StageReport, kl: Float[Array, " n"]) -> Float[Array, " n"]:
    """Discounted: `Σm·γ√(KL/(2(1−γ)))·span(g_i)`."""
    gamma = report.discount
    shift = zero_times(gamma, jnp.sqrt(kl / (2 * (1 - gamma))))
    return zero_times(shift, report.span_g) / (1 - gamma)


def penalty_second_order(report: StageReport) -> Float[Array, " n"]:
    """S4: `γ/(1−γ)²·E_d[TV_i]·span(g_i)`; episodic `Σ_t min(1, Σ_{u<t} E TV_u)·span(g_t)`."""
    if report.layers is None:
        return _second_order(report, report.tv)
    return _layered_span(report.layers, exclusive_sum(report.layers.tv))


def penalty_stale_second_order(report: StageReport) -> Float[Array, " n"]:
    """S4 for the stale gap: `Σ_{k≤i} E_{d^{π̂ᵏ⁻¹}} TV_k` for `E_d TV_i` (T1, added up along the stage)."""
    if report.layers is None:
        return _second_order(report, jnp.cumsum(report.tv))
    return _layered_span(report.layers, exclusive_sum(jnp.cumsum(report.layers.tv, 0)))


def _second_order(report: StageReport, tv: Float[Array, " n"]) -> Float[Array, " n"]:
    """Discounted: `γ/(1−γ)²·TV·span(g_i)`."""
    gamma = report.discount
    return gamma / (1 - gamma) ** 2 * tv * report.span_g


def penalty_later_turns(report: StageReport) -> Float[Array, " n"]:
    """S4R: `Σm·E_d[TV_i]·N⁺·span(g_i)`, `N⁺` the agent's most later turns, expected and discounted (round robin `γⁿ/(1−γⁿ)`).

    Where episodes may end early, the end counts as a state with `g = 0`.
    """
    return report.visits[:-1].sum(-1) * report.tv * report.later_turns * _span(report)


def _span(report: StageReport) -> Float[Array, " n"]:
    """`span(g_i)`; where episodes may end early, with the end as a state with `g = 0`."""
    g = report.conditional
    ended = jnp.maximum(g.max(-1), 0.0) - jnp.minimum(g.min(-1), 0.0)
    return jnp.where(report.even, report.span_g, ended)


def penalty_layers(report: StageReport) -> Float[Array, " n"]:
    """E1: `Σ_t TV_t·span(g_t)`, `TV_t = min(1, Σ_{u<t} E TV_u, √(½Σ_{u<t} κ_u))`."""
    assert report.layers is not None
    by_kl = jnp.sqrt(exclusive_sum(report.layers.kl) / 2)
    return _layered_span(report.layers, jnp.minimum(exclusive_sum(report.layers.tv), by_kl))


def penalty_trivial(report: StageReport) -> Float[Array, " n"]:
    """S0: `Σm · span(g_i)`; bounds the fresh and the stale gap, no rung may be worse.

    Where an update can change how long episodes last, the end of the episode counts as a state with `g = 0`, and `Σm` is that
    of the longest: only then are the visits that S0 compares measures of equal mass.
    """
    return jnp.where(report.even, report.mass, report.visits.sum(-1).max(-1)) * _span(report)


def penalty_log_sum(report: StageReport) -> Float[Array, " n"]:
    """S7: discounted `span(r)·δ_i/(1−γ)²`, episodic `ϱ·δ_i^ep`: linear in the monitored KL."""
    return zero_times(report.return_range, path_kl(report, report.kl))


def path_kl(report: StageReport, kl: Float[Array, " n"]) -> Float[Array, " n"]:
    """`K`: KL of the law of the whole path, `δ/(1−γ)` (to a geometric time) or `δ^ep`."""
    return kl if report.episodic else kl / (1 - report.discount)


def penalty_log_sum_advantage(report: StageReport) -> Float[Array, " n"]:
    """S7b: discounted `B_i δ_i/(1−γ)²`; episodic `Σ_t B_{i,t} Σ_{u≤t} κ_u`, at most `B_i τ_i δ_i^ep`."""
    if report.layers is None:
        return zero_times(report.advantage_span, report.kl) / (1 - report.discount) ** 2
    return zero_times(report.layers.advantage_span, jnp.cumsum(report.layers.kl, -1)).sum(-1)


def penalty_stale_log_sum(report: StageReport) -> Float[Array, " n"]:
    """S7b: discounted `B_i(δ⁰_i + γ/(1−γ)·Σ_{k≤i}δ⁰_k)/(1−γ)`; episodic `Σ_t B_{i,t}(κ⁰_{i,t} + Σ_{u<t} Σ_{k≤i} κ⁰_{k,u})`."""
    if report.layers is None:
        return zero_times(report.advantage_span, _stale_kl(report)) / (1 - report.discount)
    return zero_times(report.layers.advantage_span, _stale_layers(report.layers.kl_stale)).sum(-1)


def penalty_stale_return_range(report: StageReport) -> Float[Array, " n"]:
    """S7b with `ϱ ≥ B_i`, so that a trainer can print it; episodic the sum is over the steps at which agent i may speak.

    Which those are the protocol says: the steps of its turns, with a router that reads the context all of them.
    """
    if report.layers is None:
        return zero_times(report.return_range, _stale_kl(report)) / (1 - report.discount)
    stale = jnp.where(report.layers.speaks, _stale_layers(report.layers.kl_stale), 0.0).sum(-1)
    return zero_times(report.return_range, stale)


def _stale_kl(report: StageReport) -> Float[Array, " n"]:
    """`δ⁰_i + γ/(1−γ)·Σ_{k≤i} δ⁰_k`."""
    gamma = report.discount
    earlier = jnp.cumsum(report.kl_stale) / (1 - gamma)
    return report.kl_stale + zero_times(gamma, earlier)


def _stale_layers(kl: Float[Array, "n T"]) -> Float[Array, "n T"]:
    """`κ⁰_{i,t} + Σ_{u<t} Σ_{k≤i} κ⁰_{k,u}`."""
    return kl + exclusive_sum(jnp.cumsum(kl, 0))


def penalty_cached_log_sum(report: StageReport) -> Float[Array, " n"]:
    """S7c: `ϱ·D_i`, `D_i = Σ_{k≤i} K_k` with `K_k` of `δ⁰_k`; product teams `ϱ(D_i + D_{i−1})`."""
    through = jnp.cumsum(path_kl(report, report.kl_stale))
    total = jnp.where(report.simultaneous, through + exclusive_sum(path_kl(report, report.kl_stale)), through)
    return zero_times(report.return_range, total)


def penalty_reused_log_sum(report: StageReport) -> Float[Array, " n"]:
    """S7c for the reused surrogate (`π^{⟨i⟩} − π̂⁰`): `ϱ·D_i`, in product teams too."""
    through = jnp.cumsum(path_kl(report, report.kl_stale))
    return zero_times(report.return_range, through)


def penalty_weighted(report: StageReport) -> Float[Array, " n"]:
    """S9: `max(Σm Σ_a k(Q−Φ), Σm Σ_a k(Ψ−Q))`, `Σ_a k = KL(current‖new)`; at most S7."""
    return jnp.maximum(report.weighted_floor, report.weighted_ceiling)


def _deviating(deviation: Array, root: Array) -> Array:
    """`sd·√G`, infinite where `G` is, whatever the deviation: rollouts say nothing of an action that is never sampled."""
    return jnp.where(jnp.isinf(root), jnp.inf, deviation * root)


def penalty_chi_square(report: StageReport) -> Float[Array, " n"]:
    """S10: `sd(R)·√(e^X − 1 − X)`, both under `π̂ⁱ⁻¹`, `X` the greatest sum of `χ²(π̂ⁱ‖π̂ⁱ⁻¹)` along an episode."""
    assert report.layers is not None
    return _deviating(report.layers.return_deviation, root_excess(report.layers.chi_square))


def penalty_cached_chi_square(report: StageReport) -> Float[Array, " n"]:
    """S10: `sd(R)·√(G(X_{i−1}+b_i) − G(X_{i−1}))` under `π̂⁰`, `G(x) = e^x−1−x`, `X_i` of `χ²(π̂ⁱ‖π̂⁰)`, `b_i` of its increment."""
    assert report.layers is not None
    return _of_stage(report.layers, report.layers.chi_square_cached, report.layers.chi_square_cached_own)


def penalty_reused_chi_square(report: StageReport) -> Float[Array, " n"]:
    """S10: the same with `X_i` of `Σ_{k≤i} χ²(π^{⟨k⟩}‖π̂⁰)` and `b_i` of `χ²(π^{⟨i⟩}‖π̂⁰)`."""
    assert report.layers is not None
    return _of_stage(report.layers, report.layers.chi_square_reused, report.layers.chi_square_reused_own)


def _of_stage(layers: Layers, through: Float[Array, " n"], own: Float[Array, " n"]) -> Float[Array, " n"]:
    earlier = jnp.concatenate([jnp.zeros_like(through[:1]), through[:-1]])
    return _deviating(layers.return_deviation[0], root_increment(earlier, own))


def stage_chi_square(report: StageReport, reused: bool = False) -> Float[Array, ""]:
    """S10: bound on `|Σ_i cached gap_i|` (on the sum of the reused gaps): `sd(R)·√(e^X − 1 − X)` under `π̂⁰`.

    `X` is the greatest sum along an episode of `χ²(π̂ⁿ‖π̂⁰)`; for the reused gaps of `Σ_k χ²(π^{⟨k⟩}‖π̂⁰)`, which is no
    larger. ∞ for a discounted team.
    """
    if report.layers is None:
        return jnp.full_like(report.return_range, jnp.inf)
    x = (report.layers.chi_square_reused if reused else report.layers.chi_square_cached)[-1]
    return _deviating(report.layers.return_deviation[0], root_excess(x))


BOTH: tuple[Form, ...] = ("discounted", "episodic")

EPISODIC: tuple[Form, ...] = ("episodic",)

DEFAULT: tuple[Rung, ...] = (
    Rung("S0", "penalty_trivial", "fresh", BOTH, "oracle", penalty_trivial),
    Rung("P3.4", "penalty_paper", "fresh", BOTH, "oracle", penalty_paper),
    Rung("S1", "penalty_share", "fresh", BOTH, "oracle", penalty_share),
    Rung("S2", "penalty_path", "fresh", BOTH, "oracle", penalty_path),
    Rung("S4", "penalty_second_order", "fresh", BOTH, "oracle", penalty_second_order),
    Rung("S4R", "penalty_later_turns", "fresh", BOTH, "oracle", penalty_later_turns),
    Rung("E1", "penalty_layers", "fresh", EPISODIC, "oracle", penalty_layers),
    Rung("S7", "penalty_log_sum", "fresh", BOTH, "estimable", penalty_log_sum),
    Rung("S7b", "penalty_log_sum_advantage", "fresh", BOTH, "oracle", penalty_log_sum_advantage),
    Rung("S9", "penalty_weighted", "fresh", BOTH, "estimable", penalty_weighted),
    Rung("S10", "penalty_chi_square", "fresh", EPISODIC, "oracle", penalty_chi_square),
    Rung("S0", "penalty_stale_trivial", "stale", BOTH, "oracle", penalty_trivial),
    Rung("P3.7", "penalty_stale_paper", "stale", BOTH, "oracle", penalty_stale_paper),
    Rung("S1", "penalty_stale_share", "stale", BOTH, "oracle", penalty_stale_share),
    Rung("S3", "penalty_stale_path", "stale", BOTH, "oracle", penalty_stale_path),
    Rung("S4", "penalty_stale_second_order", "stale", BOTH, "oracle", penalty_stale_second_order),
    Rung("S7b", "penalty_stale_log_sum", "stale", BOTH, "oracle", penalty_stale_log_sum),
    Rung("S7b", "penalty_stale_return_range", "stale", BOTH, "estimable", penalty_stale_return_range),
    Rung("S7c", "penalty_cached_log_sum", "cached", BOTH, "estimable", penalty_cached_log_sum),
    Rung("S7c", "penalty_reused_log_sum", "reused", BOTH, "estimable", penalty_reused_log_sum),
    Rung("S10", "penalty_cached_chi_square", "cached", EPISODIC, "oracle", penalty_cached_chi_square),
    Rung("S10", "penalty_reused_chi_square", "reused", EPISODIC, "oracle", penalty_reused_chi_square),
)


def _form(report: StageReport) -> Form:
    return "episodic" if report.episodic else "discounted"


@jax.jit
def _default_penalties(report: StageReport) -> dict[str, Array]:
    """Every rung of `DEFAULT` that holds, in one program: one at a time they are some hundred programs of an operation each."""
    return {rung.name: rung.fn(report) for rung in DEFAULT if _form(report) in rung.forms}


def ladder(report: StageReport, rungs: Sequence[Rung] = DEFAULT) -> dict[str, Float[Array, " n"]]:
    """`{name: penalty [n]}` for every rung that holds in the form of this stage.

    Raises:
      InputError: if two rungs share a name, a rung returns another shape than ``[n]``, or a number of the report is NaN.
    """
    require_report(report)
    form = _form(report)
    together = floats(report.kl) is not None and sum(rung in DEFAULT for rung in rungs) > 1
    ours = _default_penalties(report) if together else {}
    out: dict[str, Array] = {}
    for rung in rungs:
        if form not in rung.forms:
            continue
        if rung.name in out:
            raise InputError("rungs", f"two rungs named {rung.name}", "one name for each")
        penalty = ours[rung.name] if together and rung in DEFAULT else rung.fn(report)
        if penalty.shape != report.gap_fresh.shape:
            shape = list(report.gap_fresh.shape)
            raise InputError(f"rung {rung.name}", f"shape {list(penalty.shape)}", f"shape {shape}, one for each update")
        out[rung.name] = penalty
    return out


def least(
    report: StageReport,
    gap: Gap = "fresh",
    information: Sequence[Information] = ("oracle", "prior", "estimable"),
    rungs: Sequence[Rung] = DEFAULT,
) -> Float[Array, " n"]:
    """S6: the least penalty on one gap at the given information levels; `∞` where no rung applies.

    Raises:
      InputError: a word that is no gap or no level; otherwise as `ladder`.
    """
    one_of("gap", gap, get_args(Gap))
    for level in information:
        one_of("information", level, get_args(Information))
    chosen = [rung for rung in rungs if rung.gap == gap and rung.information in information]
    penalties = ladder(report, chosen)
    return jnp.stack([jnp.full_like(report.gap_fresh, jnp.inf), *penalties.values()]).min(0)
