"""One behaviour suite per protocol, over every implementation."""
