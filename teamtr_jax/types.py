"""Bundles of arrays and their shapes: the world protocol, `Team`, `Stage`, and what is known about a stage.

Symbols in shapes: ``S`` states (for an episodic team the flattened time-indexed states), ``A`` actions (for a product
team the joint actions, C order), ``n`` agents, ``T`` time steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from teamtr_jax.validation import InputError, concrete, finite, integers, permutation, probability_rows, whole_number

__all__ = [
    "Bundle",
    "World",
    "pytree",
    "verified",
    "Dynamics",
    "Resolvent",
    "Counts",
    "Team",
    "PaddedTeam",
    "Stage",
    "Hybrids",
    "Rounding",
    "Layers",
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


class Bundle:
    """Base of the frozen dataclasses of arrays whose values are checked when they are made by hand.

    That is by the constructor or by ``dataclasses.replace``. jax takes a bundle apart and puts it together without that
    (`pytree`): it may then hold tracers, place-holders, gradients or differences. What is traced is not looked at, and inside
    `teamtr_jax.validation.unchecked` no value is. Leading axes in front of those that a field has are a batch.
    """

    def __post_init__(self) -> None:
        verified(self)

    def verify(self) -> None:
        """Refuse shapes that do not fit and values that are out of range.

        Raises:
          InputError: names the field.
        """
        raise NotImplementedError

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading axes of a batch; ``()`` for one of its kind."""
        raise NotImplementedError


class World(Bundle):
    """Base of the four implementations of `Dynamics`."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of states and of actions."""
        raise NotImplementedError

    def greatest_sum(self: Any, policy: Float[Array, "S A"], x: Float[Array, "k S"]) -> Float[Array, "k S"]:
        """See `Dynamics.greatest_sum`: `T` sweeps over all states. A world that knows an order of its states does with one."""
        allowed = policy > 0

        def sweep(_: Any, v: Array) -> Array:
            return x + jnp.where(allowed, jax.vmap(self.greatest)(v), 0.0).max(-1)

        return lax.fori_loop(0, self.horizon, sweep, jnp.zeros_like(x))

    def verify_steps(self) -> None:
        """Refuse an episodic world in which a successor is not one step later, or a discount is ignored: a `Team` needs both.

        Raises:
          InputError: names the state, the action and both steps; or the discount.
        """


AnyBundle = TypeVar("AnyBundle", bound=Bundle)


def pytree(cls: type[AnyBundle]) -> type[AnyBundle]:
    """Class decorator: a dataclass as a pytree that jax puts together without the constructor, hence without its checks."""
    static = tuple(f.name for f in fields(cls) if f.metadata.get("static"))  # pyright: ignore[reportArgumentType]
    data = tuple(f.name for f in fields(cls) if f.name not in static)  # pyright: ignore[reportArgumentType]
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def flatten(bundle):
        return tuple(getattr(bundle, name) for name in data), tuple(getattr(bundle, name) for name in static)

    def flatten_with_keys(bundle):
        leaves, about = flatten(bundle)
        return tuple(zip(keys, leaves, strict=True)), about

    def unflatten(about, leaves):
        bundle = object.__new__(cls)
        vars(bundle).update(zip((*data, *static), (*leaves, *about), strict=True))
        return bundle

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def verified(bundle: AnyBundle) -> AnyBundle:
    """`bundle`, its values checked if that was not done before. jax arrays cannot change, so once is enough for them."""
    if "_verified" not in vars(bundle):
        bundle.verify()
        if all(isinstance(x, Array) and concrete(x) is not None for x in jax.tree.leaves(bundle)):
            object.__setattr__(bundle, "_verified", True)
    return bundle


def axes(name: str, array: object, rank: int) -> tuple[int, ...] | None:
    """The shape of a field that needs `rank` axes or more; `None` for what is no array (a place-holder of jax)."""
    if isinstance(array, list | tuple | str):
        raise InputError(name, f"a {type(array).__name__}", "an array")
    shape = getattr(array, "shape", None)
    if shape is not None and len(shape) < rank:
        raise InputError(name, f"shape {list(shape)}", f"an array of {rank} axes, or of more for a batch")
    return shape


def lead(array: object, rank: int) -> tuple[int, ...]:
    """The axes of an array in front of its last `rank`."""
    shape = getattr(array, "shape", ())
    return tuple(shape[: len(shape) - rank]) if len(shape) > rank else ()


def same(name: str, found: Iterable[int], expected: Iterable[int], what: str) -> None:
    """Refuse axes that are not the expected ones, which are those of `what`."""
    if tuple(found) != tuple(expected):
        raise InputError(name, f"axes {list(found)}", f"{list(expected)}, {what}")


def one_batch(batches: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The leading axes that all fields which have any share."""
    found = {name: batch for name, batch in batches.items() if batch}
    if len(set(found.values())) > 1:
        text = ", ".join(f"{name} {list(batch)}" for name, batch in found.items())
        raise InputError(" and ".join(found), f"leading axes {text}", "the same leading axes in all of them, or none")
    return next(iter(found.values()), ())


def floats(array: object) -> NDArray[np.float64] | None:
    """The values of a float64 array or a number; `None` where there are none, or of another dtype (`require_float64`)."""
    values = np.asarray(array) if type(array) in (int, float) else concrete(array)
    if values is not None and type(array) is int:
        values = values.astype(np.float64)
    return values if values is not None and values.dtype == np.float64 else None


def ints(name: str, array: object, low: int, high: int) -> NDArray[np.int64] | None:
    """The values of an array of integers in ``[low, high)``; `None` where there are none."""
    dtype = getattr(array, "dtype", np.dtype(np.int64))
    if not np.issubdtype(dtype, np.integer):
        raise InputError(name, f"dtype {dtype}", "an integer dtype")
    values = concrete(array)
    return None if values is None else integers(name, values, low, high)


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

    def variance(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Var[v(s') | s, a]`, a sum of squares; zero where the episode ends. Asked of episodic worlds only."""
        ...

    def greatest_sum(self, policy: Float[Array, "S A"], x: Float[Array, "k S"]) -> Float[Array, "k S"]:
        """Greatest sum of `x ≥ 0` along a path from each state that has positive probability under the policy.

        `v(s) = x(s) + max {v(s') : π(a|s) > 0, P(s'|s,a) > 0}`. Asked of episodic worlds only.
        """
        ...

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """A next state from one uniform number in [0, 1); −1 at the end of an episode, and from −1."""
        ...

    def resolvent(self, policy: Float[Array, "S A"]) -> Resolvent:
        """`(I − γP_π)⁻¹`, factorised once for values and for visits."""
        ...


class Counts(NamedTuple):
    """How many there are of each; in a padded team arrays, of which rounding budgets are made."""

    states: Any
    actions: Any
    agents: Any
    steps: Any  #: `T` of an episodic team, 0 when discounted


@pytree
@dataclass(frozen=True)
class Team(Bundle):
    """A team of agents in one world.

    Exactly one of `active` (turn-taking: ``[S]`` the one agent that acts at each state, −1 for a chance node that
    belongs to nobody) and `factors` (product team: number of actions of each agent, who all act at once) is given.

    With `observation` an agent sees part of the state, and its rows are tied: states of one agent at which it sees the same share
    one row (a Dec-POMDP; U4). Then every policy of the team has equal rows there.

    Raises:
      InputError: a field whose shape does not fit, a reward that is not finite, a start that is no probability, an agent
        that is not in the team, an observation outside ``0 … S−1``.
    """

    dynamics: Dynamics
    reward: Array  #: `r[s,a]`, [S, A], float64
    initial: Array  #: `ρ[s]`, [S], float64
    active: Array | None  #: `j(s)`, [S], integer
    agents: int = static_field()
    factors: tuple[int, ...] | None = static_field(default=None)
    observation: Array | None = None
    """`o(s)`, what the agent that acts at s sees, [S]; product team: what each agent sees, [n, S]; labels from 0 to S−1. `None`:
    all states are told apart."""

    def verify(self) -> None:
        whole_number("agents", self.agents, 1)
        if (self.active is None) == (self.factors is None):
            found = "neither" if self.active is None else "both"
            raise InputError("active, factors", found, "exactly one of the two: turn-taking or a product team")
        reward, initial, active = (
            axes(name, getattr(self, name), rank) for name, rank in (("reward", 2), ("initial", 1), ("active", 1))
        )
        if isinstance(self.dynamics, World):
            world = verified(self.dynamics)
            world.verify_steps()
            if reward:
                same("reward", reward[-2:], world.sizes, "states and actions of the dynamics")
        if reward:
            if initial:
                same("initial", initial[-1:], reward[-2:-1], "the states of reward")
            if active:
                same("active", active[-1:], reward[-2:-1], "the states of reward")
        if self.factors is not None:
            _factors(self.factors, self.agents, reward[-1] if reward else None)
        _ = self.batch
        if (values := floats(self.reward)) is not None:
            finite("reward", values)
        if (values := floats(self.initial)) is not None:
            probability_rows("initial", values)
        if self.active is not None:
            ints("active", self.active, -1, self.agents)
        if self.observation is not None:
            self._verify_observation(reward)

    def _verify_observation(self, reward: tuple[int, ...] | None) -> None:
        rank = 1 if self.factors is None else 2
        found = axes("observation", self.observation, rank)
        if reward and found:
            states, what = reward[-2], "the states of reward" if rank == 1 else "the agents and the states of reward"
            same("observation", found[-rank:], (self.agents, states)[-rank:], what)
            ints("observation", self.observation, 0, states)

    @property
    def batch(self) -> tuple[int, ...]:
        world = self.dynamics.batch if isinstance(self.dynamics, World) else ()
        own = {"reward": lead(self.reward, 2), "initial": lead(self.initial, 1), "active": lead(self.active, 1)}
        seen = lead(self.observation, 1 if self.factors is None else 2)
        return one_batch({"dynamics": world, **own, "observation": seen})

    @property
    def counts(self) -> Counts:
        """How many states, actions, agents and steps it has, padding apart."""
        states, actions = self.reward.shape[-2:]
        return Counts(states, actions, self.agents, self.dynamics.horizon or 0)


@pytree
@dataclass(frozen=True)
class PaddedTeam(Team):
    """A team made larger by what changes no number, so that it shares a program with others (`teamtr_jax.padded`)."""

    real: Array = field(kw_only=True)  #: [4], its `Counts`
    which: Array | None = field(kw_only=True)
    """Product teams, whose `factors` say nothing here: the action of each agent in each joint action, [n, A]"""

    def verify(self) -> None:
        """What is padded was checked before."""

    @property
    def counts(self) -> Counts:
        return Counts(*self.real)


def _factors(factors: object, agents: int, actions: int | None) -> None:
    if not isinstance(factors, tuple):
        raise InputError("factors", f"a {type(factors).__name__}", "a tuple of numbers of actions")
    for size in factors:
        whole_number("factors", size, 1)
    if len(factors) != agents:
        raise InputError("factors", f"{len(factors)} numbers", f"one for each of the {agents} agents")
    if actions is not None and math.prod(factors) != actions:
        found = f"{list(factors)} with product {math.prod(factors)}"
        raise InputError("factors", found, f"a product of {actions}, the actions of reward")


@pytree
@dataclass(frozen=True)
class Stage(Bundle):
    """One stage: each agent of `order` moves its own rows or factor from `current` to `target`.

    Policies are ``[S, A]`` for a turn-taking team and ``[n, S, max A_k]``, zero-padded, for a product team.

    Raises:
      InputError: a policy of another shape, or whose rows are no probabilities; an order that is no permutation.
    """

    team: Team
    current: Array
    target: Array
    order: Array  #: [n], a permutation of the agents

    def verify(self) -> None:
        team = verified(self.team)
        require_policy(team, batched=True, current=self.current, target=self.target)
        order = axes("order", self.order, 1)
        _ = self.batch
        if order is None:
            return
        if order[-1] != team.agents:
            raise InputError("order", f"{order[-1]} agents", f"a permutation of 0 … {team.agents - 1}")
        if (values := ints("order", self.order, -(2**62), 2**62)) is not None:
            for row in values.reshape(-1, team.agents)[(np.sort(values) != np.arange(team.agents)).any(-1).ravel()]:
                permutation("order", row, team.agents)

    @property
    def batch(self) -> tuple[int, ...]:
        rank = 2 if self.team.factors is None else 3
        own = {name: lead(getattr(self, name), rank) for name in ("current", "target")}
        return one_batch({"team": self.team.batch, **own, "order": lead(self.order, 1)})


def require_policy(team: Team, batched: bool = False, **policies: object) -> None:
    """Refuse tables that are no policies of the team: ``[S, A]``, or zero-padded factors ``[n, S, max A_k]``.

    Args:
      batched: whether leading axes are allowed.

    Raises:
      InputError: names the policy.
    """
    states, actions = team.reward.shape[-2:]
    factors = team.factors
    shape = (states, actions) if factors is None else (team.agents, states, max(factors))
    for name, policy in policies.items():
        found = axes(name, policy, len(shape))
        if found is None:
            continue
        if (found[-len(shape) :] if batched else found) != shape:
            what = "states and actions" if factors is None else "agents, states and the most actions of an agent"
            raise InputError(name, f"shape {list(found)}", f"shape {list(shape)}, {what} of the team")
        values = floats(policy)
        if values is None:
            continue
        probability_rows(name, values)
        for k, size in enumerate(factors or ()):
            if (extra := values[..., k, :, size:]).any():
                found = f"{extra[extra != 0].flat[0]} beyond the {size} actions of agent {k}"
                raise InputError(name, found, "zeros there")
        _require_ties(team, name, values)


def _require_ties(team: Team, name: str, values: NDArray[np.float64]) -> None:
    """Refuse different rows at states that an agent cannot tell apart. `values` [..., S, A], product team [..., n, S, A]."""
    label, active = concrete(team.observation), concrete(team.active)
    if label is None or (team.factors is None and active is None):
        return
    if active is not None:
        label = np.where(active < 0, -1, active * label.shape[-1] + label)
    label = np.broadcast_to(label, values.shape[:-1])
    order = np.argsort(label, axis=-1, kind="stable")
    seen, rows = np.take_along_axis(label, order, -1), np.take_along_axis(values, order[..., None], -2)
    apart = (rows[..., 1:, :] != rows[..., :-1, :]).any(-1) & (seen[..., 1:] == seen[..., :-1]) & (seen[..., 1:] >= 0)
    if apart.any():
        *lead_, place = np.argwhere(apart)[0]
        first, second = (int(order[(*lead_, place + k)]) for k in (0, 1))
        found = f"different rows at states {first} and {second}"
        raise InputError(name, found, "one row for both: the agent sees the same there (observation)")


def require_joint(team: Team, **policies: object) -> None:
    """Refuse tables that are no policies ``[S, A]`` over the joint actions.

    Raises:
      InputError: names the policy.
    """
    for name, policy in policies.items():
        found = axes(name, policy, 2)
        if found is not None:
            if found != team.reward.shape[-2:]:
                raise InputError(name, f"shape {list(found)}", f"shape {list(team.reward.shape[-2:])}, that of reward")
            if (values := floats(policy)) is not None:
                probability_rows(name, values)


def require_table(shape: tuple[int, ...], **tables: object) -> None:
    """Refuse arrays of another shape, and numbers that are not finite.

    Raises:
      InputError: names the array.
    """
    for name, table in tables.items():
        found = axes(name, table, len(shape))
        if found is not None:
            if found != shape:
                raise InputError(name, f"shape {list(found)}", f"shape {list(shape)}")
            if (values := floats(table)) is not None:
                finite(name, values)


def require_one(bundle: Bundle, name: str) -> None:
    """Refuse a batch where one is meant, and values that are wrong.

    Raises:
      InputError: names the bundle or the field.
    """
    if verified(bundle).batch:
        found = f"arrays with leading axes {list(bundle.batch)}"
        raise InputError(name, found, f"one {name}; jax.vmap takes a batch of them")


def require_agent(team: Team, agent: object, name: str = "agent") -> None:
    """Refuse an agent that is not in the team.

    Raises:
      InputError: names the agent.
    """
    if isinstance(agent, int | float) or not hasattr(agent, "shape"):
        whole_number(name, agent, 0, team.agents - 1)
    else:
        ints(name, agent, 0, team.agents)


class Hybrids(NamedTuple):
    """The policies `π̂⁰ … π̂ⁿ` of a stage and its n steps, protocol forgotten (P3.1)."""

    policies: Float[Array, "n+1 S A"]  #: `π̂ⁱ(a|s)`, joint actions in a product team
    steps: Float[Array, "n S A"]  #: `π̂ⁱ − π̂ⁱ⁻¹`, formed without cancellation
    kl_current_to_new: Float[Array, "n S"]  #: KL(π̂ⁱ⁻¹(·|s) ‖ π̂ⁱ(·|s)), that of the updated agents alone
    kl_new_to_current: Float[Array, "n S"]  #: KL(π̂ⁱ(·|s) ‖ π̂ⁱ⁻¹(·|s))
    tv: Float[Array, "n S"]  #: TV(π̂ⁱ(·|s), π̂ⁱ⁻¹(·|s))
    acts: Bool[Array, "n S"]  #: whether an updated agent acts at s


class Rounding(NamedTuple):
    """Bounds on rounding errors, absolute unless said otherwise (docs/rounding.md)."""

    relative: Float[Array, ""]  #: `η`, relative error of one solve
    surrogate: Float[Array, " n"]  #: of `L_i^seq` and of `L_i^stale`
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


class Layers(NamedTuple):
    """What is known exactly about an episodic stage only, update by update: at each time step t, and along whole episodes (S10).

    "Along a path" is the greatest sum along an episode that has positive probability under the policy that is named; infinite
    where an action is taken up that this policy never takes.
    """

    kl: Float[Array, "n T"]  #: `κ_t = E_{d_t} KL(current‖new)` under `π̂ⁱ⁻¹`
    kl_stale: Float[Array, "n T"]  #: `κ⁰_t`, the same under `π̂⁰`
    tv: Float[Array, "n T"]  #: `E_{d_t} TV`
    shift: Float[Array, "n T"]  #: `TV(d_t^{π̂ⁱ}, d_t^{π̂ⁱ⁻¹})`
    share: Float[Array, "n T"]  #: `d_t^{π̂ⁱ⁻¹}(S_{σ(i)})`
    span: Float[Array, "n T"]
    """`span(g_i)` over the states of the step that some hybrid visits; with the end unless `even`"""
    advantage_span: Float[Array, "n T"]  #: `max span_a A_{i−1}(s,·)` over the agent's states of the step
    speaks: Bool[Array, "n T"]  #: whether the agent has a state at the step, visited or not
    return_deviation: Float[Array, " n"]  #: standard deviation of the episode's return under `π̂ⁱ⁻¹`
    chi_square: Float[Array, " n"]  #: of `χ²(π̂ⁱ‖π̂ⁱ⁻¹)` along a path of `π̂ⁱ⁻¹`
    chi_square_reused: Float[Array, " n"]  #: of `Σ_{k≤i} χ²(π^{⟨k⟩}‖π̂⁰)` along a path of `π̂⁰`
    chi_square_reused_own: Float[Array, " n"]  #: of `χ²(π^{⟨i⟩}‖π̂⁰)` along a path of `π̂⁰`
    chi_square_cached: Float[Array, " n"]  #: of `Σ_{k≤i} Σ_a (π̂ᵏ−π̂ᵏ⁻¹)²/π̂⁰ = χ²(π̂ⁱ‖π̂⁰)` along a path of `π̂⁰`
    chi_square_cached_own: Float[Array, " n"]  #: of `Σ_a (π̂ⁱ−π̂ⁱ⁻¹)²/π̂⁰` along a path of `π̂⁰`


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
    layers: Layers | None  #: the steps of an episodic stage; `None` when discounted
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
        return self.layers is not None


SIGNED = ("values", "objective", "conditional", "shift", "surrogate_intermediate", "surrogate_stale", "surrogate_cached",
          "surrogate_reused", "gap_fresh", "gap_stale", "gap_cached", "gap_reused", "seq_minus_stale",
          "return_floor")  # fmt: skip
"""Fields of a report that may be negative: rewards, and differences. No other one may, and none of its `layers`."""


def _wrong(place: str, values: Any) -> Any:
    """Where a field of a report holds what it cannot: NaN, or a negative number where none may be."""
    return (values != values) | ((values < 0) & (place not in SIGNED))


def _fields(report: StageReport) -> dict[str, Any]:
    layers = {} if report.layers is None else report.layers._asdict()
    return report._asdict() | {f"layers.{name}": x for name, x in layers.items()}


def wrong_fields(report: StageReport) -> dict[str, Bool[Array, ""]]:
    """Which fields `require_report` refuses, for use inside a program."""
    numbers = {name: x for name, x in _fields(report).items() if getattr(x, "dtype", None) == np.float64}
    return {name: _wrong(name, x).any() for name, x in numbers.items()}


def require_report(report: StageReport) -> None:
    """Refuse a report with NaN, or with a number below zero that is no reward and no difference (`SIGNED`).

    Raises:
      InputError: names the field.
    """
    for place, field_ in _fields(report).items():
        values = floats(field_)
        if values is None:
            continue
        if (bad := _wrong(place, values)).any():
            expected = "numbers" if place in SIGNED else "numbers ≥ 0"
            where = [int(i) for i in np.argwhere(bad)[0]]
            raise InputError(
                f"report.{place}", f"{values[bad][0]} at {where}", f"{expected} (the report of a checked stage)"
            )


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
    """One update, of an agent or of sharers, as the driver books it (schema 1, docs/records.md); over a batch arrays ``[N]``."""

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
    moved: Any = (
        None  #: ``[..., n]`` which agents it moved: the sharers of the agent's parameters; `None`: the agent alone
    )
    credited: Any = None  #: the same of the agents whose messages its surrogate is made of
