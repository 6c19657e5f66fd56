"""Tests that are not asked of the loop under test, each with its reason.

An entry is a promise that the test fails: a listed test that passes fails the run, and so does
an entry that no longer matches any test, so the list can only shrink.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["ON_TEST_LOOP", "SKIPS", "STDLIB", "Skip", "find", "stays_on_test_loop"]

#: Reason of the tests that fail with asyncio's own loop, through the same retargeting.
STDLIB = "fails on stdlib asyncio here"


@dataclass(frozen=True)
class Skip:
    """One entry.

    Attributes:
        reason: why the tests are not asked for.
        tests: globs over ``module.Class.test``.
        since, until: the first and the last Python version it is about.
        run: False for tests that must not even start, or whose result is a matter of luck;
            nothing then tells when they start to pass.
        everywhere: False if some patch releases of these versions have no such test.
    """

    reason: str
    tests: tuple[str, ...]
    since: tuple[int, int] = (3, 10)
    until: tuple[int, int] = (3, 99)
    run: bool = True
    everywhere: bool = True

    def applies(self) -> bool:
        """Whether it is about the running Python version."""
        return self.since <= sys.version_info[:2] <= self.until

    def matches(self, test: str) -> bool:
        """Whether it names `test`, on the running Python version."""
        return self.applies() and any(fnmatchcase(test, pattern) for pattern in self.tests)


SKIPS = (
    Skip(
        "reaches for asyncio's SSLProtocol behind the transport",
        ("test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data",),
        since=(3, 11),
    ),
    Skip(
        "reaches for asyncio's SSLProtocol behind the transport",
        ("test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",),
        since=(3, 13),
        everywhere=False,
    ),
    Skip(
        "puts a mock in the place of the loop's _make_ssl_transport: it would connect",
        ("test_base_events.*.test_create_connection_ssl_server_hostname_default",),
        run=False,
    ),
    Skip(
        "uses private parts of asyncio's loop (_run_once, _ready, _selector...)",
        (
            "test_events.EventLoopTests.test_timeout_rounding",
            "test_base_events.BaseEventLoopTests.test__add_callback_*",
            "test_base_events.BaseEventLoopTests.test__run_once*",
            "test_base_events.BaseEventLoopTests.test_call_later",
            "test_base_events.BaseEventLoopTests.test_call_soon",
            "test_base_events.BaseEventLoopTests.test_not_implemented",
            "test_base_events.BaseEventLoopTests.test_run_forever_pre_stopped",
            "test_base_events.BaseEventLoopTests.test_set_exc_handler_broken",
            "test_base_events.BaseEventLoopTests.test_set_exc_handler_custom",
            "test_base_events.BaseEventLoopTests.test_single_selecter_event_*",
            "test_base_events.BaseEventLoopWithSelectorTests.test_accept_connection_*",
        ),
    ),
    Skip(
        "uses private parts of asyncio's loop (_run_once, _ready, _selector...)",
        ("test_base_events.BaseEventLoopTests.test_custom_run_forever_integration",),
        since=(3, 13),
    ),
    Skip(
        "puts a mock in the place of the socket module in asyncio.base_events",
        (
            "test_events.EventLoopTests.test_create_server_multiple_hosts_ipv[46]",
            "test_base_events.*.test_create_connection_timeout",
            "test_base_events.*.test_create_connection_multiple_errors*",
            "test_base_events.*.test_create_connection_bluetooth",
            "test_base_events.*.test_create_server_cant_bind",
            "test_base_events.*.test_create_server_nosoreuseport",
            "test_base_events.*.test_create_server_soreuseport_only_defined",
            "test_base_events.*.test_create_datagram_endpoint_cant_bind",
            "test_base_events.*.test_create_datagram_endpoint_ip_addr",
            "test_base_events.*.test_create_datagram_endpoint_no_addrinfo",
            "test_base_events.*.test_create_datagram_endpoint_nosoreuseport",
            "test_base_events.*.test_create_datagram_endpoint_setblk_err",
            "test_base_events.*.test_create_datagram_endpoint_socket_err",
        ),
    ),
    Skip(
        "puts a mock in the place of the socket module in asyncio.base_events: it would connect",
        (
            "test_base_events.*.test_create_connection_ip_addr",
            "test_base_events.*.test_create_connection_ipv6_scope",
            "test_base_events.*.test_create_connection_no_inet_pton",
            "test_base_events.*.test_create_connection_service_name",
        ),
        run=False,
    ),
    Skip(
        "puts a mock in the place of the socket module in asyncio.base_events: it would connect",
        (
            "test_base_events.*.test_create_connection_happy_eyeballs_empty_exceptions",
            "test_base_events.*.test_create_connection_transport_error_closes_sock",
        ),
        since=(3, 14),
        run=False,
    ),
    Skip(
        "makes asyncio's own selector loop, over a mock in the place of the socket module",
        (
            "test_base_events.*.test_create_connection_happy_eyeballs",
            "test_base_events.*.test_create_connection_happy_eyeballs_ipv4_only",
        ),
        since=(3, 15),
        run=False,
    ),
    Skip(
        "gives the loop a mock for a socket, without a descriptor",
        ("test_base_events.*.test_create_connection_sock_transport_error_closes_sock",),
        since=(3, 14),
    ),
    Skip(
        "puts a mock in the place of the socket module in asyncio.unix_events (it binds /test)",
        ("test_unix_events.*.test_create_unix_server_bind_error",),
        run=False,
    ),
    Skip(
        "asserts that asyncio.EventLoop makes asyncio's own selector loop",
        ("test_runners.RunTests.test_loop_factory_default_event_loop",),
        since=(3, 13),
    ),
)

#: Tests that call new_test_loop() without scripting the time and yet need the suite's TestLoop.
ON_TEST_LOOP: dict[str, str] = {
    "test_tasks.*.test_log_destroyed_pending_task": "calls _run_once and reads _ready",
    "test_tasks.CoroutineGatherTests.test_issue46672": "patches BaseEventLoop, reads the mock",
}


def find(test: str, stdlib: bool) -> Skip | None:
    """The entry for `test`; with `stdlib`, only entries that stdlib asyncio has as well."""
    for skip in SKIPS:
        if skip.matches(test) and (not stdlib or skip.reason.startswith(STDLIB)):
            return skip
    return None


def stays_on_test_loop(test: str) -> bool:
    """Whether the test with this id (``module.Class.test``) is in ON_TEST_LOOP."""
    return any(fnmatchcase(test, pattern) for pattern in ON_TEST_LOOP)
