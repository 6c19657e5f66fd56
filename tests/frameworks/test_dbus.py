"""D-Bus over abstract Unix sockets: dbus-fast and plain streams, with a dbus-daemon and without.

A connection begins with lines (SASL) and goes on with binary messages, some of which carry
descriptors.
"""

from __future__ import annotations

import asyncio
import io
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
from dbus_fast import DBusError, Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusStr, DBusUInt32, DBusUnixFd
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from tests.support import descriptors, until

from .databases import program
from .programs import Program

NAME = "org.example.Oxloop"
PATH = "/org/example/Oxloop"
BUS = {
    "destination": "org.freedesktop.DBus",
    "path": "/org/freedesktop/DBus",
    "interface": "org.freedesktop.DBus",
}


def abstract() -> str:
    return f"oxloop-{uuid.uuid4()}"


class Daemon:
    """A dbus-daemon at an abstract address."""

    def __init__(self) -> None:
        self.name = abstract()
        self.address = f"unix:abstract={self.name}"
        self.program = Program(
            *(program("dbus-daemon"), "--session", "--nofork", "--nopidfile", "--nosyslog"),
            *(f"--address={self.address}", "--print-address=1"),
        )
        self.program.heard(self.name)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.program.kill()


class Service(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(NAME)
        self.level = 1

    @dbus_method()
    def Echo(self, text: DBusStr) -> DBusStr:
        return text

    @dbus_method()
    async def Later(self, number: DBusUInt32) -> DBusUInt32:
        await asyncio.sleep(0.001)
        return number + 1

    @dbus_method()
    def Fail(self):
        raise DBusError(f"{NAME}.Trouble", "as you asked for")

    @dbus_method()
    def Open(self, given: DBusUnixFd) -> DBusUnixFd:
        """Reads what was given to its end, and gives the read end of a pipe that says the same."""
        with open(given, "rb") as file:
            said = file.read()
        reader, writer = os.pipe()
        with open(writer, "wb") as file:
            file.write(said.upper())
        return reader

    @dbus_signal()
    def Changed(self, level: DBusUInt32) -> DBusUInt32:
        return level

    @dbus_property()
    def Level(self) -> DBusUInt32:
        return self.level

    @Level.setter
    def Level(self, level: DBusUInt32):
        self.level = level
        self.Changed(level)


@asynccontextmanager
async def connected(address: str, **options: bool):
    """A client, gone with all its descriptors after the block."""
    before = set(descriptors())
    bus = await MessageBus(bus_address=address, **options).connect()
    try:
        yield bus
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()
        await until(lambda: set(descriptors()) == before)


@asynccontextmanager
async def pair(daemon: Daemon, **options: bool):
    """A client of a service, both on this loop; the service's interface, as the client sees it."""
    async with (
        connected(daemon.address, **options) as provider,
        connected(daemon.address, **options) as client,
    ):
        provider.export(PATH, Service())
        await provider.request_name(NAME)
        introspection = await client.introspect(NAME, PATH)
        yield client, client.get_proxy_object(NAME, PATH, introspection).get_interface(NAME)


class TestDaemon:
    async def test_calls(self, loop, daemon):
        async with pair(daemon) as (_, service):
            assert await service.call_echo("hällo") == "hällo"
            assert await service.call_echo("") == ""
            numbers = await asyncio.gather(*map(service.call_later, range(200)))
            assert numbers == list(range(1, 201))
            with pytest.raises(DBusError, match="as you asked for"):
                await service.call_fail()

    async def test_more_than_a_socket_holds(self, loop, daemon):
        text = "0123456789abcdef" * (1 << 18)
        async with pair(daemon) as (_, service):
            # One after another: dbus-fast 5.0 gives a connection up where a second message comes
            # while the first one waits for room.
            for said in text, "", text:
                assert await service.call_echo(said) == said

    async def test_properties_and_signals(self, loop, daemon):
        async with pair(daemon) as (_, service):
            told = loop.create_future()
            service.on_changed(told.set_result)
            assert await service.get_level() == 1
            await service.set_level(7)
            assert await told == 7
            assert await service.get_level() == 7

    async def test_descriptors(self, loop, daemon):
        async with pair(daemon, negotiate_unix_fd=True) as (client, _):
            before = set(descriptors())
            for number in range(20):
                reader, writer = os.pipe()
                os.write(writer, b"number %d" % number)
                os.close(writer)
                call = Message(
                    destination=NAME,
                    path=PATH,
                    interface=NAME,
                    member="Open",
                    signature="h",
                    body=[0],
                    unix_fds=[reader],
                )
                reply = await client.call(call)
                os.close(reader)
                assert reply.message_type is MessageType.METHOD_RETURN, reply.body
                [answer] = reply.unix_fds
                with open(answer, "rb") as file:
                    assert file.read() == b"NUMBER %d" % number
            # The service's ends: dbus-fast leaves them to whom it handed them.
            for left in set(descriptors()) - before:
                os.close(left)

    async def test_the_daemon_is_killed(self, loop, daemon):
        before = set(descriptors())
        bus = await MessageBus(bus_address=daemon.address).connect()
        waiting = loop.create_task(bus.wait_for_disconnect())
        daemon.program.kill()
        with pytest.raises((EOFError, ConnectionError)):
            await waiting
        bus.disconnect()
        await until(lambda: not set(descriptors()) - before)
        with pytest.raises(ConnectionRefusedError):
            await MessageBus(bus_address=daemon.address).connect()
        assert not set(descriptors()) - before

    async def test_by_streams(self, loop, daemon):
        """The handshake by hand, over `open_unix_connection`, and a few messages."""
        reader, writer = await asyncio.open_unix_connection(f"\0{daemon.name}")
        identity = str(os.geteuid()).encode().hex()
        writer.write(b"\0AUTH EXTERNAL " + identity.encode() + b"\r\n")
        assert (await reader.readline()).startswith(b"OK ")
        # A pipelined end of the handshake: the first message follows in the same write.
        writer.write(b"BEGIN\r\n" + wire(Message(member="Hello", serial=1, **BUS)))
        hello = await until_reply(reader, 1)
        assert hello.body[0].startswith(":")
        for serial in range(2, 52):
            writer.write(wire(Message(member="ListNames", serial=serial, **BUS)))
        for serial in range(2, 52):
            names = (await until_reply(reader, serial)).body[0]
            assert {"org.freedesktop.DBus", hello.body[0]} <= set(names)
        writer.close()
        await writer.wait_closed()

    async def test_a_handshake_that_is_refused(self, loop, daemon):
        reader, writer = await asyncio.open_unix_connection(f"\0{daemon.name}")
        writer.write(b"\0AUTH NOTHING\r\n")
        assert b"EXTERNAL" in await reader.readline()
        writer.write(b"BEGIN\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def wire(message: Message) -> bytes:
    return bytes(message._marshall(False))


async def receive(reader: asyncio.StreamReader) -> Message:
    """The next message."""
    head = await reader.readexactly(16)
    order = "<" if head[:1] == b"l" else ">"
    body, fields = struct.unpack(f"{order}4xI4xI", head)
    rest = await reader.readexactly((fields + 7) // 8 * 8 + body)
    return Unmarshaller(io.BytesIO(head + rest)).unmarshall()


async def until_reply(reader: asyncio.StreamReader, serial: int) -> Message:
    """The answer to a call; signals in front of it are passed over."""
    while (message := await receive(reader)).reply_serial != serial:
        assert message.message_type is MessageType.SIGNAL
    assert message.message_type is MessageType.METHOD_RETURN, message.body
    return message


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a peer asks of a bus: the handshake, a name, and every other call's arguments back."""
    assert await reader.readexactly(1) == b"\0"
    while (line := await reader.readline()) != b"BEGIN\r\n":
        accepted = line.startswith(b"AUTH EXTERNAL")
        writer.write(b"OK 0123456789abcdef0123456789abcdef\r\n" if accepted else b"ERROR\r\n")
    serial = 0
    try:
        while True:
            call = await receive(reader)
            serial += 1
            if call.member == "Hello":
                answer = Message.new_method_return(call, "s", [":1.1"])
            else:
                answer = Message.new_method_return(call, call.signature, call.body)
            answer.serial = serial
            writer.write(wire(answer))
            await writer.drain()
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""
    finally:
        writer.close()
        await writer.wait_closed()


class TestServer:
    """dbus-fast as a client of a server of ours, without a daemon."""

    @asynccontextmanager
    async def served(self, loop):
        name, peers = abstract(), []

        async def accepted(reader, writer):
            peers.append(asyncio.current_task())
            await serve(reader, writer)

        server = await asyncio.start_unix_server(accepted, f"\0{name}")
        yield f"unix:abstract={name}"
        server.close()
        await server.wait_closed()
        await asyncio.gather(*peers)

    async def test_messages_of_all_types(self, loop):
        bodies = [
            ("", []),
            ("s", ["x" * 100_000]),
            ("ybnqiuxtd", [1, True, -2, 3, -4, 5, -6, 7, 0.5]),
            ("a{sv}as(ii)", [{}, ["a", "", "b"], (1, 2)]),
            ("ay", [bytes(range(256)) * 5000]),
        ]
        async with self.served(loop) as address, connected(address) as bus:
            assert bus.unique_name == ":1.1"
            for types, body in bodies:
                call = Message(
                    destination=NAME, path=PATH, member="Any", signature=types, body=body
                )
                reply = await bus.call(call)
                assert (reply.signature, reply.body) == (types, body)

    async def test_many_clients(self, loop):
        async def client(address, number):
            bus = await MessageBus(bus_address=address).connect()
            for _ in range(10):
                call = Message(
                    destination=NAME, path=PATH, member="Any", signature="u", body=[number]
                )
                assert (await bus.call(call)).body == [number]
            bus.disconnect()
            await bus.wait_for_disconnect()

        before = set(descriptors())
        async with self.served(loop) as address:
            await asyncio.gather(*(client(address, number) for number in range(20)))
        await until(lambda: set(descriptors()) == before)
