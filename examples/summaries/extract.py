"""Summarise without a model: what a text says of itself, taken out of it.

Of Python: docstrings and signatures. Of prose: headings and the sentences that begin a paragraph.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from examples.summaries.documents import Section, parse_python

SIGNATURE_CHARS = 120
SENTENCE_CHARS = 240
METHODS = 12
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(`*\"'])|\n\s*\n")
_MARKUP = re.compile(r"^\s*(?:#+|[-*+]|\d+\.|\.\.|>|=+|-+|~+)\s*", re.MULTILINE)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def note(section: Section) -> str:
    """Return what a section holds, as Markdown lines; never empty."""
    tree = parse_python(section.text)
    lines = list(_module_lines(tree)) if tree else []
    return "\n".join(lines) if lines else _prose(section)


def merge(name: str, notes: Sequence[str]) -> str:
    """Return the overview: a title, one paragraph that stands for the whole, and the notes as its contents."""
    lines = "\n".join(notes).splitlines()
    prose = next((line for line in lines if line and not line.startswith(("- ", "  - "))), "")
    contents = [line for line in lines if line and line != prose]
    names = [match[1] for line in contents if (match := re.match(r"- `(?:async def|def|class) (\w+)", line))]
    prose += "" if not prose or prose[-1] in ".!?…:" else "."
    paragraph = " ".join(part for part in (prose, _defines(names)) if part) or f"{name} has no text to speak of."
    text = f"# {name}\n\n{paragraph}\n"
    return f"{text}\n## Contents\n\n" + "\n".join(contents) + "\n" if contents else text


def abstract(overview: str) -> str:
    """Return the first paragraph of an overview that is not a heading."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", overview))
    return next((part for part in paragraphs if part and not part.startswith("#")), overview.strip())


def _defines(names: Sequence[str]) -> str:
    public = [name for name in names if not name.startswith("_")] or list(names)
    if not public:
        return ""
    shown = ", ".join(f"`{name}`" for name in public[:8])
    return f"Defines {shown} and {len(public) - 8} more." if len(public) > 8 else f"Defines {shown}."


def _module_lines(tree: ast.Module) -> Iterator[str]:
    if spoken := _first_sentence(ast.get_docstring(tree)):
        yield spoken
    if imports := sorted(_imports(tree)):
        yield f"- uses {', '.join(imports[:12])}{' …' if len(imports) > 12 else ''}"
    if constants := [name for node in tree.body for name in _assigned(node)]:
        yield f"- sets {', '.join(f'`{name}`' for name in constants[:12])}{' …' if len(constants) > 12 else ''}"
    for node in tree.body:
        if isinstance(node, _Definition):
            yield from _definition_lines(node)


def _definition_lines(node: _Definition) -> Iterator[str]:
    yield _item(node, "")
    if isinstance(node, ast.ClassDef):
        methods = [child for child in node.body if isinstance(child, _Definition) and not child.name.startswith("_")]
        for method in methods[:METHODS]:
            yield _item(method, "  ")
        if len(methods) > METHODS:
            yield f"  - and {len(methods) - METHODS} more"


def _item(node: _Definition, indent: str) -> str:
    spoken = _first_sentence(ast.get_docstring(node))
    return f"{indent}- `{_signature(node)}`{f': {spoken}' if spoken else ''}"


def _signature(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        text = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        text = f"{word} {node.name}({ast.unparse(node.args)}){returns}"
    text = " ".join(text.split())
    return text if len(text) <= SIGNATURE_CHARS else f"{text[: SIGNATURE_CHARS - 1]}…"


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - {"__future__"}


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for name in targets if isinstance(name, ast.Name) and not name.id.startswith("_")]


def _prose(section: Section) -> str:
    blocks = [block for block in re.split(r"\n\s*\n", section.text) if block.strip()]
    spoken = [sentence for block in blocks if (sentence := _first_sentence(_MARKUP.sub("", block)))]
    if not spoken:
        return f"- {section.title}"
    return "\n".join([spoken[0], *(f"- {sentence}" for sentence in spoken[1:6])])


def _first_sentence(text: str | None) -> str:
    if not text or not text.strip():
        return ""
    text = text.replace("\0", "�")  # an escape in a docstring; a summary with NUL in it is taken for damage
    sentence = " ".join(_SENTENCE_END.split(text.strip(), maxsplit=1)[0].partition("# noqa")[0].split())
    return sentence if len(sentence) <= SENTENCE_CHARS else f"{sentence[: SENTENCE_CHARS - 1]}…"
