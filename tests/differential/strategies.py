"""Strategies for the scripts that `player` plays."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st

from .ends import ERRORS, WRONG, Op
from .other_ends import COMMANDS

HAS_TLS = sys.version_info >= (3, 11)
"""Before, asyncio's TLS is another: no model."""

SIZES = st.sampled_from([0, 1, 2, 9, 10, 11, 63, 64, 65, 999, 1000, 1001, 4096])
LARGE = st.sampled_from([16383, 16384, 16385, 65535, 65536, 65537])
WRITES = SIZES | LARGE
LIMITS = st.sampled_from(
    [(None, None), (0, 0), (0, None), (10, None), (10, 9), (10, 10), (1000, 0), (1000, 10),
     (64, 64), (None, 10), (None, 0), (65536, 16384), (1 << 20, None)]
)  # fmt: skip
WRONG_LIMITS = st.sampled_from([(1, 2), (-1, None), (None, -1), (10, 11), (-5, -6)])
KINDS = st.sampled_from(["bytes", "bytes", "bytes", "bytearray", "memoryview"])
READING = st.sampled_from(["pause_reading", "resume_reading"])
ERROR = st.sampled_from([None, None, *ERRORS])
SERVER = st.sampled_from(["close", "close_clients", "abort_clients", "is_serving", "get_loop"])
ASK = st.sampled_from(
    ["is_closing", "get_write_buffer_size", "get_write_buffer_limits", "is_reading",
     "can_write_eof", "get_protocol", "get_returncode"]
)  # fmt: skip
EXTRA = st.sampled_from(["peername", "sockname", "sslcontext", "pipe", "nothing"])
READS = st.sampled_from(
    [("readline", None), ("readline", None), ("readexactly", 0), ("readexactly", 9),
     ("readexactly", 100), ("readuntil", None), ("readuntil", "xx"), ("readuntil", "\n"),
     ("read", None), ("read", 10), ("read", 0)]
)  # fmt: skip
BUFFERED = st.sampled_from([0, 0, 1, 16, 64, 5000])

RECEIVE = st.sampled_from(["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"])

Strategy = st.SearchStrategy[Any]


def _op(name: str | Strategy, *args: Strategy) -> Strategy:
    first = st.just(name) if isinstance(name, str) else name
    return st.tuples(first, *args).map(list)


def _weighted(*pairs: tuple[int, Strategy]) -> Strategy:
    """Return one of the strategies; `one_of` would weigh them all, and those within, the same."""
    choices = [strategy for weight, strategy in pairs for _ in range(weight)]
    return st.integers(0, len(choices) - 1).flatmap(choices.__getitem__)


ANY_END = [
    (2, _op("close")),
    (1, _op("abort")),
    (2, _op("ask", ASK)),
    (1, _op("extra", EXTRA)),
]

WRITING = [
    (6, _op("write", WRITES, KINDS)),
    (2, _op("writelines", st.lists(WRITES, max_size=4))),
    (1, _op("wrong", st.sampled_from(["write", "writelines"]), st.sampled_from([*WRONG]))),
    (3, LIMITS.map(lambda pair: ["limits", *pair])),
    (1, WRONG_LIMITS.map(lambda pair: ["limits", *pair])),
    (1, _op("eof")),
]

READING_OPS = [(3, _op("reading", READING))]

STREAM = [
    *ANY_END,
    *WRITING,
    *READING_OPS,
    (2, _op("protocol", BUFFERED)),
    (1, _op("server", SERVER)),
    (4, _op("block")),
]


def _tls_limits(pair: Any) -> Op:
    high, low = pair
    return ["limits", 10 if high == 0 else high, low if high else None]


NEAR: dict[str, list[tuple[int, Strategy]]] = {
    "stream": STREAM,
    "tls": [
        *ANY_END,
        *WRITING[:3],
        # With a high-water mark of 0 TLS is paused even if nothing waits.
        (3, LIMITS.map(_tls_limits)),
        (1, WRONG_LIMITS.map(lambda pair: ["limits", *pair])),
        *READING_OPS,
        (2, _op("protocol", BUFFERED)),
    ],
    "datagram": [
        *ANY_END,
        (6, _op("sendto", SIZES, st.sampled_from(["far", "far", "none", "wrong"]))),
        (1, _op("wrong", st.just("sendto"), st.sampled_from([*WRONG]))),
        (1, LIMITS.map(lambda pair: ["limits", *pair])),
    ],
    "read_pipe": [*ANY_END, *READING_OPS],
    "write_pipe": [*ANY_END, *WRITING, (4, _op("block"))],
    "child": [(1, _op("ask", ASK))],
    "streams": [
        *ANY_END,
        *WRITING,
        (6, READS.map(lambda call: ["read", *call])),
        (3, _op("wait", st.sampled_from(["drain", "drain", "wait_closed"]))),
        (2, _op("cancel", st.integers(0, 2))),
        (1, _op("at_eof")),
        (1, _op("server", SERVER)),
        (3, _op("block")),
    ],
    "socket": [
        (6, _op("receive", st.sampled_from(["sock_recv", "sock_recv_into"]), SIZES)),
        (6, _op("sendall", SIZES)),
        (3, _op("cancel", st.integers(0, 2))),
        (1, _op("shutdown")),
        (3, _op("block")),
    ],
    "socket_datagram": [
        (6, _op("receive", RECEIVE, SIZES)),
        (3, _op("sendto", SIZES, st.sampled_from(["far", "far", "far", "wrong"]))),
        (3, _op("cancel", st.integers(0, 2))),
        (1, _op("shutdown")),
    ],
}
"""What is done on the loop's side, in any callback."""

FAR_STREAM = [
    (6, _op("far_send", SIZES)),
    (2, _op("far_finish")),
    (1, _op("far_reset")),
    (1, _op("far_close")),
]

FAR: dict[str, list[tuple[int, Strategy]]] = {
    "stream": FAR_STREAM,
    "streams": [*FAR_STREAM, (4, _op("far_line", st.sampled_from([0, 1, 9, 63, 64, 65])))],
    "socket": FAR_STREAM,
    "socket_datagram": [(5, _op("far_send", SIZES)), (1, _op("far_close"))],
    "tls": [
        (6, _op("far_send", SIZES)),
        (1, _op("far_finish")),
        (1, _op("far_reset")),
    ],
    "datagram": [(5, _op("far_send", SIZES)), (1, _op("far_close"))],
    "read_pipe": [(5, _op("far_send", SIZES.filter(bool))), (1, _op("far_close"))],
    "write_pipe": [(1, _op("far_close"))],
    "child": [],
}
"""What the far end does, before the loop's side in the same step."""

FILE = (
    WRITES,
    st.sampled_from([0, 0, 1, 1000]),
    st.sampled_from([None, None, 1, 999, 70000]),
    st.sampled_from(["disk", "disk", "memory", "no fallback"]),
)
SENDFILE = (2, _op("sendfile", *FILE))
CANCELLED = (1, _op("sendfile_cancelled", *FILE))
START_TLS = (1, _op("start_tls", st.sampled_from(["client", "server"])))

ALONE: dict[str, list[tuple[int, Strategy]]] = {
    "stream": [
        (4, _op("drain")),
        *([START_TLS] if HAS_TLS else []),
        SENDFILE,
        CANCELLED,
    ],
    "tls": [(4, _op("drain")), (1, _op("far_notice")), (1, _op("far_garbage")), SENDFILE],
    "streams": [
        (4, _op("drain")),
        *([START_TLS] if HAS_TLS else []),
        SENDFILE,
        CANCELLED,
    ],
    "socket": [(1, _op("drain"))],
    "socket_datagram": [(1, _op("drain"))],
    "datagram": [(1, _op("drain"))],
    "read_pipe": [],
    "write_pipe": [(1, _op("drain"))],
    "child": [
        (4, _op("say", st.sampled_from([1, 10, 1000]))),
        (1, _op("end")),
        (1, _op("signal", st.sampled_from(["terminate", "kill"]))),
        (1, _op("close")),
    ],
}
"""What has a step of its own, as it lets the loop turn."""

STREAM_HOOKS = ["data_received", "data_received", "buffer_updated", "eof_received",
                "pause_writing", "resume_writing", "connection_lost", "get_buffer"]  # fmt: skip
HOOKS: dict[str, list[str]] = {
    "stream": STREAM_HOOKS,
    "tls": STREAM_HOOKS,
    "datagram": ["datagram_received", "datagram_received", "error_received", "connection_lost"],
    "read_pipe": ["data_received", "eof_received", "connection_lost"],
    "write_pipe": ["pause_writing", "resume_writing", "connection_lost"],
    "child": ["pipe_data_received", "pipe_connection_lost", "process_exited", "connection_lost"],
    "streams": [],
    "socket": [],
    "socket_datagram": [],
}


@st.composite
def scripts(draw: st.DrawFn) -> Any:
    """Return a script."""
    ends = draw(st.lists(_end(), min_size=1, max_size=3))
    for number, end in enumerate(ends):
        if "hooks" in end:
            end["hooks"] = [[call, _at(number, do), *how] for call, do, *how in end["hooks"]]
    steps = draw(st.lists(_step([end["kind"] for end in ends]), min_size=1, max_size=14))
    debug = draw(st.integers(0, 5)) == 5
    return {"ends": ends, "steps": steps, **({"debug": True} if debug else {})}


def _end() -> Strategy:
    stream = st.fixed_dictionaries(
        {
            "kind": st.just("stream"),
            "how": st.sampled_from(
                [
                    "sock",
                    "sock",
                    "unix",
                    "unix",
                    "unix",
                    "dial",
                    "dial_unix",
                    "serve",
                    "serve_unix",
                    "accepted",
                ]
            ),
        },
        optional={"buffered": BUFFERED, "keep": st.booleans(), "hooks": _first_hooks("stream")},
    )
    tls = st.fixed_dictionaries(
        {"kind": st.just("tls"), "role": st.sampled_from(["client", "server"])},
        optional={"buffered": BUFFERED, "keep": st.booleans(), "hooks": _first_hooks("tls")},
    )
    datagram = st.fixed_dictionaries({"kind": st.just("datagram"), "connected": st.booleans()})
    pipe = st.sampled_from(["read_pipe", "write_pipe"]).map(lambda kind: {"kind": kind})
    child = st.sampled_from([*COMMANDS]).map(lambda name: {"kind": "child", "command": name})
    streams = st.fixed_dictionaries(
        {
            "kind": st.just("streams"),
            "how": st.sampled_from(["sock", "unix", "unix", "serve", "serve_unix"]),
        },
        optional={
            "limit": st.sampled_from([1, 16, 64, 1000]),
            "coroutine": st.booleans(),
            "error": st.sampled_from(["value", "os", "cancelled"]),
        },
    )
    sock_datagram = st.just({"kind": "socket_datagram"})
    sock = st.fixed_dictionaries(
        {"kind": st.just("socket"), "how": st.sampled_from(["sock", "unix", "unix"])}
    )
    return _weighted(
        (12, stream),
        *([(4, tls)] if HAS_TLS else []),
        (3, datagram),
        (3, pipe),
        (1, child),
        (4, streams),
        (2, sock),
        (1, sock_datagram),
    )


def _first_hooks(kind: str) -> Strategy:
    return st.lists(_hook(kind, ["connection_made"]), max_size=1)


def _hook(kind: str, calls: list[str]) -> Strategy:
    answer = st.sampled_from([None, True, False, "empty"] if kind in ("stream", "tls") else [None])
    do = st.lists(_weighted(*NEAR[kind]), max_size=3).map(lambda ops: [[0, *op] for op in ops])
    return st.tuples(st.sampled_from(calls), do, ERROR, answer).map(_tame)


def _tame(hook: Any) -> Any:
    """Let some callbacks not leave the loop.

    In TLS get_buffer runs amid a step. Behind a resume_writing that left it asyncio asserts in each
    turn that there is something to send.
    """
    call, do, error, answer = hook
    if call in ("get_buffer", "resume_writing"):
        error = "value" if error in ("interrupt", "exit") else error
    return [call, do, error, answer]


def _near(number: int, kind: str) -> Strategy:
    return _weighted(*NEAR[kind]).map(lambda op: [number, *op])


def _hooked(number: int, kind: str) -> Strategy:
    def place(hook: list[Any]) -> Op:
        call, do, error, answer = hook
        return [number, "hook", call, _at(number, do), error, answer]

    return _hook(kind, HOOKS[kind]).map(place)


def _at(number: int, ops: list[Op]) -> list[Op]:
    """Return `ops`, done to the end of that number."""
    return [[number, *op[1:]] for op in ops]


def _step(kinds: list[str]) -> Strategy:
    """Return a step: operations of the far ends, then some of the loop's side; or one alone."""
    ends = list(enumerate(kinds))
    near = _weighted(*((1, _near(*end)) for end in ends))
    loop = _weighted(
        (3, _op("soon", st.lists(near, max_size=2), ERROR)),
        (1, _op("threadsafe", st.lists(near, max_size=1), ERROR)),
        (2, _op("later", st.integers(-1, 2), st.lists(near, max_size=2), ERROR)),
        (2, _op("cancel", st.integers(0, 3))),
        (1, _op("task", st.integers(0, 3), ERROR)),
    ).map(lambda op: ["loop", *op])
    hooked = [(2, _hooked(*end)) for end in ends if HOOKS[end[1]]]
    far = [
        _weighted(*FAR[kind]).map(lambda op, n=number: [n, *op])
        for number, kind in ends
        if FAR[kind]
    ]
    alone = [
        _weighted(*ALONE[kind]).map(lambda op, n=number: [[n, *op]])
        for number, kind in ends
        if ALONE[kind]
    ]
    mixed = st.tuples(
        st.lists(_weighted(*((1, one) for one in far)), max_size=2) if far else st.just([]),
        st.lists(_weighted((4 * len(ends), near), *hooked, (len(ends), loop)), max_size=4),
    ).map(lambda pair: [*pair[0], *pair[1]])
    connect = _op(
        st.sampled_from(["connect", "connect", "sock_connect"]),
        st.sampled_from(["refused", "silent", "there", "there"]),
        st.sampled_from([None, 0, 1, 2]),
    )
    # After two turns it has been accepted in the turn of the cancellation: asyncio loses it.
    accept = _op("sock_accept", st.booleans(), st.sampled_from([None, 0, 1, 3]))
    calls = _weighted((2, connect), (1, accept)).map(lambda op: [["loop", *op]])
    return _weighted((24, mixed), *((7, one) for one in alone), (1, calls))
