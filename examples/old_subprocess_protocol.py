import asyncio
import sys

import oxloop

asyncio.set_event_loop(oxloop.new_event_loop())


class DateProtocol(asyncio.SubprocessProtocol):
    def __init__(self, exit_future):
        self.exit_future = exit_future
        self.output = bytearray()

    def pipe_data_received(self, fd, data):
        self.output.extend(data)

    def connection_lost(self, exc):
        self.exit_future.set_result(True)


async def get_date(loop):
    code = 'import datetime; print(datetime.datetime.now())'
    exit_future = loop.create_future()

    # Create the subprocess controlled by the protocol DateProtocol,
    # redirect the standard output into a pipe
    transport, protocol = await loop.subprocess_exec(
        lambda: DateProtocol(exit_future),
        sys.executable, '-c', code,
        stdin=None, stderr=None)

    # Wait for the subprocess exit using the connection_lost() method
    # of the protocol
    await exit_future

    # Close the stdout pipe
    transport.close()

    # Read the output which was collected by the pipe_data_received()
    # method of the protocol
    data = bytes(protocol.output)
    return data.decode('ascii').rstrip()


loop = asyncio.get_event_loop()
date = loop.run_until_complete(get_date(loop))
print("Current date: %s" % date)
loop.close()
