"""How often the tests that count do what they count: CI's numbers here, a campaign's by variables.

HOTRELOAD_TEST_SCALE multiplies all of them (fractions as well); a variable of its own, `HOTRELOAD_RELOADS=2000`,
says one exactly.
"""

from __future__ import annotations

import os

SCALE = float(os.environ.get("HOTRELOAD_TEST_SCALE", "1"))


def counted(name: str, usual: int, *, least: int = 1) -> int:
    """Return what `HOTRELOAD_NAME` says, else the usual count times the scale; never below `least`."""
    said = os.environ.get(f"HOTRELOAD_{name}")
    return max(least, int(said) if said else round(usual * SCALE))


def patience_s(usual_s: float, count: int, usual: int) -> float:
    """Return how long `count` may take where the usual count may take `usual_s` seconds."""
    return usual_s * max(1.0, count / usual)
