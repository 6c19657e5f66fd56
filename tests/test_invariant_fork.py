"""The ninth invariant of ARCHITECTURE.md: what a fork may do to a loop."""

from __future__ import annotations

import textwrap

import pytest

from .support import child, run_script, skip_stock_bug


class TestInvariant9Fork:
    """A child may close the loop or leave it, and neither touches the parent."""

    BODY = """
    import socket, warnings
    warnings.simplefilter("ignore")  # that a process with threads forks is the point here

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)

    def fork(child):
        # Run child() in a child process; it must end with exit code 0.
        number = os.fork()
        if number == 0:
            signal.alarm(20)  # ends a child that hangs
            try:
                child()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(number, 0)
        assert status == 0, status

    async def open_connection():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.settimeout(20)
        return server, client

    def check_parent():
        # Old and new connections, timers, wake-ups from threads: all work as before.
        def talk(client, data):
            client.sendall(data)
            return client.recv(100)

        async def main():
            assert await loop.run_in_executor(None, talk, client, b"old") == b"old"
            with socket.create_connection(server.sockets[0].getsockname()) as other:
                other.settimeout(20)
                assert await loop.run_in_executor(None, talk, other, b"new") == b"new"
            assert await asyncio.sleep(0.001, "timer") == "timer"

        loop.run_until_complete(asyncio.wait_for(main(), 20))

    loop = new_event_loop()
    server, client = loop.run_until_complete(open_connection())
    check_parent()
    """

    def check(self, body, spec):
        script = self.BODY + body + '\n    say("done")\n    os._exit(0)\n'
        outcome = run_script(script, spec)
        assert outcome.code == 0, outcome.errors
        assert outcome.output == "done\n"

    def test_the_child_leaves_it(self, loop_spec):
        self.check(
            """
    fork(lambda: None)
    check_parent()
    """,
            loop_spec,
        )

    def test_the_child_closes_it(self, loop_spec):
        skip_stock_bug(loop_spec, True, "the child takes the waker out of the parent's epoll set")
        self.check(
            """
    fork(loop.close)
    check_parent()
    """,
            loop_spec,
        )

    def test_the_child_drops_it(self, loop_spec):
        skip_stock_bug(loop_spec, True, "the child takes the waker out of the parent's epoll set")
        self.check(
            """
    def drop():
        global loop, server, client
        import gc
        del loop, server, client
        gc.collect()

    fork(drop)
    check_parent()
    """,
            loop_spec,
        )

    def test_the_child_closes_its_connections(self, loop_spec):
        """Closing a descriptor in the child ends nothing in the parent."""
        self.check(
            """
    def close():
        client.close()
        for sock in server.sockets:
            os.close(sock.fileno())

    fork(close)
    check_parent()
    """,
            loop_spec,
        )

    def test_the_child_runs_a_loop_of_its_own(self, loop_spec):
        self.check(
            """
    def run():
        async def main():
            # The parent is not accepting now, but the kernel does.
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"from the child")
            await writer.drain()
            return await asyncio.sleep(0.001, "child")
        own = new_event_loop()
        assert own.run_until_complete(main()) == "child"
        own.close()

    address = server.sockets[0].getsockname()
    fork(run)
    check_parent()
    """,
            loop_spec,
        )

    def test_forked_from_inside_the_running_loop(self, loop_spec):
        self.check(
            """
    async def main():
        fork(lambda: None)

    loop.run_until_complete(main())
    check_parent()
    """,
            loop_spec,
        )

    def test_forked_from_inside_a_callback(self, loop_spec):
        """The child ends there, with exit handlers and all, and the parent's turn goes on."""
        self.check(
            """
    def callback():
        fork(lambda: None)
        number = os.fork()
        if number == 0:
            os.execv(sys.executable, [sys.executable, "-c", ""])
        assert os.waitpid(number, 0)[1] == 0
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    check_parent()
    """,
            loop_spec,
        )

    def test_what_was_written_before_is_sent_once(self, loop_spec):
        self.check(
            """
    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(Echo, *server.sockets[0].getsockname())
        near, far = socket.socketpair()
        protocol = Echo()
        await loop.create_connection(lambda: protocol, sock=near)
        protocol.transport.write(b"once")
        fork(lambda: None)
        protocol.transport.close()
        far.settimeout(20)
        received = b""
        while data := await loop.run_in_executor(None, far.recv, 100):
            received += data
        assert received == b"once", received
        transport.abort()
        server.close()

    loop.run_until_complete(main())
    check_parent()
    """,
            loop_spec,
        )

    def test_a_child_that_goes_on_in_the_loop(self, loop_spec):
        """It is told that the loop is its parent's, and the parent notices nothing."""
        skip_stock_bug(loop_spec, True, "both processes run on one selector")
        self.check(
            """
    def callback():
        global number
        number = os.fork()
        if number:
            loop.stop()

    loop.call_soon(callback)
    try:
        loop.run_forever()
    except RuntimeError as error:
        os._exit(0 if number == 0 and "parent process" in str(error) else 1)
    assert os.waitpid(number, 0)[1] == 0
    check_parent()
    """,
            loop_spec,
        )

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_multiprocessing(self, loop_spec, method, tmp_path):
        """From inside the running loop: the child has a loop of its own."""
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                f"""
                import asyncio, importlib, multiprocessing, sys, warnings

                module, _, name = sys.argv[1].partition(":")

                def work(pipe):
                    loop = getattr(importlib.import_module(module), name)()
                    pipe.send(loop.run_until_complete(asyncio.sleep(0.001, "child")))
                    loop.close()

                async def main():
                    context = multiprocessing.get_context({method!r})
                    ours, theirs = context.Pipe()
                    process = context.Process(target=work, args=(theirs,))
                    process.start()
                    loop = asyncio.get_running_loop()
                    print(await loop.run_in_executor(None, ours.recv))
                    await loop.run_in_executor(None, process.join)
                    print(process.exitcode)

                if __name__ == "__main__":
                    warnings.simplefilter("ignore")  # of threads beside a fork
                    loop = getattr(importlib.import_module(module), name)()
                    loop.run_until_complete(main())
                    loop.run_until_complete(loop.shutdown_default_executor())
                    loop.close()
                """
            )
        )
        with child(str(program), loop_spec) as process:
            assert process.finish().check() == "child\n0\n"

    def test_while_other_threads_use_the_loop(self, loop_spec):
        """No lock that another thread held at the fork keeps the child waiting."""
        skip_stock_bug(loop_spec, True, "the child takes the waker out of the parent's epoll set")
        self.check(
            """
    stop = threading.Event()

    def hammer():
        while not stop.is_set():
            loop.call_soon_threadsafe(int)

    def use_and_close():
        loop.call_soon_threadsafe(int)
        loop.call_soon(int)
        loop.call_later(1, int).cancel()
        loop.close()

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        fork(use_and_close)
        loop.call_soon(loop.stop)
        loop.run_forever()
    stop.set()
    for thread in threads:
        thread.join()
    check_parent()
    """,
            loop_spec,
        )
