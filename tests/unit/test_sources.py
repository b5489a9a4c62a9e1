"""Sources are those of pydantic-settings, declared as it declares them; what a reload cannot do is refused at once."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from hotreload import Service
from hotreload.config.document import parse
from hotreload.config.fields import Live, Refused
from hotreload.config.secrets import Redactor
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.errors import DeclarationError
from hotreload.reload.validate import Source, build_candidate, first_snapshot, resolve

HERE = Path("/etc/service")
Sources = tuple[PydanticBaseSettingsSource, ...]


def built(model: type[LiveSettings], file: dict[str, Any], **environ: str) -> Any:
    """Return the settings of a file and an environment, as a reload makes them."""
    known = SettingsModel(model, environ=environ)
    merged = known.merge(file)
    assert merged.errors == []
    return known.validate(merged.data, HERE).settings


def told(model: type[LiveSettings], file: dict[str, Any], **environ: str) -> list[str]:
    return [str(warning) for warning in SettingsModel(model, environ=environ).merge(file).warnings]


class Part(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    size: Annotated[int, Field(alias="partSize")] = 1
    name: str = ""


class Aliased(LiveSettings):
    port: int = Field(8000, validation_alias=AliasChoices("http_port", "listen"))
    first: int = Field(0, validation_alias=AliasPath("both", 0))
    second: int = Field(0, validation_alias=AliasPath("both", 1))
    part: Part = Field(Part(), validation_alias=AliasChoices("part", "piece"))
    dotted: int = Field(0, validation_alias="a.b")


def test_a_variable_goes_by_the_name_of_its_field_and_by_each_alias() -> None:
    file = {"listen": 8001, "both": [1, 2], "piece": {"partSize": 3, "name": "x"}, "a.b": 4}
    made = built(Aliased, file)
    assert (made.port, made.first, made.second, made.part.size, made.dotted) == (8001, 1, 2, 3, 4)
    assert built(Aliased, file, OVCONF__PORT="9").port == 9
    assert built(Aliased, file, OVCONF__HTTP_PORT="9").port == 9
    assert built(Aliased, file, OVCONF__LISTEN="9").port == 9
    made = built(Aliased, file, OVCONF__FIRST="9", OVCONF__PART__SIZE="5", OVCONF__DOTTED="6")
    assert (made.first, made.second, made.part.size, made.part.name, made.dotted) == (9, 2, 5, "x", 6)
    (error,) = SettingsModel(Aliased, environ={"OVCONF__SECOND": "9"}).merge({}).errors
    assert str(error) == "second: OVCONF__SECOND cannot set it: what stands before it in the list is missing"


def test_what_a_variable_hides_of_the_file_is_said_with_its_place() -> None:
    assert told(Aliased, {"listen": 8001, "a.b": 4}, OVCONF__PORT="9", OVCONF__DOTTED="4") == [
        "listen: `port` is set by OVCONF__PORT; what the file says has no effect"
    ]
    assert told(Aliased, {"piece": {"partSize": 3}}, OVCONF__PART='{"partSize": 4}') == [
        "piece.partSize: `part.partSize` is set by OVCONF__PART; what the file says has no effect"
    ]


class Camel(LiveSettings):
    model_config = SettingsConfigDict(alias_generator=AliasGenerator(validation_alias=to_camel), populate_by_name=True)
    max_size: Annotated[int, Live] = 1


def test_generated_aliases_and_names_beside_them() -> None:
    assert built(Camel, {"maxSize": 2}).max_size == 2
    assert built(Camel, {"max_size": 2}).max_size == 2
    assert built(Camel, {"max_size": 2}, OVCONF__MAX_SIZE="3").max_size == 3
    assert built(Camel, {"maxSize": 2}, OVCONF__MAXSIZE="3").max_size == 3


class Prefixed(LiveSettings):
    model_config = SettingsConfigDict(env_prefix="APP_", env_nested_delimiter="-", case_sensitive=True)
    part: Part = Part()
    limits: dict[str, int] = Field(default_factory=dict)
    port: int = Field(1, validation_alias="PORT")


def test_a_prefix_and_a_delimiter_of_the_models_own() -> None:
    environ = {"APP_part-name": "x", "APP_limits": '{"b": 2}', "PORT": "7", "OVCONF__LIMITS": '{"c": 3}'}
    made = built(Prefixed, {"limits": {"a": 1}}, **environ)
    assert (made.part.name, made.limits, made.port) == ("x", {"a": 1, "b": 2}, 7)
    assert told(Prefixed, {"PORT": 1}, PORT="7") == ["PORT: `PORT` is set by PORT; what the file says has no effect"]


def test_files_of_the_models_own_are_read_at_each_merge_and_count_as_inputs(tmp_path: Path) -> None:
    dotenv, secrets = tmp_path / ".env", tmp_path / "secrets"
    secrets.mkdir()

    class Filed(LiveSettings):
        model_config = SettingsConfigDict(env_file=dotenv, secrets_dir=secrets)
        part: Part = Part()
        token: SecretStr = SecretStr("")
        level: int = 0

    assert built(Filed, {"level": 1}).level == 1
    dotenv.write_text("level=2\nOVCONF__PART__NAME=from a file\nOTHER=1\n")
    (secrets / "token").write_text("from a secret file\n")
    (secrets / "level").write_text("3")
    made = built(Filed, {"level": 1})
    assert (made.level, made.part.name, made.token.get_secret_value()) == (2, "from a file", "from a secret file")
    assert built(Filed, {}, OVCONF__LEVEL="4").level == 4
    assert told(Filed, {"level": 1}) == [
        "level: `level` is set by LEVEL in an env_file; what the file says has no effect"
    ]
    assert {dotenv, secrets / "token"} <= set(SettingsModel(Filed, environ={}).credential_files())


class Fixed(PydanticBaseSettingsSource):
    """A source of the user's."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {"level": "5", "part": {"name": "fixed"}, "folder": Path("x")}


class Ordered(LiveSettings):
    level: int = 0
    part: Part = Part()
    folder: str = ""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, env_settings: Any, **_others: Any
    ) -> Sources:
        return init_settings, env_settings, Fixed(settings_cls)


def test_a_model_orders_its_sources_and_adds_its_own() -> None:
    made = built(Ordered, {"level": 1, "part": {"partSize": 2}}, OVCONF__LEVEL="3", OVCONF__PART__NAME="variable")
    assert (made.level, made.part.size, made.part.name, made.folder) == (1, 2, "variable", "x")
    assert built(Ordered, {}).level == 5
    assert told(Ordered, {"level": 1}, OVCONF__LEVEL="3") == []
    assert Ordered(level=1).level == 1


class Failing(Fixed):
    def __call__(self) -> dict[str, Any]:
        raise OSError("no answer")


def test_a_source_that_fails_is_a_problem() -> None:
    class Asked(LiveSettings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: Any, **_others: Any
        ) -> Sources:
            return Failing(settings_cls), init_settings

    (error,) = SettingsModel(Asked, environ={}).merge({}).errors
    assert str(error) == "the source Failing failed: OSError: no answer"


@dataclass
class Marked:
    size: Annotated[int, Live] = 1


def declare(model: type[LiveSettings]) -> None:
    """Declare a service of a model."""
    Service("wrong", settings=model)


def refused(by: Callable[[type[LiveSettings]], object] = declare, **namespace: Any) -> str:
    """Return what is said of a model with these attributes."""
    hints = dict(namespace.pop("hints", {}))
    model = type("Wrong", (LiveSettings,), {"__annotations__": hints, "__module__": __name__, **namespace})
    with pytest.raises(DeclarationError) as caught:
        by(model)
    return str(caught.value)


class Waiting(BaseModel):
    last: dict[str, Annotated[deque[int], Live]] = {}


@pytest.mark.parametrize(
    ("hint", "wrong"),
    [
        (deque[int], "deque can be changed by a job; use a list, tuple or dict"),
        (deque[Waiting], "deque can be changed by a job"),
        (Counter[str], "Counter can be changed by a job"),
        (dict[str, list[bytearray]] | None, "bytearray can be changed by a job"),
        (RootModel[OrderedDict[str, int]], "OrderedDict can be changed by a job"),
        (dict[str, Waiting], "`part.*.last`: deque can be changed by a job"),
        (Iterable[int], "Iterable can be read only once; use a list or tuple"),
        (Mapping[str, Iterator[int]], "Iterator can be read only once"),
    ],
)
def test_a_value_that_is_no_snapshot_is_refused_wherever_it_is_declared(hint: Any, wrong: str) -> None:
    assert wrong in refused(hints={"part": hint}, part=Field())


def test_what_cannot_be_honoured_is_refused_when_it_is_declared() -> None:
    assert "options are those of" in refused(model_config=SettingsConfigDict(cli_parse_args=True))
    assert "`yaml_file` is stated" in refused(SettingsModel, model_config=SettingsConfigDict(yaml_file="x.yaml"))
    assert "sources of its own" in refused(hints={"part": Ordered}, part=Ordered())
    assert "a mark inside its type (live)" in refused(hints={"part": Marked}, part=Marked())
    assert "a mark inside its type (refused)" in refused(
        hints={"sizes": Annotated[dict[str, Annotated[int, Refused] | Marked], Live]}, sizes={}
    ).replace("(live)", "(refused)")
    assert "read from the same key" in refused(
        hints={"a": int, "b": int}, a=Field(1, validation_alias="x"), b=Field(1, validation_alias="x")
    )
    assert "`__init__` is not called" in refused(__init__=lambda self, **values: None)
    assert "leaves out `init_settings`" in refused(
        SettingsModel,
        settings_customise_sources=classmethod(lambda cls, settings_cls, env_settings, **_others: (env_settings,)),
    )


def test_a_source_that_reads_the_file_named_in_the_config_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    path.write_text('{"level": 3}')

    class Json(LiveSettings):
        model_config = SettingsConfigDict(yaml_file=str(tmp_path / "none.yaml"))
        level: int = 0

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: Any, **_others: Any
        ) -> Sources:
            return init_settings, YamlConfigSettingsSource(settings_cls)

    assert built(Json, {"level": 2}).level == 2


class Strict(LiveSettings):
    pair: tuple[int, int] = (1, 2)
    names: frozenset[str] = frozenset()
    number: int = 0

    @model_validator(mode="before")
    @classmethod
    def _seen(cls, data: Any) -> Any:
        return data


def test_before_validators_do_not_make_a_list_wrong_for_a_tuple() -> None:
    assert built(Strict, {"pair": [3, 4], "names": ["a"]}).pair == (3, 4)
    with pytest.raises(Exception, match="number: must be a whole number") as caught:
        built(Strict, {"pair": [3, 4], "number": "5"})
    assert "pair" not in str(caught.value)
    with pytest.raises(Exception, match="pair: must be a list"):
        built(Strict, {"pair": 5})


def test_an_edit_that_a_variable_hides_is_a_warning_of_the_reload() -> None:
    source = Source(HERE / "ov.conf", SettingsModel(Aliased, environ={"OVCONF__PORT": "9"}))
    redactor = Redactor(b"k" * 32)

    def candidate(file: dict[str, Any]) -> Any:
        return build_candidate(parse(source.path, json.dumps(file).encode()), source)

    before = first_snapshot(candidate({}), redactor)
    edited = candidate({"listen": 7})
    assert resolve(edited, before, source, redactor).plan.changes == ()
    (warning,) = edited.warnings
    assert (warning.line, warning.column) == (1, 2)
    assert warning.message.startswith("`port` is set by OVCONF__PORT")
