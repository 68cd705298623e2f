"""Stage files (schema 1): every check by its message, and that what is read is what was written."""

import io
import subprocess
import sys

import jax
import numpy as np
import pytest

from teamtr_jax.dynamics import Dense, Layered, Successors
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import gymnasium_team, read_stage, write_stage
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError


def tables(rng=None, S=4, A=3, n=2):
    """A valid turn-taking, discounted, dense stage file."""
    rng = rng or np.random.default_rng(0)
    return {
        "transition": rng.dirichlet(np.ones(S), (S, A)), "reward": rng.random((S, A)), "initial": rng.dirichlet(np.ones(S)),
        "discount": np.array(0.9), "active": np.arange(S) % n,
        "current": rng.dirichlet(np.ones(A), S), "target": rng.dirichlet(np.ones(A), S),
    }  # fmt: skip


def product_tables():
    rng = np.random.default_rng(1)
    out = tables(rng, S=3, A=6)
    del out["active"]
    policies = np.zeros((2, 2, 3, 3))
    for table in policies:
        table[0, :, :2] = rng.dirichlet(np.ones(2), 3)
        table[1] = rng.dirichlet(np.ones(3), 3)
    return out | {"factors": np.array([2, 3]), "current": policies[0], "target": policies[1]}


def episodic(out, horizon=3):
    out = {key: value for key, value in out.items() if key != "discount"}
    return out | {"horizon": np.array(horizon)}


@pytest.fixture
def save(tmp_path):
    def write(arrays, name="stage.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def without(*keys):
    return lambda t: [t.pop(key) for key in keys]


def put(**values):
    return lambda t: t.update(values)


def entry(key, index, value):
    def change(t):
        t[key] = t[key].copy()
        t[key][index] = value

    return change


BAD = [
    (without("reward"), "reward: found no such key"),
    (without("initial"), "initial: found no such key"),
    (without("current"), "current: found no such key"),
    (without("target"), "target: found no such key"),
    (without("transition"), "transition, successor_index: found neither, expected exactly one"),
    (without("discount"), "discount, horizon: found neither, expected exactly one"),
    (without("active"), "active, factors: found neither, expected exactly one"),
    (put(horizon=np.array(3)), "discount, horizon: found both"),
    (put(factors=np.array([3])), "active, factors: found both"),
    (put(successor_index=np.zeros((4, 3, 1), int), successor_prob=np.ones((4, 3, 1))), "transition, successor_index: found both"),
    (put(discount=np.array(1.0)), "discount: found 1.0, expected a discount in [0, 1)"),
    (put(discount=np.array(-0.1)), "discount: found -0.1"),
    (put(discount=np.array(np.nan)), "discount: found nan"),
    (put(discount=np.array([0.9])), "discount: found shape [1]"),
    (entry("transition", (1, 2, 0), 0.9), "transition: found row [1, 2] that sums to"),
    (entry("transition", (1, 2, 0), -0.1), "transition: found -0.1 at [1, 2, 0], expected probabilities ≥ 0"),
    (entry("transition", (1, 2, 0), np.nan), "transition: found nan at [1, 2, 0], expected finite"),
    (entry("current", (0, 1), 2.0), "current: found row [0] that sums to"),
    (entry("target", (3, 1), np.nan), "target: found nan at [3, 1]"),
    (entry("initial", (0,), -1.0), "initial: found -1.0 at [0]"),
    (entry("reward", (2, 2), np.inf), "reward: found inf at [2, 2], expected finite"),
    (entry("active", (1,), -1), "active: found -1 at [1], expected integers from 0"),
    (put(agents=np.array(1)), "active: found 1 at [1], expected integers from 0 to 0"),
    (put(agents=np.array(0)), "agents: found 0"),
    (put(active=np.zeros(4)), "active: found dtype float64, expected an integer dtype"),
    (put(active=np.zeros(3, int)), "active: found shape [3]"),
    (put(reward=np.zeros(4)), "reward: found shape [4]"),
    (put(transition=np.full((4, 3, 3), 1 / 3)), "transition: found shape [4, 3, 3], expected shape [4, 3, 4]"),
    (put(current=np.full((4, 2), 0.5)), "current: found shape [4, 2], expected shape [4, 3]"),
    (put(initial=np.eye(4)), "initial: found shape [4, 4], expected shape [S]"),
    (put(order=np.array([0, 0])), "order: found [0, 0], expected a permutation of 0 … 1"),
    (put(order=np.array([0, 1, 2])), "order: found [0, 1, 2]"),
    (put(order=np.array([1.0, 0.0])), "order: found [1.0, 0.0]"),
    (put(schema=np.array(2)), "schema: found 2, expected schema 1"),
    (put(reward=np.array([object()] * 12).reshape(4, 3)), "reward: found an object array, expected numbers (nothing"),
    *[
        (lambda t, key=key: t.update({key: t[key].astype(np.float32)}), f"{key}: found ")
        for key in ("transition", "reward", "initial", "current", "target", "discount")
    ],
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message.split(",")[0][:60] for _, message in BAD])
def test_bad_files_name_the_key(save, change, message):
    """Item 8: every refusal names the key, what was found and what was expected, on one line."""
    arrays = tables()
    change(arrays)
    with pytest.raises(InputError) as error:
        read_stage(save(arrays))
    assert message in str(error.value)
    assert ", expected " in str(error.value)
    assert "\n" not in str(error.value)


BAD_SUCCESSORS = [
    (entry("successor_index", (0, 0, 0), 4), "successor_index: found 4 at [0, 0, 0], expected integers from 0 to 3"),
    (put(successor_index=np.zeros((4, 3, 2), int)), "successor_index: found shape [4, 3, 2]"),
    (entry("successor_prob", (0, 0, 0), 0.5), "successor_prob: found row [0, 0] that sums to 0.5"),
    (without("successor_prob"), "successor_prob: found no such key"),
    (without("successor_index"), "successor_index: found no such key"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SUCCESSORS)
def test_bad_successors(save, change, message):
    arrays = tables()
    del arrays["transition"]
    arrays |= {"successor_index": np.zeros((4, 3, 1), int), "successor_prob": np.ones((4, 3, 1))}
    change(arrays)
    with pytest.raises(InputError, match="found") as error:
        read_stage(save(arrays))
    assert message in str(error.value)


BAD_PRODUCT = [
    (put(factors=np.array([2, 2])), "factors: found [2, 2] with product 4, expected a product of 6"),
    (put(factors=np.array([[2, 3]])), "factors: found shape [1, 2]"),
    (put(factors=np.array([0, 3])), "factors: found 0 at [0]"),
    (put(agents=np.array(3)), "agents: found 3, expected 2, the length of factors"),
    (put(current=np.full((2, 3, 3), 1 / 3)), "current: found probability beyond the 2 actions of agent 0"),
    (put(target=np.full((2, 3, 2), 0.5)), "target: found shape [2, 3, 2]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_PRODUCT)
def test_bad_product_files(save, change, message):
    arrays = product_tables()
    change(arrays)
    with pytest.raises(InputError, match="found") as error:
        read_stage(save(arrays))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"), [(0, "horizon: found 0"), (2.0, "horizon: found 2.0"), ([2], "horizon: found [2]")]
)
def test_bad_horizon(save, value, message):
    with pytest.raises(InputError, match="found") as error:
        read_stage(save(episodic(tables()) | {"horizon": np.array(value)}))
    assert message in str(error.value)


def test_wrong_time_axis(save):
    arrays = episodic(tables(), 3)
    arrays["reward"] = np.zeros((2, 4, 3))
    with pytest.raises(InputError, match=r"reward: found shape \[2, 4, 3\], expected shape \[4, A\] or \[3, 4, A\]"):
        read_stage(save(arrays))


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 damaged"])
def test_not_an_archive(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file: found .*, expected an \.npz file"):
        read_stage(path)


def test_single_array_and_missing_file(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="not an npz archive"):
        read_stage(tmp_path / "x.npy")
    with pytest.raises(InputError, match="No such file"):
        read_stage(tmp_path / "none.npz")


def test_pickles_are_never_loaded(save, tmp_path):
    """An object array whose unpickling would write a file: refused, and nothing was run."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    arrays = tables() | {"reward": np.array([[Trap()] * 3] * 4)}
    with pytest.raises(InputError, match="reward: found an object array"):
        read_stage(save(arrays))
    assert not (tmp_path / "sprung").exists()


def test_rows_are_not_renormalised(save):
    """A row that sums to 1 + 5e-10 is accepted and stays as it is."""
    arrays = tables()
    arrays["current"] = arrays["current"] * (1 + 5e-10)
    assert np.array_equal(read_stage(save(arrays)).current, arrays["current"])


def test_defaults_and_optional_keys(save):
    stage = read_stage(save(tables()))
    assert stage.team.agents == 2
    assert stage.order.tolist() == [0, 1]
    stage = read_stage(
        save(tables() | {"agents": np.array(5), "order": np.array([4, 0, 3, 1, 2]), "schema": np.array(1)})
    )
    assert stage.team.agents == 5
    assert stage.order.tolist() == [4, 0, 3, 1, 2]


def test_unknown_keys_are_ignored_aloud(save):
    with pytest.warns(UserWarning, match="ignored the unknown key 'oder'"):
        stage = read_stage(save(tables() | {"oder": np.array([1, 0])}))
    assert stage.order.tolist() == [0, 1]


def equal_reports(first: Stage, second: Stage):
    a, b = evaluate_stage(first), evaluate_stage(second)
    for name in (
        "objective",
        "gap_fresh",
        "gap_stale",
        "gap_cached",
        "kl",
        "kl_stale",
        "tv",
        "occupancy_tv_stale",
        "share",
    ):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("key", ["transition", "reward", "active", "current", "target"])
def test_time_axis_of_any_one_key(save, key):
    """A leading time axis of equal slices says the same as none, independently for each key."""
    arrays = episodic(tables())
    timed = arrays | {key: np.broadcast_to(arrays[key], (3, *arrays[key].shape))}
    plain, with_axis = read_stage(save(arrays)), read_stage(save(timed, "timed.npz"))
    assert isinstance(with_axis.team.dynamics, Layered)
    assert with_axis.team.dynamics.stationary == (key != "transition")
    equal_reports(plain, with_axis)


def test_time_axis_of_product_policies(save):
    arrays = episodic(product_tables())
    timed = arrays | {"current": np.broadcast_to(arrays["current"], (3, *arrays["current"].shape))}
    equal_reports(read_stage(save(arrays)), read_stage(save(timed, "timed.npz")))


def test_dense_and_successor_files_agree(save):
    """The same world written both ways, repeated successors and a zero slot included."""
    arrays = tables()
    index = np.broadcast_to(np.r_[np.arange(4), 0, 2], (4, 3, 6))
    prob = np.concatenate([arrays["transition"], np.zeros((4, 3, 2))], -1)
    prob[..., 5], prob[..., 2] = prob[..., 2] / 2, prob[..., 2] / 2
    sparse = {key: value for key, value in arrays.items() if key != "transition"}
    sparse |= {"successor_index": index, "successor_prob": prob}
    first, second = read_stage(save(arrays)), read_stage(save(sparse, "sparse.npz"))
    assert isinstance(first.team.dynamics, Dense)
    assert isinstance(second.team.dynamics, Successors)
    equal_reports(first, second)
    equal_reports(read_stage(save(episodic(arrays))), read_stage(save(episodic(sparse), "sparse.npz")))


def test_write_then_read(tmp_path, save):
    team = gymnasium_team("FrozenLake", 2)
    current = jax.numpy.full(team.reward.shape, 0.25)
    stage = Stage(team, current, current, jax.numpy.arange(2))
    write_stage(stage, tmp_path / "lake.npz")
    again = read_stage(tmp_path / "lake.npz")
    jax.tree.map(np.testing.assert_array_equal, stage, again)
    dense = read_stage(save(tables()))
    write_stage(dense, tmp_path / "dense.npz")
    jax.tree.map(np.testing.assert_array_equal, dense, read_stage(tmp_path / "dense.npz"))


def test_write_refuses_and_leaves_nothing(tmp_path, save):
    with pytest.raises(InputError, match="an episodic team"):
        write_stage(read_stage(save(episodic(tables()))), tmp_path / "out.npz")
    with pytest.raises(InputError, match="expected a place that can be written"):
        write_stage(read_stage(save(tables())), tmp_path / "no" / "out.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage.npz"]


def test_a_failed_write_keeps_the_old_file(tmp_path, save):
    """The disk is full half way: the old file stays whole, no part is left (subprocess with a file-size limit)."""
    path = save(tables(), "old.npz")
    before = path.read_bytes()
    program = (
        "import resource, signal, sys, jax; jax.config.update('jax_enable_x64', True)\n"
        "from teamtr_jax.teams import read_stage, write_stage; from teamtr_jax.validation import InputError\n"
        "stage = read_stage(sys.argv[1]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: write_stage(stage, sys.argv[1])\n"
        "except InputError as error: print('refused', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("refused"), done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["old.npz"]
