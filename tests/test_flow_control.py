"""Write flow control (transports page: set_write_buffer_limits, pause_writing, resume_writing)."""

from __future__ import annotations

import pytest

from .support import PYTHON, Recorder, fill, hops, skip_stock_bug

SMALL = 4096
"""Bytes of the peer's receive buffer: small, so that the transport's own buffer fills soon."""


class Sizes(Recorder):
    """Also notes how much the transport held at each pause and resume."""

    def __init__(self):
        super().__init__()
        self.paused_at = []
        self.resumed_at = []

    def pause_writing(self):
        self.paused_at.append(self.transport.get_write_buffer_size())
        super().pause_writing()

    def resume_writing(self):
        self.resumed_at.append(self.transport.get_write_buffer_size())
        super().resume_writing()


@pytest.fixture(params=["connected", "accepted"])
def full(request, network):
    """Coroutine function: transport that holds `held` bytes the kernel does not take, unpaused."""

    async def open_and_fill():
        opened = network.connect if request.param == "connected" else network.accept
        transport, protocol, peer = await opened(Sizes(), receive_buffer=SMALL)
        held = await fill(transport)
        assert protocol.calls == ["connection_made"]
        return transport, protocol, peer, held

    return open_and_fill


class TestLimits:
    @pytest.mark.parametrize(
        ("options", "limits"),
        [
            ({}, (16 * 1024, 64 * 1024)),
            ({"high": 100}, (25, 100)),
            ({"high": 3}, (0, 3)),
            ({"low": 100}, (100, 400)),
            ({"high": 100, "low": 100}, (100, 100)),
            ({"high": 100, "low": 0}, (0, 100)),
            ({"high": 0}, (0, 0)),
            ({"high": 0, "low": 0}, (0, 0)),
            ({"low": 0}, (0, 0)),
            ({"high": 1 << 40}, (1 << 38, 1 << 40)),
            ({"high": None, "low": None}, (16 * 1024, 64 * 1024)),
        ],
        ids=repr,
    )
    async def test_valid(self, network, options, limits):
        transport, _, _ = await network.connect()
        transport.set_write_buffer_limits(high=1, low=1)
        transport.set_write_buffer_limits(**options)
        assert transport.get_write_buffer_limits() == limits

    @pytest.mark.parametrize(
        ("options", "held", "paused"),
        [
            ({"high": 1000.5}, 1000, False),
            ({"high": 1000.5}, 1001, True),
            ({"high": 1e3, "low": 0.5}, 1001, True),
            ({"high": float("inf"), "low": 0}, 1 << 20, False),
            ({"high": 10**40}, 1 << 20, False),
            ({"low": 10**40}, 1 << 20, False),
        ],
        ids=repr,
    )
    async def test_any_numbers(self, full, options, held, paused):
        transport, protocol, _, before = await full()
        added = {name: value + before for name, value in options.items()}
        transport.set_write_buffer_limits(**added)
        transport.write(bytes(held))
        assert protocol.calls == ["connection_made"] + ["pause_writing"] * paused

    @pytest.mark.parametrize(
        "options",
        [
            {"high": -1},
            {"low": -1},
            {"high": 1, "low": 2},
            {"high": 0, "low": 1},
            {"high": -(10**40)},
            {"high": 0.5, "low": 1},
            {"high": float("nan")},
            {"high": float("inf")},  # a quarter of it is no number
        ],
        ids=repr,
    )
    async def test_invalid(self, network, options):
        transport, _, _ = await network.connect()
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(**options)
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)

    @pytest.mark.parametrize("options", [{"high": "1"}, {"low": b"1"}], ids=repr)
    async def test_not_numbers(self, network, options):
        transport, _, _ = await network.connect()
        with pytest.raises(TypeError):
            transport.set_write_buffer_limits(**options)

    async def test_default(self, network):
        transport, _, _ = await network.connect()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)

    async def test_by_position(self, network):
        transport, _, _ = await network.connect()
        transport.set_write_buffer_limits(100, 50)
        assert transport.get_write_buffer_limits() == (50, 100)


class TestPause:
    async def test_strictly_over_high(self, full):
        transport, protocol, _, held = await full()
        transport.set_write_buffer_limits(high=held + 100)
        transport.write(bytes(100))
        assert transport.get_write_buffer_size() == held + 100
        assert protocol.paused_at == []
        transport.write(b"1")
        assert protocol.paused_at == [held + 101]

    async def test_comes_from_inside_write(self, full):
        transport, protocol, _, held = await full()
        transport.set_write_buffer_limits(high=held)
        assert protocol.paused_at == []
        transport.write(b"1")
        assert protocol.calls == ["connection_made", "pause_writing"]

    async def test_once(self, full):
        transport, protocol, _, held = await full()
        transport.set_write_buffer_limits(high=held)
        for _ in range(10):
            transport.write(bytes(1000))
        await hops(3)
        assert protocol.paused_at == [held + 1000]

    async def test_by_writelines(self, full, loop_spec):
        skip_stock_bug(loop_spec, (3, 12) <= PYTHON <= (3, 13), "writelines() does not pause")
        transport, protocol, _, before = await full()
        # asyncio's writelines() tries to send: go on until the kernel takes not one byte more.
        transport.writelines([b"0"])
        while (held := transport.get_write_buffer_size()) != before + 1:
            before = held
            transport.writelines([b"0"])
        transport.set_write_buffer_limits(high=held + 2)
        transport.writelines([b"1", b"2"])
        assert protocol.paused_at == []
        transport.writelines([b"3", b"4"])
        assert protocol.paused_at == [held + 4]

    async def test_by_lower_limits(self, full):
        transport, protocol, _, held = await full()
        transport.set_write_buffer_limits(high=held)
        assert protocol.paused_at == []
        transport.set_write_buffer_limits(high=held - 1)
        assert protocol.paused_at == [held]

    async def test_zero_high_pauses_whenever_something_waits(self, full):
        transport, protocol, _peer, held = await full()
        transport.set_write_buffer_limits(high=0)
        assert protocol.paused_at == [held]

    async def test_zero_high_does_not_pause_when_the_kernel_takes_all(self, network):
        transport, protocol, peer = await network.connect()
        transport.set_write_buffer_limits(high=0)
        transport.write(b"small")
        assert await peer.read(5) == b"small"
        assert protocol.calls == ["connection_made"]

    async def test_with_default_limits(self, network):
        transport, protocol, _peer = await network.connect(Sizes(), receive_buffer=SMALL)
        for _ in range(100_000):
            if protocol.paused_at:
                break
            transport.write(bytes(1024))
        (size,) = protocol.paused_at
        assert 64 * 1024 < size <= 65 * 1024


class TestResume:
    async def test_at_or_under_low(self, full):
        transport, protocol, peer, held = await full()
        low = held // 2
        transport.set_write_buffer_limits(high=held, low=low)
        transport.write(b"1")
        assert len(protocol.paused_at) == 1
        transport.write_eof()
        received = await peer.read_all()
        assert len(received) > held
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        assert protocol.resumed_at[0] <= low

    async def test_zero_low_resumes_only_when_empty(self, full):
        transport, protocol, peer, held = await full()
        transport.set_write_buffer_limits(high=held, low=0)
        transport.write(b"1")
        transport.write_eof()
        await peer.read_all()
        assert protocol.resumed_at == [0]

    async def test_low_equal_to_high(self, full):
        transport, protocol, peer, held = await full()
        transport.set_write_buffer_limits(high=held, low=held)
        transport.write(b"1")
        transport.write_eof()
        await peer.read_all()
        assert len(protocol.resumed_at) == 1
        assert protocol.resumed_at[0] <= held

    async def test_not_by_higher_limits(self, full):
        """As asyncio: raising the limits resumes nothing; the next progress does."""
        transport, protocol, peer, held = await full()
        transport.set_write_buffer_limits(high=held)
        transport.write(b"1")
        transport.set_write_buffer_limits(high=held * 8)
        await hops(3)
        assert protocol.resumed_at == []
        transport.write_eof()
        await peer.read_all()
        assert len(protocol.resumed_at) == 1

    async def test_not_while_nothing_moves(self, full):
        transport, protocol, _peer, held = await full()
        transport.set_write_buffer_limits(high=held)
        transport.write(b"1")
        await hops(10)
        assert protocol.resumed_at == []

    async def test_writing_from_inside(self, full):
        """resume_writing() may write on, up to the next pause, many times over."""
        transport, protocol, peer, held = await full()
        left = 50

        def refill():
            nonlocal left
            while left and len(protocol.paused_at) == len(protocol.resumed_at):
                left -= 1
                transport.write(bytes(held))
            if not left:
                transport.write_eof()

        class Refilling(Sizes):
            def resume_writing(self):
                super().resume_writing()
                refill()

        refilling = Refilling()
        refilling.transport = transport
        refilling.paused_at, refilling.resumed_at = protocol.paused_at, protocol.resumed_at
        transport.set_protocol(refilling)
        transport.set_write_buffer_limits(high=held, low=held // 2)
        refill()
        received = await peer.read_all()
        assert left == 0
        assert len(received) >= 51 * held
        pauses = [call for call in refilling.calls if call.endswith("_writing")]
        assert pauses[::2] == ["pause_writing"] * len(pauses[::2])
        assert pauses[1::2] == ["resume_writing"] * len(pauses[1::2])
        assert len(pauses) > 10

    async def test_before_connection_lost_when_closing(self, full):
        """A paused transport that is closed still resumes as it drains."""
        transport, protocol, peer, held = await full()
        transport.set_write_buffer_limits(high=held)
        transport.write(b"1")
        transport.close()
        await peer.read_all()
        await protocol.lost()
        assert protocol.calls[1:] == ["pause_writing", "resume_writing", "connection_lost"]

    async def test_not_when_aborted(self, full):
        transport, protocol, _, held = await full()
        transport.set_write_buffer_limits(high=held)
        transport.write(b"1")
        transport.abort()
        await protocol.lost()
        assert protocol.calls[1:] == ["pause_writing", "connection_lost"]


class TestErrors:
    @pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
    async def test_an_exception_is_reported_and_survived(self, full, error_contexts, callback):
        class Failing(Sizes):
            def pause_writing(self):
                super().pause_writing()
                if callback == "pause_writing":
                    raise LookupError(callback)

            def resume_writing(self):
                super().resume_writing()
                if callback == "resume_writing":
                    raise LookupError(callback)

        transport, _, peer, held = await full()
        protocol = Failing()
        protocol.transport = transport
        transport.set_protocol(protocol)
        transport.set_write_buffer_limits(high=held)
        transport.write(b"1")
        transport.write_eof()
        await peer.read_all()
        assert protocol.calls == ["pause_writing", "resume_writing"]
        context = error_contexts.pop()
        assert context["message"] == f"protocol.{callback}() failed"
        assert isinstance(context["exception"], LookupError)
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert not transport.is_closing()
