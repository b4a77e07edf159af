"""Where an alias stood, and where a rollback goes."""

from __future__ import annotations

import pytest

from pipeline.errors import RegistryError
from pipeline.registry.champion import How, Move, choose_rollback, reconcile


def moves(*versions: str, last: How = "registered") -> list[Move]:
    made = [Move(version=version, how="registered", at="then") for version in versions]
    return [*made[:-1], Move(version=versions[-1], how=last, at="now")]


def test_a_rollback_goes_to_the_version_before() -> None:
    assert choose_rollback(moves("1", "2")) == "1"
    assert choose_rollback(moves("1", "2", "3")) == "2"
    assert choose_rollback(moves("1", "2", "1", "3")) == "1"
    assert choose_rollback(moves("1", "2", last="by_hand")) == "1"


def test_a_second_rollback_is_refused_and_says_how_to_go_on() -> None:
    history = moves("1", "2", "3", "2", last="rolled_back")
    with pytest.raises(RegistryError, match=r"version 2 already; .*version 3; .*--cand"):
        choose_rollback(history)
    assert choose_rollback(history, "1") == "1"
    assert choose_rollback(history, "3") == "3"
    assert choose_rollback([*history, *moves("4")]) == "2"


def test_a_rollback_to_a_version_that_never_was_champion_is_refused() -> None:
    with pytest.raises(RegistryError, match="expected one of 1, 2; got 5"):
        choose_rollback(moves("1", "2"), "5")


def test_the_first_champion_has_nothing_to_go_back_to() -> None:
    with pytest.raises(RegistryError, match="no version to go back to"):
        choose_rollback(moves("1"))
    with pytest.raises(RegistryError, match="register a model first"):
        choose_rollback([])


def test_a_move_that_was_noted_but_never_made_is_dropped() -> None:
    assert reconcile(moves("1", "2"), "1") == moves("1", "2")[:1]


def test_a_move_by_hand_is_noted_when_it_is_found() -> None:
    found = reconcile(moves("1", "2"), "5")
    assert [(move.version, move.how) for move in found][2:] == [("5", "by_hand")]
    assert choose_rollback(found) == "2"
    assert [move.version for move in reconcile([], "3")] == ["3"]
    assert reconcile(moves("1", "2"), "2") == moves("1", "2")
