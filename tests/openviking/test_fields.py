"""The table of what is live, needs a restart or is refused, held against OpenViking's own models."""

import pytest
from openviking_cli.utils.config.open_viking_config import OpenVikingConfig

from hotreload.config.fields import Effect
from hotreload.openviking import fields
from hotreload.openviking.configuration import OpenVikingModel, limit_problems, log_problems

LIVE = (
    "vlm.max_concurrent",
    "vlm.model",
    "vlm.media.enabled",
    "queue_workers.reindex.max_concurrent",
    "queue_workers.add_resource.file_operation_concurrency",
    "embedding.dense.api_key",
    "embedding.max_concurrent",
    "memory.extraction_enabled",
    "parsers.code.github_domains",
)
SWAPPED = (
    *("rerank.model", "log.level", "log.output", "grep.engine", "glob.engine", "prompts.templates_dir"),
    *("parsers.markdown.max_section_chars", "parsers.pdf.strategy", "server.cors_origins"),
    *("server.root_api_key", "server.public_base_url", "server.upload_signed_ttl_seconds"),
)
RESTART = (
    "storage.workspace",
    "server.port",
    "parsers.directory.max_concurrent",
    "parsers.audio.language",
    "memory.session_auto_commit.enabled",
    "no.such.field",
)
REFUSED = ("embedding.dense.model", "embedding.dense.dimension", "embedding.sparse.provider", "embedding.hybrid.input")
SECRET = ("vlm.api_key", "embedding.dense.sk", "server.root_api_key", "vlm.credentials", "vlm.extra_headers.X-Some")
CLEAR = ("vlm.max_tokens", "vlm.model", "server.port", "queue_workers.reindex.max_concurrent")


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        *((path, Effect.LIVE) for path in (*LIVE, *SWAPPED)),
        *((path, Effect.RESTART) for path in RESTART),
        *((path, Effect.REFUSED) for path in REFUSED),
    ],
)
def test_effect_of_a_path(path: str, effect: Effect) -> None:
    rule = fields.rule(path)
    assert rule.effect is effect
    assert effect is Effect.LIVE or rule.reason


def test_secrets_are_known_by_pattern_and_by_name() -> None:
    assert [path for path in SECRET if not fields.rule(path).secret] == []
    assert [path for path in CLEAR if fields.rule(path).secret] == []


def test_pools_have_the_defaults_of_openviking() -> None:
    config = OpenVikingConfig()
    for pool in fields.POOLS:
        value = config
        for key in pool.path.split("."):
            value = getattr(value, key)
        assert value == pool.default, pool


@pytest.mark.parametrize("value", [0, -3, True, 4.0, "4", None, [4], 1025])
def test_a_limit_that_stock_would_twist_is_a_problem(value: object) -> None:
    [problem] = limit_problems({"vlm": {"max_concurrent": value}})
    assert problem.path == "vlm.max_concurrent"
    assert problem.hint


def test_good_limits_and_absent_ones_are_none() -> None:
    assert limit_problems({"vlm": {"max_concurrent": 1}, "queue_workers": {"reindex": {"max_concurrent": 1024}}}) == []


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("a.**", "a", True),
        ("a.**", "a.b.c", True),
        ("**.key", "key", True),
        ("**.key", "a.b.key", True),
        ("**.key", "a.key.b", False),
        ("a.file_*", "a.file_size", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert fields.matches(pattern, path) is expected


@pytest.mark.parametrize(("level", "refused"), [("LOUD", True), (5, True), ("debug", False), ("WARNING", False)])
def test_a_level_that_logging_does_not_know_is_refused(level: object, refused: bool) -> None:
    assert bool(log_problems({"log": {"level": level}})) == refused
    assert log_problems({}) == []


@pytest.mark.parametrize(
    ("section", "path"),
    [({"format": "%(message"}, "log.format"), ({"rotation_interval": "weekly"}, "log.rotation_interval")],
)
def test_what_logging_cannot_do_is_refused(section: dict[str, str], path: str) -> None:
    assert [problem.path for problem in log_problems({"log": section})] == [path]
    assert log_problems({"log": {"format": "%(asctime)s %(message)s", "rotation_interval": "W6"}}) == []


def test_a_variable_that_openviking_does_not_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenVikingModel().merge({"vlm": {}}).warnings == []
    monkeypatch.setenv("OVCONF__HOTRELOAD__POLL_S", "1")
    monkeypatch.setenv("OVCONF__VLM__MAX_CONCURRENT", "9")
    [warning] = OpenVikingModel().merge({"vlm": {}}).warnings
    assert "OVCONF__VLM__MAX_CONCURRENT is not read" in warning.message
