"""Generated scripts happen on the loop under test as on asyncio: a fixed set, and those kept.

The loop under test is OXLOOP_TEST_LOOP (`module:factory`), oxloop by default. A script that differs
is made shorter and shown; put it into `examples/`, so that it is played from then on.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .compare import DEFAULT, REFERENCE
from .differences import GENERATED, Explanation
from .generate import EXAMPLES, FIXED, Pair, explains, generated, read
from .player import Script
from .strategies import HAS_TLS
from .test_differential import CROOKED, LOOP

PART = 50
"""So many of the fixed scripts are one test."""

KEPT = sorted(file for file in EXAMPLES.glob("*.json") if HAS_TLS or "tls" not in file.read_text())


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair(LOOP, GENERATED) as pair:
        yield pair


@pytest.mark.parametrize("start", range(0, len(read(FIXED)), PART))
def test_fixed(pair: Pair, start: int) -> None:
    for script in read(FIXED)[start : start + PART]:
        if HAS_TLS or "tls" not in json.dumps(script):
            diff = pair.difference(script)
            assert not diff, "\n".join([json.dumps(pair.shorter(script)), *diff])


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_kept(pair: Pair, file: Path) -> None:
    diff = pair.difference(json.loads(file.read_text()))
    assert not diff, "\n".join(diff)


def example(rule: Explanation) -> Script:
    """Return the example of `rule`, if that is for the loop under test."""
    file = EXAMPLES / f"{rule.example}.json"
    script: Script = json.loads(file.read_text())
    if file not in KEPT:
        pytest.skip("a rule of TLS, which 3.11 has implemented anew")
    if LOOP != DEFAULT or not rule.concerns(script):
        pytest.skip("a rule of another loop or Python")
    if rule.example in ("closed_writelines", "reset_writelines"):
        pytest.skip("3.13.0 is like oxloop in the shortest script, but not in all")
    return script


@pytest.mark.parametrize("rule", GENERATED, ids=lambda rule: rule.example)
def test_every_rule_has_an_example(pair: Pair, rule: Explanation) -> None:
    """Without the rule its example differs, on the Pythons that it names."""
    script = example(rule)
    rules = [other for other in GENERATED if other is not rule]
    assert pair.difference(script, rules)


@pytest.mark.parametrize("rule", GENERATED, ids=lambda rule: rule.example)
def test_no_rule_explains_what_was_before(pair: Pair, rule: Explanation) -> None:
    """What comes before the difference must be there, in the same context.

    Not the line in which its `ends` is found, nor the reports of that step.
    """
    script = example(rule)
    expected, got = pair.traces(script)
    same = list(itertools.takewhile(lambda both: both[0] == both[1], zip(expected, got)))
    last = expected[min(len(same), len(expected) - 1)][0]
    for number, (step, lane, text) in enumerate(expected[: len(same)]):
        texts = "\n".join(event[2] for event in expected[: number + 1] if event[1] == lane)
        report = step == last and not lane.startswith("e")
        if rule.ends and (report or re.search(rule.ends, texts)):
            break
        elsewhere = [[step, lane, re.sub(r" \[[^]]*\]$", " [elsewhere]", text)]]
        for instead in (elsewhere,) if rule.ends else (elsewhere, []):
            changed = [*expected[:number], *instead, *expected[number + 1 :]]
            assert not explains([rule], script, expected, changed), text


@pytest.mark.parametrize(
    ("example", "script", "expected", "got"),
    [
        (
            "datagram_is_reading",
            {"ends": [{"kind": "stream"}, {"kind": "datagram"}], "steps": []},
            ["e0.is_reading -> True [open]"],
            ["e0.is_reading -> False [open]"],
        ),
        (
            "gathered_for_a_closed_pipe",
            {"ends": [{"kind": "write_pipe"}], "steps": []},
            ["e0.1.resume_writing() [open]", "e0.1.connection_lost(BrokenPipeError[32]()) [open]"],
            ["e0.1.resume_writing() [-]", "e0.1.connection_lost(BrokenPipeError[32]()) [open]"],
        ),
        (
            "gathered_then_blocked",
            {"ends": [{"kind": "stream"}], "steps": [[[0, "close"]], [[0, "block"]]]},
            ["e0.1.connection_lost(None) closing [open]"],
            ["e0.1.connection_lost(None) closing [step 1]"],
        ),
        (
            "sock_recv_second",
            {
                "ends": [{"kind": "socket"}],
                "steps": [
                    [[0, "receive", "sock_recv", 1], [0, "receive", "sock_recv", 1]],
                    [[0, "far_send", 1]],
                ],
            },
            ["e0: sock_recv(1,) #0 -> b'1' [step 0]"],
            ["e0: sock_recv(1,) #1 -> b'1' [step 0]"],
        ),
    ],
)
def test_a_rule_explains_no_more(
    example: str, script: Script, expected: list[str], got: list[str]
) -> None:
    (rule,) = (rule for rule in GENERATED if rule.example == example)
    traces = [[[1, "e0", text] for text in texts] for texts in (expected, got)]
    assert not explains([rule], script, *traces)


def test_asyncio_is_like_itself() -> None:
    with Pair(REFERENCE) as pair:

        def check(script: Script) -> None:
            assert not pair.difference(script)

        generated(20, 7, check)
    assert pair.counts.scripts >= 20
    assert pair.counts.events > 100
    assert pair.counts.unsteady == []


@pytest.mark.parametrize(
    ("loop", "script", "seen"),
    [
        (
            "IoFirstLoop",
            {
                "ends": [{"kind": "stream"}],
                "steps": [
                    [[0, "far_send", 1], ["loop", "soon", [["loop", "soon", [], None]], None]]
                ],
            },
            "+1: e0.1.data_received(b'\\x1f') [open]",
        ),
        (
            "NoContextsLoop",
            {"ends": [{"kind": "stream"}], "steps": [[[0, "close"]]]},
            "+1: e0.1.connection_lost(None) closing [-]",
        ),
        (
            "DyingLoop",
            {"ends": [{"kind": "stream", "how": "serve"}], "steps": []},
            "+0: ended with 3: ",
        ),
    ],
)
def test_a_crooked_loop_is_seen(loop: str, script: Script, seen: str) -> None:
    with Pair(f"{CROOKED}:{loop}") as pair:
        assert seen in pair.difference(script)
        longer = {**script, "steps": [[], *script["steps"], [[0, "drain"]]]}
        assert len(pair.shorter(longer)["steps"]) <= len(script["steps"])
        # Whatever became of the process, the next script is played.
        assert len(pair.traces(script)[0]) > 1
