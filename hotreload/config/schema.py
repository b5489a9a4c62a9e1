"""JSON Schema of a settings model for editors, each leaf with `x-reload` and `x-secret`.

Sections are written out in place: one model used twice may be live here and need a restart there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from hotreload.config.fields import FieldRule

Schema = dict[str, Any]


def json_schema(model: type[BaseModel], rule: Callable[[str], FieldRule], section: str = "") -> Schema:
    """Return the schema of what a file may say; defaults of secret leaves are left out."""
    whole = model.model_json_schema(mode="validation")
    definitions = whole.pop("$defs", {})
    result = _Annotator(definitions, rule).annotate(whole, section, ())
    used = _references(result, definitions)
    return {**result, "$defs": {name: definitions[name] for name in sorted(used)}} if used else result


class _Annotator:
    def __init__(self, definitions: Mapping[str, Schema], rule: Callable[[str], FieldRule]) -> None:
        self._definitions, self._rule = definitions, rule

    def annotate(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        """Return a node with its leaves marked; a section met inside itself is one leaf."""
        name = _name(node)
        if name in seen:
            return self._leaf(node, path)
        opened = self._open(node)
        inner = (*seen, name) if name else seen
        if "properties" in opened:
            opened.pop("default", None)
            pairs = opened["properties"].items()
            opened["properties"] = {key: self.annotate(child, _join(path, key), inner) for key, child in pairs}
            return opened
        for word in ("anyOf", "oneOf"):
            if any(self._is_section(option, inner) for option in opened.get(word, ())):
                return self._union(opened, word, path, inner)
        return self._leaf(node, path)

    def _union(self, node: Schema, word: str, path: str, seen: tuple[str, ...]) -> Schema:
        options = [
            self.annotate(option, path, seen) if self._is_section(option, seen) else self._leaf(option, path)
            for option in node[word]
        ]
        kept = {key: value for key, value in node.items() if key not in ("discriminator", "default")}
        return {**kept, word: options}

    def _is_section(self, node: Schema, seen: tuple[str, ...]) -> bool:
        return "properties" in self._open(node) and _name(node) not in seen

    def _leaf(self, node: Schema, path: str) -> Schema:
        rule = self._rule(path)
        marked = {**node, "x-reload": rule.effect.value, "x-secret": rule.secret}
        if rule.secret:
            marked.pop("default", None)
        if rule.reason:
            marked["x-reason"] = rule.reason
        return marked

    def _open(self, node: Schema) -> Schema:
        name = _name(node)
        if name is None:
            return dict(node)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return {**self._definitions[name], **beside}


def _name(node: Mapping[str, Any]) -> str | None:
    reference = node.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _references(node: object, definitions: Mapping[str, Schema]) -> set[str]:
    """Return the definitions a schema still refers to, directly or through another."""
    found: set[str] = set()
    waiting: list[object] = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(cast("list[object]", item))
        elif isinstance(item, dict):
            tree = cast("dict[str, Any]", item)
            name = _name(tree)
            if name is not None and name not in found:
                found.add(name)
                waiting.append(definitions[name])
            waiting.extend(tree.values())
    return found
