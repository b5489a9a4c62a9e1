#!/usr/bin/python3
"""runc without the limits that podman asks for: a sandbox in which tests run may not raise them."""

import json
import os
import sys


def without_limits(option: str, *below: str) -> None:
    """Take the limits out of the description that an option names."""
    if option in sys.argv:
        path = os.path.join(sys.argv[sys.argv.index(option) + 1], *below)
        with open(path) as file:
            config = json.load(file)
        config.get("process", config).pop("rlimits", None)
        with open(path, "w") as file:
            json.dump(config, file)


without_limits("--bundle", "config.json")
without_limits("--process")
os.execvp("runc", ["runc", *sys.argv[1:]])
