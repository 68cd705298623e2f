"""Bundles of arrays and their shapes: the world protocol, `Team`, `Stage`, and what is known about a stage.

Symbols in shapes: ``S`` states (for an episodic team the flattened time-indexed states), ``A`` actions (for a product
team the joint actions, C order), ``n`` agents, ``T`` time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax import Array
from jaxtyping import Bool, Float, Int

__all__ = [
    "Dynamics",
    "Resolvent",
    "Team",
    "Stage",
    "Hybrids",
    "Rounding",
    "StageReport",
    "Estimate",
    "StepInfo",
    "Step",
    "UpdateRecord",
    "static_field",
]


def static_field(**kwargs: object):
    """A dataclass field that is compile-time structure (a size, a flag), not an array."""
    return field(metadata={"static": True}, **kwargs)  # pyright: ignore[reportCallIssue,reportArgumentType]


@runtime_checkable
class Resolvent(Protocol):
    """`(I − γP_π)⁻¹` of one policy, prepared once and applied to both sides."""

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        """`(I − γP_π)⁻¹ b`: expected discounted sum of `b` along the future of each state."""
        ...

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        """`bᵀ(I − γP_π)⁻¹`: expected discounted number of visits when mass `b` is let in."""
        ...

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, " S"] | None = None) -> Bool[Array, " S"]:
        """Which states have visits, decided on the support alone: exact, no rounding. `visits`, as solved for, may help."""
        ...


@runtime_checkable
class Dynamics(Protocol):
    """What the core asks of a world. Core functions never index a transition tensor.

    Four implementations satisfy one test suite: `Dense`, `Successors`, `Layered`, `Tree`.
    """

    @property
    def discount(self) -> Array | float:
        """`γ`; 1 for an episodic world."""
        ...

    @property
    def horizon(self) -> int | None:
        """`T` of an episodic world (compile-time), `None` when discounted."""
        ...

    def time(self) -> Int[Array, " S"]:
        """Time step of each state of an episodic world, zeros when discounted."""
        ...

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`E[v(s') | s, a]`; a state after the end of the episode counts zero."""
        ...

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """`Σ_{s,a} m(s,a) P(s'|s,a)`: the mass that arrives."""
        ...

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`max {v(s') : P(s'|s,a) > 0}`; a state after the end counts zero."""
        ...

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """A next state from one uniform number in [0, 1); −1 at the end of an episode, and from −1."""
        ...

    def resolvent(self, policy: Float[Array, "S A"]) -> Resolvent:
        """`(I − γP_π)⁻¹`, factorised once for values and for visits."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Team:
    """A team of agents in one world.

    Exactly one of `active` (turn-taking: ``[S]`` the one agent that acts at each state, −1 for a chance node that
    belongs to nobody) and `factors` (product team: number of actions of each agent, who all act at once) is given.
    """

    dynamics: Dynamics
    reward: Array  #: `r[s,a]`, [S, A], float64
    initial: Array  #: `ρ[s]`, [S], float64
    active: Array | None  #: `j(s)`, [S], integer
    agents: int = static_field()
    factors: tuple[int, ...] | None = static_field(default=None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stage:
    """One stage: each agent of `order` moves its own rows or factor from `current` to `target`.

    Policies are ``[S, A]`` for a turn-taking team and ``[n, S, max A_k]``, zero-padded, for a product team.
    """

    team: Team
    current: Array
    target: Array
    order: Array  #: [n], a permutation of the agents


class Hybrids(NamedTuple):
    """The policies `π̂⁰ … π̂ⁿ` of a stage and its n steps, protocol forgotten (P3.1)."""

    policies: Float[Array, "n+1 S A"]  #: `π̂ⁱ(a|s)`, joint actions in a product team
    steps: Float[Array, "n S A"]  #: `π̂ⁱ − π̂ⁱ⁻¹`, formed without cancellation
    kl_current_to_new: Float[Array, "n S"]  #: KL(π̂ⁱ⁻¹(·|s) ‖ π̂ⁱ(·|s)), that of the updated agent alone
    kl_new_to_current: Float[Array, "n S"]  #: KL(π̂ⁱ(·|s) ‖ π̂ⁱ⁻¹(·|s))
    tv: Float[Array, "n S"]  #: TV(π̂ⁱ(·|s), π̂ⁱ⁻¹(·|s))
    acts: Bool[Array, "n S"]  #: whether the updated agent acts at s


class Rounding(NamedTuple):
    """Bounds on rounding errors, absolute unless said otherwise (docs/rounding.md)."""

    relative: Float[Array, ""]  #: `η`, relative error of one solve
    fresh: Float[Array, " n"]  #: of the fresh gap
    stale: Float[Array, " n"]  #: of the stale gap
    cached: Float[Array, " n"]  #: of the cached gap
    reused: Float[Array, " n"]  #: of the reused gap
    drift: Float[Array, " n"]  #: of `L_i^seq − L_i^stale`
    shift: Float[Array, " n"]  #: of `m^{π̂ⁱ} − m^{π̂ⁱ⁻¹}` in the 1-norm
    closure: Float[
        Array, " n"
    ]  #: `γ Σ m |Σ_a (π̂ⁱ−π̂ⁱ⁻¹)|`: mass that appears because float rows do not sum to one exactly
    identity: Float[Array, " n"]  #: of `J(π̂ⁱ) − J(π̂ⁱ⁻¹) − Σ m^{π̂ⁱ} g_i`, formed by subtraction


class StageReport(NamedTuple):
    """Everything known exactly about a stage. Index `i` of an ``[n]`` list is update `i+1` of the order.

    Units: rewards of the team; probabilities in [0,1]; divergences in nats. `d` is `m/Σm`.
    """

    visits: Float[Array, "n+1 S"]  #: `m^{π̂ⁱ}`
    values: Float[Array, "n+1 S"]  #: `V^{π̂ⁱ}`
    objective: Float[Array, " n+1"]  #: `J(π̂ⁱ) = ρᵀV`
    conditional: Float[Array, "n S"]  #: `g_i(s) = Σ_a π̂ⁱ(a|s) A_{i−1}(s,a)`
    shift: Float[Array, "n S"]  #: `m^{π̂ⁱ} − m^{π̂ⁱ⁻¹}`, solved for, never subtracted
    surrogate_intermediate: Float[Array, " n"]  #: `L_i^seq = Σ m^{π̂ⁱ⁻¹} g_i`
    surrogate_stale: Float[Array, " n"]  #: `L_i^stale = Σ m^{π̂⁰} g_i`
    surrogate_cached: Float[Array, " n"]  #: `Σ m^{π̂⁰} Σ_a (π̂ⁱ−π̂ⁱ⁻¹) A_0`
    surrogate_reused: Float[Array, " n"]  #: `Σ m^{π̂⁰} Σ_a (π^{⟨i⟩}−π̂⁰) A_0`; equals cached when turn-taking
    gap_fresh: Float[Array, " n"]  #: `J(π̂ⁱ)−J(π̂ⁱ⁻¹) − L_i^seq`
    gap_stale: Float[Array, " n"]  #: the same minus `L_i^stale`
    gap_cached: Float[Array, " n"]  #: the same minus `L_i^cached`
    gap_reused: Float[Array, " n"]  #: the same minus the reused surrogate
    seq_minus_stale: Float[Array, " n"]  #: `L_i^seq − L_i^stale`, without cancellation
    kl: Float[Array, " n"]  #: `δ_i`: E_d KL(current‖new) under `π̂ⁱ⁻¹`; episodic: summed over the episode
    kl_stale: Float[Array, " n"]  #: `δ⁰_i`: the same under `π̂⁰`
    kl_reverse: Float[Array, " n"]  #: E_d KL(new‖current) under `π̂ⁱ⁻¹`, normalised like `kl`
    tv: Float[Array, " n"]  #: `E_{d^{π̂ⁱ⁻¹}} TV`
    tv_stale: Float[Array, " n"]  #: `E_{d^{π̂⁰}} TV`
    share: Float[Array, " n"]  #: `w_i = d^{π̂ⁱ⁻¹}(S_{σ(i)})`
    span_g: Float[Array, " n"]  #: `max g_i − min g_i` over all states
    advantage_max: Float[Array, " n"]  #: `max_{s,a} |A_{i−1}|`
    advantage_span: Float[Array, " n"]  #: `B_i = max_s span_a A_{i−1}(s,·)`
    occupancy_tv_fresh: Float[Array, " n"]  #: `TV(d^{π̂ⁱ}, d^{π̂ⁱ⁻¹})`
    occupancy_tv_stale: Float[Array, " n"]  #: `TV(d^{π̂ⁱ⁻¹}, d^{π̂⁰})`
    mass: Float[Array, ""]  #: `Σ m`: `1/(1−γ)`, or the length of the episode
    discount: Float[Array, ""]  #: `γ` (1 when episodic)
    reward_span: Float[Array, ""]  #: `span(r)`
    return_range: Float[Array, ""]  #: `ϱ`
    simultaneous: Bool[Array, ""]  #: whether several agents act at one state (a product team)
    even: Bool[Array, ""]  #: whether no episode can end before its last step; true when discounted
    later_turns: Float[Array, " n"]  #: `N⁺` of S4R: most own later turns, expected and discounted, after an own step
    return_floor: Float[Array, ""]  #: `ρᵀΦ`, the least that the return can be
    weighted_floor: Float[Array, " n"]  #: S9: `Σ m^{π̂ⁱ⁻¹} Σ_a k (Q_{i−1} − Φ)`, `Σ_a k = KL(current‖new)`
    weighted_ceiling: Float[Array, " n"]  #: S9: `Σ m^{π̂ⁱ⁻¹} Σ_a k (Ψ − Q_{i−1})`
    weighted_reused: Float[Array, " n"]  #: S9: `Σ m^{π̂⁰} Σ_a k (Q_0 − Φ)`, k of `π^{⟨i⟩}` against `π̂⁰`
    layer_kl: Float[Array, "n T"] | None  #: episodic: `κ_t = E_{d_t} KL(current‖new)` under `π̂ⁱ⁻¹`
    layer_kl_stale: Float[Array, "n T"] | None  #: episodic: `κ⁰_t`, the same under `π̂⁰`
    layer_tv: Float[Array, "n T"] | None  #: episodic: `E_{d_t} TV`
    layer_shift: Float[Array, "n T"] | None  #: episodic: `TV(d_t^{π̂ⁱ}, d_t^{π̂ⁱ⁻¹})`
    layer_share: Float[Array, "n T"] | None  #: episodic: `d_t^{π̂ⁱ⁻¹}(S_{σ(i)})`
    layer_span: (
        Float[Array, "n T"] | None
    )  #: episodic: `span(g_i)` over the states of the layer that some hybrid visits; with the end unless `even`
    layer_advantage_span: (
        Float[Array, "n T"] | None
    )  #: episodic: `max span_a A_{i−1}(s,·)` over the agent's states of the layer
    rounding: Rounding  #: what rounding may have done to the numbers above

    @property
    def agents(self) -> int:
        """`n`, the number of updates of the stage."""
        return self.gap_fresh.shape[-1]

    @property
    def improvement(self) -> Float[Array, ""]:
        """`J(π̂ⁿ) − J(π̂⁰) = Σ_i (L_i^seq + gap_i)` (T0), free of cancellation between objectives."""
        return (self.surrogate_intermediate + self.gap_fresh).sum(-1)

    @property
    def delta_stale(self) -> Float[Array, ""]:
        """`Δ_stale = Σ_i |L_i^seq − L_i^stale|`."""
        return abs(self.seq_minus_stale).sum(-1)

    @property
    def d_occ(self) -> Float[Array, ""]:
        """`D_occ = Σ_i TV(d^{π̂ⁱ⁻¹}, d^{π̂⁰})`."""
        return self.occupancy_tv_stale.sum(-1)

    @property
    def episodic(self) -> bool:
        """Whether the stage is episodic (no discount, a horizon) rather than discounted."""
        return self.layer_kl is not None


class Estimate(NamedTuple):
    """What the update of one agent knows: tables over `R` rows of the agent (rows that pad have weight 0)."""

    weight: Float[Array, " R"]  #: `ŵ(s)`, visits of the row, normalised as `δ` is: occupancy, or visits per episode
    advantage: Float[Array, "R A"]  #: `Â(s,a)`; a constant per row changes nothing
    positive: Float[Array, "R A"]  #: `Ê[1{s,a} Â⁺]`; exact: `w π A⁺`
    negative: Float[Array, "R A"]  #: `Ê[1{s,a} Â⁻]`; `positive − negative = ŵ π Â`
    value: Float[Array, "R A"]  #: `q = Q̂ − Φ ≥ 0`, `Φ` a floor of the return (S9)
    advantage_error: Float[Array, "R A"] | None = None
    """How far rounding may have put `advantage` off (docs/rounding.md), but for a constant per row. `None`: no more than the
    rounding of numbers of the size of `advantage` and `value`."""
    value_error: Float[Array, "R A"] | None = None  #: the same of `value`


class StepInfo(NamedTuple):
    """What a step did to one agent's table."""

    kl: Float[Array, ""]  #: `Σ_s ŵ KL(current‖new)`
    kl_new_to_current: Float[Array, ""]  #: `Σ_s ŵ KL(new‖current)`
    gain: Float[Array, ""]  #: `Σ_s ŵ Σ_a (new − current) Â`
    objective: Float[Array, ""]  #: what the step maximised, less its value at `current`; the gain unless it is clipped
    multiplier: Float[Array, ""]  #: `λ`; zero where the step has none
    memory: Float[Array, ""]  #: what the step wants back when it next updates this agent (PPO: its `β`)


Step = Callable[[Float[Array, "R A"], Estimate, Float[Array, ""]], tuple[Float[Array, "R A"], StepInfo]]
"""An update of one agent's rows: `(current, estimate, memory) → (new, info)`; pure, for `jit` and `vmap`."""


class UpdateRecord(NamedTuple):
    """One update of one agent, as the driver books it (schema 1, docs/records.md). Over a batch, arrays ``[N]``."""

    stage: int
    update: int  #: position in the order, from 0
    agent: Any
    resampled: Any  #: whether new rollouts were collected for this update
    surrogate: Any  #: surrogate gain on the rollouts in use, as the update maximised it
    kl: Any  #: `E_d KL(current‖new)` on the rollouts in use (episodic: summed over the episode)
    objective_before: Any = None  #: J of the team that the rollouts in use came from, where known
    rollouts: Any = 0  #: rollouts collected for this update
    source: Any = 0  #: number of the hybrid that wrote the rollouts in use
    path_kl: Any = 0.0  #: sum of `kl` over the updates since those rollouts, this one included
    info: Mapping[str, Any] = {}  #: further diagnostics of the update, by name
    exact: Mapping[str, Any] | None = None  #: what is known exactly about it, by name; `None` without tables
