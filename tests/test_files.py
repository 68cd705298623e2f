"""Places are tried before the work, and what is written is whole or not there."""

import json
import os
import resource
import signal
import socket
from contextlib import contextmanager

import pytest

from teamtr_jax.files import append_bytes, output_file, output_folder, read_json, regular_file, replacing, seal, unseal
from teamtr_jax.validation import InputError, concrete, one_of, real_number, shown, unchecked, whole_number


@contextmanager
def largest_file(size):
    """A disk that is full: no file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    return tmp_path


@pytest.mark.parametrize(("name", "found"), [("folder", "a folder"), ("pipe", "a pipe"), ("socket", "a socket"),
                                             ("missing", "no such file"), ("dangling", "no such file")])  # fmt: skip
def test_not_a_regular_file(places, name, found):
    with pytest.raises(InputError, match=f"{name}: found {found}, expected a stage file"):
        regular_file(places / name, "a stage file")


def test_a_device_and_a_strange_name():
    with pytest.raises(InputError, match="found a device"):
        regular_file("/dev/zero", "a log")
    with pytest.raises(InputError, match="no such file"):
        regular_file("a\0b", "a log")
    for place in ("/dev/null", "a\0b"):
        with pytest.raises(InputError, match="--out"):
            output_file("--out", place)


def test_links_are_followed(places):
    assert regular_file(places / "link", "a file") == places / "link"
    assert output_file("--out", places / "link") == places / "file"
    with replacing(places / "link") as temporary:
        temporary.write_text("new")
    assert (places / "link").is_symlink()
    assert (places / "file").read_text() == "new"
    with replacing(places / "dangling") as temporary:
        temporary.write_text("made")
    assert (places / "nowhere").read_text() == "made"


@pytest.mark.parametrize("name", ["folder", "pipe", "socket", "missing/file", "file/file"])
def test_no_place_for_a_file(places, name):
    before = sorted(os.listdir(places))
    with pytest.raises(InputError, match="--html: found"):
        output_file("--html", places / name)
    assert sorted(os.listdir(places)) == before


@pytest.mark.parametrize("name", ["file", "file/deeper", "pipe"])
def test_no_place_for_a_folder(places, name):
    with pytest.raises(InputError, match="--out: found"):
        output_folder("--out", places / name)


def test_places_leave_nothing(places):
    before = sorted(os.listdir(places))
    assert output_file("--out", places / "new") == places / "new"
    assert output_folder("--out", places / "a" / "b") == places / "a" / "b"
    assert sorted(os.listdir(places)) == before


def test_a_full_disk_leaves_the_old_file(places):
    (places / "file").chmod(0o640)
    with (
        largest_file(100),
        pytest.raises(InputError, match="File too large, expected a place"),
        replacing(places / "file") as new,
    ):
        new.write_text("x" * 1000)
    assert (places / "file").read_text() == "old"
    with replacing(places / "file") as temporary:
        temporary.write_text("new")
    assert (places / "file").stat().st_mode & 0o777 == 0o640
    assert not [name for name in os.listdir(places) if name.endswith(".tmp")]


def test_an_error_inside_leaves_the_old_file(places):
    def interrupted():
        with replacing(places / "file") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (places / "file").read_text() == "old"


def test_a_full_disk_cuts_back(places):
    append_bytes(places / "file", b" and new\n")
    with largest_file(100), pytest.raises(InputError, match="File too large"):
        append_bytes(places / "file", b"y" * 1000)
    assert (places / "file").read_bytes() == b"old and new\n"


def test_every_flipped_byte_of_a_sealed_file(tmp_path):
    data = seal(json.dumps({"seed": 10, "name": "é"}, ensure_ascii=False))
    assert unseal(data) == json.loads(data)
    path = tmp_path / "settings.json"
    for i in range(len(data)):
        for bit in (1, 32):
            path.write_bytes(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :])
            with pytest.raises(InputError, match=r"settings.json: found a damaged file"):
                read_json(path, "settings of a run", sealed=True)


@pytest.mark.parametrize(("data", "found"), [(b"{", "damaged"), (b"[1]", "no JSON object"), (b"\xff", "damaged"),
                                             (b"[" * 100_000, "damaged"), (b"", "damaged")])  # fmt: skip
def test_no_json(tmp_path, data, found):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(InputError, match=found):
        read_json(tmp_path / "x.json", "a report")


def test_text_from_outside():
    error = InputError("a\x1b[31m\u202eb", "x" * 10_000, "an integer")
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert len(str(error)) < 400
    assert shown("line\nline\ttab") == "line\\nline\\ttab"
    assert shown("[b]γ") == "[b]γ"


def test_scalars():
    assert (whole_number("n", 3, 1), real_number("x", 1, 0, 1)) == (3, 1.0)
    for value in (0, 4, 1.0, True, "2", None):
        with pytest.raises(InputError, match=r"n: found .*, expected an integer from 1 to 3"):
            whole_number("n", value, 1, 3)
    for value in (0.0, float("nan"), float("inf"), "1", True, None, 10**400):
        with pytest.raises(InputError, match=r"x: found .*, expected a finite number greater than 0"):
            real_number("x", value, above=0.0)
    for value in (-0.1, 1.0):
        with pytest.raises(InputError, match=r"x: found .*, expected a finite number at least 0 and less than 1"):
            real_number("x", value, 0.0, below=1.0)
    assert real_number("x", float("inf"), above=0.0, infinite=True) == float("inf")
    with pytest.raises(InputError, match="x: found nan, expected a number greater than 0"):
        real_number("x", float("nan"), above=0.0, infinite=True)
    with pytest.raises(InputError, match="kind: found 'c', expected a or b"):
        one_of("kind", "c", ("a", "b"))


def test_concrete():
    import jax
    import jax.numpy as jnp

    seen = []
    jax.jit(lambda x: seen.append(concrete(x)) or x)(jnp.ones(2))
    jax.vmap(lambda x: seen.append(concrete(x)) or x)(jnp.ones(2))
    jax.grad(lambda x: seen.append(concrete(x)) or x)(1.0)
    with unchecked():
        seen.append(concrete(jnp.ones(2)))
    assert seen == [None] * 4
    assert concrete(jnp.ones(2)).tolist() == [1.0, 1.0]
    assert concrete(object()) is None
