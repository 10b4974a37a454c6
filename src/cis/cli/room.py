"""``cis room login``, ``setup`` and ``status``: the Matrix room of this node.

Each command opens a session of its own, whether or not a node runs.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from cis.app.actor import append_audit
from cis.cli.context import Context, from_environment, say, this_user
from cis.cli.output import local_time, print_json
from cis.engine.times import rfc3339
from cis.errors import ConfigError, Fault, RoomError, RoomRefusedError, RoomUnreachableError, UsageError
from cis.model.ids import counted
from cis.node import identity
from cis.node.clock import now_us
from cis.node.cluster import read_access_token, token_path
from cis.node.identity import replace_file
from cis.node.setting_values import matrix_user
from cis.store.cluster import Route
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.client import login as matrix_login
from cis.transports.matrix.policy import RoomReport, look_at_room, make_room, mend_room

T = TypeVar("T")
MAX_WAITING = 1000
MAX_PASSWORD_CHARS = 4096


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, call: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.add_argument("--json", action="store_true", help="one JSON document")
        made.set_defaults(call=call)
        return made

    entering = command(
        "login", "get an access token by password, which is read from standard input or asked for", login
    )
    entering.add_argument("--homeserver", required=True, metavar="URL", help="as https://matrix.example.org")
    entering.add_argument("--user", required=True, metavar="USER", help="as @node-1:example.org")
    making = command("setup", "make the room, or join and check the one that cis.toml names", setup)
    making.add_argument("--name", default="CIS", help="of a new room (default CIS)")
    command("status", "the room, whether it can be used, and what is wrong with it", status)


def login(options: argparse.Namespace) -> None:
    """Get an access token, keep it in a file of mode 0600, and write the account into cis.toml."""
    context = from_environment()
    try:
        user = matrix_user(options.user)
    except ValueError as error:
        raise UsageError(f"--user: {error}") from error
    with context.writable_store():
        pass  # before anything is written, here or on the homeserver
    password = _password(user)
    device = f"CIS-{context.settings.node_id}"[:64]
    try:
        session = _answered(matrix_login(options.homeserver, user=user, password=password, device_id=device))
    except RoomRefusedError as error:
        if error.errcode != "M_FORBIDDEN":
            raise
        why = f"{options.homeserver} does not let {user} in: the name or the password is wrong, or it allows no log-in by password"
        raise RoomRefusedError(f"{why} ({error})", errcode=error.errcode, status=error.status) from error
    path = token_path(context.home, context.settings)
    replace_file(path, f"{session.access_token}\n".encode())
    for key, value in (("homeserver", options.homeserver.rstrip("/")), ("user_id", session.user_id)):
        identity.set_text(context.home.toml, section="matrix", key=key, value=value)
    _audit(context, "room.login", session.user_id)
    if options.json:
        print_json({"user_id": session.user_id, "device_id": session.device_id, "access_token_file": str(path)})
    else:
        print(f"{session.user_id}: the access token is in {path}")
        if context.settings.room_id is None:
            say("next, on one node: 'cis room setup' makes the room; on the others put its room_id into [matrix] first")
        else:
            say(f"next: 'cis room setup' joins {context.settings.room_id}")


def setup(options: argparse.Namespace) -> int:
    """Make the room, or join, mend and check the one that is named; exit status 5 when it has faults."""
    context = from_environment()
    room_id, made = context.settings.room_id, False
    people = [one.user_id for one in context.settings.allow]
    with context.writable_store() as store:
        nodes = [peer.matrix_user for peer in store.peers.all() if peer.matrix_user is not None]
    if room_id is None:
        room_id = _in_session(
            context, lambda client, me: make_room(client, name=options.name, me=me, nodes=nodes, people=people)
        )
        made = True
        identity.set_text(context.home.toml, section="matrix", key="room_id", value=room_id)
    else:
        wanted = room_id
        _in_session(context, lambda client, me: mend_room(client, wanted, me=me, nodes=nodes, people=people))
    found = room_id
    report = _in_session(context, lambda client, me: look_at_room(client, found, me=me))
    _audit(context, "room.setup", room_id)
    if not options.json:
        print(f"{room_id}: {'made' if made else 'joined'}, {counted(len(report.members), 'member')}")
        if made:
            say("on the other nodes: put this room_id into [matrix] of cis.toml, then 'cis room setup'")
        if context.settings.matrix_user and not nodes:
            say("no trusted node has a Matrix user yet: 'cis node trust … --matrix-user', then 'cis room setup' again")
    return _tell(context, report, options, extra={"made": made})


def status(options: argparse.Namespace) -> int:
    """Say whether the room can be used; exit status 5 when it has faults."""
    context = from_environment()
    room_id = context.settings.room_id
    if room_id is None:
        raise ConfigError(
            [Fault(place="cis.toml: matrix.room_id", message="is not set; 'cis room setup' makes a room")]
        )
    report = _in_session(context, lambda client, me: look_at_room(client, room_id, me=me))
    with context.store() as store:
        cursor = store.room.cursor(room_id)
        waiting = len(store.outbox.due(Route.ROOM, now_us=now_us(), limit=MAX_WAITING))
    synced = rfc3339(cursor.synced_at_us) if cursor is not None else None
    if not options.json:
        members = counted(len(report.members), "member")
        print(f"{room_id} as {report.user_id}: {members}, last read {local_time(synced)}")
        if waiting:
            print(f"{counted(waiting, 'message')} to be sent")
    return _tell(context, report, options, extra={"last_sync": synced, "outbox": waiting})


def _tell(context: Context, report: RoomReport, options: argparse.Namespace, *, extra: dict[str, Any]) -> int:
    faults = [{"place": one.place, "message": one.message, "mend": one.mend} for one in report.faults]
    if options.json:
        print_json(
            {
                "room_id": report.room_id,
                "user_id": report.user_id,
                "homeserver": context.settings.homeserver,
                "usable": not faults,
                "members": sorted(report.members),
                "faults": faults,
                **extra,
            }
        )
    elif faults:
        for fault in faults:
            print(f"  {fault['place']}: {fault['message']}; {fault['mend'] or 'only a new room helps'}")
    else:
        print("fine")
    return RoomError.exit_status if faults else 0


def _in_session(context: Context, act: Callable[[MatrixClient, str], Awaitable[T]]) -> T:
    settings = context.settings
    if settings.homeserver is None or settings.matrix_user is None:
        raise ConfigError(
            [Fault(place="cis.toml: matrix", message="homeserver and user_id are not set; 'cis room login' sets them")]
        )
    homeserver, user, token = settings.homeserver, settings.matrix_user, read_access_token(context.home, settings)

    async def session() -> T:
        client = MatrixClient(homeserver, token)
        try:
            me = (await client.whoami()).user_id
            if me != user:
                raise RoomError(f"the access token is {me}'s, not {user}'s; 'cis room login' gets another")
            return await act(client, me)
        finally:
            await client.aclose()

    return _answered(session())


def _answered(asking: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(asking)
    except RoomUnreachableError as error:
        raise RoomUnreachableError(f"{error}; is the homeserver up, and is that its address?") from error


def _password(user: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"password of {user}: ")
    text = sys.stdin.readline(MAX_PASSWORD_CHARS).rstrip("\r\n")
    if not text:
        raise UsageError("the password is read from standard input, and nothing was there")
    return text


def _audit(context: Context, action: str, subject: str) -> None:
    with context.writable_store() as store, store.transaction():
        append_audit(store.audit, this_user(), action=action, subject=subject, now_us=now_us())
