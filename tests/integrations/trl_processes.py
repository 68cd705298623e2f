"""One of the processes of a distributed run: `torchrun trl_processes.py FOLDER ROWS`; writes what it saw beside the log."""

import pickle
import sys
from pathlib import Path

from trl_runs import trainer

import conftest  # noqa: F401  the environment
from teamtr_jax.integrations.trl import watch


def main(folder, rows):
    made, seen = trainer(folder, per_device_train_batch_size=rows, max_steps=2, num_iterations=2, logging_steps=1)
    rank = made.accelerator.process_index
    watch(made, folder / "log")
    made.train()
    made.teamtr_watch.close()
    scalars = [{k: v for k, v in x.items() if k.startswith("teamtr/")} for x in made.state.log_history]
    (folder / f"seen{rank}.pickle").write_bytes(pickle.dumps((seen.sampled, seen.before, seen.after, scalars)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
