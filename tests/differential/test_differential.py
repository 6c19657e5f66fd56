"""Each script happens on the loop under test as on asyncio; and the comparer sees what differs.

The loop under test is OXLOOP_TEST_LOOP (`module:factory`), oxloop by default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from .compare import DEFAULT, REFERENCE, BrokenScript, all_scripts, compare, observe, rules_for
from .differences import DIFFERENCES, Difference
from .runner import cases

LOOP = os.environ.get("OXLOOP_TEST_LOOP", DEFAULT)
CROOKED = f"{__package__}.crooked"


@pytest.mark.parametrize("script", all_scripts())
def test_script(script: str, record_property: Callable[[str, object], None]) -> None:
    result = compare(script, LOOP, rules_for(LOOP))
    record_property("cases", result.cases)
    record_property("events", result.events)
    record_property("explained", len(result.explained))
    assert not result.hunks, "\n\n".join(["", *result.hunks])
    assert not result.stale, f"explains nothing any more: {result.stale}"


@pytest.mark.parametrize("script", all_scripts())
def test_every_case_says_what_it_pins(script: str) -> None:
    found = cases(script)
    assert found
    for case in found:
        assert case.function.__doc__, case.name
        assert case.name in case.function.__code__.co_name


def test_every_rule_has_a_case_and_a_reason() -> None:
    for rule in DIFFERENCES:
        assert rule.script in all_scripts()
        assert rule.reason
        if rule.concerns(rule.script):
            assert rule.case in [case.name for case in cases(rule.script)]


@pytest.mark.parametrize("script", ["turn", "writes", "signals"])
def test_asyncio_is_like_itself(script: str) -> None:
    result = compare(script, REFERENCE)
    assert result.cases and result.events
    assert result.hunks == []


@pytest.mark.parametrize(
    ("loop", "script", "case", "seen"),
    [
        (
            "IoFirstLoop",
            "turn",
            "ready_then_io_then_timers",
            "+client.data_received(b'data') [main]",
        ),
        (
            "NoContextsLoop",
            "contexts",
            "of_the_closer",
            "+client.connection_lost(None) closing [-]",
        ),
        ("OtherWordsLoop", "running", "closed_loop", "this loop has been closed"),
        ("DyingLoop", "names", "names_of_addresses", "+the process ended with 3:"),
    ],
)
def test_a_crooked_loop_is_seen(loop: str, script: str, case: str, seen: str) -> None:
    result = compare(f"{script}:{case}", f"{CROOKED}:{loop}")
    [hunk] = result.hunks
    assert hunk.startswith(f"{script}: {case}\n")
    assert seen in hunk


def test_a_death_costs_one_case() -> None:
    stories = observe("names", f"{CROOKED}:DyingLoop")
    assert list(stories) == [case.name for case in cases("names")]
    assert [name for name, story in stories.items() if story.death] == ["names_of_addresses"]


def test_a_hang_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXLOOP_CASE_LIMIT", "2")
    story = observe("names", f"{CROOKED}:HangingLoop")["names_of_addresses"]
    assert "Timeout" in story.death
    assert "in getnameinfo" in story.death


def test_explained_differences() -> None:
    """A rule explains lines of its case, all or none, and is missed once it explains nothing."""
    loop = f"{CROOKED}:OtherWordsLoop"
    rule = Difference("running", "closed_loop", r"Event loop is closed|has been closed", "a test")
    assert compare("running", loop).hunks
    explained = compare("running", loop, [rule])
    assert explained.hunks == []
    assert explained.explained == [rule]
    partly = compare("running", loop, [replace(rule, pattern="has been closed")])
    assert len(partly.hunks) == 1
    stale = compare("turn", REFERENCE, [replace(rule, script="turn"), rule])
    assert stale.stale == [replace(rule, script="turn")]
    assert not replace(rule, before=(3, 0)).concerns("running")


def test_a_script_that_fails_on_asyncio_is_refused() -> None:
    with pytest.raises(BrokenScript, match="does not start"):
        observe("names", "no_such_module:loop")
    with pytest.raises(BrokenScript, match="no such case"):
        compare("names:nothing", REFERENCE)
    with pytest.raises(BrokenScript, match="names_of_addresses"):
        compare("names", REFERENCE, reference=f"{CROOKED}:DyingLoop")
