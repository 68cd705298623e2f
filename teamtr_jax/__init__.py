"""teamtr_jax: the exact theory of trust-region fine-tuning for teams that share one context (arXiv:2605.15207).

Importing the library changes no global setting. The exact core needs float64: call
``jax.config.update("jax_enable_x64", True)`` first, or every public function says so.

What a first session needs is offered here; each name is imported when it is first used, and jax with it.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teamtr_jax.bounds import ladder
    from teamtr_jax.dynamics.dense import Dense
    from teamtr_jax.dynamics.layered import Layered
    from teamtr_jax.dynamics.successors import Successors
    from teamtr_jax.dynamics.tree import Tree
    from teamtr_jax.stage import run_stage
    from teamtr_jax.surrogates import evaluate_stage
    from teamtr_jax.tabular import exact_backend, team_state
    from teamtr_jax.trust_region.constrained import kl_constrained
    from teamtr_jax.types import Stage, Team

__all__ = ["Team", "Stage", "Dense", "Successors", "Layered", "Tree", "evaluate_stage", "ladder", "exact_backend", "team_state",
           "kl_constrained", "run_stage"]  # fmt: skip

_HOMES = {
    "Team": "types", "Stage": "types", "Dense": "dynamics.dense", "Successors": "dynamics.successors",
    "Layered": "dynamics.layered", "Tree": "dynamics.tree", "evaluate_stage": "surrogates", "ladder": "bounds",
    "exact_backend": "tabular", "team_state": "tabular", "kl_constrained": "trust_region.constrained", "run_stage": "stage",
}  # fmt: skip

_LOCK = RLock()  # two threads that import parts of one circle each wait for the other, or meet a module half made


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("teamtr-jax")
    elif name in _HOMES:
        from importlib import import_module

        with _LOCK:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    hidden = {"annotations", "Any", "RLock", "TYPE_CHECKING"}
    return sorted({*globals(), *_HOMES, "__version__"} - hidden)
