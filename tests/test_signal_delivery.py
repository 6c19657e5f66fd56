"""No signal is lost, and none is heard by a loop of another process."""

from __future__ import annotations

import signal
import textwrap

import pytest

from .support import PYTHON, child, run_script, script, skip_stock_bug

FLOOD = """
    import warnings
    warnings.simplefilter("ignore")  # that a process with threads forks
    counts = {signal.SIGUSR1: 0, signal.SIGUSR2: 0, signal.SIGHUP: 0}

    def count(number):
        counts[number] += 1
        if number == LAST:
            # A turn later: whatever is heard twice has been heard by then.
            loop.call_soon(loop.call_soon, loop.stop)

    LAST = signal.SIGUSR2
    loop = new_event_loop()
    for number in counts:
        loop.add_signal_handler(number, count, number)

    def flood(times):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), LAST)

    def numbers():
        return " ".join(str(count) for count in counts.values())
"""
"""Counts the signals that a loop hears; it stops after SIGUSR2."""

# As many as a pipe of Linux holds.
CAPACITY = 1 << 16


def run(spec: str, *parts: str) -> str:
    """Run the parts of a program, each indented as it likes, in a child; what it prints."""
    return run_script("".join(textwrap.dedent(part) for part in parts), spec).check()


class TestFlood:
    @pytest.mark.parametrize(("times", "fits"), [(0, True), (1, True), (100, True), (3000, False)])
    def test_each_is_heard_once(self, loop_spec, times, fits):
        skip_stock_bug(loop_spec, not fits, "signals that do not fit into its channel are lost")
        body = f"""
            loop.call_soon(flood, {times})
            loop.run_forever()
            say(numbers())
            loop.close()
            """
        assert run(loop_spec, FLOOD, body) == f"{times} 1 0\n"

    def test_between_runs(self, loop_spec):
        body = """
            flood(100)
            loop.run_forever()
            say(numbers())
            loop.close()
            """
        assert run(loop_spec, FLOOD, body) == "100 1 0\n"

    @pytest.mark.parametrize("where", ["main thread", "other thread"])
    def test_beyond_what_the_channel_holds(self, loop_spec, where):
        """The last signal of each number is heard, no other number, and no error text."""
        skip_stock_bug(loop_spec, True, "signals that do not fit into its channel are lost")
        body = f"""
            flood({CAPACITY} + 1000)
            if {where!r} == "main thread":
                loop.run_forever()
            else:
                thread = threading.Thread(target=loop.run_forever)
                thread.start()
                thread.join()
            assert {CAPACITY} <= counts[signal.SIGUSR1] <= {CAPACITY} + 2, counts
            assert counts[signal.SIGUSR2] == 1, counts
            assert counts[signal.SIGHUP] == 0, counts

            # And all is as before.
            counts.update(dict.fromkeys(counts, 0))
            flood(100)
            loop.run_forever()
            say(numbers())
            loop.close()
            """
        outcome = run(loop_spec, FLOOD, body)
        if where == "main thread":
            assert outcome == "100 1 0\n"
        else:
            # What did not fit in may be heard twice if another thread runs the loop.
            first, last, none = outcome.split()
            assert int(first) in (100, 101)
            assert int(last) in (1, 2)
            assert none == "0"

    def test_an_exception_of_another_handler_amid_the_flood(self, loop_spec):
        """Ctrl-C leaves the run; what had come is heard by the next."""
        skip_stock_bug(loop_spec, True, "signals that do not fit into its channel are lost")
        body = f"""
            def interrupted():
                flood({CAPACITY} + 1000)
                os.kill(os.getpid(), signal.SIGINT)

            loop.call_soon(interrupted)
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                say("interrupted")
            loop.run_forever()
            assert {CAPACITY} <= counts[signal.SIGUSR1] <= {CAPACITY} + 2, counts
            say(counts[signal.SIGUSR2], counts[signal.SIGHUP])
            loop.close()
            """
        assert run(loop_spec, FLOOD, body) == "interrupted\n1 0\n"


class TestInterruptedRead:
    """Another handler in Python raises while the loop takes over what signals have come."""

    @pytest.mark.parametrize("at", range(1, 13))
    def test_at_each_step(self, loop_spec, at):
        skip_stock_bug(loop_spec, True, "what has been read is lost")
        body = f"""
            class Interrupt(KeyboardInterrupt):
                pass

            def interrupt_at_each_line(frame, event, argument):
                global steps
                if event == "line":
                    steps += 1
                    if steps == {at}:
                        raise Interrupt
                return interrupt_at_each_line

            def trace(frame, event, argument):
                name = frame.f_code.co_name
                if name in ("_read_signals", "read"):
                    return interrupt_at_each_line(frame, event, argument)

            steps = 0
            flood(5)
            sys.settrace(trace)
            try:
                loop.run_forever()
            except Interrupt:
                sys.settrace(None)
                loop.run_forever()
            sys.settrace(None)
            # One twice if that was interrupted just after it was handled; each number once if what
            # was read is gone.
            assert 1 <= counts[signal.SIGUSR1] <= 6, counts
            assert counts[signal.SIGUSR2] in (1, 2), counts
            assert counts[signal.SIGHUP] == 0, counts
            loop.close()
            """
        run(loop_spec, FLOOD, body)


class TestWithoutDescriptors:
    LIMIT = """
        import resource

        def use_up():
            # Whatever was opened so far stays, and nothing can be opened any more.
            highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass

        taken = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    """

    def test_a_handler(self, loop_spec):
        body = """
            loop = new_event_loop()
            use_up()
            loop.add_signal_handler(signal.SIGUSR1, loop.stop)
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.run_forever()
            say(loop.remove_signal_handler(signal.SIGUSR1))
            loop.close()
            """
        assert run(loop_spec, self.LIMIT, body) == "True\n"

    def test_a_loop(self, loop_spec):
        """It cannot be made, and what it had opened so far is closed."""
        skip_stock_bug(loop_spec, True, "warns of the half-made loop")
        body = """
            import errno, gc, warnings
            warnings.simplefilter("error")
            new_event_loop().close()
            use_up()
            free = 0
            while True:
                before = sorted(os.listdir("/proc/self/fd")) if free else None
                try:
                    loop = new_event_loop()
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
                    gc.collect()
                    assert before is None or sorted(os.listdir("/proc/self/fd")) == before
                    os.close(taken.pop())
                    free += 1
                else:
                    break
            say(free)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            """
        assert int(run(loop_spec, self.LIMIT, body)) > 2

    def test_closed_with_the_loop(self, loop_spec):
        body = """
            def descriptors():
                return set(os.listdir("/proc/self/fd"))

            new_event_loop().close()
            before = descriptors()
            for handlers in ([], [signal.SIGUSR1], [signal.SIGUSR1, signal.SIGUSR2]):
                loop = new_event_loop()
                for number in handlers:
                    loop.add_signal_handler(number, print)
                loop.close()
                assert descriptors() == before
                assert signal.set_wakeup_fd(-1) == -1
            """
        run(loop_spec, body)


class TestOthers:
    """Who else wants to hear of signals."""

    def test_a_handler_that_is_removed_and_added_again(self, loop_spec):
        body = """
            heard = []
            loop = new_event_loop()
            loop.add_signal_handler(signal.SIGUSR1, heard.append, "first")
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.remove_signal_handler(signal.SIGUSR1)
            loop.add_signal_handler(signal.SIGUSR1, heard.append, "second")
            for _ in range(5):
                loop.call_soon(loop.stop)
                loop.run_forever()
            say(heard)

            # A turn later it is too late.
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.remove_signal_handler(signal.SIGUSR1)
            for _ in range(5):
                loop.call_soon(loop.stop)
                loop.run_forever()
            loop.add_signal_handler(signal.SIGUSR1, heard.append, "third")
            for _ in range(5):
                loop.call_soon(loop.stop)
                loop.run_forever()
            say(heard)
            os.kill(os.getpid(), signal.SIGUSR1)
            while len(heard) < 2:
                loop.call_soon(loop.stop)
                loop.run_forever()
            say(heard)
            loop.close()
            """
        said = "['second']\n['second']\n['second', 'third']\n"
        assert run(loop_spec, body) == said

    def test_the_last_loop_hears(self, loop_spec):
        """Python has one wake-up descriptor; the loop that asked last has it."""
        body = """
            heard = []
            loops = [new_event_loop(), new_event_loop()]
            loops[0].add_signal_handler(signal.SIGUSR1, heard.append, 0)
            loops[1].add_signal_handler(signal.SIGUSR1, heard.append, 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            for loop in loops:
                for _ in range(5):
                    loop.call_soon(loop.stop)
                    loop.run_forever()
            say(heard)
            for loop in reversed(loops):
                loop.close()
            say(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, signal.set_wakeup_fd(-1))
            """
        assert run(loop_spec, body) == "[1]\nTrue -1\n"

    def test_a_program_that_takes_the_wake_up_descriptor(self, loop_spec):
        body = """
            import socket
            heard = []
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            loop = new_event_loop()
            loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
            signal.set_wakeup_fd(theirs.fileno())
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(5):
                loop.call_soon(loop.stop)
                loop.run_forever()
            say(heard, ours.recv(10) == bytes([signal.SIGUSR1]))
            loop.close()
            """
        assert run(loop_spec, body) == "[] True\n"

    def test_at_the_end_of_the_program(self, loop_spec):
        """A loop that nobody closes, and one that is closed as the program ends."""
        body = """
            import atexit
            loops = [new_event_loop(), new_event_loop()]
            for loop in loops:
                loop.add_signal_handler(signal.SIGUSR1, print)
            atexit.register(loops[1].close)
            os.kill(os.getpid(), signal.SIGUSR1)
            """
        with child("-W", "ignore", *script(body, loop_spec)) as program:
            assert program.finish().check() == ""

    def test_a_loop_that_nobody_closes_is_collected(self, loop_spec):
        body = """
            import gc, warnings, weakref
            warnings.simplefilter("ignore")
            loop = new_event_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            gone = weakref.ref(loop)
            del loop
            gc.collect()
            say(gone(), signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
            """
        assert run(loop_spec, body) == "None True\n"


CHILDREN = {
    "that waits": (
        """
        def work(ready):
            # The handler is the parent's, and does nothing here.
            ready()
            os.read(after_signal, 1)
        """,
        0,
    ),
    "with Python's own handler": (
        """
        def work(ready):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            ready()
            while True:
                signal.pause()
        """,
        -signal.SIGTERM,
    ),
    "with a loop of its own": (
        """
        def work(ready):
            asyncio._set_running_loop(None)
            own = new_event_loop()
            mine = []
            own.add_signal_handler(signal.SIGTERM, lambda: (mine.append(1), own.stop()))
            own.call_soon(ready)
            own.run_forever()
            own.close()
            assert mine == [1] and heard == []
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signal.set_wakeup_fd(-1) == -1
        """,
        0,
    ),
    "that removes the parent's handlers": (
        """
        def work(ready):
            assert loop.remove_signal_handler(signal.SIGTERM)
            ready()
            while True:
                signal.pause()
        """,
        -signal.SIGTERM,
    ),
    "that closes the parent's loop": (
        """
        def work(ready):
            loop.close()
            ready()
            while True:
                signal.pause()
        """,
        -signal.SIGTERM,
    ),
    "of a child": (
        """
        def work(ready):
            number = os.fork()
            if number == 0:
                own = new_event_loop()
                own.add_signal_handler(signal.SIGTERM, own.stop)
                own.call_soon(ready)
                own.call_soon(os.kill, os.getpid(), signal.SIGTERM)
                own.run_forever()
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            assert os.waitpid(number, 0)[1] == 0
        """,
        0,
    ),
}
"""What a child does, and its exit code."""


class TestForkedChild:
    """A signal to a child is no signal to its parent."""

    BODY = """
        import warnings
        warnings.simplefilter("ignore")  # that a process with threads forks
        heard = []
        loop = new_event_loop()
        loop.add_signal_handler(signal.SIGTERM, heard.append, "parent")

        def fork(work):
            # Runs work() in a child, which hears SIGTERM when it is ready; its exit code.
            global after_signal
            reader, writer = os.pipe()
            after_signal, sent = os.pipe()
            number = os.fork()
            if number == 0:
                signal.alarm(20)  # ends a child that hangs
                os.close(sent)
                try:
                    work(lambda: os.write(writer, b"ready"))
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            os.close(writer)
            said = os.read(reader, 10)
            os.close(reader)
            assert said == b"ready", said
            os.kill(number, signal.SIGTERM)
            os.close(sent)
            os.close(after_signal)
            return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

        def turns(loop=loop):
            for _ in range(5):
                loop.call_soon(loop.stop)
                loop.run_forever()

        def check_parent():
            turns()
            assert heard == [], heard
            os.kill(os.getpid(), signal.SIGTERM)
            while not heard:
                loop.run_until_complete(asyncio.sleep(0))
            turns()
            assert heard == ["parent"], heard
            heard.clear()
    """

    @pytest.mark.parametrize("name", CHILDREN)
    def test_a_child(self, loop_spec, name):
        skip_stock_bug(loop_spec, PYTHON < (3, 12), "the parent hears the child's signals")
        skip_stock_bug(
            loop_spec,
            name == "that closes the parent's loop",
            "the child takes the waker out of the parent's epoll set",
        )
        work, code = CHILDREN[name]
        body = f"""
        code = fork(work)
        assert code == {code}, code
        check_parent()
        code = fork(work)
        assert code == {code}, code
        check_parent()
        loop.close()
        """
        run(loop_spec, self.BODY, work, body)

    def test_from_inside_the_running_loop(self, loop_spec):
        skip_stock_bug(loop_spec, PYTHON < (3, 12), "the parent hears the child's signals")
        work = CHILDREN["with a loop of its own"][0]
        body = """
        def callback():
            assert fork(work) == 0
            loop.stop()

        loop.call_soon(callback)
        loop.run_forever()
        check_parent()
        loop.close()
        """
        run(loop_spec, self.BODY, work, body)

    def test_a_handler_on_the_parents_loop(self, loop_spec):
        """It could only be called in the parent."""
        skip_stock_bug(loop_spec, True, "the parent hears the child's signals")
        body = """
        def work(ready):
            try:
                loop.add_signal_handler(signal.SIGUSR1, print)
            except RuntimeError as error:
                assert "parent process" in str(error)
                assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                ready()

        assert fork(work) == 0
        check_parent()
        loop.close()
        """
        run(loop_spec, self.BODY, body)

    def test_the_programs_own_wake_up_descriptor(self, loop_spec):
        """Only what the loop has set is taken back in a child."""
        body = """
        import socket
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop.close()
        signal.set_wakeup_fd(theirs.fileno())

        def work(ready):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ready()
            os._exit(signal.set_wakeup_fd(-1) == theirs.fileno())

        say(fork(work))
        """
        said = run(loop_spec, self.BODY, body)
        # From 3.12 on asyncio takes it back, whoever has set it.
        assert said == ("0\n" if PYTHON >= (3, 12) else "1\n")
