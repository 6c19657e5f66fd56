import asyncio
import sys

import oxloop


class ChatClientProtocol(asyncio.Protocol):
    def __init__(self, on_con_lost):
        self.on_con_lost = on_con_lost

    def data_received(self, data):
        print(data.decode(errors='replace'), end='')

    def connection_lost(self, exc):
        print('The chat is over')
        self.on_con_lost.set_result(True)


async def main():
    name = sys.argv[1] if len(sys.argv) > 1 else 'somebody'
    path = sys.argv[2] if len(sys.argv) > 2 else '/tmp/chat.sock'
    loop = asyncio.get_running_loop()
    on_con_lost = loop.create_future()

    transport, protocol = await loop.create_unix_connection(
        lambda: ChatClientProtocol(on_con_lost), path)
    print(name, 'joins')

    # What is typed goes to the others, up to the end of the input (Ctrl-D).
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        transport.write('{}: {}\n'.format(name, line.rstrip('\n')).encode())
    transport.close()
    await on_con_lost


oxloop.run(main())
