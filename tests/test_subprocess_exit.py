"""How the loop learns that a child has exited: without signals, threads or polling."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from .processes import ProcessRecorder, children
from .support import module_of, run_limited, run_script, skip_stock_bug, until

QUIET = {"stdin": None, "stdout": None, "stderr": None}


@pytest.fixture
def no_pidfd(monkeypatch):
    """A kernel or sandbox without pidfd_open(2)."""

    def pidfd_open(pid, flags=0):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)


@pytest.fixture
def only_oxloop(loop_spec):
    if module_of(loop_spec) == "asyncio":
        pytest.skip("asyncio chooses its watcher once, by policy or version")


async def exit_of(loop, *command, **options):
    transport, protocol = await loop.subprocess_exec(ProcessRecorder, *command, **QUIET, **options)
    await protocol.lost()
    transport.close()
    return transport.get_returncode()


class TestWatching:
    @pytest.mark.usefixtures("only_oxloop")
    async def test_by_no_thread_and_no_signal(self, loop):
        before = signal.getsignal(signal.SIGCHLD), signal.set_wakeup_fd(-1)
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        assert threading.active_count() == 1
        assert (signal.getsignal(signal.SIGCHLD), signal.set_wakeup_fd(-1)) == before
        transport.close()
        await protocol.lost()

    async def test_leaves_no_zombie(self, loop):
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        pid = transport.get_pid()
        assert pid in children()
        transport.close()
        await protocol.lost()
        assert pid not in children()

    @pytest.mark.parametrize(
        ("command", "returncode"),
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", -9), ("kill $$", -15)],
    )
    async def test_returncode(self, loop, command, returncode):
        assert await exit_of(loop, "sh", "-c", command) == returncode

    async def test_a_stopped_child_has_not_exited(self, loop):
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        transport.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, transport.get_pid(), os.WSTOPPED)
        transport.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, transport.get_pid(), os.WCONTINUED)
        assert await exit_of(loop, "true") == 0
        assert transport.get_returncode() is None
        transport.close()
        await protocol.lost()

    async def test_the_programs_own_sigchld_handler(self, loop):
        seen = []
        old = signal.signal(signal.SIGCHLD, lambda *_: seen.append(signal.getsignal(17)))
        mine = signal.getsignal(signal.SIGCHLD)
        try:
            assert await exit_of(loop, "sh", "-c", "exit 3") == 3
            assert signal.getsignal(signal.SIGCHLD) is mine
        finally:
            signal.signal(signal.SIGCHLD, old)
        assert seen == [mine]

    async def test_a_sigchld_handler_of_the_loop(self, loop):
        arrived = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, arrived.set)
        assert await exit_of(loop, "sh", "-c", "exit 3") == 3
        await arrived.wait()
        assert loop.remove_signal_handler(signal.SIGCHLD)

    def test_a_watcher_of_asyncio(self, loop):
        # Nothing that such a watcher does keeps oxloop from seeing the exit, or the reverse.
        if not hasattr(asyncio, "SafeChildWatcher") or sys.version_info >= (3, 12):
            pytest.skip("no child watchers, or deprecated ones")
        watcher = asyncio.SafeChildWatcher()
        watcher.attach_loop(loop)
        old = asyncio.get_child_watcher()
        asyncio.set_child_watcher(watcher)
        try:
            assert run_limited(loop, exit_of(loop, "sh", "-c", "exit 3")) == 3
            process = subprocess.Popen(["sh", "-c", "exit 4"])
            exited = loop.create_future()
            watcher.add_child_handler(process.pid, lambda pid, code: exited.set_result(code))
            assert loop.run_until_complete(exited) == process.wait() or process.returncode == 0
            assert exited.result() == 4
        finally:
            asyncio.set_child_watcher(old)
            watcher.close()

    async def test_reaped_by_somebody_else(self, loop, caplog):
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        transport.kill()
        # In one callback: the loop learns of it afterwards, or had better not have yet.
        try:
            os.waitpid(transport.get_pid(), 0)
        except ChildProcessError:
            transport.close()
            await protocol.lost()
            pytest.skip("asyncio's thread was faster")
        await protocol.lost()
        transport.close()
        assert transport.get_returncode() == 255
        assert f"pid {transport.get_pid()}" in caplog.text
        assert "will report returncode 255" in caplog.text

    async def test_ignored_sigchld(self, loop, loop_spec, caplog):
        # The kernel reaps the children itself, perhaps before they can be watched.
        if module_of(loop_spec) == "asyncio":
            pytest.skip("asyncio: ProcessLookupError from time to time")
        old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            assert await exit_of(loop, "true") == 255
        finally:
            signal.signal(signal.SIGCHLD, old)
        assert "will report returncode 255" in caplog.text

    @pytest.mark.usefixtures("only_oxloop")
    async def test_gone_before_it_can_be_watched(self, loop, monkeypatch, caplog):
        real = os.pidfd_open

        def pidfd_open(pid, flags=0):
            os.waitpid(pid, 0)
            return real(pid, flags)

        monkeypatch.setattr(os, "pidfd_open", pidfd_open)
        assert await exit_of(loop, "true") == 255
        assert "will report returncode 255" in caplog.text
        assert threading.active_count() == 1


class TestSeveralLoops:
    def test_in_several_threads(self, loop_factory):
        outcomes = []

        async def work(code):
            loop = asyncio.get_running_loop()
            commands = [f"exit {code + i}" for i in range(5)]
            done = [exit_of(loop, "sh", "-c", command) for command in commands]
            outcomes.append(await asyncio.gather(*done) == [code + i for i in range(5)])

        def run(code):
            loop = loop_factory()
            try:
                run_limited(loop, work(code))
            finally:
                loop.close()

        threads = [threading.Thread(target=run, args=(10 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [True] * 4

    def test_one_after_another(self, loop_factory):
        for _ in range(3):
            loop = loop_factory()
            assert run_limited(loop, exit_of(loop, "true")) == 0
            loop.close()


@pytest.mark.usefixtures("only_oxloop", "no_pidfd")
class TestWithoutPidfd:
    async def test_returncode(self, loop):
        assert await exit_of(loop, "sh", "-c", "exit 7") == 7
        assert await exit_of(loop, "sh", "-c", "kill -9 $$") == -9

    async def test_a_thread_waits_and_ends(self, loop):
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        name = f"waitpid-{transport.get_pid()}"
        (thread,) = (each for each in threading.enumerate() if each.name == name)
        assert thread.daemon
        transport.close()
        await protocol.lost()
        thread.join()

    async def test_reaped_by_somebody_else(self, loop, caplog):
        transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
        transport.kill()
        os.waitpid(transport.get_pid(), 0)
        await protocol.lost()
        transport.close()
        assert transport.get_returncode() == 255
        assert "will report returncode 255" in caplog.text

    def test_a_closed_loop(self, loop_factory, caplog):
        loop = loop_factory()
        start = loop.subprocess_exec(ProcessRecorder, "sleep", "1000", **QUIET)
        transport, _ = run_limited(loop, start)
        pid = transport.get_pid()
        (thread,) = (each for each in threading.enumerate() if each.name == f"waitpid-{pid}")
        transport.close()
        loop.close()
        thread.join()
        assert f"Loop {loop!r} that handles pid {pid} is closed" in caplog.text
        assert pid not in children()
        transport.get_extra_info("subprocess").wait()  # so that it knows

    async def test_no_thread_either(self, loop, monkeypatch):
        def start(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        made = []

        class Popen(subprocess.Popen):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made.append(self)

        monkeypatch.setattr(subprocess, "Popen", Popen)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await loop.subprocess_exec(ProcessRecorder, "cat")
        (process,) = made
        assert process.wait() == -signal.SIGKILL
        pipes = process.stdin, process.stdout, process.stderr
        await until(lambda: all(pipe.closed for pipe in pipes))


class TestClosedLoop:
    def test_with_a_running_child(self, loop_spec):
        # It is not waited for any more; its transport says so when it is freed, and kills it.
        if module_of(loop_spec) == "asyncio" and sys.version_info < (3, 12):
            pytest.skip("a thread of asyncio's would reap the child")
        outcome = run_script(
            """
            import gc, subprocess
            loop = new_event_loop()
            quiet = dict(stdin=None, stdout=None, stderr=None)
            start = loop.subprocess_exec(asyncio.SubprocessProtocol, "sleep", "1000", **quiet)
            transport, _ = loop.run_until_complete(start)
            process = transport.get_extra_info("subprocess")
            loop.close()
            import warnings
            warnings.simplefilter("always")
            del transport, start
            gc.collect()
            say(process.wait())
            """,
            loop_spec,
        )
        assert (outcome.code, outcome.output) == (0, "-9\n")
        assert (
            "ResourceWarning: unclosed transport <_UnixSubprocessTransport pid=" in outcome.errors
        )

    def test_with_a_running_child_and_its_pipes(self, loop_spec):
        skip_stock_bug(
            loop_spec,
            sys.version_info < (3, 14),
            "'Event loop is closed' out of __del__ (gh-114177)",
        )
        outcome = run_script(
            """
            import gc, subprocess
            from asyncio import SubprocessProtocol
            loop = new_event_loop()
            start = loop.subprocess_exec(SubprocessProtocol, "sleep", "1000")
            transport, _ = loop.run_until_complete(start)
            process = transport.get_extra_info("subprocess")
            loop.close()
            del transport, _, start
            gc.collect()
            say(process.wait())
            say([pipe.closed for pipe in (process.stdin, process.stdout, process.stderr)])
            """,
            loop_spec,
        )
        assert (outcome.code, outcome.output) == (0, "-9\n[True, True, True]\n")
        assert "Exception ignored" not in outcome.errors

    @pytest.mark.usefixtures("only_oxloop")
    def test_what_it_says(self, loop_factory, caplog):
        caplog.set_level(logging.WARNING, logger="asyncio")
        loop = loop_factory()
        start = loop.subprocess_exec(ProcessRecorder, "sleep", "1000", **QUIET)
        transport, _ = run_limited(loop, start)
        process = transport.get_extra_info("subprocess")
        transport.close()
        loop.close()
        process.wait()
        said = f"Loop {loop!r} that handles pid {process.pid} is closed"
        # asyncio's pidfd watcher, the default from 3.12 on, says nothing.
        assert (said in caplog.text) == (sys.version_info < (3, 12))
        del transport
        gc.collect()
