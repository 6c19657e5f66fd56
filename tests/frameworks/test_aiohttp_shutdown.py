"""How aiohttp's servers end: a runner that is cleaned up, and `web.run_app` by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from http.client import HTTPConnection

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from tests.support import TIME_LIMIT, child, hops, script

from .aiohttps import PATIENT, closed, idle_connection, running, say, serving, url_of
from .app import pattern

pytestmark = pytest.mark.usefixtures("silence")


async def assert_refused(url: str) -> None:
    """Check that nobody listens any more."""
    async with aiohttp.ClientSession(timeout=PATIENT) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(url)
        assert isinstance(caught.value.os_error, ConnectionRefusedError)


class TestRunner:
    async def test_idle_connections_are_closed(self, loop):
        async with aiohttp.ClientSession(timeout=PATIENT) as client:
            async with serving(say) as url:
                async with client.get(f"{url}/say?word=once") as response:
                    assert await response.text() == "once"
                protocol = idle_connection(client)
                assert protocol.is_connected()
            await closed(protocol)
            await assert_refused(url)

    async def test_requests_are_finished(self, loop):
        began, release = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(pattern(1000))
            began.set()
            await release.wait()
            await response.write(pattern(1_000_000))
            return response

        async with running(slow, shutdown_timeout=TIME_LIMIT) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = url_of(runner)
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                async with client.get(f"{url}/slow") as response:
                    await began.wait()
                    ending = asyncio.create_task(runner.cleanup())
                    await hops(3)
                    await assert_refused(url)
                    assert not ending.done()
                    release.set()
                    assert await response.read() == pattern(1000) + pattern(1_000_000)
                    await ending

    async def test_what_takes_too_long_is_cancelled(self, loop):
        began = asyncio.Event()
        left: asyncio.Future[str] = loop.create_future()

        async def stuck(request: web.Request) -> web.Response:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set_result("cancelled")
            return web.Response()

        async with aiohttp.ClientSession(timeout=PATIENT) as client:
            async with serving(stuck, shutdown_timeout=0.05) as url:
                # A POST is not tried again.
                request = asyncio.create_task(client.post(f"{url}/stuck"))
                await began.wait()
            assert await left == "cancelled"
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await request

    async def test_websockets_are_told(self, loop):
        sockets: list[web.WebSocketResponse] = []

        async def listening(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            sockets.append(socket)
            await socket.send_str("hello")
            async for _ in socket:
                pass
            return socket

        async def goodbye() -> None:
            for socket in sockets:
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"bye")

        async def client() -> tuple[int, str]:
            async with session.ws_connect(f"{url}/listening") as connection:
                assert await connection.receive_str() == "hello"
                ready.release()
                message = await connection.receive()
                assert message.type is WSMsgType.CLOSE
                return message.data, message.extra

        ready = asyncio.Semaphore(0)
        async with aiohttp.ClientSession(timeout=PATIENT) as session:
            async with running(listening) as runner:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                url = url_of(runner)
                clients = [asyncio.create_task(client()) for _ in range(10)]
                for _ in clients:
                    await ready.acquire()
                await goodbye()
            assert await asyncio.gather(*clients) == [(1001, "bye")] * 10

    async def test_again_on_the_same_port(self, loop):
        async with running(say) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                async with client.get(f"{url_of(runner)}/say?word=first") as response:
                    assert await response.text() == "first"
        async with running(say) as runner:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                async with client.get(f"{url_of(runner)}/say?word=second") as response:
                    assert await response.text() == "second"

    async def test_a_site_of_several(self, loop):
        async with running(say) as runner:
            sites = [web.TCPSite(runner, "127.0.0.1", 0) for _ in range(2)]
            for site in sites:
                await site.start()
            first, second = (f"http://127.0.0.1:{port}/say?word=x" for _, port in runner.addresses)
            await sites[0].stop()
            await assert_refused(first)
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                async with client.get(second) as response:
                    assert await response.text() == "x"


RUN_APP = """
    import socket
    from aiohttp import web

    release = asyncio.Event()

    async def wait(request):
        say("waiting")
        await release.wait()
        return web.Response(text="done")

    async def on_shutdown(app):
        say("shutdown")
        release.set()

    async def on_cleanup(app):
        say("cleanup")

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    app = web.Application()
    app.router.add_get("/wait", wait)
    app.on_shutdown.append(on_shutdown)
    app.on_cleanup.append(on_cleanup)
    say(listener.getsockname()[1])
    web.run_app(app, sock=listener, loop=new_event_loop(), print=None)
    say("end")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
def test_run_app(loop_spec, number, idle):
    """A signal lets the requests in hand be answered, and ends the program without an error."""
    with child("-W", "always::ResourceWarning", *script(RUN_APP, loop_spec)) as program:
        address = ("127.0.0.1", int(program.stdout.readline()))
        with contextlib.closing(HTTPConnection(*address, timeout=TIME_LIMIT)) as connection:
            if idle:
                connection.request("GET", "/nowhere")
                assert connection.getresponse().status == 404
            else:
                connection.request("GET", "/wait")
                program.expect("waiting")
            program.interrupt(number)
            if not idle:
                assert connection.getresponse().read() == b"done"
            for line in "shutdown", "cleanup", "end":
                program.expect(line)
        assert program.finish().check() == ""
