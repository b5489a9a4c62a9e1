"""The ASGI edge: routes over a running process, who may call them, and the sockets they are served on."""
