"""Two processes on one machine (gloo): one log, whole groups, ids that do not collide, scalars of all."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import numbers
from test_trl import agree, agree_with_monitor
from trl_runs import expected, logged, network, read


@pytest.mark.parametrize("rows", [4, 3])  # 3: a group begins on one process and ends on the next
def test_two_processes_write_one_log(tmp_path, monitored, rows):
    script = Path(__file__).with_name("trl_processes.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(rows)], capture_output=True, text=True, env=dict(os.environ), timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = [pickle.loads((tmp_path / f"seen{rank}.pickle").read_bytes()) for rank in (0, 1)]  # noqa: S301  our own
    for a, b in zip(seen[0][2], seen[1][2], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    folder = tmp_path / "log"
    names = sorted(path.name for path in folder.glob("*.parquet"))
    assert [name.split("-")[2] for name in names] == ["0000", "0001"] * 2
    table, records = read(folder), monitored(folder)
    for step in range(2):
        # generated once: two accumulated batches of each process; TRL's order is that of the processes
        both = [SimpleNamespace(sampled=s[0], before=s[1], after=s[2]) for s in seen]
        want = [r for one in both for r in expected(one, network(), step, 0)]
        assert len(want) == 4 * rows
        log = logged(table, step)
        agree(log, want)
        assert [r.prompt for r in log] == sorted(r.prompt for r in log)
        sizes = table[table["update"] == step].groupby("prompt")["rollout"].nunique()
        assert set(sizes) == {4}
        named = {w.prompt: r.prompt for w, r in zip(want, log, strict=True)}
        assert [named[w.prompt] for w in want] == [r.prompt for r in log]
        agree_with_monitor(records[0, step], want, fresh=step == 0)
        for scalars in (s[3][step] for s in seen):  # the same on both
            assert scalars["teamtr/kl_k3"] == pytest.approx(numbers(want, step == 0)["kl_k3"], abs=2e-5)
            assert scalars["teamtr/ess"] == pytest.approx(numbers(want, step == 0)["ess"], abs=2e-5)
    assert np.isfinite(table["logp_again"]).sum() > 0
