"""Who writes the summaries: the local extractor, or an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import anyio
import httpx
from anyio import to_thread

from examples.summaries import extract
from examples.summaries.documents import Section, Text, in_pieces, pieces
from examples.summaries.settings import VLM

PROMPT_CHARS = 24_000
"""The longest text given to one call."""


class Model(Protocol):
    """A document is several calls: one for each section, one to merge. Whatever goes wrong is raised."""

    def sections(self, text: Text) -> Sequence[Section]:
        """Return the sections of a document, each for one call of `note`."""
        ...

    async def note(self, document: str, section: Section, conf: VLM) -> str:
        """Return notes on one section."""
        ...

    async def merge(self, document: str, notes: Sequence[str], conf: VLM) -> str:
        """Return the overview of the whole document, in Markdown, made of the notes on its sections."""
        ...


class Extractive:
    """Takes what a text says of itself out of it; no network."""

    def sections(self, text: Text) -> Sequence[Section]:
        """Return them as they were found, of any length."""
        return text.sections

    async def note(self, document: str, section: Section, conf: VLM) -> str:
        """Return docstrings and signatures, or the leading sentences."""
        await anyio.sleep(conf.pace_s)
        return await to_thread.run_sync(extract.note, section)

    async def merge(self, document: str, notes: Sequence[str], conf: VLM) -> str:
        """Return the notes under one paragraph."""
        await anyio.sleep(conf.pace_s)
        return extract.merge(document, notes)


class Chat:
    """Calls `/chat/completions`. A refused, failed or late answer is raised: the job is tried again later."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    def sections(self, text: Text) -> Sequence[Section]:
        """Return them, the long ones in pieces that a call takes."""
        return in_pieces(text.sections, PROMPT_CHARS)

    async def note(self, document: str, section: Section, conf: VLM) -> str:
        """Ask for notes on one section."""
        return await self._ask(
            "You take notes on one section of a document: what it is for and what it defines, in a few plain lines.",
            f"Document: {document}\nSection: {section.title}\n\n{section.text}",
            conf,
        )

    async def merge(self, document: str, notes: Sequence[str], conf: VLM) -> str:
        """Ask for an overview made of the notes; more of them than a call takes are made shorter first."""
        joined = "\n\n".join(notes)
        while len(joined) > PROMPT_CHARS:
            joined = await self._shortened(document, joined, conf)
        return await self._ask(
            "You write the overview of a document from notes on its sections: one paragraph that stands for the "
            "whole, then Markdown with what a reader finds where.",
            f"Document: {document}\n\n{joined}",
            conf,
        )

    async def _shortened(self, document: str, notes: str, conf: VLM) -> str:
        system = "You shorten notes on a document to half of their length; what matters most stays."
        parts = pieces(notes, PROMPT_CHARS)
        shorter = "\n\n".join([await self._ask(system, f"Document: {document}\n\n{part}", conf) for part in parts])
        if len(shorter) >= len(notes):
            raise ValueError(f"the model's notes on {document} do not get shorter")
        return shorter

    async def _ask(self, system: str, user: str, conf: VLM) -> str:
        await anyio.sleep(conf.pace_s)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        answer = await self._http.post(
            "chat/completions", json={"model": conf.model, "messages": messages}, timeout=conf.timeout_s
        )
        answer.raise_for_status()
        return _content(answer.json())


def _content(body: Any) -> str:
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the endpoint's answer has no choices[0].message.content") from error
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the endpoint answered with an empty text")
    return content
