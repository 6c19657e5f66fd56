import asyncio
import sys

import oxloop


class ChatServerProtocol(asyncio.Protocol):
    members = set()

    def connection_made(self, transport):
        self.transport = transport
        self.unfinished = b''
        self.members.add(transport)

    def data_received(self, data):
        # Whole lines only: what two members write must not mix.
        lines, end, self.unfinished = (self.unfinished + data).rpartition(b'\n')
        for member in self.members - {self.transport}:
            member.write(lines + end)

    def pause_writing(self):
        # A member that does not read has to leave,
        # or what it missed would pile up.
        self.transport.abort()

    def connection_lost(self, exc):
        self.members.discard(self.transport)


async def main():
    path = sys.argv[1] if len(sys.argv) > 1 else '/tmp/chat.sock'
    loop = asyncio.get_running_loop()

    server = await loop.create_unix_server(ChatServerProtocol, path)
    print('The chat is at', path)

    async with server:
        await server.serve_forever()


oxloop.run(main())
