"""Marks on models become rules of leaves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pydantic
import pytest
from pydantic import BaseModel, Field, RootModel, SecretBytes, SecretStr
from typing_extensions import TypeAliasType, TypedDict

from hotreload.config.allowed import allowed
from hotreload.config.document import Keys
from hotreload.config.fields import (
    Effect,
    Live,
    Mark,
    Public,
    Refused,
    Restart,
    Secret,
    holds_secret,
    leaf_rules,
    leaves,
    rule_for,
    tree,
    unmarked_secrets,
)

T = TypeVar("T")


class Inner(BaseModel):
    plain: int = 1
    slow: Annotated[int, Restart] = 1
    key: SecretBytes = SecretBytes(b"")


class Other(BaseModel):
    plain: Annotated[int, Refused] = 1
    user: str = ""


class Tree(BaseModel):
    child: Tree | None = None
    name: str = ""


class Names(RootModel[list[str]]):
    pass


class User(BaseModel):
    pin: SecretStr


class Model(BaseModel):
    inner: Annotated[Inner, Live] = Inner()
    optional: Annotated[Inner | None, Mark(Effect.RESTART, reason="read once")] = None
    either: Annotated[Inner | Other, Live] = Inner()
    mixed: Annotated[str | Other, Live] = ""
    deep: Annotated[Annotated[int, Live] | None, Field(ge=1)] = None
    token: str = ""
    password: int | None = None
    use_token: bool = False
    review_tokens: int = 0
    max_tokens: int = 5
    key_0: int = 1
    dbpassword: str = ""
    api_key_number: float = 0
    api_key: Annotated[str, Public] = ""
    hidden: Annotated[str, Secret] = ""
    headers: dict[str, SecretStr] = {}
    users: list[User] = []
    names: Names = Names([])
    tree: Annotated[Tree, Live] = Tree()
    renamed: Annotated[int, Live, Field(alias="reNamed")] = 1


RULES = leaf_rules(Model)


@pytest.mark.parametrize(
    ("path", "effect", "secret"),
    [
        ("inner.plain", Effect.LIVE, False),
        ("inner.slow", Effect.RESTART, False),
        ("inner.key", Effect.LIVE, True),
        ("optional.plain", Effect.RESTART, False),
        ("either.plain", Effect.REFUSED, False),
        ("either.user", Effect.LIVE, False),
        ("mixed", Effect.LIVE, False),
        ("mixed.user", Effect.LIVE, False),
        ("deep", Effect.LIVE, False),
        ("token", Effect.RESTART, True),
        ("password", Effect.RESTART, True),
        ("use_token", Effect.RESTART, False),
        ("review_tokens", Effect.RESTART, False),
        ("max_tokens", Effect.RESTART, False),
        ("key_0", Effect.RESTART, False),
        ("dbpassword", Effect.RESTART, True),
        ("api_key_number", Effect.RESTART, True),
        ("api_key", Effect.RESTART, False),
        ("hidden", Effect.RESTART, True),
        ("headers", Effect.RESTART, True),
        ("users.*.pin", Effect.RESTART, True),
        ("names", Effect.RESTART, False),
        ("tree.name", Effect.LIVE, False),
        ("tree.child", Effect.LIVE, False),
        ("reNamed", Effect.LIVE, False),
    ],
)
def test_every_leaf_has_a_rule(path: str, effect: Effect, secret: bool) -> None:
    assert (RULES[path].effect, RULES[path].secret) == (effect, secret)


def test_sections_are_no_leaves_and_a_reason_is_inherited() -> None:
    assert "inner" not in RULES
    assert RULES["optional.plain"].reason == "read once"
    assert RULES["optional.slow"].reason is None


def test_a_secret_by_name_alone_is_named() -> None:
    assert unmarked_secrets(Model) == ["token", "password", "dbpassword", "api_key_number"]


@pytest.mark.parametrize(
    ("path", "effect", "secret"),
    [
        (("inner", "plain"), Effect.LIVE, False),
        (("headers", "Authorization"), Effect.RESTART, True),
        (("inner",), Effect.RESTART, True),
        (("users", 3, "pin"), Effect.RESTART, True),
        (("tree",), Effect.LIVE, False),
        (("unknown", "knows"), Effect.RESTART, False),
        (("unknown", "api_key"), Effect.RESTART, True),
    ],
)
def test_a_rule_is_found_for_any_path(path: Keys, effect: Effect, secret: bool) -> None:
    found = rule_for(tree(Model), path)
    assert (found.effect, found.secret) == (effect, secret)


class Entry(BaseModel):
    rpm: Annotated[int, Live] = 1
    size: Annotated[int, Refused] = 8
    device: Annotated[str, Restart] = "cpu"
    note: str = ""


class Entries(RootModel[dict[str, Entry]]):
    pass


class Marked(BaseModel):
    unmarked: dict[str, Entry] = {}
    live: Annotated[dict[str, Entry], Live] = {}
    many: Annotated[list[Entry] | None, Live] = None
    deep: Annotated[dict[str, list[Entry]], Live] = {}
    pair: Annotated[tuple[int, Entry], Live] = (1, Entry())
    root: Annotated[Entries, Live] = Entries({})
    plain: dict[str, Annotated[int, Refused]] = {}


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        (("unmarked", "a.b", "rpm"), Effect.LIVE),
        (("unmarked", "a", "size"), Effect.REFUSED),
        (("unmarked", "a", "note"), Effect.RESTART),
        (("unmarked", "a"), Effect.RESTART),
        (("live", "a", "rpm"), Effect.LIVE),
        (("live", "a", "size"), Effect.REFUSED),
        (("live", "a", "device"), Effect.RESTART),
        (("live", "a", "note"), Effect.LIVE),
        (("live", "a"), Effect.LIVE),
        (("live",), Effect.LIVE),
        (("many", 0, "note"), Effect.LIVE),
        (("many", 0, "size"), Effect.REFUSED),
        (("many",), Effect.REFUSED),
        (("deep", "a", 0, "device"), Effect.RESTART),
        (("deep", "a"), Effect.LIVE),
        (("pair", 1, "size"), Effect.REFUSED),
        (("pair", 0), Effect.LIVE),
        (("root", "a", "size"), Effect.REFUSED),
        (("root", "a", "note"), Effect.LIVE),
        (("plain", "a"), Effect.REFUSED),
    ],
)
def test_marks_inside_containers_count(path: Keys, effect: Effect) -> None:
    assert rule_for(tree(Marked), path).effect is effect


@dataclass
class Account:
    name: str
    pin: SecretStr


@dataclass
class Sealed(Generic[T]):
    name: T
    pin: Annotated[str, Secret] = ""


class Row(NamedTuple):
    name: str
    password: str = ""


class Plain(NamedTuple):
    name: str
    size: int = 1


class Card(TypedDict, total=False):
    pin: SecretStr


class Hidden(RootModel[SecretStr]):
    pass


class Safe(BaseModel):
    pin: Annotated[str, Secret] = ""


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        (dict[str, list[SecretStr]], True),
        (list[Annotated[str, Secret]], True),
        (list[User], True),
        (list[Tree], False),
        (Account, True),
        (dict[str, Account], True),
        (Sealed[str], True),
        (Row, True),
        (list[Row], True),
        (Plain, False),
        (Card, True),
        (Hidden, True),
        (list[Safe], True),
        (pydantic.Secret[int], True),
        (list[pydantic.Secret[int]], True),
        (tuple[int, int], False),
    ],
)
def test_a_type_that_holds_a_secret_inside_is_secret(kind: Any, secret: bool) -> None:
    assert holds_secret(kind) is secret


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Limits(BaseModel):
    ranged: Annotated[int, Field(ge=1, le=8)] = 1
    open: Annotated[float | None, Field(gt=0)] = None
    upto: Annotated[int, Field(le=3)] = 1
    below: Annotated[int, Field(lt=3)] = 1
    text: Annotated[str, Field(min_length=2, max_length=4)] = "xx"
    flag: bool = True
    mode: Literal["a", "b"] = "a"
    one: Literal[5] = 5
    colour: Colour = Colour.RED
    path: Path | None = None
    names: list[int] = []
    many: list = []  # pyright: ignore[reportMissingTypeArgument, reportUnknownVariableType]
    table: dict[str, int] = {}
    nothing: None = None
    few: Literal[1, "a", None, True] = 1
    hidden: Hidden = Hidden(SecretStr(""))
    odd: object = None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ranged", "a whole number from 1 to 8"),
        ("open", "a number above 0, or null"),
        ("upto", "a whole number up to 3"),
        ("below", "a whole number below 3"),
        ("text", "text of at least 2 and of at most 4"),
        ("flag", "true or false"),
        ("mode", 'one of "a", "b"'),
        ("one", "5"),
        ("colour", 'one of "red", "blue"'),
        ("path", "a path, or null"),
        ("names", "a list, each a whole number"),
        ("many", "a list"),
        ("table", "an object"),
        ("nothing", "null"),
        ("few", 'one of 1, "a", null, true'),
        ("hidden", "text"),
        ("odd", None),
    ],
)
def test_what_a_field_takes_is_said_in_plain_words(name: str, text: str | None) -> None:
    assert allowed(leaves(Limits)[(name,)].info) == text


MarkedCount = TypeAliasType("MarkedCount", Annotated[int, Live] | None)  # pyright: ignore[reportGeneralTypeIssues]
Chosen = TypeAliasType("Chosen", Inner | Other)


class Pages(RootModel[list[Entry]]):
    """A root that is a list of sections."""


class Recursive(RootModel[list["Recursive"]]):
    """A root that holds itself and no section."""


class Loop(BaseModel):
    again: dict[str, Loops] = Field(default_factory=dict)


class Kids(BaseModel):
    kids: list[Kids] = Field(default_factory=list)


class Loops(RootModel[list[Loop]]):
    """A root whose sections hold it again."""


class Aliased(BaseModel):
    count: MarkedCount = None
    chosen: Chosen = Inner()
    pages: dict[str, Pages] = Field(default_factory=dict)
    nested: dict[str, Recursive] = Field(default_factory=dict)
    names: dict[str, Names] = Field(default_factory=dict)
    loops: dict[str, Loops] = Field(default_factory=dict)
    kids: list[Kids] = Field(default_factory=list)


def test_aliases_of_types_and_roots_inside_containers_are_looked_through() -> None:
    found = tree(Aliased)
    assert rule_for(found, ("count",)).effect is Effect.LIVE
    assert rule_for(found, ("chosen", "slow")).effect is Effect.RESTART
    assert rule_for(found, ("pages", "a", 0, "anything")).effect is Effect.RESTART
    assert rule_for(found, ("kids", 0, "kids", 0)).effect is Effect.RESTART
    assert rule_for(found, ("loops", "a", 0, "again", "b")).effect is Effect.RESTART
    assert rule_for(found, ("nested", "a")).effect is rule_for(found, ("names", "a")).effect is Effect.RESTART
