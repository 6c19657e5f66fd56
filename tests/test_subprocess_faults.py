"""Subprocesses when things go wrong: nothing is left behind, and the loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from .processes import ProcessRecorder, children
from .support import descriptors, hops, module_of, skip_stock_bug, until

LOSES_AN_EXCEPTION = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.subprocess never asks how the input's end came"
)


@pytest.fixture
def nothing_left(loop):
    """Checks at the end of a block that its descriptors and children are gone."""

    @contextlib.asynccontextmanager
    async def nothing_left():
        before = set(descriptors()), children()
        yield
        await until(lambda: (set(descriptors()), children()) == before)

    return nothing_left


async def goes_on(loop):
    """Whether children can still be run."""
    transport, protocol = await loop.subprocess_exec(ProcessRecorder, "echo", "well")
    await protocol.lost()
    transport.close()
    return transport.get_returncode() == 0 and protocol.output[1] == b"well\n"


class TestExecFailures:
    @pytest.mark.parametrize("pipes", [None, subprocess.PIPE], ids=["quiet", "pipes"])
    async def test_no_such_program(self, loop, nothing_left, pipes):
        streams = {"stdin": pipes, "stdout": pipes, "stderr": pipes}
        async with nothing_left():
            with pytest.raises(FileNotFoundError) as info:
                await loop.subprocess_exec(ProcessRecorder, "/no/such/program", **streams)
            assert info.value.filename == "/no/such/program"
        assert await goes_on(loop)

    async def test_no_program(self, loop, nothing_left, folder):
        async with nothing_left():
            with pytest.raises(PermissionError) as info:
                await loop.subprocess_exec(ProcessRecorder, str(folder))
            assert info.value.filename == str(folder)
        assert await goes_on(loop)

    async def test_no_such_directory(self, loop, nothing_left):
        async with nothing_left():
            with pytest.raises(FileNotFoundError) as info:
                await loop.subprocess_exec(ProcessRecorder, "true", cwd="/no/such/directory")
            assert info.value.filename == "/no/such/directory"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork, with threads, from 3.12
    async def test_a_preexec_fn_that_fails(self, loop, nothing_left):
        async with nothing_left():
            with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
                await loop.subprocess_exec(ProcessRecorder, "true", preexec_fn=lambda: 1 // 0)

    @pytest.mark.parametrize(
        ("arguments", "options", "error"),
        [
            (("a\0b",), {}, ValueError),
            ((1,), {}, TypeError),
            (("true",), {"env": {"A=B": "c"}}, ValueError),
            (("true",), {"stdin": "neither file nor number"}, AttributeError),
        ],
    )
    async def test_arguments_that_popen_refuses(
        self, loop, nothing_left, arguments, options, error
    ):
        async with nothing_left():
            with pytest.raises(error):
                await loop.subprocess_exec(ProcessRecorder, *arguments, **options)

    async def test_a_pipe_that_cannot_be_connected(self, loop, nothing_left, monkeypatch):
        if sys.version_info < (3, 14) and type(loop).__module__.startswith("asyncio"):
            pytest.skip("asyncio waits for ever, or leaves the pipes open")

        async def connect_read_pipe(factory, pipe):
            raise OSError(errno.ENOSPC, "no more watches")

        async with nothing_left():
            with monkeypatch.context() as patch:
                patch.setattr(loop, "connect_read_pipe", connect_read_pipe)
                with pytest.raises(OSError, match="no more watches"):
                    await loop.subprocess_exec(ProcessRecorder, "cat")
        assert await goes_on(loop)


class TestCancellation:
    @pytest.mark.parametrize("turns", range(10))
    async def test_subprocess_exec(self, loop, loop_spec, nothing_left, turns):
        skip_stock_bug(loop_spec, sys.version_info < (3, 14), "pipes stay open until collected")
        recorder = ProcessRecorder()
        async with nothing_left():
            task = loop.create_task(loop.subprocess_exec(lambda: recorder, "cat"))
            await hops(turns)
            if task.done():
                transport, _ = task.result()
                transport.close()
                await recorder.lost()
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await hops(5)
        assert recorder.calls.count("connection_made") <= 1
        assert await goes_on(loop)

    async def test_twice(self, loop, loop_spec, nothing_left):
        skip_stock_bug(loop_spec, sys.version_info < (3, 14), "pipes stay open until collected")
        async with nothing_left():
            task = loop.create_task(loop.subprocess_exec(ProcessRecorder, "cat"))
            await hops(2)
            task.cancel()
            await hops()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await goes_on(loop)

    async def test_while_a_grandchild_has_the_pipes(self, loop, loop_spec, nothing_left, folder):
        if module_of(loop_spec) == "asyncio":
            pytest.skip("pipes that are connected after the cancellation stay open")
        path = folder / "pid"
        command = f"sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; cat"
        task = loop.create_task(loop.subprocess_shell(ProcessRecorder, command))
        before = set(descriptors())
        await hops(2)
        while not path.exists():  # without giving the task a turn
            os.sched_yield()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: set(descriptors()) == before)
        os.kill(int(path.read_text()), signal.SIGKILL)

    @LOSES_AN_EXCEPTION
    async def test_communicate(self, loop, nothing_left):
        async with nothing_left():
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            task = loop.create_task(process.communicate(bytes(1 << 20)))
            await hops(5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            process._transport.close()  # kills
            assert await process.wait() == -signal.SIGKILL
            del process, task

    async def test_wait(self, loop, nothing_left):
        async with nothing_left():
            process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
            task = loop.create_task(process.wait())
            await hops(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            process.stdin.close()
            assert await process.wait() == 0


class TestSuddenEnds:
    async def test_killed_while_it_writes(self, loop, nothing_left):
        async with nothing_left():
            transport, protocol = await loop.subprocess_exec(
                ProcessRecorder, "cat", "/dev/zero", stdin=None
            )
            await protocol.until(lambda: len(protocol.output[1]) > 1 << 20)
            os.kill(transport.get_pid(), signal.SIGKILL)
            await protocol.lost()
            transport.close()
        assert transport.get_returncode() == -signal.SIGKILL
        assert protocol.errors == {1: None, 2: None}

    async def test_killed_while_it_is_written_to(self, loop, nothing_left):
        async with nothing_left():
            transport, protocol = await loop.subprocess_exec(ProcessRecorder, "sleep", "1000")
            stdin = transport.get_pipe_transport(0)
            stdin.write(bytes(1 << 20))
            assert stdin.get_write_buffer_size() > 0
            assert "pause_writing" in protocol.calls
            os.kill(transport.get_pid(), signal.SIGKILL)
            await protocol.lost()
            transport.close()
        assert isinstance(protocol.errors[0], BrokenPipeError)
        assert protocol.errors[1] is None

    async def test_written_to_after_its_end(self, loop, loop_spec, nothing_left):
        if module_of(loop_spec) == "asyncio" and sys.version_info < (3, 12):
            pytest.skip("a thread of asyncio's may have reaped the child")
        async with nothing_left():
            transport, protocol = await loop.subprocess_exec(ProcessRecorder, "cat")
            stdin = transport.get_pipe_transport(0)
            transport.kill()
            os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
            stdin.write(b"nobody reads this")
            await protocol.lost()
            transport.close()
        assert transport.get_returncode() == -signal.SIGKILL

    @LOSES_AN_EXCEPTION
    async def test_communicate_with_one_that_does_not_read(self, loop, nothing_left):
        async with nothing_left():
            process = await asyncio.create_subprocess_exec(
                "true", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert await process.communicate(bytes(1 << 20)) == (b"", None)
            assert process.returncode == 0
            del process

    async def test_a_protocol_that_raises(self, loop, error_contexts):
        class Failing(ProcessRecorder):
            def pipe_data_received(self, fd, data):
                raise LookupError(f"data of {fd}")

            def process_exited(self):
                raise LookupError("exit")

        transport, protocol = await loop.subprocess_exec(Failing, "echo", "a")
        await protocol.lost()
        transport.close()
        assert {str(context["exception"]) for context in error_contexts} == {"data of 1", "exit"}
        error_contexts.clear()


class TestMany:
    @pytest.mark.timeout(180)
    async def test_five_hundred_at_once(self, loop, nothing_left):
        async with nothing_left():
            start = [loop.subprocess_exec(ProcessRecorder, "cat", stderr=None) for _ in range(500)]
            running = await asyncio.gather(*start)
            assert len({transport.get_pid() for transport, _ in running}) == 500
            for number, (transport, _) in enumerate(running):
                stdin = transport.get_pipe_transport(0)
                stdin.write(b"%d" % number)
                stdin.write_eof()
            for number, (transport, protocol) in enumerate(running):
                await protocol.lost()
                assert transport.get_returncode() == 0
                assert protocol.output[1] == b"%d" % number
                transport.close()
            del start, running

    async def test_one_after_another(self, loop, nothing_left):
        async with nothing_left():
            for _ in range(30):
                assert await goes_on(loop)

    async def test_no_more_descriptors(self, loop, nothing_left):
        if sys.version_info < (3, 11):
            pytest.skip("Popen itself leaves pipes open")
        assert await goes_on(loop)  # everything is imported
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = set(descriptors())
        free = sorted(set(range(max(used) + 20)) - used)
        refused = 0
        for available in range(14):
            async with nothing_left():
                resource.setrlimit(resource.RLIMIT_NOFILE, (free[available], hard))
                try:
                    await goes_on(loop)
                except OSError as error:
                    assert error.errno == errno.EMFILE
                    refused += 1
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 0 < refused < 14
        assert await goes_on(loop)
