"""Put what this package adds around OpenViking's calls of models: remembered answers, the gate, the hold.

message's call → answer remembered? → endpoint answers? → place at the gate? → OpenViking's own call
person's call  → OpenViking's own call, its outcome noted
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

from hotreload.openviking.endpoints import Endpoints
from hotreload.openviking.failures import is_unknown
from hotreload.openviking.gate import OPEN
from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.progress import Progress, question, remembered
from hotreload.openviking.queue_worker import Delivery, current_delivery
from hotreload.openviking.rerank import RERANK

VLM, PLANNER, EMBEDDING = "vlm", "query planner", "embedding"
ROLES: Final = {"vlm": VLM, "query_planner": PLANNER}
SECTIONS: Final = frozenset({"vlm", "query_planner", "embedding", RERANK})
CALLED_BY: Final = {"Semantic": VLM, "Reindex": VLM, "SessionCommit": VLM, "Embedding": EMBEDDING}
"""What the messages of a queue cannot do without."""
Make = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Calls:
    """What stands around the calls; None where the feature is off."""

    workers: QueueWorkers
    endpoints: Endpoints | None
    progress: Progress | None

    def attach(self) -> None:
        """Take the places of OpenViking's methods, before its service starts."""
        from openviking.config.embedding import AccountEmbeddingProvider
        from openviking.config.vlm import AccountVLMProvider

        self._wrap_vlm(AccountVLMProvider)
        if self.endpoints is not None:
            _wrap_embedding(self.endpoints, AccountEmbeddingProvider)

    def _wrap_vlm(self, provider: Any) -> None:
        stock = provider._invoke
        key_of = _Keys(lambda resource: resource.config.model_dump_json())

        async def invoke(self_: Any, handle: Any, method: str, *arguments: Any, **options: Any) -> Any:
            def make() -> Awaitable[Any]:
                return stock(self_, handle, method, *arguments, **options)

            async def key() -> bytes:
                return key_of(await self_._resource_for(handle._account_id, handle._role))

            delivery, kind = current_delivery(), ROLES.get(handle._role, VLM)
            if delivery is None:
                return await self._watched(kind, key, make)
            if self.progress is None:
                return await self._held(kind, delivery, key, make)
            resource = await self_._resource_for(handle._account_id, handle._role)
            asked = question(handle._account_id, resource.config, method, arguments, options)
            held = lambda: self._held(kind, delivery, key, make)  # noqa: E731
            return await remembered(self.progress, delivery.message_id, asked, held)

        provider._invoke = invoke

    async def _watched(self, kind: str, key: Callable[[], Awaitable[bytes]], make: Make) -> Any:
        return await (make() if self.endpoints is None else self.endpoints.watch(kind, key, make))

    async def _held(self, kind: str, delivery: Delivery, key: Callable[[], Awaitable[bytes]], make: Make) -> Any:
        gate: AbstractAsyncContextManager[Any] = self.workers.gate() or OPEN
        if self.endpoints is None or not self.endpoints.holding:
            async with gate:
                return await make()
        return await self.endpoints.hold(kind, delivery, key, lambda: _once(make), gate)


def _wrap_embedding(endpoints: Endpoints, provider: Any) -> None:
    stock_embed, stock_execute = provider.embed, provider._execute
    key_of = _Keys(lambda resource: str(resource.fingerprint))

    async def embed(self: Any, account_id: str, content: Any, *, is_query: bool = False) -> Any:
        def make() -> Awaitable[Any]:
            return stock_embed(self, account_id, content, is_query=is_query)

        async def key() -> bytes:
            return key_of(await self._resource_for(account_id))

        delivery = current_delivery()
        if delivery is None:
            return await endpoints.watch(EMBEDDING, key, make)
        if not endpoints.holding:
            return await make()
        return await endpoints.hold(EMBEDDING, delivery, key, lambda: _once(make), OPEN)

    async def execute(self: Any, resource: Any, content: Any, is_query: bool) -> Any:
        if current_delivery() is not None and endpoints.holding:
            resource = replace(resource, breaker=_Passed(resource.breaker))
        return await stock_execute(self, resource, content, is_query)

    provider.embed, provider._execute = embed, execute


class _Passed:
    """Stands for OpenViking's own breaker where calls are held: it lets each pass, and hears of answers alone."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def check(self) -> None:
        """Let the call pass."""

    def record_success(self) -> None:
        """Let people's calls pass again as well."""
        self._stock.record_success()

    def record_failure(self, error: Exception) -> None:
        """Leave the stock breaker as it is: whether the endpoint fails is known here."""


class _Keys:
    """Hashes of what names a resource, kept as long as the resource lives."""

    def __init__(self, named: Callable[[Any], str]) -> None:
        self._named = named
        self._known: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

    def __call__(self, resource: Any) -> bytes:
        key = self._known.get(resource)
        if key is None:
            key = self._known[resource] = hashlib.sha256(self._named(resource).encode()).digest()
        return key


async def _once(make: Make) -> Any:
    """Make a call without OpenViking's own retries, which the hold replaces; with them where it knows no better."""
    try:
        async with _without_retries():
            return await make()
    except Exception as error:
        if not is_unknown(error):
            raise
    return await make()


def _without_retries() -> AbstractAsyncContextManager[Any]:
    try:
        from openviking.utils.model_retry import model_retry_scope
    except ImportError:  # 0.5.0 has no such scope
        return nullcontext()
    return model_retry_scope(0)


def follow_configuration(endpoints: Endpoints, manager: Any, mended: Callable[[], None]) -> None:
    """Let held calls go on when OpenViking publishes other models, by a reload or through its own API.

    `mended` is called, on the loop that publishes, where an endpoint failed until then.
    """
    from openviking.config.scope import ScopeKind

    async def changed(_event: Any) -> None:
        if endpoints.reset():
            mended()

    for scope in (ScopeKind.CLUSTER, ScopeKind.ACCOUNT):
        manager.add_update_consumer(scope=scope, sections=SECTIONS, consumer=changed)
