"""The suites: what is run of each project, how, and what is known about its tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["SUITES", "Suite", "covers"]


@dataclass(frozen=True)
class Suite:
    """A project's tests.

    All that is named below is relative to the unpacked source package; tests are named as pytest
    does, and an entry stands for all tests below it (a file, a class, all parameters);
    "*text" for those with the text in their name.

    Attributes:
        name: of the project in the package index; the wheel of `version` is what is tested.
        version: pinned.
        since: the first Python that this version, or what its tests need, can be installed on.
        paths: the files and folders with the tests that have to do with a loop.
        package: the folder with the project's own code, which is removed for the wheel's to be
            imported; "" where it does not get in the way.
        debian: Debian's source package and version with the tests, where the sdist has none.
        extras: of the project, to be installed with it.
        requirements: of the tests, beside pytest.
        options: for pytest.
        conftest: the text of a conftest.py, where the project runs its tests by other means.
        environment: variables for the tests.
        left_out: tests that are not run, and why: nothing that a loop could be blamed for.
        expected: tests that pass on asyncio and fail on oxloop, and why. Strict: it is an error
            when one passes, or when there is no such test.
        timeout: seconds for one test, after which it counts as hanging.
    """

    name: str
    version: str
    paths: tuple[str, ...]
    since: tuple[int, int] = (3, 10)
    package: str = ""
    debian: str = ""
    extras: str = ""
    requirements: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    conftest: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60

    @property
    def title(self) -> str:
        """As in reports."""
        return f"{self.name} {self.version}"


def covers(entry: str, test: str) -> bool:
    """Whether an entry of `left_out` or `expected` stands for this test."""
    if entry.startswith("*"):
        return entry[1:] in test
    return test.startswith(entry) and test[len(entry) : len(entry) + 1] in ("", "[", ":", "/")


_NETWORK = "asks the internet"


def _without_ipv6(*entries: str) -> Mapping[str, str]:
    """Entries to leave out where the name localhost has no IPv6 address."""
    try:
        socket.getaddrinfo("localhost", 0, socket.AF_INET6)
    except OSError:
        return dict.fromkeys(entries, "localhost has no IPv6 address on this machine")
    return {}


def _if_root(*entries: str) -> Mapping[str, str]:
    """Entries to leave out for a user whom permissions do not stop."""
    return {} if os.geteuid() else dict.fromkeys(entries, "run as root, who may do everything")


SUITES = (
    Suite(
        name="uvicorn",
        version="0.54.0",
        since=(3, 11),
        package="uvicorn",
        extras="standard",
        paths=("tests",),
        requirements=(
            "a2wsgi==1.10.10",
            "cryptography",
            "httpx2",
            "pytest-mock==3.15.1",
            "trustme==1.2.1",
            "wsproto==1.3.2",
            "zttp==0.0.35",
        ),
        options=("--ignore=tests/benchmarks",),
        expected={
            "tests/test_auto_detection.py::test_loop_auto": "wants asyncio's class",
            "tests/test_config.py::test_get_loop_factory[asyncio-_UnixSelectorEventLoop]": (
                "has the name of the loop's class in its own; passes by the name [asyncio-Loop]"
            ),
        },
    ),
    Suite(
        name="anyio",
        version="4.16.0",
        package="src",
        paths=(
            "tests/test_debugging.py",
            "tests/test_eventloop.py",
            "tests/test_fileio.py",
            "tests/test_from_thread.py",
            "tests/test_lowlevel.py",
            "tests/test_signals.py",
            "tests/test_sockets.py",
            "tests/test_subprocesses.py",
            "tests/test_synchronization.py",
            "tests/test_taskgroups.py",
            "tests/test_tempfile.py",
            "tests/test_to_process.py",
            "tests/test_to_thread.py",
            "tests/streams",
        ),
        requirements=(
            "blockbuster",
            "hypothesis",
            "psutil",
            "pytest-mock>=3.14",
            "pytest-timeout",
            "trustme==1.2.1",
            "truststore",
        ),
        options=("-o", "timeout=60", "-k", "not trio and not uvloop"),
        left_out={
            **_without_ipv6(
                "*-ipv6]",
                "*-ipv6-",
                "*[ipv6-",
                "tests/test_sockets.py::TestTCPListener::test_tcp_listener_retry_after_partial_failure",
                "tests/test_sockets.py::TestTCPListener::test_tcp_listener_same_port",
                "tests/test_sockets.py::TestTCPListener::test_tcp_listener_total_bind_failure",
                "*-dualstack]",
                "*-multi]",
            ),
            "tests/test_sockets.py::test_getaddrinfo": _NETWORK,
        },
    ),
    Suite(
        name="websockets",
        version="15.0.1",
        debian="python-websockets=15.0.1-1",
        package="src",
        paths=("tests/asyncio", "tests/legacy"),
        requirements=("werkzeug",),
        expected={
            f"tests/{test}": reason
            for reason, tests in {
                "patches asyncio.BaseTransport, from which native transports inherit nothing": (
                    "asyncio/test_connection.py::ClientConnectionTests::test_local_address",
                    "asyncio/test_connection.py::ClientConnectionTests::test_remote_address",
                    "asyncio/test_connection.py::ServerConnectionTests::test_local_address",
                    "asyncio/test_connection.py::ServerConnectionTests::test_remote_address",
                ),
                "overrides recv and send of a socket; docs/differences.md, Connections": (
                    "legacy/test_client_server.py::ClientServerTests::test_explicit_socket",
                    "legacy/test_client_server.py::SecureClientServerTests::test_explicit_socket",
                ),
            }.items()
            for test in tests
        },
    ),
    Suite(
        name="aiohttp",
        version="3.14.5",
        package="aiohttp",
        extras="speedups",
        paths=(
            "tests/test_base_protocol.py",
            "tests/test_client_functional.py",
            "tests/test_client_proto.py",
            "tests/test_client_session.py",
            "tests/test_client_ws_functional.py",
            "tests/test_connector.py",
            "tests/test_flowcontrol_streams.py",
            "tests/test_loop.py",
            "tests/test_proxy_functional.py",
            "tests/test_pytest_plugin.py",
            "tests/test_resolver.py",
            "tests/test_run_app.py",
            "tests/test_streams.py",
            "tests/test_tcp_helpers.py",
            "tests/test_test_utils.py",
            "tests/test_web_functional.py",
            "tests/test_web_protocol.py",
            "tests/test_web_runner.py",
            "tests/test_web_sendfile.py",
            "tests/test_web_sendfile_functional.py",
            "tests/test_web_server.py",
            "tests/test_web_websocket.py",
            "tests/test_web_websocket_functional.py",
            "tests/test_worker.py",
        ),
        requirements=(
            "blockbuster",
            "freezegun",
            "gunicorn",
            "isal",
            "proxy.py==2.4.10",
            "pytest-codspeed",
            "pytest-cov",
            "pytest-mock",
            "pytest-timeout",
            "pytest-xdist",
            "trustme==1.2.1",
            "zlib_ng",
        ),
        options=("-m", "not dev_mode and not autobahn and not internal"),
    ),
    Suite(
        name="distributed",
        version="2024.12.1",
        debian="dask.distributed=2024.12.1+ds-1",
        paths=(
            "distributed/comm/tests",
            "distributed/tests/test_core.py",
            "distributed/tests/test_asyncio.py",
            "distributed/tests/test_batched.py",
        ),
        requirements=("pytest<9", "pytest-rerunfailures", "pytest-timeout"),
    ),
    Suite(
        name="asyncssh",
        version="2.24.1",
        package="asyncssh",
        paths=(
            "tests/test_agent.py",
            "tests/test_channel.py",
            "tests/test_compression.py",
            "tests/test_connection.py",
            "tests/test_connection_auth.py",
            "tests/test_editor.py",
            "tests/test_forward.py",
            "tests/test_kex.py",
            "tests/test_process.py",
            "tests/test_sftp.py",
            "tests/test_stream.py",
            "tests/test_subprocess.py",
            "tests/test_tuntap.py",
            "tests/test_x11.py",
        ),
        extras="bcrypt",
        requirements=("aiofiles",),
        expected={
            f"tests/test_connection.py::_TestConnection::{test}": (
                "replaces asyncio.BaseEventLoop.create_connection, which is not oxloop's"
            )
            for test in (
                "test_connect_timeout_exceeded",
                "test_connect_timeout_exceeded_string",
                "test_connect_timeout_exceeded_tunnel",
            )
        },
        left_out=_if_root(
            "tests/test_connection.py::_TestConnection::test_known_hosts_not_readable",
            "tests/test_sftp.py::_TestSCP::test_get_not_permitted",
            "tests/test_sftp.py::_TestSCPAsync::test_get_not_permitted",
            "tests/test_sftp.py::_TestSCPCoroutine::test_get_not_permitted",
            "tests/test_sftp.py::_TestSFTP::test_open_read_not_permitted",
            "tests/test_sftp.py::_TestSFTP::test_rmtree_rmdir_failure",
            "tests/test_sftp.py::_TestSFTP::test_rmtree_unlink_failure",
            "tests/test_sftp.py::_TestSFTPAsync::test_open_read_not_permitted",
            "tests/test_sftp.py::_TestSFTPAsync::test_rmtree_rmdir_failure",
            "tests/test_sftp.py::_TestSFTPAsync::test_rmtree_unlink_failure",
        ),
    ),
    Suite(
        name="tornado",
        version="6.6.1",
        since=(3, 11),
        paths=("tornado/test",),
        requirements=("hypothesis",),
        left_out={
            "tornado/test/gen_test.py::RunnerGCTest::test_gc": (
                "0.2 s for a full collection: too little on a busy machine, on any loop"
            ),
            "tornado/test/simple_httpclient_test.py::SimpleHTTPSClientTestCase"
            "::test_request_timeout": (
                "0.1 s for a handshake: too little on a busy machine, on any loop"
            ),
        },
        options=("-o", "python_files=*_test.py"),
        conftest="""\
import logging

logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # as tornado.test.runtests does
""",
    ),
    Suite(
        name="httpcore",
        version="1.0.9",
        package="httpcore",
        extras="asyncio,http2,socks",
        paths=("tests/_async", "tests/test_cancellations.py", "tests/test_api.py"),
        requirements=("pytest-httpbin==2.0.0", "pytest-trio", "trustme==1.2.1"),
        options=("-k", "not trio"),
    ),
    Suite(
        name="httpx",
        version="0.28.1",
        package="httpx",
        extras="brotli,cli,http2,socks,zstd",
        paths=("tests/client", "tests/test_api.py", "tests/test_asgi.py", "tests/test_timeouts.py"),
        requirements=("chardet==5.2.0", "trustme==1.2.1", "trio", "uvicorn==0.54.0"),
        options=("-k", "not trio"),
        left_out={
            "tests/client/test_proxies.py::test_async_proxy_close": _NETWORK,
            "tests/client/test_proxies.py::test_sync_proxy_close": _NETWORK,
        },
    ),
    Suite(
        name="aioquic",
        version="1.7.2",
        since=(3, 11),
        package="src",
        paths=("tests/test_asyncio.py", "tests/test_connection.py", "tests/test_webtransport.py"),
    ),
)
