"""dnspython's asyncio backend against a small DNS server, over UDP and TCP."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.support import TIME_LIMIT

ADDRESSES = [f"192.0.2.{number}" for number in range(1, 200)]


def answer(wire: bytes, *, datagram: bool) -> bytes | None:
    """The server's answer to a query; none for `silent.`, cut short for `long.` by datagram."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    [question] = query.question
    name = question.name.to_text()
    if name == "silent.":
        return None
    if name == "long." and datagram:
        response.flags |= dns.flags.TC
    elif name in ("short.", "long."):
        addresses = ADDRESSES if name == "long." else ADDRESSES[:2]
        response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", "A", addresses))
    else:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response.to_wire(max_size=65535)


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if (response := answer(data, datagram=True)) is not None:
            self.transport.sendto(response, address)


async def serve_stream(reader, writer):
    try:
        while True:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            response = answer(await reader.readexactly(length), datagram=False)
            if response is not None:
                writer.write(struct.pack("!H", len(response)) + response)
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def serving(loop) -> AsyncIterator[int]:
    """The server; its port, for UDP and TCP."""
    server = await asyncio.start_server(serve_stream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", port))
    try:
        yield port
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def resolver(port: int, lifetime: float = TIME_LIMIT) -> dns.asyncresolver.Resolver:
    """A resolver that asks the server at `port` alone."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = port
    resolver.lifetime = lifetime
    return resolver


async def test_datagram(loop):
    async with serving(loop) as port:
        found = await resolver(port).resolve("short.", "A")
        assert {record.address for record in found} == set(ADDRESSES[:2])


async def test_falls_back_to_tcp(loop):
    """An answer that is cut short is asked for again, by a stream."""
    async with serving(loop) as port:
        found = await resolver(port).resolve("long.", "A")
        assert {record.address for record in found} == set(ADDRESSES)


async def test_many_at_once(loop):
    async with serving(loop) as port:
        query = dns.message.make_query("short.", "A")
        responses = await asyncio.gather(
            *(
                dns.asyncquery.udp(query, "127.0.0.1", timeout=TIME_LIMIT, port=port)
                for _ in range(50)
            )
        )
        assert all(len(response.answer[0]) == 2 for response in responses)


async def test_errors(loop):
    async with serving(loop) as port:
        with pytest.raises(dns.asyncresolver.NXDOMAIN):
            await resolver(port).resolve("unknown.", "A")
        with pytest.raises(dns.exception.Timeout):
            await resolver(port, lifetime=0.3).resolve("silent.", "A")
