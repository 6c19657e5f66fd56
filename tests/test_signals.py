"""Signals (event loop page, "Unix signals") and Ctrl-C."""

from __future__ import annotations

import contextvars
import os
import signal
import socket
import threading

import pytest

from .support import PYTHON, child, script, skip_stock_bug, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

SIGNAL = signal.SIGUSR1


def raise_signal(number: int = SIGNAL) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _restore():
    """The disposition of the signals used here is as it was after each test."""
    before = {number: signal.getsignal(number) for number in (SIGNAL, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1


class TestAddSignalHandler:
    def test_is_called_on_the_loop(self, loop):
        calls = []

        def handler(*arguments):
            calls.append(arguments)
            loop.stop()

        assert loop.add_signal_handler(SIGNAL, handler, 1, "two") is None
        loop.call_soon(raise_signal)
        loop.run_forever()
        assert calls == [(1, "two")]

    def test_wakes_a_waiting_loop(self, loop):
        loop.add_signal_handler(SIGNAL, loop.stop)
        thread = threading.Thread(target=raise_signal)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    def test_between_runs(self, loop):
        calls = []
        loop.add_signal_handler(SIGNAL, lambda: (calls.append(1), loop.stop()))
        raise_signal()
        assert calls == []
        loop.run_forever()
        assert calls == [1]

    def test_again_and_again(self, loop):
        calls = []

        def handler():
            calls.append(1)
            if len(calls) == 50:
                loop.stop()
            else:
                raise_signal()

        loop.add_signal_handler(SIGNAL, handler)
        loop.call_soon(raise_signal)
        loop.run_forever()
        assert len(calls) == 50

    def test_replaces_the_one_before(self, loop):
        calls = []
        loop.add_signal_handler(SIGNAL, calls.append, "first")
        loop.add_signal_handler(SIGNAL, lambda: (calls.append("second"), loop.stop()))
        loop.call_soon(raise_signal)
        loop.run_forever()
        assert calls == ["second"]

    def test_several_signals(self, loop):
        calls = []

        def handler(name):
            calls.append(name)
            if len(calls) == 2:
                loop.stop()

        loop.add_signal_handler(signal.SIGUSR1, handler, "one")
        loop.add_signal_handler(signal.SIGUSR2, handler, "two")
        loop.call_soon(raise_signal, signal.SIGUSR1)
        loop.call_soon(raise_signal, signal.SIGUSR2)
        loop.run_forever()
        assert sorted(calls) == ["one", "two"]

    def test_context(self, loop):
        seen = []
        context = contextvars.copy_context()
        context.run(variable.set, "adder")
        context.run(
            loop.add_signal_handler, SIGNAL, lambda: (seen.append(variable.get()), loop.stop())
        )
        loop.call_soon(raise_signal)
        loop.run_forever()
        assert seen == ["adder"]

    def test_an_exception_is_reported(self, loop, error_contexts):
        def handler():
            loop.stop()
            raise LookupError("in the handler")

        loop.add_signal_handler(SIGNAL, handler)
        loop.call_soon(raise_signal)
        loop.run_forever()
        assert isinstance(error_contexts.pop()["exception"], LookupError)

    def test_keyboard_interrupt_from_a_handler_leaves(self, loop):
        def handler():
            raise KeyboardInterrupt

        loop.add_signal_handler(SIGNAL, handler)
        loop.call_soon(raise_signal)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()

    def test_refuses_bad_signals(self, loop):
        with pytest.raises(TypeError):
            loop.add_signal_handler("SIGUSR1", print)
        for number in (0, -1, signal.NSIG, 10_000):
            with pytest.raises(ValueError):
                loop.add_signal_handler(number, print)
        with pytest.raises(RuntimeError, match="sig 9 cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, print)

    def test_refuses_coroutines(self, loop):
        async def coroutine_function():
            pass

        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.add_signal_handler(SIGNAL, coroutine_function)
        coroutine = coroutine_function()
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.add_signal_handler(SIGNAL, coroutine)
        coroutine.close()

    def test_refuses_on_a_closed_loop(self, loop):
        loop.close()
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(SIGNAL, print)

    def test_refuses_outside_the_main_thread(self, loop):
        errors = []

        def work():
            try:
                loop.add_signal_handler(SIGNAL, print)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(errors) == 1
        assert signal.getsignal(SIGNAL) is signal.SIG_DFL


class TestRemoveSignalHandler:
    def test_restores_the_default(self, loop):
        loop.add_signal_handler(SIGNAL, print)
        assert signal.getsignal(SIGNAL) is not signal.SIG_DFL
        assert loop.remove_signal_handler(SIGNAL) is True
        assert signal.getsignal(SIGNAL) is signal.SIG_DFL

    def test_restores_ctrl_c(self, loop):
        loop.add_signal_handler(signal.SIGINT, print)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert loop.remove_signal_handler(signal.SIGINT) is True
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_of_none(self, loop):
        assert loop.remove_signal_handler(SIGNAL) is False
        loop.add_signal_handler(SIGNAL, print)
        loop.remove_signal_handler(SIGNAL)
        assert loop.remove_signal_handler(SIGNAL) is False

    def test_refuses_bad_signals(self, loop):
        with pytest.raises(TypeError):
            loop.remove_signal_handler("SIGUSR1")
        with pytest.raises(ValueError):
            loop.remove_signal_handler(10_000)

    def test_by_close(self, loop):
        loop.add_signal_handler(SIGNAL, print)
        loop.add_signal_handler(signal.SIGINT, print)
        loop.close()
        assert signal.getsignal(SIGNAL) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class TestOtherHandlers:
    """Handlers set with `signal.signal` run while the loop waits, and may raise through it."""

    def test_runs_while_waiting(self, loop):
        calls = []

        def handler(number, frame):
            calls.append(number)
            loop.call_soon_threadsafe(loop.stop)

        signal.signal(SIGNAL, handler)
        thread = threading.Thread(target=raise_signal)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert calls == [SIGNAL]

    def test_its_exception_leaves_the_loop(self, loop):
        class Alarm(Exception):
            pass

        def handler(number, frame):
            raise Alarm

        signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Alarm):
                loop.run_forever()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert not loop.is_running()
        turns(loop)

    def test_a_wakeup_descriptor_of_the_program_is_left_alone(self, loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            signal.set_wakeup_fd(ours.fileno())
            try:
                turns(loop)
                loop.close()
            finally:
                assert signal.set_wakeup_fd(-1) == ours.fileno()


class TestCtrlC:
    """A SIGINT ends a program as it does under asyncio: with KeyboardInterrupt, exit code -2."""

    def interrupt(self, body, spec, *, asleep=True):
        """Run `body`, interrupt it once it says "ready", and return how it ended."""
        with child(*script(body, spec)) as program:
            program.expect("ready")
            if asleep:
                program.wait_until_asleep()
            program.interrupt()
            return program.finish()

    def check_interrupted(self, outcome, output=""):
        assert outcome.last_error == "KeyboardInterrupt", outcome.errors
        assert outcome.output == output
        assert outcome.code == -signal.SIGINT

    def test_while_waiting_for_nothing(self, loop_spec):
        outcome = self.interrupt(
            """
            loop = new_event_loop()
            loop.call_soon(say, "ready")
            try:
                loop.run_forever()
            finally:
                say(loop.is_running())
                loop.close()
            """,
            loop_spec,
        )
        self.check_interrupted(outcome, "False\n")

    def test_while_waiting_for_a_timer(self, loop_spec):
        outcome = self.interrupt(
            """
            async def main():
                say("ready")
                await asyncio.sleep(3600)

            loop = new_event_loop()
            task = loop.create_task(main())
            try:
                loop.run_until_complete(task)
            except KeyboardInterrupt:
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
                loop.close()
                say("cleaned up")
                raise
            """,
            loop_spec,
        )
        self.check_interrupted(outcome, "cleaned up\n")

    def test_while_waiting_for_a_peer(self, loop_spec):
        outcome = self.interrupt(
            """
            streams = []

            async def main():
                server = await asyncio.start_server(
                    lambda *pair: streams.append(pair), "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                say("ready")
                await reader.read()

            import warnings
            warnings.simplefilter("ignore")
            loop = new_event_loop()
            loop.run_until_complete(main())
            """,
            loop_spec,
        )
        self.check_interrupted(outcome)

    def test_while_busy_in_a_callback(self, loop_spec):
        outcome = self.interrupt(
            """
            def busy():
                try:
                    say("ready")
                    while True:
                        pass
                finally:
                    say("left the callback")

            loop = new_event_loop()
            loop.call_soon(busy)
            try:
                loop.run_forever()
            finally:
                loop.close()
            """,
            loop_spec,
            asleep=False,
        )
        self.check_interrupted(outcome, "left the callback\n")

    def test_while_callbacks_keep_coming(self, loop_spec):
        """A loop that never waits still hears the signal."""
        # The jump back of its `while True` stands outside of its `try`.
        skip_stock_bug(loop_spec, PYTHON >= (3, 11), "an interrupt may leave it running")
        outcome = self.interrupt(
            """
            def again():
                loop.call_soon(again)

            loop = new_event_loop()
            loop.call_soon(say, "ready")
            loop.call_soon(again)
            try:
                loop.run_forever()
            finally:
                loop.close()
            """,
            loop_spec,
            asleep=False,
        )
        self.check_interrupted(outcome)

    def test_the_loop_can_go_on(self, loop_spec):
        outcome = self.interrupt(
            """
            loop = new_event_loop()
            loop.call_soon(say, "ready")
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                say("caught")
            say(loop.run_until_complete(asyncio.sleep(0.001, "goes on")))
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "caught\ngoes on\n"

    def test_in_a_loop_of_another_thread(self, loop_spec):
        """The main thread gets it; the loop is not disturbed."""
        outcome = self.interrupt(
            """
            loop = new_event_loop()
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            try:
                say("ready")
                time.sleep(3600)
            except KeyboardInterrupt:
                say(loop.is_running())
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "True\n"

    def test_with_a_handler_of_the_loop(self, loop_spec):
        outcome = self.interrupt(
            """
            async def main():
                stop = asyncio.Event()
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
                say("ready")
                await stop.wait()
                say("stopped")

            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "stopped\n"

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_cancels_the_main_task(self, loop_spec):
        outcome = self.interrupt(
            """
            async def main():
                try:
                    say("ready")
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.001)
                    say("cancelled")
                    raise

            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
            """,
            loop_spec,
        )
        self.check_interrupted(outcome, "cancelled\n")

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_second_ctrl_c_does_not_wait(self, loop_spec):
        body = """
            async def main():
                try:
                    say("ready")
                    await asyncio.sleep(3600)
                finally:
                    say("cleaning up")
                    time.sleep(3600)

            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
            """
        with child(*script(body, loop_spec)) as program:
            program.expect("ready")
            program.wait_until_asleep()
            program.interrupt()
            program.expect("cleaning up")
            program.wait_until_asleep()
            program.interrupt()
            outcome = program.finish()
        self.check_interrupted(outcome)

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_main_task_that_carries_on(self, loop_spec):
        outcome = self.interrupt(
            """
            async def main():
                try:
                    say("ready")
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    asyncio.current_task().uncancel()
                    return "carried on"

            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                say(runner.run(main()))
            """,
            loop_spec,
        )
        assert outcome.check() == "carried on\n"

    def test_sigterm_just_ends_it(self, loop_spec):
        body = """
            loop = new_event_loop()
            loop.call_soon(say, "ready")
            loop.run_forever()
            """
        with child(*script(body, loop_spec)) as program:
            program.expect("ready")
            program.interrupt(signal.SIGTERM)
            assert program.finish().code == -signal.SIGTERM
