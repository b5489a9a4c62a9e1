"""A web application of a user's own with the sample service in it: `python -m tests.process.mounted CONF SOCKET`."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from hotreload.admin.control_socket import bind_tcp
from tests.process.sample import service


async def pair(_request: Request) -> JSONResponse:
    """Answer from one snapshot."""
    conf = service.snapshot()
    return JSONResponse({"value": conf.value, "twin": conf.twin})


app = Starlette(routes=[Route("/pair", pair), Mount("/ops", service.admin_app())])


async def main(config: Path, socket: Path) -> int:
    """Serve both until the service has drained."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    listener = bind_tcp("127.0.0.1", 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.01)
        print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        code = await service.serve(config, socket=socket)
        print(f"drained with {code}", flush=True)
        server.should_exit = True
    return code


if __name__ == "__main__":
    sys.exit(anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2])))
