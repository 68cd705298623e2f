"""Token logs whose truth is known: a team of tables over whole transcripts, every transcript enumerated, plain NumPy."""

from typing import NamedTuple

import numpy as np


class World(NamedTuple):
    """Q prompts; `turns` messages of `length` tokens each; owner of a turn; conditional tables of every hybrid."""

    owners: tuple[int, ...]
    length: int
    letters: int
    tables: list  #: [hybrid][t]: [Q, V^t, V]
    order: tuple[int, ...]
    reward: np.ndarray  #: [Q, V^T]

    @property
    def tokens(self):
        return len(self.owners) * self.length


def world(rng, owners=(0, 1, 2, 0, 1, 2), length=1, letters=2, prompts=3, step=0.25, order=(0, 1, 2)) -> World:
    T = len(owners) * length
    first = [rng.dirichlet(np.full(letters, 3.0), (prompts, letters**t)) for t in range(T)]
    target = [np.exp(np.log(p) + step * rng.normal(size=p.shape)) for p in first]
    target = [p / p.sum(-1, keepdims=True) for p in target]
    hybrids, updated = [first], set()
    for agent in order:
        updated.add(agent)
        hybrids.append([target[t] if owners[t // length] in updated else first[t] for t in range(T)])
    reward = (rng.random((prompts, letters**T)) < 0.5).astype(float)
    return World(owners, length, letters, hybrids, order, reward)


def log_probs(w: World, tables):
    """[Q, V^T, T]: the log-probability of every token of every transcript."""
    Q, V, T = w.reward.shape[0], w.letters, w.tokens
    index = np.arange(V**T)
    out = np.zeros((Q, V**T, T))
    for t in range(T):
        prefix, letter = index // V ** (T - t), index // V ** (T - t - 1) % V
        out[:, :, t] = np.log(tables[t])[:, prefix, letter]
    return out


class Truth(NamedTuple):
    J: np.ndarray
    K: np.ndarray  #: Σ KL over the episode, under the team before the update
    path: np.ndarray  #: [n+1] KL(π̂⁰ ‖ π̂ⁱ) of the transcript
    surrogate: np.ndarray
    stale: np.ndarray
    cached: np.ndarray
    gap: np.ndarray
    matrix: np.ndarray


def truth(w: World) -> Truth:
    """By the definitions of theory/derivations/notation.md, a message being one action; the prompt is uniform."""
    n, V, L = len(w.order), w.letters, w.length
    Q = w.reward.shape[0]
    lp = [log_probs(w, tables) for tables in w.tables]
    p = [np.exp(x.sum(-1)) / Q for x in lp]
    J = np.array([(x * w.reward).sum() for x in p])
    solo = []
    for k in w.order:
        own = np.repeat(np.array(w.owners) == k, L)
        solo.append(np.exp(np.where(own, lp[-1], lp[0]).sum(-1)) / Q)

    def at(prob, t):  # mass of prefixes of t tokens
        return prob.reshape(Q, V**t, -1).sum(-1)

    def g(i, j=None):  # g_i with the value function of hybrid j (default i − 1), at every turn
        j = i - 1 if j is None else j
        out = []
        for turn in range(len(w.owners)):
            a, b = turn * L, (turn + 1) * L
            q = (p[j] * w.reward).reshape(Q, V**b, -1).sum(-1) / at(p[j], b)
            message = [at(p[h], b).reshape(Q, V**a, -1) / at(p[h], a)[..., None] for h in (i - 1, i)]
            out.append(((message[1] - message[0]) * q.reshape(Q, V**a, -1)).sum(-1))
        return out

    def under(prob, gs):
        return sum((at(prob, turn * L) * x).sum() for turn, x in enumerate(gs))

    K = np.array([(p[i] * (lp[i] - lp[i + 1]).sum(-1)).sum() for i in range(n)])
    path = np.array([(p[0] * (lp[0] - x).sum(-1)).sum() for x in lp])
    seq = np.array([under(p[i], g(i + 1)) for i in range(n)])
    stale = np.array([under(p[0], g(i + 1)) for i in range(n)])
    cached = np.array([under(p[0], g(i + 1, 0)) for i in range(n)])
    matrix = np.array([[under(solo[k], g(i + 1)) - under(p[0], g(i + 1)) for i in range(n)] for k in range(n)])
    return Truth(J, K, path, seq, stale, cached, np.diff(J) - seq, matrix)


def rows(w: World, hybrid: int, update: int, prompt, rollout, question, index, stage=0) -> dict:
    """The rows of transcripts `index` [N] of question [N], written by `hybrid` and scored at `update`."""
    behaviour, current, new = (log_probs(w, w.tables[h])[question, index] for h in (hybrid, update, update + 1))
    N, T = behaviour.shape
    turn, t = np.divmod(np.arange(T), w.length)
    return {
        "prompt": np.repeat(prompt, T),
        "rollout": np.repeat(rollout, T),
        "stage": np.full(N * T, stage),
        "update": np.full(N * T, update),
        "agent": np.tile(np.array(w.owners)[turn], N),
        "turn": np.tile(turn, N),
        "t": np.tile(t, N),
        "logp_behaviour": behaviour.ravel(),
        "logp_current": current.ravel(),
        "logp_new": new.ravel(),
        "reward": np.repeat(w.reward[question, index], T),
    }


def joined(parts) -> dict:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def every_transcript(w: World, hybrid: int, update: int) -> tuple[dict, np.ndarray]:
    """Every transcript as a prompt of its own, in order, and its probability under `hybrid`."""
    Q, N = w.reward.shape
    question, index = (x.ravel() for x in np.indices((Q, N)))
    weight = np.exp(log_probs(w, w.tables[hybrid]).sum(-1)).ravel() / Q
    return rows(w, hybrid, update, np.arange(Q * N), np.zeros(Q * N, int), question, index), weight


def sampled(w: World, rng, prompts: int, group: int, fresh: bool = True, again: bool = True) -> dict:
    """A stage: new rollouts for every update (ids of their own), and those of the start scored again at every update."""
    parts = []
    cumulative = [np.cumsum(np.exp(log_probs(w, tables).sum(-1)), -1) for tables in w.tables]
    question = rng.integers(0, w.reward.shape[0], prompts)

    def draw(hybrid):
        u = rng.random((prompts, group))
        c = cumulative[hybrid][question]
        return np.array([np.searchsorted(c[b] / c[b, -1], u[b], "right") for b in range(prompts)]).ravel()

    ids = np.repeat(np.arange(prompts), group), np.tile(np.arange(group), prompts)
    start = draw(0)
    for update in range(len(w.order)):
        if update == 0 or again:
            parts.append(rows(w, 0, update, *ids, question[ids[0]], start))
        if update > 0 and fresh:
            parts.append(rows(w, update, update, ids[0], ids[1] + group * update, question[ids[0]], draw(update)))
    return joined(parts)


def write_folder(folder, columns, sampler, processes: int = 1):
    """A log as a folder of parts: `processes` writers take turns, each has the prompts that are its number modulo so many."""
    from teamtr_jax.integrations import LogWriter

    for process in range(processes):
        with LogWriter(folder, sampler=sampler, process=process, processes=processes) as writer:
            mine = columns["prompt"] % processes == process
            for stage, update in sorted(
                {*zip(columns["stage"][mine].tolist(), columns["update"][mine].tolist(), strict=True)}
            ):
                here = mine & (columns["stage"] == stage) & (columns["update"] == update)
                writer.add({key: column[here] for key, column in columns.items()})
    return folder
