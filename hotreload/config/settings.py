"""Settings models: the base users build on, our own section `hotreload`, and how either reads a file.

Which sources count, and in which order, `hotreload.config.sources` says; it is the same at the start, at a reload and
in a direct construction.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hotreload.config.document import Keys, dotted, split_path
from hotreload.config.fields import FieldRule, Live, Node, leaves, rule_for, tree
from hotreload.config.frozen import freeze
from hotreload.config.model import Merged, Validated, leaf_values
from hotreload.config.paths import anchor_defaults, anchor_input, path_leaves
from hotreload.config.problems import Explainer, resolve
from hotreload.config.schema import json_schema
from hotreload.config.sources import PREFIX, Beside, CredentialsSource, FileSource, files_of, read, sources_of
from hotreload.config.trees import copied
from hotreload.config.unknown import unknown_keys
from hotreload.errors import ConfigInvalid, DeclarationError, Problem

S = TypeVar("S", bound="LiveSettings")
SECTION = "hotreload"
OF_VALIDATORS = ("value_error", "assertion_error")
PYTHON_KINDS: Final = "tuple set frozen_set bytes date datetime time time_delta url uuid decimal"
OF_PYTHON: Final = frozenset(f"{kind}_type" for kind in PYTHON_KINDS.split())
"""What strict rules refuse though JSON has no other form of it."""
FILES: Final = ("json_file", "toml_file", "yaml_file", "pyproject_toml_table_header", "cli_parse_args")
"""What `model_config` may name and only a source of the user's own reads."""


class LiveSettings(BaseSettings):
    """The base of a settings model of `ov.conf`: frozen, and fed by the sources of `hotreload.config.sources`.

    Values of the file must have the field's own type (`"12"` or `true` is not a whole number), texts from other
    sources are converted; `model_config = SettingsConfigDict(strict=False)` gives pydantic's lax rules to both.
    Unknown keys are passed over here and warned about by a reload. In a direct construction what is passed stands
    for the file; ConfigInvalid where a source cannot be read.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        validate_default=False,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )

    conf_section: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        merged = read(type(self), values, section=self.conf_section)
        if merged.errors:
            raise ConfigInvalid(merged.errors)
        made = _made_by(type(self), self.__pydantic_validator__.validate_python(merged.data, self_instance=self))
        if made is not self:
            self.__setstate__(made.__getstate__())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, highest first; `init_settings` stands for the file, the lowest by default.

        The credentials directory and options of the command line are above all of these.
        """
        return env_settings, dotenv_settings, file_secret_settings, init_settings


class HotreloadSettings(LiveSettings):
    """The section `hotreload` of `ov.conf`: how this library itself behaves."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}HOTRELOAD__")
    conf_section: ClassVar[str] = SECTION

    drain_deadline_s: Annotated[float, Live, Field(gt=0, le=86400)] = 25.0
    """Seconds from the first stop signal to the end of the process."""
    drain_grace_s: Annotated[float | None, Live, Field(ge=0, le=86400)] = None
    """Seconds running jobs may go on in a drain; None: derived from the deadline."""
    drain_sentinel: bool = True
    """Whether a tiny process beside this one keeps the deadline where no code of this one can run."""
    root_key: Annotated[SecretStr | None, Live] = None
    """A client that shows it may use `/admin` over TCP; None: no client may."""
    allowed_hosts: Annotated[tuple[str, ...], Live] = ()
    """`Host` values `/admin` takes over TCP; empty: loopback names and the bound address."""
    watch: Annotated[bool, Live] = True
    """Whether a change of the file is a trigger."""
    poll_s: Annotated[float, Live, Field(ge=0.05, le=3600)] = 2.0
    """The polling interval in seconds that backs up the watch."""
    history: Annotated[int, Live, Field(ge=1, le=10000)] = 50
    """Reload reports kept."""
    last_known_good: bool = False
    """Whether a broken file at the start is replaced by the last one applied."""
    recovery: Annotated[Literal["repair", "report", "off"], Live] = "repair"
    """What a scan does about work that should exist and does not."""
    recovery_every_s: Annotated[float, Live, Field(ge=0, le=31 * 86400)] = 3600.0
    """Seconds between two scans; 0: only after the start."""
    max_payload_bytes: Annotated[int, Live, Field(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    """Bytes that a job's payload may have as JSON; its cursor, the result of each step and its result likewise."""
    hold_s: Annotated[float, Live, Field(ge=0, le=31 * 86400)] = 86400.0
    """Under OpenViking: seconds a model call of a queue message waits for its endpoint; 0: it fails at once."""
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Live] = "info"
    """What is logged from on, where `hotreload run` has set up logging."""
    store: SecretStr | None = None
    """The `postgresql://` address of a database that keeps the jobs; None: a file in the state folder."""
    node_ttl_s: Annotated[float, Field(ge=5, le=3600)] = 15.0
    """Seconds within which other processes on that database take the jobs of one over that is not heard of."""
    state_dir: Path | None = None
    """Where the queue, the history and the fingerprint key are kept; None: chosen by the host."""

    @field_validator("store")
    @classmethod
    def _is_an_address(cls, store: SecretStr | None) -> SecretStr | None:
        if store is not None and not _is_postgresql(store.get_secret_value()):
            raise ValueError("must be postgresql://USER@HOST:PORT/NAME; leave it out for a file in the state folder")
        return store

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.root_key is not None and not self.root_key.get_secret_value().strip():
            raise ValueError("root_key must not be empty; leave it out to close /admin over TCP")
        if self.drain_grace_s is not None and self.drain_grace_s >= self.drain_deadline_s:
            raise ValueError(f"drain_grace_s must be below drain_deadline_s ({self.drain_deadline_s:g})")
        return self


def _is_postgresql(address: str) -> bool:
    """Tell whether a text has one of the forms that libpq reads: a URL, or `host=… dbname=…`."""
    try:
        scheme = urlsplit(address).scheme
    except ValueError:  # a bracket that is not closed
        return False
    return scheme in ("postgresql", "postgres") or re.match(r"\s*\w+\s*=", address) is not None


class SettingsModel(Generic[S]):
    """A settings model as a reload uses it: merge sources, validate a tree, name all that is wrong.

    `options` are values of the command line by field name, above every other source; `environ` is the
    process's own by default, read again at each merge. DeclarationError where the model asks for what a reload cannot
    do.
    """

    def __init__(
        self,
        model: type[S],
        *,
        options: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        refuse_model(model)
        _refuse(model, _wrong_sources(model))
        self.model = model
        self._section = model.conf_section
        self._above: Keys = (self._section,) if self._section else ()
        self._options = dict(options or {})
        self._environ = environ
        self._root = tree(model)
        self._paths = path_leaves(leaves(model))
        self._explainer = Explainer(self._root, partial(rule_for, self._root), self._section)
        self._rules = lru_cache(maxsize=1 << 17)(partial(rule_for, self._root))

    @property
    def tree(self) -> Node:
        """The places of the model, below its own section."""
        return self._root

    def rule(self, path: Keys) -> FieldRule:
        """Return the rule of one path of the whole; an unknown one needs a restart."""
        return self._rules(path[len(self._above) :])

    def merge(self, file_data: Mapping[str, Any], beside: Beside | None = None) -> Merged:
        """Lay the other sources over what the file says; without `beside` the credentials are read now."""
        return read(
            self.model,
            file_data,
            section=self._section,
            options=self._options,
            environ=self._environ,
            beside=beside,
        )

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[S]:
        """Build settings from a merged tree as it is: no source is asked again, so pinned values survive.

        Relative paths are taken from `folder`. ConfigInvalid with every problem, paths set and places not.
        """
        anchored, problems = anchor_input(data, self._root, self._paths, folder)
        problems = [replace(each, path=self._explainer.full(each.path)) for each in problems]
        try:
            settings = freeze(anchor_defaults(self._build(anchored), folder))
            values = leaf_values(settings, self._root, self._above)
        except _Mistakes as error:
            known = {each.path for each in problems}
            found = self._explainer.explain(error.errors, data)
            problems += [each for each in found if each.path not in known]
            problems += self._across(data, folder, problems)
        except ConfigInvalid as error:
            problems += error.problems
        except BaseException as error:  # noqa: BLE001 - a validator may raise anything: the file is refused with it
            _not_ctrl_c(error)
            problems.append(self._explainer.explain_defect(error, data))
        else:
            if not problems:
                return Validated(settings, values, unknown_keys(self._root, data, self._section))
        # raised outside the handler: pydantic's error holds the input, secrets included
        raise ConfigInvalid(problems)

    def _across(self, data: Mapping[str, Any], folder: Path, wrong: Sequence[Problem]) -> list[Problem]:
        """Return what rules across fields refuse as well: pydantic asks them only where all fields are right.

        They are asked again with the fields that are wrong left out.
        """
        known = {problem.path for problem in wrong}
        rest = copied(data)
        for path in known - {"", self._section}:
            _take_out(rest, split_path(path.removeprefix(f"{self._section}."), rest))
        found: list[ErrorDetails] = []
        try:
            self._build(anchor_input(rest, self._root, self._paths, folder)[0])
        except _Mistakes as error:
            found = [each for each in error.errors if each["type"] in OF_VALIDATORS]
        except BaseException as error:  # noqa: BLE001 - not the file's mistake: a field that its rule reads is wrong
            _not_ctrl_c(error)
            return []
        hint = f"asked without {', '.join(sorted(known))}"
        return [replace(each, hint=hint) for each in self._explainer.explain(found, rest) if each.path not in known]

    def credential_files(self) -> list[Path]:
        """Return the files beside the configuration that count, whether they exist or not; inputs like the file."""
        credentials = CredentialsSource(self.model, self._section, self._environ).files()
        return [*credentials, *files_of(self.model)]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the file, our own section included; each leaf has `x-reload` and `x-secret`."""
        schema = json_schema(self.model, self.rule, self._above)
        if self._section:
            return schema
        schema.setdefault("properties", {})[SECTION] = SettingsModel(HotreloadSettings).schema()
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def _build(self, data: Mapping[str, Any]) -> S:
        """Validate as JSON, so that strict rules still take a text for a path; `__init__` would ask the sources.

        What a before-validator returns is not JSON to pydantic any more, and its strict rules refuse a list for a
        tuple: such fields are held to the lax rules.
        """
        text = json.dumps(data)  # pydantic reads Infinity as well: a default that is kept may be infinite
        strict = self.model.model_config.get("strict", True)
        made, wrong = self._parsed(text, strict=strict)
        if strict and any(each["type"] in OF_PYTHON for each in wrong):
            lax, still = self._parsed(text, strict=False)
            made, wrong = lax, _unforgiven(wrong, {each["loc"] for each in still}, data)
        if made is None or wrong:
            raise _Mistakes(wrong)
        return made

    def _parsed(self, text: str, *, strict: bool) -> tuple[S | None, list[ErrorDetails]]:
        settings = self.model.__new__(self.model)
        try:
            made = self.model.__pydantic_validator__.validate_json(text, strict=strict, self_instance=settings)
        except ValidationError as error:
            return None, error.errors(include_url=False)
        return _made_by(self.model, made), []


def _unforgiven(
    wrong: Sequence[ErrorDetails], lax: Collection[tuple[str | int, ...]], data: Mapping[str, Any]
) -> list[ErrorDetails]:
    """Return the errors of the strict rules that count, `lax` says where the lax rules find one as well.

    Where a member of a union has none left, what the other members say of the value does not count.
    """
    forgiven = [each["loc"] for each in wrong if each["type"] in OF_PYTHON and each["loc"] not in lax]
    rest = [each for each in wrong if each["loc"] not in forgiven]
    members = {loc[: index + 1] for loc in forgiven for index in range(len(loc)) if _is_member(loc, index, data)}
    for member in sorted(members, key=len, reverse=True):  # a union within another one first
        of_union = [each for each in rest if each["loc"][: len(member) - 1] == member[:-1]]
        if not any(each["loc"][: len(member)] == member for each in of_union):
            rest = [each for each in rest if each not in of_union]
    return rest


def _is_member(loc: tuple[str | int, ...], index: int, data: Mapping[str, Any]) -> bool:
    """Tell whether a part of an error's place is the name of a member of a union, and no key of the input."""
    return (
        loc[index] != "[key]"
        and resolve(loc[: index + 1], data, missing=False)[0] == resolve(loc[:index], data, missing=False)[0]
    )


def _made_by(model: type[S], made: object) -> S:
    """Return what the validators of a model made; as pydantic takes it below the top, it may be another instance."""
    if not isinstance(made, model):
        raise TypeError(f"the last model validator returned {type(made).__name__}, not {model.__name__}: `return self`")
    return made


def _not_ctrl_c(error: BaseException) -> None:
    """Raise Ctrl-C again, which is in the main thread only; whatever else a validator raises refuses the file."""
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error


class _Mistakes(Exception):
    """All that pydantic says is wrong."""

    def __init__(self, errors: list[ErrorDetails]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors


def _take_out(tree_: dict[str, Any], keys: Sequence[str | int]) -> None:
    """Take out what stands at these keys, or the list it lies in; nothing where nothing does."""
    for key in keys[:-1]:
        if not isinstance(tree_.get(str(key)), dict):
            break
        tree_ = tree_[str(key)]
    else:
        key = keys[-1]
    tree_.pop(str(key), None)


def refuse_model(model: type[LiveSettings]) -> None:
    """Raise DeclarationError for what a model asks for and a reload cannot do: it would be passed over in silence.

    What it says of sources is looked at by `SettingsModel`: they are the user's code, which no import should run.
    """
    root, wrong = tree(model), _wrong_config(model)
    if not model.conf_section and any(place[0] == SECTION for each in root.fields.values() for place in each.places):
        wrong.append(f"the section `{SECTION}` is this library's own")
    for node in root.walk():
        wrong += [f"`{dotted(node.keys)}`: {reason}" for reason in node.wrong]
    _refuse(model, wrong)


def _refuse(model: type[LiveSettings], wrong: Sequence[str]) -> None:
    if wrong:
        raise DeclarationError("; ".join(f"{model.__name__}: {reason}" for reason in wrong))


def _wrong_config(model: type[LiveSettings]) -> list[str]:
    config = model.model_config
    stated = [name for name in ("cli_parse_args", "cli_prog_name") if config.get(name)]
    wrong = [f"`{name}` is not read by a service: its options are those of `hotreload run`" for name in stated]
    if model.__init__ is not LiveSettings.__init__:
        wrong.append("`__init__` is not called by a reload; a validator is")
    return wrong


def _wrong_sources(model: type[LiveSettings]) -> list[str]:
    file = FileSource(model, {})
    try:
        chosen = sources_of(model, file, {})
    except Exception:  # noqa: BLE001 - what a source of the user's cannot do now it may do when the service runs
        return []
    config, kinds = model.model_config, " ".join(type(source).__name__.lower() for source in chosen)
    unread = [name for name in FILES if config.get(name) and name.split("_", maxsplit=1)[0] not in kinds]
    wrong = [f"`{name}` is stated and no source in `settings_customise_sources` reads it" for name in unread]
    if file not in chosen:
        wrong.append("`settings_customise_sources` leaves out `init_settings`, which stands for the file")
    return wrong
