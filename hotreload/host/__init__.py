"""One running process: signals, watch, notifier, sockets, both coordinators; the same under every service."""
