"""Working with socket objects directly (event loop page, the section of that name)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import random
import socket
import ssl
import sys

import pytest

from .support import PYTHON, hops, listen, skip_stock_bug

# Methods and arguments that would wait, on a connected socket with nothing to read.
RECEIVING = {
    "sock_recv": lambda: (100,),
    "sock_recv_into": lambda: (bytearray(100),),
    "sock_recvfrom": lambda: (100,),
    "sock_recvfrom_into": lambda: (bytearray(100),),
}
OTHERS = {
    "sock_sendall": lambda: (b"data",),
    "sock_sendto": lambda: (b"data", ("127.0.0.1", 9)),
    "sock_connect": lambda: (("127.0.0.1", 9),),
    "sock_accept": lambda: (),
}
ALL = {**RECEIVING, **OTHERS}


def has(loop, method):
    """Whether this Python's asyncio has the method (datagrams came with 3.11)."""
    if PYTHON < (3, 11) and ("from" in method or "sendto" in method):
        pytest.skip("new in 3.11")
    return getattr(loop, method)


@pytest.fixture
def pair():
    """Two connected sockets that do not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def datagrams():
    """Two UDP sockets that do not block, each with a port."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for sock in (one, other):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        yield one, other


def fill(sock):
    """Send until the kernel takes no more; returns how much it took."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sock.send(bytes(65536))
    return size


def drain(sock):
    """Receive all that is there."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := sock.recv(1 << 20):
            data += piece
    return data


def unwatched(loop, *socks):
    """Whether nobody watches any of the sockets."""
    return not any(
        remove(sock) for sock in socks for remove in (loop.remove_reader, loop.remove_writer)
    )


async def started(loop, coroutine):
    """A task of the coroutine that has come to its first wait."""
    task = loop.create_task(coroutine)
    await hops(2)
    assert not task.done()
    return task


class TestArguments:
    @pytest.mark.parametrize("method", ALL)
    async def test_blocking_sockets_in_debug_mode(self, loop, method):
        operation = has(loop, method)
        loop.set_debug(True)
        for timeout in (None, 3):
            with socket.socket() as sock:
                sock.settimeout(timeout)
                with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
                    await operation(sock, *ALL[method]())

    @pytest.mark.parametrize("debug", [False, True])
    @pytest.mark.parametrize("method", ALL)
    async def test_tls_sockets(self, loop, method, debug):
        operation = has(loop, method)
        loop.set_debug(debug)
        context = ssl.create_default_context()
        context.check_hostname = False
        with context.wrap_socket(socket.socket(), do_handshake_on_connect=False) as sock:
            sock.setblocking(False)
            with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                await operation(sock, *ALL[method]())

    @pytest.mark.parametrize("method", ALL)
    async def test_closed_sockets(self, loop, method):
        operation = has(loop, method)
        sock = socket.socket()
        sock.setblocking(False)
        sock.close()
        with pytest.raises(OSError) as caught:
            await operation(sock, *ALL[method]())
        assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("method", ALL)
    async def test_no_sockets(self, loop, method):
        operation = has(loop, method)
        for wrong in (None, 5):
            with pytest.raises(AttributeError):
                await operation(wrong, *ALL[method]())

    async def test_wrong_buffers(self, loop, pair):
        with pytest.raises(ValueError, match="negative buffersize in recv"):
            await loop.sock_recv(pair[0], -1)
        for wrong in ("text", None):
            with pytest.raises(TypeError):
                await loop.sock_recv(pair[0], wrong)
            with pytest.raises(TypeError):
                await loop.sock_recv_into(pair[0], wrong)
            with pytest.raises(TypeError):
                await loop.sock_sendall(pair[0], wrong)
        with pytest.raises(TypeError):
            await loop.sock_recv_into(pair[0], b"read-only")
        with pytest.raises(BufferError):
            await loop.sock_sendall(pair[0], memoryview(b"strided")[::2])
        assert unwatched(loop, *pair)

    @pytest.mark.parametrize("method", RECEIVING)
    async def test_a_transport_s_socket(self, loop, pair, method):
        """Refused where the call would have to wait."""
        operation = has(loop, method)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=pair[0])
        with pytest.raises(RuntimeError, match=r"^File descriptor \d+ is used by transport <"):
            await operation(pair[0], *RECEIVING[method]())
        await loop.sock_sendall(pair[0], b"data")
        assert drain(pair[1]) == b"data"
        fill(pair[0])
        with pytest.raises(RuntimeError, match=r"^File descriptor \d+ is used by transport <"):
            await loop.sock_sendall(pair[0], b"data")
        transport.abort()
        await hops(2)


class TestReceiving:
    async def test_socket_replaced_in_its_module(self, loop, loop_spec):
        # In a process of its own, as whoever uses sockets first may remember the class.
        code = f"""
import asyncio, importlib, socket

async def main():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    socket.socket = lambda *arguments, **options: None
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ours, b"ping")
    assert theirs.recv(4) == b"ping"
    theirs.send(b"pong")
    print(await loop.sock_recv(ours, 4))

module, _, name = {loop_spec!r}.partition(":")
loop = getattr(importlib.import_module(module), name)()
loop.run_until_complete(main())
loop.close()
"""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await child.communicate()
        assert output == b"b'pong'\n"
        assert child.returncode == 0

    @pytest.mark.parametrize("waits", [False, True])
    async def test_sock_recv(self, loop, pair, waits):
        if waits:
            task = await started(loop, loop.sock_recv(pair[0], 100))
            pair[1].send(b"data")
            assert await task == b"data"
        else:
            pair[1].send(b"data")
            assert await loop.sock_recv(pair[0], 2) == b"da"
            assert await loop.sock_recv(pair[0], 100) == b"ta"
        assert unwatched(loop, *pair)

    @pytest.mark.parametrize("waits", [False, True])
    @pytest.mark.parametrize(
        "buffer",
        [bytearray(8), memoryview(bytearray(8)), array.array("i", [0, 0])],
        ids=["bytearray", "memoryview", "array"],
    )
    async def test_sock_recv_into(self, loop, pair, buffer, waits):
        data = b"\1\0\0\0\2\0\0\0"
        if waits:
            task = await started(loop, loop.sock_recv_into(pair[0], buffer))
            pair[1].send(data)
        else:
            pair[1].send(data)
            task = loop.sock_recv_into(pair[0], buffer)
        assert await task == 8
        assert bytes(buffer) == data
        assert unwatched(loop, *pair)

    async def test_into_a_part(self, loop, pair):
        buffer = bytearray(b"........")
        pair[1].send(b"data and more")
        assert await loop.sock_recv_into(pair[0], memoryview(buffer)[2:6]) == 4
        assert buffer == b"..data.."

    @pytest.mark.parametrize("waits", [False, True])
    async def test_sock_recvfrom(self, loop, datagrams, waits):
        operation = has(loop, "sock_recvfrom")
        one, other = datagrams
        task = await started(loop, operation(one, 100)) if waits else None
        other.sendto(b"datagram", one.getsockname())
        assert await (task or operation(one, 100)) == (b"datagram", other.getsockname())
        assert unwatched(loop, one)

    @pytest.mark.parametrize("waits", [False, True])
    async def test_sock_recvfrom_into(self, loop, datagrams, waits):
        operation = has(loop, "sock_recvfrom_into")
        one, other = datagrams
        buffer = bytearray(100)
        task = await started(loop, operation(one, buffer)) if waits else None
        other.sendto(b"datagram", one.getsockname())
        assert await (task or operation(one, buffer)) == (8, other.getsockname())
        assert buffer[:8] == b"datagram"
        other.sendto(b"datagram", one.getsockname())
        assert await operation(one, buffer, 4) == (4, other.getsockname())
        with pytest.raises(ValueError, match="nbytes is greater than the length of the buffer"):
            await operation(one, buffer, 1000)

    @pytest.mark.parametrize("waits", [False, True])
    async def test_the_end_of_the_stream(self, loop, pair, waits):
        task = await started(loop, loop.sock_recv(pair[0], 100)) if waits else None
        pair[1].close()
        assert await (task or loop.sock_recv(pair[0], 100)) == b""
        assert await loop.sock_recv_into(pair[0], bytearray(10)) == 0

    async def test_shut_down_by_its_owner(self, loop, pair):
        task = await started(loop, loop.sock_recv(pair[0], 100))
        pair[0].shutdown(socket.SHUT_RD)
        assert await task == b""

    async def test_a_reset(self, loop, network):
        with listen() as listener:
            sock = socket.socket()
            sock.setblocking(False)
            with sock:
                await loop.sock_connect(sock, listener.getsockname())
                peer = network.peer(listener.accept()[0])
                task = await started(loop, loop.sock_recv(sock, 100))
                peer.reset()
                with pytest.raises(ConnectionResetError):
                    await task
                assert unwatched(loop, sock)

    async def test_nothing_at_all(self, loop, pair):
        assert await loop.sock_recv(pair[0], 0) == b""
        assert await loop.sock_recv_into(pair[0], bytearray()) == 0
        assert unwatched(loop, *pair)

    @pytest.mark.parametrize("method", RECEIVING)
    async def test_cancelled(self, loop, pair, method):
        """No watcher is left, and what comes later is there for the next."""
        task = await started(loop, has(loop, method)(pair[0], *RECEIVING[method]()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hops()
        assert unwatched(loop, *pair)
        pair[1].send(b"data")
        assert await loop.sock_recv(pair[0], 100) == b"data"

    async def test_timed_out(self, loop, pair):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(pair[0], 100), 0.001)
        await hops()
        assert unwatched(loop, *pair)

    @pytest.mark.parametrize("turns_between", range(4))
    async def test_cancelled_as_the_data_comes(self, loop, loop_spec, pair, turns_between):
        """Whenever it is cancelled: the data was received, or is still to be received."""
        skip_stock_bug(loop_spec, turns_between == 2, "data that the cancelled task read is lost")
        task = await started(loop, loop.sock_recv(pair[0], 100))
        pair[1].send(b"data")
        await hops(turns_between)
        task.cancel()
        try:
            assert await task == b"data"
        except asyncio.CancelledError:
            assert await loop.sock_recv(pair[0], 100) == b"data"
        await hops()
        assert unwatched(loop, *pair)


class TestSending:
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_small(self, loop, pair, kind):
        assert await loop.sock_sendall(pair[0], kind(b"data")) is None
        assert drain(pair[1]) == b"data"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_large(self, loop, pair, kind):
        data = random.Random(1).randbytes(3_000_000)
        task = await started(loop, loop.sock_sendall(pair[0], kind(data)))
        received = bytearray()
        while len(received) < len(data):
            received += await loop.sock_recv(pair[1], 1 << 20)
        await task
        assert received == data
        assert unwatched(loop, *pair)

    @pytest.mark.parametrize("size", [3, 1_000_000])
    async def test_items_of_several_bytes(self, loop, loop_spec, pair, size):
        skip_stock_bug(loop_spec, True, "counts items where bytes were sent")
        data = array.array("i", range(size))
        sending = loop.create_task(loop.sock_sendall(pair[0], data))
        received = bytearray()
        while len(received) < len(data) * data.itemsize:
            received += await loop.sock_recv(pair[1], 1 << 20)
        await sending
        assert received == data.tobytes()

    async def test_nothing_at_all(self, loop, pair):
        await loop.sock_sendall(pair[0], b"")
        fill(pair[0])
        await asyncio.wait_for(loop.sock_sendall(pair[0], b""), 10)
        assert unwatched(loop, *pair)

    async def test_the_buffer_is_let_go(self, loop, pair):
        data = bytearray(b"data")
        await loop.sock_sendall(pair[0], data)
        data += b"more"  # BufferError while somebody holds it
        size = fill(pair[0])
        task = await started(loop, loop.sock_sendall(pair[0], data))
        assert len(drain(pair[1])) == size + 4
        await task
        del task
        await hops()
        data += b"more"

    async def test_a_peer_that_goes(self, loop, pair):
        task = await started(loop, loop.sock_sendall(pair[0], bytes(3_000_000)))
        pair[1].close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task
        await hops()
        assert unwatched(loop, pair[0])
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await loop.sock_sendall(pair[0], b"data")

    async def test_cancelled(self, loop, pair):
        task = await started(loop, loop.sock_sendall(pair[0], bytes(3_000_000)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hops()
        assert unwatched(loop, *pair)
        drain(pair[1])
        await loop.sock_sendall(pair[0], b"data")
        assert drain(pair[1]) == b"data"

    async def test_while_somebody_receives(self, loop, pair):
        receiving = await started(loop, loop.sock_recv(pair[0], 100))
        sending = await started(loop, loop.sock_sendall(pair[0], bytes(3_000_000)))
        pair[1].send(b"data")
        assert await receiving == b"data"
        received = 0
        while received < 3_000_000:
            received += len(await loop.sock_recv(pair[1], 1 << 20))
        await sending
        assert unwatched(loop, *pair)

    async def test_sock_sendto(self, loop, datagrams):
        operation = has(loop, "sock_sendto")
        one, other = datagrams
        assert await operation(one, b"datagram", other.getsockname()) == 8
        assert other.recvfrom(100) == (b"datagram", one.getsockname())
        assert await operation(one, b"", other.getsockname()) == 0
        assert other.recvfrom(100) == (b"", one.getsockname())
        with pytest.raises(TypeError):
            await operation(one, b"datagram", None)
        with pytest.raises(OSError) as caught:
            await operation(one, bytes(1 << 20), other.getsockname())
        assert caught.value.errno == errno.EMSGSIZE

    async def test_sock_sendto_waits(self, loop):
        """A datagram socket whose peer does not read takes no more after a while."""
        operation = has(loop, "sock_sendto")
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            one.setblocking(False)
            count = 0
            with pytest.raises(BlockingIOError):
                while True:
                    one.send(bytes(1000))
                    count += 1
            name = f"\0oxloop-{os.getpid()}-{type(loop).__module__}"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as named:
                named.bind(name)
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        while True:
                            sender.sendto(bytes(1000), name)
                    task = await started(loop, operation(sender, b"last", name))
                    while not task.done():
                        named.recv(1000)
                        await hops()
                    assert await task == 4


class TestConnecting:
    async def test_connects(self, loop):
        with listen() as listener, socket.socket() as sock:
            sock.setblocking(False)
            assert await loop.sock_connect(sock, listener.getsockname()) is None
            assert sock.getpeername() == listener.getsockname()
            assert unwatched(loop, sock)

    async def test_a_name(self, loop):
        with listen() as listener, socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))
            assert sock.getpeername() == listener.getsockname()

    async def test_unix(self, loop, tmp_path):
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await loop.sock_connect(sock, path)
            listener.bind(path)
            listener.listen()
            await loop.sock_connect(sock, path)
            assert sock.getpeername() == path

    async def test_refused(self, loop):
        with socket.socket() as taken, socket.socket() as sock:
            taken.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            address = taken.getsockname()
            with pytest.raises(ConnectionRefusedError) as caught:
                await loop.sock_connect(sock, address)
            assert str(caught.value) == f"[Errno 111] Connect call failed {address}"
            assert unwatched(loop, sock)

    @pytest.mark.parametrize(
        ("address", "error"),
        [
            (None, TypeError),
            (("127.0.0.1",), ValueError),
            (("127.0.0.1", -1), OverflowError),
            (("127.0.0.1", 1 << 20), OverflowError),
            (("127.0.0.1", "no such service"), socket.gaierror),
            (("::1", 80), socket.gaierror),
        ],
    )
    async def test_wrong_addresses(self, loop, address, error):
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(error):
                await loop.sock_connect(sock, address)
            assert unwatched(loop, sock)

    async def test_cancelled(self, loop):
        with silent_address() as address, socket.socket() as sock:
            sock.setblocking(False)
            task = await started(loop, loop.sock_connect(sock, address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await hops()
            assert unwatched(loop, sock)

    async def test_closed_by_its_owner(self, loop):
        """The socket may be closed while somebody waits for it: cancelling still works."""
        with silent_address() as address:
            sock = socket.socket()
            sock.setblocking(False)
            task = await started(loop, loop.sock_connect(sock, address))
            sock.close()
            await hops(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await hops()


@contextlib.contextmanager
def silent_address():
    """The address of a listener that takes no more connections, and says nothing."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


class TestAccepting:
    @pytest.mark.parametrize("waits", [False, True])
    async def test_accepts(self, loop, waits):
        with listen() as listener, socket.socket() as client:
            listener.setblocking(False)
            task = await started(loop, loop.sock_accept(listener)) if waits else None
            client.connect(listener.getsockname())
            connection, address = await (task or loop.sock_accept(listener))
            with connection:
                assert address == client.getsockname()
                assert connection.gettimeout() == 0
                assert connection.getsockname() == listener.getsockname()
                assert unwatched(loop, listener)

    async def test_several_waiting(self, loop):
        """One after the other, each gets its own."""
        with listen() as listener:
            listener.setblocking(False)
            clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
            accepted = [await loop.sock_accept(listener) for _ in range(5)]
            assert [address for _, address in accepted] == [c.getsockname() for c in clients]
            for sock in (*clients, *(connection for connection, _ in accepted)):
                sock.close()

    async def test_not_listening(self, loop, pair):
        with pytest.raises(OSError) as caught:
            await loop.sock_accept(pair[0])
        assert caught.value.errno == errno.EINVAL
        assert unwatched(loop, *pair)

    async def test_cancelled(self, loop):
        with listen() as listener:
            listener.setblocking(False)
            task = await started(loop, loop.sock_accept(listener))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await hops()
            assert unwatched(loop, listener)
            # Who comes later is accepted by the next.
            with socket.create_connection(listener.getsockname()) as client:
                connection, address = await loop.sock_accept(listener)
                connection.close()
                assert address == client.getsockname()


class TestRaces:
    async def test_the_later_reader_replaces_the_earlier(self, loop, pair):
        """As with add_reader: a socket is for one user at a time."""
        first = await started(loop, loop.sock_recv(pair[0], 100))
        second = await started(loop, loop.sock_recv(pair[0], 100))
        pair[1].send(b"data")
        assert await second == b"data"
        await hops(3)
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_cancelling_the_earlier_spares_the_later(self, loop, pair):
        first = await started(loop, loop.sock_recv(pair[0], 100))
        second = await started(loop, loop.sock_recv(pair[0], 100))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await hops(2)
        pair[1].send(b"data")
        assert await second == b"data"
        assert unwatched(loop, *pair)

    async def test_cancelling_the_later_leaves_nobody(self, loop, pair):
        first = await started(loop, loop.sock_recv(pair[0], 100))
        second = await started(loop, loop.sock_recv(pair[0], 100))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await hops()
        assert unwatched(loop, *pair)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_add_reader_replaces_an_operation(self, loop, pair):
        waiting = await started(loop, loop.sock_recv(pair[0], 100))
        calls = []
        loop.add_reader(pair[0], calls.append, 1)
        pair[1].send(b"data")
        await hops(2)
        assert calls
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await hops()
        # The operation that was cancelled takes nothing away from the program's reader.
        assert loop.remove_reader(pair[0]) is True

    async def test_many_pairs_at_once(self, loop):
        """A hundred conversations, each with its own data."""

        async def echo(sock):
            while data := await loop.sock_recv(sock, 1000):
                await loop.sock_sendall(sock, data)

        async def talk(sock, number):
            for step in range(20):
                message = b"%d %d" % (number, step)
                await loop.sock_sendall(sock, message)
                assert await loop.sock_recv(sock, 1000) == message
            sock.shutdown(socket.SHUT_WR)

        pairs = [socket.socketpair() for _ in range(100)]
        for near, far in pairs:
            near.setblocking(False)
            far.setblocking(False)
        tasks = [echo(near) for near, _ in pairs]
        tasks += [talk(far, number) for number, (_, far) in enumerate(pairs)]
        await asyncio.gather(*tasks)
        for near, far in pairs:
            near.close()
            far.close()

    async def test_cancelled_at_random(self, loop, loop_spec, pair):
        """However often receivers are cancelled, the stream arrives whole and in order."""
        skip_stock_bug(loop_spec, True, "data that the cancelled task read is lost")
        chance = random.Random(7)
        data = chance.randbytes(200_000)
        sending = loop.create_task(loop.sock_sendall(pair[1], data))
        received = bytearray()
        while len(received) < len(data):
            task = loop.create_task(loop.sock_recv(pair[0], 1000))
            await hops(chance.randrange(4))
            if chance.random() < 0.5:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                received += await task
        await sending
        assert received == data
        assert unwatched(loop, *pair)
