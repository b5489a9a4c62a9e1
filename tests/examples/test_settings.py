"""The settings of the examples: every field says when a change takes effect, and what is secret is marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples.quickstart.service import Settings
from examples.summaries.settings import OvConf
from hotreload.config.document import dotted
from hotreload.config.fields import Effect, leaf_rules, unmarked_secrets
from hotreload.config.settings import LiveSettings, SettingsModel

LIVE = {
    OvConf: {f"vlm.{name}" for name in ("model", "max_concurrent", "pace_s", "api_base", "api_key", "timeout_s")},
    Settings: {"max_concurrent", "pace_s"},
}
SECRET: dict[type[LiveSettings], set[str]] = {OvConf: {"vlm.api_key"}, Settings: set()}


@pytest.mark.parametrize("model", LIVE)
def test_every_leaf_is_classified(model: type[LiveSettings]) -> None:
    rules = leaf_rules(model)
    known = SettingsModel(model, environ={})
    assert set(rules) == {dotted(keys) for keys in known.validate({}, Path("/")).leaves}
    assert {path for path, rule in rules.items() if rule.effect is Effect.LIVE} == LIVE[model]
    assert {path for path, rule in rules.items() if rule.effect is Effect.RESTART} == set(rules) - LIVE[model]
    assert {path for path, rule in rules.items() if rule.secret} == SECRET[model]
    assert unmarked_secrets(model) == []
    properties = known.schema()["properties"]
    assert {path for path in rules if "x-reload" not in _node(properties, path)} == set()


def _node(properties: dict[str, Any], path: str) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return _node(properties[first]["properties"], rest) if rest else properties[first]
