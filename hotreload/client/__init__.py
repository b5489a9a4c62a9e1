"""A running service, from another process: find it, add jobs, wait for their results."""

from hotreload.client.client import AsyncClient, Client, backup

__all__ = ["AsyncClient", "Client", "backup"]
