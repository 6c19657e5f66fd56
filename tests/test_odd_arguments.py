"""Arguments that are almost right: memory of any shape, numbers of any size, names of any kind."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import stat
import sys
from typing import Any

import pytest

from .support import PYTHON, Recorder, hops, name_of, skip_stock_bug, udp_pair

# What asyncio says of a memoryview without dimensions.
NO_LENGTH = (
    "0-dim memory has no length" if PYTHON >= (3, 12) else "invalid indexing of 0-dim memory"
)


def released() -> memoryview:
    view = memoryview(b"released")
    view.release()
    return view


MEMORY: dict[str, tuple[Any, bytes | type[Exception]]] = {
    "bytes": (lambda: b"data", b"data"),
    "bytearray": (lambda: bytearray(b"data"), b"data"),
    "memoryview": (lambda: memoryview(b"data"), b"data"),
    "empty": (lambda: memoryview(b""), b""),
    "two dimensions": (lambda: memoryview(b"abcdef").cast("B", shape=[2, 3]), b"abcdef"),
    "items of four bytes": (lambda: memoryview(b"abcdefgh").cast("i"), b"abcdefgh"),
    "items of eight bytes": (lambda: memoryview(b"abcdefgh").cast("d"), b"abcdefgh"),
    "a part": (lambda: memoryview(b"abcdef")[1:3], b"bc"),
    "no dimension": (lambda: memoryview(b"abcd").cast("i", shape=[]), TypeError),
    "every other byte": (lambda: memoryview(b"abcdef")[::2], BufferError),
    "backwards": (lambda: memoryview(b"abcdef")[::-1], BufferError),
    "released": (released, ValueError),
}
"""Memory, and what is sent of it or what is wrong with it."""

BY_MEMORY = pytest.mark.parametrize("name", MEMORY)
IN_PIECES = ("two dimensions", "items of four bytes", "items of eight bytes")


class TestMemory:
    @BY_MEMORY
    @pytest.mark.parametrize("method", ["write", "writelines", "among others"])
    async def test_socket(self, loop_spec, network, error_contexts, name, method):
        lines = method != "write"
        skip_stock_bug(
            loop_spec,
            lines and PYTHON >= (3, 12) and name in (*IN_PIECES, "no dimension"),
            "writelines counts items and not bytes",
        )
        skip_stock_bug(
            loop_spec,
            lines and name == "empty" and (3, 12) <= sys.version_info < (3, 14, 8),
            "an empty piece is never drained",
        )
        skip_stock_bug(
            loop_spec,
            not lines and name == "no dimension" and PYTHON < (3, 12),
            "TypeError once it has been sent",
        )
        make, expected = MEMORY[name]
        skip_stock_bug(
            loop_spec,
            PYTHON >= (3, 15) and method == "among others" and expected in (TypeError, ValueError),
            "what stands before it stays queued",
        )
        transport, protocol, peer = await network.connect()
        if method == "write":
            before, call, after = b"", lambda: transport.write(make()), b""
        elif method == "writelines":
            before, call, after = b"", lambda: transport.writelines([make()]), b""
        else:
            before, after = b"<", b">"
            call = lambda: transport.writelines([before, make(), after])  # noqa: E731
        if isinstance(expected, bytes):
            call()
            transport.write_eof()
            assert await peer.read_all() == before + expected + after
        elif expected is BufferError and not (lines and PYTHON < (3, 12)):
            # As if the kernel had refused it.
            call()
            assert isinstance(await protocol.lost(), BufferError)
            assert isinstance(error_contexts.pop()["exception"], BufferError)
        elif lines and PYTHON < (3, 12):
            # bytes.join copies any shape.
            with contextlib.suppress(TypeError, ValueError):
                call()
        else:
            with pytest.raises(expected) as caught:
                call()
            if expected is TypeError:
                assert str(caught.value) == NO_LENGTH
            assert not transport.is_closing()
            transport.write(b"goes on")
            assert (await peer.read(7)) == b"goes on"

    @BY_MEMORY
    async def test_write_pipe(self, loop, loop_spec, error_contexts, name):
        skip_stock_bug(
            loop_spec, name in IN_PIECES, "counts items and not bytes, and asserts for ever"
        )
        skip_stock_bug(
            loop_spec,
            name == "no dimension" and PYTHON < (3, 12),
            "TypeError once it has been sent",
        )
        make, expected = MEMORY[name]
        reader, writer = os.pipe()
        transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(writer, "wb", 0))
        if isinstance(expected, bytes):
            transport.write(make())
        elif expected is BufferError:
            transport.write(make())
            assert isinstance(await protocol.lost(), BufferError)
            assert isinstance(error_contexts.pop()["exception"], BufferError)
        else:
            with pytest.raises(expected) as caught:
                transport.write(make())
            if expected is TypeError:
                assert str(caught.value) == NO_LENGTH
            assert not transport.is_closing()
        transport.close()
        await protocol.lost()
        assert os.read(reader, 100) == (expected if isinstance(expected, bytes) else b"")
        os.close(reader)

    @BY_MEMORY
    async def test_datagram(self, loop, network, error_contexts, name):
        make, expected = MEMORY[name]
        ours, theirs = udp_pair()
        with theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            transport, protocol = await network.datagrams(sock=ours)
            if name == "no dimension" and PYTHON == (3, 12):
                # Its length is asked for: older Pythons have one, newer ones do not ask.
                with pytest.raises(TypeError):
                    transport.sendto(make())
            elif expected is BufferError:
                transport.sendto(make())
                assert isinstance(await protocol.lost(), BufferError)
                error_contexts.clear()
            elif expected is ValueError:
                # Looked at by sendto itself on older Pythons.
                with contextlib.suppress(ValueError):
                    transport.sendto(make())
                    assert isinstance(await protocol.lost(), ValueError)
                    error_contexts.clear()
            else:
                transport.sendto(make())
                if name == "no dimension":
                    expected = b"abcd"
                if name == "empty":
                    with contextlib.suppress(BlockingIOError):
                        assert theirs.recv(100) == b""
                else:
                    assert theirs.recv(100) == expected

    @BY_MEMORY
    async def test_tls(self, tls, error_contexts, name):
        make, expected = MEMORY[name]
        transport, protocol, peer = await tls.connect()
        if name == "no dimension" and PYTHON < (3, 12):
            expected = b"abcd"
        if isinstance(expected, bytes):
            transport.write(make())
            transport.write(b"|")
            assert await peer.read(len(expected) + 1) == expected + b"|"
        elif expected is BufferError:
            transport.write(make())
            await protocol.lost()
            error_contexts.clear()
        else:
            with pytest.raises(expected):
                transport.write(make())
            assert not transport.is_closing()

    @BY_MEMORY
    async def test_sock_sendall(self, loop, loop_spec, name):
        skip_stock_bug(loop_spec, name in IN_PIECES, "counts items and not bytes: waits for ever")
        skip_stock_bug(loop_spec, name == "no dimension", "TypeError once it has been sent")
        make, expected = MEMORY[name]
        if name == "no dimension":
            expected = b"abcd"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            if isinstance(expected, bytes):
                await loop.sock_sendall(ours, make())
            else:
                with pytest.raises(expected):
                    await loop.sock_sendall(ours, make())
            ours.close()
            assert theirs.recv(100) == (expected if isinstance(expected, bytes) else b"")

    @BY_MEMORY
    async def test_sock_sendto(self, loop, loop_spec, name):
        skip_stock_bug(loop_spec, PYTHON < (3, 11), "new in 3.11")
        make, expected = MEMORY[name]
        if name == "no dimension":
            expected = b"abcd"
        ours, theirs = udp_pair()
        with ours, theirs, socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            ours.close()
            if isinstance(expected, bytes):
                with socket.socket(type=socket.SOCK_DGRAM) as receiver:
                    receiver.bind(("127.0.0.1", 0))
                    address = receiver.getsockname()
                    assert await loop.sock_sendto(sender, make(), address) == len(expected)
                    assert receiver.recv(100) == expected
            else:
                with pytest.raises(expected):
                    await loop.sock_sendto(sender, make(), theirs.getsockname())


class Falsy:
    def __bool__(self) -> bool:
        return False


class Undecided:
    def __bool__(self) -> bool:
        raise LookupError("neither")


class TestFalsyItems:
    """Of what is false writelines asks no more, from 3.14 on."""

    @pytest.mark.parametrize("item", [None, 0, "", [], False, Falsy()], ids=name_of)
    async def test_is_skipped(self, loop_spec, network, item):
        skip_stock_bug(loop_spec, sys.version_info < (3, 14, 8), "TypeError before 3.14.8")
        transport, _, peer = await network.connect()
        if PYTHON < (3, 14):
            with pytest.raises(TypeError):
                transport.writelines([b"<", item, b">"])
            transport.write(b"<>")
        else:
            transport.writelines([item])
            transport.writelines([b"<", item, b">"])
        transport.write_eof()
        assert await peer.read_all() == b"<>"

    @pytest.mark.parametrize("item", [1, "text", [0], True, object()], ids=name_of)
    async def test_what_is_not(self, network, item):
        transport, _, peer = await network.connect()
        with pytest.raises(TypeError):
            transport.writelines([item])
        transport.write(b"goes on")
        assert await peer.read(7) == b"goes on"

    async def test_undecided(self, loop_spec, network):
        skip_stock_bug(loop_spec, sys.version_info < (3, 14, 8), "TypeError before 3.14.8")
        transport, _, _ = await network.connect()
        with pytest.raises(LookupError if PYTHON >= (3, 14) else TypeError):
            transport.writelines([Undecided()])
        assert not transport.is_closing()


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class BadIndex:
    def __index__(self) -> int:
        raise LookupError("no number")


SIZES: list[tuple[Any, Any]] = [
    (3, b"abc"),
    (100, b"abcdef"),
    (True, b"a"),
    (Index(3), b"abc"),
    (-1, ValueError),
    (-(2**63), ValueError),
    (Index(-3), ValueError),
    (2**62, MemoryError),
    (2**63 - 1, (OverflowError, MemoryError)),
    (2**63, OverflowError),
    (2**64, OverflowError),
    (-(2**64), OverflowError),
    (Index(2**63), OverflowError),
    (1.0, TypeError),
    ("1", TypeError),
    (b"1", TypeError),
    (BadIndex(), LookupError),
]


def name_of_size(size: Any) -> str:
    return (
        f"Index({size.value})" if isinstance(size, Index) else type(size).__name__ + str(size)[:24]
    )


class TestSizes:
    """What the socket's own method says of a size, in asyncio's words as in ours."""

    @pytest.mark.parametrize(
        ("size", "expected"),
        [pytest.param(*each, id=name_of_size(each[0]).split(" ")[0]) for each in SIZES],
    )
    @pytest.mark.parametrize("method", ["sock_recv", "sock_recvfrom"])
    async def test_received(self, loop, loop_spec, method, size, expected):
        skip_stock_bug(loop_spec, PYTHON < (3, 11) and method == "sock_recvfrom", "new in 3.11")
        await self.check(loop, method, size, expected)

    @pytest.mark.parametrize("size", [0, False, Index(0)], ids=["0", "False", "Index(0)"])
    async def test_nothing(self, loop, size):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            assert await loop.sock_recv(ours, size) == b""
            theirs.send(b"data")
            assert await loop.sock_recv(ours, size) == b""
            assert await loop.sock_recv(ours, 10) == b"data"

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (3, 3),
            (0, 6),
            (None, 6),
            (False, 6),
            (Index(3), 3),
            (11, ValueError),
            (-1, ValueError),
            (2**63 - 1, ValueError),
            (2**63, OverflowError),
            (1.0, TypeError),
            ("1", TypeError),
            (BadIndex(), LookupError),
        ],
        ids=name_of_size,
    )
    async def test_received_into(self, loop, loop_spec, size, expected):
        skip_stock_bug(loop_spec, PYTHON < (3, 11), "new in 3.11")
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"abcdef")
            if isinstance(expected, int):
                assert (await loop.sock_recvfrom_into(ours, bytearray(10), size))[0] == expected
            else:
                with pytest.raises(expected):
                    await loop.sock_recvfrom_into(ours, bytearray(10), size)

    @pytest.mark.parametrize(
        "buffer",
        [b"read only", memoryview(b"read only"), memoryview(bytearray(6))[::2], "text", 6, None],
        ids=["bytes", "view", "pieces", "text", "number", "None"],
    )
    @pytest.mark.parametrize("method", ["sock_recv_into", "sock_recvfrom_into"])
    async def test_buffers(self, loop, loop_spec, method, buffer):
        stock = PYTHON < (3, 11) and method == "sock_recvfrom_into"
        skip_stock_bug(loop_spec, stock, "new in 3.11")
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"abcdef")
            with pytest.raises((TypeError, BufferError)):
                await getattr(loop, method)(ours, buffer)
            assert await loop.sock_recv(ours, 10) == b"abcdef"

    @pytest.mark.parametrize("method", ["sock_recv_into", "sock_recvfrom_into"])
    async def test_buffer_of_larger_items(self, loop, loop_spec, method):
        stock = PYTHON < (3, 11) and method == "sock_recvfrom_into"
        skip_stock_bug(loop_spec, stock, "new in 3.11")
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"abcdef")
            buffer = array.array("i", [0, 0])
            await getattr(loop, method)(ours, buffer)
            # recvfrom_into counts items where it is not told how many bytes.
            count = 6 if method == "sock_recv_into" else 2
            assert buffer.tobytes() == b"abcdef"[:count].ljust(8, b"\0")

    async def check(self, loop, method, size, expected):
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"abcdef")
            if isinstance(expected, bytes):
                received = await getattr(loop, method)(ours, size)
                assert (received if method == "sock_recv" else received[0]) == expected
            else:
                with pytest.raises(expected) as caught:
                    await getattr(loop, method)(ours, size)
                with pytest.raises(expected) as blocking:
                    getattr(ours, method.removeprefix("sock_"))(size)
                assert str(caught.value) == str(blocking.value)


class TestNames:
    """get_extra_info looks its name up in a dictionary."""

    @pytest.mark.parametrize("name", [[], {}, set(), bytearray(b"socket")], ids=name_of)
    @pytest.mark.parametrize("kind", ["socket", "datagrams", "reader", "writer"])
    async def test_unhashable(self, loop, network, kind, name):
        transport = await self.open(loop, network, kind)
        with pytest.raises(TypeError) as wanted:
            {}.get(name)
        for default in ((), ("default",)):
            with pytest.raises(TypeError) as caught:
                transport.get_extra_info(name, *default)
            assert str(caught.value) == str(wanted.value)
        transport.close()
        await hops(3)

    @pytest.mark.parametrize("name", [None, 1, b"socket", "unknown", (), 1.5], ids=name_of)
    @pytest.mark.parametrize("kind", ["socket", "datagrams", "reader", "writer"])
    async def test_unknown(self, loop, network, kind, name):
        transport = await self.open(loop, network, kind)
        assert transport.get_extra_info(name) is None
        assert transport.get_extra_info(name, "default") == "default"
        transport.close()
        await hops(3)

    @pytest.mark.parametrize("name", [[], {}, set(), bytearray(b"socket")], ids=name_of)
    async def test_tls(self, tls, name):
        transport, _, _ = await tls.connect()
        with pytest.raises(TypeError):
            transport.get_extra_info(name)

    async def open(self, loop, network, kind):
        if kind == "socket":
            return (await network.connect())[0]
        if kind == "datagrams":
            return (await network.datagrams())[0]
        reader, writer = os.pipe()
        if kind == "reader":
            os.close(writer)
            return (await loop.connect_read_pipe(Recorder, os.fdopen(reader, "rb", 0)))[0]
        pipe = os.fdopen(writer, "wb", 0)
        transport = (await loop.connect_write_pipe(Recorder, pipe))[0]
        os.close(reader)
        return transport


class TestUnixServerMode:
    """`mode=` of Python 3.16."""

    @pytest.fixture(autouse=True)
    def _as_316(self, loop_spec, monkeypatch):
        skip_stock_bug(loop_spec, PYTHON < (3, 16), "new in 3.16")
        if PYTHON < (3, 16):
            monkeypatch.setattr("oxloop._unix.check_since", lambda *arguments: None)

    @pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0, Index(0o640)], ids=name_of)
    async def test_permissions(self, network, folder, mode):
        path = folder / "socket"
        await network.serve_unix(path=path, mode=mode)
        assert stat.S_IMODE(path.stat().st_mode) == int(getattr(mode, "value", mode))

    async def test_none(self, network, folder):
        path = folder / "socket"
        old = os.umask(0o027)
        try:
            await network.serve_unix(path=path, mode=None)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o750

    async def test_refused(self, loop, folder):
        path = str(folder / "socket")
        with pytest.raises(TypeError):
            await loop.create_unix_server(Recorder, path, mode="rw")
        with pytest.raises(ValueError):
            await loop.create_unix_server(Recorder, "\0abstract", mode=0o600)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path + "2")
            with pytest.raises(ValueError):
                await loop.create_unix_server(Recorder, sock=sock, mode=0o600)


@pytest.mark.skipif(PYTHON >= (3, 16), reason="it is there from 3.16 on")
async def test_unix_server_mode_is_new_in_316(loop, folder):
    message = r"create_unix_server\(\) got an unexpected keyword argument 'mode'"
    with pytest.raises(TypeError, match=message):
        await loop.create_unix_server(Recorder, str(folder / "socket"), mode=0o600)
