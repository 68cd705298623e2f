"""First-order agreement: at the current policy the gradient of J is the gradient of the surrogate, in every kind of world."""

from dataclasses import replace

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import as_stage, four_ways, random_case, tree_case

from teamtr_jax.surrogates import stage_report
from teamtr_jax.values import advantages, objective, values
from teamtr_jax.visits import visits


def _worlds():
    rng = np.random.default_rng(0)
    ways = builders.discounted_ways(random_case(rng, "discounted", "turn-taking", gamma=0.9))
    episodic = {name: stage for name, (stage, _) in four_ways(tree_case(rng, 2, 3)).items()}
    return {**{f"{name}-discounted": stage for name, stage in ways.items()}, **episodic}


WORLDS = _worlds()


def probe(stage, step):
    """Gradients of J in the policy (as table, as logits, in the rewards and the start), and its own finite differences."""
    team, policy = stage.team, 0.5 * stage.current + 0.5 / stage.current.shape[1]
    logits = jnp.log(policy)
    m, v = visits(team, policy), values(team, policy)
    a = advantages(team, v)

    def surrogate(logits):
        return (m[:, None] * jax.nn.softmax(logits) * a).sum()

    def j(logits):
        return objective(team, jax.nn.softmax(logits))

    def along(t):
        return objective(team, policy + t * step)

    h = 1e-3  # a five-point stencil: error h⁴·J⁽⁵⁾/30 ~ 1e-13 of steps of size 1/10, rounding u·J/h ~ 1e-12
    differences = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    table, reward, initial = jax.grad(
        lambda p, r, b: objective(replace(team, reward=r, initial=b), p), argnums=(0, 1, 2)
    )(policy, team.reward, team.initial)
    return {
        "m": m, "v": v, "q": a + v[:, None], "policy": policy, "logits": jax.grad(j)(logits),
        "surrogate": jax.grad(surrogate)(logits), "table": table, "reward": reward, "initial": initial,
        "differences": differences,
    }  # fmt: skip


@pytest.fixture(scope="module", params=sorted(WORLDS))
def probed(request):
    stage = WORLDS[request.param]
    step = np.random.default_rng(1).uniform(-0.1, 0.1, stage.current.shape)
    step -= step.mean(-1, keepdims=True)
    out = jax.jit(probe)(stage, jnp.asarray(step))
    return jax.tree.map(np.asarray, out), step


def test_gradient_of_j_is_that_of_the_surrogate(probed):
    """`∇_θ J(π_θ) = ∇_θ Σ m^π Σ_a π_θ(a|s) A^π(s,a)` at the current policy, in every logit."""
    out, _ = probed
    assert abs(out["logits"]).max() > 1e-2
    np.testing.assert_allclose(out["logits"], out["surrogate"], rtol=1e-10, atol=1e-13)


def test_policy_gradient_theorem(probed):
    """`∂J/∂π(a|s) = m(s) Q(s,a)`, `∂J/∂r = m π`, `∂J/∂ρ = V`."""
    out, _ = probed
    np.testing.assert_allclose(out["table"], out["m"][:, None] * out["q"], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(out["reward"], out["m"][:, None] * out["policy"], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(out["initial"], out["v"], rtol=1e-10, atol=1e-13)


def test_finite_differences(probed):
    """The derivative of J along a random step of the policy."""
    out, step = probed
    assert (out["table"] * step).sum() == pytest.approx(float(out["differences"]), rel=1e-8, abs=1e-10)


def test_gradient_in_the_transition_and_the_discount():
    """`∂J/∂P(s'|s,a) = γ m(s) π(a|s) V(s')` and `∂J/∂γ = Σ m π PV`: the custom rule of the LU solve, in its matrix."""
    stage = WORLDS["dense-discounted"]
    team, policy = stage.team, stage.current

    def j(transition, discount):
        return objective(
            replace(team, dynamics=replace(team.dynamics, transition=transition, discount=discount)), policy
        )

    P, gamma = team.dynamics.transition, team.dynamics.discount
    by_transition, by_discount = jax.jit(jax.grad(j, (0, 1)))(P, gamma)
    m, v = np.asarray(visits(team, policy)), np.asarray(values(team, policy))
    flow = m[:, None] * np.asarray(policy)
    np.testing.assert_allclose(by_transition, float(gamma) * flow[:, :, None] * v, rtol=1e-10, atol=1e-13)
    assert float(by_discount) == pytest.approx((flow * (np.asarray(P) @ v)).sum(), rel=1e-10)


def test_gradient_of_visits():
    """The transposed solve has a derivative too: `Σ_s c(s) m^π(s)` is the objective of the reward `c(s)`."""
    stage = WORLDS["dense-discounted"]
    team, policy = stage.team, stage.current
    c = jnp.asarray(np.random.default_rng(2).normal(size=policy.shape[0]))
    priced = replace(team, reward=jnp.broadcast_to(c[:, None], policy.shape))
    weight = jax.random.normal(jax.random.key(0), policy.shape)
    weight -= weight.mean(-1, keepdims=True)  # along steps that keep the rows normalised
    ours = jax.jit(jax.grad(lambda p: c @ visits(team, p)))(policy)
    theirs = jax.jit(jax.grad(lambda p: objective(priced, p)))(policy)
    assert float((ours * weight).sum()) == pytest.approx(float((theirs * weight).sum()), rel=1e-10)


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_a_stage_agrees_to_first_order(protocol):
    """At target = current: the gradient in the target of `Σ L_i^seq` (and stale, cached) is that of `J(π̂ⁿ)`, and of every gap 0.

    Compared along steps that keep rows normalised: within a row both are known up to a constant.
    """
    case = random_case(np.random.default_rng(3), "discounted", protocol, gamma=0.9)
    stage = as_stage(case._replace(target=case.current))
    names = ("surrogate_intermediate", "surrogate_stale", "surrogate_cached", "gap_fresh", "gap_stale", "gap_cached")

    def sums(target):
        report = stage_report(replace(stage, target=target))
        return jnp.stack([report.objective[-1], *(getattr(report, name).sum() for name in names)])

    gradients = np.array(jax.jit(jax.jacrev(sums))(stage.target))
    sizes = case.factors or (case.current.shape[-1],)
    for x in gradients if protocol == "product" else gradients[:, None]:
        for k, size in enumerate(sizes):
            assert (x[k, :, size:] == 0).all()  # padding is nobody's
            x[k, :, :size] -= x[k, :, :size].mean(-1, keepdims=True)
    j, surrogates, gaps = gradients[0], gradients[1:4], gradients[4:]
    assert abs(j).max() > 1e-2
    for surrogate in surrogates:
        np.testing.assert_allclose(surrogate, j, rtol=1e-9, atol=1e-12)
    assert (gaps == 0).all()
