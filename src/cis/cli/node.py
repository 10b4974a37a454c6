"""``cis node start`` (also ``cis glm start``) and ``cis node status``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cis.cli.context import Context, from_environment, say
from cis.cli.output import local_time, print_json
from cis.cli.parser import completes, lazy
from cis.engine.times import rfc3339
from cis.errors import StoreFullError
from cis.model.durations import format_duration
from cis.node import identity
from cis.node.home import announced

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from cis.node.node import Node
    from cis.node.settings import Settings
    from cis.store.port import Store


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    start = commands.add_parser("start", help="the node: HTTP API and worker pool, until told to stop")
    start.add_argument("--host", help="where to listen (default 127.0.0.1)")
    start.add_argument("--port", type=int, help="default 6767; 0 is any free one")
    start.add_argument("--node-id", metavar="ID")
    start.set_defaults(call=_start)
    _add_peers(commands)
    status = commands.add_parser("status", help="this node: id, public key, address, store, workers, room")
    status.add_argument("--json", action="store_true", help="one JSON document")
    status.set_defaults(call=_status)


def _add_peers(commands: Any) -> None:
    def command(name: str, about: str, call: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
        made.add_argument("--json", action="store_true", help="one JSON document")
        made.set_defaults(call=lazy(f"node_peers:{call}"))
        return made

    trusted = command("trust", "trust another node: act upon what it signs", "trust")
    trusted.add_argument("node_id", metavar="NODE_ID")
    trusted.add_argument("public_key", metavar="PUBLIC_KEY", help="as 'cis node status' shows it on that node")
    trusted.add_argument("--url", help='where it answers, as http://HOST:6767; "" forgets it')
    trusted.add_argument("--matrix-user", metavar="USER", help="as whom it speaks in the room, as @node-2:example.org")
    trusted.add_argument("--may", default="execute,control,read", metavar="RIGHTS", help="what it may do here")
    trusted.add_argument("--scopes", metavar="SCOPES", help="in which scopes, as project:proj-a,user:*; '*' is all")
    untrusted = command("untrust", "stop trusting a node", "untrust")
    completes(untrusted.add_argument("node_id", metavar="NODE_ID"), "peers")
    command("list", "this node and those that it trusts: reachable, outbox, clocks", "list_nodes")
    command("invite", "print the line that makes another node trust this one", "invite")
    command("rotate-key", "give this node a new key, which its old one signs", "rotate_key")


def _status(options: argparse.Namespace) -> None:
    context = from_environment()
    told = announced(context.home)
    with context.store() as store:
        workers = store.workers.all(live_only=True)
        room = _room(context, store)
        unfinished = {str(state): count for state, count in store.runs.unfinished_counts().items()}
    view = {
        "node_id": context.settings.node_id,
        "public_key": identity.ensure_public_key(context.home),
        "url": (context.settings.url or told.url) if told else None,
        "running": told is not None,
        "pid": told.pid if told else None,
        "home": str(context.home.root),
        "store": context.home.store_name,
        "workers": len(workers),
        "runs": unfinished,
        "room": room,
    }
    if options.json:
        print_json(view)
        return
    shown = {
        **view,
        "runs": ", ".join(f"{count} {state}" for state, count in unfinished.items()),
        "room": room and f"{room['room_id']} as {room['user_id']}, last read {local_time(room['last_sync'])}",
    }
    for name, value in shown.items():
        print(f"{name:12}{'-' if value in (None, '') else value}")


def _room(context: Context, store: Store) -> dict[str, str | None] | None:
    settings = context.settings
    if settings.room_id is None:
        return None
    cursor = store.room.cursor(settings.room_id)
    return {
        "room_id": settings.room_id,
        "user_id": settings.matrix_user,
        "last_sync": rfc3339(cursor.synced_at_us) if cursor is not None else None,
    }


def _start(options: argparse.Namespace) -> int:
    from cis.cli.logs import log_to_stderr  # noqa: PLC0415 - not every command writes a log
    from cis.cli.node_start import listen  # noqa: PLC0415
    from cis.executors.linux.descendants import adopt_descendants  # noqa: PLC0415

    adopt_descendants()  # what tasks were allowed to leave comes here when their worker ends, and is reaped

    flags = {"host": options.host, "port": options.port, "node_id": options.node_id}
    context = from_environment(flags=flags)
    settings = context.settings
    log_to_stderr()
    with listen(settings.host, settings.port) as listener:
        node = _opened(context, settings, listener)
        if node is None:
            return 0
        with node:
            _serve(context, node, listener)
    if node.ends_because is not None:
        say(f"cis: the node has ended: {node.ends_because}")
        return 1
    return 0


def _opened(context: Context, settings: Settings, listener: socket.socket) -> Node | None:
    """Return the node, once the disk has room for what it opens; None when it was told to stop before."""
    from cis.cli.node_start import is_full, wait_for_room  # noqa: PLC0415 - not every command serves
    from cis.node.node import Node  # noqa: PLC0415

    while True:
        try:
            identity.ensure_token(context.home)
            return Node(context.home, settings)
        except (StoreFullError, OSError) as error:
            if not is_full(error):
                raise
            if not wait_for_room(context.home, listener, str(error)):
                return None


def _serve(context: Context, node: Node, listener: socket.socket) -> None:
    """Answer requests until INT or TERM."""
    import asyncio  # noqa: PLC0415 - uvicorn imports it
    import signal  # noqa: PLC0415 - as above

    import uvicorn  # noqa: PLC0415 - 100 ms

    from cis.api.app import create_app  # noqa: PLC0415
    from cis.api.connection import say_in_few_words  # noqa: PLC0415
    from cis.api.served import ServedNode  # noqa: PLC0415
    from cis.cli.node_start import run_server, server_config  # noqa: PLC0415

    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    served = ServedNode(
        node.handle,
        node.cluster,
        token_path=context.home.token_file,
        url=url,
        allowed_hosts=frozenset({"*"} if shown != host else {context.settings.host, host}),
    )

    class Server(uvicorn.Server):
        """Says where it listens once it does, and lets streams go before it waits for connections to end."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().set_exception_handler(say_in_few_words)
            await super().startup(sockets)
            node.announce(url)
            say(f"node {node.settings.node_id} listens on {url}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            node.hub.close()
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                grace = format_duration(node.settings.grace_s)
                say(
                    f"stopping: tasks have {grace} to end, and are tried again later if they do not; once more stops now"
                )
            if self.should_exit:  # the second one means now, also while connections are being waited for
                signal.signal(sig, signal.SIG_DFL)
                signal.raise_signal(sig)
            super().handle_exit(sig, frame)

    server = Server(server_config(create_app(served)))
    node.on_leave = lambda: setattr(server, "should_exit", True)
    run_server(server, listener)
