"""Validate ov.conf with OpenViking's own classes.

Its loader is not used: loading moves the revision that the web studio and the restart rollback compare with.
`OpenVikingConfig.from_dict` and `ServerConfig` validate a value and publish nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from hotreload.config.document import Keys, dotted
from hotreload.config.fields import Effect, FieldRule, tree
from hotreload.config.model import Merged, Validated
from hotreload.config.problems import Explainer
from hotreload.config.schema import json_schema
from hotreload.config.secrets import SecretMatcher, secrets_in
from hotreload.config.sources import PREFIX, Beside
from hotreload.config.unknown import ANNOTATIONS, unknown_keys
from hotreload.errors import ConfigInvalid, Problem
from hotreload.openviking import fields
from hotreload.openviking.fields import LIMIT_RANGE, PARSERS, POOLS
from hotreload.openviking.leaves import as_written, by_keys, default_leaves, keys_of, written_leaves

OWN = f"{PREFIX}HOTRELOAD"
BESIDE = ("server", "bot", "parsers")
"""Sections of ov.conf that are not fields of `OpenVikingConfig`."""
CALLS_PER_IMPORT = 2
"""Model calls that one import of a short document has under way; it holds its slot until its children are done."""
UNKNOWN = "Ignoring unknown config field"
INTERVAL = re.compile("midnight|[SMHD]|W[0-6]", re.IGNORECASE)
LOGGERS = ("openviking_cli.utils.config.open_viking_config", "openviking.server.config")


@dataclass(frozen=True, slots=True)
class Settings:
    """One validated ov.conf: OpenViking's two models, and the limits the workers take."""

    config: Any
    """An `OpenVikingConfig`."""
    server: Any
    """A `ServerConfig`."""
    limits: Mapping[str, int]
    """By pool name."""


class OpenVikingModel:
    """What an ov.conf of OpenViking is validated against. Meets `ConfigModel`.

    `off` are the features whose seams were not found: what they apply needs a restart then.
    """

    def __init__(self, off: Collection[str] = ()) -> None:
        from openviking.server.config import ServerConfig
        from openviking_cli.utils.config.open_viking_config import OpenVikingConfig

        self._off = frozenset(off)
        self._config: Any = OpenVikingConfig
        self._server: Any = ServerConfig

    @property
    def tree(self) -> None:
        """OpenViking's input has the keys of its paths."""

    def rule(self, path: Keys) -> FieldRule:
        """Return the rule of one path."""
        found = replace(fields.rule(dotted(path)), path=path)
        needed = fields.feature_of(dotted(path))
        if found.effect is Effect.LIVE and needed in self._off:
            reason = f"this OpenViking is not known well enough to change it while it runs ({needed} is off)"
            return replace(found, effect=Effect.RESTART, reason=reason)
        return found

    def merge(self, file_data: Mapping[str, Any], beside: Beside | None = None) -> Merged:
        """Return the file as it is: OpenViking has no other source. A variable that is meant as one is named."""
        del beside
        meant = [name for name in sorted(os.environ) if name.startswith(PREFIX) and not name.startswith(OWN)]
        said = (
            "is not read: OpenViking has its settings from ov.conf alone; write $NAME there to take one from a variable"
        )
        return Merged(file_data, warnings=[Problem("", f"the environment variable {name} {said}") for name in meant])

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[Settings]:
        """Build the settings; ConfigInvalid with all problems. Relative paths stay OpenViking's own matter."""
        del folder
        problems = [*limit_problems(data), *log_problems(data)]
        with _quietly(), _no_new_folder(data):
            config, of_config = self._attempt(lambda: _config(data), self._config, data, "")
            server, of_server = self._attempt(lambda: _server(data), self._server, _section(data, "server"), "server")
            of_parsers = self._parser_problems(data) if config is None else []
        known = {problem.path for problem in problems}
        problems += [problem for problem in (*of_config, *of_server, *of_parsers) if problem.path not in known]
        if problems or config is None or server is None:
            raise ConfigInvalid(problems)
        values: dict[Keys, object] = {
            keys_of(path): value for path, value in default_leaves(config, server, data).items()
        }
        unknown = self._unknown(data)
        values |= _known(by_keys(data), [problem.path for problem in unknown])
        limits = {pool.name: cast(int, values.get(keys_of(pool.path), pool.default)) for pool in POOLS}
        warnings = [*unknown, *unfed(data, limits), *_without_model(config)]
        return Validated(Settings(config, server, limits), values, warnings)

    def schema(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON Schema of ov.conf; `own` is that of the section `hotreload`."""
        whole = json_schema(self._config, self._rule_of_config)
        sections: dict[str, Any] = whole["properties"]
        parsers = {name: sections.pop(name) for name in PARSERS if name in sections}
        server = json_schema(self._server, self.rule, ("server",))
        definitions = {**whole.pop("$defs", {}), **server.pop("$defs", {})}
        sections |= {"parsers": {"type": "object", "properties": parsers}, "server": server, "hotreload": dict(own)}
        return {**whole, "$defs": definitions} if definitions else whole

    def _rule_of_config(self, keys: Keys) -> FieldRule:
        return self.rule(keys_of(as_written(dotted(keys))))

    def _attempt(
        self, build: Callable[[], Any], model: Any, data: Mapping[str, Any], section: str
    ) -> tuple[Any, list[Problem]]:
        try:
            return build(), []
        except Exception as error:  # noqa: BLE001 - whatever a validator of theirs raises is a refusal
            found = error if isinstance(error, ValidationError) else error.__context__
            if isinstance(found, ValidationError) and found.title == model.__name__:
                explainer = Explainer(tree(model), lambda keys: self.rule((*keys_of(section), *keys)), section)
                return None, explainer.explain(found.errors(include_url=False), data)
            secrets = secrets_in(by_keys(data, keys_of(section)), self.rule)
            return None, [Problem(section, SecretMatcher(secrets).hide(f"OpenViking refuses it: {error}"))]

    def _parser_problems(self, data: Mapping[str, Any]) -> list[Problem]:
        """Look at the parsers too where the rest was refused before their turn came."""
        problems: list[Problem] = []
        for name, model, section in self._parsers(data):
            _, found = self._attempt(lambda m=model, s=section: m.from_dict(dict(s)), model, section, f"parsers.{name}")
            problems += found
        return problems

    def _parsers(self, data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
        for name, section in _section(data, "parsers").items():
            if name in PARSERS and name in self._config.model_fields and isinstance(section, Mapping):
                yield name, self._config.model_fields[name].annotation, cast("Mapping[str, Any]", section)

    def _unknown(self, data: Mapping[str, Any]) -> list[Problem]:
        rest = {key: value for key, value in data.items() if key not in BESIDE}
        found = unknown_keys(tree(self._config), rest)
        found += unknown_keys(tree(self._server), _section(data, "server"), "server")
        for name, model, section in self._parsers(data):
            known = [each.name for each in dataclasses.fields(model)]
            found += [_unknown(f"parsers.{name}", key, known) for key in section if key not in known]
        return found


def _known(values: Mapping[Keys, object], unknown: Sequence[str]) -> dict[Keys, object]:
    """Return the values but for those at and below unknown keys, which OpenViking passes over."""
    below = tuple(f"{path}." for path in unknown)
    return {
        keys: value
        for keys, value in values.items()
        if not (f"{dotted(keys)}.".startswith(below) or any(key.startswith(ANNOTATIONS) for key in map(str, keys)))
    }


def _unknown(above: str, key: str, known: Sequence[str]) -> Problem:
    near = get_close_matches(key, known, n=1)
    return Problem(f"{above}.{key}", f"unknown key; did you mean {above}.{near[0]}?" if near else "unknown key")


def limit_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Refuse limits that stock would take and turn into something else: 0, negative numbers, true, "4"."""
    low, high = LIMIT_RANGE
    values = written_leaves(data)
    return [
        Problem(
            pool.path,
            f"must be a whole number from {low} to {high}",
            input=json.dumps(value),
            hint=f"the default is {pool.default}",
        )
        for pool in POOLS
        if not (type(value := values.get(pool.path, low)) is int and low <= value <= high)
    ]


def log_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Refuse what Python's logging does not know; stock takes any text, and its loggers raise then."""
    section, problems = _section(data, "log"), list[Problem]()
    level, written, interval = (section.get(name) for name in ("level", "format", "rotation_interval"))
    known = sorted(logging.getLevelNamesMapping())
    if level is not None and not (isinstance(level, str) and level.upper() in known):
        problems.append(Problem("log.level", f"must be one of {', '.join(known)}", input=json.dumps(level)))
    if isinstance(written, str):
        try:
            logging.Formatter(written)
        except ValueError as error:
            problems.append(Problem("log.format", f"is not a format of Python's logging: {error}", input=written))
    if isinstance(interval, str) and not INTERVAL.fullmatch(interval):
        right = "must be midnight, S, M, H, D or W0 to W6"
        problems.append(Problem("log.rotation_interval", right, input=json.dumps(interval)))
    return problems


def _without_model(config: Any) -> list[Problem]:
    """Warn where no model is configured: stock writes placeholders then, and says nothing."""
    if config.vlm.is_available():
        return []
    return [Problem("vlm", "no model is configured: what is imported gets placeholders instead of summaries")]


def unfed(data: Mapping[str, Any], limits: Mapping[str, int]) -> list[Problem]:
    """Warn of a limit for model calls that the file states and the imports worked on at a time cannot fill."""
    imports = limits["add_resource"]
    reached = CALLS_PER_IMPORT * imports
    if "max_concurrent" not in _section(data, "vlm") or limits["semantic"] <= reached:
        return []
    feeder = next(pool for pool in POOLS if pool.name == "add_resource")
    message = f"limited by {feeder.path}: {imports} imports of short documents at a time make {reached} calls at a time"
    return [Problem("vlm.max_concurrent", message)]


def _config(data: Mapping[str, Any]) -> Any:
    from openviking_cli.utils.config.open_viking_config import OpenVikingConfig, is_valid_openviking_config

    config: Any = OpenVikingConfig.from_dict(dict(data))
    is_valid_openviking_config(config)
    return config


def _server(data: Mapping[str, Any]) -> Any:
    from openviking.server.config import ServerConfig, validate_server_config

    section: Any = data.get("server") or {}
    if not isinstance(section, Mapping):
        raise ValueError("the section must be an object")
    server = ServerConfig.model_validate(section)
    try:
        validate_server_config(server)
    except SystemExit as error:
        raise ValueError("it will not start with this section; its log says why") from error
    return server


@contextmanager
def _quietly() -> Generator[None]:
    """Keep OpenViking from printing its own warning of unknown keys: the report has it, with its place."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(UNKNOWN)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(other)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(other)


@contextmanager
def _no_new_folder(data: Mapping[str, Any]) -> Generator[None]:
    """Take away the workspace folders that validating makes: a dry run leaves nothing behind."""
    stated = _section(data, "storage").get("workspace", "./data")
    made: list[Path] = []
    if isinstance(stated, str):
        folder = Path(stated).expanduser().resolve()
        made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
