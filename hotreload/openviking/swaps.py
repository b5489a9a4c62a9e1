"""Apply what OpenViking keeps in objects made at its start: their attributes are set again, and set back.

Each part follows one published configuration; what it sets was built while everything could still be refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import anyio.to_thread

from hotreload import logs
from hotreload.openviking.configuration import Settings
from hotreload.openviking.fields import PARSED, SERVED
from hotreload.reload.apply import Prepared, Reloadable, Transition

FILES = ("rerank", "retrieval", "grep", "glob")
"""Sections that VikingFS keeps, each as `NAME_config`, and reads at each request."""
STREAMS = ("stdout", "stderr", "file")
"""What `log.output` may be that is not a path; `file` is one in the workspace."""
Attribute = tuple[Any, str, Any]
"""An object, the name of its attribute, and the new value."""


class Swap:
    """A part of a reload that sets attributes. Meets `Reloadable`; `attributes` is asked with the new settings."""

    def __init__(self, name: str, paths: Sequence[str], attributes: Callable[[Settings], Sequence[Attribute]]) -> None:
        self.name = name
        self.paths = paths
        self._attributes = attributes

    async def prepare(self, transition: Transition) -> Prepared:
        """Build what is set at the commit."""
        return Swapped(self._attributes(transition.new))


class Swapped:
    """Attributes that wait to be set. Meets `Prepared`."""

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        self._attributes = attributes
        self._before: list[Attribute] = []

    def commit(self) -> None:
        """Set them; a request under way keeps what it took."""
        for owner, name, value in self._attributes:
            self._before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    def revert(self) -> None:
        """Set them back, as far as they were set."""
        for owner, name, value in reversed(self._before):
            setattr(owner, name, value)

    async def undo(self) -> None:
        """Nothing needs to be thrown away."""

    async def retire(self) -> None:
        """Nothing stays behind an attribute."""


class Logging:
    """The part of a reload that gives OpenViking's loggers their level and format. Meets `Reloadable`."""

    def __init__(self) -> None:
        self.name = "logging"
        self.paths: Sequence[str] = ("log",)

    async def prepare(self, transition: Transition) -> Prepared:
        """See that the new file can be written; OSError where it cannot."""
        output = transition.new.config.log.output
        if output not in STREAMS:
            await anyio.to_thread.run_sync(_append_to, output)
        return Relogged()


class Relogged:
    """Loggers that follow the published configuration. Meets `Prepared`."""

    def __init__(self) -> None:
        self._begun = False

    def commit(self) -> None:
        """Set up the loggers as published."""
        self._begun = True
        set_up_loggers()

    def revert(self) -> None:
        """Wait for `undo`: what was published is taken back before it."""

    async def undo(self) -> None:
        """Set them up as before, which is published again."""
        if self._begun:
            set_up_loggers()

    async def retire(self) -> None:
        """Nothing stays behind."""


def _append_to(path: str) -> None:
    with Path(path).open("a"):
        pass


def set_up_loggers() -> None:
    """Give OpenViking's loggers the level, format and file of the configuration in force; opens the file again.

    What this package says goes into the file too, where there is one.
    """
    from openviking_cli.utils import logger

    logger.reconfigure_logging()
    logger.configure_uvicorn_logging()
    handler: Any = getattr(logger, "_shared_log_handler", None)
    logs.redirect(handler if isinstance(handler, logging.FileHandler) else None)


def swaps(app: Callable[[], Any]) -> Sequence[Reloadable]:
    """Return the parts that follow the publication; `app` is the application once it serves."""
    return [
        Logging(),
        Swap("retrieval", FILES, _retrieval),
        Swap("prompts", ("prompts",), _prompts),
        Swap("parsers", [f"parsers.{name}" for name in PARSED], _parsers),
        Swap("cors", ("server.cors_origins",), lambda settings: _cors(app(), settings.server)),
        Swap("root key", ("server.root_api_key",), lambda settings: _root_key(app().state, settings.server)),
        Swap("server", SERVED, lambda settings: _server(app().state.config, settings.server)),
    ]


def _retrieval(settings: Settings) -> Sequence[Attribute]:
    from openviking.server.dependencies import get_service

    files: Any = get_service().viking_fs
    known = [name for name in FILES if hasattr(files, f"{name}_config")]
    return [(files, f"{name}_config", getattr(settings.config, name)) for name in known]


def _prompts(settings: Settings) -> Sequence[Attribute]:
    """Have another manager read the templates: the one there is keeps its folder and what it has read."""
    from openviking.prompts import manager

    stated = settings.config.prompts.templates_dir.strip()
    if stated and not Path(stated).expanduser().is_dir():
        raise ValueError(f"prompts.templates_dir is not a folder: {stated}")
    bundled = cast("Any", manager.PromptManager)._get_bundled_templates_dir()
    folder = os.environ.get("OPENVIKING_PROMPT_TEMPLATES_DIR") or stated or str(bundled)
    return [(manager, "_default_manager", manager.PromptManager(Path(folder).expanduser()))]


def _parsers(settings: Settings) -> Sequence[Attribute]:
    """Fill the registry that is there: the importer keeps it for good."""
    from openviking.parse import registry

    known = ("text", "markdown", "pdf", "html", "anydoc", "image")
    configs: Any = {name: getattr(settings.config, name, None) for name in known}
    made: dict[str, Any] = vars(registry.ParserRegistry(configs))
    return [(registry.get_registry(), name, value) for name, value in made.items()]


def _cors(app: Any, server: Any) -> Sequence[Attribute]:
    """Take all that the middleware derives from its origins, its other options kept."""
    from starlette.middleware.cors import CORSMiddleware

    options: dict[str, Any] = next(each.kwargs for each in app.user_middleware if each.cls is CORSMiddleware)
    layer = app.middleware_stack
    while not isinstance(layer, CORSMiddleware):
        layer = layer.app
    made: dict[str, Any] = vars(CORSMiddleware(layer.app, **{**options, "allow_origins": server.cors_origins}))
    return [(layer, name, value) for name, value in made.items() if name != "app"]


def _root_key(state: Any, server: Any) -> Sequence[Attribute]:
    """Take another root key; with one where there was none, or the other way, who may call is another matter."""
    if not (server.root_api_key and state.config.root_api_key):
        raise ValueError("server.root_api_key cannot be added or removed in a running server: restart it")
    manager, new = state.api_key_manager, server.root_api_key
    before = not hasattr(manager, "_root_api_key")  # 0.5.0
    held: Attribute = (manager._legacy, "_root_key", new) if before else (manager, "_root_api_key", new)
    return [held, (state.config, "root_api_key", new)]


def _server(running: Any, server: Any) -> Sequence[Attribute]:
    return [(running, name, getattr(server, name)) for name in (path.partition(".")[2] for path in SERVED)]
