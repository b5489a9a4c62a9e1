"""Settings models: the base users build on, our own section `hotreload`, and how either reads a file.

Precedence, lowest first: the file, the environment (`OVCONF__SECTION__FIELD`), the credentials directory,
options of the command line. It is the same at the start, at a reload and in a direct construction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, cast

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hotreload.config.fields import FieldRule, Live, leaves, rule_for
from hotreload.config.model import Merged, Validated, leaf_values
from hotreload.config.paths import anchor_defaults, anchor_input, path_leaves
from hotreload.config.problems import Explainer, get
from hotreload.config.schema import json_schema
from hotreload.config.sources import Beside, CredentialsSource, EnvironmentSource, Found, put, remove
from hotreload.config.unknown import unknown_keys
from hotreload.errors import ConfigInvalid, Problem

S = TypeVar("S", bound="LiveSettings")
SECTION = "hotreload"
OF_VALIDATORS = ("value_error", "assertion_error")


class LiveSettings(BaseSettings):
    """The base of a settings model of `ov.conf`: frozen, and fed by file, environment and credentials directory.

    Values of the file must have the field's own type (`"12"` or `true` is no whole number), texts from the
    environment are converted; `model_config = SettingsConfigDict(strict=False)` gives pydantic's lax rules
    to both. Unknown keys are passed over here and warned about by a reload.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, validate_default=False)

    conf_section: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of a direct construction, highest first; what is passed in stands for the file."""
        section = cls.conf_section
        return CredentialsSource(settings_cls, section), EnvironmentSource(settings_cls, section), init_settings


class HotreloadSettings(LiveSettings):
    """The section `hotreload` of `ov.conf`: how this library itself behaves."""

    conf_section: ClassVar[str] = SECTION

    drain_deadline_s: Annotated[float, Live, Field(gt=0, le=86400)] = 25.0
    """Seconds from the first stop signal to the end of the process."""
    drain_grace_s: Annotated[float | None, Live, Field(ge=0, le=86400)] = None
    """Seconds running jobs may go on in a drain; None: derived from the deadline."""
    drain_sentinel: bool = True
    """Whether a tiny process beside this one keeps the deadline where no code of this one can run."""
    root_key: Annotated[SecretStr | None, Live] = None
    """Who shows it may use `/admin` over TCP; None: nobody may."""
    allowed_hosts: Annotated[tuple[str, ...], Live] = ()
    """`Host` values `/admin` takes over TCP; empty: loopback names and the bound address."""
    watch: Annotated[bool, Live] = True
    """Whether a change of the file is a trigger."""
    poll_s: Annotated[float, Live, Field(ge=0.05, le=3600)] = 2.0
    """Seconds between two looks at the file that back the watch."""
    history: Annotated[int, Live, Field(ge=1, le=10000)] = 50
    """Reload reports kept."""
    last_known_good: bool = False
    """Whether a broken file at the start is replaced by the last one applied."""
    recovery: Annotated[Literal["repair", "report", "off"], Live] = "repair"
    """What a scan does about work that should exist and does not."""
    state_dir: Path | None = None
    """Where the queue, the history and the fingerprint key are kept; None: chosen by the host."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.root_key is not None and not self.root_key.get_secret_value().strip():
            raise ValueError("root_key must not be empty; leave it out to close /admin over TCP")
        if self.drain_grace_s is not None and self.drain_grace_s >= self.drain_deadline_s:
            raise ValueError(f"drain_grace_s must be below drain_deadline_s ({self.drain_deadline_s:g})")
        return self


class SettingsModel(Generic[S]):
    """A settings model as a reload uses it: merge sources, validate a tree, name all that is wrong.

    `options` are values of the command line by field name, above every other source; `environ` is the
    process's own by default, read anew at each merge.
    """

    def __init__(
        self,
        model: type[S],
        *,
        options: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if not model.conf_section and SECTION in model.model_fields:
            raise TypeError(f"{model.__name__}: the section `{SECTION}` is this library's own")
        self.model = model
        self._section = model.conf_section
        self._options = dict(options or {})
        self._environ = environ
        self._leaves = leaves(model)
        self._rules = {self._full(path): leaf.rule for path, leaf in self._leaves.items()}
        self._paths = path_leaves(self._leaves)
        self._explainer = Explainer(self._leaves, self._section)

    def rule(self, path: str) -> FieldRule:
        """Return the rule of one leaf; an unknown path needs a restart."""
        return rule_for(self._rules, path)

    def merge(self, file_data: Mapping[str, Any], beside: Beside | None = None) -> Merged:
        """Lay environment, credentials and options over what the file says; without `beside` it reads credentials."""
        data = _copy(file_data)
        environment = EnvironmentSource(self.model, self._section, self._environ)
        credentials = CredentialsSource(self.model, self._section, self._environ, beside)
        provenance = {path: "file" for path, leaf in self._leaves.items() if _is_set(data, leaf.keys)}
        errors: list[Problem] = []
        for source in (environment, credentials):
            found, problems = source.read()
            errors.extend(problems)
            _lay_over(data, provenance, found, source.origin)
        _lay_over(data, provenance, {(key,): value for key, value in self._options.items()}, "option")
        named = {self._full(path): origin for path, origin in provenance.items()}
        return Merged(data, named, environment.unknown(), errors)

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[S]:
        """Build settings from a merged tree as it is: no source is asked again, so pinned values survive.

        Relative paths are taken from `folder`. ConfigInvalid with every problem, paths set and places not.
        """
        anchored = anchor_input(data, self._paths, folder)
        warnings = unknown_keys(self.model, data, list(self._leaves), self._section)
        try:
            settings = anchor_defaults(self._build(anchored), folder)
        except ValidationError as error:
            problems = self._explainer.explain(error.errors(include_url=False), data)
            problems += self._across(data, folder, problems)
        except Exception as error:  # noqa: BLE001 - a validator may raise anything: the file is refused with it
            problems = [self._explainer.explain_defect(error, data)]
        else:
            values = {self._full(".".join(keys)): value for keys, value in leaf_values(settings).items()}
            return Validated(settings, values, warnings)
        # raised outside the handler: pydantic's error holds the input, secrets included
        raise ConfigInvalid(problems)

    def _across(self, data: Mapping[str, Any], folder: Path, wrong: Sequence[Problem]) -> list[Problem]:
        """Return what rules across fields refuse as well: pydantic asks them only where all fields are right.

        They are asked again with the fields that are wrong left out.
        """
        known = {problem.path for problem in wrong}
        rest = _copy(data)
        for path in known:
            remove(rest, path.removeprefix(f"{self._section}.").split("."))
        found: list[ErrorDetails] = []
        try:
            self._build(anchor_input(rest, self._paths, folder))
        except ValidationError as error:
            found = [
                each for each in error.errors(include_url=False) if each["type"] in ("value_error", "assertion_error")
            ]
        except Exception:  # noqa: BLE001 - not to be blamed on the file: a field that its rule reads is wrong
            return []
        hint = f"asked without {', '.join(sorted(known))}"
        return [replace(each, hint=hint) for each in self._explainer.explain(found, rest) if each.path not in known]

    def credential_files(self) -> list[Path]:
        """Return the credential files that count, whether they exist or not; they are inputs like the file itself."""
        return CredentialsSource(self.model, self._section, self._environ).files()

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the file, our own section included; each leaf has `x-reload` and `x-secret`."""
        schema = json_schema(self.model, self.rule, self._section)
        if self._section:
            return schema
        schema.setdefault("properties", {})[SECTION] = SettingsModel(HotreloadSettings).schema()
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def _build(self, data: Mapping[str, Any]) -> S:
        """Validate as JSON, so that strict rules still take a text for a path; `__init__` would ask the sources."""
        settings = self.model.__new__(self.model)
        strict = self.model.model_config.get("strict", True)
        text = json.dumps(data, allow_nan=False)
        self.model.__pydantic_validator__.validate_json(text, strict=strict, self_instance=settings)
        return settings

    def _full(self, path: str) -> str:
        return f"{self._section}.{path}" if self._section else path


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(cast("dict[str, Any]", item)) if isinstance(item, dict) else item for key, item in tree.items()}


def _is_set(data: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    above = get(data, keys[: len(keys) - 1])
    return isinstance(above, Mapping) and keys[-1] in above


def _lay_over(data: dict[str, Any], provenance: dict[str, str], found: Found, origin: str) -> None:
    for keys, value in found.items():
        if put(data, keys, value):
            provenance[".".join(keys)] = origin
