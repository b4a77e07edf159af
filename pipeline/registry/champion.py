"""The version an alias stands for, what it stood for before, and the way back.

The history is a tag of the registered model: a list of moves, the newest last. A move is noted
before the alias is moved, so a job that was cut off in between leaves a note without a move, which
the next one drops.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from pipeline.errors import RegistryError
from pipeline.registry.connection import Connection, import_mlflow, told

_LOG = logging.getLogger(__name__)

How = Literal["registered", "rolled_back", "by_hand"]

# A tag of MLflow holds 5000 characters, a move takes about 80.
_MOVES_KEPT = 40
_NEVER = ""


@dataclass(frozen=True, kw_only=True)
class Move:
    """The alias came to stand for a version.

    Attributes:
        version: The version.
        how: Who moved it there.
        at: When, ISO 8601 in UTC; empty where nobody noted it.
    """

    version: str
    how: How
    at: str


def read_champion(connection: Connection, name: str, alias: str) -> str | None:
    """The version an alias stands for; None where there is no such alias, or no such model.

    Raises:
        RegistryError: The registry does not answer.
    """
    mlflow = import_mlflow()
    with told(connection.registry_uri):
        try:
            model = connection.client.get_registered_model(name)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    version = model.aliases.get(alias)
    return None if version is None else str(version)


def read_history(connection: Connection, name: str, alias: str) -> list[Move]:
    """Every move of an alias that is known, the newest last; the last one is where it stands.

    Raises:
        RegistryError: The registry does not answer, or the tag is not ours.
    """
    standing = read_champion(connection, name, alias)
    if standing is None:
        return []
    with told(connection.registry_uri):
        text = connection.client.get_registered_model(name).tags.get(_tag(alias), "[]")
    try:
        noted = [Move(**entry) for entry in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise RegistryError(
            "the history of the alias cannot be read",
            where=f"tag {_tag(alias)} of {name}",
            got=error,
            todo="delete the tag; the alias stays where it is",
        ) from error
    return reconcile(noted, standing)


def reconcile(noted: Sequence[Move], standing: str) -> list[Move]:
    """The history that fits where the alias stands.

    Args:
        noted: What the tag says.
        standing: The version that the alias stands for.
    """
    moves = list(noted)
    if moves and moves[-1].version == standing:
        return moves
    if len(moves) > 1 and moves[-2].version == standing:
        return moves[:-1]  # noted, never moved
    return [*moves, Move(version=standing, how="by_hand", at=_NEVER)]


def choose_rollback(history: Sequence[Move], wanted: str | None = None) -> str:
    """The version to go back to.

    Args:
        history: Where the alias stood, the newest last.
        wanted: A version to go back to, one of those. Default: the one before; once only. A job
            that is started again by mistake, or by two people, must neither go back further nor
            bring back what was just taken away.

    Raises:
        RegistryError: There is nothing to go back to, or it is not the one before.
    """
    if not history:
        raise RegistryError("there is nothing to go back from", todo="register a model first")
    stood = list(dict.fromkeys(move.version for move in history))
    standing = history[-1].version
    if wanted is not None:
        if wanted not in stood:
            raise RegistryError(
                "the alias never stood for this version",
                expected=f"one of {', '.join(stood)}",
                got=wanted,
                todo="give it as the candidate, without --rollback",
            )
        return wanted
    before = [move.version for move in history if move.version != standing]
    if history[-1].how == "rolled_back":
        raise RegistryError(
            f"the alias went back to version {standing} already",
            got=f"from version {before[-1]}",
            todo="to go on, or back further, name the version: --candidate models:/NAME/VERSION",
        )
    if not before:
        raise RegistryError(
            "there is no version to go back to", got=f"the alias never stood but for {standing}"
        )
    return before[-1]


def move_alias(
    connection: Connection,
    name: str,
    alias: str,
    version: str,
    *,
    how: How,
    expected: str | None,
    now: datetime,
) -> None:
    """Let an alias stand for another version.

    Args:
        connection: The registry.
        name: Of the registered model.
        alias: The alias; made where it is missing.
        version: Must exist.
        how: For the history.
        expected: The version that it stood for when this was decided.
        now: In UTC.

    Raises:
        RegistryError: The version does not exist, somebody moved the alias in the meantime, or the
            registry does not answer.
    """
    client = connection.client
    with told(connection.registry_uri, "the alias cannot be moved"):
        client.get_model_version(name, version)
    history = read_history(connection, name, alias)
    standing = history[-1].version if history else None
    if standing != expected:
        raise RegistryError(
            "somebody moved the alias in the meantime",
            where=f"{name}@{alias}",
            expected=f"version {expected}",
            got=f"version {standing}",
            todo="start again: the comparison was with another champion",
        )
    move = Move(version=version, how=how, at=now.isoformat(timespec="seconds"))
    text = json.dumps([asdict(one) for one in [*history, move][-_MOVES_KEPT:]])
    with told(connection.registry_uri, "the alias cannot be moved"):
        client.set_registered_model_tag(name, _tag(alias), text)
        client.set_registered_model_alias(name, alias, version)
    _LOG.info("%s@%s: version %s, before %s", name, alias, version, standing or "none")


def _tag(alias: str) -> str:
    return f"mumic.{alias}.history"
