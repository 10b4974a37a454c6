"""The room of this node, as its settings name it."""

from __future__ import annotations

from pathlib import Path

from cis.errors import ConfigError, Fault
from cis.node.home import Home
from cis.node.settings import Settings
from cis.transports.matrix.chat import Person
from cis.transports.matrix.room import RoomSettings


def token_path(home: Home, settings: Settings) -> Path:
    """Return the file of the access token; a relative one lies in the home."""
    return home.root / Path(settings.access_token_file).expanduser()


def read_access_token(home: Home, settings: Settings) -> str:
    """Return the access token that the settings name. Raises ConfigError, with the mend."""
    path = token_path(home, settings)
    place = "cis.toml: matrix.access_token_file"
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        mend = "'cis room login' gets a token"
        raise ConfigError([Fault(place=place, message=f"{path} cannot be read: {error}; {mend}")]) from error
    if not token or any(character.isspace() for character in token):
        raise ConfigError([Fault(place=place, message=f"{path} holds no token; 'cis room login' gets one")])
    return token


def room_settings(home: Home, settings: Settings) -> RoomSettings | None:
    """Return the room that this node works in, or None when none is configured.

    Raises:
        ConfigError: the access token cannot be read.
    """
    if settings.homeserver is None or settings.matrix_user is None or settings.room_id is None:
        return None
    return RoomSettings(
        homeserver=settings.homeserver,
        access_token=read_access_token(home, settings),
        user_id=settings.matrix_user,
        room_id=settings.room_id,
        labels=settings.labels,
        capacity=settings.slots if settings.accept_broadcast else None,
        grace_s=settings.grace_s,
        fall_back_after_s=settings.fall_back_after_s,
        allow={one.user_id: Person(may=one.may, scopes=one.scopes) for one in settings.allow},
    )
