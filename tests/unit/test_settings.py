"""Settings models: precedence, strict files and lax environments, every problem in plain words, no secret in any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticOmit
from pydantic_settings import SettingsConfigDict

from hotreload.config.document import Keys, dotted
from hotreload.config.fields import Effect, Live, Secret, leaf_rules, unmarked_secrets
from hotreload.config.model import Merged
from hotreload.config.settings import HotreloadSettings, LiveSettings, SettingsModel
from hotreload.config.sources import CredentialsSource, EnvironmentSource
from hotreload.errors import REASON_MOST, ConfigInvalid, DeclarationError, Problem

HERE = Path("/etc/service")
PASSWORD = "hunter2hunter2"


class VLM(BaseModel):
    model: Annotated[str, Live] = "small"
    max_concurrent: Annotated[int, Live, Field(ge=1, le=1024)] = 4
    pace_s: Annotated[float, Live, Field(ge=0)] = 0.2
    api_key: Annotated[SecretStr | None, Live] = None
    api_base: Annotated[str, Live] = ""
    mode: Literal["fast", "careful"] = "fast"
    headers: Annotated[dict[str, str], Live] = {}
    counts: dict[str, int] = {}
    fallback: int | list[int] = 1
    on: bool = True

    @field_validator("api_key")
    @classmethod
    def _quotes_it(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().startswith("bad"):
            raise ValueError(f"the key {value.get_secret_value()} begins with bad")
        return value

    @model_validator(mode="after")
    def _pace(self) -> VLM:
        if self.mode == "careful" and self.pace_s == 0:
            raise ValueError(f"careful needs a pace, with {self.api_key and self.api_key.get_secret_value()}")
        return self


class Storage(BaseModel):
    workspace: Path
    cache: Path = Path("cache")
    extra: list[Path] = []
    home: Path | None = None
    either: Path | str = "relative"


class Backup(BaseModel):
    model_config = ConfigDict(extra="forbid")
    folder: Path = Path("backup")


class Lists(BaseModel):
    users: list[VLM] = []
    named: dict[str, VLM] = {}
    open: dict[str, Any] = {}


class OvConf(LiveSettings):
    vlm: VLM = VLM()
    storage: Storage
    backup: Backup | None = None
    lists: Lists = Lists()
    name: str = ""
    password: Annotated[str, Secret] = ""


MINIMAL: dict[str, Any] = {"storage": {"workspace": "w"}}


def by_text(leaves: Mapping[Keys, Any]) -> dict[str, Any]:
    return {dotted(keys): value for keys, value in leaves.items()}


def sources(merged: Merged) -> dict[str, str]:
    return {dotted(keys): origin.source for keys, origin in merged.provenance.items()}


def model(environ: dict[str, str] | None = None, **options: Any) -> SettingsModel[OvConf]:
    return SettingsModel(OvConf, environ=environ or {}, **options)


def refused(data: dict[str, Any]) -> dict[str, Problem]:
    with pytest.raises(ConfigInvalid) as caught:
        model().validate({**MINIMAL, **data}, HERE)
    assert caught.value.__context__ is None
    return {problem.path: problem for problem in caught.value.problems}


def test_defaults_and_leaves() -> None:
    result = model().validate(MINIMAL, HERE)
    assert result.settings.vlm.max_concurrent == 4
    assert by_text(result.leaves)["vlm.max_concurrent"] == 4
    assert by_text(result.leaves)["vlm.api_key"] is None
    assert by_text(result.leaves)["backup"] is None
    assert by_text(result.leaves)["lists.users"] == []
    assert result.warnings == []
    sections = {"backup", "lists.users", "lists.named"}
    inside = {path for path in leaf_rules(OvConf) if path.startswith(tuple(f"{section}." for section in sections))}
    assert set(by_text(result.leaves)) - sections == set(leaf_rules(OvConf)) - inside


def test_leaves_are_plain_and_secrets_in_clear() -> None:
    data = {"vlm": {"api_key": PASSWORD}, "lists": {"users": [{"api_key": PASSWORD}]}}
    result = model().validate({**MINIMAL, **data}, HERE)
    assert by_text(result.leaves)["vlm.api_key"] == PASSWORD
    assert by_text(result.leaves)["lists.users.0.api_key"] == PASSWORD
    json.dumps(by_text(result.leaves))
    assert PASSWORD not in repr(result)


def test_settings_are_frozen() -> None:
    settings = model().validate(MINIMAL, HERE).settings
    with pytest.raises(ValidationError):
        settings.name = "other"


@pytest.mark.parametrize(
    ("section", "says", "shown", "advice"),
    [
        ({"max_concurrent": -3}, "must be at least 1", "-3", "a whole number from 1 to 1024"),
        ({"max_concurrent": 5000}, "must be at most 1024", "5000", "a whole number from 1 to 1024"),
        ({"max_concurrent": "12"}, "must be a whole number", '"12"', "a whole number from 1 to 1024"),
        ({"max_concurrent": True}, "must be a whole number", "true", "a whole number from 1 to 1024"),
        ({"max_concurrent": 4.5}, "must be a whole number", "4.5", "a whole number from 1 to 1024"),
        ({"max_concurrent": None}, "must be a whole number", "null", "a whole number from 1 to 1024"),
        ({"max_concurrent": [1]}, "must be a whole number", "[1]", "a whole number from 1 to 1024"),
        ({"pace_s": "fast"}, "must be a number", '"fast"', "a number from 0"),
        ({"model": 5}, "must be text", "5", "allowed: text"),
        ({"on": 1}, "must be true or false", "1", "true or false"),
        ({"mode": "carefull"}, "must be one of 'fast' or 'careful'", '"carefull"', 'did you mean "careful"?'),
        ({"mode": 5}, "must be one of 'fast' or 'careful'", "5", 'one of "fast", "careful"'),
        ({"headers": []}, "must be an object", "[]", "an object"),
        ({"fallback": "x"}, "must be a whole number, or must be a list", '"x"', "a whole number or a list"),
        ({"api_base": ["http://u:hunter2@h"]}, "must be text", '["http://u:***@h"]', "text"),
        ({"model": ["x" * 500]}, "must be text", '["' + "x" * 118 + "…", "text"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(section: dict[str, Any], says: str, shown: str, advice: str) -> None:
    (name,) = section
    (found,) = refused({"vlm": section}).values()
    assert found.path == f"vlm.{name}"
    assert found.message == says
    assert found.input == shown
    assert found.hint is not None
    assert advice in found.hint


def test_all_problems_are_named_at_once() -> None:
    found = refused(
        {
            "vlm": {"max_concurrent": 0, "mode": "x", "counts": {"a": 1, "b": "x"}},
            "storage": {},
            "backup": {"foldr": 1},
            "lists": {"users": [{}, {"on": 5}]},
            "name": None,
        }
    )
    assert set(found) == {
        "vlm.max_concurrent",
        "vlm.mode",
        "vlm.counts.b",
        "storage.workspace",
        "backup.foldr",
        "lists.users.1.on",
        "name",
    }
    assert found["storage.workspace"].message == "is required and missing"
    assert found["storage.workspace"].hint == "allowed: a path"
    assert found["backup.foldr"].message == "unknown key"


def test_a_section_of_a_wrong_type() -> None:
    assert refused({"vlm": [1]})["vlm"].message == "must be an object"
    assert refused({"lists": 5})["lists"].input is None  # there are secrets below
    assert refused({"storage": 5})["storage"].input == "5"
    with pytest.raises(ConfigInvalid, match="storage: is required and missing"):
        model().validate({}, HERE)


def test_a_rule_across_fields_stands_at_its_section() -> None:
    found = refused({"vlm": {"mode": "careful", "pace_s": 0, "api_key": PASSWORD}})["vlm"]
    assert found.message == "careful needs a pace, with ***"
    assert found.input is None


@pytest.mark.parametrize(
    "data",
    [
        {"vlm": {"api_key": [PASSWORD]}},
        {"vlm": {"api_key": {"key": PASSWORD}}},
        {"vlm": PASSWORD},
        {"vlm": {"api_key": "bad" + PASSWORD}},
        {"password": [PASSWORD]},
        {"vlm": {"counts": {"api_key": PASSWORD}}},
        {"vlm": {"counts": {"deep": {"Authorization": PASSWORD}}}},
        {"vlm": {"model": [f"https://u:{PASSWORD}@host"]}},
        {"vlm": {"model": {"tokens": [PASSWORD]}}},
        {"lists": {"users": [{"api_key": [PASSWORD]}]}},
        {"lists": {"users": PASSWORD}},
        {"lists": PASSWORD},
        {"vlm": {"api_key": PASSWORD, "max_concurrent": f"twice: {PASSWORD}"}},
        {"vlm": {"api_key": PASSWORD, "model": [PASSWORD]}},
    ],
)
def test_no_problem_shows_a_secret(data: dict[str, Any]) -> None:
    assert refused(data)
    assert PASSWORD not in repr(refused(data))


def _listed(text: str) -> str:
    return {"a": "b"}[text]


class Careless(LiveSettings):
    """Validators that raise what pydantic lets through."""

    limits: Annotated[dict[str, Any], Field(default_factory=dict)]
    table: Annotated[str, BeforeValidator(_listed)] = "a"
    password: Annotated[str, Secret] = ""

    @model_validator(mode="after")
    def _looks_up(self) -> Careless:
        if self.limits:
            raise KeyError(f"{self.limits['of']} for {self.password}")
        return self


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"limits": {"x": 1}}, "a validator failed: KeyError: 'of' (test_settings.py:"),
        ({"limits": {"of": 1}, "password": PASSWORD}, "a validator failed: KeyError: '1 for ***' (test_settings.py:"),
        ({"table": "c"}, "a validator failed: KeyError: 'c' (test_settings.py:"),
    ],
)
def test_a_validator_that_raises_anything_refuses_the_file(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        SettingsModel(Careless, environ={}).validate(data, HERE)
    (problem,) = caught.value.problems
    assert problem.message.startswith(says)
    assert caught.value.__context__ is None


class Unprintable(Exception):
    """What a driver raises whose text is asked of a server."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED: dict[str, BaseException] = {
    "BaseException": BaseException("base"),
    "CancelledError": asyncio.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "unprintable Unprintable": Unprintable(),
}


class Raising(LiveSettings):
    """A validator that raises what is not meant for it, and a rule across fields that does so as well."""

    raises: str = ""
    number: int = 1

    @field_validator("raises")
    @classmethod
    def _raise(cls, name: str) -> str:
        if name in RAISED:
            raise RAISED[name]
        return name


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("more", [{}, {"number": "x"}])
def test_nothing_that_a_validator_raises_ends_the_process(name: str, more: dict[str, Any]) -> None:
    known = SettingsModel(Raising, environ={})
    with ThreadPoolExecutor(1) as threads:  # where a reload validates, and Ctrl-C never is
        error = threads.submit(known.validate, {"raises": name, **more}, HERE).exception()
    assert isinstance(error, ConfigInvalid)
    assert error.problems[0].message.startswith(f"a validator failed: {name}")


def test_ctrl_c_while_a_validator_runs_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        SettingsModel(Raising, environ={}).validate({"raises": "KeyboardInterrupt"}, HERE)


class Odd(LiveSettings):
    """Validators that leave a field out, or give one what cannot be shown."""

    odd: Any = None

    @field_validator("odd")
    @classmethod
    def _made(cls, value: Any) -> Any:
        if value == "omitted":
            raise PydanticOmit
        return Opaque() if value == "opaque" else value


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(("odd", "says"), [("omitted", "AttributeError"), ("opaque", "RuntimeError: no text")])
def test_what_a_validator_makes_that_cannot_be_used_refuses_the_file(odd: str, says: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"a validator failed: {says}"):
        SettingsModel(Odd, environ={}).validate({"odd": odd}, HERE)


@pytest.mark.parametrize(("said", "shown"), [("", "is refused by a validator"), ("x" * 10**6, "x" * REASON_MOST)])
def test_what_a_validator_says_has_a_bound(said: str, shown: str) -> None:
    class Wordy(LiveSettings):
        number: int = 1

        @field_validator("number")
        @classmethod
        def _refuse(cls, value: int) -> int:
            raise ValueError(said)

    with pytest.raises(ConfigInvalid) as caught:
        SettingsModel(Wordy, environ={}).validate({"number": 2}, HERE)
    assert caught.value.problems[0].message == shown


class Derived(LiveSettings):
    """A frozen model, whose validator can only return another instance."""

    one: int = 1
    ten: int = 0
    returns: str = "a copy"

    @model_validator(mode="after")
    def _derive(self) -> Any:
        copy = self.model_copy(update={"ten": self.one * 10})
        return {"a copy": copy, "nothing": None}[self.returns]


def test_a_validator_may_return_another_instance() -> None:
    assert SettingsModel(Derived, environ={}).validate({"one": 2}, HERE).settings.ten == 20
    assert Derived(one=3).ten == 30


def test_a_validator_that_returns_nothing_is_named() -> None:
    says = "the last model validator returned NoneType, not Derived: `return self`"
    with pytest.raises(ConfigInvalid, match=says):
        SettingsModel(Derived, environ={}).validate({"returns": "nothing"}, HERE)
    with pytest.raises(TypeError, match=says):
        Derived(returns="nothing")


def test_a_default_that_was_not_made_because_of_another_field_is_not_blamed() -> None:
    class Twice(LiveSettings):
        one: int = 1
        twice: int = Field(default_factory=lambda said: said["one"] * 2)

    with pytest.raises(ConfigInvalid) as caught:
        SettingsModel(Twice, environ={}).validate({"one": "x"}, HERE)
    assert [each.path for each in caught.value.problems] == ["one"]


def test_a_validator_that_raises_anything_for_a_variable_refuses_it_later() -> None:
    known = SettingsModel(Careless, environ={"OVCONF__TABLE": "c"})
    merged = known.merge({})
    assert merged.data == {"table": "c"}
    with pytest.raises(ConfigInvalid, match="a validator failed: KeyError"):
        known.validate(merged.data, HERE)


def test_unknown_keys_are_warned_about_with_the_nearest_name() -> None:
    data = {
        "storage": {"workspace": "w", "cahce": "c", "xyz": 1},
        "vlm": {"max_conccurent": 1},
        "max_concurrent": 3,
        "lists": {
            "users": [{"modell": "x"}],
            "named": {"any": {"pace": 1}},
            "open": {"whatever": {"x": 1}},
        },
    }
    found = {warning.path: warning.message for warning in model().validate(data, HERE).warnings}
    assert found == {
        "storage.cahce": "unknown key; did you mean storage.cache?",
        "storage.xyz": "unknown key",
        "vlm.max_conccurent": "unknown key; did you mean vlm.max_concurrent?",
        "max_concurrent": "unknown key; did you mean vlm.max_concurrent?",
        "lists.users.0.modell": "unknown key; did you mean lists.users.0.model?",
        "lists.named.any.pace": "unknown key; did you mean lists.named.any.pace_s?",
    }


def test_what_is_written_for_people_and_tools_is_no_unknown_key() -> None:
    data = {"$schema": "./x", "_comment": "by hand", "storage": {"workspace": "w", "//": "y"}, "vlm": {"$id": "z"}}
    assert list(model().validate(data, HERE).warnings) == []


def test_relative_paths_are_relative_to_the_folder_of_the_file() -> None:
    data = {"storage": {"workspace": "w", "extra": ["a", "/b"], "home": "~/x"}, "backup": {}}
    result = model().validate(data, HERE)
    storage = result.settings.storage
    assert (storage.workspace, storage.cache) == (HERE / "w", HERE / "cache")
    assert storage.extra == [HERE / "a", Path("/b")]
    assert storage.home == Path.home() / "x"
    assert storage.either == "relative"
    assert result.settings.backup == Backup(folder=HERE / "backup")
    assert by_text(result.leaves)["storage.cache"] == "/etc/service/cache"
    assert "cache" not in storage.model_fields_set
    assert data["storage"]["workspace"] == "w"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("~nosuchuser/x", "no home folder is known for ~nosuchuser"), ("a\0b", "a path must not hold a NUL character")],
)
def test_what_is_not_a_path_is_a_problem_with_its_place(text: str, reason: str) -> None:
    found = refused({"storage": {"workspace": text, "extra": ["a", text]}})
    assert set(found) == {"storage.workspace", "storage.extra.1"}
    assert all(problem.message.startswith(reason) for problem in found.values())


@dataclass
class Point:
    x: int
    y: Path


class Folder(BaseModel):
    path: Path
    more: tuple[Path, ...] = (Path("more"),)


class Row(NamedTuple):
    path: Path
    size: int = 1


class Inside(BaseModel):
    many: list[Folder] = [Folder(path=Path("default"))]
    named: dict[str, Folder] = {}
    either: Folder | str = ""
    pair: tuple[int, Folder] | None = None
    plain: dict[str, list[Path]] = {"a": [Path("b")]}
    keyed: dict[Path, int] = {Path("k"): 1}
    point: Point | None = None
    rows: list[Row] = [Row(Path("r"))]


class Folders(LiveSettings):
    all: Inside = Inside()


def test_paths_inside_containers_are_absolute_too() -> None:
    known = SettingsModel(Folders, environ={})
    default = known.validate({}, HERE).settings.all
    assert (default.many[0].path, default.many[0].more) == (HERE / "default", (HERE / "more",))
    assert (default.plain, default.keyed) == ({"a": [HERE / "b"]}, {HERE / "k": 1})
    assert default.rows == [Row(HERE / "r")]
    data = {"named": {"x": {"path": "~/x"}}, "either": {"path": "e"}, "pair": [1, {"path": "p", "more": ["/m"]}]}
    data |= {"point": {"x": 1, "y": "y"}, "rows": [["q", 2]]}
    made = known.validate({"all": data}, HERE).settings.all
    assert made.named["x"].path == Path.home() / "x"
    assert isinstance(made.either, Folder)
    assert made.either.path == HERE / "e"
    assert made.pair == (1, Folder(path=HERE / "p", more=(Path("/m"),)))
    assert made.point == Point(1, HERE / "y")
    assert made.rows == [Row(HERE / "q", 2)]


class Misplaced(LiveSettings):
    inside: Folder = Folder(path=Path("~nosuchuser"))


def test_a_default_that_is_not_a_path_is_a_problem() -> None:
    with pytest.raises(ConfigInvalid, match=r"inside.path: its default: no home folder"):
        SettingsModel(Misplaced).validate({}, HERE)


def test_the_environment_is_above_the_file_and_its_texts_are_converted() -> None:
    environ = {
        "OVCONF__VLM__MAX_CONCURRENT": "12",
        "ovconf__vlm__on": "no",
        "OVCONF__VLM__API_KEY": "12",
        "OVCONF__VLM__HEADERS": '{"a": "b"}',
        "OVCONF__VLM__PACE_S": "nan",
        "OVCONF__VLM__FALLBACK": "[1, 2]",
        "OVCONF__STORAGE__WORKSPACE": "from/env",
        "OVCONF__BACKUP__FOLDER": "b",
        "OVCONF__NAME": "null",
    }
    merged = model(environ).merge({"vlm": {"max_concurrent": 3, "model": "big"}, "backup": None})
    assert merged.data == {
        "vlm": {
            "max_concurrent": 12,
            "model": "big",
            "on": False,
            "api_key": "12",
            "headers": {"a": "b"},
            "pace_s": "nan",
            "fallback": [1, 2],
        },
        "storage": {"workspace": "from/env"},
        "backup": {"folder": "b"},
        "name": "null",
    }
    assert sources(merged)["vlm.max_concurrent"] == "environment"
    assert "vlm.model" not in sources(merged)
    assert "vlm.mode" not in sources(merged)


def test_the_environment_does_not_hide_a_section_of_a_wrong_type() -> None:
    merged = model({"OVCONF__VLM__MODEL": "x"}).merge({"vlm": 5})
    assert merged.data["vlm"] == 5


def test_variables_that_name_nothing_are_warned_about() -> None:
    environ = {"OVCONF__VLM__MODL": "x", "OVCONF__HOTRELOAD__POL_S": "1", "OTHER": "y", "OVCONF__VLM": "{}"}
    messages = [warning.message for warning in model(environ).merge({}).warnings]
    assert messages == [
        "the environment variable OVCONF__VLM__MODL names no field; did you mean OVCONF__VLM__MODEL?",
    ]
    own = SettingsModel(HotreloadSettings, environ=environ).merge({})
    assert [warning.message for warning in own.warnings] == [
        "the environment variable OVCONF__HOTRELOAD__POL_S names no field; did you mean OVCONF__HOTRELOAD__POLL_S?"
    ]


def test_a_variable_that_is_not_utf8_is_named() -> None:
    environ = {"OVCONF__VLM__MODEL": "x\udcff"}
    merged = model(environ).merge({})
    (error,) = merged.errors
    assert str(error) == "vlm.model: the environment variable OVCONF__VLM__MODEL is not UTF-8"


def test_credentials_are_above_the_environment_and_for_secrets_only(tmp_path: Path) -> None:
    (tmp_path / "vlm.api_key").write_text("from credentials\n\n")
    (tmp_path / "vlm.model").write_text("not a secret")
    (tmp_path / "other").write_text("x")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "OVCONF__VLM__API_KEY": "from environment"}
    merged = model(environ).merge({"vlm": {"api_key": "from file", "model": "big"}})
    assert merged.data == {"vlm": {"api_key": "from credentials\n", "model": "big"}}
    assert sources(merged) == {"vlm.api_key": "credential"}
    assert model(environ).credential_files() == [
        tmp_path / name for name in ("vlm.api_key", "lists.users", "lists.named", "password")
    ]
    assert model().credential_files() == []


def test_a_credential_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "vlm.api_key").mkdir()
    (tmp_path / "password").write_bytes(b"\xff")
    (tmp_path / "lists.users").write_bytes(b"x" * (1024 * 1024 + 1))
    merged = model({"CREDENTIALS_DIRECTORY": str(tmp_path)}).merge({})
    assert {problem.path for problem in merged.errors} == {"vlm.api_key", "password", "lists.users"}
    assert merged.data == {}


def test_options_are_above_all(tmp_path: Path) -> None:
    (tmp_path / "hotreload.root_key").write_text("from credentials")
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "OVCONF__HOTRELOAD__POLL_S": "7",
        "OVCONF__HOTRELOAD__HISTORY": "7",
    }
    own = SettingsModel(HotreloadSettings, options={"poll_s": 9.0}, environ=environ)
    merged = own.merge({"poll_s": 3, "watch": False})
    assert merged.data == {"poll_s": 9.0, "watch": False, "history": 7, "root_key": "from credentials"}
    assert sources(merged) == {
        "hotreload.poll_s": "option",
        "hotreload.history": "environment",
        "hotreload.root_key": "credential",
    }
    result = own.validate(merged.data, HERE)
    assert by_text(result.leaves)["hotreload.root_key"] == "from credentials"


def test_a_direct_construction_has_the_same_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vlm.api_key").write_text("from credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("OVCONF__VLM__MAX_CONCURRENT", "12")
    monkeypatch.setenv("OVCONF__VLM__API_KEY", "from environment")
    monkeypatch.setenv("OVCONF__HOTRELOAD__HISTORY", "7")
    settings = OvConf(**{"vlm": {"max_concurrent": 3, "model": "big", "api_key": "file"}, **MINIMAL})
    assert settings.vlm.max_concurrent == 12
    assert settings.vlm.model == "big"
    assert settings.vlm.api_key == SecretStr("from credentials")
    assert HotreloadSettings(history=3).history == 7


def test_sources_are_callable_and_give_trees(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x")
    environ = {"OVCONF__VLM__MODEL": "big", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    variables, credentials = EnvironmentSource(OvConf, environ), CredentialsSource(OvConf, "", environ)
    assert variables() == {"vlm": {"model": "big"}}
    assert credentials() == {"password": "x"}
    field = OvConf.model_fields["password"]
    assert credentials.get_field_value(field, "password") == ("x", "password", False)
    assert variables.get_field_value(field, "password") == (None, "password", False)


def test_validate_asks_no_source_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVCONF__VLM__MAX_CONCURRENT", "12")
    result = SettingsModel(OvConf).validate({**MINIMAL, "vlm": {"max_concurrent": 3}}, HERE)
    assert result.settings.vlm.max_concurrent == 3


def test_a_model_may_ask_for_lax_rules() -> None:
    class Lax(LiveSettings):
        model_config = SettingsConfigDict(strict=False)
        count: int = 1

    assert SettingsModel(Lax).validate({"count": "12"}, HERE).settings.count == 12


class Words(BaseModel):
    words: frozenset[str]
    count: int = 0
    days: dict[date, int] = {}

    @model_validator(mode="before")
    @classmethod
    def _as_it_is(cls, data: object) -> object:
        return data


def test_what_a_before_validator_of_a_union_member_gives_need_not_be_json() -> None:
    class Either(LiveSettings):
        found: int | Words
        nested: tuple[str | dict[str, bool | Words], ...] = ()

    model = SettingsModel(Either, environ={})
    assert model.validate({"found": {"words": ["a"]}}, HERE).settings.found == Words(words=frozenset("a"))
    nested = model.validate({"found": 1, "nested": [{"x": {"words": []}}]}, HERE).settings.nested
    assert nested == ({"x": Words(words=frozenset())},)
    for wrong in ({"words": ["a"], "count": "3"}, {"words": [], "days": {"2026-01-01": "1"}}, {"words": "a"}, "3", 2.5):
        with pytest.raises(ConfigInvalid, match="found"):
            model.validate({"found": wrong}, HERE)


def test_the_section_hotreload_is_ours() -> None:
    class Wrong(LiveSettings):
        hotreload: int = 1

    with pytest.raises(DeclarationError, match="hotreload"):
        SettingsModel(Wrong)


def test_our_own_defaults_are_those_of_the_contract() -> None:
    own = SettingsModel(HotreloadSettings, environ={}).validate({}, HERE).settings
    assert own.model_dump() == {
        "drain_deadline_s": 25.0,
        "drain_grace_s": None,
        "drain_sentinel": True,
        "root_key": None,
        "allowed_hosts": (),
        "watch": True,
        "poll_s": 2.0,
        "history": 50,
        "last_known_good": False,
        "recovery": "repair",
        "recovery_every_s": 3600.0,
        "log_level": "info",
        "max_payload_bytes": 16 * 1024 * 1024,
        "hold_s": 86400.0,
        "store": None,
        "node_ttl_s": 15.0,
        "state_dir": None,
    }
    assert unmarked_secrets(HotreloadSettings) == []


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"drain_deadline_s": 0}, "hotreload.drain_deadline_s"),
        ({"drain_deadline_s": True}, "hotreload.drain_deadline_s"),
        ({"drain_deadline_s": 5, "drain_grace_s": 5}, "hotreload"),
        ({"root_key": " "}, "hotreload"),
        ({"root_key": 5}, "hotreload.root_key"),
        ({"allowed_hosts": "localhost"}, "hotreload.allowed_hosts"),
        ({"allowed_hosts": [1]}, "hotreload.allowed_hosts.0"),
        ({"poll_s": "2"}, "hotreload.poll_s"),
        ({"history": 0}, "hotreload.history"),
        ({"recovery": "always"}, "hotreload.recovery"),
        ({"watch": 1}, "hotreload.watch"),
    ],
)
def test_our_own_section_is_strict(data: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        SettingsModel(HotreloadSettings, environ={}).validate(data, HERE)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_the_rule_of_a_path() -> None:
    own = SettingsModel(HotreloadSettings)
    assert own.rule(("hotreload", "poll_s")).effect is Effect.LIVE
    assert own.rule(("hotreload", "state_dir")).effect is Effect.RESTART
    assert own.rule(("hotreload", "root_key")).secret
    assert model().rule(("vlm", "max_concurrent")).effect is Effect.LIVE
    assert model().rule(("unknown",)).effect is Effect.RESTART


def test_the_schema_marks_every_leaf() -> None:
    schema = model().schema()
    vlm = schema["properties"]["vlm"]["properties"]
    assert vlm["max_concurrent"]["x-reload"] == "live"
    assert (vlm["max_concurrent"]["minimum"], vlm["max_concurrent"]["maximum"]) == (1, 1024)
    assert vlm["max_concurrent"]["default"] == 4
    assert vlm["mode"]["x-reload"] == "restart"
    assert vlm["api_key"]["x-secret"] is True
    assert "default" not in vlm["api_key"]
    backup = schema["properties"]["backup"]["anyOf"]
    assert backup[0]["properties"]["folder"]["x-reload"] == "restart"
    assert schema["properties"]["lists"]["properties"]["users"]["x-secret"] is True
    user = schema["properties"]["lists"]["properties"]["users"]["items"]["properties"]
    assert (user["api_key"]["x-secret"], user["model"]["x-reload"]) == (True, "live")
    own = schema["properties"]["hotreload"]["properties"]
    assert own["poll_s"]["x-reload"] == "live"
    assert own["root_key"]["x-secret"] is True
    assert _unmarked(schema["properties"], model(), "") == []


def _unmarked(properties: dict[str, Any], known: SettingsModel[OvConf], above: str) -> list[str]:
    missing: list[str] = []
    for key, node in properties.items():
        for option in [node] if "properties" in node else node.get("anyOf", [node]):
            if inner := option.get("properties"):
                missing += _unmarked(inner, known, f"{above}{key}.")
            elif "x-reload" not in option and "x-reload" not in node:
                missing.append(f"{above}{key}")
    return missing


class Made:
    """What only a validator can make."""


def test_a_type_that_json_does_not_know_has_a_place_in_the_schema(recwarn: pytest.WarningsRecorder) -> None:
    class Foreign(LiveSettings):
        model_config = SettingsConfigDict(arbitrary_types_allowed=True)
        opaque: Annotated[Made, Live, BeforeValidator(lambda _: Made())] = Made()
        many: dict[str, Made] | None = None

    properties = SettingsModel(Foreign).schema()["properties"]
    assert (properties["opaque"]["x-reload"], properties["many"]["x-reload"]) == ("live", "restart")
    assert list(recwarn) == []


def test_every_member_of_a_union_has_its_mark() -> None:
    class Either(LiveSettings):
        either: Annotated[str | Storage | None, Live] = None
        backup: Annotated[Backup | None, Live, Secret] = None

    either, backup = (SettingsModel(Either).schema()["properties"][key]["anyOf"] for key in ("either", "backup"))
    assert [member.get("x-reload") for member in either] == ["live", None, "live"]
    assert either[1]["properties"]["workspace"]["x-reload"] == "live"
    assert [member["type"] for member in backup] == ["object", "null"]
    assert (backup[1]["x-reload"], backup[1]["x-secret"]) == ("live", True)
    assert backup[0]["properties"]["folder"]["x-secret"] is True


def test_a_flood_of_mistakes_is_cut() -> None:
    unknown = model().validate({**MINIMAL, **{f"k{n}": 1 for n in range(5000)}}, HERE)
    assert len(unknown.warnings) == 100
    assert len(refused({"vlm": {"counts": {f"k{n}": "x" for n in range(5000)}}})) == 100


class Pair(RootModel[tuple[int, int]]):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int = 1


class Kinds(LiveSettings):
    pair: Pair = Pair((1, 2))
    point: Point = Point(1, Path("p"))
    names: frozenset[str] = frozenset({"b", "a"})
    raw: bytes = b"x\xff"
    each: timedelta = timedelta(seconds=90)
    open: Open = Open()
    required: int


def test_values_of_all_kinds_are_plain() -> None:
    result = SettingsModel(Kinds).validate({"required": 1, "open": {"more": [1], "known": 2}, "raw": "é"}, HERE)
    assert by_text(result.leaves) == {
        "pair": [1, 2],
        "point": {"x": 1, "y": "/etc/service/p"},
        "names": ["a", "b"],
        "raw": "é",
        "each": "PT1M30S",
        "open.known": 2,
        "open.more": [1],
        "required": 1,
    }
    assert SettingsModel(Kinds).validate({"required": 1}, HERE).leaves[("raw",)] == "x\\xff"


def test_a_message_pydantic_words_itself_is_put_in_ours() -> None:
    with pytest.raises(ConfigInvalid, match="each: must be a valid duration"):
        SettingsModel(Kinds).validate({"required": 1, "each": "soon"}, HERE)


class Node(BaseModel):
    child: Node | None = None
    size: Annotated[int, Live] = 1


class Recursive(LiveSettings):
    node: Node = Node()
    same: Annotated[Node, Live] = Node()


def test_a_recursive_model_is_read_and_described() -> None:
    known = SettingsModel(Recursive)
    result = known.validate({"node": {"child": {"size": 2}}}, HERE)
    assert by_text(result.leaves)["node.child"] == {"child": None, "size": 2}
    assert by_text(result.leaves)["same.child"] is None
    schema = known.schema()
    assert schema["properties"]["node"]["properties"]["child"]["x-reload"] == "restart"
    assert schema["properties"]["same"]["properties"]["child"]["x-reload"] == "live"
