"""JSON Schema of a settings model for editors, each leaf with `x-reload` and `x-secret`.

Sections are written out in place: one model used twice may be live here and need a restart there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from hotreload.config.document import Keys
from hotreload.config.fields import ENTRY, FieldRule, Node, tree
from hotreload.config.trees import meaning

Schema = dict[str, Any]


def json_schema(model: type[BaseModel], rule: Callable[[Keys], FieldRule], above: Keys = ()) -> Schema:
    """Return the schema of what a file may say; defaults of secret leaves are left out.

    `above` leads to the section the model stands in, for the paths that `rule` is asked about.
    """
    whole = model.model_json_schema(mode="validation", schema_generator=_Generator)
    definitions = whole.pop("$defs", {})
    result = _Annotator(definitions, tree(model), lambda keys: rule((*above, *keys))).annotate(whole, (), ())
    used = _references(result, definitions)
    return {**result, "$defs": {name: definitions[name] for name in sorted(used)}} if used else result


class _Generator(GenerateJsonSchema):
    """Anything is allowed where a type has no schema: what a validator makes of the file need not be JSON."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's own

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        """Return the schema of anything."""
        return {}


class _Annotator:
    def __init__(self, definitions: Mapping[str, Schema], root: Node, rule: Callable[[Keys], FieldRule]) -> None:
        self._definitions, self._root, self._rule = definitions, root, rule

    def annotate(self, node: Schema, loc: Keys, seen: tuple[str, ...]) -> Schema:
        """Return a node with its leaves marked; a section met inside itself is one leaf."""
        name = _name(node)
        if name in seen:
            return self._leaf(node, loc)
        opened = self._open(node)
        inner = (*seen, name) if name else seen
        if "properties" in opened:
            opened.pop("default", None)
            pairs = opened["properties"].items()
            opened["properties"] = {key: self.annotate(child, (*loc, key), inner) for key, child in pairs}
            return opened
        for word in ("anyOf", "oneOf"):
            if any(self._is_section(option, inner) for option in opened.get(word, ())):
                return self._union(opened, word, loc, inner)
        for word in ("items", "additionalProperties"):
            if isinstance(opened.get(word), dict) and self._is_section(opened[word], inner):
                opened[word] = self.annotate(opened[word], (*loc, ENTRY), inner)
        return self._leaf(opened, loc)

    def _union(self, node: Schema, word: str, loc: Keys, seen: tuple[str, ...]) -> Schema:
        options = [
            self.annotate(option, loc, seen) if self._is_section(option, seen) else self._leaf(option, loc)
            for option in node[word]
        ]
        kept = {key: value for key, value in node.items() if key not in ("discriminator", "default")}
        return {**kept, word: options}

    def _is_section(self, node: Schema, seen: tuple[str, ...]) -> bool:
        return "properties" in self._open(node) and _name(node) not in seen

    def _leaf(self, node: Schema, loc: Keys) -> Schema:
        rule = self._rule(meaning(self._root, loc)[0])
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
