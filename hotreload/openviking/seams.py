"""Probe the private functions of OpenViking that this package replaces, wraps or relies on.

A name that stays while its meaning changes is the danger, so each function is known by the SHA-256 of its
source, per released version. An unknown one switches off the feature that needs it, and only that, loudly.
"""

import hashlib
import inspect
import logging
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hotreload.openviking.known_sources import ABSENT, KNOWN

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Feature:
    """What the adapter adds, and the private functions it holds on to."""

    name: str
    loses: str
    """What is missing without it, for people."""
    seams: tuple[str, ...]
    """`module:qualified.name` of each."""


_QUEUE = "openviking.storage.queuefs.queue_manager:QueueManager"
_NODES = "openviking.storage.queuefs.semantic_executor"
_MANAGER = "openviking.config.manager:RuntimeConfigManager"
_EMBEDDING = "openviking.config.embedding"
_BOOT = "openviking.server.bootstrap"

FEATURES: tuple[Feature, ...] = (
    Feature(
        "limits",
        "the limits keep the values they had at the start",
        (
            f"{_QUEUE}._worker_async_concurrent",
            f"{_QUEUE}._queue_worker_loop",
            f"{_QUEUE}._start_queue_worker",
            f"{_QUEUE}._max_concurrent_for_queue",
            "openviking.storage.queuefs.named_queue:NamedQueue.dequeue_raw",
            "openviking.storage.queuefs.named_queue:NamedQueue.process_dequeued",
            "openviking.storage.queuefs.named_queue:NamedQueue.ack",
            f"{_NODES}:SemanticTreeScheduler.configure",
            f"{_NODES}:SemanticTreeScheduler._ensure_workers",
            f"{_NODES}:SemanticTreeScheduler._worker",
            f"{_NODES}:get_semantic_tree_scheduler",
            f"{_NODES}:SemanticTreeExecutor.__init__",
            f"{_NODES}:SemanticTreeExecutor._run_work",
            "openviking.storage.queuefs.semantic_processor:SemanticProcessor.__init__",
            "openviking.config.vlm:AccountVLMProvider._invoke",
        ),
    ),
    Feature(
        "hold",
        "while a model's endpoint fails messages end with placeholders and without vectors",
        (
            "openviking.config.vlm:AccountVLMProvider._invoke",
            "openviking.config.vlm:AccountVLMProvider._resource_for",
            f"{_EMBEDDING}:AccountEmbeddingProvider.embed",
            f"{_EMBEDDING}:AccountEmbeddingProvider._execute",
            f"{_EMBEDDING}:AccountEmbeddingProvider._resource_for",
            f"{_EMBEDDING}:_EmbeddingResource",
            "openviking.utils.model_retry:model_retry_scope",
            f"{_MANAGER}.add_update_consumer",
            f"{_NODES}:SemanticTreeExecutor.__init__",
            f"{_NODES}:SemanticTreeExecutor._run_work",
            f"{_NODES}:SemanticTreeScheduler._worker",
        ),
    ),
    Feature(
        "rerank",
        "that the endpoint of a reranker fails is not told, and each search asks it",
        (
            "openviking.retrieve.hierarchical_retriever:HierarchicalRetriever.__init__",
            "openviking.retrieve.hierarchical_retriever:HierarchicalRetriever._rerank_scores",
        ),
    ),
    Feature(
        "draining",
        "a stop waits for OpenViking's own shutdown and may cut it at the deadline",
        (
            f"{_QUEUE}.stop",
            f"{_NODES}:SemanticTreeExecutor.run",
            f"{_NODES}:SemanticTreeExecutor._start_scheduled_work",
            f"{_NODES}:SemanticTreeExecutor._finish_scheduled_work",
            "openviking.service.task_tracker:TaskTracker.wait_for_task_work",
            "openviking.service.task_tracker:TaskTracker.wait_for_work",
            "openviking.service.task_tracker:TaskTracker.wait_for_descendants",
            "openviking.telemetry.request_wait_tracker:RequestWaitTracker.wait_for_embeddings",
            "openviking.service.core:OpenVikingService.close",
        ),
    ),
    Feature(
        "configuration",
        "a changed model, key or address needs a restart",
        (
            f"{_MANAGER}.replace_base_config",
            f"{_MANAGER}._replace_base_config",
            f"{_MANAGER}._publish",
            "openviking.config.binding:_build_cluster",
            "openviking_cli.utils.config.open_viking_config:OpenVikingConfig.from_dict",
            "openviking.config.vlm:AccountVLMProvider._on_cluster_config_change",
            "openviking.config.vlm:AccountVLMProvider._invalidate",
        ),
    ),
    Feature(
        "overrides",
        "reports do not name the accounts that have values of their own over a changed field",
        (f"{_MANAGER}.get_settings",),
    ),
    Feature(
        "recovery",
        "nothing that is missing is looked for, and tasks nothing works on stay",
        (
            "openviking.storage.viking_fs:VikingFS.tree",
            "openviking.storage.viking_fs:VikingFS.stat",
            "openviking.storage.viking_fs:VikingFS.read_file_bytes",
            "openviking.storage.viking_fs:VikingFS.__init__",
            "openviking.storage.abstract_overview:body_for_preview",
            "openviking.storage.abstract_overview:parse_overview_file_summaries",
            "openviking.storage.index_consistency:check_index_consistency",
            "openviking.storage.viking_vector_index_backend:VikingVectorIndexBackend.filter",
            "openviking.storage.expr:In",
            "openviking.storage.queuefs.named_queue:NamedQueue.snapshot",
            f"{_QUEUE}.check_status",
            "openviking.service.core:OpenVikingService.reindex",
            "openviking.service.reindex_executor:ReindexExecutor.execute",
            "openviking.service.task_store:PersistentTaskStore._load_task",
            "openviking.service.task_store:PersistentTaskStore._write_task",
            "openviking.service.task_tracker:TaskTracker.list_tasks",
            "openviking.service.task_tracker:TaskTracker.get",
            "openviking.service.task_tracker:TaskTracker.fail",
            "openviking.service.task_tracker:TaskTracker.has_work",
            "openviking.service.task_tracker:TaskTracker.has_active_producer",
        ),
    ),
    Feature(
        "progress",
        "the finished model calls of a message that a stop interrupts are made again",
        (
            "openviking.config.vlm:AccountVLMProvider._invoke",
            "openviking.config.vlm:AccountVLMProvider._resource_for",
            f"{_NODES}:SemanticTreeExecutor.__init__",
            f"{_NODES}:SemanticTreeExecutor._run_work",
            f"{_NODES}:SemanticTreeScheduler._worker",
            "openviking_cli.utils.config.vlm_config:VLMConfig.get_completion_async",
            "openviking_cli.utils.config.vlm_config:VLMConfig.get_vision_completion_async",
        ),
    ),
    Feature(
        "locks",
        "messages of two queues that clean texts of secrets at the same time fail at random",
        (
            "openviking.privacy.sanitizer:PrivacySanitizer.__init__",
            "openviking.privacy.sanitizer:PrivacySanitizer._matcher",
        ),
    ),
    Feature(
        "settings",
        "the settings of logging, retrieval, parsers and routes need a restart",
        (
            "openviking.storage.viking_fs:VikingFS.__init__",
            "openviking.parse.registry:get_registry",
            "openviking.parse.registry:ParserRegistry.__init__",
            "openviking.parse.registry:ParserRegistry._register",
            "openviking.parse.registry:ParserRegistry.get_parser_for_file",
            "openviking_cli.utils.logger:reconfigure_logging",
            "openviking_cli.utils.logger:configure_uvicorn_logging",
            "openviking_cli.utils.logger:_load_log_config",
            "openviking.server.app:create_app",
            "openviking.server.dependencies:set_server_config",
        ),
    ),
    Feature(
        "server",
        "the server runs as stock: no reload, no drain, no admin routes",
        (
            f"{_BOOT}:_run_restartable_server",
            f"{_BOOT}:_sigterm_runs_finally",
            "openviking.server.app:create_app",
        ),
    ),
)
NEEDS = {
    "limits": ("server",),
    "configuration": ("server",),
    "recovery": ("server",),
    "draining": ("limits",),
    "progress": ("limits",),
    "hold": ("limits",),
    "rerank": ("hold",),
    "overrides": ("configuration",),
    "settings": ("configuration",),
}
"""Features that stand on another one, after the one they stand on."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether one feature may be attached."""

    feature: Feature
    unknown: tuple[str, ...]
    """Its seams that are missing or whose source no known version has."""
    lacks: tuple[str, ...] = ()
    """Features it stands on that are off."""

    @property
    def ok(self) -> bool:
        """Whether the feature may be attached."""
        return not self.unknown and not self.lacks

    def __str__(self) -> str:
        if self.ok:
            return f"{self.feature.name}: on"
        cause = ", ".join(self.unknown) or f"needs {', '.join(self.lacks)}"
        return f"{self.feature.name}: off ({cause}); {self.feature.loses}"


def digest(seam: str) -> str:
    """Return the first half of the SHA-256 of a seam's source, or `ABSENT` where it does not exist."""
    module, _, name = seam.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        source = inspect.getsource(getattr(found, "__func__", found))
    except (ImportError, AttributeError, OSError, TypeError):
        return ABSENT
    return hashlib.sha256(source.encode()).hexdigest()[:32]


def known(seam: str, version: str) -> bool:
    """Say whether a seam has a known source; being absent counts only in a version that never had it."""
    found = digest(seam)
    versions = KNOWN.get(seam, {}).get(found)
    return versions is not None and (found != ABSENT or version in versions.split())


def probe() -> dict[str, Probe]:
    """Probe every feature, before any of them is attached, and log those that are off."""
    from openviking import __version__ as version

    probes: dict[str, Probe] = {}
    for feature in FEATURES:
        unknown = tuple(seam for seam in feature.seams if not known(seam, version))
        probes[feature.name] = Probe(feature, unknown)
    for name, others in NEEDS.items():
        found = probes[name]
        lacks = tuple(other for other in others if not probes[other].ok)
        probes[name] = Probe(found.feature, found.unknown, lacks)
    for found in probes.values():
        if not found.ok:
            log.error("openviking.feature_off %s", found)
    return probes


if __name__ == "__main__":  # the table of the installed version, to be read beside a diff of its sources
    for each in sorted({seam for feature in FEATURES for seam in feature.seams}):
        print(each, digest(each))
