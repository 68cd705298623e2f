"""One suite over four ways to know a transition: the protocol of `teamtr_jax.types.Dynamics`, and one team written many ways.

Every world is checked against the tensor `builders.table` that its fields spell out, so `vmap` over worlds is checked too.
"""

from dataclasses import replace
from functools import cache, partial

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import (
    as_stage,
    discounted_world,
    episodic_world,
    flat,
    four_ways,
    random_case,
    stack,
    stationary_ways,
    tree_case,
)

from teamtr_jax.divergences import (
    kl_current_to_new,
    kl_new_to_current,
    message_kl_current_to_new,
    message_probabilities,
    token_kl_current_to_new,
    total_variation,
)
from teamtr_jax.dynamics import Dense, Layered, Successors, Tree, after
from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.types import Dynamics, Resolvent, Team
from teamtr_jax.validation import InputError
from teamtr_jax.values import action_values, advantages, objective, optimal_values, return_range, values
from teamtr_jax.visits import hybrids, visits

COUNT, GAMMA = 6, 0.9


def _layered(rng, kind, stationary):
    worlds = [discounted_world(rng, 4, 2, 0.0) for _ in range(3)]
    kernel = worlds[0] if stationary else {"P": np.stack([w["P"] for w in worlds])}
    if kind == "dense":
        return Layered(Dense(jnp.asarray(kernel["P"]), None), 3, stationary)
    lists = [builders.successors(w, 5) for w in worlds]
    index, prob = (np.stack([np.asarray(getattr(w, key)) for w in lists]) for key in ("index", "prob"))
    index, prob = (index[0], prob[0]) if stationary else (index, prob)
    return Layered(Successors(jnp.asarray(index), jnp.asarray(prob), None), 3, stationary)


WORLDS = {
    "dense": lambda rng: builders.dense(discounted_world(rng, 6, 2, GAMMA, 0.8)),
    "successors": lambda rng: builders.successors(discounted_world(rng, 6, 2, GAMMA, 0.8), 7),
    "sparse": lambda rng: builders.successors(discounted_world(rng, 6, 2, GAMMA, 0.8), 7, lu_states=0),
    "dense-episodic": lambda rng: builders.dense(episodic_world(rng, 2, 2, 3)),
    "successors-episodic": lambda rng: builders.successors(episodic_world(rng, 2, 2, 3), 3),
    "layered-dense": lambda rng: _layered(rng, "dense", False),
    "layered-successors": lambda rng: _layered(rng, "successors", False),
    "layered-dense-stationary": lambda rng: _layered(rng, "dense", True),
    "layered-successors-stationary": lambda rng: _layered(rng, "successors", True),
    "tree": lambda rng: Tree(3, 3),
}


def probe(world, policy, v, flow, b):
    """Everything the protocol offers, in one program; visits chained after values as `after` asks."""
    resolvent = world.resolvent(policy)
    solved = resolvent.values(v)
    of_episodes = {} if world.horizon is None else {
        "variance": world.variance(v), "greatest_sum": world.greatest_sum(policy, jnp.stack([abs(v), jnp.ones_like(v)]))
    }  # fmt: skip
    return of_episodes | {
        "backward": world.backward(v),
        "forward": world.forward(flow),
        "greatest": world.greatest(v),
        "values": solved,
        "visits": resolvent.visits(after(b, solved)),
        "reached": resolvent.reached(b),
        "time": world.time(),
    }


@pytest.fixture(scope="module", params=sorted(WORLDS))
def probed(request):
    """``(worlds, inputs, outputs)`` of `COUNT` random worlds of one kind, evaluated under one `vmap`."""
    rng = np.random.default_rng(sorted(WORLDS).index(request.param))
    worlds = [WORLDS[request.param](rng) for _ in range(COUNT)]
    S, A, _ = builders.table(worlds[0]).shape
    inputs = {
        "policy": builders.rows(rng, COUNT, S, A, zeros=0.5),
        "v": rng.normal(size=(COUNT, S)),
        "flow": rng.random((COUNT, S, A)),
        "b": rng.random((COUNT, S)) * (rng.random((COUNT, S)) < 0.1),
    }
    inputs["b"][:, 0] = 1.0
    outputs = jax.jit(jax.vmap(probe))(stack(worlds), *map(jnp.asarray, inputs.values()))
    return worlds, inputs, jax.tree.map(np.asarray, outputs)


def close(x, y, scale=1.0):
    """Equal within 1e-12 of the scale: sums of at most a hundred rounded terms, and solves of condition ≤ 2/(1−γ) = 20."""
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * scale)


def each(probed):
    worlds, inputs, outputs = probed
    for k, world in enumerate(worlds):
        yield world, {key: x[k] for key, x in inputs.items()}, {key: x[k] for key, x in outputs.items()}


def induced(world, policy):
    """`I − γP_π` from the table."""
    P = builders.table(world)
    return np.eye(len(P)) - float(world.discount) * np.einsum("sa,sat->st", policy, P)


def test_is_a_dynamics(probed):
    """All four are `Dynamics`, and what they prepare is a `Resolvent`."""
    worlds, inputs, _ = probed
    assert isinstance(worlds[0], Dynamics)
    assert isinstance(worlds[0].resolvent(jnp.asarray(inputs["policy"][0])), Resolvent)


def test_backward_is_the_expectation(probed):
    """`backward(v)(s,a) = Σ P(s'|s,a) v(s')`."""
    for world, x, y in each(probed):
        close(y["backward"], builders.table(world) @ x["v"])


def test_forward_is_the_adjoint_of_backward(probed):
    """`⟨forward(m), v⟩ = ⟨m, backward(v)⟩`, and `forward` is what the table says."""
    for world, x, y in each(probed):
        close(y["forward"] @ x["v"], (x["flow"] * y["backward"]).sum())
        close(y["forward"], np.einsum("sa,sat->t", x["flow"], builders.table(world)))


def test_greatest_by_loops(probed):
    """`greatest(v)(s,a)` is the maximum over the support, 0 where nothing follows; negative maxima survive."""
    negative = False
    for world, x, y in each(probed):
        P = builders.table(world)
        for s, a in np.ndindex(*P.shape[:2]):
            best = max((x["v"][t] for t in range(len(P)) if P[s, a, t] > 0), default=0.0)
            negative |= best < 0
            assert y["greatest"][s, a] == best
    assert negative


def test_variance_and_greatest_sum_by_loops(probed):
    """`Var[v(s')|s,a]`; the greatest sum along the paths of positive probability, whose lengths are those of the episode."""
    for world, x, y in each(probed):
        if world.horizon is None:
            return
        P, clock = builders.table(world), y["time"]
        mean = P @ x["v"]
        close(y["variance"], np.einsum("sat,sat->sa", P, (x["v"] - mean[..., None]) ** 2))
        for found, cost in zip(y["greatest_sum"], (abs(x["v"]), np.ones(len(P))), strict=True):
            best = np.zeros(len(P))
            for s in np.argsort(-clock, kind="stable"):
                ahead = [best[t] for a in np.flatnonzero(x["policy"][s]) for t in np.flatnonzero(P[s, a])]
                best[s] = cost[s] + max(ahead, default=0.0)
            close(found, best)


def test_values_solve_the_bellman_equation(probed):
    """`(I − γP_π) V = b`."""
    for world, x, y in each(probed):
        close(induced(world, x["policy"]) @ y["values"], x["v"], abs(y["values"]).max())


def test_visits_are_the_adjoint_of_values(probed):
    """`⟨b, (I−γP)⁻¹v⟩ = ⟨visits(b), v⟩`, and `visits` solves the flow equation."""
    for world, x, y in each(probed):
        close(y["visits"] @ x["v"], x["b"] @ y["values"], abs(y["values"]).max() * x["b"].sum())
        close(induced(world, x["policy"]).T @ y["visits"], x["b"], y["visits"].max())


def test_reached_is_the_true_support(probed):
    """`reached` is the closure of the start under actions of positive probability, by graph search over the table."""
    missed = False
    for world, x, y in each(probed):
        P, known = builders.table(world), set(np.flatnonzero(x["b"]).tolist())
        frontier = set(known)
        while frontier:
            s = frontier.pop()
            nxt = {t for a in np.flatnonzero(x["policy"][s]) for t in np.flatnonzero(P[s, a]).tolist()} - known
            known, frontier = known | nxt, frontier | nxt
        assert set(np.flatnonzero(y["reached"]).tolist()) == known
        missed |= len(known) < len(P)
    assert missed  # the suite contains states that nobody reaches


def test_time_is_the_clock(probed):
    """Each step of an episodic world leads from `t` to `t+1`; a discounted world has no clock."""
    for world, _, y in each(probed):
        for s, _, t in np.argwhere(builders.table(world) > 0):
            assert y["time"][t] == (0 if world.horizon is None else y["time"][s] + 1)
        assert y["time"].max() == (0 if world.horizon is None else world.horizon - 1)


def dyadic(world, rng, bits=5):
    """The world with other probabilities, multiples of `2^−bits`, and some that end the episode if it has ends."""
    if isinstance(world, Tree):
        return world
    if isinstance(world, Layered):
        return replace(world, kernel=dyadic(world.kernel, rng, bits))
    name = "transition" if isinstance(world, Dense) else "prob"
    shape = np.asarray(getattr(world, name)).shape
    p = builders.rows(rng, *shape, zeros=0.4, bits=bits)
    if world.discount is None:
        return replace(world, **{name: jnp.asarray(p)})
    return replace(
        world, **{name: jnp.asarray(np.where(np.asarray(getattr(world, name)).any(-1, keepdims=True), p, 0))}
    )


@pytest.mark.parametrize("kind", sorted(WORLDS))
def test_draw_inverts_the_distribution_function(kind):
    """All multiples of `2^−bits` as uniforms: each next state comes up exactly as often as `forward` of a point mass says."""
    rng, bits = np.random.default_rng(20), 5
    world = dyadic(WORLDS[kind](rng), rng, bits)
    P = builders.table(world)
    S, A, _ = P.shape
    uniform = np.arange(2**bits) / 2**bits
    grid = [jnp.asarray(x) for x in np.meshgrid(np.arange(S), np.arange(A), uniform, indexing="ij")]
    flows = jnp.eye(S * A).reshape(S, A, S, A)

    @jax.jit
    def run(world, state, action, uniform):
        late = world.draw(state, action, jnp.nextafter(uniform + 2.0**-bits, 0))  # just before the next multiple
        return (
            world.draw(state, action, uniform),
            late,
            world.draw(state - S, action, uniform),
            jax.vmap(jax.vmap(world.forward))(flows),
        )

    drawn, late, ended, arrived = map(np.asarray, run(world, *grid))
    assert (drawn == late).all()  # the steps are where the sums are
    assert (ended == -1).all()  # nothing follows the end
    count = (drawn[..., None] == np.arange(S)).sum(2)
    assert (count == 2**bits * arrived).all()
    assert (count == 2**bits * P).all()
    assert ((drawn == -1).all(-1) == (P.sum(-1) == 0)).all()
    assert (drawn >= 0).any()


def test_draw_never_leaves_the_support():
    """XLA's running sums of many numbers are not monotone, and the last is not that of the last term; no zero is drawn."""
    rng, rows, K, tries = np.random.default_rng(21), 200, 2000, 8
    p = rng.random((rows, K)) * (rng.random((rows, K)) < 0.3) * 10.0 ** rng.uniform(-5, 0, (rows, K))
    p[0] = 0.0
    p[rows // 2 :, K // 2 :] = 0.0
    below = np.asarray(jax.jit(lambda x: jnp.cumsum(x, -1))(jnp.asarray(p)))
    top = np.maximum.accumulate(below, -1)
    jumps = (p[:, 1:] == 0) & (below[:, 1:] > top[:, :-1])
    assert jumps.any()  # or this test shows nothing
    where = np.argsort(~jumps, -1, kind="stable")[:, :tries]
    u = np.take_along_axis(top, where, -1) / np.where(below[:, -1:] > 0, below[:, -1:], 1.0)
    edge = np.nextafter(1, 0)
    u = np.concatenate([u, np.nextafter(u, 1), np.zeros((rows, 1)), np.full((rows, 1), edge)], -1).clip(0, edge)
    k = np.asarray(jax.jit(jax.vmap(inverse_cdf, in_axes=(None, 1), out_axes=1))(jnp.asarray(p), jnp.asarray(u)))
    assert (k[0] == -1).all()
    assert (np.take_along_axis(p, k, -1)[1:] > 0).all()
    assert (k[1:] >= 0).all()
    assert (k[1:] < K).all()


@pytest.mark.parametrize("lu_states", [1500, 0])
def test_unvisited_states_are_exactly_zero(lu_states):
    """A solve may leave dust where the truth is 0, and 0·∞ = 0 needs the truth: `visits` is exactly zero there."""

    @jax.jit
    def both(stage):
        m = visits(stage.team, stage.current)
        return m, stage.team.dynamics.resolvent(stage.current).visits(after(stage.team.initial, m))

    rng, dust, S = np.random.default_rng(5), 0, 12
    for _ in range(4):
        world = discounted_world(rng, S, 2, 0.99, 0.2)
        closed, rest = np.split(
            rng.permutation(S), 2
        )  # from `closed` nothing leads to `rest`, the other way round it does
        world["P"][np.ix_(closed, [0, 1], rest)] = 0.0
        world["P"][closed] /= world["P"][closed].sum(-1, keepdims=True)
        world["rho"][:] = np.eye(S)[closed[0]]
        stage = as_stage(builders.turn_taking(rng, world), builders.successors(world, S + 1, lu_states=lu_states))
        m, raw = map(np.asarray, both(stage))
        assert (m[rest] == 0).all()
        assert (m[closed] > 0).all()
        dust += int((raw[rest] != 0).sum())
    # Neither the dense nor the sparse solve exchanges rows, so its visits are sums of terms of one sign: zeros stay zeros.
    assert dust == 0


@pytest.mark.parametrize("kind", ["dense", "sparse", "layered"])
def test_a_state_reached_with_vanishing_probability_is_visited(kind):
    """A probability of 1e-200 twice over is less than any float: the solve says 0, but the state is reached and has visits."""
    P = np.zeros((4, 2, 4))
    P[:, :, 3] = 1.0
    for s in range(2):
        P[s, 1] = np.eye(4)[s + 1]
    policy = np.tile([1.0, 1e-200], (4, 1))  # a row that sums to one in floats
    initial = np.eye(4)[0]
    if kind == "layered":
        world = Layered(Dense(jnp.asarray(P), None), 3)
        policy, initial = np.tile(policy, (3, 1)), np.pad(initial, (0, 8))
    else:
        world = builders.successors({"P": P, "gamma": 0.5}, lu_states=1500 if kind == "dense" else 0)
    team = Team(world, jnp.zeros(policy.shape), jnp.asarray(initial), jnp.zeros(len(initial), int), 1)
    m = np.asarray(jax.jit(visits)(team, jnp.asarray(policy)))
    m = m.reshape(-1, 4).sum(0)
    assert 0 < m[2] < 1e-300
    assert m[1] == pytest.approx(1e-200 if kind == "layered" else 0.5e-200)


@pytest.mark.parametrize("lu_states", [1500, 0])
def test_no_discount_no_future(lu_states):
    """γ = 0: values are rewards, visits the start, and nothing else is reached."""
    rng = np.random.default_rng(6)
    world = discounted_world(rng, 5, 2, 0.0)
    b = np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    policy, flow = jnp.asarray(builders.rows(rng, 5, 2)), jnp.ones((5, 2))
    out = jax.jit(probe)(builders.successors(world, lu_states=lu_states), policy, jnp.asarray(b), flow, jnp.asarray(b))
    assert (np.asarray(out["values"]) == b).all()
    assert (np.asarray(out["visits"]) == b).all()
    assert (np.asarray(out["reached"]) == (b > 0)).all()


# ------------------------------------------------------------------------------------------ one team written many ways

PER_STATE = {"visits", "values", "conditional", "shift"}


def same_report(report, reference, place=None):
    """All fields of two reports (budgets apart) agree, per-state ones after embedding: 1e-11 of the field's scale.

    Each solve of a world of condition ≤ 2/(1−γ) errs by a few hundred units of rounding, and a report chains three.
    """
    reference = flat(reference)
    for name, x in flat(report).items():
        expected = reference[name]
        if expected is None:
            assert x is None
        if expected is None or name == "rounding":
            continue
        x, expected = np.asarray(x), np.asarray(expected)
        if name in PER_STATE and place is not None:
            rest = np.delete(x, place, -1)
            x = x[..., place]
            if name != "values":
                assert (rest == 0).all(), name
        scale = max(1.0, abs(expected[np.isfinite(expected)]).max(initial=0.0))
        np.testing.assert_allclose(x, expected, rtol=1e-11, atol=1e-11 * scale, err_msg=name)


@pytest.fixture(scope="module")
def written():
    """A team on a tree of prefixes, written as Tree, Dense, Successors and padded Layered."""
    ways = four_ways(tree_case(np.random.default_rng(10), 2, 3))

    @cache
    def report(name):
        return evaluate_stage(ways[name][0])

    return report, {name: place for name, (_, place) in ways.items()}


LISTED = pytest.param("layered-successors", marks=pytest.mark.slow)
"""Layers do not look into their kernel: the lists of one are `successors`, and `probed` above."""


@pytest.mark.parametrize("way", ["dense", "successors", "layered-dense", LISTED])
def test_one_episodic_team_written_four_ways(written, way):
    """The same team gives the same report, whichever way its transition is known (contexts that pad a layer do nothing)."""
    report, place = written
    same_report(report(way), report("tree"), place[way])


@pytest.mark.parametrize("way", ["layered-dense", LISTED])
def test_one_kernel_for_every_step(way):
    """A stationary `Layered` world equals the same kernel unrolled over time."""
    ways = stationary_ways(np.random.default_rng(11))
    same_report(evaluate_stage(ways[way]), evaluate_stage(ways["dense"]))


@pytest.mark.parametrize("way", ["successors", "sparse"])
def test_one_discounted_team_written_three_ways(way):
    """Dense, Successors by LU and Successors by sparse LU give the same report."""
    ways = builders.discounted_ways(random_case(np.random.default_rng(12), "discounted", "turn-taking", 0.3, gamma=0.9))
    same_report(evaluate_stage(ways[way]), evaluate_stage(ways["dense"]))


@pytest.mark.parametrize("gamma", [0.5, 0.999])
def test_sparse_solves_on_long_cycles(gamma):
    """A deterministic cycle of 300 states (spectrum on the whole circle): V and m against their closed forms."""
    S = 300
    world = Successors((jnp.arange(S)[:, None, None] + 1) % S, jnp.ones((S, 1, 1)), jnp.asarray(gamma), lu_states=0)
    b = jnp.zeros(S).at[0].set(1.0)
    out = jax.jit(probe)(world, jnp.ones((S, 1)), b, jnp.ones((S, 1)), b)
    to_0 = (-np.arange(S)) % S  # steps to state 0
    close(np.asarray(out["values"]), gamma**to_0 / (1 - gamma**S), 1 / (1 - gamma))
    close(np.asarray(out["visits"]), gamma ** np.arange(S) / (1 - gamma**S), 1 / (1 - gamma))


# -------------------------------------------------------------------------------------------------------- what is refused


def _entries():
    """Public functions of the exact core with one float32 array each, and the name that the error must carry."""
    rng = np.random.default_rng(13)
    case = random_case(rng, "discounted", "turn-taking", gamma=0.9)
    stage, tree = as_stage(case), Tree(2, 2)
    team, policy = stage.team, stage.current
    f32 = partial(jnp.asarray, dtype=jnp.float32)
    poor = replace(team, reward=f32(team.reward))
    tokens = jnp.full((3, 2), 0.5)
    listed = builders.successors(case.world)
    layered = Layered(Dense(team.dynamics.transition, None), 2)
    wide = jnp.concatenate([policy, policy])
    return {
        "stage current": ("current", lambda: evaluate_stage(replace(stage, current=f32(policy)))),
        "stage target": ("target", lambda: stage_report(replace(stage, target=f32(policy)))),
        "stage reward": ("reward", lambda: evaluate_stage(replace(stage, team=poor))),
        "stage initial": (
            "initial",
            lambda: evaluate_stage(replace(stage, team=replace(team, initial=f32(team.initial)))),
        ),
        "hybrids": ("current", lambda: hybrids(replace(stage, current=f32(policy)))),
        "visits": ("policy", lambda: visits(team, f32(policy))),
        "values": ("policy", lambda: values(team, f32(policy))),
        "values reward": ("reward", lambda: values(poor, policy)),
        "objective": ("policy", lambda: objective(team, f32(policy))),
        "action_values": ("v", lambda: action_values(team, f32(team.initial))),
        "advantages": ("v", lambda: advantages(team, f32(team.initial))),
        "optimal_values": ("reward", lambda: optimal_values(poor)),
        "return_range": ("reward", lambda: return_range(poor)),
        "total_variation": ("q", lambda: total_variation(policy, f32(policy))),
        "kl_current_to_new": ("new", lambda: kl_current_to_new(policy, f32(policy))),
        "kl_new_to_current": ("new", lambda: kl_new_to_current(f32(policy), policy)),
        "message_probabilities": ("token_policy", lambda: message_probabilities(tree, f32(tokens))),
        "message_kl": ("token_policy", lambda: message_kl_current_to_new(tree, tokens, f32(tokens))),
        "token_kl": ("token_policy", lambda: token_kl_current_to_new(tree, tokens, f32(tokens))),
        "dense": ("policy", lambda: team.dynamics.resolvent(f32(policy))),
        "dense table": (
            "transition",
            lambda: Dense(f32(team.dynamics.transition), team.dynamics.discount).resolvent(policy),
        ),
        "dense discount": (
            "discount",
            lambda: Dense(team.dynamics.transition, f32(0.9)).resolvent(policy),
        ),
        "successors": ("policy", lambda: listed.resolvent(f32(policy))),
        "successors table": (
            "successor_prob",
            lambda: replace(listed, prob=f32(listed.prob)).resolvent(policy),
        ),
        "successors discount": (
            "discount",
            lambda: replace(listed, discount=f32(0.9)).resolvent(policy),
        ),
        "layered": ("policy", lambda: layered.resolvent(f32(wide))),
        "layered table": (
            "transition",
            lambda: Layered(Dense(f32(team.dynamics.transition), None), 2).resolvent(wide),
        ),
        "layered list": (
            "successor_prob",
            lambda: Layered(replace(listed, prob=f32(listed.prob)), 2).resolvent(wide),
        ),
        "tree": ("policy", lambda: tree.resolvent(f32(tokens))),
    }


@pytest.mark.parametrize("entry", sorted(_entries()))
def test_float32_is_refused_by_name(entry):
    """Every public entry of the exact core refuses float32, names the argument and says what to do."""
    name, call = _entries()[entry]
    with pytest.raises(InputError, match=rf"^{name}: found dtype float32, expected float64 \(call jax.config.update"):
        call()


@pytest.mark.parametrize("entry", ["evaluate_stage", "visits", "objective"])
def test_x64_off_is_refused(entry):
    """Outside the x64 setting a float64 array becomes float32 in `x + 1`: refused, although its dtype is float64."""
    stage = as_stage(random_case(np.random.default_rng(13), "discounted", "turn-taking", gamma=0.9))
    call = {
        "evaluate_stage": lambda: evaluate_stage(stage),
        "visits": lambda: visits(stage.team, stage.current),
        "objective": lambda: objective(stage.team, stage.current),
    }[entry]
    with jax.enable_x64(False), pytest.raises(InputError, match=r"found float64 with jax_enable_x64 off, expected"):
        call()


def test_a_kernel_alone_has_no_discount():
    """The kernel of a `Layered` world cannot be solved by itself."""
    world = discounted_world(np.random.default_rng(14), 3, 2, 0.5)
    listed = builders.successors(world)
    for kernel in (Dense(jnp.asarray(world["P"]), None), Successors(listed.index, listed.prob, None)):
        with pytest.raises(
            InputError, match=r"^discount: found None, expected a discount, unless the world is the kernel"
        ):
            kernel.resolvent(jnp.full((3, 2), 0.5))


def test_the_largest_trees():
    """2³¹ messages: 31 steps of two symbols, 19 of three."""
    assert (Tree(2, 31).states, Tree(3, 19).states) == (2**31 - 1, (3**19 - 1) // 2)
    for symbols, most in ((2, 31), (3, 19)):
        with pytest.raises(
            InputError, match=f"steps of {symbols} symbols, expected at most {most} steps: 2³¹ messages"
        ):
            Tree(symbols, most + 1)


def test_trees_have_symbols_and_steps():
    """A tree needs two symbols and one step."""
    with pytest.raises(InputError, match=r"^branching: found 1, expected at least 2 symbols$"):
        Tree(1, 3)
    with pytest.raises(InputError, match=r"^horizon: found 0, expected at least 1 step$"):
        Tree(2, 0)
    assert Tree(4, 8).states == 21845
