"""Processes that share a store: what they know of each other, and what they do together."""
