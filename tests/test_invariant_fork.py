"""The ninth invariant of ARCHITECTURE.md: what a fork may do to a loop."""

from __future__ import annotations

from .support import run_script, skip_stock_bug


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
