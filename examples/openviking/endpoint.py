"""Serve an OpenAI-compatible model on loopback whose behaviour can be changed while it runs.

It answers `/v1/chat/completions`, `/v1/embeddings` and `/v1/rerank` without a model, an account or a network, so that a
service which needs a model can be watched: how many calls it makes at once, what it does when they are slow,
fail or never end.

    python examples/openviking/endpoint.py --port 0

prints one JSON line (`{"url": "http://127.0.0.1:PORT"}`) once it listens. `GET /control` shows behaviour and
gauges; `PATCH /control` with any of the `Behaviour` fields changes what the next calls meet, `{"hang": false}`
also ends the calls that hang, and `{"reset": true}` starts `peak`, `keys` and `prompts` again; counts only ever grow.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

DIMENSION = 8
FILE = re.compile(r"^- (.+) \(link: (viking://input_sample_f\d+)\):[# ]*([^# \n].*)$", re.MULTILINE)
"""A file and its summary, as OpenViking's prompt for the L1 of a folder lists them."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a call meets; replaced whole by `PATCH /control`."""

    latency_s: float = 0.0
    """Seconds a chat call takes."""
    embedding_latency_s: float = 0.0
    """Seconds an embedding call takes."""
    fail_status: int = 0
    """HTTP status of failing chat calls; 0 lets them succeed."""
    fail_rate: float = 1.0
    """Share of chat calls that fail while `fail_status` is set."""
    hang: bool = False
    """Hold chat calls until it is false again."""
    accepted_keys: tuple[str, ...] = ()
    """Bearer keys that may call; empty accepts all."""
    embedding_fail_status: int = 0
    """HTTP status of failing embedding calls, as many as `fail_rate` says; 0 lets them succeed."""
    rerank_fail_status: int = 0
    """HTTP status of failing rerank calls; 0 lets them succeed."""
    failing_model: str = ""
    """Only chat calls of this model fail; empty: those of every model."""
    retry_after: str = ""
    """What failing calls say in `Retry-After`: seconds or a date; empty: nothing."""
    refused_text: str = ""
    """Chat calls whose messages hold this text are refused for their content; empty refuses none."""
    refused_status: int = 400
    """HTTP status of those refusals."""

    def changed(self, wanted: Mapping[str, Any]) -> "Behaviour":
        """Return a copy with the given fields, each of its declared kind; raise `ValueError` otherwise."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in wanted.items():
            if name not in known:
                raise ValueError(f"unknown: {name}; one of {', '.join(sorted(known))}")
            if not _fits(value, known[name]):
                raise ValueError(f"{name}: expected {type(known[name]).__name__}, got {value!r}")
        return replace(
            self, **{n: tuple(cast("list[object]", v)) if isinstance(v, list) else v for n, v in wanted.items()}
        )


def _fits(value: object, like: object) -> bool:
    """Tell whether a value is of the same kind; whole numbers do for fractions, lists for tuples, no `true` for 1."""
    if isinstance(value, bool) or isinstance(like, bool):
        return isinstance(value, bool) and isinstance(like, bool)
    if isinstance(like, float):
        return isinstance(value, int | float)
    return isinstance(value, list | tuple) if isinstance(like, tuple) else isinstance(value, type(like))


@dataclass(slots=True)
class Gauges:
    """What the endpoint has seen."""

    running: int = 0
    """Chat calls in flight."""
    hanging: int = 0
    """Those of them that are held."""
    peak: int = 0
    """Highest `running` since the last reset."""
    calls: int = 0
    """Chat calls begun."""
    answered: int = 0
    """Chat calls answered with 200."""
    failed: int = 0
    """Chat calls answered with an error on purpose, a refused key included."""
    cut: int = 0
    """Chat calls whose client left before the answer."""
    embeddings: int = 0
    """Embedding calls begun."""
    embeddings_failed: int = 0
    """Embedding calls answered with an error on purpose, a refused key left out."""
    reranks: int = 0
    """Rerank calls."""
    keys: dict[str, int] = field(default_factory=dict[str, int])
    """Chat calls per bearer key since the last reset."""
    prompts: dict[str, int] = field(default_factory=dict[str, int])
    """Chat calls per prompt since the last reset, by the first 16 hexadecimal digits of its SHA-256."""


class Endpoint:
    """One model endpoint: its behaviour, its gauges and the ASGI application that serves them."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.gauges = Gauges()
        self._released = asyncio.Event()
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/control", self._show),
            Route("/control", self._change, methods=["PATCH"]),
        ]
        self.app = Starlette(routes=routes)

    def set(self, **wanted: Any) -> None:
        """Change the behaviour of the next calls; `hang=False` also releases those that hang."""
        self.behaviour = self.behaviour.changed(wanted)
        if not self.behaviour.hang:
            self._released.set()
            self._released = asyncio.Event()

    def recover(self) -> None:
        """Answer every call again, at once."""
        self.set(**asdict(Behaviour()))

    def reset(self) -> None:
        """Start `peak`, `keys` and `prompts` again; `peak` begins at what is running now, counts go on."""
        self.gauges.peak = self.gauges.running
        self.gauges.keys, self.gauges.prompts = {}, {}

    async def _show(self, _request: Request) -> Response:
        gauges = asdict(self.gauges)
        prompts: dict[str, int] = gauges.pop("prompts")
        repeated = sum(prompts.values()) - len(prompts)
        return JSONResponse({"behaviour": asdict(self.behaviour), **gauges, "repeated": repeated})

    async def _change(self, request: Request) -> Response:
        try:
            given: object = json.loads(await request.body())
            if not isinstance(given, dict):
                raise ValueError("expected an object")
            wanted = cast("dict[str, Any]", given)
            reset = bool(wanted.pop("reset", False))
            self.set(**wanted)
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        if reset:
            self.reset()
        return await self._show(request)

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body: dict[str, Any] = json.loads(await request.body())
        self._count(request, body)
        behaviour = self.behaviour
        self.gauges.running += 1
        self.gauges.peak = max(self.gauges.peak, self.gauges.running)
        try:
            if await _left(request, self._wait(behaviour)):
                self.gauges.cut += 1
                return Response(status_code=499)
        finally:
            self.gauges.running -= 1
        refusal = _refused_content(body, behaviour) or self._refusal(request, behaviour, body)
        if refusal is not None:
            self.gauges.failed += 1
            return refusal
        self.gauges.answered += 1
        return _completion(body)

    def _count(self, request: Request, body: dict[str, Any]) -> None:
        key = _key(request)
        prompt = hashlib.sha256(json.dumps(body.get("messages")).encode()).hexdigest()[:16]
        self.gauges.calls += 1
        self.gauges.keys[key] = self.gauges.keys.get(key, 0) + 1
        self.gauges.prompts[prompt] = self.gauges.prompts.get(prompt, 0) + 1

    async def _wait(self, behaviour: Behaviour) -> None:
        if behaviour.hang:
            self.gauges.hanging += 1
            try:
                await self._released.wait()
            finally:
                self.gauges.hanging -= 1
        if behaviour.latency_s:
            await asyncio.sleep(behaviour.latency_s)

    def _refusal(self, request: Request, behaviour: Behaviour, body: dict[str, Any]) -> Response | None:
        if behaviour.accepted_keys and _key(request) not in behaviour.accepted_keys:
            return _error(401, "incorrect API key provided", behaviour)
        if behaviour.failing_model and body.get("model") != behaviour.failing_model:
            return None
        if behaviour.fail_status and random.random() < behaviour.fail_rate:
            return _error(behaviour.fail_status, "failing as told", behaviour)
        return None

    async def _embed(self, request: Request) -> Response:
        body: dict[str, Any] = json.loads(await request.body())
        self.gauges.embeddings += 1
        behaviour = self.behaviour
        if behaviour.embedding_latency_s:
            await asyncio.sleep(behaviour.embedding_latency_s)
        if behaviour.accepted_keys and _key(request) not in behaviour.accepted_keys:
            return _error(401, "incorrect API key provided", behaviour)
        if behaviour.embedding_fail_status and random.random() < behaviour.fail_rate:
            self.gauges.embeddings_failed += 1
            return _error(behaviour.embedding_fail_status, "failing as told", behaviour)
        given: object = body.get("input", "")
        texts = cast("list[object]", given) if isinstance(given, list) else [given]
        data = [{"object": "embedding", "index": i, "embedding": vector(str(t))} for i, t in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return JSONResponse({"object": "list", "data": data, "model": body.get("model"), "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        body: dict[str, Any] = json.loads(await request.body())
        self.gauges.reranks += 1
        if self.behaviour.rerank_fail_status:
            return _error(self.behaviour.rerank_fail_status, "failing as told", self.behaviour)
        count = len(body["documents"])
        results = [{"index": index, "relevance_score": 1 - index / (count + 1)} for index in range(count)]
        return JSONResponse({"results": results})


def vector(text: str) -> list[float]:
    """Return a unit vector of `DIMENSION` numbers that depends only on the text."""
    digest = hashlib.sha256(text.encode()).digest()
    raw = [byte / 255 + 0.01 for byte in digest[:DIMENSION]]
    length = sum(x * x for x in raw) ** 0.5
    return [x / length for x in raw]


def _key(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _error(status: int, message: str, behaviour: Behaviour) -> Response:
    headers = {"Retry-After": behaviour.retry_after} if behaviour.retry_after else None
    error = {"message": message, "type": "stub", "code": status}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _refused_content(body: dict[str, Any], behaviour: Behaviour) -> Response | None:
    """Refuse what holds the text that is refused, as a provider's content filter does."""
    if not behaviour.refused_text or behaviour.refused_text not in json.dumps(body.get("messages")):
        return None
    error = {"message": "refused as told", "type": "invalid_request_error", "code": "content_filter"}
    return JSONResponse({"error": error}, status_code=behaviour.refused_status)


async def _left(request: Request, waiting: Any) -> bool:
    """Wait, and say whether the client left meanwhile."""
    wait = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        done, _ = await asyncio.wait({wait, gone}, return_when=asyncio.FIRST_COMPLETED)
        return wait not in done
    finally:
        for task in (wait, gone):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _completion(body: dict[str, Any]) -> Response:
    digest = hashlib.sha256(json.dumps(body.get("messages")).encode()).hexdigest()[:8]
    text = f"# Summary {digest}\n\nA short summary of the text, {digest}.{_files(body)}"
    head = {"id": f"chatcmpl-{digest}", "created": 0, "model": body.get("model", "stub")}
    if body.get("stream"):
        return StreamingResponse(_chunks(head, text), media_type="text/event-stream")
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def _files(body: dict[str, Any]) -> str:
    """Tell of each file whose summary is given, under a heading that is a link: so OpenViking asks for it."""
    told = FILE.findall("\n".join(str(message.get("content")) for message in body.get("messages") or ()))
    return "".join(f"\n\n### [{name}]({link})\n{summary}" for name, link, summary in told)


async def _chunks(head: dict[str, Any], text: str) -> AsyncIterator[str]:
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it listens, and where."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def url(self) -> str:
        port = self.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


def _server(endpoint: Endpoint, port: int) -> _Server:
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "timeout_graceful_shutdown": 1}
    return _Server(uvicorn.Config(endpoint.app, host="127.0.0.1", port=port, **options))


@asynccontextmanager
async def serving(behaviour: Behaviour | None = None, *, port: int = 0) -> AsyncGenerator[tuple[Endpoint, str]]:
    """Serve an endpoint in the running event loop; yield it and its address, and stop it at the end."""
    endpoint = Endpoint(behaviour)
    server = _server(endpoint, port)
    task = asyncio.ensure_future(server._serve())  # pyright: ignore[reportPrivateUsage]  # serve() takes signals
    listening = asyncio.ensure_future(server.listening.wait())
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        listening.cancel()
        task.result()
    try:
        yield endpoint, server.url
    finally:
        endpoint.set(hang=False)
        server.should_exit = True
        await task


async def _main(port: int, behaviour: Behaviour) -> None:
    server = _server(Endpoint(behaviour), port)
    task = asyncio.ensure_future(server.serve())
    await server.listening.wait()
    print(json.dumps({"url": server.url}), flush=True)
    await task


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds a chat call takes")
    given = parser.parse_args()
    asyncio.run(_main(given.port, Behaviour(latency_s=given.latency)))
