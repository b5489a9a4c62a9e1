"""What a job gets cannot be changed, down to the last leaf, and behaves like what it is otherwise."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, PrivateAttr, Secret

from hotreload.config.frozen import freeze
from hotreload.config.settings import LiveSettings, SettingsModel


@dataclass
class Point:
    x: int
    names: list[str]


class Row(NamedTuple):
    names: list[str]


class Inner(BaseModel):
    number: int = 1
    table: dict[str, list[int]] = {}
    _cache: int = PrivateAttr(default=0)

    def remember(self, number: int) -> None:
        self._cache = number

    def remembered(self) -> int:
        return self._cache


class Outer(BaseModel):
    inner: Inner = Inner()
    many: list[Inner] = []
    unique: set[int] = {1}
    pair: tuple[int, list[int]] = (1, [2])
    point: Point = Point(1, ["a"])
    row: Row = Row(["a"])
    hidden: Secret[list[str]] = Secret(["a"])


class Settings(LiveSettings):
    outer: Outer = Outer()


def made() -> Outer:
    data = {"outer": {"many": [{"table": {"a": [1]}}]}}
    return SettingsModel(Settings, environ={}).validate(data, Path("/")).settings.outer


@pytest.mark.parametrize(
    "change",
    [
        lambda it: setattr(it, "unique", set()),
        lambda it: setattr(it.inner, "number", 2),
        lambda it: delattr(it.inner, "number"),
        lambda it: it.many.append(Inner()),
        lambda it: it.many.__setitem__(0, Inner()),
        lambda it: it.many[0].table.update(b=[1]),
        lambda it: it.many[0].table.pop("a"),
        lambda it: it.many[0].table["a"].append(2),
        lambda it: it.unique.add(2),
        lambda it: it.pair[1].clear(),
        lambda it: setattr(it.point, "x", 2),
        lambda it: it.point.names.sort(),
        lambda it: it.row.names.append("b"),
        lambda it: it.hidden.get_secret_value().append("b"),
    ],
)
def test_every_change_is_refused(change: Callable[[Any], object]) -> None:
    settings = made()
    before = repr(settings)
    with pytest.raises(TypeError, match="settings cannot be changed"):
        change(settings)
    assert repr(settings) == before


def test_it_is_what_it_was_otherwise() -> None:
    settings = made()
    ordinary = Outer(many=[Inner(table={"a": [1]})])
    assert settings == ordinary
    assert ordinary == settings
    assert isinstance(settings.inner, Inner)
    assert settings.model_dump() == ordinary.model_dump()
    assert settings.model_dump_json() == ordinary.model_dump_json()
    assert json.loads(json.dumps(settings.many[0].table)) == {"a": [1]}
    assert {**settings.many[0].table, "b": []} == {"a": [1], "b": []}
    settings.inner.remember(3)
    assert settings.inner.remembered() == 3
    assert freeze(settings) is settings


def test_it_goes_to_another_process_and_a_copy_of_it_is_equal() -> None:
    settings = made()
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert copy.deepcopy(settings) == settings
    assert settings.model_copy(update={"unique": {2}}).unique == {2}
