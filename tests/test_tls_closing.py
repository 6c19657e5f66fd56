"""The end of a TLS connection: close_notify, close and abort, ends without notice, time-outs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
import weakref

import pytest

from .certificates import client_context, server_context
from .support import PYTHON, Recorder, fill, hops, until
from .test_tls_handshake import VERSIONS, gone
from .tls import TlsPeer

NORMAL = ["eof_received", "connection_lost"]
"""The peer's answer to a close_notify is the end of its stream."""


class TestClose:
    async def test_is_told_and_answered(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.close()
        assert transport.is_closing()
        assert await peer.read_all() == b""  # close_notify
        await peer.unwrap()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == NORMAL
        assert await peer.wire.read_all() == b""

    async def test_sends_what_was_written(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        data = bytes(range(256)) * 8000
        transport.write(data)
        transport.close()
        assert await peer.read_all() == data
        await peer.unwrap()
        assert await protocol.lost() is None

    async def test_a_peer_that_closes_instead_of_answering(self, tls_opened):
        """No close_notify from the peer: no error either."""
        transport, protocol, peer = await tls_opened()
        transport.close()
        assert await peer.read_all() == b""
        peer.wire.close()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == NORMAL

    async def test_a_peer_that_resets_instead(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.close()
        assert await peer.read_all() == b""
        peer.wire.reset()
        assert isinstance(await protocol.lost(), ConnectionResetError)
        assert protocol.calls[1:] == ["connection_lost"]

    async def test_both_at_once(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        peer.close_notify()
        transport.close()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == NORMAL
        assert await peer.wire.read_all() != b""  # our close_notify

    async def test_twice(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.close()
        transport.close()
        await peer.unwrap()
        assert await protocol.lost() is None
        transport.close()
        await hops(3)
        assert protocol.calls.count("connection_lost") == 1

    async def test_a_peer_that_goes_on_sending(self, tls_opened, error_contexts):
        """It is not waited for: data behind our close_notify ends the connection."""
        transport, protocol, peer = await tls_opened()
        transport.close()
        assert await peer.read_all() == b""
        peer.send(b"and another thing")
        error = await protocol.lost()
        assert isinstance(error, ssl.SSLError)
        assert error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
        assert "data_received" not in protocol.calls
        assert error_contexts == []
        await gone(peer.wire)

    async def test_a_peer_that_never_stops(self, tls_opened):
        """close() while megabytes are on the way, none of which is read."""
        transport, protocol, peer = await tls_opened()

        def send():
            with contextlib.suppress(OSError, ssl.SSLError):
                while True:
                    peer.send(bytes(100_000))

        sending = asyncio.get_running_loop().run_in_executor(None, send)
        await protocol.called("data_received")
        transport.close()
        assert transport.is_closing()
        error = await protocol.lost()
        assert error is None or isinstance(error, (ssl.SSLError, ConnectionError))
        await sending

    async def test_with_reading_paused(self, tls_opened):
        """The peer's answer is seen all the same."""
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        transport.close()
        await peer.unwrap()
        assert await protocol.lost() is None

    async def test_inside_data_received(self, tls_opened):
        class Closing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(b"answer")
                self.transport.close()

        _, protocol, peer = await tls_opened(Closing())
        peer.send(b"request")
        assert await peer.read_all() == b"answer"
        await peer.unwrap()
        assert await protocol.lost() is None
        assert protocol.data == b"request"

    async def test_inside_connection_made(self, tls):
        class Closing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"goodbye")
                transport.close()

        for opened in tls.connect, tls.accept:
            transport, protocol, peer = await opened(Closing())
            assert await peer.read_all() == b"goodbye"
            await peer.unwrap()
            assert await protocol.lost() is None
            assert protocol.calls == ["connection_made", *NORMAL]
            assert transport.is_closing()

    async def test_inside_eof_received(self, tls_opened):
        class Closing(Recorder):
            def eof_received(self):
                super().eof_received()
                self.transport.close()

        _, protocol, peer = await tls_opened(Closing())
        peer.close_notify()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == NORMAL

    async def test_writes_after_it(self, tls_opened, caplog):
        """Lost, and told of from the fifth one on."""
        transport, protocol, peer = await tls_opened()
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(10):
                transport.write(b"lost")
                transport.writelines([b"lost"])
        texts = [record.getMessage() for record in caplog.records]
        assert texts and set(texts) <= {
            "SSL connection is closed",
            "socket.send() raised exception.",
        }
        assert await peer.read_all() == b""
        await peer.unwrap()
        assert await protocol.lost() is None


@pytest.mark.skipif(PYTHON < (3, 11), reason="ssl_shutdown_timeout is new in 3.11")
class TestTimeOut:
    async def test_a_peer_that_does_not_answer(self, tls_opened):
        transport, protocol, peer = await tls_opened(ssl_shutdown_timeout=0.05)
        transport.close()
        error = await protocol.lost()
        assert type(error) is TimeoutError
        assert str(error) == "SSL shutdown timed out"
        assert protocol.calls[1:] == ["connection_lost"]
        await gone(peer.wire)

    async def test_a_peer_that_does_not_read(self, tls):
        transport, protocol, _ = await tls.connect(ssl_shutdown_timeout=0.05)
        transport.write(bytes(8_000_000))
        transport.close()
        error = await protocol.lost()
        assert type(error) is TimeoutError
        assert str(error) == "SSL shutdown timed out"

    async def test_is_not_reached(self, tls_opened):
        """The timer goes with the connection."""
        transport, protocol, peer = await tls_opened(ssl_shutdown_timeout=0.1)
        transport.close()
        await peer.unwrap()
        assert await protocol.lost() is None
        await asyncio.sleep(0.15)
        assert protocol.calls[1:] == NORMAL


class TestEndOfThePeer:
    async def test_close_notify(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        peer.send(b"last words")
        peer.close_notify()
        assert await protocol.lost() is None
        assert protocol.story[1:] == ["data_received", *NORMAL]
        assert protocol.data == b"last words"
        assert transport.is_closing()
        assert await peer.wire.read_all() != b""  # it is answered

    async def test_answered_by_data(self, tls_opened):
        """What eof_received writes behind a close_notify is sent."""

        class Answering(Recorder):
            def eof_received(self):
                super().eof_received()
                self.transport.write(b"goodbye")

        _, protocol, peer = await tls_opened(Answering())
        peer.close_notify()
        assert await protocol.lost() is None
        assert await peer.read_all() == b"goodbye"

    async def test_without_notice(self, tls_opened):
        """Told as an ordinary end."""
        _, protocol, peer = await tls_opened()
        peer.send(b"last words")
        peer.wire.shutdown()
        assert await protocol.lost() is None
        assert protocol.story[1:] == ["data_received", *NORMAL]

    async def test_in_the_midst_of_a_record(self, tls_opened):
        _, protocol, peer = await tls_opened()
        peer.wire.send(peer.encrypt(b"cut off")[:-3])
        peer.wire.shutdown()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == NORMAL

    async def test_asking_to_keep_it_open(self, tls_opened, caplog):
        """TLS connections have no end of one side."""
        _, protocol, peer = await tls_opened(Recorder(keep_open=True))
        with caplog.at_level(logging.WARNING, "asyncio"):
            peer.close_notify()
            assert await protocol.lost() is None
        [record] = caplog.records
        text = "returning true from eof_received() has no effect when using ssl"
        assert record.getMessage() == text
        assert protocol.calls[1:] == NORMAL

    async def test_a_reset(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        peer.wire.reset()
        assert isinstance(await protocol.lost(), ConnectionResetError)
        assert protocol.calls[1:] == ["connection_lost"]
        assert transport.is_closing()

    async def test_a_reset_behind_data(self, tls_opened):
        """What came in before it may be heard or not; the error comes once."""
        transport, protocol, peer = await tls_opened()
        peer.send(b"last words")
        await protocol.received(10)
        peer.wire.reset()
        assert isinstance(await protocol.lost(), ConnectionResetError)
        transport.write(b"lost")
        await hops(3)
        assert protocol.calls[1:] == ["data_received", "connection_lost"]

    async def test_garbage(self, tls_opened, error_contexts):
        """A record that does not decrypt is the end, and not the handler's business."""
        _, protocol, peer = await tls_opened()
        record = bytearray(peer.encrypt(b"data"))
        record[-1] ^= 1
        peer.wire.send(record)
        error = await protocol.lost()
        assert isinstance(error, ssl.SSLError)
        # Newer releases of OpenSSL have another name for it.
        assert error.reason in {"DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE"}
        assert "data_received" not in protocol.calls
        assert error_contexts == []

    async def test_plain_text(self, tls_opened):
        _, protocol, peer = await tls_opened()
        peer.wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(await protocol.lost(), ssl.SSLError)
        assert "data_received" not in protocol.calls

    async def test_while_paused(self, tls_opened):
        """Seen when reading goes on, behind the data."""
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        peer.send(b"last words")
        peer.close_notify()
        await hops(5)
        assert protocol.calls[1:] == []
        transport.resume_reading()
        assert await protocol.lost() is None
        assert protocol.story[1:] == ["data_received", *NORMAL]

    async def test_without_notice_while_paused(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        peer.send(b"last words")
        peer.wire.shutdown()
        await hops(10)
        assert protocol.calls[1:] == []
        transport.resume_reading()
        assert await protocol.lost() is None
        assert protocol.story[1:] == ["data_received", *NORMAL]


class TestAbort:
    async def test_at_once(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.abort()
        assert transport.is_closing()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == ["connection_lost"]
        await gone(peer.wire)

    async def test_with_a_buffer(self, tls):
        transport, protocol, _ = await tls.connect(receive_buffer=4096)
        transport.write(bytes(8_000_000))
        transport.abort()
        assert await protocol.lost() is None
        assert transport.get_write_buffer_size() == 0

    async def test_after_close(self, tls_opened):
        """A close that waits for its answer is cut short."""
        transport, protocol, peer = await tls_opened()
        transport.close()
        transport.abort()
        assert await protocol.lost() is None
        assert protocol.calls[1:] == ["connection_lost"]
        await gone(peer.wire)

    async def test_twice(self, tls_opened):
        transport, protocol, _ = await tls_opened()
        transport.abort()
        transport.abort()
        assert await protocol.lost() is None
        transport.abort()
        await hops(3)
        assert protocol.calls[1:] == ["connection_lost"]

    @pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received"])
    async def test_inside_a_callback(self, tls, callback):
        class Aborting(Recorder):
            def record(self, call):
                super().record(call)
                if call == callback:
                    self.transport.abort()

        protocol = Aborting()
        task, _, wire = await tls.start_connect(protocol)
        peer = TlsPeer(wire.sock, server_context())
        with contextlib.suppress(OSError):  # TLS 1.3: the client has its handshake first
            await peer.handshake()
            if callback == "data_received":
                peer.send(b"data")
            elif callback == "eof_received":
                peer.close_notify()
        with contextlib.suppress(ConnectionError):
            await task
        assert await protocol.lost() is None
        await hops(5)
        assert protocol.calls[-2:] == [callback, "connection_lost"]

    @pytest.mark.parametrize("how", ["abort", "close_abort", "close"])
    async def test_leaves_nothing(self, loop, tls, how):
        """No timer of an hour keeps the connection."""
        options = {"ssl_shutdown_timeout": 3600} if PYTHON >= (3, 11) else {}
        before = asyncio.all_tasks()
        context = client_context()
        transport, protocol, peer = await tls.connect(None, context, **options)
        if "close" in how:
            transport.close()
        if "abort" in how:
            transport.abort()
        else:
            await peer.unwrap()
        await protocol.lost()
        tls.network.forget(transport)
        references = [weakref.ref(each) for each in (protocol, context)]
        del protocol, transport, context
        await hops(5)
        gc.collect()
        assert [each() for each in references] == [None, None]
        assert asyncio.all_tasks() <= before


class TestAfterwards:
    async def test_questions(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        peer.close_notify()
        await protocol.lost()
        await hops(3)
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert transport.can_write_eof() is False
        assert transport.get_extra_info("sslcontext") is not None
        assert transport.get_extra_info("cipher") is not None
        transport.write(b"lost")
        transport.pause_reading()
        transport.resume_reading()
        await hops(3)
        assert protocol.calls[1:] == NORMAL

    async def test_full_buffers(self, tls):
        """A reset while much waits to be sent."""
        transport, protocol, peer = await tls.connect(receive_buffer=4096)
        await fill(transport)
        peer.wire.reset()
        assert isinstance(await protocol.lost(), (ConnectionResetError, BrokenPipeError))
        assert protocol.calls[-1] == "connection_lost"


class TestCallbacksThatRaise:
    """Each is reported once, and connection_lost is called once (but for flow control's)."""

    async def run(self, tls_opened, callback, error, act):
        class Failing(Recorder):
            def record(self, call):
                super().record(call)
                if call == callback:
                    raise error

        _, protocol, peer = await tls_opened(Failing())
        act(peer)
        await protocol.lost()
        return protocol

    async def test_data_received(self, tls_opened, error_contexts):
        error = LookupError("not taken")
        protocol = await self.run(
            tls_opened, "data_received", error, lambda peer: peer.send(b"data")
        )
        assert protocol.error is error
        context = error_contexts.pop()
        assert context["message"] == "Fatal error on SSL protocol"
        assert context["exception"] is error
        assert protocol.calls[1:] == ["data_received", "connection_lost"]

    async def test_data_received_with_an_os_error(self, tls_opened, error_contexts):
        """Taken for one of the connection's: told to the protocol alone."""
        error = OSError(5, "not taken")
        protocol = await self.run(
            tls_opened, "data_received", error, lambda peer: peer.send(b"data")
        )
        assert protocol.error is error
        assert error_contexts == []

    async def test_eof_received(self, tls_opened, error_contexts):
        error = LookupError("not taken")
        protocol = await self.run(
            tls_opened, "eof_received", error, lambda peer: peer.close_notify()
        )
        assert protocol.error is error
        context = error_contexts.pop()
        assert context["message"] == "Error calling eof_received()"
        assert context["exception"] is error
        assert protocol.calls[1:] == NORMAL

    async def test_connection_lost(self, tls_opened, error_contexts):
        error = LookupError("not lost")
        await self.run(tls_opened, "connection_lost", error, lambda peer: peer.close_notify())
        await hops(3)
        context = error_contexts.pop()
        assert context["exception"] is error
        assert context["message"].startswith("Exception in callback ")

    @pytest.mark.parametrize("call", ["pause_writing", "resume_writing"])
    async def test_flow_control(self, tls, error_contexts, call):
        """Reported, and the connection goes on."""

        class Failing(Recorder):
            def record(self, name):
                super().record(name)
                if name == call:
                    raise LookupError("not now")

        transport, protocol, peer = await tls.connect(Failing(), receive_buffer=4096)
        for _ in range(40):
            transport.write(bytes(100_000))
        await peer.read(4_000_000)
        await until(lambda: call in protocol.calls)
        context = error_contexts.pop()
        assert context["message"] == f"protocol.{call}() failed"
        assert isinstance(context["exception"], LookupError)
        assert not transport.is_closing()
        transport.write(b"fine")
        assert await peer.read(4) == b"fine"

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("callback", ["data_received", "eof_received"])
    def test_interrupts(self, loop, tls, callback, interrupt):
        """They leave run_forever."""

        class Stopping(Recorder):
            def record(self, call):
                super().record(call)
                if call == callback:
                    raise interrupt("stop")

        protocol = Stopping()
        _, _, peer = loop.run_until_complete(tls.connect(protocol))
        if callback == "data_received":
            peer.send(b"data")
        else:
            peer.close_notify()
        with pytest.raises(interrupt, match="stop"):
            loop.run_until_complete(asyncio.sleep(30))
        protocol.transport.abort()
        loop.run_until_complete(protocol.lost())
        assert protocol.calls.count("connection_lost") == 1


class TestVersions:
    @VERSIONS
    async def test_close_at_once(self, tls, version):
        """Before anything has been sent but the handshake, tickets of TLS 1.3 on the way."""
        for opened, ours in ((tls.connect, client_context), (tls.accept, server_context)):
            transport, protocol, peer = await opened(None, ours(version=version))
            transport.close()
            assert await peer.read_all() == b""
            await peer.unwrap()
            assert await protocol.lost() is None
