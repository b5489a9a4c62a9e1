"""A document becomes a candidate with both sections, or all problems with their places; pinning keeps what runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from pydantic import AliasPath, BaseModel, Field, SecretStr, model_validator

from hotreload.config.document import Document, Keys, parse
from hotreload.config.fields import FieldRule, Live, Refused, Restart
from hotreload.config.model import Merged, Validated
from hotreload.config.secrets import Redactor
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.config.store import Snapshot
from hotreload.errors import ConfigInvalid, Problem
from hotreload.reload.validate import (
    Candidate,
    Resolved,
    Source,
    build_candidate,
    first_snapshot,
    resolve,
)

REDACTOR = Redactor(b"k" * 32)
CONF = Path("/etc/service/ov.conf")


class VLM(BaseModel):
    max_concurrent: Annotated[int, Live, Field(ge=1)] = 4
    api_key: Annotated[SecretStr | None, Live] = None
    space: Annotated[str, Refused] = "a"
    api_base: Annotated[int | dict[str, int], Live] = 1


class Storage(BaseModel):
    workspace: Path = Path("w")
    size: Annotated[int, Live] = 1


class OvConf(LiveSettings):
    vlm: VLM = VLM()
    storage: Storage = Storage(workspace=Path("of the whole section"))
    low: Annotated[int, Live] = 1
    high: int = 9

    @model_validator(mode="after")
    def _order(self) -> OvConf:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def source(environ: dict[str, str] | None = None, **own_options: Any) -> Source[OvConf]:
    return Source(CONF, SettingsModel(OvConf, environ=environ or {}), own_options=own_options)


def document(text: str, environ: dict[str, str] | None = None, **options: Any) -> Document:
    return parse(CONF, text.encode(), environ=environ or {}, **options)


def candidate(text: str, environ: dict[str, str] | None = None) -> Candidate[OvConf]:
    return build_candidate(document(text), source(environ))


def refused(text: str, **options: Any) -> list[Problem]:
    with pytest.raises(ConfigInvalid) as caught:
        build_candidate(document(text, **options), source())
    return list(caught.value.problems)


def running(text: str) -> Snapshot[OvConf]:
    return first_snapshot(candidate(text), REDACTOR)


def resolved(before: Snapshot[OvConf], text: str) -> Resolved[OvConf]:
    new = build_candidate(document(text), source(), running=before)
    return resolve(new, before, source(), REDACTOR, lambda path: "part")


def reload(before: Snapshot[OvConf], text: str) -> Snapshot[OvConf]:
    made = resolved(before, text)
    assert made.snapshot is not None
    return made.snapshot


def test_a_candidate_holds_the_targets_settings_and_our_section() -> None:
    made = candidate('{"vlm": {"max_concurrent": 8}, "hotreload": {"poll_s": 5}}')
    assert made.target.settings.vlm.max_concurrent == 8
    assert made.own.poll_s == 5
    assert made.leaves["vlm", "max_concurrent"] == 8
    assert made.leaves["hotreload", "poll_s"] == 5
    assert made.leaves["hotreload", "history"] == 50
    first, paths = first_snapshot(made, REDACTOR), (("vlm", "max_concurrent"), ("hotreload", "poll_s"), ("low",))
    assert [source().origin(first, path) for path in paths] == ["file", "file", "default"]
    assert made.merged.data == {"vlm": {"max_concurrent": 8}, "hotreload": {"poll_s": 5}}


def test_options_of_the_command_line_are_above_the_file() -> None:
    made = build_candidate(document('{"hotreload": {"poll_s": 5}}'), source(poll_s=9.0))
    assert made.own.poll_s == 9
    assert made.merged.provenance["hotreload", "poll_s"].source == "option"


def test_problems_of_both_come_at_once_with_their_places_in_order() -> None:
    found = refused(
        '{\n "hotreload": {"poll_s": 0, "watch": 1},\n'
        ' "vlm": {\n  "api_base": {"x": "y"},\n  "max_concurrent": -3\n }\n}'
    )
    assert [(each.path, each.file, each.line, each.column, each.input) for each in found] == [
        ("hotreload.poll_s", "ov.conf", 2, 26, "0"),
        ("hotreload.watch", "ov.conf", 2, 38, "1"),
        ("vlm.api_base", "ov.conf", 4, 15, '{"x": "y"}'),
        ("vlm.api_base.x", "ov.conf", 4, 21, '"y"'),
        ("vlm.max_concurrent", "ov.conf", 5, 21, "-3"),
    ]


def test_a_rule_across_fields_stands_at_its_section() -> None:
    (found,) = refused('{"vlm": {}, "low": 10}')
    assert (found.path, found.line, found.column) == ("", 1, 1)
    (found,) = refused('{"hotreload": {"drain_deadline_s": 1, "drain_grace_s": 2}}')
    assert (found.path, found.line, found.column) == ("hotreload", 1, 15)


@pytest.mark.parametrize(
    "address", ["", "mysql://u:hunter2hunter2@h/x", "sqlite:///x", "postgresql://u:p@[::1/x", "db"]
)
def test_a_store_that_is_no_address_of_postgresql_is_refused_in_its_place(address: str) -> None:
    (found,) = refused(json.dumps({"hotreload": {"store": address}}))
    assert (found.path, found.line, found.column) == ("hotreload.store", 1, 25)
    assert found.message.startswith("must be postgresql://USER@HOST:PORT/NAME")
    assert "hunter2" not in str(found)


def test_rules_across_fields_are_among_all_problems_at_once() -> None:
    found = refused(
        '{"vlm": {"max_concurrent": 0},\n "low": 10,\n'
        ' "hotreload": {"poll_s": 0, "drain_deadline_s": 1, "drain_grace_s": 2}}'
    )
    assert [(each.path, each.line, each.column, each.message) for each in found] == [
        ("", 1, 1, "low must not be above high"),
        ("vlm.max_concurrent", 1, 28, "must be at least 1"),
        ("hotreload", 3, 15, "drain_grace_s must be below drain_deadline_s (1)"),
        ("hotreload.poll_s", 3, 26, "must be at least 0.05"),
    ]
    assert found[0].hint == "asked without vlm.max_concurrent"
    (alone,) = refused('{"low": "x", "high": 9}')
    assert alone.path == "low"
    assert [each.path for each in refused('{"vlm": {"api_base": {"x": "y"}}, "low": 10}')] == [
        "",
        "vlm.api_base",
        "vlm.api_base.x",
    ]
    assert [each.path for each in refused('{"vlm": 5, "low": 10}')] == ["", "vlm"]


def test_our_section_must_be_an_object() -> None:
    found = refused('{"vlm": {"max_concurrent": 0}, "hotreload": [1]}')
    assert [(each.path, each.column) for each in found] == [("vlm.max_concurrent", 28), ("hotreload", 45)]


def test_positions_are_right_after_a_variable_and_its_value_is_not_shown() -> None:
    text = '{"vlm": {"api_base": "$LONG", "max_concurrent": $NUMBER}, "low": "http://u:pw@$LONG"}'
    found = refused(text, environ={"LONG": "a rather long hidden value", "NUMBER": "-3"})
    assert [(each.path, each.column, each.input) for each in found] == [
        ("vlm.api_base", text.index('"$LONG') + 1, '"$LONG"'),
        ("vlm.max_concurrent", text.index("$NUMBER") + 1, "$NUMBER"),
        ("low", text.index('"http') + 1, '"http://u:***@$LONG"'),
    ]
    (found_map,) = refused('{"vlm": {"max_concurrent": {"a": "$LONG"}}}', environ={"LONG": "hidden"})
    assert found_map.input is None


def test_a_value_from_elsewhere_has_no_line_and_names_its_origin(tmp_path: Path) -> None:
    (tmp_path / "hotreload.root_key").write_text(" ")
    environ = {"OVCONF__VLM__API_BASE": '{"x": "y"}', "OVCONF__VLM__MAX_CONCURRENT": "-3"}
    with pytest.raises(ConfigInvalid) as caught:
        build_candidate(document('{"vlm": {"max_concurrent": 5}}'), source(environ, poll_s=-1.0))
    found = {each.path: each for each in caught.value.problems}
    assert found["vlm.max_concurrent"].message == (
        "must be at least 1 (from the environment variable OVCONF__VLM__MAX_CONCURRENT)"
    )
    assert found["vlm.max_concurrent"].line is None
    assert found["hotreload.poll_s"].message.endswith("(from an option of the command line)")


def test_a_wrong_credential_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hotreload.root_key").write_bytes(b"\xff")
    (tmp_path / "vlm.api_key").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigInvalid) as caught:
        build_candidate(document('{"low": "x"}'), Source(CONF, SettingsModel(OvConf)))
    assert [each.path for each in caught.value.problems] == ["low", "hotreload.root_key", "vlm.api_key"]


def test_warnings_of_all_stages_have_their_places() -> None:
    text = '{"vlm": {"max_conc": "$UNSET"}, "low": 1, "low": 2, "hotreload": {"pol_s": 1}}'
    made = build_candidate(document(text, dialect="openviking"), source({"OVCONF__HIGHH": "1"}))
    assert [(each.path, each.column) for each in made.warnings] == [
        ("vlm.max_conc", 10),
        ("vlm.max_conc", 23),
        ("low", 43),
        ("hotreload.pol_s", 67),
        ("", None),
    ]
    assert "did you mean hotreload.poll_s?" in made.warnings[3].message


def test_the_first_snapshot() -> None:
    first = running('{"hotreload": {"history": 7}}')
    assert first.generation == 1
    assert first.own.history == 7
    assert first.fingerprint == running('{ "hotreload":\n {"history": 7.0e0} }'.replace("7.0e0", "7")).fingerprint
    assert first.fingerprint != running("{}").fingerprint


def test_restart_fields_keep_their_running_value_until_the_edit_is_taken_back() -> None:
    before = running('{"high": 9, "low": 1}')
    text = '{"high": 20, "low": 5, "storage": {"workspace": "new", "size": 3}}'
    made = resolved(before, text)
    plan, after = made.plan, made.snapshot
    assert [(c.path, c.old, c.new, c.owner) for c in plan.changes] == [
        ("low", 1, 5, "part"),
        ("storage.size", 1, 3, "part"),
    ]
    assert [(p.path, p.running, p.on_disk) for p in plan.pending_restart] == [
        ("high", 9, 20),
        ("storage.workspace", "/etc/service/of the whole section", "/etc/service/new"),
    ]
    assert after is not None
    assert (after.generation, after.settings.high, after.settings.low) == (2, 9, 5)
    assert after.settings.storage == Storage(workspace=Path("/etc/service/of the whole section"), size=3)
    assert after.leaves[("high",)] == 9
    again = resolved(after, text).plan
    assert again.changes == ()
    assert again.pinned == (("high",), ("storage", "workspace"))
    back = reload(after, '{"high": 9, "low": 5, "storage": {"size": 3, "workspace": "of the whole section"}}')
    assert back.fingerprint == after.fingerprint


def test_a_mixture_that_only_the_restart_can_keep_is_refused() -> None:
    before = running('{"low": 1}')
    (found,) = resolved(before, '{"low": 15, "high": 20}').errors
    assert found.message == "low must not be above high"
    assert "high" in (found.hint or "")


def test_refused_fields_have_their_place() -> None:
    before = running("{}")
    (found,) = resolved(before, '{"vlm": {\n"space": "b"}}').errors
    assert (found.path, found.line, found.column) == ("vlm.space", 2, 10)


def test_our_own_restart_fields_are_pinned_too() -> None:
    before = running('{"hotreload": {"state_dir": "a"}}')
    after = reload(before, '{"hotreload": {"state_dir": "b", "poll_s": 9}}')
    assert after.own.state_dir == Path("/etc/service/a")
    assert after.own.poll_s == 9


def test_secrets_are_shown_by_fingerprint_only() -> None:
    before = running('{"vlm": {"api_key": "hunter2"}, "hotreload": {"root_key": "hunter3"}}')
    made = resolved(before, '{"vlm": {"api_key": "hunter4"}, "hotreload": {"root_key": "hunter5"}}')
    plan = made.plan
    assert [change.path for change in plan.changes] == ["hotreload.root_key", "vlm.api_key"]
    assert all(str(change.new).startswith("secret:hmac:") for change in plan.changes)
    assert "hunter" not in repr(made)


def test_the_provenance_of_a_pinned_field_is_that_of_its_running_value() -> None:
    before = first_snapshot(candidate("{}", {"OVCONF__HIGH": "8"}), REDACTOR)
    after = reload(before, '{"high": 20}')
    assert after.provenance[("high",)].source == "environment"
    assert after.settings.high == 8


class Foreign:
    """A model of another library: no relative paths, one setting."""

    tree = None

    def rule(self, path: Keys) -> FieldRule:
        return FieldRule(path)

    def merge(self, file_data: Any, beside: Any = None) -> Merged:
        del beside
        assert "hotreload" not in file_data
        return Merged(file_data, {})

    def validate(self, data: Any, folder: Path) -> Validated[int]:
        if "a" not in data:
            raise ConfigInvalid([Problem("a.b", "is missing")])
        return Validated(data["a"], {("a",): data["a"]})


def test_any_model_will_do() -> None:
    foreign: Source[int] = Source(CONF, Foreign(), dialect="openviking")
    made = build_candidate(document('{"a": 5, "hotreload": {}}'), foreign)
    assert made.target.settings == 5
    assert foreign.rule(("a",)) == FieldRule(("a",))
    assert foreign.rule(("hotreload", "root_key")).secret
    with pytest.raises(ConfigInvalid) as caught:
        build_candidate(document('{"b": 5}'), foreign)
    assert [(each.path, each.line, each.column) for each in caught.value.problems] == [("a.b", 1, 1)]


class Local(BaseModel):
    place: dict[str, int] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)


class Remote(BaseModel):
    host: str = ""
    place: list[int] = Field(default_factory=lambda: [1])


class Either(LiveSettings):
    store: Annotated[Local | Remote, Live] = Field(default_factory=Local)


def test_a_default_of_one_member_of_a_union_does_not_bring_it_back() -> None:
    either = Source(CONF, SettingsModel(Either, environ={}))
    before = first_snapshot(build_candidate(document("{}"), either), REDACTOR)
    new = build_candidate(document('{"store": {"host": "a"}}'), either, running=before)
    assert new.target.settings == Either(store=Remote(host="a"))
    plan = resolve(new, before, either, REDACTOR).plan
    assert [change.path for change in plan.changes] == ["store.host", "store.place", "store.tags"]


class Renamed(LiveSettings):
    size: Annotated[int, Live] = Field(default_factory=int)

    @model_validator(mode="before")
    @classmethod
    def _move(cls, data: Any) -> Any:
        return {"size": data["length"]} if "length" in data else data


def test_a_value_that_a_validator_moved_is_not_one_that_a_factory_made() -> None:
    renamed = Source(CONF, SettingsModel(Renamed, environ={}))
    before = first_snapshot(build_candidate(document('{"length": 2}'), renamed), REDACTOR)
    new = build_candidate(document("{}"), renamed, running=before)
    assert (before.settings.size, new.target.settings.size) == (2, 0)


class First(LiveSettings):
    name: str = Field(default_factory=lambda: uuid4().hex, validation_alias=AliasPath("names", 0))


def test_a_value_of_a_list_that_waits_for_a_restart_and_is_taken_back_waits_no_more() -> None:
    first = Source(CONF, SettingsModel(First, environ={}))
    running = first_snapshot(build_candidate(document("{}"), first), REDACTOR)
    for text, waiting in (('{"names": ["ann"]}', ["name"]), ('{"names": []}', []), ("{}", [])):
        found = resolve(build_candidate(document(text), first, running=running), running, first, REDACTOR)
        assert [each.path for each in found.plan.pending_restart] == waiting
        assert found.snapshot is not None
        assert found.snapshot.settings == running.settings
        running = found.snapshot


def test_of_a_list_that_is_kept_no_entry_is_taken_out() -> None:
    room = Source(CONF, SettingsModel(Room, environ={}))
    before = first_snapshot(build_candidate(document("{}"), room), REDACTOR)
    new = build_candidate(document('{"numbered": [1, {"books": [{"title": "a"}]}]}'), room, running=before)
    resolved = resolve(new, before, room, REDACTOR)
    assert resolved.snapshot is not None
    assert resolved.snapshot.settings.numbered == (1, Shelf())
    assert [each.path for each in resolved.plan.pending_restart] == ["numbered.1.books"]


class Book(BaseModel):
    title: Annotated[str, Restart] = ""


class Shelf(BaseModel):
    books: list[Book] = Field(default_factory=list)


class Room(LiveSettings):
    numbered: Annotated[tuple[int, Shelf], Live] = Field(default_factory=lambda: (0, Shelf()))


class Unlimited(LiveSettings):
    most: float = math.inf
    n: Annotated[int, Live] = 1

    @model_validator(mode="before")
    @classmethod
    def _move(cls, data: Any) -> Any:
        return {**data, "most": data["old"]} if "old" in data else data


def test_an_infinite_value_that_runs_is_kept_where_a_validator_moves_keys() -> None:
    unlimited = Source(CONF, SettingsModel(Unlimited, environ={}))
    before = first_snapshot(build_candidate(document("{}"), unlimited), REDACTOR)
    new = build_candidate(document('{"old": 2, "n": 3}'), unlimited, running=before)
    resolved = resolve(new, before, unlimited, REDACTOR)
    assert resolved.snapshot is not None
    assert (resolved.snapshot.settings.most, resolved.snapshot.settings.n) == (math.inf, 3)
    assert [each.running for each in resolved.plan.pending_restart] == ["Infinity"]
