"""The sources of a settings model, as pydantic-settings reads them, each value with its origin.

The file, the environment and the credentials directory are three sources beside those of that library. Precedence,
lowest first: the file, what `model_config` names (`secrets_dir`, `env_file`, `env_prefix`), the credentials directory,
options of the command line; `settings_customise_sources` orders the middle ones, and may add more.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
)
from pydantic_settings.sources import DefaultSettingsSource

from hotreload.config.document import MOST, Keys, dotted
from hotreload.config.fields import Leaf, Node, tree
from hotreload.config.model import Merged, Origin, plain
from hotreload.config.positions import LONE_SURROGATE
from hotreload.config.trees import ABSENT, assign, copied, find, locate, put, visit
from hotreload.config.unknown import nearest
from hotreload.errors import Problem
from hotreload.folder import content_of

PREFIX: Final = "OVCONF__"
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
MAX_CREDENTIAL: Final = 1024 * 1024

Beside = Mapping[Path, bytes | str]
"""What stands in each file beside the configuration that exists, or why that cannot be read."""
Given = tuple[Keys, object]
"""What a source says of a path."""


class FileSource(InitSettingsSource):
    """What the configuration file says, as it is."""

    def __init__(self, settings_cls: type[BaseSettings], data: Mapping[str, Any]) -> None:
        PydanticBaseSettingsSource.__init__(self, settings_cls)  # what stands in the file needs no aliases resolved
        self.init_kwargs, self.nested_model_default_partial_update = dict(data), False


class EnvironmentSource(EnvSettingsSource):
    """`OVCONF__SECTION__FIELD`, or what `env_prefix` and `env_nested_delimiter` of the model say.

    Below our own prefix a field with aliases goes by its own name and by each alias.
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self.environ = environ
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {self._apply_case_sensitive(name): text for name, text in self.environ.items() if self._counts(text)}

    def _counts(self, text: str) -> bool:
        return not LONE_SURROGATE.search(text) and not (self.env_ignore_empty and text == "")

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What a name may begin with; a model that states a prefix has names without it for its aliases."""
        return (self.env_prefix,) if self.env_prefix.startswith(PREFIX) else ("", self.env_prefix)

    def has(self, name: str) -> bool:
        """Tell whether a variable is set."""
        return self._apply_case_sensitive(name) in self.env_vars

    def _extract_field_info(
        self, field: FieldInfo, field_name: str, model_config: Mapping[str, Any] | None = None
    ) -> list[tuple[str, str, bool]]:
        known = super()._extract_field_info(field, field_name, model_config)
        if model_config is not None or not self.env_prefix.startswith(PREFIX):
            return known
        names = {field_name: known[-1][2], **{key: is_complex for key, _, is_complex in known}}
        begun = self.prefixes
        return [(name, self._apply_case_sensitive(start + name), own) for start in begun for name, own in names.items()]

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the value of a JSON text, and any other text as it is: the model says what is wrong with it."""
        try:
            decoded = super().decode_complex_value(field_name, field, value)
            json.dumps(decoded, allow_nan=False)
        except (TypeError, ValueError):
            return value
        return decoded

    def __call__(self) -> dict[str, Any]:
        start = self._apply_case_sensitive(self.env_prefix)
        if self.env_prefix.startswith(PREFIX) and not any(name.startswith(start) for name in self.env_vars):
            return {}
        return super().__call__()


class DotEnvSource(EnvironmentSource, DotEnvSettingsSource):
    """The files that `env_file` names."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        DotEnvSettingsSource.__init__(self, settings_cls)
        self.dotenv_filtering = self.dotenv_filtering or "only_existing"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What a name may begin with: the file is the service's own, so that our own prefix may be left out."""
        return (self.env_prefix, "")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return DotEnvSettingsSource._load_env_vars(self)

    def __call__(self) -> dict[str, Any]:
        return DotEnvSettingsSource.__call__(self)


class CredentialsSource(PydanticBaseSettingsSource):
    """Files in `$CREDENTIALS_DIRECTORY`, named by the dotted path of a secret field; one trailing newline is cut.

    `section` is where the model's own tree stands in the whole. `beside` is what the files hold, where they were
    read already. `problems` names those that cannot be used.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        section: str = "",
        environ: Mapping[str, str] | None = None,
        beside: Beside | None = None,
    ) -> None:
        super().__init__(settings_cls)
        folder = (os.environ if environ is None else environ).get(CREDENTIALS)
        above: Keys = (section,) if section else ()
        self._beside = beside
        self.problems: list[Problem] = []
        named = (node for node in _named(tree(settings_cls)) if node.rule.secret) if folder else ()
        self._files = {Path(folder or "") / dotted((*above, *node.keys)): node for node in named}

    def files(self) -> list[Path]:
        """Return the files that count, whether they exist or not."""
        return list(self._files)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        beside = {path: _content(path) for path in self._files} if self._beside is None else self._beside
        for path, node in self._files.items():
            if (content := beside.get(path)) is None:
                continue
            text, reason = _text(content)
            if reason is None:
                put(found, node.keys, text)
            else:
                self.problems.append(Problem(path.name, f"the credential file {path.name} cannot be used: {reason}"))
        return found


def read(
    model: type[BaseSettings],
    file_data: Mapping[str, Any],
    *,
    section: str = "",
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    beside: Beside | None = None,
) -> Merged:
    """Ask every source of a model, at the start and at each reload: what they say together, and of whom each value is.

    `section` is where the model's own tree stands in the whole. A value of a higher source takes the place of that of
    a lower one, whatever alias each is written under; maps are merged key by key. Never raises.
    """
    environ = dict(os.environ if environ is None else environ)  # each reading of the process's own decodes it
    credentials = CredentialsSource(model, section, environ, beside)
    file = FileSource(model, file_data)
    merge = _Merge(model, section)
    try:
        between = sources_of(model, file, environ)
    except Exception as error:  # noqa: BLE001 - whatever a source of the user's raises
        merge.refuse("settings_customise_sources", error)
        between = (file,)
    chosen = FileSource(model, options or {})
    for source in reversed((chosen, credentials, *between)):
        merge.lay_over(source, "option" if source is chosen else _kind(source))
    merge.problems += [*credentials.problems, *_not_text(model, environ, section)]
    return merge.result(file_data, _unknown_variables(model, environ, section))


def sources_of(
    model: type[BaseSettings], file: FileSource, environ: Mapping[str, str]
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Return the sources the model names, highest first, as `settings_customise_sources` orders them."""
    config, nothing = model.model_config, FileSource(model, {})
    chosen = model.settings_customise_sources(
        model,
        init_settings=file,
        env_settings=EnvironmentSource(model, environ),
        dotenv_settings=DotEnvSource(model) if config.get("env_file") else nothing,
        file_secret_settings=_secrets(model) if config.get("secrets_dir") else nothing,
    )
    partial = config.get("nested_model_default_partial_update")
    return (*chosen, DefaultSettingsSource(model)) if partial else chosen


def _secrets(model: type[BaseSettings]) -> SecretsSettingsSource:
    stated = model.model_config.get("env_prefix") or ""
    return SecretsSettingsSource(model, env_prefix="" if stated.startswith(PREFIX) else stated)


def files_of(model: type[BaseSettings]) -> list[Path]:
    """Return the files that `env_file` and `secrets_dir` name, whether they exist or not."""
    config, names = model.model_config, [name for node in tree(model).fields.values() for name in node.names]
    folders = [Path(each).expanduser() for each in _listed(config.get("secrets_dir"))]
    in_folders = [folder / name for folder in folders for name in names]
    return [Path(each).expanduser().absolute() for each in _listed(config.get("env_file"))] + in_folders


def _listed(stated: Any) -> list[Any]:
    return [] if stated is None else [stated] if isinstance(stated, (str, os.PathLike)) else list(stated)


class _Merge:
    """Lays sources over one another, lowest first."""

    def __init__(self, model: type[BaseSettings], section: str) -> None:
        self._root = tree(model)
        self._above: Keys = (section,) if section else ()
        self._data: dict[str, Any] = {}
        self._origins: dict[Keys, Origin] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self.problems: list[Problem] = []

    def refuse(self, name: str, error: Exception) -> None:
        """Note that a source could not be read."""
        self.problems.append(Problem("", f"the source {name} failed: {type(error).__name__}: {error}"))

    def lay_over(self, source: PydanticBaseSettingsSource, kind: str) -> None:
        """Take what a source says; a source that raises is a problem."""
        try:
            source._set_current_state(self._data)  # pyright: ignore[reportPrivateUsage]
            source._set_settings_sources_data(self._states)  # pyright: ignore[reportPrivateUsage]
            said = self._states[type(source).__name__] = source()
            if kind == "file":
                self._lay_file_over(said)
                return
            given = list(_given(said, self._root))
        except Exception as error:  # noqa: BLE001 - whatever a source of the user's raises
            self.refuse(type(source).__name__, error)
            return
        for keys, value in given:
            name = _name(source, self._root, keys, self._above)
            if self._set(keys, value):
                self._origins[keys] = Origin(kind, name)
            elif _gives_way(self._data, self._root, keys):
                reason = f"{name} cannot set it: what stands before it in the list is missing"
                self.problems.append(Problem(dotted((*self._above, *keys)), reason))

    def _lay_file_over(self, said: Mapping[str, Any]) -> None:
        if not self._data:
            self._data = copied(said)
            return
        for met in visit(said, self._root):  # the model puts the file above another source
            if self._set(met.keys, met.value):
                self._origins.pop(met.keys, None)

    def _set(self, keys: Keys, value: object) -> bool:
        if not _gives_way(self._data, self._root, keys):
            return False
        return assign(self._data, self._root, keys, _over(find(self._data, self._root, keys), value))

    def result(self, file_data: Mapping[str, Any], warnings: Sequence[Problem]) -> Merged:
        """Return the tree with the origin of what is not from the file, and a warning for what of the file it hides."""
        hidden: list[Problem] = []
        for keys, origin in self._origins.items():
            written = find(file_data, self._root, keys)
            if written is not ABSENT and written != find(self._data, self._root, keys):
                place = dotted((*self._above, *locate(file_data, self._root, keys)))
                text = f"`{dotted((*self._above, *keys))}` is set by {origin.name}; what the file says has no effect"
                hidden.append(Problem(place, text))
        provenance = {(*self._above, *keys): origin for keys, origin in self._origins.items()}
        return Merged(self._data, provenance, (*warnings, *hidden), self.problems)


def _kind(source: PydanticBaseSettingsSource) -> str:
    known: dict[type[Any], str] = {
        FileSource: "file",
        DotEnvSource: "env_file",
        EnvironmentSource: "environment",
        CredentialsSource: "credential",
        SecretsSettingsSource: "secrets_dir",
        DefaultSettingsSource: "default",
    }
    return known.get(type(source), type(source).__name__)


def _given(said: Mapping[str, Any], section: Node, keys: Keys = ()) -> Iterator[Given]:
    """Yield what a source says leaf by leaf, names and aliases of any case turned into paths, texts into values."""
    for key, value in said.items():
        name, inner = _field(section, key)
        path = (*keys, name)
        if inner is not None and (inner.fields or inner.entries) and isinstance(value, Mapping) and value:
            yield from _given(cast("Mapping[str, Any]", value), inner, path)
        else:
            yield path, _value(inner.leaf if inner else None, cast("object", value))


def _field(section: Node, key: str) -> tuple[str, Node | None]:
    """Return the key and the place of a field by its name, or the entry of a map; None for what no model knows."""
    if key in section.fields:
        return key, section.fields[key]
    for name, node in section.fields.items():
        names = (name, *node.names, *(str(place[0]) for place in node.places if len(place) == 1))
        if key.lower() in (each.lower() for each in names):
            return name, node
    return key, section.entries


def _value(leaf: Leaf | None, value: object) -> object:
    if isinstance(value, str):
        return from_text(leaf, value) if leaf is not None else value
    made = plain(value)
    return str(made) if isinstance(made, float) and not math.isfinite(made) else made


def from_text(leaf: Leaf, text: str) -> object:
    """Return the plain value a text stands for in a field; the text itself where it fits no form of the field.

    Ranges are not looked at: the whole tree is validated later, and that says what is allowed.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(leaf.info.annotation or str)
    try:
        value = plain(adapter.validate_python(text))
        return text if isinstance(value, float) and not math.isfinite(value) else value
    except Exception:  # noqa: BLE001 - whatever a validator raises; the whole tree is validated later
        return _from_json(adapter, text)


def _from_json(adapter: TypeAdapter[Any], text: str) -> object:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
        adapter.validate_json(text, strict=True)
    except Exception:  # noqa: BLE001 - the same
        return text
    return value


def _over(below: object, value: object) -> object:
    """Return a value laid over another: maps key by key, as pydantic-settings merges its sources."""
    if not (isinstance(below, dict) and isinstance(value, Mapping)):
        return value
    merged = dict(cast("dict[str, object]", below))
    for key, item in cast("Mapping[str, object]", value).items():
        merged[key] = _over(merged.get(key), item)
    return merged


def _gives_way(data: Mapping[str, Any], root: Node, keys: Keys) -> bool:
    """Tell whether a value may be set: what stands in the place of a section is wrong and must be said."""
    for count in range(1, len(keys)):
        above = find(data, root, keys[:count])
        if above is not ABSENT and above is not None and not isinstance(above, (Mapping, list)):
            return False
    return True


def _named(root: Node) -> Iterator[Node]:
    """Yield the leaves, and the lists and maps of sections, that a variable or a credential can name."""
    for node in root.fields.values():
        if node.leaf is not None or node.entries is not None:
            yield node
        yield from _named(node)


def _names_of(source: EnvironmentSource, root: Node, keys: Keys) -> Iterator[str]:
    """Yield the variables that may have given the value of a path, that of the path itself last."""
    node: Node | None = root
    begun = source.prefixes
    for key in keys:
        node = node.child(key) if node is not None else None
        own = (*node.names, *(str(place[0]) for place in node.places)) if node is not None else ()
        names = [start + name for start in begun for name in dict.fromkeys((*own, str(key)))]
        yield from names
        begun = tuple(name + (source.env_nested_delimiter or "__") for name in names)


def _name(source: PydanticBaseSettingsSource, root: Node, keys: Keys, above: Keys) -> str:
    """Return what a person calls the source of a value."""
    if isinstance(source, CredentialsSource):
        return f"the credential file {dotted((*above, *keys))}"
    if isinstance(source, FileSource):
        return "an option of the command line"
    if isinstance(source, EnvironmentSource):
        names = [name for name in _names_of(source, root, keys) if source.has(name)]
        shown = (names[-1] if names else source.env_prefix).upper()
        return f"{shown} in an env_file" if isinstance(source, DotEnvSource) else shown
    return f"the source {type(source).__name__}"


def _below(environ: Mapping[str, str], start: str, section: str) -> list[str]:
    own = f"{PREFIX}HOTRELOAD__"
    names = sorted(name for name in environ if name.upper().startswith(start.upper()))
    return [name for name in names if section or not name.upper().startswith(own)]


def _not_text(model: type[BaseSettings], environ: Mapping[str, str], section: str) -> list[Problem]:
    """Name the variables that are not UTF-8."""
    start = model.model_config.get("env_prefix") or PREFIX
    found: list[Problem] = []
    for name in _below(environ, start, section):
        if LONE_SURROGATE.search(environ[name]):
            keys = _path_of(tree(model), name[len(start) :].split("__"))[0]
            path = dotted(((section,) if section else ()) + keys)
            found.append(Problem(path, f"the environment variable {name} is not UTF-8"))
    return found


def _path_of(root: Node, parts: Sequence[str]) -> tuple[Keys, bool]:
    """Return the path a variable names below its prefix, and whether a model knows it."""
    keys: Keys = ()
    node: Node | None = root
    for index, part in enumerate(parts):
        if node is None or not (node.fields or node.entries):
            return (*keys, *parts[index:]), node is not None
        key, node = _field(node, part)
        keys = (*keys, key)
    return keys, node is not None


def _unknown_variables(model: type[BaseSettings], environ: Mapping[str, str], section: str) -> list[Problem]:
    """Warn of variables below our own prefix that name no field."""
    start = model.model_config.get("env_prefix") or ""
    if not start.startswith(PREFIX):
        return []
    root = tree(model)
    names = _below(environ, start, section)
    unknown = [name for name in names if not _path_of(root, name[len(start) :].split("__"))[1]]
    known = [f"{start}{'__'.join(map(str, node.keys))}".upper() for node in _named(root)] if unknown else []
    return [_unknown(name, known) for name in islice(unknown, MOST)]


def _unknown(name: str, known: Sequence[str]) -> Problem:
    near = nearest(name.upper(), known)
    hint = f"; did you mean {near}?" if near else ""
    return Problem("", f"the environment variable {name} names no field{hint}")


def _content(path: Path) -> bytes | str | None:
    """Read a file, or say why not; None where there is none. A pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return content_of(file, MAX_CREDENTIAL + 1) if regular else "no regular file"
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
