"""What `ov.conf` may say. Unmarked fields take effect at the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from hotreload import Live, LiveSettings, Secret


def _http_url(text: str) -> str:
    """Refuse what no client could call, here where the place in the file is known."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be an address like http://127.0.0.1:9000/v1")
    return text


class VLM(BaseModel, frozen=True):
    """The model that writes the summaries; without `api_base` a local one that extracts."""

    model: Annotated[str, Live] = "extractive"
    max_concurrent: Annotated[int, Live, Field(ge=1, le=1024)] = 4
    """How many documents are summarised at once."""
    pace_s: Annotated[float, Live, Field(ge=0, le=3600)] = 0.2
    """Seconds to pause before each call, so that a person can watch or a provider is spared."""
    api_base: Annotated[Annotated[str, AfterValidator(_http_url)] | None, Live] = None
    """An OpenAI-compatible endpoint, up to and without `/chat/completions`."""
    api_key: Annotated[SecretStr | None, Live, Secret] = None
    timeout_s: Annotated[float, Live, Field(gt=0, le=3600)] = 60.0


class Documents(BaseModel, frozen=True):
    """Which documents are summarised."""

    path: Path | None = None
    """A folder; without one, the standard library and the installed packages of the running Python."""
    include: tuple[str, ...] = ("*.py", "*.md", "*.rst", "*.txt")
    exclude: tuple[str, ...] = ("test", "tests", "idlelib", "lib2to3", "*.dist-info", "*.egg-info")
    """Names of folders that are passed over; hidden ones always are."""
    min_bytes: Annotated[int, Field(ge=0)] = 200
    max_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    limit: Annotated[int, Field(ge=0)] = 400
    """At most this many, a fixed sample of all; 0 takes all."""


class Storage(BaseModel, frozen=True):
    """Where the summaries go."""

    workspace: Path = Path("workspace")


class OvConf(LiveSettings):
    """`ov.conf` of this service."""

    vlm: VLM = VLM()
    documents: Documents = Documents()
    storage: Storage = Storage()
