"""Watch the calls of rerankers, which only searches make: a search never waits for one that fails.

OpenViking's clients of rerankers log each error, swallow it and return None; the search goes on with the scores of
the vectors. So a failure shows in two ways: the stock method gives back the very scores it was given, and the
exception is being handled while its log record is made.
"""

from __future__ import annotations

import hashlib
import logging
import pkgutil
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from hotreload.openviking.endpoints import Endpoints
from hotreload.openviking.failures import NoAnswer

RERANK: Final = "rerank"
_swallowed: ContextVar[list[BaseException] | None] = ContextVar("swallowed", default=None)


def attach_rerank(endpoints: Endpoints) -> None:
    """Take the place of OpenViking's method that asks a reranker; while its endpoint fails only probes ask it."""
    from openviking.models import rerank
    from openviking.retrieve.hierarchical_retriever import HierarchicalRetriever

    retriever: Any = HierarchicalRetriever
    stock = retriever._rerank_scores
    for module in pkgutil.iter_modules(rerank.__path__, f"{rerank.__name__}."):
        logging.getLogger(module.name).addFilter(_note_error)

    async def scores(self: Any, query: str, documents: Sequence[str], of_vectors: list[float]) -> list[float]:
        async def key() -> bytes:
            return hashlib.sha256(self.rerank_config.model_dump_json().encode()).digest()

        async def make() -> list[float]:
            errors: list[BaseException] = []
            token = _swallowed.set(errors)
            try:
                found = await stock(self, query, documents, of_vectors)
            finally:
                _swallowed.reset(token)
            if found is of_vectors:
                raise NoAnswer from (errors[-1] if errors else None)
            return found

        if not self._rerank_client or not any(document.strip() for document in documents):
            return await stock(self, query, documents, of_vectors)
        try:
            return await endpoints.watch(RERANK, key, make, spared=lambda: of_vectors)
        except NoAnswer:
            return of_vectors

    retriever._rerank_scores = scores


def _note_error(_record: logging.LogRecord) -> bool:
    """Note the exception that is being handled, where one of our calls swallows it; every record passes."""
    noted, error = _swallowed.get(), sys.exc_info()[1]
    if noted is not None and error is not None:
        noted.append(error)
    return True
