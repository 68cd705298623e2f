"""What `adapter_config.json` of PEFT says: which linear maps have adapters, of which rank and scale, as PEFT 0.21 reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import LINEARS, Lora
from teamtr_jax.llm.llama.tensors import hf_names
from teamtr_jax.validation import InputError, positive, whole_number

__all__ = ["adapter_config", "lora_of", "module_name"]

PASSED_BY = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}
"""Entries that change nothing of what a loaded adapter computes. There is no dropout here."""

READ = {"alpha_pattern", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_alpha", "r", "rank_pattern",
        "target_modules", "use_rslora"}  # fmt: skip
VALUES: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Entries with the values that are read. Other ways to begin (pissa, olora, …) change the base, which is not in the folder."""

OUTSIDE = ("model.embed_tokens", "lm_head")


def module_name(model: LlamaConfig, linear: str, layer: int) -> str:
    """What transformers calls a linear map, such as ``model.layers.3.self_attn.q_proj``."""
    return hf_names(model)["layers", linear, "kernel"].format(layer).removesuffix(".weight")


def lora_of(json: Mapping[str, Any], model: LlamaConfig) -> Lora:
    """The adapters that a config describes beside a network.

    Args:
      json: the entries of the file.

    Raises:
      InputError: names the entry: another method than LoRA, an entry that changes something else than the linear maps of layers
        (biases, whole modules, embeddings, the head), a way to begin that changes the base, no module that fits.
    """
    _require_plain(json)
    names = {(m, i): module_name(model, m, i) for m in LINEARS for i in range(model.layers)}
    plan = _Plan.of(json, names.values())
    for name in OUTSIDE:
        if plan.takes(name):
            raise InputError(
                "target_modules", name, "linear maps of layers: on a tied table PEFT merges and reloads it wrong"
            )
    taken = {at: name for at, name in names.items() if plan.takes(name)}
    if not taken:
        raise InputError("target_modules", repr(plan.targets), "the name of a linear map of the network")
    rank, alpha = whole_number("r", json.get("r", 8), 1), positive("lora_alpha", json.get("lora_alpha", 8))
    ranks = _pattern(json, "rank_pattern", lambda value: whole_number("rank_pattern", value, 1))
    alphas = _pattern(json, "alpha_pattern", lambda value: positive("alpha_pattern", value))
    found_ranks = {at: _matching(ranks, name, rank)[0] for at, name in taken.items()}
    found_alphas = {}
    for at, name in taken.items():
        if len(set(values := _matching(alphas, name, alpha))) > 1:
            raise InputError(
                "alpha_pattern",
                f"{' and '.join(map(repr, values))} for {name}",
                "one: PEFT takes the first, sorts the patterns when it saves, and so may load another scale than it trained",
            )
        found_alphas[at] = values[0]
    targets = tuple(m for m in LINEARS if any(at[0] == m for at in taken))
    every = [(m, i) for m in targets for i in range(model.layers)]
    return Lora(
        rank=rank,
        alpha=alpha,
        targets=targets,
        rslora=bool(json.get("use_rslora")),
        ranks=_exceptions({at: found_ranks.get(at, 0) for at in every}, rank, model.layers),
        alphas=_exceptions({at: found_alphas.get(at, alpha) for at in every}, alpha, model.layers),
    )


def adapter_config(lora: Lora, model: LlamaConfig, base: str) -> dict[str, Any]:
    """The entries of `adapter_config.json`, such that `lora_of` and PEFT read the same ranks and scales.

    Args:
      base: `base_model_name_or_path`, where PEFT looks for the network if asked to.
    """
    every = [(m, i) for m in lora.targets for i in range(model.layers)]
    names = {at: module_name(model, *at) for at in every if lora.rank_of(*at)}
    whole = len(names) == len(every)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": sorted({name.split(".")[-1] if whole else name for name in names.values()}),
        "rank_pattern": {name: rank for at, name in names.items() if (rank := lora.rank_of(*at)) != lora.rank},
        "alpha_pattern": {name: alpha for at, name in names.items() if (alpha := lora.alpha_of(*at)) != lora.alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "inference_mode": True,
    }


class _Plan(NamedTuple):
    """Which modules a config takes."""

    targets: str | tuple[str, ...]  #: a regular expression, or names and ends of names
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]  #: empty: all
    patterns: tuple[str, ...]  #: what the list of layers is called; empty: anything

    @classmethod
    def of(cls, json: Mapping[str, Any], linears: Collection[str]) -> _Plan:
        targets = _names(json, "target_modules")
        if not targets:
            raise InputError("target_modules", repr(targets), "names, or a regular expression")
        if isinstance(targets, str) and targets.lower() == "all-linear":
            targets = tuple(name.split(".")[-1] for name in linears)
        layers = json.get("layers_to_transform")
        layers = [] if layers is None else layers if isinstance(layers, list | tuple) else [layers]
        if isinstance(targets, str) and layers:
            raise InputError("layers_to_transform", repr(layers), "none beside a regular expression: PEFT refuses it")
        patterns = _names(json, "layers_pattern")
        return cls(
            targets,
            _names(json, "exclude_modules"),
            tuple(whole_number("layers_to_transform", layer, 0) for layer in layers),
            (patterns,) if isinstance(patterns, str) else patterns,
        )

    def takes(self, name: str) -> bool:
        """Whether the module of this name gets an adapter: in PEFT's order of questions."""
        if self.excluded and _matches(self.excluded, name):
            return False
        if not _matches(self.targets, name):
            return False
        if isinstance(self.targets, str) or name in self.targets or not self.layers:
            return True
        parts = self.patterns or (r"[^.]*",)
        found = (_compiled("layers_pattern", rf"(?:^|.*?\.){part}\.(?P<layer>\d+)\.").match(name) for part in parts)
        layer = next((match["layer"] for match in found if match), None)
        return layer is not None and int(layer) in self.layers


def _matches(names: str | tuple[str, ...], name: str) -> bool:
    if isinstance(names, str):
        return _compiled("target_modules", names).fullmatch(name) is not None
    return any(name == end or name.endswith(f".{end}") for end in names)


def _names(json: Mapping[str, Any], key: str) -> str | tuple[str, ...]:
    value = json.get(key) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InputError(key, repr(value), "a text or a list of texts")
    return tuple(value)


def _pattern(json: Mapping[str, Any], key: str, read: Callable[[Any], Any]) -> dict[re.Pattern[str], Any]:
    """The entries of `rank_pattern` or `alpha_pattern`: of each key the names that it fits, and its value."""
    entries = json.get(key) or {}
    if not isinstance(entries, Mapping):
        raise InputError(key, repr(entries), "an object: from the end of a name to a number")
    return {_compiled(key, rf"(.*\.)?({end})$"): read(value) for end, value in entries.items()}


def _compiled(key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(key, repr(text), f"a regular expression ({error})") from error


def _matching(pattern: Mapping[re.Pattern[str], Any], name: str, otherwise: Any) -> list[Any]:
    """The values of the keys that fit the end of a name; PEFT takes the first."""
    return [value for end, value in pattern.items() if end.match(name)] or [otherwise]


def _exceptions(
    values: Mapping[tuple[str, int], Any], usual: Any, layers: int
) -> tuple[tuple[str, int | None, Any], ...]:
    """`Lora`'s triples of the values that are not the usual one; one triple for a module with one value."""

    def of_each() -> Iterator[tuple[str, int | None, Any]]:
        for module in dict.fromkeys(module for module, _ in values):
            found = [values[module, layer] for layer in range(layers)]
            if len(set(found)) == 1:
                yield from [(module, None, found[0])] if found[0] != usual else []
            else:
                yield from ((module, layer, value) for layer, value in enumerate(found) if value != usual)

    return tuple(of_each())


def _require_plain(json: Mapping[str, Any]) -> None:
    for key, value in json.items():
        if key in PASSED_BY or key in READ:
            continue
        if key in VALUES:
            if not any(value is kept if isinstance(kept, bool | None) else value == kept for kept in VALUES[key]):
                raise InputError(key, repr(value), " or ".join(map(repr, VALUES[key])))
        elif value not in (None, False, [], {}, ""):
            raise InputError(key, repr(value), "no such entry, or an empty one: what it changes is not read here")
    for key in ("peft_type", "target_modules"):
        if key not in json:
            raise InputError(key, "no such entry", "an adapter_config.json of PEFT's LoRA")
