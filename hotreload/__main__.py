"""The command `hotreload`; `python -m hotreload` is the same.

The first thing a serving process does is to keep SIGHUP from killing it: no third-party package is imported before.
"""

from __future__ import annotations

import sys

from hotreload import early, pid1

if sys.argv[1:2] and sys.argv[1] in early.SERVING_VERBS:
    pid1.run_as_child()
    early.install()


def main() -> None:
    """Run the verb named on the command line and leave with its exit code."""
    from hotreload.cli import main as run_verb  # not before `early.install`

    run_verb(sys.argv[1:])


if __name__ == "__main__":
    main()
