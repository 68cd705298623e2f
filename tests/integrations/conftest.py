"""The real libraries, tiny random networks, no network connection: what the tests of all integrations share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
os.environ.update(
    CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false"
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
for place in (ROOT, Path(__file__).parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


@pytest.fixture(scope="session")
def monitored():
    """The records of `teamtr monitor --json`, by stage and update; the command is that of the repository's own environment."""

    def run(log, *options):
        command = [
            os.environ.get("TEAMTR_PYTHON", str(ROOT / ".venv/bin/python")),
            "-m",
            "teamtr_jax.cli",
            "monitor",
            str(log),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([*command, "--json", *options], capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        records = map(json.loads, done.stdout.splitlines())
        return {(record["stage"], record["update"]): record for record in records}

    return run
