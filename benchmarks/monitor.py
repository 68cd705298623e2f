"""How long `teamtr monitor` takes for a log of a million rows: python -m benchmarks.monitor [--rows N] [--folder DIR]."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from teamtr_jax.llm.monitor import Settings, monitor, read_token_log, show, write_page, write_token_log

AGENTS, TOKENS, GROUP, STAGES = 3, 16, 8, 4


def made_up(rows: int, again: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """A log of about `rows` rows: stages of three updates; with `again` the stage's start is scored at every update."""
    rng = np.random.default_rng(seed)
    length = AGENTS * TOKENS
    sets = STAGES * (2 * AGENTS - 1 if again else AGENTS)
    rollouts = rows // (sets * length) // GROUP * GROUP
    n = rollouts * length
    agent = np.tile(np.repeat(np.arange(AGENTS), TOKENS), rollouts)
    token, rollout = np.tile(np.arange(TOKENS), AGENTS * rollouts), np.repeat(np.arange(rollouts), length)
    parts = []

    def add(
        stage: int, update: int, shift: int, behaviour: np.ndarray, current: np.ndarray, reward: np.ndarray
    ) -> np.ndarray:
        new = np.where(agent == update, np.minimum(current + 0.03 * rng.normal(size=n), 0.0), current)
        parts.append(
            dict(
                prompt=rollout // GROUP,
                rollout=rollout % GROUP + GROUP * shift,
                stage=np.full(n, stage),
                update=np.full(n, update),
                agent=agent,
                turn=agent,
                t=token,
                logp_behaviour=behaviour,
                logp_current=current,
                logp_new=new,
                reward=np.repeat(reward, length),
            )
        )
        return new

    for stage in range(STAGES):
        start = scored = -rng.exponential(1.0, n)
        outcome = (rng.random(rollouts) < 0.5).astype(float)
        for update in range(AGENTS):
            if update == 0 or again:
                scored = add(stage, update, 0, start, scored, outcome)
            if update > 0:
                fresh = -rng.exponential(1.0, n)
                add(stage, update, update, fresh, fresh, (rng.random(rollouts) < 0.5).astype(float))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def timed(work: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """What `work` returns; wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    out = work()
    return out, np.array([time.perf_counter() - wall, time.process_time() - processor])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for again in (False, True):
            table = made_up(options.rows, again)
            kind = "new rollouts and the start scored again" if again else "new rollouts only"
            print(f"{table['t'].size} rows, {kind}; wall s (processor s)")
            for form in ("parquet", "jsonl"):
                path = folder / f"log.{form}"
                took = {"write": timed(lambda: write_token_log(path, table, check=False))[1]}  # noqa: B023
                log, took["read"] = timed(lambda: read_token_log(path))  # noqa: B023
                report, took["report"] = timed(lambda: monitor(log, Settings()))  # noqa: B023
                with contextlib.redirect_stdout(io.StringIO()):
                    took["show"] = timed(lambda: show(report, str(path)))[1]  # noqa: B023
                took["page"] = timed(lambda: write_page(report, folder / "page.html", str(path)))[1]  # noqa: B023
                took["read to page"] = sum((took[name] for name in ("read", "report", "show", "page")), np.zeros(2))
                each = ", ".join(f"{name} {wall:.2f} ({processor:.2f})" for name, (wall, processor) in took.items())
                print(f"  {form:8} {path.stat().st_size / 1e6:.0f} MB: {each}")


if __name__ == "__main__":
    main()
