"""A snapshot that cannot be changed: models, dicts, lists and sets of settings, down to the last leaf.

Validators see ordinary objects, whose class is exchanged afterwards for one that refuses every change. Such an object
is equal to an ordinary one, `isinstance` holds, and it can be pickled and copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, Secret

from hotreload.config.fields import is_named_tuple

T = TypeVar("T")


def freeze(value: Any) -> Any:
    """Return the value with everything inside it frozen; models and dataclasses are frozen in place."""
    kind = cast("type[Any]", type(value))
    if kind is dict:
        return FrozenDict({key: freeze(item) for key, item in cast("dict[object, object]", value).items()})
    if kind is list:
        return FrozenList(freeze(item) for item in cast("list[object]", value))
    if kind is set:
        return FrozenSet(cast("set[object]", value))
    if isinstance(value, tuple):
        items = [freeze(item) for item in cast("tuple[object, ...]", value)]
        return kind._make(items) if is_named_tuple(kind) else tuple(items)
    return _frozen_object(value)


def _frozen_object(value: Any) -> Any:
    if isinstance(value, Secret):
        secret = cast("Secret[object]", value)
        return type(secret)(freeze(secret.get_secret_value()))
    if isinstance(value, BaseModel):
        _freeze_model(value)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            object.__setattr__(value, each.name, freeze(getattr(value, each.name)))
        _exchange(value)
    return value


def _freeze_model(value: BaseModel) -> None:
    inside = cast("dict[str, Any]", value.__dict__)
    for name, item in inside.items():
        if type(item) not in (str, int, float, bool):
            inside[name] = freeze(item)
    for name, item in (value.__pydantic_extra__ or {}).items():
        cast("dict[str, Any]", value.__pydantic_extra__)[name] = freeze(item)
    if not value.model_config.get("frozen"):
        _exchange(value)


def _exchange(value: Any) -> None:
    kind = cast("type[Any]", type(value))
    if not hasattr(value, "__frozen__"):
        object.__setattr__(value, "__class__", _frozen_class(kind))


def _refuse(self: object, *_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("settings cannot be changed: a job reads one snapshot from start to end")


@cache
def _frozen_class(kind: type) -> type:
    """Return a class whose instances pass for those of `kind` and refuse to be changed."""

    def set_private(self: Any, name: str, value: object) -> None:
        if name in getattr(kind, "__private_attributes__", ()):
            cast("Any", kind).__setattr__(self, name, value)
        else:
            _refuse(self)

    def reduce(self: Any, protocol: Any) -> Any:
        made, arguments, *state = object.__reduce_ex__(self, protocol)
        return made, (kind, *arguments[1:]), *state

    namespace = {
        "__slots__": (),
        "__frozen__": True,
        "__setattr__": set_private,
        "__delattr__": _refuse,
        "__class__": property(lambda _self: kind),
        "__reduce_ex__": reduce,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__hash__": kind.__hash__,
    }
    # not by the metaclass of the models: it would build a schema, and call the hooks of subclasses
    return type.__new__(type(kind), kind.__name__, (kind,), namespace)


def _refusing(*names: str) -> Callable[[type[T]], type[T]]:
    def change(kind: type[T]) -> type[T]:
        for name in names:
            setattr(kind, name, _refuse)
        return kind

    return change


@_refusing("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
class FrozenDict(dict[Any, Any]):
    """A dict that refuses every change."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


@_refusing("__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "extend", "insert", "pop", "remove", "clear")
@_refusing("sort", "reverse")
class FrozenList(list[Any]):
    """A list that refuses every change."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


@_refusing("__iand__", "__ior__", "__isub__", "__ixor__", "add", "clear", "discard", "pop", "remove", "update")
@_refusing("difference_update", "intersection_update", "symmetric_difference_update")
class FrozenSet(set[Any]):
    """A set that refuses every change."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenSet, (set(self),)
