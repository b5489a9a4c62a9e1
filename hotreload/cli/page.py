"""The verb `page`: the admin page of one's own service in a browser, through a tunnel to its control socket."""

from __future__ import annotations

import socket
import webbrowser

import anyio
import click

from hotreload.cli.exits import Exit
from hotreload.cli.options import finds_service
from hotreload.client.find import Wanted, find


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Loopback port; any free one without it.")
@click.option("--open/--no-open", "opens", default=True, help="Open a browser; without it only print the address.")
@finds_service
def page(port: int, opens: bool, wanted: Wanted) -> int:
    """Open the admin page of the running service, through a tunnel on loopback; Ctrl-C closes it.

    The address holds a secret of this tunnel: who has it may use the page as you until the tunnel is closed.

    \b
    hotreload page --name summaries
    """

    def tell(url: str) -> None:
        click.echo(url)
        if opens:
            webbrowser.open(url)

    endpoint = find(wanted)
    if endpoint.socket is None:
        tell(f"{endpoint.url}/admin/")
        return Exit.DONE
    from hotreload.cli.tunnel import serve  # a web server, which no other verb of a client needs

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setblocking(False)
        anyio.run(serve, endpoint, listener, tell)
    return Exit.DONE
