"""Programs that are kept: the same numbers from the folder, nothing from a damaged or foreign file, nothing where it is off."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from teamtr_jax import programs


def twice(x):
    return {"twice": 2 * x["x"], "none": None}


def power(exponent, x):
    return x**exponent


def ordered(x):
    return jnp.sort(x)[::-1]


def asked(x):
    return jax.pure_callback(lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def factors(x):
    return jax.lax.linalg.lu(x)[0]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own, and no program made before."""
    monkeypatch.setenv(programs.CACHE, str(tmp_path / "kept"))
    monkeypatch.setattr(programs, "_made", {})
    return tmp_path / "kept"


@pytest.fixture
def compiled(monkeypatch):
    """The programs that were compiled, not read."""
    seen = []
    compile_ = programs.compiled_program

    def count(lowered, quick):
        seen.append(lowered)
        return compile_(lowered, quick)

    monkeypatch.setattr(programs, "compiled_program", count)
    return seen


def again(monkeypatch, *arguments, **settings):
    """`run` as another process would."""
    monkeypatch.setattr(programs, "_made", {})
    return programs.run(*arguments, **settings)


X = {"x": np.arange(3.0)}


def test_a_program_is_read_back(place, compiled, monkeypatch):
    for _ in range(3):
        out = again(monkeypatch, twice, X)
        assert out["twice"].tolist() == [0.0, 2.0, 4.0]
        assert out["none"] is None
    assert len(compiled) == 1
    assert len(list(place.iterdir())) == 1
    assert place.stat().st_mode & 0o777 == 0o700
    assert programs.described().startswith("compiled programs: 1, 0.")
    assert str(place) in programs.described()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another's", "no program"])
def test_what_is_damaged_is_compiled_and_written_again(place, compiled, monkeypatch, damage):
    programs.run(twice, X)
    (path,) = place.iterdir()
    whole = path.read_bytes()
    if damage == "flipped":
        for at in (3, len(programs.MAGIC) + 3, len(programs.MAGIC) + 40, len(whole) // 2, len(whole) - 1):
            data = bytearray(whole)
            data[at] ^= 1
            path.write_bytes(data)
            assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]
            assert len(compiled) == 2
            compiled.pop()
    elif damage in ("cut", "empty"):
        path.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    elif damage == "another's":
        again(monkeypatch, power, np.arange(3.0), static=(3,))
        (other,) = set(place.iterdir()) - {path}
        path.write_bytes(other.read_bytes())
        compiled.pop()
    else:  # whole, with its digest, and nothing that XLA can read
        programs._write(place, path.stem, (b"no program", None))
    assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]
    assert len(compiled) == (1 if damage == "flipped" else 2)
    monkeypatch.setattr(programs, "compiled_program", None)
    assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]


def test_off_means_off(place, monkeypatch):
    monkeypatch.setenv(programs.CACHE, "off")
    assert programs.run(twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]
    assert not place.exists()
    assert programs.described() == "compiled programs: not kept (TEAMTR_CACHE=off)"


def test_where_others_may_write_nothing_is_read(place, compiled, monkeypatch):
    programs.run(twice, X)
    place.chmod(0o770)
    assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]
    assert len(compiled) == 2
    assert "not kept, others may write to" in programs.described()


def test_a_folder_that_cannot_be_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(programs.CACHE, str(tmp_path / "file" / "kept"))
    assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]


def test_the_folder_is_bounded(place, monkeypatch):
    """256 MiB. What was not used for the longest time goes; what is used stays, however old."""
    assert programs.LIMIT == 256 * 1024**2
    for size in (2, 3, 4):
        programs.run(twice, {"x": np.zeros(size)})
        (path,) = set(place.iterdir()) - set(map(Path, os.environ.get("SEEN", "").split(":")))
        os.environ["SEEN"] = ":".join(map(str, place.iterdir()))
        os.utime(path, (size, size))
    del os.environ["SEEN"]
    old = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime)
    again(monkeypatch, twice, {"x": np.zeros(2)})
    monkeypatch.setattr(programs, "LIMIT", int(3.5 * old[0].stat().st_size))
    again(monkeypatch, twice, {"x": np.zeros(5)})
    left = set(place.iterdir())
    assert len(left) == 3
    assert {old[0], old[2]} < left


def test_what_cannot_be_written_down_runs(place, compiled, monkeypatch):
    """A call of the host is compiled each time, never a file that another process could not run; a sort by version of XLA."""
    for _ in range(2):
        assert again(monkeypatch, asked, X["x"]).tolist() == [1.0, 2.0, 3.0]
    assert len(compiled) == 2
    assert not list(place.iterdir())
    for quick in (False, True, False, True):
        assert again(monkeypatch, ordered, X["x"], quick=quick).tolist() == [2.0, 1.0, 0.0]


def test_what_jax_read_from_its_own_cache_is_not_written_down(place, monkeypatch, tmp_path):
    """It would be a file with a good digest whose program cannot run."""
    for name, value in (
        ("compilation_cache_dir", str(tmp_path / "jax")),
        ("persistent_cache_min_compile_time_secs", 0.0),
    ):
        monkeypatch.setitem(before := {}, name, getattr(jax.config, f"jax_{name}"))
        jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()
    try:
        for _ in range(2):
            jax.clear_caches()
            assert jax.jit(power, static_argnums=0)(5, jnp.arange(3.0)).tolist() == [
                0.0,
                1.0,
                32.0,
            ]  # jax's cache works
            assert list((tmp_path / "jax").iterdir())
            for kept in ("first", "second"):
                monkeypatch.setenv(programs.CACHE, str(tmp_path / kept))
                for _ in range(2):
                    assert again(monkeypatch, twice, X)["twice"].tolist() == [0.0, 2.0, 4.0]
        assert jax.config.jax_enable_compilation_cache
    finally:
        for name, value in before.items():
            jax.config.update(f"jax_{name}", value)
        compilation_cache.reset_cache()


@pytest.mark.parametrize("options", [{"xla_no_such_option_ever": 1}, {"xla_no_such_option_ever": 1} | programs.QUICK])
def test_options_of_another_version(place, monkeypatch, options):
    monkeypatch.setattr(programs, "QUICK", options)
    assert programs.run(twice, X, quick=True)["twice"].tolist() == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("unknown", "tried"), [("", 1), (programs.NEWER_LACK[0], 2), ("xla_backend_optimization_level", 3)]
)
def test_an_unknown_option_leaves_the_others(unknown, tried):
    """As XLA of another version: it refuses one option, whatever stands beside it."""
    asked = []

    class Lowered:
        def compile(self, compiler_options=None):
            asked.append(compiler_options)
            if unknown in (compiler_options or {}):
                raise ValueError(unknown)
            return compiler_options

    found = programs.compiled_program(Lowered(), True)
    assert len(asked) == tried
    assert found == (None if tried == 3 else {name: x for name, x in programs.QUICK.items() if name != unknown})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ruled:
    x: jax.Array
    rule: Any = dataclasses.field(metadata={"static": True})


def by_rule(ruled):
    return ruled.rule(ruled.x) if callable(ruled.rule) else ruled.x + ruled.rule[-1]


def test_what_no_text_tells_is_not_kept(place, monkeypatch):
    """Functions by where they lie, where another one may lie later; long arrays by their ends."""
    for value in (2.0, 3.0, 4.0):  # each is gone before the next is made
        assert again(monkeypatch, by_rule, Ruled(jnp.array(1.0), lambda x, value=value: value * x)) == value
        assert "<function" in str(jax.tree.structure(Ruled(jnp.array(1.0), lambda x: x)))
    assert programs.run(power, jnp.array(2.0), static=(3,)) == 8.0
    assert len(list(place.iterdir())) == 1
    assert again(monkeypatch, by_rule, Ruled(jnp.array(1.0), (1, 2))) == 3.0
    assert len(list(place.iterdir())) == 2
    assert not programs._told(repr(np.arange(2000)))


def test_what_is_inside_a_function_is_refused():
    held = 3.0
    for function in (lambda x: x, lambda x: held * x):
        with pytest.raises(ValueError, match="may hold values of its own"):
            programs.run(function, X["x"])


def test_inside_another_program_it_is_a_part_of_it(place):
    assert jax.jit(lambda x: programs.run(power, x, static=(2,)))(3.0) == 9.0
    assert not place.exists()


def test_each_program_has_its_key(place, compiled, monkeypatch):
    """Function, static values, shape, dtype, structure, options, flags, precision, and the sources."""
    x = np.arange(3.0)
    for _ in range(2):
        assert programs.run(power, x, static=(2,)).tolist() == [0.0, 1.0, 4.0]
    programs.run(power, x, static=(3,))
    programs.run(power, x, static=(3,), quick=True)
    programs.run(power, np.arange(4.0), static=(3,))
    programs.run(power, np.arange(4), static=(3,))
    programs.run(ordered, np.arange(4))
    programs.run(twice, {"x": x})
    programs.run(twice, {"x": x, "y": x})
    monkeypatch.setenv("XLA_TEST", "1")
    programs.run(twice, {"x": x})
    with jax.default_matmul_precision("highest"):
        programs.run(twice, {"x": x})
    monkeypatch.setattr(programs, "_sources", lambda package: "changed")
    programs.run(twice, {"x": x})
    assert len(compiled) == 11


def test_the_sources_of_both_packages_count(tmp_path, monkeypatch):
    (tmp_path / "other_package").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "other_package" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("other_package")
    before = programs._sources.__wrapped__("other_package")
    (tmp_path / "other_package" / "inner.py").write_text("x = 1")
    assert programs._sources.__wrapped__("other_package") != before
    assert len({before, programs._sources.__wrapped__("teamtr_jax"), programs._sources.__wrapped__(__name__)}) == 3


def test_processes_share_the_folder(place):
    """Two that begin at once, cold, and one that reads a factorisation without having made one (LAPACK is looked up)."""
    script = """
import jax, sys
jax.config.update("jax_enable_x64", True)
import numpy as np, test_programs
from teamtr_jax import programs
if sys.argv[1:]:
    programs.compiled_program = None
print(programs.run(test_programs.factors, np.array([[2.0, 0.0], [1.0, 4.0]]), quick=True).tolist())
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1])))}

    def start(*args):
        return subprocess.Popen([sys.executable, "-c", script, *args], env=env, stdout=subprocess.PIPE, text=True)

    def finish(process):
        assert process.communicate(timeout=120)[0] == "[[2.0, 0.0], [0.5, 4.0]]\n"
        assert process.returncode == 0

    for process in [start(), start()]:
        finish(process)
    finish(start("read"))
    assert len(list(place.iterdir())) == 1
