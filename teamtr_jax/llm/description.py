"""What a checkpoint says about a team: vocabulary, layout and networks, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from teamtr_jax.llm.layout import Layout, Router, Vocabulary, random_router, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

__all__ = [
    "describe_team",
    "described_team",
    "team_from_description",
    "vocabulary_of",
    "models_of",
    "sharing_of",
    "vocabulary_difference",
]

LAYOUT = ("prompt", "message", "turns", "caps", "temperature")


def describe_team(team: LanguageTeam) -> dict[str, Any]:
    """The fixed part of a team as JSON: ``metadata["team"]`` of a checkpoint, or ``settings["team"]`` of a run.

    Raises:
      InputError: names a network that is not the toy's: only those are described by their sizes.

    Example:
      >>> from teamtr_jax.llm.layout import Layout, Vocabulary, round_robin
      >>> layout = Layout(Vocabulary("01", 2), prompt=1, message=2, turns=2, router=round_robin(2))
      >>> team = LanguageTeam(layout, (ModelConfig(8, 1, 1), ModelConfig(16, 1, 1)))
      >>> about = describe_team(team)
      >>> about["vocabulary"], about["models"][1]["width"], team_from_description(about) == team
      ({'characters': '01', 'agents': 2, 'prompt_only': '', 'ends': True}, 16, True)
      >>> alike = LanguageTeam(layout, (ModelConfig(8, 1, 1),) * 2, Sharing((0, 0), "joint"))
      >>> describe_team(alike)["sharing"], team_from_description(describe_team(alike)) == alike
      ({'sharers': [0, 0], 'updates': 'joint'}, True)
    """
    layout = team.layout
    for agent, config in enumerate(team.models):
        if not isinstance(config, ModelConfig):
            raise InputError(
                f"models[{agent}]", repr(config), "a ModelConfig: another network is not described by its sizes"
            )
    about: dict[str, Any] = {name: getattr(layout, name) for name in LAYOUT}
    about["caps"] = None if layout.caps is None else list(layout.caps)
    return {
        "vocabulary": asdict(layout.vocabulary),
        "layout": {**about, "router": layout.router.name},
        "models": [asdict(config) for config in team.models if isinstance(config, ModelConfig)],
    } | ({} if team.who.apart else {"sharing": {"sharers": list(team.who.sharers), "updates": team.who.updates}})


def team_from_description(about: Mapping[str, Any], router: Router | None = None) -> LanguageTeam:
    """The team that `describe_team` described.

    Args:
      router: needed where it is neither `round_robin` nor `random_router`: a router is code.

    Raises:
      InputError: names a key that is missing or not known, or the router.
    """
    vocabulary = vocabulary_of(about)
    known = {r.name: r for r in (round_robin(vocabulary.agents), random_router(vocabulary.agents))}
    layout = _part(about, "layout")
    if not isinstance(layout, Mapping):
        raise InputError("description of a team: layout", repr(layout), "a mapping of settings")
    layout = dict(layout)
    name = layout.pop("router", None)
    if router is None:
        if name not in known:
            raise InputError("router", repr(name), f"one of {sorted(known)}, or the argument `router`")
        router = known[name]
    elif router.name != name:
        raise InputError("router", repr(router.name), f"{name!r}, as in the description")
    if unknown := [key for key in (*LAYOUT, *layout) if (key in LAYOUT) != (key in layout)]:
        raise InputError(
            f"layout: {unknown[0]}", "missing" if unknown[0] in LAYOUT else "an unknown key", f"the keys {LAYOUT}"
        )
    caps = layout["caps"]
    made = Layout(vocabulary, **{**layout, "caps": None if caps is None else tuple(caps), "router": router})
    return LanguageTeam(made, models_of(about), sharing_of(about))


def vocabulary_of(about: Mapping[str, Any]) -> Vocabulary:
    """The tokenizer of a described team."""
    return _made(Vocabulary, "vocabulary", _part(about, "vocabulary"))


def models_of(about: Mapping[str, Any]) -> tuple[ModelConfig, ...]:
    """The networks of a described team."""
    models = _part(about, "models")
    if not isinstance(models, list | tuple):
        raise InputError("description of a team: models", repr(models), "a list of networks")
    return tuple(_made(ModelConfig, "models", config) for config in models)


def sharing_of(about: Mapping[str, Any]) -> Sharing | None:
    """Who shares parameters in a described team; `None` where nobody does."""
    return _made(Sharing, "sharing", about["sharing"]) if "sharing" in about else None


def described_team(metadata: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The description in the metadata of a checkpoint: under ``team``, or under ``settings`` → ``team`` (`training.train`).

    Raises:
      InputError: if there is none.
    """
    for place in (metadata, metadata.get("settings")):
        if isinstance(place, Mapping) and isinstance(place.get("team"), Mapping):
            return place["team"]
    raise InputError(
        where, "no description of a team", "metadata['team'] or metadata['settings']['team'] (describe_team)"
    )


def vocabulary_difference(found: Vocabulary, expected: Vocabulary) -> tuple[str, str] | None:
    """In what two tokenizers differ, as ``(found, expected)``; `None` if they give every character and header the same id."""
    if found.characters != expected.characters:
        return f"characters {found.characters!r}", f"{expected.characters!r}"
    if found.ends != expected.ends:
        shown = ("no END", "END as id 0")
        return shown[found.ends], shown[expected.ends]
    if found.prompt_only != expected.prompt_only:
        return f"prompt_only {found.prompt_only!r}", f"{expected.prompt_only!r}"
    if found.agents != expected.agents:
        return f"header ids {_headers(found)} of {found.agents} agents", f"{_headers(expected)} of {expected.agents}"
    return None


def _headers(vocabulary: Vocabulary) -> str:
    return f"{vocabulary.header(0)}–{vocabulary.header(vocabulary.agents - 1)}"


def _part(about: Mapping[str, Any], name: str) -> Any:
    if name not in about:
        raise InputError("description of a team", f"no key {name!r}", "'vocabulary', 'layout' and 'models'")
    return about[name]


def _made(kind: type[Any], name: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"description of a team: {name}", repr(values), "a mapping of settings")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"{name}: {unknown[0]}", "an unknown key", f"keys among {sorted(known)} (a newer program wrote this?)"
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"description of a team: {name}", str(error), f"keys among {sorted(known)}") from error
