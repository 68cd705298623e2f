"""Stage files (schema 1): every check by its message, and that what is read is what was written."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from teamtr_jax import sizes
from teamtr_jax.dynamics import Dense, Layered, Successors, Tree
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import gymnasium_team, read_stage, stage_file, write_stage
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError, shown


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
    (put(agents=np.array(1)), "agents: found 1, expected 2, the length of factors"),
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
    with pytest.raises(InputError, match="o such file"):
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
    """A name that is nearly a key is an error: its default would be taken without a word otherwise."""
    with pytest.raises(
        InputError, match=r"oder\.npy: found an unknown key, expected order, or a name that is less like it"
    ):
        read_stage(save(tables() | {"oder": np.array([1, 0])}))
    with pytest.warns(UserWarning, match="ignored the unknown key 'author'"):
        stage = read_stage(save(tables() | {"author": np.array([1, 0])}))
    assert stage.order.tolist() == [0, 1]
    with pytest.warns(UserWarning, match="ignored the unknown key") as told:
        read_stage(save(tables() | {"author": np.array([1]), "year": np.array(2026)}))
    assert [str(x.message).rpartition("key ")[2] for x in told] == ["'author'", "'year'"]


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
    team = gymnasium_team("FrozenLake", 2, drop_time_limit=True)
    current = jax.numpy.full(team.reward.shape, 0.25)
    stage = Stage(team, current, current, jax.numpy.arange(2))
    write_stage(stage, tmp_path / "lake.npz")
    again = read_stage(tmp_path / "lake.npz")
    jax.tree.map(np.testing.assert_array_equal, stage, again)
    dense = read_stage(save(tables()))
    write_stage(dense, tmp_path / "dense.npz")
    jax.tree.map(np.testing.assert_array_equal, dense, read_stage(tmp_path / "dense.npz"))


def test_write_refuses_and_leaves_nothing(tmp_path, save):
    with pytest.raises(InputError, match=r"path: found no folder .*/no, expected a file in an existing folder"):
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


# ------------------------------------------------------------------------------------------------- sizes, damage, writing


def members(arrays):
    """The members of an .npz as bytes, by name."""
    out = {}
    for key, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(array), (1, 0))
        out[f"{key}.npy"] = buffer.getvalue()
    return out


def zipped(path, parts, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # a doubled name
        for name, data in parts:
            archive.writestr(name, data)
    return path


def refused(path):
    with pytest.raises(InputError) as error:
        read_stage(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def equal_stages(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)  # also horizon, stationary, agents, factors
    jax.tree.map(np.testing.assert_array_equal, first, second)


def small():
    return tables(S=2, A=2) | {"order": np.array([1, 0]), "agents": np.array(2), "schema": np.array(1)}


def header(shape, descr="<f8", fortran=False):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return buffer.getvalue()


def test_headers_that_declare_too_much(tmp_path):
    """10⁶ × 10⁶ in a header, a bomb of zeros, a header that says less than there is: by key, unread."""
    parts = members(small())

    def with_reward(data):
        return [*((n, d) for n, d in parts.items() if n != "reward.npy"), ("reward.npy", data)]

    path = zipped(tmp_path / "x.npz", with_reward(header((10**6, 10**6)) + b"\0" * 64))
    assert "reward: found float64 [1000000, 1000000], 8 TB, expected at most " in refused(path)
    path = zipped(tmp_path / "x.npz", with_reward(header((2, 2)) + b"\0" * 40))
    assert "reward: found a damaged archive (168 bytes for float64 [2, 2]), expected 160 bytes" in refused(path)
    path = zipped(tmp_path / "x.npz", with_reward(header((-2, 2)) + b"\0" * 32))
    assert "reward: found shape [-2, 2], expected sizes ≥ 0" in refused(path)
    bomb = zipped(tmp_path / "x.npz", with_reward(header((2, 10**7)) + b"\0" * (16 * 10**7)), zipfile.ZIP_DEFLATED)
    data = bytearray(bomb.read_bytes())
    assert len(data) < 200_000
    message = "reward: found float64 [2, 10000000], 160 MB, expected at most 133 MB, what 400 MB of memory can read"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_file, "memory", lambda: 4 * 10**8)
        assert message in refused(bomb)
        two = members(small() | {"reward": np.zeros((2, 20000)), "current": np.zeros((2, 20000))})
        patch.setattr(stage_file, "memory", lambda: 10**6)
        # 320,000 bytes each, 128 of every header, 168 of the other numbers
        message = "reward: found tables of 641 kB in all, expected at most 333 kB, what 1 MB of memory can read"
        assert message in refused(zipped(tmp_path / "x.npz", two.items()))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda: episodic(tables(), 10**9), "horizon: found 1000000000, which takes 4.61 TB (the report of so"),
        (lambda: tables() | {"agents": np.array(10**12)}, "agents: found 1000000000000, which takes 1.54 PB (the"),
        (lambda: tables() | {"active": np.array([0, 1, 2, 2**62])}, "active: found 4611686018427387905, which takes"),
    ],
)  # fmt: skip
def test_numbers_that_take_too_much(save, arrays, message):
    """16 arrays of S·A numbers for each of n + 1 hybrids, S = 4, A = 3: 16·12·8·3·10⁹ bytes, and 16·12·8·10¹²."""
    assert message in refused(save(arrays()))


def test_the_horizon_that_fits_is_taken(save, monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: 16 * 12 * 8 * 3 * 50 + 100)
    assert read_stage(save(episodic(tables(), 50))).team.dynamics.horizon == 50
    message = refused(save(episodic(tables(), 51)))
    assert "horizon: found 51, which takes 235 kB (the report of so many steps), expected at most 50, what" in message


def test_what_just_fits_is_taken(monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: 15)
    sizes.fitting("n", 5, lambda n: 3 * n, "rows")
    monkeypatch.setattr(sizes, "memory", lambda: 14)
    with pytest.raises(InputError) as error:
        sizes.fitting("n", 5, lambda n: 3 * n, "rows")
    assert str(error.value) == "n: found 5, which takes 15 B (rows), expected at most 4, what 14 B of memory hold"
    with pytest.raises(InputError) as error:
        sizes.require_room(Path("a.log"), 5, 3, "fewer rows")
    assert (
        str(error.value)
        == "a.log: found about 5 rows, which take 15 B, expected at most 4 rows in 14 B of memory: fewer rows"
    )
    sizes.require_room(Path("a.log"), 7, 2, "fewer rows")


@pytest.mark.parametrize(("limit", "less"), [("12345\n", 12345), ("max\n", None), ("1" + "0" * 30, None), (None, None)])
def test_the_memory_of_a_container(tmp_path, monkeypatch, limit, less):
    """Its limit where there is one that is less than what the machine has."""
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(sizes, "CGROUP", tmp_path / "memory.max")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert sizes.memory() == (less or whole)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, found in [(tmp_path, "a folder"), (tmp_path / "pipe", "a pipe"), (Path("/dev/null"), "a device")]:
        assert refused(path) == f"file: found {found}, expected an .npz file (docs/stage-files.md)"


def test_other_layouts_are_the_same_stage(save, tmp_path):
    """Fortran order, big-endian numbers, headers of format 2: exactly the stage of the plain file."""
    plain = read_stage(save(small()))
    fortran = {key: np.asfortranarray(value) if value.ndim else value for key, value in small().items()}
    equal_stages(plain, read_stage(save(fortran, "f.npz")))
    equal_stages(plain, read_stage(save({k: v.astype(v.dtype.newbyteorder(">")) for k, v in small().items()}, "b.npz")))
    equal_stages(plain, read_stage(save({k: np.asarray(v)[..., None][..., 0] for k, v in small().items()}, "v.npz")))
    second = []
    for key, array in small().items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, (2, 0))
        second.append((f"{key}.npy", buffer.getvalue()))
    equal_stages(plain, read_stage(zipped(tmp_path / "two.npz", second)))


def test_members_that_numpy_would_prefer_or_skip(tmp_path):
    """Doubled members, a name that lost its ending or a letter, other compressions, formats, text: one line each."""
    parts = list(members(small()).items())
    order = dict(parts)["order.npy"]
    rest = [(name, data) for name, data in parts if name != "order.npy"]

    def message(*more, method=zipfile.ZIP_STORED):
        return refused(zipped(tmp_path / "x.npz", [*rest, *more], method))

    assert "order: found the key twice, expected every key once" in message(("order.npy", order), ("order.npy", order))
    assert "order: found the key twice" in message(("order.npy", order), ("order", order))
    for name in (
        "order",
        "order.npx",
        "ordes.npy",
        "Order.npy",
        "orders.npy",
        "a/order.npy",
        "order.npy.bak",
        "\x0frder.npy",
    ):
        assert f"{shown(name)}: found an unknown key, expected order, or a name that is less like it" in message(
            (name, order)
        )
    assert "found an unknown key, expected agents" in message(("n_agent.npy", order))
    assert "compression 12, expected none, or deflate" in message(("order.npy", order), method=zipfile.ZIP_BZIP2)
    text = members({"order": np.array("01")})["order.npy"]
    assert "order: found dtype <U2, expected numbers" in message(("order.npy", text))
    third = order[:6] + b"\x03" + order[7:8] + (len(order) - 28).to_bytes(4, "little") + order[10:]
    assert "order: found array format (3, 0), expected format 1.0 or 2.0" in message(("order.npy", third))
    locked = bytearray(zipped(tmp_path / "x.npz", parts).read_bytes())
    locked[locked.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(locked)
    assert "transition: found an encrypted member" in refused(tmp_path / "x.npz")


def test_keys_of_ones_own(save):
    with pytest.warns(UserWarning, match=r"ignored the unknown key 'comment\\x1b\[2J'"):
        read_stage(save(small() | {"comment\x1b[2J": np.array([1, 0])}))


@pytest.mark.parametrize("kind", ["stored", "deflated", "written"])
def test_every_flipped_byte_is_seen_or_changes_nothing(tmp_path, kind):
    """Each byte of the archive's directory and every seventh of the rest: refused on one line, or the same numbers.

    What `write_stage` wrote is refused whatever byte is another one; so is every file that is cut off or longer.
    """
    path = tmp_path / "x.npz"
    (np.savez if kind == "stored" else np.savez_compressed)(path, **small())
    if kind == "written":
        write_stage(read_stage(path), path)
    good = path.read_bytes()
    right, _ = stage_file._read_tables(path)
    directory = good.index(b"PK\1\2")
    kept, lines = 0, set()
    for i in range(len(good)):
        if i < directory and i % 7:
            continue
        path.write_bytes(good[:i] + bytes([good[i] ^ (1 << i % 8 if i % 3 else 0xFF)]) + good[i + 1 :])
        try:
            found, unknown = stage_file._read_tables(path)
        except InputError as error:
            lines |= {str(error).count("\n")}
        else:
            kept += 1
            assert (found.keys(), unknown) == (right.keys(), [])
            for key, array in right.items():
                np.testing.assert_array_equal(found[key], array)
    assert (kept == 0) == (kind == "written")
    assert lines == {0}
    for other in (
        good[: len(good) // 2],
        good[:-1],
        good + b"x",
        b"x" + good,
        good + good,
        good + b"PK\5\6" + bytes(18),
    ):
        path.write_bytes(other)
        assert "file: found " in refused(path)


def test_a_digest_of_other_bytes(tmp_path):
    """Two bytes changed so that all of ZIP's own checks still pass: only the SHA-256 can see it."""
    write_stage(read_stage(zipped(tmp_path / "a.npz", members(small()).items())), tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data.replace(b"order.npy", b"notes.npy"))
    assert refused(tmp_path / "a.npz").startswith("file: found a damaged archive (its SHA-256 is another one)")
    with np.load(tmp_path / "a.npz") as archive:
        assert "notes" in archive.files
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert len(archive.comment) == 64


def timed(arrays, *keys):
    """Other numbers at each step: with a time axis for these keys."""
    rng = np.random.default_rng(5)
    T = int(arrays["horizon"])
    out = dict(arrays)
    for key in keys:
        shape = (T, *arrays[key].shape)
        out[key] = rng.integers(0, 2, shape) if key == "active" else np.broadcast_to(arrays[key], shape).copy()
        if key == "reward":
            out[key] = rng.random(shape)
        elif key != "active":
            out[key][1] = np.roll(arrays[key], 1, axis=-2)
    return out


def sparse(arrays):
    out = {key: value for key, value in arrays.items() if key != "transition"}
    index = np.broadcast_to(np.arange(arrays["transition"].shape[-1]), arrays["transition"].shape)
    return out | {"successor_index": index, "successor_prob": arrays["transition"]}


WRITTEN = {
    "dense": tables,
    "sparse": lambda: sparse(tables()),
    "order": lambda: tables(n=3) | {"order": np.array([2, 0, 1]), "agents": np.array(3)},
    "idle": lambda: tables() | {"agents": np.array(5)},
    "product": product_tables,
    "episodic": lambda: episodic(tables()),
    "one step": lambda: episodic(tables(), 1),
    "episodic sparse": lambda: sparse(episodic(tables())),
    "episodic product": lambda: episodic(product_tables()),
    "timed": lambda: timed(episodic(tables()), "transition", "reward", "active", "current", "target"),
    "timed transitions": lambda: timed(episodic(tables()), "transition"),
    "timed target": lambda: timed(episodic(tables()), "target"),
    "timed sparse": lambda: timed(sparse(timed(episodic(tables()))), "successor_index", "successor_prob", "active"),
    "timed product": lambda: timed(episodic(product_tables()), "transition", "current", "reward"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_read_can_be_written(tmp_path, save, kind):
    """Every form: the arrays and the structure come back, so every number of a report does."""
    arrays = WRITTEN[kind]()
    stage = read_stage(save(arrays))
    write_stage(stage, tmp_path / "again.npz")
    equal_stages(stage, read_stage(tmp_path / "again.npz"))
    with np.load(tmp_path / "again.npz") as archive:
        for key, array in arrays.items():
            np.testing.assert_array_equal(archive[key], array)  # with a time axis where it had one, and not elsewhere


def test_what_is_seen_by_hand(save):
    """Of each agent, for all steps or step by step; there are as many labels as states of the episode, `t·S + s`."""
    arrays = episodic(product_tables())  # three states, three steps, two agents
    always = np.array([[0, 1, 2], [2, 0, 1]])
    seen = read_stage(save(arrays | {"observation": always})).team.observation
    assert np.asarray(seen).tolist() == [[0, 1, 2] * 3, [2, 0, 1] * 3]
    steps = np.array([[3 * t + np.arange(3), 8 - 3 * t - np.arange(3)] for t in range(3)])
    seen = read_stage(save(arrays | {"observation": steps})).team.observation
    assert np.asarray(seen).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1, 0]]
    message = refused(save(arrays | {"observation": steps + 1}))
    assert message == "observation: found 9 at [0, 1, 0], expected integers from 0 to 8"
    clock = np.arange(12).reshape(3, 4)
    seen = read_stage(save(episodic(tables()) | {"observation": clock})).team.observation
    assert np.asarray(seen).tolist() == list(range(12))


def test_what_the_format_cannot_hold_is_refused(tmp_path, save):
    stage = read_stage(save(episodic(tables())))
    flat = read_stage(save(tables()))
    later = stage.team.initial.at[0].set(0.0).at[7].set(stage.team.initial[0])
    tree = Team(Tree(2, 1), jax.numpy.zeros((1, 2)), jax.numpy.ones(1), jax.numpy.zeros(1, int), 1)
    clock = Dense(jax.numpy.zeros((1, 1, 1)), jax.numpy.ones(()), jax.numpy.zeros(1, int), horizon=1)
    one = Team(clock, jax.numpy.zeros((1, 1)), jax.numpy.ones(1), jax.numpy.zeros(1, int), 1)
    chance = replace(flat.team, active=flat.team.active.at[0].set(-1))
    half = jax.numpy.full((1, 2), 0.5)
    for bad, message in [
        (replace(stage, team=replace(stage.team, initial=later)), "initial: found a start after the first step"),
        (
            Stage(tree, half, half, jax.numpy.arange(1)),
            "dynamics: found Tree, expected a discounted Dense or Successors",
        ),
        (Stage(one, half[:, :1] * 2, half[:, :1] * 2, jax.numpy.arange(1)), "dynamics: found Dense with a clock"),
        (replace(flat, team=chance), "active: found chance nodes"),
        (jax.tree.map(lambda x: x[None], flat), "stage: found a batch (initial of shape [1, 4])"),
    ]:
        with pytest.raises(InputError) as error:
            write_stage(bad, tmp_path / "out.npz")
        assert message in str(error.value)
    for path, message in [(tmp_path, "a folder"), (Path("/dev/null"), "a device")]:
        with pytest.raises(InputError, match=f"path: found .*, {message}, expected a file"):
            write_stage(flat, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage.npz"]


def test_links_are_followed(tmp_path, save):
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.npz"
    real.write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to(real)
    stage = read_stage(save(tables()))
    write_stage(stage, tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    equal_stages(stage, read_stage(real))
