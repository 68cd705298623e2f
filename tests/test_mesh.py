"""Arrays on a mesh, and several processes as one program: as on one device, files by the first, nobody waits for the dead."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks.hlo import collectives, dot_flops, loops_unknown
from benchmarks.scale import Plan, by_hand, table
from teamtr_jax.checkpoint import latest, restore
from teamtr_jax.hosts import as_spread, from_first, gathered, on_first, require_same, start_hosts
from teamtr_jax.llm.backend import LanguageSampling
from teamtr_jax.llm.mesh import by_rows, constrain, mesh_of, placed, require_parts, row_parts, shardings
from teamtr_jax.llm.text_backend import text_backend
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.training import read_records
from teamtr_jax.validation import InputError
from tests import host_runs
from tests.mesh_runs import Letters
from tests.text_teams import agent

ROOT = Path(__file__).parents[1]
RULES = (("kernel$", P(None, "fsdp", "tensor")), ("norm", P()))


def begun(program, *arguments):
    """A process of its own, whose devices are its own choice and whose numbers are float32."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", program, *map(str, arguments)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def ended(process, seconds=240):
    """Exit code and what it said; a process that hangs is a failure, and is ended."""
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, said


# ------------------------------------------------------------------------------------------------------------ eight devices


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """An update on one device and on Mesh(2, 2, 2): leaves by name, and what was sent."""
    path = tmp_path_factory.mktemp("mesh") / "update.npz"
    code, said = ended(begun("tests.mesh_runs", "eight", path))
    assert code == 0, said
    with np.load(path) as found:
        return dict(found), json.loads(path.with_suffix(".json").read_text())


def test_an_update_on_eight_devices_is_that_of_one(update):
    """Parameters, moments, β and every number of the outcome: but for rounding."""
    found, _ = update
    names = [name.removeprefix("one") for name in found if name.startswith("one")]
    assert len(names) > 60
    for name in names:
        one, eight = found[f"one{name}"], found[f"eight{name}"]
        np.testing.assert_allclose(eight, one, rtol=2e-5, atol=2e-6, err_msg=name)
    number = {name.split("'")[1]: float(found[f"one{name}"]) for name in names if ".numbers[" in name}
    assert number["steps"] == 2
    assert number["kl"] > 1e-3  # it moved, by a thousand times the tolerance
    assert abs(number["certificate_estimable"]) > 1e-2


def test_parameters_lie_in_parts(update):
    """A device holds its part of the base and of the adapters: the shapes of its shards."""
    where = update[1]["eight"]["where"]
    assert where == {
        "gate": [[2, 16, 24], [2, 8, 12]],
        "head": [[104, 16], [52, 16]],
        "lora_b": [[2, 2, 24], [2, 2, 12]],
    }


def test_what_an_update_gives_back_lies_where_it_lay(update):
    """Weights and moments, and written alike: otherwise the next update would be compiled again."""
    assert update[1]["eight"]["moved"] == []


def test_no_logits_are_sent(update):
    """No collective has an axis of the vocabulary, whole or halved; a layer's kernels are fetched, activations stay."""
    assert update[1]["one"]["sent"] == []
    sent = update[1]["eight"]["sent"]
    axes = {size for _, shapes, _ in sent for _, shape in shapes for size in shape}
    assert axes.isdisjoint({104, 52})
    gathered = {tuple(shape) for kind, shapes, _ in sent if kind == "all-gather" for _, shape in shapes}
    assert {
        (16, 12),
        (12, 16),
        (16, 8),
        (8, 16),
    } <= gathered  # gate and up, down, q, o: whole over fsdp, halved over tensor
    assert all(24 not in shape for shape in gathered)  # 24: hidden features


def test_the_work_is_divided(update):
    """A device does an eighth of the products, and no more than a tenth of that again."""
    one, eight = (update[1][name]["flops"] for name in ("one", "eight"))
    assert one / 8 <= eight <= 1.1 * one / 8


# ------------------------------------------------------------------------------------------------------------ two processes


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run by two processes, the second of which is killed as stage 1 begins: where, how the first ended, and after how long."""
    folder, port = tmp_path_factory.mktemp("run"), free_port()
    first, second = (
        begun("tests.mesh_runs", "pair", k, port, folder / name, 1) for k, name in enumerate(("run", "other"))
    )
    killed, text = ended(second)
    dead = time.monotonic()
    code, said = ended(first, 60)
    assert killed == -9, text
    return folder, code, said + text, time.monotonic() - dead


def test_one_process_speaks_and_writes(killed):
    """The second was given a folder of its own and made nothing there; each holds parts of base, adapters, moments and rows."""
    folder, _, said, _ = killed
    assert said.count("an update takes") == 1
    assert not (folder / "other").exists()
    assert said.count("rows over 2") == 2
    assert said.count("gate (2, 24, 24) of (2, 48, 48) one base: True") == 2
    assert (
        said.count("6 of lora_b ((2, 2, 24), (2, 2, 48))") == 3
    )  # two agents, two moments each; twice stage 0, once stage 1
    asked = json.loads((folder / "run" / "settings.json").read_text())
    assert asked["mesh"] == "fsdp=2,tensor=2"
    assert asked["hosts"].endswith(",2,0")


def test_nobody_waits_for_a_killed_process(killed):
    """The heartbeat is 6 s: the other process is ended by the runtime, which says why."""
    _, code, said, seconds = killed
    assert code != 0
    assert "another task died" in said
    assert seconds < 30


@pytest.mark.parametrize("how", ["fails", "killed"])
def test_nobody_waits_for_who_never_comes(how):
    """Both are gone 3 s later. jax's defaults: 100 s for one that is killed, 300 s for one that fails, heartbeats or not."""
    port = free_port()
    first, second = (begun("tests.host_runs", "ends", k, port, how) for k in range(2))
    if how == "killed":
        assert ended(second)[0] == -9
    begin = time.monotonic()
    assert ended(first, 90)[0] != 0
    if how == "fails":
        code, said = ended(second)
        assert code != 0
        assert "ValueError: of its own" in said
    assert time.monotonic() - begin < (20 if how == "killed" else 60)


@pytest.fixture(scope="module")
def resumed(killed):
    """The killed run, ended by one process on one device; and the same run by it alone."""
    folder = killed[0]
    assert latest(folder / "run" / "checkpoints") == 1
    code, said = ended(begun("tests.mesh_runs", "resumed", folder / "run", folder))
    assert code == 0, said
    return folder


def same_records(found, expected):
    """Ids to the last, every number but for rounding."""
    assert [x["ids"] for x in found] == [x["ids"] for x in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["info"].keys() == other["info"].keys()
        for name, value in other["info"].items():
            assert one["info"][name] == pytest.approx(value, rel=2e-4, abs=5e-6), name


def test_two_processes_do_what_one_does(resumed):
    """Stage 0, rollouts and the updates of both agents, by two processes on four devices and by one on one."""
    pair, alone = (read_records(resumed / name)[:2] for name in ("run", "alone"))
    same_records(pair, alone)
    for record in pair:
        assert record["info"]["steps"] == 2
        assert record["kl"] > 1e-3
        assert record["info"]["certificate_estimable"] > 1e-2
        assert np.isfinite(float(record["info"]["certificate_finite_sample"]))


def test_a_run_goes_on_with_another_number_of_processes(resumed):
    """Stage 1 by one process, from what two of them saved: as if it had been alone."""
    same_records(*(read_records(resumed / name)[2:] for name in ("run", "alone")))
    with np.load(resumed / "resumed.npz") as found, np.load(resumed / "alone.npz") as expected:
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_checkpoint_holds_what_is_trained(resumed):
    """Adapters, moments and β: the frozen base is not fetched from anywhere, and not written."""
    manifest = json.loads((resumed / "run" / "checkpoints" / "00000002" / "manifest.json").read_text())
    names = [leaf["name"] for leaf in manifest["leaves"]]
    assert sum("lora_a" in name for name in names) == 2 * 3 * 7  # two agents; weights and two moments; seven maps
    assert not [name for name in names if "kernel" in name or "embedding" in name or "scale" in name]


# ------------------------------------------------------------------------------------------------- files, and what is refused


@pytest.fixture(scope="module")
def careful(tmp_path_factory):
    """What two processes found, in a run that one began."""
    folder, port = tmp_path_factory.mktemp("careful"), free_port()
    begin = host_runs.begin(1, jnp.arange(8, dtype=jnp.float32))
    with jax.enable_x64(False):
        host_runs.run(begin, stages=1, folder=folder / "run")
    for code, said in [ended(x) for x in [begun("tests.host_runs", "careful", k, port, folder) for k in range(2)]]:
        assert code == 0, said
    return folder, *(json.loads((folder / f"{k}.json").read_text()) for k in range(2))


def test_every_host_has_arrays_whole_and_the_first_ones_numbers(careful):
    for found in careful[1:]:
        assert found["shard"] == [2]
        assert found["parted"] == list(range(8))
        assert found["sign"] == [True, False]  # −0 of the first, though jax sends by a sum; 0 of the first, not 1


def test_a_failure_of_the_first_ends_all(careful):
    _, first, second = careful
    assert first["failed"] == "InputError: file: found nothing, expected something"
    assert second["failed"] == "FirstFailed: process 0 failed: InputError: file: found nothing, expected something"
    assert "initial state: tree['own']: found other numbers" in first["other"]
    assert second["other"] == f"FirstFailed: process 0 failed: {first['other']}"


def test_leaves_that_differ_between_processes_are_refused(careful):
    """Orbax keeps those of process 0, and says nothing."""
    folder, *found = careful
    expected = "found other numbers on process 1, expected the same on every process"
    assert [x["same"] for x in found] == [f"InputError: state['b']: {expected}"] * 2
    assert [x["differs"] for x in found] == [f"InputError: initial state['own']: {expected}"] * 2
    assert not (folder / "differs" / "checkpoints").exists()


def test_a_run_goes_from_one_process_to_two_and_back(careful):
    """Leaves that lie on all devices come back there; records are written once."""
    folder, *found = careful
    assert [x["run"] for x in found] == [[list(range(3, 11)), 8.0, True]] * 2
    assert [record["stage"] for record in read_records(folder / "run")] == [0, 1, 2]
    with jax.enable_x64(False):
        state, _ = host_runs.run(host_runs.begin(1, jnp.arange(8, dtype=jnp.float32)), stages=4, folder=folder / "run")
    assert state["parted"].tolist() == list(range(4, 12))
    assert state["own"] == 16


def test_a_checkpoint_is_not_read_as_another_dtype(careful):
    """Orbax casts float32 to a bfloat16 that is asked for."""
    like = host_runs.begin(1, jnp.zeros(8, jnp.bfloat16))
    with pytest.raises(InputError, match=r"parted'\]: found float32 \[8\], expected bfloat16 \[8\]"):
        restore(careful[0] / "run" / "checkpoints", like)


def test_one_process_does_everything_itself():
    tree = {"a": jnp.ones(2), "b": 3}
    assert on_first(lambda: 5) == 5
    assert from_first(tree) is tree
    assert gathered(tree)["a"] is tree["a"]
    require_same("tree", tree)
    assert as_spread(tree, tree) == tree
    assert constrain(tree) is tree
    assert by_rows(None, tree) is tree
    assert placed(tree, RULES, None) is tree
    assert row_parts(None) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), "coordinator: found 'localhost', expected host:port"),
        (("localhost:1", 0, 0), "processes: found 0"),
        (("localhost:1", 2, 2), "process_id: found 2, expected an integer from 0 to 1"),
        (("localhost:1", 2, 0), "start_hosts: found .* expected before anything else is asked of jax"),
    ],
)
def test_hosts_that_cannot_start(arguments, message):
    jnp.zeros(1).block_until_ready()
    with pytest.raises(InputError, match=message):
        start_hosts(*arguments)


def test_a_process_that_finds_nobody(tmp_path):
    """The runtime ends it after the time that it was given: no exception, but a message."""
    code, said = ended(begun("tests.host_runs", "careful", 1, free_port(), tmp_path, 1), 60)
    assert code != 0
    assert "DEADLINE_EXCEEDED" in said


def test_what_jax_does_not_find(monkeypatch):
    """No cluster started this process."""
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(
        InputError, match=r"hosts: found coordinator_address .*, expected processes that Slurm, Open MPI"
    ):
        start_hosts()


def mesh():
    """Eight devices that nobody has."""
    return jax.sharding.AbstractMesh((2, 2, 2), ("rows", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"q": {"bias": np.ones(2)}}, "partition of q/bias: found no rule"),
        ({"q": {"kernel": np.ones((2, 2))}}, "partition of q/kernel: found .* for shape .2, 2., expected at most one"),
        (
            {"q": {"kernel": np.ones((3, 2, 3))}},
            r"axis 2 of shape \[3, 2, 3\] over 2 devices \(tensor\), expected a mesh",
        ),
    ],
)
def test_partitions_that_do_not_fit(tree, message):
    with pytest.raises(InputError, match=message):
        shardings(tree, RULES, mesh())


def test_rules_are_looked_for_in_paths():
    tree = {"norm": np.ones(3), "layers": {"q": {"kernel": np.ones((3, 2, 4))}}, "count": np.float32(0)}
    found = shardings(((tree, {"mu": tree}), 1.0 * np.ones(())), RULES, mesh())
    specs = jax.tree.map(lambda x: x.spec, found)
    expected = {"norm": P(), "layers": {"q": {"kernel": RULES[0][1]}}, "count": P()}
    assert specs == ((expected, {"mu": expected}), P())
    written = shardings({"lora_a": np.ones((2, 4, 3))}, (("lora_a", P(None, "fsdp", None)),), mesh())["lora_a"].spec
    assert tuple(written) == (None, "fsdp")  # as XLA writes it
    with pytest.raises(InputError, match="axis 'columns', expected one of"):
        shardings(tree, ((".*", P("columns")),), mesh())


def test_meshes_that_do_not_fit():
    with pytest.raises(InputError, match=r"rows, fsdp, tensor: found 2 × 1 × 3 = 6 devices, expected 1"):
        mesh_of(2, 1, 3, jax.devices()[:1])
    with pytest.raises(InputError, match="fsdp: found 0"):
        mesh_of(1, 0, 1)


def test_rows_that_do_not_divide():
    with pytest.raises(InputError, match=r"rows: found 6 rows over 4 devices .*pad with rows of weight 0"):
        by_rows(mesh(), np.ones((6, 2)))
    require_parts(mesh(), "rows", 8)
    require_parts(None, "rows", 7)


@pytest.mark.parametrize(("changes", "name"), [({"micro_batch": 2}, "micro_batch"), ({"group": 3}, "prompts, group")])
def test_a_backend_whose_rows_do_not_divide(changes, name):
    settings = UpdateSettings(micro_batch=changes.get("micro_batch", 4))
    sampling = LanguageSampling(prompts=2, group=changes.get("group", 2))
    team = TextTeam((agent("a"), agent("b")), 2)
    with pytest.raises(InputError, match=f"{name}: found . rows over 4 devices"):
        text_backend(team, (), Letters(), settings, sampling, mesh=mesh())


def test_loops_are_counted():
    """XLA's analysis counts the body of a scan once; `benchmarks.hlo` as often as it runs, also where one is in another."""

    def inner(x, _):
        return jnp.tanh(x @ x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, length=5)[0] + 1, None

    program = jax.jit(lambda x: jax.lax.scan(outer, x, length=3)[0]).lower(jnp.ones((4, 4), jnp.float32)).compile()
    assert dot_flops(program.as_text()) == 3 * 5 * 2 * 4**3
    assert loops_unknown(program.as_text()) == 0
    assert program.cost_analysis()["flops"] < 3 * 2 * 4**3
    assert collectives(program.as_text()) == []


RING = """HloModule ring

%body (a: (u32[], f32[4,8])) -> (u32[], f32[4,8]) {
  %a = (u32[], f32[4,8]{1,0}) parameter(0)
  %i = u32[] get-tuple-element(%a), index=0
  %two = u32[] constant(2)
  %x = f32[4,8]{1,0} get-tuple-element(%a), index=1
  %y = f32[4,8]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %next = u32[] add(%i, %two)
  ROOT %out = (u32[], f32[4,8]{1,0}) tuple(%next, %y)
}

%test (b: (u32[], f32[4,8])) -> pred[] {
  %b = (u32[], f32[4,8]{1,0}) parameter(0)
  %j = u32[] get-tuple-element(%b), index=0
  %end = u32[] constant(6)
  ROOT %less = pred[] compare(%j, %end), direction=LT
}

%part (c: f32[2,8]) -> f32[4,8] {
  %c = f32[2,8]{1,0} parameter(0)
  ROOT %whole = f32[4,8]{1,0} all-gather(%c), channel_id=2, dimensions={0}
}

ENTRY %main (d: f32[2,8]) -> (u32[], f32[4,8]) {
  %d = f32[2,8]{1,0} parameter(0)
  %zero = u32[] constant(0)
  %begun = f32[4,8]{1,0} fusion(%d), kind=kCustom, calls=%part
  %done = f32[4,8]{1,0} fusion(%d), kind=kCustom, calls=%part.1
  %start = (u32[], f32[4,8]{1,0}) tuple(%zero, %done)
  ROOT %loop = (u32[], f32[4,8]{1,0}) while(%start), condition=%test, body=%body
}
"""


def test_what_a_tpus_compiler_writes_is_read():
    """A ring whose counter goes in twos runs three times; the two halves of a collective that overlaps are one."""
    text = RING.replace(
        "ENTRY",
        RING[RING.index("%part") : RING.index("ENTRY")].replace("%part", "%part.1").replace("%whole", "%other")
        + "ENTRY",
    )
    found = [(x.kind, x.size, x.times) for x in collectives(text)]
    assert found == [("collective-permute", 128, 3), ("all-gather", 128, 1)]
    assert loops_unknown(text) == 0


def test_the_page_shows_what_was_found():
    """Both tables of docs/scale.md are those of the committed files, and XLA agrees with the formulas."""
    page, results = (ROOT / "docs" / "scale.md").read_text(), ROOT / "benchmarks" / "results" / "scale"
    for names in (("1x32x2-v5e", "1x32x2-cpu"), ("8x1x8-cpu", "8x1x1-cpu")):
        assert table([results / f"{name}.json" for name in names]) in page
    for path in results.glob("*.json"):
        found = json.loads(path.read_text())
        plan = Plan(**{**found["plan"], "mesh": tuple(found["plan"]["mesh"])})
        assert found["by_hand"] == by_hand(plan)
        for part in ("base_bytes", "adapter_bytes", "moments_bytes"):
            assert found["arguments"][part] == pytest.approx(found["by_hand"][part], rel=1e-3)
        half = 0.5 if found["target"] == "cpu" else 1  # it sends float32
        fetched = half * sum(
            found["collectives"].get(x, {"bytes": 0})["bytes"] for x in ("all-gather", "collective-permute")
        )
        assert fetched == pytest.approx(found["by_hand"]["gathered_bytes"], rel=0.07, abs=2e8)
        if found["target"] == "cpu":  # in the other one, products are inside fusions
            assert found["dot_flops"] == pytest.approx(found["by_hand"]["update_flops"], rel=0.02)
        assert found["vocabulary_wide_collectives"] == 0
