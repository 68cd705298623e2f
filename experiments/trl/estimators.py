"""k1 and k3 on the rollouts that trained, beside the exact KL: `python -m experiments.trl.estimators`, two minutes on a core.

The two agents of `experiments.trl.two_agents`; the exact KL(current‖new) is over the whole vocabulary at the same contexts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from experiments.trl.two_agents import made_team
from teamtr_jax.intervals import mean


def measured(seed: int, stages: int, radius: float) -> list[tuple[float, float, float]]:
    """Exact KL, k3 and k1 of the updates of one run."""
    import torch

    from teamtr_jax.integrations import TeamTRSchedule
    from teamtr_jax.integrations.trl_team import _padded

    sizes = dict(prompts=16, group=8, steps=8, rate=1e-3, length=2, out=Path("results/trl/estimators"))
    team = made_team(argparse.Namespace(**sizes, model=None, device="cpu"), seed)
    torch.manual_seed(seed)
    before, found, train = {}, [], team.train

    def laws(agent: int, rollouts) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary where the agent wrote."""
        trainer = team.trainers[agent]
        ids, attention, own, _ = _padded(trainer, rollouts.data.views[agent])
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, attention_mask=attention).logits
        return torch.log_softmax(logits[:, -own.shape[1] - 1 : -1][own], -1)

    def watched(agent, rollouts, stop):
        before[agent] = rollouts, laws(agent, rollouts)
        return train(agent, rollouts, stop)

    def report(x) -> None:
        rollouts, old = before[x.agent]
        exact = float((old.exp() * (old - laws(x.agent, rollouts))).sum()) / rollouts.reward.size  # one message in each
        found.append((exact, x.kl, x.kl_k1))
        print(f"{seed}: {x.stage}.{x.update}  exact {exact:.4f}  k3 {x.kl:.4f}  k1 {x.kl_k1:.4f}", flush=True)

    team.train = watched
    TeamTRSchedule(team, radius=radius, report=report).train(stages)
    return found


def main() -> None:
    """One line an update, and the means; seeds are the units of the intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--stages", type=int, default=5, help="of two updates")
    parser.add_argument("--radius", type=float, default=0.05, help="δ, nats a message")
    asked = parser.parse_args()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch

    torch.set_num_threads(1)
    runs = np.array([measured(seed, asked.stages, asked.radius) for seed in range(asked.seeds)])
    exact, k3, k1 = runs.mean(1).T
    for name, x in (("exact", exact), ("k3", k3), ("k1", k1), ("k3 − exact", k3 - exact), ("k1 − exact", k1 - exact)):
        print(f"{name}: {mean(x, 0.05)} nats a message")
    ratios = runs[..., 1] / runs[..., 0]
    print(
        f"95 %, t over {asked.seeds} seeds of {runs.shape[1]} updates; k3 / exact, one by one, "
        f"{ratios.min():.2f} to {ratios.max():.2f}"
    )


if __name__ == "__main__":
    main()
