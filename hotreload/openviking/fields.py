"""Say of every ov.conf path whether it is live, needs a restart or is refused. Data, no code.

The first pattern that matches wins; a path none matches needs a restart. Live is only what the parts of this
package apply today: the limits, by our own workers, and what OpenViking reads again after one published
configuration.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from hotreload.config.fields import Effect, FieldRule, looks_secret


@dataclass(frozen=True, slots=True)
class Pool:
    """One resizable pool: the setting that bounds it and the queue it works on."""

    name: str
    path: str
    queue: str
    default: int
    also: tuple[str, ...] = ()
    """Further queues that take the same limit."""


POOLS: tuple[Pool, ...] = (
    Pool("semantic", "vlm.max_concurrent", "Semantic", 32, also=("ContentWrite",)),
    Pool("embedding", "embedding.max_concurrent", "Embedding", 10),
    Pool("external_parse", "queue_workers.external_parse.max_concurrent", "ExternalParse", 4),
    Pool("add_resource", "queue_workers.add_resource.max_concurrent", "AddResource", 4),
    Pool("reindex", "queue_workers.reindex.max_concurrent", "Reindex", 4),
    Pool("session_commit", "queue_workers.session_commit.max_concurrent", "SessionCommit", 8),
    Pool("external_task", "queue_workers.external_task.max_concurrent", "ExternalTask", 10),
)
LIMIT_RANGE = (1, 1024)
"""What a limit may be. Stock takes 0, negative numbers and `true` too."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a change of the paths that match does."""

    pattern: str
    effect: Effect
    reason: str | None = None


_MIXES = "it would mix vector spaces: change it at a restart, then reindex"
_VECTORS = [
    "model",
    "provider",
    "backend",
    "version",
    "dimension",
    "input",
    "input.**",
    "params",
    "params.**",
    "query_param",
    "document_param",
    "model_path",
]
PARSERS = (
    *("pdf", "code", "image", "audio", "video", "markdown"),
    *("anydoc", "html", "text", "directory", "feishu", "webfeed"),
)
"""Sections below `parsers`; OpenViking keeps each as a field of its own."""
PARSED = ("markdown", "text", "pdf", "html", "anydoc", "image")
"""Sections below `parsers` whose parsers are made again."""
SERVED = (
    *("server.temp_upload", "server.user_config_defaults"),
    *("server.public_base_url", "server.upload_signed_ttl_seconds"),
)
"""What the routes read of the server's configuration at each request."""
PUBLISHED: tuple[str, ...] = (
    "vlm",
    "query_planner",
    "embedding",
    "queue_workers.add_resource",
    "reindex",
    "semantic",
    "code",
    "parsers.code",
    "memory",
    "output_language_override",
    "connector",
    "parser_api",
    "rerank",
    "retrieval",
    "grep",
    "glob",
    "prompts",
    "log",
    *(f"parsers.{name}" for name in PARSED),
)
"""Prefixes of what a published configuration applies; which of their fields are live, `RULES` says."""

SWAPPED: tuple[str, ...] = (
    "rerank.**",
    "retrieval.**",
    "grep.**",
    "glob.**",
    "prompts.**",
    "log.**",
    *(f"parsers.{name}.**" for name in PARSED),
    "server.cors_origins",
    "server.root_api_key",
    *(f"{path}.**" for path in SERVED),
)
"""What is set in objects OpenViking made at its start."""

RULES: tuple[Rule, ...] = (
    *(Rule(pool.path, Effect.LIVE) for pool in POOLS),
    Rule("embedding.dimension", Effect.REFUSED, _MIXES),
    *(Rule(f"embedding.*.{name}", Effect.REFUSED, _MIXES) for name in _VECTORS),
    Rule("embedding.*.api_key", Effect.LIVE),
    Rule("embedding.*.api_base", Effect.LIVE),
    Rule("embedding.max_retries", Effect.LIVE),
    Rule("embedding.circuit_breaker.**", Effect.LIVE),
    Rule("vlm.**", Effect.LIVE),
    Rule("query_planner.**", Effect.LIVE),
    Rule("queue_workers.add_resource.file_*", Effect.LIVE),
    Rule("reindex.**", Effect.LIVE),
    Rule("semantic.**", Effect.LIVE),
    Rule("code.**", Effect.LIVE),
    Rule("parsers.code.**", Effect.LIVE),
    Rule("parsers.directory.max_concurrent", Effect.RESTART, "a live change makes every directory import raise"),
    *(Rule(pattern, Effect.LIVE) for pattern in SWAPPED),
    Rule("parsers.**", Effect.RESTART, "OpenViking makes this parser when the server starts"),
    Rule("memory.session_auto_commit.**", Effect.RESTART, "its scheduler is made when the server starts"),
    Rule("memory.**", Effect.LIVE),
    Rule("output_language_override", Effect.LIVE),
    Rule("connector.**", Effect.LIVE),
    Rule("parser_api.**", Effect.LIVE),
)
DEFAULT = Rule("**", Effect.RESTART, "OpenViking reads it when the server starts")

SECRETS: tuple[str, ...] = (
    "**.ak",
    "**.sk",
    "**.credentials",
    "**.credentials.**",
    "**.extra_headers",
    "**.extra_headers.**",
    "**.headers.**",
    "**.params.**",
    "**.dsn",
)
"""Secrets whose last key does not look like one; the others are known by their names."""


DERIVED: tuple[str, ...] = ("vlm.providers", "vlm.backup", "**.backend", "vlm.default_provider", "**.providers")
"""What OpenViking fills in from other fields: no leaf of its own where the file does not say it."""


def feature_of(path: str) -> str:
    """Return the name of the feature that applies a live path."""
    if any(path == pool.path for pool in POOLS):
        return "limits"
    return "settings" if any(matches(pattern, path) for pattern in SWAPPED) else "configuration"


def is_derived(path: str) -> bool:
    """Say whether OpenViking derives the value of a path from others."""
    return any(matches(pattern, path) for pattern in DERIVED)


def rule(path: str) -> FieldRule:
    """Return the rule of a dotted path: of the first pattern that matches, or the default, a restart."""
    found = next((one for one in RULES if matches(one.pattern, path)), DEFAULT)
    return FieldRule(tuple(path.split(".")), found.effect, _is_secret(path), found.reason)


def _is_secret(path: str) -> bool:
    return looks_secret(path.rpartition(".")[2]) or any(matches(pattern, path) for pattern in SECRETS)


def matches(pattern: str, path: str) -> bool:
    """Say whether a dotted path matches a pattern: `*` is one key or part of it, `**` any number of keys."""
    return _match(tuple(pattern.split(".")), tuple(path.split(".")))


def _match(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match(pattern[1:], path[count:]) for count in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _match(pattern[1:], path[1:])
