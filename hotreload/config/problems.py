"""Pydantic's errors as problems a person can act on: dotted path, plain words, the value, what is allowed.

No secret gets into one: neither a value in or above a secret field, nor a validator's message that quotes it.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from pydantic_core import ErrorDetails

from hotreload.config.allowed import allowed, choices
from hotreload.config.document import MOST, Keys, dotted
from hotreload.config.fields import FieldRule, Leaf, Node, looks_secret
from hotreload.config.secrets import MASK, SecretMatcher, mask_tree, secrets_in
from hotreload.config.trees import meaning, visit
from hotreload.config.unknown import nearest
from hotreload.errors import REASON_MOST, Problem, describe

LONGEST_INPUT: Final = 120
WORDS: Final[Mapping[str, str]] = {
    "missing": "is required and missing",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be an object",
    "mapping_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "path_type": "must be a path",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "json_type": "must be text that holds JSON",
    "extra_forbidden": "unknown key",
    "value_error": "{error}",
    "assertion_error": "{error}",
}


class Explainer:
    """Explains the errors of one model by the rules of its paths; `section` is where its tree stands in the whole."""

    def __init__(self, root: Node, rule: Callable[[Keys], FieldRule], section: str = "") -> None:
        self._root = root
        self._rule = rule
        self._section = section

    def explain(self, errors: Sequence[ErrorDetails], data: Mapping[str, Any]) -> list[Problem]:
        """Return one problem for each place; the members of a union that refused one value are joined."""
        matcher = self._matcher(data)
        found: dict[str, list[Problem]] = {}
        errors = [error for error in errors if error["type"] != "default_factory_not_called"]  # another error says why
        for error in errors[: 2 * MOST]:
            problem = self._problem(error, data, matcher)
            found.setdefault(problem.path, []).append(problem)
        return [_joined(problems) for problems in list(found.values())[:MOST]]

    def explain_defect(self, error: BaseException, data: Mapping[str, Any]) -> Problem:
        """Return the problem of an error that pydantic lets through: a validator may raise anything."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = self._matcher(data).hide(describe(error))[:REASON_MOST]
        message = f"a validator failed: {told} ({Path(last.filename).name}:{last.lineno})"
        return Problem(self._section, message, hint="a validator refuses a value with ValueError")

    def full(self, path: str) -> str:
        """Return a path of the model's tree as a path of the whole."""
        return ".".join(part for part in (self._section, path) if part)

    def _problem(self, error: ErrorDetails, data: Mapping[str, Any], matcher: SecretMatcher) -> Problem:
        loc, value = resolve(error["loc"], data, missing=error["type"] == "missing")
        path, (keys, node) = dotted(loc), meaning(self._root, loc)
        leaf = node.leaf if node is not None else None
        message = matcher.hide(_words(error)[: 2 * REASON_MOST])[:REASON_MOST] or "is refused by a validator"
        if error["type"] == "missing":
            return Problem(self.full(path), message, hint=_takes(leaf))
        hint = _nearest(leaf, value) or (None if error["type"].startswith("json_") else _takes(leaf))
        return Problem(self.full(path), message, input=self._shown(keys, node, value, matcher), hint=hint)

    def _shown(self, keys: Keys, node: Node | None, value: object, matcher: SecretMatcher) -> str | None:
        if not keys or self._rule(keys).secret or (node is None and self._is_inside_secret(keys)):
            return None
        if isinstance(value, (dict, list)) and node is not None and (node.fields or node.entries):
            return None
        masked = mask_tree(cast("object", value), dotted(keys), _mask)
        text = matcher.hide(json.dumps(masked, ensure_ascii=False, default=repr))
        return text if len(text) <= LONGEST_INPUT else f"{text[:LONGEST_INPUT]}…"

    def _is_inside_secret(self, keys: Keys) -> bool:
        """Tell whether a key below the leaf looks secret (`headers.Authorization`)."""
        depth = next(count for count in range(len(keys), -1, -1) if meaning(self._root, keys[:count])[1] is not None)
        return any(looks_secret(str(part)) for part in keys[depth:])

    def _matcher(self, data: Mapping[str, Any]) -> SecretMatcher:
        """Return what hides every text of the input that must not be shown."""
        return SecretMatcher(secrets_in({met.keys: met.value for met in visit(data, self._root)}, self._rule))


def resolve(loc: Sequence[str | int], data: object, *, missing: bool) -> tuple[tuple[str | int, ...], object]:
    """Return the keys in the input an error speaks of, without the names of union members, and its value.

    With `missing` the last key is one the input should have and has not.
    """
    found: list[str | int] = []
    node = data
    for index, part in enumerate(loc):
        if isinstance(node, Mapping) and part in node:
            node = cast("Mapping[str | int, object]", node)[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(cast("list[object]", node)):
            node = cast("list[object]", node)[part]
        elif missing and index == len(loc) - 1:
            node = None
        else:
            continue
        found.append(part)
    return tuple(found), cast("object", node)


def _words(error: ErrorDetails) -> str:
    template = WORDS.get(error["type"])
    if template is None:
        text = error["msg"].replace("Input should be", "must be").replace("Input should", "must")
        return text[:1].lower() + text[1:]
    context = {key: _number(value) for key, value in error.get("ctx", {}).items()}
    return template.format(**context)


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _takes(leaf: Leaf | None) -> str | None:
    text = allowed(leaf.info) if leaf else None
    return f"allowed: {text}" if text else None


def _nearest(leaf: Leaf | None, value: object) -> str | None:
    near = nearest(value, choices(leaf.info)) if leaf and isinstance(value, str) else None
    return f'did you mean "{near}"?' if near else None


def _joined(problems: Sequence[Problem]) -> Problem:
    messages = list(dict.fromkeys(problem.message for problem in problems))
    return replace(problems[0], message=", or ".join(messages))


def _mask(_path: str, _value: object) -> object:
    return MASK
