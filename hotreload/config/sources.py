"""Where values come from beside the file: the environment and the credentials directory.

Each source is a small callable object that returns a tree of what it has, for pydantic-settings; `read`
returns the same leaf by leaf, so that the origin of every value stays known. Precedence, lowest first:
the file, the environment, the credentials directory (options of the command line come last of all).
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from hotreload.config.fields import Leaf, leaves
from hotreload.config.model import plain
from hotreload.config.positions import LONE_SURROGATE
from hotreload.errors import ConfigInvalid, Problem

PREFIX: Final = "OVCONF__"
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
MAX_CREDENTIAL: Final = 1024 * 1024

Found = dict[tuple[str, ...], Any]
Beside = Mapping[Path, bytes | str]
"""What stands in each file beside the configuration that exists, or why that cannot be read."""


class EnvironmentSource(PydanticBaseSettingsSource):
    """`OVCONF__SECTION__FIELD`, names in any case; a list or a map is given as JSON.

    `section` is where the model's own tree stands in the whole (`hotreload`, or nothing).
    """

    origin: Final = "environment"

    def __init__(
        self, settings_cls: type[BaseSettings], section: str = "", environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(settings_cls)
        self._section = section
        self._environ = os.environ if environ is None else environ
        self._names = _variables(settings_cls, section)

    def read(self) -> tuple[Found, list[Problem]]:
        """Return the value of each leaf that a variable names, and the variables that are not UTF-8."""
        given = {name.upper(): text for name, text in self._environ.items() if name.upper().startswith(PREFIX)}
        names = self._names
        found: Found = {}
        problems: list[Problem] = []
        for name in names.keys() & given.keys():
            keys, text = names[name].keys, given[name]
            if LONE_SURROGATE.search(text):
                path = ".".join(part for part in (self._section, *keys) if part)
                problems.append(Problem(path, f"the environment variable {name} is not UTF-8"))
            else:
                found[keys] = from_text(names[name], text)
        return found, problems

    def unknown(self) -> list[Problem]:
        """Warn of variables below this section that name no field."""
        known = set(self._names)
        start, own = variable(self._section, ()), f"{PREFIX}HOTRELOAD__"
        names = [name for name in self._environ if name.upper().startswith(start) and name.upper() not in known]
        return [_unknown(name, known) for name in sorted(names) if self._section or not name.upper().startswith(own)]

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _tree(*self.read())


class CredentialsSource(PydanticBaseSettingsSource):
    """Files in `$CREDENTIALS_DIRECTORY`, named by the dotted path of a secret field; one trailing newline is cut.

    `beside` is what they hold, where somebody has read them already.
    """

    origin: Final = "credential"

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        section: str = "",
        environ: Mapping[str, str] | None = None,
        beside: Beside | None = None,
    ) -> None:
        super().__init__(settings_cls)
        folder = (os.environ if environ is None else environ).get(CREDENTIALS)
        self._beside = beside
        above = (section,) if section else ()
        secret = [leaf for leaf in leaves(settings_cls).values() if leaf.rule.secret]
        named = {".".join((*above, *leaf.keys)): leaf for leaf in secret} if folder else {}
        self._files = {Path(folder or "") / name: leaf for name, leaf in named.items()}

    def files(self) -> list[Path]:
        """Return the files that count, whether they exist or not."""
        return list(self._files)

    def read(self) -> tuple[Found, list[Problem]]:
        """Return the value of each secret leaf that has a file, and the files that cannot be used."""
        found: Found = {}
        problems: list[Problem] = []
        beside = {path: _content(path) for path in self._files} if self._beside is None else self._beside
        for path, leaf in self._files.items():
            if (content := beside.get(path)) is None:
                continue
            text, reason = _text(content)
            if reason is None:
                found[leaf.keys] = from_text(leaf, text)
            else:
                problems.append(Problem(path.name, f"the credential file {path.name} cannot be used: {reason}"))
        return found, problems

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _tree(*self.read())


@dataclass(frozen=True, slots=True)
class _Text:
    """A text on its way into a field."""

    adapter: TypeAdapter[Any]
    text: str

    def as_itself(self) -> object:
        value = plain(self.adapter.validate_python(self.text))
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
        return value

    def as_json(self) -> object:
        value = json.loads(self.text)
        json.dumps(value, allow_nan=False)
        self.adapter.validate_json(self.text, strict=True)
        return value


def from_text(leaf: Leaf, text: str) -> object:
    """Return the plain value a text stands for in a field; the text itself where it fits no form of the field.

    Ranges are not looked at: the whole tree is validated later, and that says what is allowed.
    """
    attempt = _Text(TypeAdapter(leaf.info.annotation or str), text)
    for convert in (attempt.as_itself, attempt.as_json):
        try:
            return convert()
        except Exception:  # noqa: BLE001 - whatever a validator raises; the whole tree is validated later
            continue
    return text


def variable(section: str, keys: Iterable[str]) -> str:
    """Return the name of the variable that overrides a leaf, or the beginning of them for no keys."""
    parts = [part for part in (section, *keys) if part]
    return (PREFIX + "__".join(parts) + ("" if keys else "__" * bool(parts))).upper()


@lru_cache(maxsize=64)
def _variables(settings_cls: type[BaseSettings], section: str) -> Mapping[str, Leaf]:
    """Return the leaves of a model by the variable that overrides each."""
    return {variable(section, leaf.keys): leaf for leaf in leaves(settings_cls).values()}


def nested(found: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Turn leaves by keys into a tree."""
    tree: dict[str, Any] = {}
    for keys, value in found.items():
        put(tree, keys, value)
    return tree


def put(tree: dict[str, Any], keys: tuple[str, ...], value: object) -> bool:
    """Set a leaf in a tree, sections made as needed; False where something that is no section is in the way."""
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        if not isinstance(tree[key], dict):
            return False
        tree = tree[key]
    tree[keys[-1]] = value
    return True


def remove(tree: dict[str, Any], keys: Sequence[str]) -> None:
    """Take out what stands at these keys, or the list it lies in; nothing where nothing does."""
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            break
        tree = tree[key]
    else:
        key = keys[-1]
    tree.pop(key, None)


def _tree(found: Found, problems: list[Problem]) -> dict[str, Any]:
    if problems:
        raise ConfigInvalid(problems)
    return nested(found)


def _content(path: Path) -> bytes | str | None:
    """Read a file, or say why not; None where there is none. A pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(MAX_CREDENTIAL + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else "no regular file"
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _text(content: bytes | str) -> tuple[str, str | None]:
    """Return the text of a credential, and what is wrong with it."""
    if isinstance(content, str):
        return "", content
    if len(content) > MAX_CREDENTIAL:
        return "", f"larger than {MAX_CREDENTIAL} bytes"
    try:
        text = content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    return text, None if text else "it is empty; remove it where no secret is meant"


def _unknown(name: str, known: set[str]) -> Problem:
    if any(each.startswith(f"{name.upper()}__") for each in known):
        return Problem("", f"the environment variable {name} names a section; give its fields one by one")
    near = get_close_matches(name.upper(), sorted(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem("", f"the environment variable {name} names no field{hint}")
