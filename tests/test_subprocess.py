"""Subprocesses (event loop page: "Running Subprocesses"): starting them, their transports."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from .processes import PYTHON, ProcessRecorder
from .support import module_of, run_limited, until

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")


@pytest.fixture
def spawn(loop):
    """Runs commands; their transports are closed after the test."""
    started = []

    async def spawn(*command, shell=False, **options):
        start = loop.subprocess_shell if shell else loop.subprocess_exec
        transport, protocol = await start(ProcessRecorder, *command, **options)
        started.append((transport, protocol))
        return transport, protocol

    async def close():
        for transport, protocol in started:
            transport.close()
            await protocol.lost()

    yield spawn
    run_limited(loop, close())


@pytest.fixture
def output_of(spawn):
    """What a command prints, given all of its input."""

    async def output_of(*command, input=b"", **options):
        transport, protocol = await spawn(*command, **options)
        stdin = transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.write(input)
            stdin.close()
        await protocol.lost()
        assert transport.get_returncode() == 0, protocol.output
        return bytes(protocol.output[1])

    return output_of


class TestStarting:
    async def test_returns_transport_and_protocol(self, loop, spawn):
        transport, protocol = await spawn("cat")
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert protocol.transport is transport
        assert protocol.calls == ["connection_made"]

    async def test_exec(self, output_of):
        code = "import sys; print(sys.argv[1:], sys.stdin.read())"
        printed = await output_of(*PYTHON, code, "a b", "$HOME", input=b"hello")
        assert printed == b"['a b', '$HOME'] hello\n"

    async def test_exec_takes_what_popen_takes(self, output_of):
        assert await output_of(b"echo", Path("a"), "b", b"c") == b"a b c\n"

    @pytest.mark.parametrize("command", ["echo $((1 + 1)) | cat", b"echo $((1 + 1)) | cat"])
    async def test_shell(self, output_of, command):
        assert await output_of(command, shell=True) == b"2\n"

    async def test_streams_of_its_parent(self, spawn):
        transport, protocol = await spawn("true", stdin=None, stdout=None, stderr=None)
        await protocol.lost()
        assert [transport.get_pipe_transport(fd) for fd in range(3)] == [None] * 3
        assert "pipe_connection_lost 1" not in protocol.calls

    async def test_streams_to_nowhere(self, output_of):
        await output_of("cat", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def test_streams_of_files(self, output_of, folder):
        (folder / "in").write_bytes(b"from a file")
        with (folder / "in").open("rb") as stdin, (folder / "out").open("wb") as stdout:
            await output_of("cat", stdin=stdin, stdout=stdout)
        assert (folder / "out").read_bytes() == b"from a file"

    async def test_standard_error_with_the_output(self, spawn):
        transport, protocol = await spawn("echo a >&2", shell=True, stderr=subprocess.STDOUT)
        await protocol.printed(b"a\n")
        assert transport.get_pipe_transport(2) is None

    async def test_standard_error_apart(self, spawn):
        _, protocol = await spawn("echo a; echo b >&2", shell=True)
        await protocol.lost()
        assert protocol.output == {1: b"a\n", 2: b"b\n"}

    async def test_a_protocol_factory_that_fails(self, loop):
        def factory():
            raise LookupError("no protocol")

        with pytest.raises(LookupError, match="no protocol"):
            await loop.subprocess_exec(factory, "true")

    async def test_a_coroutine_of_another_task(self, spawn):
        transport, protocol = await asyncio.create_task(spawn("cat"))
        transport.get_pipe_transport(0).close()
        await protocol.lost()
        assert transport.get_returncode() == 0


def room(transport):
    """How much the pipe of a transport holds."""
    return fcntl.fcntl(transport.get_extra_info("pipe").fileno(), 1032)  # F_GETPIPE_SZ


def waiting(transport):
    """How much is in the pipe of a transport."""
    number = transport.get_extra_info("pipe").fileno()
    return int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture
def grown(loop_spec):
    """What a child's pipe that was full once holds."""
    if module_of(loop_spec) == "asyncio":
        return 64 * 1024
    reader, writer = os.pipe()
    try:
        return fcntl.fcntl(writer, 1031, 256 * 1024)  # F_SETPIPE_SZ
    except PermissionError:  # too much is in the user's pipes
        return 64 * 1024
    finally:
        os.close(reader)
        os.close(writer)


class TestPipeSize:
    async def print_all(self, spawn, count, **options):
        """The transport of a pipe by which `count` bytes came, more than it holds at first."""
        command = f"head -c {count} /dev/zero; exec cat"
        transport, protocol = await spawn(command, shell=True, **options)
        stdout = transport.get_pipe_transport(1)
        stdout.pause_reading()
        size = room(stdout)
        await until(lambda: waiting(stdout) + len(protocol.output[1]) >= size)
        stdout.resume_reading()
        await protocol.printed(bytes(count))
        return stdout

    async def test_a_pipe_that_was_never_full(self, spawn):
        transport, protocol = await spawn("cat")
        transport.get_pipe_transport(0).write(b"a")
        await protocol.printed(b"a")
        assert room(transport.get_pipe_transport(1)) == 64 * 1024

    async def test_output_that_fills_its_pipe(self, spawn, grown):
        assert room(await self.print_all(spawn, 1_000_000)) == grown

    async def test_standard_error_stays(self, spawn):
        transport, protocol = await spawn("head -c 1000000 /dev/zero; exec cat", shell=True)
        await protocol.printed(bytes(1_000_000))
        assert room(transport.get_pipe_transport(2)) == 64 * 1024

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="a socket before 3.12")
    async def test_input_that_fills_its_pipe(self, spawn, grown):
        transport, protocol = await spawn("read line; exec cat", shell=True)
        stdin = transport.get_pipe_transport(0)
        # The shell reads its line byte by byte, so the pipe is full long before its end.
        stdin.write(b"x" * 199_999 + b"\n")
        assert stdin.get_write_buffer_size() > 0
        stdin.write(b"the rest")
        await protocol.printed(b"the rest")
        assert room(stdin) == grown

    @pytest.mark.parametrize("size", [8192, 64 * 1024])
    async def test_a_size_that_was_asked_for_stays(self, spawn, size):
        assert room(await self.print_all(spawn, 1_000_000, pipesize=size)) == size

    async def test_a_size_that_was_set_stays(self, spawn):
        command = "read line; head -c 1000000 /dev/zero; exec cat"
        transport, protocol = await spawn(command, shell=True)
        stdout = transport.get_pipe_transport(1)
        fcntl.fcntl(stdout.get_extra_info("pipe").fileno(), 1031, 32 * 1024)  # F_SETPIPE_SZ
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.printed(bytes(1_000_000))
        assert room(stdout) == 32 * 1024


class TestPopenKeywords:
    async def test_cwd(self, output_of, folder):
        assert await output_of("pwd", "-P", cwd=folder) == os.fsencode(folder.resolve()) + b"\n"

    async def test_env(self, output_of):
        assert await output_of("/usr/bin/env", env={"ONLY": "this"}) == b"ONLY=this\n"

    async def test_executable(self, output_of):
        assert await output_of("not sh", "-c", "echo $0", executable="/bin/sh") == b"not sh\n"

    async def test_executable_of_a_shell(self, output_of, folder):
        path = folder / "shell"
        path.symlink_to("/bin/sh")
        assert await output_of("echo $0", shell=True, executable=path) == os.fsencode(path) + b"\n"

    async def test_pass_fds(self, output_of):
        reader, writer = os.pipe()
        code = f"import os; os.write({writer}, b'passed')"
        await output_of(*PYTHON, code, pass_fds=[writer])
        assert os.read(reader, 10) == b"passed"
        os.close(reader)
        os.close(writer)

    async def test_close_fds(self, output_of):
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        code = f"import os; os.write({writer}, b'inherited')"
        await output_of(*PYTHON, code, close_fds=False)
        assert os.read(reader, 10) == b"inherited"
        os.close(reader)
        os.close(writer)

    async def test_restore_signals(self, output_of):
        # Python ignores SIGPIPE, and so would its children.
        code = "grep SigIgn /proc/$$/status"
        kept = await output_of(code, shell=True, restore_signals=False)
        restored = await output_of(code, shell=True)
        bit = 1 << (signal.SIGPIPE - 1)
        assert int(kept.split()[1], 16) & bit
        assert not int(restored.split()[1], 16) & bit

    async def test_start_new_session(self, output_of):
        code = "import os; print(os.getsid(0) == os.getpid())"
        assert await output_of(*PYTHON, code, start_new_session=True) == b"True\n"
        assert await output_of(*PYTHON, code) == b"False\n"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="since 3.11")
    async def test_process_group(self, output_of):
        code = "import os; print(os.getpgid(0) == os.getpid())"
        assert await output_of(*PYTHON, code, process_group=0) == b"True\n"
        assert await output_of(*PYTHON, code) == b"False\n"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork, with threads, from 3.12
    async def test_preexec_fn(self, output_of):
        assert await output_of("pwd", preexec_fn=lambda: os.chdir("/")) == b"/\n"

    async def test_umask(self, output_of):
        assert await output_of("umask", shell=True, umask=0o027) == b"0027\n"

    async def test_pipesize(self, spawn):
        transport, _ = await spawn("cat", pipesize=8192)
        assert room(transport.get_pipe_transport(1)) == 8192

    @ROOT
    async def test_user_and_groups(self, output_of):
        ids = {"user": 65534, "group": 65533, "extra_groups": [5, 6]}
        command = "id -u; id -g; id -G"
        assert await output_of(command, shell=True, **ids) == b"65534\n65533\n65533 5 6\n"

    async def test_no_such_keyword(self, loop):
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            await loop.subprocess_exec(ProcessRecorder, "true", nonsense=1)

    @pytest.mark.parametrize(
        ("argument", "value", "message"),
        [
            ("universal_newlines", True, "universal_newlines must be False"),
            ("bufsize", 4096, "bufsize must be 0"),
            ("text", True, "text must be False"),
            ("encoding", "utf-8", "encoding must be None"),
            ("errors", "strict", "errors must be None"),
        ],
    )
    async def test_no_text(self, loop, argument, value, message):
        options = {argument: value}
        with pytest.raises(ValueError, match=message):
            await loop.subprocess_exec(ProcessRecorder, "true", **options)
        with pytest.raises(ValueError, match=message):
            await loop.subprocess_shell(ProcessRecorder, "true", **options)

    async def test_the_wrong_kind(self, loop):
        with pytest.raises(ValueError, match="shell must be False"):
            await loop.subprocess_exec(ProcessRecorder, "true", shell=True)
        with pytest.raises(ValueError, match="shell must be True"):
            await loop.subprocess_shell(ProcessRecorder, "true", shell=False)
        with pytest.raises(ValueError, match="cmd must be a string"):
            await loop.subprocess_shell(ProcessRecorder, ["true"])

    async def test_arguments_are_checked_in_order(self, loop):
        options = {"errors": "", "encoding": "", "text": 1, "bufsize": 1, "shell": 1}
        refused = []
        while options:
            with pytest.raises(ValueError) as info:
                await loop.subprocess_exec(ProcessRecorder, "true", **options)
            refused.append(str(info.value).split()[0])
            del options[refused[-1]]
        assert refused == ["shell", "bufsize", "text", "encoding", "errors"]


class TestTransport:
    async def test_pid(self, spawn):
        transport, protocol = await spawn("echo $$", shell=True)
        await protocol.printed(b"%d\n" % transport.get_pid())

    async def test_popen(self, spawn):
        transport, _ = await spawn("cat")
        process = transport.get_extra_info("subprocess")
        assert isinstance(process, subprocess.Popen)
        assert process.pid == transport.get_pid()
        assert transport.get_extra_info("nothing", 7) == 7

    async def test_pipe_transports(self, spawn):
        transport, _ = await spawn("cat")
        stdin, stdout, stderr = (transport.get_pipe_transport(fd) for fd in range(3))
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(stdout, asyncio.ReadTransport)
        assert isinstance(stderr, asyncio.ReadTransport)
        process = transport.get_extra_info("subprocess")
        assert stdin.get_extra_info("pipe") is process.stdin
        assert stdout.get_extra_info("pipe") is process.stdout
        assert stderr.get_extra_info("pipe") is process.stderr
        assert transport.get_pipe_transport(3) is None
        assert transport.get_pipe_transport(-1) is None

    async def test_returncode(self, spawn):
        transport, protocol = await spawn("read x; exit 7", shell=True)
        assert transport.get_returncode() is None
        transport.get_pipe_transport(0).close()
        await protocol.lost()
        assert transport.get_returncode() == 7
        assert transport.get_extra_info("subprocess").returncode == 7

    @pytest.mark.parametrize(
        ("send", "number"),
        [
            (lambda transport: transport.kill(), signal.SIGKILL),
            (lambda transport: transport.terminate(), signal.SIGTERM),
            (lambda transport: transport.send_signal(signal.SIGHUP), signal.SIGHUP),
        ],
        ids=["kill", "terminate", "send_signal"],
    )
    async def test_signals(self, spawn, send, number):
        transport, protocol = await spawn("cat")
        send(transport)
        await protocol.lost()
        assert transport.get_returncode() == -number

    async def test_signals_after_the_end(self, spawn):
        transport, protocol = await spawn("true")
        await protocol.lost()
        for send in (transport.kill, transport.terminate, lambda: transport.send_signal(1)):
            with pytest.raises(ProcessLookupError):
                send()

    async def test_close_kills(self, spawn):
        transport, protocol = await spawn("cat")
        assert not transport.is_closing()
        transport.close()
        transport.close()
        assert transport.is_closing()
        await protocol.lost()
        assert transport.get_returncode() == -signal.SIGKILL
        assert protocol.error is None

    async def test_close_after_the_end(self, spawn):
        transport, protocol = await spawn("true")
        await protocol.lost()
        transport.close()
        assert transport.get_returncode() == 0
        assert protocol.calls.count("connection_lost") == 1

    async def test_repr(self, spawn):
        transport, protocol = await spawn("cat", stderr=subprocess.STDOUT)
        pid = transport.get_pid()
        stdin, stdout = (transport.get_pipe_transport(fd) for fd in range(2))
        name = "_UnixSubprocessTransport"
        expected = f"<{name} pid={pid} running stdin={stdin!r} stdout={stdout!r}>"
        assert repr(transport) == expected
        transport.close()
        assert repr(transport).startswith(f"<{name} closed pid={pid} running ")
        await protocol.lost()
        assert repr(transport).startswith(f"<{name} closed pid={pid} returncode=-9 ")

    async def test_protocol(self, spawn):
        transport, first = await spawn("echo a; read x; echo b", shell=True)
        await first.printed(b"a\n")
        assert transport.get_protocol() is first
        second = ProcessRecorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.get_pipe_transport(0).write(b"\n")
        await second.lost()
        assert second.output[1] == b"b\n"
        assert first.calls == ["connection_made", "pipe_data_received 1"]
        first.record("connection_lost")  # for `spawn`, which waits for it


class TestProtocol:
    async def test_all_of_a_life(self, spawn):
        transport, protocol = await spawn("cat; echo end >&2", shell=True)
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"hello")
        await protocol.printed(b"hello")
        stdin.write_eof()
        await protocol.lost()
        calls = protocol.calls
        assert calls[:2] == ["connection_made", "pipe_data_received 1"]
        assert sorted(calls[2:-1]) == [
            "pipe_connection_lost 0",
            "pipe_connection_lost 1",
            "pipe_connection_lost 2",
            "pipe_data_received 2",
            "process_exited",
        ]
        assert calls.index("pipe_data_received 2") < calls.index("pipe_connection_lost 2")
        assert calls[-1] == "connection_lost"
        assert protocol.errors == {0: None, 1: None, 2: None}
        assert protocol.error is None

    async def test_process_exited_waits_for_no_pipe(self, spawn):
        # A grandchild keeps the pipes open.
        transport, protocol = await spawn("sleep 1000 & echo $!", shell=True)
        await protocol.called("process_exited")
        assert "connection_lost" not in protocol.calls
        assert transport.get_returncode() == 0
        await protocol.until(lambda: protocol.output[1].endswith(b"\n"))
        os.kill(int(protocol.output[1]), signal.SIGKILL)
        await protocol.lost()

    async def test_connection_lost_waits_for_the_exit(self, spawn):
        command = "exec <&- >&- 2>&-; exec sleep 1000"
        transport, protocol = await spawn(command, shell=True)
        for fd in range(3):
            await protocol.called(f"pipe_connection_lost {fd}")
        assert transport.get_returncode() is None
        assert protocol.calls[-1] != "connection_lost"
        transport.kill()
        await protocol.lost()

    async def test_what_is_unread_when_it_exits(self, spawn):
        size = 60_000  # less than a pipe holds
        transport, protocol = await spawn(*PYTHON, f"input(); print('x' * {size - 1})")
        transport.get_pipe_transport(1).pause_reading()
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.called("process_exited")
        assert protocol.output[1] == b""
        transport.get_pipe_transport(1).resume_reading()
        await protocol.lost()
        assert len(protocol.output[1]) == size

    async def test_flow_control(self, spawn):
        transport, protocol = await spawn("read x; exec cat > /dev/null", shell=True)
        stdin = transport.get_pipe_transport(0)
        os.kill(transport.get_pid(), signal.SIGSTOP)
        while "pause_writing" not in protocol.calls:
            stdin.write(bytes(65536))
        assert stdin.get_write_buffer_size() > 0
        os.kill(transport.get_pid(), signal.SIGCONT)
        stdin.write(b"\n")
        await protocol.called("resume_writing")
        stdin.close()
        await protocol.lost()
        assert transport.get_returncode() == 0

    async def test_closing_one_pipe(self, spawn):
        transport, protocol = await spawn("cat; read x; exit 3", shell=True)
        transport.get_pipe_transport(1).close()
        await protocol.called("pipe_connection_lost 1")
        transport.get_pipe_transport(0).close()
        await protocol.lost()
        assert transport.get_returncode() == 3


class TestDebugMode:
    async def test_log(self, loop, spawn, caplog):
        caplog.set_level(logging.DEBUG, logger="asyncio")
        loop.set_debug(True)
        transport, protocol = await spawn("true", stdin=None, stderr=subprocess.STDOUT)
        pid = transport.get_pid()
        await protocol.lost()
        loop.set_debug(False)
        said = [r.getMessage() for r in caplog.records]
        assert "execute program 'true' stdout=stderr=<pipe>" in said
        assert f"process 'true' created: pid {pid}" in said
        assert any(line.startswith("execute program 'true': <_UnixSub") for line in said)
        assert any(line.endswith(" exited with return code 0") for line in said)

    async def test_a_running_child_is_closed(self, loop, spawn, caplog):
        transport, protocol = await spawn("sleep", "1000", stdout=None, stderr=None)
        loop.set_debug(True)
        transport.close()
        loop.set_debug(False)
        await protocol.lost()
        assert "Close running child process: kill <_UnixSubprocessTransport" in caplog.text


class TestStreams:
    async def test_communicate(self, loop):
        process = await asyncio.create_subprocess_exec(
            "sort", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert await process.communicate(b"b\na\n") == (b"a\nb\n", None)
        assert process.returncode == 0

    async def test_shell_and_both_outputs(self, loop):
        process = await asyncio.create_subprocess_shell(
            "cat; echo b >&2; exit 3",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert await process.communicate(b"a") == (b"a", b"b\n")
        assert process.returncode == 3

    async def test_a_conversation(self, loop):
        code = "for line in open(0): print(line.upper(), end='', flush=True)"
        process = await asyncio.create_subprocess_exec(
            *PYTHON, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            await process.stdin.drain()
            assert await process.stdout.readline() == word.upper()
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.wait() == 0

    async def test_waited_for_by_several(self, loop):
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        process.stdin.close()
        assert await asyncio.gather(*waiting) == [0, 0, 0]

    @pytest.mark.timeout(180)
    async def test_one_hundred_megabytes_each_way(self, loop):
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        sent = os.urandom(1 << 20) * 100
        received, _ = await process.communicate(sent)
        assert received == sent
        assert process.returncode == 0
