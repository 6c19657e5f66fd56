"""What the package offers: its names, ways in, and the private names that libraries read."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.resources
import inspect
import threading
from asyncio import constants
from typing import Any

import pytest

from .support import LOOP_SPECS, PYTHON, child, hops, module_of, turns, type_of

needs_oxloop = pytest.mark.skipif(
    "oxloop" not in map(module_of, LOOP_SPECS), reason="OXLOOP_TEST_LOOPS is without oxloop"
)


@pytest.fixture
def oxloop() -> Any:
    return importlib.import_module("oxloop")


def run_program(*lines: str, **options: Any) -> str:
    """Run a program of these lines and return its output; it must end well and in silence."""
    with child("-c", "\n".join(lines), **options) as program:
        return program.finish().check()


@needs_oxloop
class TestNames:
    def test_all(self, oxloop):
        for name in ("run", "new_event_loop", "Loop", "EventLoop", "install", "__version__"):
            assert name in oxloop.__all__
            assert getattr(oxloop, name)
        assert all(hasattr(oxloop, name) for name in oxloop.__all__)

    def test_each_says_what_it_is(self, oxloop):
        assert oxloop.__doc__
        for name in ("run", "new_event_loop", "Loop", "EventLoop", "install"):
            assert getattr(oxloop, name).__doc__, name

    def test_public_methods_have_docs_or_follow_asyncio(self, oxloop):
        for name, method in inspect.getmembers(oxloop.Loop, inspect.isroutine):
            if not name.startswith("_"):
                assert inspect.getdoc(method) or hasattr(asyncio.AbstractEventLoop, name), name

    def test_unknown(self, oxloop):
        with pytest.raises(AttributeError, match="unknown"):
            _ = oxloop.unknown

    def test_version(self, oxloop):
        assert oxloop.__version__ == importlib.metadata.version("oxloop")

    def test_no_dependencies(self):
        assert not importlib.metadata.requires("oxloop")

    def test_typed(self):
        files = {entry.name for entry in importlib.resources.files("oxloop").iterdir()}
        assert "py.typed" in files
        assert "_oxloop.pyi" in files


@needs_oxloop
class TestImport:
    def test_changes_nothing(self):
        """No patches, no threads, no policy, and asyncio's names are what they were."""
        output = run_program(
            "import asyncio, sys, threading",
            "from asyncio import *",
            "def snapshot():",
            "    modules = [m for n, m in sys.modules.items() if n.split('.')[0] == 'asyncio']",
            "    return [(m.__name__, n, id(v)) for m in modules for n, v in vars(m).items()]",
            "before = set(snapshot())",
            "import oxloop",
            "print({entry for entry in before ^ set(snapshot()) if entry in before})",
            "print(threading.active_count())",
            "print(any('policy' in name for name in sys.modules if name.startswith('oxloop')))",
        )
        assert output == "set()\n1\nFalse\n"

    def test_starts_no_thread_later_either(self):
        output = run_program(
            "import os, asyncio, oxloop",
            "async def main():",
            "    server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)",
            "    address = server.sockets[0].getsockname()",
            "    reader, writer = await asyncio.open_connection(*address)",
            "    await reader.read()",
            "    writer.close()",
            "    server.close()",
            "    print(len(os.listdir('/proc/self/task')))",
            "oxloop.run(main())",
        )
        assert output == "1\n"


@needs_oxloop
class TestLoop:
    def test_kinds(self, oxloop):
        loop = oxloop.new_event_loop()
        try:
            assert type(loop) is oxloop.Loop
            assert isinstance(loop, oxloop.EventLoop)
            assert isinstance(loop, asyncio.AbstractEventLoop)
        finally:
            loop.close()

    def test_takes_no_arguments(self, oxloop):
        oxloop.Loop().close()
        with pytest.raises(TypeError):
            oxloop.new_event_loop(1)

    def test_has_every_method_of_asyncio(self, oxloop):
        """Those that are to follow raise NotImplementedError, as the abstract class does."""
        for name in vars(asyncio.AbstractEventLoop):
            if not name.startswith("_"):
                assert hasattr(oxloop.Loop, name), name

    def test_signatures_match_asyncio(self, oxloop):
        """What can be passed by keyword to the stock loop of this Python can be passed here."""
        for name in (
            "create_task",
            "create_connection",
            "create_server",
            "create_unix_connection",
            "create_unix_server",
            "getaddrinfo",
            "getnameinfo",
            "shutdown_default_executor",
        ):
            stock = inspect.signature(getattr(asyncio.SelectorEventLoop, name)).parameters
            ours = inspect.signature(getattr(oxloop.Loop, name)).parameters
            if any(each.kind is each.VAR_KEYWORD for each in ours.values()):
                continue
            missing = {each for each in stock if each not in ours and each != "kwargs"}
            assert not missing, name

    def test_native_signatures_are_asyncios(self, oxloop):
        """What wraps or mocks a method asks for its signature."""
        ours, stock = oxloop.new_event_loop(), asyncio.SelectorEventLoop()
        names = ("call_soon", "call_soon_threadsafe", "call_later", "call_at", "create_future")
        for name in names:
            signatures = [inspect.signature(getattr(loop, name)) for loop in (ours, stock)]
            assert signatures[0] == signatures[1], name
        handles = [loop.call_later(1, print) for loop in (ours, stock)]
        for name in ("cancel", "cancelled", "when"):
            signatures = [inspect.signature(getattr(handle, name)) for handle in handles]
            assert signatures[0] == signatures[1], name
        ours.close()
        stock.close()


@needs_oxloop
class TestRun:
    def test_returns_the_result(self, oxloop):
        async def main():
            await hops()
            return asyncio.get_running_loop()

        loop = oxloop.run(main())
        assert type(loop) is oxloop.Loop
        assert loop.is_closed()

    def test_raises_the_exception(self, oxloop):
        async def main():
            raise LookupError("lost")

        with pytest.raises(LookupError, match="lost"):
            oxloop.run(main())

    def test_debug(self, oxloop):
        async def main():
            return asyncio.get_running_loop().get_debug()

        assert oxloop.run(main(), debug=True) is True
        assert oxloop.run(main()) is False

    def test_cancels_what_is_left(self, oxloop):
        ended = []

        async def background():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async def main():
            task = asyncio.create_task(background())
            await hops()
            return task

        assert oxloop.run(main()).cancelled()
        assert ended == [True]

    def test_from_a_running_loop(self, oxloop):
        async def inner():
            pass

        async def main():
            coroutine = inner()
            with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
                oxloop.run(coroutine)
            coroutine.close()

        oxloop.run(main())

    def test_refuses_what_is_not_a_coroutine(self, oxloop):
        with pytest.raises((TypeError, ValueError)):
            oxloop.run(42)

    def test_in_another_thread(self, oxloop):
        async def main():
            await asyncio.sleep(0.001)
            return threading.current_thread()

        results = []
        thread = threading.Thread(target=lambda: results.append(oxloop.run(main())))
        thread.start()
        thread.join()
        assert results == [thread]


@needs_oxloop
@pytest.mark.skipif(PYTHON >= (3, 16), reason="there are no policies from 3.16 on")
class TestPolicy:
    """`install()` and `EventLoopPolicy`, in processes of their own: a policy is global."""

    QUIET = ("import warnings", "warnings.simplefilter('ignore', DeprecationWarning)")

    def test_install(self):
        output = run_program(
            *self.QUIET,
            "import asyncio, oxloop",
            "oxloop.install()",
            "async def main():",
            "    return type(asyncio.get_running_loop())",
            "print(asyncio.run(main()) is oxloop.Loop)",
            "loop = asyncio.new_event_loop()",
            "print(type(loop) is oxloop.Loop)",
            "asyncio.set_event_loop(loop)",
            "print(asyncio.get_event_loop() is loop)",
            "loop.close()",
        )
        assert output == "True\n" * 3

    def test_policy_is_made_once_and_late(self):
        output = run_program(
            *self.QUIET,
            "import oxloop, sys",
            "names = set(sys.modules)",
            "policy = oxloop.EventLoopPolicy",
            "print(oxloop.EventLoopPolicy is policy)",
            "import asyncio",
            "print(issubclass(policy, asyncio.AbstractEventLoopPolicy))",
            "loop = policy().new_event_loop()",
            "print(type(loop) is oxloop.Loop)",
            "loop.close()",
        )
        assert output == "True\n" * 3

    @pytest.mark.parametrize("thread", [False, True], ids=["main_thread", "other_thread"])
    @pytest.mark.parametrize("unset", [False, True], ids=["never_set", "set_to_none"])
    def test_get_event_loop_follows_the_stock_policy(self, thread, unset):
        def outcome(policy: str) -> str:
            return run_program(
                *self.QUIET,
                "import asyncio, oxloop, threading",
                f"asyncio.set_event_loop_policy({policy}())",
                "warnings.simplefilter('always', DeprecationWarning)",
                "def attempt():",
                "    with warnings.catch_warnings(record=True) as caught:",
                "        warnings.simplefilter('always')",
                "        try:",
                "            loop = asyncio.get_event_loop()",
                "        except RuntimeError as error:",
                "            print('RuntimeError', error)",
                "        else:",
                "            print('a loop', asyncio.get_event_loop() is loop)",
                "            loop.close()",
                "    print([str(each.message) for each in caught])",
                "asyncio.set_event_loop(None)" if unset else "",
                "thread = threading.Thread(target=attempt, name='other')",
                "thread.start() if " + str(thread) + " else attempt()",
                "if " + str(thread) + ": thread.join()",
            )

        assert outcome("oxloop.EventLoopPolicy") == outcome("asyncio.DefaultEventLoopPolicy")

    @pytest.mark.skipif(PYTHON < (3, 14), reason="policies are deprecated from 3.14 on")
    @pytest.mark.parametrize("use", ["oxloop.install()", "oxloop.EventLoopPolicy"])
    def test_is_deprecated(self, use):
        output = run_program(
            "import warnings, oxloop",
            "with warnings.catch_warnings(record=True) as caught:",
            "    warnings.simplefilter('always')",
            f"    {use}",
            "print([each.category.__name__ for each in caught])",
            "print([each.filename for each in caught])",
        )
        assert output == "['DeprecationWarning']\n['<string>']\n"


class TestExtending:
    """A loop can be subclassed, patched and given attributes: test suites do all three."""

    def test_subclass(self, loop_factory):
        calls = []

        class Loop(type_of(loop_factory)):
            def __init__(self):
                super().__init__()
                self.extra = "value"

            def call_soon(self, callback, *args, context=None):
                calls.append(callback)
                return super().call_soon(callback, *args, context=context)

        loop = Loop()
        try:
            loop.call_soon(int)
            assert calls == [int]
            assert loop.extra == "value"
            assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
        finally:
            loop.close()

    def test_attributes(self, loop):
        loop.extra = "value"
        assert loop.extra == "value"
        loop.slow_callback_duration = 2
        assert loop.slow_callback_duration == 2

    @pytest.mark.parametrize("name", ["call_soon", "call_later", "call_at", "create_task", "time"])
    def test_patched_methods(self, loop, monkeypatch, name):
        monkeypatch.setattr(loop, name, lambda *arguments, **options: "patched")
        assert getattr(loop, name)() == "patched"


class TestPrivateNames:
    """Names with an underscore that libraries read, with asyncio's meaning."""

    @needs_oxloop
    def test_of_the_stock_queues_are_not_taken(self, oxloop):
        """Tools ask whether they are there, then use them as asyncio's."""
        for name in ("_ready", "_scheduled", "_selector", "_run_once"):
            assert not hasattr(oxloop.Loop, name), name

    def test_thread_id(self, loop):
        assert loop._thread_id is None
        seen = []
        loop.call_soon(lambda: seen.append(loop._thread_id))
        turns(loop)
        assert seen == [threading.get_ident()]
        assert loop._thread_id is None

    def test_default_executor(self, loop):
        assert loop._default_executor is None
        loop.run_until_complete(loop.run_in_executor(None, int))
        assert loop._default_executor is not None

    def test_debug(self, loop):
        assert not loop._debug
        loop.set_debug(True)
        assert loop._debug

    def test_check_closed(self, loop):
        assert loop._check_closed() is None
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop._check_closed()

    def test_timer_handle_cancelled(self, loop):
        """Subclasses of TimerHandle made elsewhere report to the loop."""
        handle = asyncio.TimerHandle(loop.time() + 60, print, (), loop)
        loop._timer_handle_cancelled(handle)
        handle.cancel()
        assert handle.cancelled()

    async def test_transport(self, network):
        transport, _, _ = await network.connect()
        assert transport._start_tls_compatible in (True, False)
        assert isinstance(transport._sendfile_compatible, constants._SendfileMode)

    async def test_server(self, loop, network):
        server = await network.serve()
        assert server._ssl_context is None
        transport, _, _ = await network.connect()
        arguments = (transport,) if PYTHON >= (3, 13) else ()
        server._attach(*arguments)
        server.close()
        if PYTHON >= (3, 12):
            waiting = loop.create_task(server.wait_closed())
            await hops(2)
            assert not waiting.done()
            server._detach(*arguments)
            await waiting
        else:
            server._detach(*arguments)
