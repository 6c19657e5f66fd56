"""Certificates made when they are needed, and contexts which use them.

One authority vouches for all but the certificates of `stranger`. Nothing here knows of loops: the
differential scripts and the tests share it.
"""

from __future__ import annotations

import datetime
import functools
import ssl
from pathlib import Path

import trustme

HOST = "server.test"
"""The name in the certificate of the server, which is also valid for 127.0.0.1."""

DAY = datetime.timedelta(days=1)


@functools.cache
def authority(name: str = "authority") -> trustme.CA:
    """Return the authority that everybody trusts, or by another name one that nobody does."""
    return trustme.CA(organization_name=name)


@functools.cache
def leaf(name: str) -> trustme.LeafCert:
    """Return a certificate with its key.

    `server` is for `HOST` and 127.0.0.1, `expired` was, `wrong_host` is for another name, the
    authority of `stranger` is trusted by nobody; any other name makes one for that client.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    if name == "server":
        return authority().issue_cert(HOST, "127.0.0.1")
    if name == "expired":
        return authority().issue_cert(HOST, not_before=now - 2 * DAY, not_after=now - DAY)
    if name == "wrong_host":
        return authority().issue_cert("elsewhere.test")
    if name == "stranger":
        return authority("stranger").issue_cert(HOST)
    return authority().issue_cert(f"{name}@client.test", common_name=name)


def server_context(
    name: str = "server",
    *,
    clients: ssl.VerifyMode = ssl.CERT_NONE,
    version: ssl.TLSVersion | None = None,
    alpn: list[str] | None = None,
) -> ssl.SSLContext:
    """Return a new context of a server with the certificate `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf(name).configure_cert(context)
    authority().configure_trust(context)
    context.verify_mode = clients
    return _with(context, version, alpn)


def client_context(
    name: str | None = None,
    *,
    verify: bool = True,
    version: ssl.TLSVersion | None = None,
    alpn: list[str] | None = None,
) -> ssl.SSLContext:
    """Return a new context of a client, with the certificate `name` if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if name is not None:
        leaf(name).configure_cert(context)
    if verify:
        authority().configure_trust(context)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return _with(context, version, alpn)


def write_files(folder: Path, name: str = "server") -> tuple[Path, Path, Path]:
    """Write certificate, key and the authority's certificate into `folder`; return their paths."""
    paths = folder / f"{name}.crt", folder / f"{name}.key", folder / "authority.crt"
    certificate = leaf(name)
    paths[0].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    paths[1].write_bytes(certificate.private_key_pem.bytes())
    paths[2].write_bytes(authority().cert_pem.bytes())
    paths[1].chmod(0o600)
    return paths


def _with(
    context: ssl.SSLContext, version: ssl.TLSVersion | None, alpn: list[str] | None
) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context
