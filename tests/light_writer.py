"""A program of its own: a log is written by processes that are killed, and by two at once. Says what is found, as a JSON object.

`python light_writer.py FOLDER`
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from teamtr_jax.integrations import LogWriter, Sampler, log_writer
from teamtr_jax.monitor import read_token_log, token_rows

SAMPLER = Sampler(temperature=0.7, precision="bfloat16")


def rows(writer, update, prompts=3):
    prompt, rollout = writer.ids(prompts, 2)
    logp = np.full((2 * prompts, 4), -0.5)
    about = dict(stage=0, update=update, source=update, agent=0, turn=0, prompt=prompt, rollout=rollout, reward=0.0)
    return token_rows(np.ones(logp.shape), logp_behaviour=logp, logp_current=logp, logp_new=logp, **about)


def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def half(write, path, *arguments):
    write(path, *arguments)
    os.truncate(path, path.stat().st_size // 2)
    kill()


def die_in(place):
    """From now on this process is killed in the middle of a flush."""
    write, replace = log_writer.write_parquet, Path.replace
    if place == "an empty temporary file":
        log_writer.write_parquet = kill
    elif place == "half a temporary file":
        log_writer.write_parquet = lambda *arguments: half(write, *arguments)
    elif place == "a whole temporary file":
        Path.replace = kill
    elif place == "a part":
        Path.replace = lambda path, target: (replace(path, target), kill())


def in_child(work):
    """Start a process that does it."""
    if pid := os.fork():
        return pid
    try:
        work()
    except BaseException as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)
    os._exit(0)


def killed(folder, place, update):
    def work():
        writer = LogWriter(folder, sampler=SAMPLER)
        writer.add(rows(writer, update))
        writer.flush()
        writer.add(rows(writer, update + 1))
        die_in(place)
        writer.flush()

    _, status = os.waitpid(in_child(work), 0)
    with LogWriter(folder, sampler=SAMPLER) as writer:  # nobody holds the folder any more
        last = writer.last
    log = read_token_log(folder)
    return {"signal": os.WTERMSIG(status), "last": last, "updates": np.unique(log.update).tolist(), "rows": log.rows,
            "prompts": np.unique(log.prompt).size, "sampler": log.sampler == SAMPLER}  # fmt: skip


def at_once(folder, processes):
    def work(process):
        with LogWriter(folder, sampler=SAMPLER, process=process, processes=processes) as writer:
            for update in range(4):
                writer.add(rows(writer, update))

    children = [in_child(lambda process=process: work(process)) for process in range(processes)]
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    log = read_token_log(folder)
    first = log.transcripts[:-1]
    return {
        "codes": codes,
        "rows": log.rows,
        "transcripts": len({*zip(log.prompt[first].tolist(), log.rollout[first].tolist(), strict=True)}),
    }


if __name__ == "__main__":
    home = Path(sys.argv[1])
    places = ("an empty temporary file", "half a temporary file", "a whole temporary file", "a part")
    found = {place: killed(home / str(number), place, 0) for number, place in enumerate(places)}
    sys.stdout.write(json.dumps({"killed": found, "at once": at_once(home / "several", 2), "modules": [*sys.modules]}))
