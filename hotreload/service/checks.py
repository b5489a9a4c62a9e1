"""What a declaration must be: each mistake is one line that says where, what, and what would be right."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Annotated, Any, Final, NoReturn, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from hotreload.config.fields import alternatives
from hotreload.errors import DeclarationError
from hotreload.workers.job import Job, SyncJob
from hotreload.workers.kind import ANYTHING
from hotreload.workers.policy import Policy, PolicyOf
from hotreload.workers.runners import Handler, is_async

NAME_MOST: Final = 128
KEYWORDS: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
RIGHT: Final = "async def handler(job: Job[Payload], conf: Settings)"
NOT_FROM_JSON: Final = ("CallableSchema", "IsInstanceSchema", "IsSubclassSchema", "GeneratorSchema")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a handler takes: the type of its payload, the resources it needs, those it takes where they exist."""

    payload: TypeAdapter[Any]
    needs: tuple[str, ...]
    takes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What is declared (`worker 'semantic'`) and, where known, the line of the code it is declared with."""

    what: str
    code: Any = None

    def refuse(self, wrong: str, right: str = "") -> NoReturn:
        """Raise the DeclarationError."""
        line = f"{self.what}: {wrong}" + (f"; {right}" if right else "")
        raise DeclarationError(line + self._where())

    def _where(self) -> str:
        code = getattr(innermost(self.code), "__code__", None)
        return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""


def innermost(handler: Any) -> Any:
    """Return the function that a partial, bound method, callable object or decorated function calls in the end."""
    for _ in range(100):
        if isinstance(handler, partial):
            handler = cast("Any", handler).func
        elif inspect.ismethod(handler):
            handler = handler.__func__
        elif hasattr(handler, "__wrapped__"):
            handler = handler.__wrapped__
        elif isinstance(handler, (FunctionType, type)) or not callable(handler):
            break
        else:
            handler = cast("Any", type(handler)).__call__
    return handler


# --- values -------------------------------------------------------------------------------------------------------


def checked_name(place: Place, name: object) -> str:
    """Return the name of a queue, limit or the like."""
    if not isinstance(name, str):
        place.refuse(f"its name is {name!r}", "a name is a text, as 'semantic'")
    if not name or name != name.strip() or not name.isprintable() or len(name) > NAME_MOST:
        place.refuse(f"{name!r} is not a name", f"1 to {NAME_MOST} printable characters without spaces around them")
    return name


def names(place: Place, option: str, given: object) -> tuple[str, ...]:
    """Return the names an option lists; a lone text is not a list of its letters."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        one = given if isinstance(given, str) and given else "name"
        place.refuse(f"{option} is {_shown(given)}", f"it is a list or tuple of names, as {option}=({one!r},)")
    listed = tuple(cast("Sequence[object]", given))
    for name in listed:
        if not isinstance(name, str):
            place.refuse(f"{option} lists {name!r}", "each is the name of one, a text")
    if len(set(listed)) < len(listed):
        place.refuse(f"{option} lists one name twice: {', '.join(map(str, listed))}")
    return cast("tuple[str, ...]", listed)


def asked(place: Place, option: str, given: object, check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return a value, or what a function of the settings answers, as a function of the settings.

    A plain value is checked now; what a function answers is checked with the settings, at the start and each reload.
    """
    if not callable(given):
        try:
            check(given)
        except (TypeError, ValueError) as error:
            place.refuse(f"{option}: {error}")
        return lambda _settings: given
    if is_async(given):
        place.refuse(f"{option} is an async function", f"{option}=lambda conf: … answers at once")
    if not _takes_one(given):
        place.refuse(f"{option} does not take one argument", f"it is asked with the settings: {option}=lambda conf: …")
    return given


def policy(place: Place, max_attempts: object, backoff: object, timeout_s: object, keep_done_s: object) -> PolicyOf:
    """Return what a worker declares of its policy."""
    return PolicyOf(
        max_attempts=asked(place, "max_attempts", max_attempts, lambda value: Policy(max_attempts=value)),
        backoff=asked(place, "backoff", backoff, lambda value: Policy(backoff=value)),
        timeout_s=asked(place, "timeout_s", timeout_s, lambda value: Policy(timeout_s=value)),
        keep_done_s=asked(place, "keep_done_s", keep_done_s, lambda value: Policy(keep_done_s=value)),
    )


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def version_of(place: Place, version: object) -> int:
    """Return the version of a payload."""
    if type(version) is not int or not 1 <= version < 2**31:
        place.refuse(f"its version is {version!r}", "a version is a whole number from 1")
    return version


def migration(place: Place, option: str, given: object) -> None:
    """Refuse what is not a function of a value and a version."""
    if given is None:
        return
    if not callable(given) or is_async(given):
        place.refuse(f"{option} is {given!r}", f"it is a plain function: def {option}(value, version)")
    try:
        inspect.signature(given).bind(object(), 1)
    except TypeError:
        place.refuse(f"{option} does not take two arguments", f"def {option}(value, version)")
    except ValueError:
        return


def adapter(place: Place, what: str, kind: Any) -> TypeAdapter[Any]:
    """Return what validates a payload or cursor; refused where pydantic cannot, or where it holds a secret."""
    if kind is Any:
        return ANYTHING
    try:
        made = TypeAdapter[Any](kind)
    except Exception as error:  # noqa: BLE001 - pydantic raises several
        place.refuse(f"its {what} {_shown(kind)} cannot be validated: {str(error).splitlines()[0]}")
    schema = _schema_of(place, what, made)
    if '"writeOnly": true' in schema:
        place.refuse(f"its {what} {_shown(kind)} holds a secret", "it is stored in clear; keep a name of it, not it")
    return made


def _schema_of(place: Place, what: str, made: TypeAdapter[Any]) -> str:
    """Return the JSON Schema of a payload or cursor, "" where its own code validates it and says nothing more."""
    try:
        return json.dumps(made.json_schema(mode="validation"))
    except PydanticInvalidForJsonSchema as error:
        if any(kind in str(error) for kind in NOT_FROM_JSON):
            place.refuse(f"its {what} holds what no JSON value becomes: {error.message}", "store a name of it, not it")
        return ""
    except Exception:  # noqa: BLE001 - a type whose own code makes the schema
        return ""


# --- handlers -----------------------------------------------------------------------------------------------------


def examine(place: Place, handler: Handler, process: bool, settings: type, seen: Mapping[str, Any]) -> Shape:
    """Return what a handler takes; `seen` are names around its declaration, for annotations that are texts."""
    _must_be_callable(place, handler)
    parameters = _parameters(place, handler)
    leading = [each for each in parameters if each.kind in POSITIONAL]
    open_ended = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    if len(leading) < 2 and not open_ended:
        got = ", ".join(each.name for each in parameters)
        place.refuse(f"its handler takes ({got})", f"it must take the job and the settings: {RIGHT}")
    first, second = (*leading, None, None)[:2]
    payload = Any if first is None else _payload(place, handler, _annotation(place, handler, first, seen), settings)
    if second is not None:
        _check_settings(place, _annotation(place, handler, second, seen), settings)
    rest = [each for each in parameters if each not in (first, second) and each.kind not in VARIADIC]
    needs, takes = _handed(place, rest)
    if process:
        _must_be_found(place, handler, needs)
    return Shape(adapter(place, "payload", payload), needs, takes)


def _must_be_callable(place: Place, handler: Any) -> None:
    if isinstance(handler, type):
        place.refuse(f"its handler is the class {handler.__name__}", f"a function or an instance: {RIGHT}")
    if not callable(handler):
        place.refuse(f"its handler is {_shown(handler)}", RIGHT)
    inner = innermost(handler)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        place.refuse("its handler has a yield", "a handler returns its result; `job.checkpoint(…)` keeps progress")


def _parameters(place: Place, handler: Handler) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError) as error:
        place.refuse(f"the signature of its handler is not known: {error}", RIGHT)


def _handed(place: Place, rest: Sequence[inspect.Parameter]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the resources a handler needs, and of those it has a default for."""
    for each in rest:
        if each.kind is inspect.Parameter.POSITIONAL_ONLY and each.default is inspect.Parameter.empty:
            place.refuse(f"its parameter {each.name!r} is positional-only", "resources are handed in by name")
    handed = [each for each in rest if each.kind in KEYWORDS]
    needs = tuple(each.name for each in handed if each.default is inspect.Parameter.empty)
    return needs, tuple(each.name for each in handed if each.default is not inspect.Parameter.empty)


def _must_be_found(place: Place, handler: Any, needs: Sequence[str]) -> None:
    """Refuse a process handler that a child process would not find, or that needs what stays in this one."""
    if is_async(handler):
        place.refuse("its handler is async, and process=True", "a process handler is a plain function with a SyncJob")
    if needs:
        place.refuse(f"{needs[0]!r} cannot be handed to another process", "make it inside the handler")
    name = getattr(handler, "__qualname__", "")
    if not isinstance(handler, FunctionType) or "<" in name:
        place.refuse("a process handler is found by its module and name", "define it with def at the top of a module")
    if handler.__module__ == "__main__":
        place.refuse("a child process cannot import a handler of __main__", "move it to a module")


def _annotation(place: Place, handler: Handler, parameter: inspect.Parameter, seen: Mapping[str, Any]) -> Any:
    """Return the type a parameter is annotated with, Any without; an annotation that is a text is evaluated."""
    hint = parameter.annotation
    if hint is inspect.Parameter.empty:
        return Any
    if not isinstance(hint, str):
        return hint
    function = innermost(handler)
    known = {"Job": Job, "SyncJob": SyncJob, **seen, **getattr(function, "__globals__", {})}
    try:
        return eval(hint, known)  # as typing.get_type_hints does, for one parameter
    except Exception as error:  # noqa: BLE001 - whatever an annotation raises
        right = "import what it names outside of `if TYPE_CHECKING`"
        place.refuse(f"the annotation {hint!r} of {parameter.name!r} cannot be read: {error}", right)


def _payload(place: Place, handler: Handler, hint: Any, settings: type) -> Any:
    """Return P of `Job[P]` or `SyncJob[P]`, Any where nothing says."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    job = get_origin(hint) or hint
    if job is Any:
        return Any
    wanted = Job if is_async(handler) else SyncJob
    if job not in (Job, SyncJob):
        place.refuse(f"its first parameter is annotated {_shown(hint)}", f"it is a {wanted.__name__}[Payload]: {RIGHT}")
    if job is not wanted:
        how = "async, so its job is a Job" if wanted is Job else "a plain function, so its job is a SyncJob"
        place.refuse(f"its handler takes a {job.__name__}", f"it is {how}")
    payload, *more = (*get_args(hint), Any)
    if get_args(hint)[1:]:
        _check_settings(place, more[0], settings)
    return payload


def _check_settings(place: Place, hint: Any, settings: type) -> None:
    if (get_origin(hint) or hint) in (Job, SyncJob):
        place.refuse(
            "its second parameter is the job", f"the job is the first, a method is that of an instance: {RIGHT}"
        )
    if hint is not Any and isinstance(hint, type) and not issubclass(settings, hint):
        right = f"the settings of this service are {settings.__name__}"
        place.refuse(f"its settings are annotated {hint.__name__}", right)


def _shown(kind: Any) -> str:
    return getattr(kind, "__name__", None) or repr(kind)[:80]


# --- other parts --------------------------------------------------------------------------------------------------


def generator(place: Place, function: Any, what: str, right: str) -> None:
    """Refuse what is not an asynchronous generator function of the settings."""
    inner = innermost(function)
    if not callable(function) or not inspect.isasyncgenfunction(inner):
        place.refuse(f"{what} is not an async function with a yield", right)
    if not _takes_one(function):
        place.refuse(f"{what} does not take one argument, the settings", right)


def listener(place: Place, function: Any, right: str) -> None:
    """Refuse what is not an async function of two arguments."""
    if not callable(function) or not is_async(function):
        place.refuse("it is not an async function", right)
    try:
        inspect.signature(function).bind(object(), object())
    except TypeError:
        place.refuse("it does not take two arguments", right)


def paths(place: Place, option: str, given: object, model: type[BaseModel]) -> tuple[str, ...]:
    """Return the dotted paths an option lists; each must be a field or a section of the settings."""
    listed = names(place, option, given)
    for path in listed:
        if path and not _is_path(model, path.split(".")):
            place.refuse(f"{option} names {path!r}", f"{model.__name__} has no such field; {_fields(model, path)}")
    return listed


def _is_path(kind: Any, keys: Sequence[str]) -> bool:
    """Tell whether keys lead to a field, through sections, unions and containers; a foreign type is not looked into."""
    if not keys:
        return True
    members = [member for member in alternatives(kind) if isinstance(member, type) and issubclass(member, BaseModel)]
    if not members:
        return get_origin(kind) is not None or kind is Any
    found = [
        info.annotation
        for member in members
        for name, info in member.model_fields.items()
        if keys[0] in (name, info.alias, info.validation_alias)
    ]
    return any(_is_path(annotation, keys[1:]) for annotation in found)


def _fields(model: type[BaseModel], path: str) -> str:
    import difflib

    from hotreload.config.fields import leaf_rules

    known = list(leaf_rules(model))
    sections = {path.rsplit(".", cut)[0] for path in known for cut in range(1, path.count(".") + 1)}
    near = difflib.get_close_matches(path, [*known, *sections], 1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known[:8])}"
