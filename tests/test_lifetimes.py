"""The ends of loops: close, collection, interpreter shutdown; many loops, one after the other and
at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import textwrap
import threading

import pytest

from .support import (
    PYTHON,
    TIME_LIMIT,
    DatagramRecorder,
    LoopFactory,
    Recorder,
    child,
    hops,
    run_script,
    script,
    skip_stock_bug,
    turns,
)


def create_connection(loop, sock):
    return loop.create_connection(Recorder, sock=sock)


def create_datagram_endpoint(loop, sock):
    return loop.create_datagram_endpoint(DatagramRecorder, sock=sock)


def connect_read_pipe(loop, sock):
    return loop.connect_read_pipe(Recorder, sock)


def connect_write_pipe(loop, sock):
    return loop.connect_write_pipe(Recorder, sock)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
class TestCloseWithOpenTransports:
    """What is open when the loop is closed stays open, and can still be asked and closed."""

    @contextlib.contextmanager
    def left(self, loop_factory: LoopFactory, connect=create_connection, kind=socket.SOCK_STREAM):
        """The transport of a closed loop, and its peer."""
        loop = loop_factory()
        near, far = socket.socketpair(type=kind)
        with far:
            connecting = connect(loop, near)
            transport, _ = loop.run_until_complete(connecting)
            loop.close()
            yield transport, far
            del transport, near, connecting, _
            gc.collect()

    def test_is_as_it_was(self, loop_factory: LoopFactory):
        with self.left(loop_factory) as (transport, _):
            assert not transport.is_closing()
            assert transport.get_write_buffer_size() == 0
            assert transport.get_protocol().calls == ["connection_made"]
            number = transport.get_extra_info("socket").fileno()
            assert number > 0
            assert repr(transport).endswith(f"Transport fd={number}>")
            del transport

    def test_writes(self, loop_factory: LoopFactory):
        """As long as the kernel takes it."""
        with self.left(loop_factory) as (transport, far):
            transport.write(b"data")
            assert transport.get_write_buffer_size() == 0
            assert far.recv(100) == b"data"
            del transport

    @pytest.mark.parametrize("connect", [create_connection, connect_write_pipe])
    def test_does_not_write_the_rest(self, loop_factory: LoopFactory, connect):
        """The loop would send it."""
        with self.left(loop_factory, connect) as (transport, _):
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                transport.write(bytes(10 << 20))
            assert transport.get_write_buffer_size() == 0
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                transport.writelines([bytes(10 << 20), b"end"])
            del transport

    @pytest.mark.parametrize(
        ("connect", "kind"),
        [
            (create_connection, socket.SOCK_STREAM),
            (create_datagram_endpoint, socket.SOCK_DGRAM),
            (connect_read_pipe, socket.SOCK_STREAM),
        ],
    )
    def test_does_not_read(self, loop_factory: LoopFactory, loop_spec, connect, kind):
        skip_stock_bug(
            loop_spec,
            kind == socket.SOCK_DGRAM and PYTHON < (3, 11),
            "an endpoint cannot be paused",
        )
        with self.left(loop_factory, connect, kind) as (transport, _):
            transport.pause_reading()
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                transport.resume_reading()
            assert transport.get_protocol().calls == ["connection_made"]
            del transport

    @pytest.mark.parametrize("method", ["close", "abort"])
    def test_cannot_be_closed_by_the_loop(self, loop_factory: LoopFactory, method):
        """connection_lost would be called by the loop: the first close says so, others do not."""
        with self.left(loop_factory) as (transport, _):
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                getattr(transport, method)()
            assert transport.is_closing()
            transport.close()
            transport.abort()
            assert transport.get_protocol().calls == ["connection_made"]
            del transport

    def test_its_end_closes_the_socket(self, loop_factory: LoopFactory):
        with self.left(loop_factory) as (transport, far):
            peer = far.dup()
            del transport
        with peer:
            peer.settimeout(TIME_LIMIT)
            assert peer.recv(1) == b""

    def test_a_server(self, loop_factory: LoopFactory):
        loop = loop_factory()
        server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
        loop.close()
        assert server.is_serving()
        assert len(server.sockets) == 1
        server.close()
        assert server.sockets == ()
        assert not server.is_serving()


class TestClose:
    def test_in_a_callback(self, loop):
        refused = []

        def callback():
            with pytest.raises(RuntimeError, match="Cannot close a running event") as caught:
                loop.close()
            refused.append(caught.value)

        loop.call_soon(callback)
        turns(loop)
        assert len(refused) == 1
        loop.close()
        loop.close()
        assert loop.is_closed()

    def test_in_a_protocol(self, loop, network):
        class Closes(Recorder):
            def data_received(self, data):
                with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
                    loop.close()
                super().data_received(data)

        async def main():
            _, protocol, peer = await network.connect(Closes())
            peer.send(b"data")
            assert await protocol.received(4) == b"data"

        loop.run_until_complete(main())

    async def test_from_another_thread(self, loop):
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            await asyncio.to_thread(loop.close)

    def test_an_executor_that_still_works(self, loop_factory: LoopFactory):
        """Its job ends later, and finds the loop closed."""
        loop = loop_factory()
        go_on, ended = threading.Event(), threading.Event()

        def job():
            go_on.wait(TIME_LIMIT)
            ended.set()

        async def main():
            loop.run_in_executor(None, job)

        loop.run_until_complete(main())
        loop.close()
        go_on.set()
        assert ended.wait(TIME_LIMIT)


SERVER_AND_CLIENT = """
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, error):
        say("lost", error)

async def connect(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Echo, *address)
    transport.write(b"ping")
    await asyncio.sleep(0.01)
    return server, transport, protocol
"""


class TestShutdown:
    """A program may end with anything still open: no crash, no hang, and asyncio's words."""

    def run(self, body, spec, *options):
        arguments = script(SERVER_AND_CLIENT + textwrap.dedent(body), spec)
        with child(*options, *arguments) as program:
            return program.finish()

    @pytest.mark.parametrize("options", [(), ("-X", "dev")], ids=["plain", "dev"])
    @pytest.mark.parametrize(
        "body",
        [
            """
            threading.Thread(target=loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop).result()
            """,
            """
            ready = threading.Event()
            async def busy():
                for step in range(sys.maxsize):
                    if step == 1000:
                        ready.set()
                    await asyncio.sleep(0)
            thread = threading.Thread(target=loop.run_until_complete, args=(busy(),), daemon=True)
            thread.start()
            ready.wait()
            """,
            """
            ready = threading.Event()
            def tick(step):
                if step == 100:
                    ready.set()
                loop.call_later(0.0001, tick, step + 1)
            loop.call_soon(tick, 0)
            threading.Thread(target=loop.run_forever, daemon=True).start()
            ready.wait()
            """,
            """
            ready = threading.Event()
            async def main():
                global things
                things = await connect(loop)
                loop.call_later(1000, print)
                ready.set()
                await asyncio.sleep(1000)
            thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
            thread.start()
            ready.wait()
            """,
        ],
        ids=["idle", "busy", "timers", "connections"],
    )
    def test_a_loop_in_a_daemon_thread(self, loop_spec, body, options):
        # On a busy machine a callback may be slow enough to be logged in dev mode.
        start = "loop = new_event_loop()\nloop.slow_callback_duration = 60\n"
        body = start + textwrap.dedent(body) + 'say("end")\n'
        outcome = self.run(body, loop_spec, *options)
        assert outcome.output == "end\n"
        assert outcome.code == 0, outcome.errors
        assert outcome.errors == ""

    def test_everything_left_open(self, loop_spec):
        outcome = self.run(
            """
            loop = new_event_loop()
            things = loop.run_until_complete(connect(loop))
            loop.call_soon(say, "never")
            loop.call_soon_threadsafe(say, "never")
            timer = loop.call_later(1000, say, "never")
            loop.add_signal_handler(signal.SIGUSR1, say, "never")
            say("end")
            """,
            loop_spec,
        )
        assert outcome.check() == "end\n"

    def test_everything_left_open_is_warned_of(self, loop_spec):
        outcome = self.run(
            """
            loop = new_event_loop()
            things = loop.run_until_complete(connect(loop))
            say("end")
            """,
            loop_spec,
            "-X",
            "dev",
        )
        assert (outcome.code, outcome.output) == (0, "end\n")
        assert outcome.errors.count("ResourceWarning: unclosed event loop <") == 1
        assert outcome.errors.count("ResourceWarning: unclosed transport <") == 2
        assert "Traceback" not in outcome.errors
        assert "Exception ignored" not in outcome.errors

    def test_a_pending_task_and_an_executor_job(self, loop_spec):
        outcome = self.run(
            """
            async def forever():
                await asyncio.sleep(1000)
            async def main():
                global task
                task = loop.create_task(forever())
                loop.run_in_executor(None, time.sleep, 0.05)
                await asyncio.sleep(0)
            loop = new_event_loop()
            loop.run_until_complete(main())
            say("end")
            """,
            loop_spec,
        )
        assert (outcome.code, outcome.output) == (0, "end\n")
        assert outcome.errors.startswith("Task was destroyed but it is pending!\n")
        assert len(outcome.errors.splitlines()) == 2

    def test_a_task_that_failed(self, loop_spec):
        outcome = self.run(
            """
            async def fails():
                raise LookupError("told at the end")
            loop = new_event_loop()
            task = loop.create_task(fails())
            loop.run_until_complete(asyncio.sleep(0.001))
            loop.close()
            say("end")
            """,
            loop_spec,
        )
        assert (outcome.code, outcome.output) == (0, "end\n")
        assert outcome.errors.startswith("Task exception was never retrieved\n")
        assert outcome.last_error == "LookupError: told at the end"

    @pytest.mark.parametrize("options", [(), ("-X", "dev")], ids=["plain", "dev"])
    def test_used_by_a_destructor(self, loop_spec, options):
        """While modules are taken apart nothing can be imported, and loops still work."""
        outcome = self.run(
            """
            class Owner:
                def __init__(self):
                    self.loop = new_event_loop()
                    self.things = self.loop.run_until_complete(connect(self.loop))
                def __del__(self):
                    server, transport, protocol = self.things
                    transport.write(b"late")
                    transport.close()
                    server.close()
                    self.loop.call_soon(int)
                    self.loop.call_later(1, int).cancel()
                    self.loop.call_soon_threadsafe(int)
                    try:
                        self.loop.call_later(None, int)
                    except TypeError:
                        os.write(1, b"refused\\n")
                    self.loop.close()
                    os.write(1, b"closed\\n")
            owner = Owner()
            say("end")
            """,
            loop_spec,
            *options,
        )
        assert outcome.output == "end\nrefused\nclosed\n", outcome.errors
        assert outcome.code == 0
        assert "Traceback" not in outcome.errors

    def test_used_by_atexit(self, loop_spec):
        outcome = self.run(
            """
            import atexit
            loop = new_event_loop()
            @atexit.register
            def at_exit():
                loop.run_until_complete(connect(loop))
                loop.close()
                say("closed")
            say("end")
            """,
            loop_spec,
        )
        assert outcome.output == "end\nclosed\n"
        assert outcome.code == 0

    @pytest.mark.parametrize(("code", "how"), [(3, "sys.exit"), (5, "os._exit")])
    def test_exits_in_a_callback(self, loop_spec, code, how):
        outcome = self.run(
            f"""
            loop = new_event_loop()
            things = loop.run_until_complete(connect(loop))
            loop.call_soon({how}, {code})
            loop.run_forever()
            """,
            loop_spec,
        )
        assert (outcome.code, outcome.output, outcome.errors) == (code, "", "")

    def test_a_signal_handler_left(self, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "its close() fails at shutdown")
        outcome = self.run(
            """
            loop = new_event_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            say("end")
            """,
            loop_spec,
            "-X",
            "dev",
        )
        assert (outcome.code, outcome.output) == (0, "end\n")
        assert "unclosed event loop" in outcome.errors
        assert "Traceback" not in outcome.errors


@pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
class TestRunner:
    def test_again_and_again(self, loop_factory: LoopFactory):
        async def main(value):
            return value, asyncio.get_running_loop()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            results = [runner.run(main(number)) for number in range(5)]
            loop = runner.get_loop()
        assert results == [(number, loop) for number in range(5)]
        assert loop.is_closed()
        coroutine = main(0)
        with pytest.raises(RuntimeError, match="Runner is closed"):
            runner.run(coroutine)
        coroutine.close()

    def test_goes_on_after_an_error(self, loop_factory: LoopFactory):
        async def fails():
            raise LookupError

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            for _ in range(3):
                with pytest.raises(LookupError):
                    runner.run(fails())
            assert runner.run(asyncio.sleep(0, "fine")) == "fine"

    def test_several_side_by_side(self, loop_factory: LoopFactory):
        with (
            asyncio.Runner(loop_factory=loop_factory) as one,
            asyncio.Runner(loop_factory=loop_factory) as other,
        ):
            for number in range(3):
                assert one.run(asyncio.sleep(0, number)) == number
                assert other.run(asyncio.sleep(0, number)) == number
            assert one.get_loop() is not other.get_loop()

    def test_not_inside_of_itself(self, loop_factory: LoopFactory):
        with asyncio.Runner(loop_factory=loop_factory) as runner:

            async def nested():
                coroutine = asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="cannot be called from a running event"):
                    runner.run(coroutine)
                coroutine.close()

            runner.run(nested())

    def test_one_after_the_other(self, loop_factory: LoopFactory):
        loops = []

        async def main():
            loops.append(asyncio.get_running_loop())
            _, writer = await asyncio.open_connection(sock=near)
            writer.close()
            await writer.wait_closed()

        for _ in range(20):
            near, far = socket.socketpair()
            with far, asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(main())
        assert all(loop.is_closed() for loop in loops)


class TestThreads:
    """One loop in each of many threads, and they talk to each other."""

    def test_each_with_its_own_server(self, loop_factory: LoopFactory):
        results, count = [], 16

        async def echo(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        async def main(number):
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            for step in range(50):
                message = b"%d %d" % (number, step)
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
            writer.close()
            await writer.wait_closed()
            server.close()
            await hops(5)
            return number

        def run(number):
            loop = loop_factory()
            try:
                results.append(loop.run_until_complete(main(number)))
            finally:
                loop.close()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(count))

    def test_a_ring(self, loop_factory: LoopFactory):
        """A token goes round through all loops by call_soon_threadsafe."""
        count, rounds = 8, 100
        loops = [loop_factory() for _ in range(count)]
        steps = []

        def pass_on(number):
            steps.append(threading.get_ident())
            if number == count * rounds:
                for loop in loops:
                    loop.call_soon_threadsafe(loop.stop)
            else:
                loops[number % count].call_soon_threadsafe(pass_on, number + 1)

        threads = [threading.Thread(target=loop.run_forever) for loop in loops]
        for thread in threads:
            thread.start()
        loops[0].call_soon_threadsafe(pass_on, 1)
        for thread in threads:
            thread.join()
        for loop in loops:
            loop.close()
        assert len(steps) == count * rounds
        assert steps[:count] * rounds == steps
        assert len(set(steps)) == count

    def test_made_here_run_there_closed_elsewhere(self, loop_factory: LoopFactory):
        loop = loop_factory()
        results = []
        for target in (
            lambda: results.append(loop.run_until_complete(asyncio.sleep(0, "one"))),
            lambda: results.append(loop.run_until_complete(asyncio.sleep(0, "two"))),
            loop.close,
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert results == ["one", "two"]
        assert loop.is_closed()

    def test_dropped_by_another_thread(self, loop_factory: LoopFactory):
        """The collector may run anywhere."""
        loop = loop_factory()
        near, far = socket.socketpair()
        with far:
            connecting = loop.create_connection(Recorder, sock=near)
            loop.run_until_complete(connecting)
            del near, connecting, loop
            with pytest.warns(ResourceWarning, match="unclosed"):
                thread = threading.Thread(target=gc.collect)
                thread.start()
                thread.join()
            far.settimeout(TIME_LIMIT)
            assert far.recv(1) == b""


class TestSignals:
    """Each loop has its own handlers; the one that was set last hears the signal."""

    def test_of_several_loops(self, loop_factory: LoopFactory):
        heard = []
        one, other = loop_factory(), loop_factory()
        one.add_signal_handler(signal.SIGUSR1, heard.append, "one")
        other.add_signal_handler(signal.SIGUSR2, heard.append, "other")
        signal.raise_signal(signal.SIGUSR2)
        turns(other, 2)
        assert heard == ["other"]
        one.close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
        other.close()
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL

    def test_of_loops_one_after_the_other(self, loop_factory: LoopFactory):
        heard = []
        for number in range(3):
            loop = loop_factory()
            loop.add_signal_handler(signal.SIGUSR1, heard.append, number)
            signal.raise_signal(signal.SIGUSR1)
            turns(loop, 2)
            loop.close()
        assert heard == [0, 1, 2]

    def test_an_old_loop_takes_nothing_away(self, loop_factory: LoopFactory, loop_spec):
        skip_stock_bug(loop_spec, True, "closing a loop makes others deaf for signals")
        heard = []
        old, new = loop_factory(), loop_factory()
        old.add_signal_handler(signal.SIGUSR1, heard.append, "old")
        new.add_signal_handler(signal.SIGUSR2, heard.append, "new")
        old.close()
        signal.raise_signal(signal.SIGUSR2)
        turns(new, 2)
        new.close()
        assert heard == ["new"]


def test_many_loops_leave_nothing(loop_spec):
    """Made, used and closed: no descriptor and no memory is left."""
    outcome = run_script(
        """
        def measure():
            descriptors = len(os.listdir("/proc/self/fd"))
            pages = int(open("/proc/self/statm").read().split()[1])
            return descriptors, pages

        def use():
            for _ in range(200):
                loop = new_event_loop()
                loop.call_later(1000, print)
                loop.call_soon_threadsafe(int)
                loop.run_until_complete(asyncio.sleep(0))
                loop.close()

        import gc
        use()
        gc.collect()
        before = measure()
        use()
        use()
        gc.collect()
        after = measure()
        say(after[0] - before[0], after[1] - before[1] < 500)
        """,
        loop_spec,
    )
    assert outcome.check() == "0 True\n"


def test_loops_within_callbacks_of_loops(loop_factory: LoopFactory):
    """A loop may be made, and closed unused, wherever another one runs."""
    outer = loop_factory()

    def callback():
        inner = loop_factory()
        inner.call_soon(print)
        with contextlib.suppress(RuntimeError):
            inner.run_forever()
        inner.close()

    outer.call_soon(callback)
    turns(outer)
    outer.close()


def test_a_loop_is_made_while_the_collector_is_busy(loop_spec):
    """It is never seen half-made, and leaves the collector on or off, also if it fails."""
    outcome = run_script(
        """
        import gc, resource

        class Own(type(new_event_loop())):
            pass

        def make(expected):
            for _ in range(20):
                loop = Own()
                assert gc.isenabled() == expected
                assert gc.is_tracked(loop)
                loop.close()

        gc.set_threshold(1)
        make(True)
        gc.disable()
        make(False)
        gc.enable()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            Own()
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            say(type(error).__name__, gc.isenabled())
        """,
        loop_spec,
    )
    assert outcome.output == "OSError True\n"
    assert outcome.code == 0
