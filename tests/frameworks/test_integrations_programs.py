"""Programs of docs/integrations.md that only `make integrations` and `make test` install."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.support import PYTHON, TIME_LIMIT, child

from .integrations import OURS, TEXT, ask, block, documented, output, serving, write

APART = Path(sys.prefix, "mitmproxy")
"""Where mitmproxy is installed, with all that it pins."""

pytestmark = pytest.mark.skipif(PYTHON >= (3, 16), reason="most of it needs policies")


def needs(distribution: str) -> Any:
    """Skip the test if that is not installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        missing = True
    else:
        missing = False
    return pytest.mark.skipif(
        missing, reason=f"{distribution}: not installed (see make integrations)"
    )


@pytest.fixture
def folder(folder: Path) -> Path:
    """With a module that tells the loop, for the programs in it."""
    code = """
        import asyncio

        def loop():
            kind = type(asyncio.get_running_loop())
            return f"{kind.__module__}.{kind.__qualname__}"
    """
    write(folder, "which.py", code)
    return folder


@needs("scrapy")
@pytest.mark.parametrize("reactor", ["True", "False"], ids=["with_twisted", "without_twisted"])
def test_scrapy(folder: Path, reactor: str) -> None:
    write(folder, "settings.py", documented('ASYNCIO_EVENT_LOOP = "oxloop.Loop"'))
    code = """
        import asyncio, scrapy, which

        class Spider(scrapy.Spider):
            name = "spider"

            async def start(self):
                yield scrapy.Request("data:,hello")

            async def parse(self, response):
                await asyncio.sleep(0.001)
                yield {"loop": which.loop(), "text": response.text}
    """
    write(folder, "spider.py", code)
    options = ("-s", f"TWISTED_REACTOR_ENABLED={reactor}", "-s", "TELNETCONSOLE_ENABLED=False")
    command = ("-m", "scrapy", "runspider", "spider.py", "--output", "items.json", *options)
    output(folder, *command, SCRAPY_SETTINGS_MODULE="settings", PYTHONPATH=".")
    assert json.loads((folder / "items.json").read_text()) == [{"loop": OURS, "text": "hello"}]


@needs("twisted")
def test_twisted(folder: Path) -> None:
    line = documented("asyncioreactor.install(oxloop.new_event_loop())")
    code = f"""
        import oxloop, which
        from twisted.internet import asyncioreactor

        {line}

        from twisted.internet import endpoints, protocol, reactor

        class Server(protocol.Protocol):
            def dataReceived(self, data):
                self.transport.write(data + which.loop().encode())

        class Client(protocol.Protocol):
            def connectionMade(self):
                self.transport.write(b"on ")

            def dataReceived(self, data):
                print(data.decode())
                self.transport.loseConnection()

            def connectionLost(self, reason):
                reactor.stop()

        def start():
            factory = protocol.Factory.forProtocol(Server)
            port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
            client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port)
            endpoints.connectProtocol(client, Client())

        reactor.callWhenRunning(start)
        reactor.run()
    """
    write(folder, "program.py", code)
    assert output(folder, "program.py").strip() == f"on {OURS}"


QUART = """
    import quart, which

    app = quart.Quart(__name__)

    @app.get("/")
    async def root():
        return which.loop()
"""


@needs("quart")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("app.run(loop=oxloop.new_event_loop())", "app.run(host='unix:http', "),
        ("oxloop.run(hypercorn.asyncio.serve(app, config))", ""),
    ],
    ids=["alone", "by_hypercorn"],
)
def test_quart(folder: Path, line: str, code: str) -> None:
    code = f"""
        import hypercorn.asyncio, oxloop
        from site_of_quart import app

        config = hypercorn.Config()
        config.bind = ["unix:http"]
        {documented(line).replace("app.run(", code)}
    """
    write(folder, "site_of_quart.py", QUART)
    write(folder, "serve.py", code)
    with serving(folder, "serve.py") as server:
        assert ask(server, folder / "http") == OURS
        assert server.stop(signal.SIGTERM) == 0, server.output


@needs("sanic")
@pytest.mark.parametrize("processes", ["--single-process", "--workers=1"])
def test_sanic(folder: Path, processes: str) -> None:
    code = """
        @app.get("/")
        async def root(request):
            return sanic.text(which.loop())

        @app.after_server_stop
        async def stopped(app):
            print("stopped on", which.loop(), flush=True)
    """
    write(folder, "server.py", f"import which\n{block('USE_UVLOOP')}{textwrap.dedent(code)}")
    line = documented("sanic server:app")
    with serving(folder, "-m", *shlex.split(line), "--unix=http", processes) as server:
        server.heard("Starting worker")  # which makes the socket anew
        assert ask(server, folder / "http") == OURS
        if processes != "--single-process":
            # A manager that gets SIGTERM before it has heard of its worker hangs, on any loop.
            os.killpg(server.process.pid, signal.SIGKILL)
            return
        assert server.stop(signal.SIGTERM) == 0, server.output
    assert f"stopped on {OURS}" in server.output
    assert "Traceback" not in server.output


@needs("grpcio")
def test_grpcio(folder: Path) -> None:
    line = documented("oxloop.run(main())")
    code = f"""
        import grpc.aio, oxloop, which

        async def unary(request, context):
            return request + which.loop().encode()

        async def stream(requests, context):
            async for request in requests:
                yield request + which.loop().encode()

        async def requests():
            for number in range(3):
                yield b"%d " % number

        async def main():
            server = grpc.aio.server()
            methods = {{
                "Unary": grpc.unary_unary_rpc_method_handler(unary),
                "Stream": grpc.stream_stream_rpc_method_handler(stream),
            }}
            handlers = grpc.method_handlers_generic_handler("Service", methods)
            server.add_generic_rpc_handlers([handlers])
            server.add_insecure_port("unix:socket")
            await server.start()
            async with grpc.aio.insecure_channel("unix:socket") as channel:
                print((await channel.unary_unary("/Service/Unary")(b"once ")).decode())
                async for answer in channel.stream_stream("/Service/Stream")(requests()):
                    print(answer.decode())
            await server.stop(None)

        {line}
    """
    write(folder, "program.py", code)
    said = output(folder, "program.py").splitlines()
    assert said == [f"{word} {OURS}" for word in ("once", "0", "1", "2")]


@pytest.mark.skipif(not APART.exists(), reason="mitmproxy: not installed (see make integrations)")
def test_mitmproxy(folder: Path) -> None:
    addon = """
        import mitmproxy.http, which

        def request(flow):
            flow.response = mitmproxy.http.Response.make(200, which.loop())
    """
    write(folder, "addon.py", addon)
    (folder / "proxy.py").write_text(block("mitmdump"))
    line = documented("python proxy.py --scripts addon.py").removeprefix("python ")
    options = ("--set", "confdir=.", "--listen-host", "127.0.0.1", "--listen-port", "0")
    with serving(folder, *shlex.split(line), *options, PYTHONPATH=str(APART)) as proxy:
        port = proxy.heard("proxy listening at").rstrip(".").rpartition(":")[2]
        assert ask(proxy, ("127.0.0.1", int(port)), "http://host.test/") == OURS
        assert proxy.stop(signal.SIGTERM) == 0, proxy.output


@needs("ipykernel")
def test_ipykernel(folder: Path) -> None:
    [settings] = re.findall(r"`ipython_kernel_config.py`.*?```python\n(.*?)```", TEXT, re.S)
    (folder / "profile_default").mkdir()
    (folder / "profile_default/ipython_kernel_config.py").write_text(settings)
    code = """
        from jupyter_client.manager import start_new_kernel

        def hear(message):
            content = message["content"]
            if message["msg_type"] in ("execute_result", "error"):
                print(content.get("data") or content["traceback"])

        manager, client = start_new_kernel()
        try:
            for cell in ("import asyncio, which", "await asyncio.sleep(0.001, which.loop())"):
                client.execute_interactive(cell, output_hook=hear)
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    """
    write(folder, "program.py", code)
    said = output(folder, "program.py", IPYTHONDIR=".", JUPYTER_RUNTIME_DIR=".")
    assert said.strip() == str({"text/plain": repr(OURS)})


@needs("textual")
def test_textual(folder: Path) -> None:
    line = documented("app.run(loop=oxloop.new_event_loop())")
    code = f"""
        import oxloop, which
        from textual.app import App
        from textual.widgets import Input

        class Asking(App):
            def compose(self):
                yield Input()

            def on_input_submitted(self, event):
                self.exit((event.value, which.loop()))

        app = Asking()
        print(*{line})
    """
    write(folder, "program.py", code)
    assert typed_into(folder, "hello\r").endswith(f"hello {OURS}")


@needs("prompt-toolkit")
def test_prompt_toolkit(folder: Path) -> None:
    code = f"""
        import which
        {documented("import oxloop; oxloop.install()")}
        from prompt_toolkit import PromptSession

        print(PromptSession().prompt(default="said by ", pre_run=lambda: print(which.loop())))
    """
    write(folder, "program.py", code)
    said = typed_into(folder, "a user\r")
    assert OURS in said
    assert said.endswith("said by a user")


SPY = Path(sys.executable).with_name("py-spy")


def stacks(*command: str, cwd: Path) -> str:
    """What py-spy says."""
    done = subprocess.run(
        [SPY, *command], cwd=cwd, capture_output=True, text=True, timeout=TIME_LIMIT
    )
    if "Permission" in done.stderr:
        pytest.skip(f"the system forbids it: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("py-spy")
@pytest.mark.parametrize("waiting", [True, False], ids=["waits", "runs"])
def test_py_spy_dump(folder: Path, waiting: bool) -> None:
    documented("py-spy dump --pid PID")
    code = f"""
        import asyncio, oxloop, sys

        async def inner():
            print("started", flush=True)
            {"await asyncio.Event().wait()" if waiting else "sys.stdin.readline()"}

        async def outer():
            await inner()

        oxloop.run(outer())
    """
    write(folder, "program.py", code)
    with child("program.py", cwd=folder) as program:
        program.expect("started")
        program.wait_until_asleep()
        said = stacks("dump", "--pid", str(program.process.pid), cwd=folder)
    frames = re.findall(r"^    (?:\w+\.)*(\S+) \(", said, re.MULTILINE)
    running = [] if waiting else ["inner", "outer"]
    expected = [*running, "run_forever", "run_until_complete"]
    assert frames[: len(expected)] == expected, said  # below are asyncio's, of each version
    assert "run_forever (oxloop/_running.py:" in said


@needs("py-spy")
def test_py_spy_record(folder: Path) -> None:
    line = documented("py-spy record -- python program.py")
    code = """
        import oxloop, time

        async def main():
            while time.process_time() < 1:
                pass

        oxloop.run(main())
    """
    write(folder, "program.py", code)
    _, record, *command = shlex.split(line.replace("python", sys.executable))
    stacks(record, "--format=raw", "--output=stacks", *command, cwd=folder)
    assert re.search(
        r"run_forever \(oxloop/_running.py:\d+\);main ", (folder / "stacks").read_text()
    )


def read(terminal: int) -> bytes:
    """What is written next; nothing if the other side is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO, on Linux
        return b""


def typed_into(folder: Path, keys: str) -> str:
    """All that `program.py` writes on a terminal, when it is typed to."""
    ours, theirs = pty.openpty()
    with open(ours, "r+b", buffering=0) as terminal:
        program = subprocess.Popen(
            [sys.executable, "program.py"], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        written = b""
        try:
            while piece := read(ours):
                # Both tell the terminal that they listen, by the switch for pasting.
                if keys and b"\x1b[?2004h" in written + piece:
                    terminal.write(keys.encode())
                    keys = ""
                written += piece
            assert program.wait(TIME_LIMIT) == 0, written.decode()
        finally:
            program.kill()
            program.wait()
    return re.sub(r"\x1b\[[0-9;?<>]*[a-zA-Z]", "", written.decode()).strip()
