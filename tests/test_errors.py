"""Error handling (event loop page, "Error Handling API")."""

from __future__ import annotations

import contextvars
import logging

import pytest

from .support import PYTHON, turns, type_of

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def plain(loop):
    """The loop with its own exception handling."""
    loop.set_exception_handler(None)
    return loop


class TestSetting:
    def test_none_at_first(self, loop_factory):
        loop = loop_factory()
        assert loop.get_exception_handler() is None
        loop.close()

    def test_set_and_reset(self, loop):
        def handler(loop, context):
            pass

        loop.set_exception_handler(handler)
        assert loop.get_exception_handler() is handler
        loop.set_exception_handler(None)
        assert loop.get_exception_handler() is None

    @pytest.mark.parametrize("handler", [42, "handler", ()], ids=repr)
    def test_refuses_what_is_not_callable(self, loop, handler):
        with pytest.raises(TypeError, match="A callable object or None is expected"):
            loop.set_exception_handler(handler)


class TestCalling:
    def test_gets_loop_and_context(self, loop):
        calls = []
        loop.set_exception_handler(lambda *arguments: calls.append(arguments))
        context = {"message": "text", "extra": object()}
        loop.call_exception_handler(context)
        assert calls == [(loop, context)]
        assert calls[0][1] is context

    def test_gets_what_a_callback_raises(self, loop):
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))

        def a_callback():
            raise LookupError("lost")

        handle = loop.call_soon(a_callback)
        turns(loop)
        (context,) = contexts
        assert context.keys() == {"message", "exception", "handle"}
        assert context["handle"] is handle
        assert isinstance(context["exception"], LookupError)
        assert "a_callback" in context["message"]

    @pytest.mark.skipif(PYTHON < (3, 12), reason="in the handle's context since 3.12")
    def test_runs_in_the_context_of_the_handle(self, loop):
        seen = []
        loop.set_exception_handler(lambda *_: seen.append(variable.get()))
        context = contextvars.copy_context()
        context.run(variable.set, "of the handle")
        loop.call_soon(lambda: 1 / 0, context=context)
        turns(loop)
        assert seen == ["of the handle"]

    def test_may_use_the_loop(self, loop):
        calls = []
        loop.set_exception_handler(lambda loop, context: loop.call_soon(calls.append, "handled"))
        loop.call_soon(lambda: 1 / 0)
        turns(loop, 2)
        assert calls == ["handled"]

    def test_may_pass_on_to_the_default(self, loop, caplog):
        loop.set_exception_handler(lambda loop, context: loop.default_exception_handler(context))
        loop.call_exception_handler({"message": "passed on"})
        assert caplog.messages == ["passed on"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_some_exceptions_of_the_handler_leave(self, loop, error):
        def handler(loop, context):
            raise error

        loop.set_exception_handler(handler)
        with pytest.raises(error):
            loop.call_exception_handler({"message": "text"})
        loop.call_soon(lambda: 1 / 0)
        with pytest.raises(error):
            loop.run_forever()
        loop.set_exception_handler(None)

    def test_a_handler_that_raises_is_logged(self, loop, caplog):
        def handler(loop, context):
            raise LookupError("in the handler")

        loop.set_exception_handler(handler)
        loop.call_exception_handler({"message": "original"})
        (record,) = caplog.records
        assert record.getMessage().startswith("Unhandled error in exception handler")
        assert "original" in record.getMessage()
        assert record.exc_info[0] is LookupError

    def test_a_default_handler_that_raises_is_logged(self, loop_factory, caplog):
        class Loop(type_of(loop_factory)):
            def default_exception_handler(self, context):
                raise LookupError("in the default handler")

        loop = Loop()
        try:
            loop.call_exception_handler({"message": "original"})
            (record,) = caplog.records
            assert record.getMessage() == "Exception in default exception handler"
            assert record.exc_info[0] is LookupError
        finally:
            loop.close()

    def test_the_loop_goes_on(self, loop):
        calls = []
        loop.set_exception_handler(lambda _, context: calls.append("handler"))
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(calls.append, "next")
        turns(loop)
        assert calls == ["handler", "next"]


class TestDefaultHandler:
    def test_logs_message_and_exception(self, plain, caplog):
        try:
            raise LookupError("lost")
        except LookupError as error:
            plain.call_exception_handler({"message": "text", "exception": error})
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("asyncio", logging.ERROR)
        assert record.getMessage() == "text"
        assert record.exc_info[0] is LookupError
        assert record.exc_info[2] is not None

    def test_without_a_message(self, plain, caplog):
        plain.call_exception_handler({})
        assert caplog.messages == ["Unhandled exception in event loop"]

    def test_logs_the_rest_in_order(self, plain, caplog):
        plain.default_exception_handler({"message": "text", "b": 2, "a": "one"})
        assert caplog.messages == ["text\na: 'one'\nb: 2"]

    def test_logs_a_callback_that_raises(self, plain, caplog):
        def a_callback(argument):
            raise LookupError(argument)

        plain.call_soon(a_callback, "lost")
        turns(plain)
        (record,) = caplog.records
        assert record.getMessage().startswith("Exception in callback ")
        assert "a_callback" in record.getMessage()
        assert "handle: <Handle " in record.getMessage()
        assert record.exc_info[0] is LookupError

    def test_debug_mode_tells_where_it_was_made(self, plain, caplog):
        plain.set_debug(True)
        plain.call_soon(lambda: 1 / 0)
        turns(plain)
        assert "Object created at (most recent call last):" in caplog.records[0].getMessage()
        assert "test_debug_mode_tells_where" in caplog.records[0].getMessage()

    def test_a_task_that_nobody_asked(self, plain, caplog):
        async def work():
            raise LookupError("lost")

        plain.create_task(work())
        turns(plain, 3)
        assert caplog.messages[0].startswith("Task exception was never retrieved\nfuture: <Task")

    def test_errors_of_the_context_do_not_matter(self, plain, caplog):
        class Unprintable:
            def __repr__(self):
                raise LookupError("no text")

        plain.call_exception_handler({"message": "text", "thing": Unprintable()})
        assert caplog.messages == ["Exception in default exception handler"]


class TestOverriding:
    def test_default_exception_handler(self, loop_factory):
        contexts = []

        class Loop(type_of(loop_factory)):
            def default_exception_handler(self, context):
                contexts.append(context)

        loop = Loop()
        try:
            loop.call_soon(lambda: 1 / 0)
            turns(loop)
        finally:
            loop.close()
        assert isinstance(contexts[0]["exception"], ZeroDivisionError)

    def test_call_exception_handler(self, loop, monkeypatch):
        """Test suites replace the method on the loop."""
        contexts = []
        monkeypatch.setattr(loop, "call_exception_handler", contexts.append)
        loop.call_soon(lambda: 1 / 0)
        turns(loop)
        assert isinstance(contexts[0]["exception"], ZeroDivisionError)
