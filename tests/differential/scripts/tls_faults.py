"""Faults of TLS peers: they stop, end, reset or send garbage at each step of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Callable
from typing import Any

from ...certificates import client_context, server_context
from .. import trace as tracing
from ..tlswire import ROLES, TLS12, TLS13, Far, begin, connect, contexts, reports
from ..trace import Trace
from ..wire import finish, pair, reset

case = functools.partial(tracing.case, since=(3, 11))
"""3.11 has another implementation of TLS than 3.10."""

SOON = 0.05
"""Seconds that are to pass where a peer does nothing."""

NEVER = 15.0
"""Seconds that are not to pass."""

GARBAGE = {
    "zeros": bytes(100),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an answer": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH\r\n",
    "SSL 2": b"\x80\x2e\x01\x00\x02" + bytes(50),
    "a record too long": b"\x16\x03\x01\xff\xff" + bytes(100),
    "an empty record": b"\x16\x03\x01\x00\x00" + bytes(100),
    "a short message": b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
    "an unknown message": b"\x16\x03\x03\x00\x05\xee\x00\x00\x01\x00",
    "data": b"\x17\x03\x03\x00\x05hello",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "close_notify": b"\x15\x03\x03\x00\x02\x01\x00",
    "a warning": b"\x15\x03\x03\x00\x02\x01\x5a",
}


def stop(far: Far) -> None:
    """Do nothing more."""


def end(far: Far) -> None:
    """Send the end of the stream, without a close_notify."""
    finish(far.sock, far.near)


def break_off(far: Far) -> None:
    """Reset the connection."""
    reset(far.sock, far.near)


def babble(far: Far) -> None:
    """Send what is no record."""
    far.send(bytes(100))


FAULTS: tuple[Callable[[Far], None], ...] = (stop, end, break_off, babble)


async def _outcome(trace: Trace, task: Any, protocol: Any) -> None:
    """Record how the connection came about, and its end."""
    await trace.wait("made", task)
    if protocol.calls and "connection_lost" not in protocol.calls:
        # It was made before the peer's fault showed, or in spite of it.
        for _ in range(20):
            await asyncio.sleep(0)
        if "connection_lost" not in protocol.calls:
            trace("it stands")
            protocol.transport.abort()
        await protocol.lost()
    await trace.turns(3)


async def _broken(
    trace: Trace, role: str, version: Any, step: int, cut: int, fault: Callable[[Far], None]
) -> None:
    """Let the peer take `step` steps and `cut` bytes of the next one, and then fail."""
    trace("peer of a", role, version.name, "step", step, "cut", cut, fault.__name__)
    ours, theirs = contexts(role, version=version)
    near, sock = pair(trace)
    protocol = trace.protocol(role)
    limit = SOON if fault is stop else NEVER
    task = begin(trace, role, protocol, near, ours, ssl_handshake_timeout=limit)
    far = Far(sock, near, theirs)
    for _ in range(step):
        far.send(await far.next_flight())
    far.send((await far.next_flight())[:cut])
    if fault is not break_off:
        await trace.turns(3)
    fault(far)
    await _outcome(trace, task, protocol)


async def _steps(trace: Trace, role: str, version: Any) -> None:
    """Each fault at each step of a handshake."""
    for step in (0, 1):
        for cut in (0, 1, 5, 20):
            for fault in FAULTS:
                if fault is not babble or cut == 0:
                    await _broken(trace, role, version, step, cut, fault)


@case
async def a_client_of_tls_1_2(trace: Trace) -> None:
    """The peer of a client fails in its first or second flight."""
    await _steps(trace, "client", TLS12)


@case
async def a_client_of_tls_1_3(trace: Trace) -> None:
    """The same; behind the first flight the client's handshake is complete."""
    await _steps(trace, "client", TLS13)


@case
async def a_server_of_tls_1_2(trace: Trace) -> None:
    """The peer of a server fails in its hello or in its last flight."""
    await _steps(trace, "server", TLS12)


@case
async def a_server_of_tls_1_3(trace: Trace) -> None:
    """The same."""
    await _steps(trace, "server", TLS13)


@tracing.case
async def not_tls_from_a_server(trace: Trace) -> None:
    """Instead of a ServerHello something else comes, and nothing is told to the protocol."""
    for name, data in GARBAGE.items():
        if name in ("an empty record", "data"):
            continue
        trace("garbage", name)
        ours, theirs = contexts("client")
        near, sock = pair(trace)
        protocol = trace.protocol("client")
        task = begin(trace, "client", protocol, near, ours)
        far = Far(sock, near, theirs)
        await far.hear()
        far.send(data)
        finish(sock, near)
        await trace.wait("made", task)


@case
async def garbage(trace: Trace) -> None:
    """The first thing that comes is no hello; what is told in debug mode, too."""
    reports(trace)
    for role in ROLES:
        for name, data in GARBAGE.items():
            trace("to a", role, name)
            ours, theirs = contexts(role)
            near, sock = pair(trace)
            protocol = trace.protocol(role)
            task = begin(trace, role, protocol, near, ours)
            far = Far(sock, near, theirs)
            await trace.turns(5)
            far.send(data)
            await trace.turns(5)
            trace("so far", protocol.calls, task.done())
            if not task.done():
                finish(sock, near)
            await _outcome(trace, task, protocol)


@case
async def cut_at_every_byte(trace: Trace) -> None:
    """The peer's first flight ends after each of its first bytes, and after some later ones."""
    for role in ROLES:
        for version in (TLS12, TLS13):
            outcomes = set()
            for cut in (*range(1, 25), *range(25, 200, 25)):
                ours, theirs = contexts(role, version=version)
                near, sock = pair(trace)
                protocol = trace.protocol(role)
                task = begin(trace, role, protocol, near, ours)
                far = Far(sock, near, theirs)
                flight = await far.next_flight()
                assert cut < len(flight)
                far.send(flight[:cut])
                finish(sock, near)
                try:
                    await task
                except OSError as exc:
                    outcomes.add(trace.text(exc))
                outcomes.update(protocol.calls)
                sock.close()
            trace("outcomes", role, version.name, sorted(outcomes))


@case
async def byte_by_byte(trace: Trace) -> None:
    """A handshake that comes a byte at a time is one all the same."""
    for role in ROLES:
        for version in (TLS12, TLS13):
            ours, theirs = contexts(role, version=version)
            near, sock = pair(trace)
            protocol = trace.protocol(role)
            task = begin(trace, role, protocol, near, ours)
            far = Far(sock, near, theirs)
            while not far.shaken:
                for byte in await far.next_flight():
                    far.send(bytes([byte]))
                    await trace.turns(2)
            far.say(b"data")
            await trace.wait("made", task)
            await protocol.received(4)


@case
async def too_slow(trace: Trace) -> None:
    """Bytes that come one by one do not put the time-out off."""
    for role in ROLES:
        ours, theirs = contexts(role)
        near, sock = pair(trace)
        protocol = trace.protocol(role)
        task = begin(trace, role, protocol, near, ours, ssl_handshake_timeout=SOON)
        far = Far(sock, near, theirs)
        for byte in (await far.next_flight())[:-1]:
            if task.done():
                break
            with contextlib.suppress(OSError):
                sock.sendall(bytes([byte]))
            await asyncio.sleep(0.005)
        await trace.wait("made", task)
        trace("heard", protocol.calls)


def _change(flight: bytes, kind: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return `flight` (plain records of TLS 1.2) with the body of one kind of message changed."""
    result = b""
    while flight:
        header, length = flight[:3], int.from_bytes(flight[3:5], "big")
        messages, flight = flight[5 : 5 + length], flight[5 + length :]
        changed = b""
        while messages and header[0] == 22:
            size = int.from_bytes(messages[1:4], "big")
            body, name = messages[4 : 4 + size], messages[0]
            messages = messages[4 + size :]
            if name == kind:
                body = change(body)
            changed += bytes([name]) + len(body).to_bytes(3, "big") + body
        changed = changed or messages
        result += header + len(changed).to_bytes(2, "big") + changed
    return result


@case
async def truncated_messages(trace: Trace) -> None:
    """Messages of a server that are shorter than they say, the certificate among them."""

    def shorter(body: bytes) -> bytes:
        return body[:-20]

    def whole(body: bytes) -> bytes:
        """A list of one certificate that is itself cut off."""
        certificate = body[6 : 6 + int.from_bytes(body[3:6], "big")][:-20]
        one = len(certificate).to_bytes(3, "big") + certificate
        return len(one).to_bytes(3, "big") + one

    def empty(body: bytes) -> bytes:
        return bytes(3)

    for kind, change in (
        (2, shorter),  # ServerHello
        (11, shorter),  # Certificate
        (11, whole),
        (11, empty),
        (12, shorter),  # ServerKeyExchange
    ):
        trace("message", kind, change.__name__)
        ours, theirs = contexts("client", version=TLS12)
        near, sock = pair(trace)
        protocol = trace.protocol("client")
        task = begin(trace, "client", protocol, near, ours)
        far = Far(sock, near, theirs)
        far.send(_change(await far.next_flight(), kind, change))
        await trace.wait("made", task)
        trace("heard", protocol.calls)


@case
async def in_a_record(trace: Trace) -> None:
    """Data cut off in the midst of its record."""
    for role in ROLES:
        for fault in (end, break_off):
            for cut in (1, 5, 10, -1):
                trace("peer of a", role, fault.__name__, cut)
                _, protocol, far = await connect(trace, role)
                far.say(b"before")
                await protocol.received(6)
                far.send(far.records(b"cut off")[:cut])
                await trace.turns(3)
                fault(far)
                await protocol.lost()


@case
async def damaged_records(trace: Trace) -> None:
    """One that does not decrypt, behind one that does, in one event; plain text; an alert."""
    for role in ROLES:
        for name in ("damaged", "behind data", "HTTP", "an alert", "data", "replayed"):
            trace("to a", role, name)
            _, protocol, far = await connect(trace, role)
            record = far.records(b"good")
            bad = bytearray(far.records(b"never told"))
            bad[-1] ^= 1
            if name == "damaged":
                bad = bytearray(record)
                bad[-1] ^= 1
                far.send(bytes(bad))
            elif name == "behind data":
                far.send(record + bytes(bad))
            elif name == "replayed":
                far.send(record + record)
            else:
                far.send(record + GARBAGE[name])
            await protocol.lost()
            trace("data", protocol.data)


@case
async def with_a_buffer(trace: Trace) -> None:
    """The peer ends or resets while much waits to be sent to it."""
    for role in ROLES:
        for closed in (False, True):
            trace("peer of a", role, closed)
            transport, protocol, far = await connect(trace, role, small=True)
            transport.set_write_buffer_limits(high=1 << 30)
            for _ in range(20):
                transport.write(bytes(100_000))
            if closed:
                transport.close()
            await trace.turns(3)
            break_off(far)
            await protocol.lost()
            trace.call(transport.get_write_buffer_size)


@case
async def while_paused(trace: Trace) -> None:
    """A reset under a transport that does not read."""
    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        transport.pause_reading()
        far.say(b"data")
        await trace.turns(3)
        break_off(far)
        await protocol.lost()
        trace.call(transport.resume_reading)
        await trace.turns(3)


def notify(far: Far) -> None:
    """Send close_notify."""
    far.send(far.notice())


def notify_and_end(far: Far) -> None:
    """Send close_notify and the end."""
    notify(far)
    end(far)


def half_a_notice(far: Far) -> None:
    """Send half a close_notify, and the end."""
    far.send(far.notice()[:7])
    end(far)


def go_on(far: Far) -> None:
    """Send data, as if nothing had happened."""
    far.say(b"and another thing")


@case
async def instead_of_an_answer(trace: Trace) -> None:
    """What the peer does with our close_notify."""
    for role in ROLES:
        for fault in (stop, end, break_off, babble, notify, notify_and_end, half_a_notice, go_on):
            trace("peer of a", role, fault.__name__)
            limit = SOON if fault is stop else NEVER
            transport, protocol, far = await connect(
                trace, role, options={"ssl_shutdown_timeout": limit}
            )
            far.say(b"data")
            await protocol.received(4)
            transport.close()
            await far.hear()
            fault(far)
            await protocol.lost()
            await trace.turns(3)


@case
async def behind_its_own_notice(trace: Trace) -> None:
    """The peer's close_notify and its fault come in one event."""
    for role in ROLES:
        for fault in (stop, end, babble):
            trace("peer of a", role, fault.__name__)
            _, protocol, far = await connect(trace, role)
            far.send(far.notice())
            fault(far)
            await protocol.lost()
            await trace.turns(3)


@case
async def a_peer_that_goes_on(trace: Trace) -> None:
    """close() while data keeps coming: none of it is told, and the end comes soon."""
    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        far.say(*(b"x" * 1000 for _ in range(10)))
        await protocol.received(10_000)
        transport.close()
        for _ in range(100):
            if "connection_lost" in protocol.calls:
                break
            with contextlib.suppress(OSError):
                far.sock.sendall(far.records(b"x" * 1000))
            await asyncio.sleep(0)
        await protocol.lost()
        trace("told", len(protocol.data))


@case
async def bad_certificates(trace: Trace) -> None:
    """What create_connection raises for each."""
    for version in (TLS12, TLS13):
        for name in ("expired", "wrong_host", "stranger"):
            trace("certificate", name, version.name)
            ours, _ = contexts("client", version=version)
            theirs = server_context(name)
            near, sock = pair(trace)
            protocol = trace.protocol("client")
            task = begin(trace, "client", protocol, near, ours)
            far = Far(sock, near, theirs)
            far.send(await far.next_flight())
            await trace.wait("made", task)
            trace("heard", protocol.calls)


@case
async def clients_without_certificates(trace: Trace) -> None:
    """A server that demands one, and clients without, or with one it does not trust."""
    for version in (TLS12, TLS13):
        for clients in (ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED):
            for name in (None, "stranger", "alice"):
                trace("certificate", name, version.name, clients.name)
                near, sock = pair(trace)
                protocol = trace.protocol("server")
                context = server_context(clients=clients, version=version)
                task = begin(trace, "server", protocol, near, context)
                far = Far(sock, near, client_context(name))
                with contextlib.suppress(OSError):
                    await far.handshake()
                await _outcome(trace, task, protocol)
