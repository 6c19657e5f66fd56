"""One turn of the loop: what was ready before the poll, then I/O, then timers that are due.

Whatever a callback adds runs in the next turn, after another poll.
"""

from __future__ import annotations

import threading

from ..trace import Trace, case
from ..wire import finish, pair, send


@case
async def ready_then_io_then_timers(trace: Trace) -> None:
    """`hop2, soon, data, later0`: all four become ready in one turn."""
    near, far = pair(trace)
    client = trace.protocol("client")
    await trace.connect(client, near)
    done = trace.loop.create_future()

    def hop1() -> None:
        trace("hop1")
        trace.loop.call_later(0, trace.callback("later0", lambda: done.set_result(None)))
        trace.loop.call_soon(trace.callback("hop2"))
        send(far, near, b"data")
        trace.loop.call_soon(trace.callback("soon"))

    trace.loop.call_soon(hop1)
    await done


@case
async def additions_wait_for_another_poll(trace: Trace) -> None:
    """A callback that adds a callback lets I/O that is ready come first, each time."""
    near, far = pair(trace)
    client = trace.protocol("client")
    await trace.connect(client, near)
    done = trace.loop.create_future()

    def first() -> None:
        send(far, near, b"before second")
        trace.loop.call_soon(trace.callback("second", second))

    def second() -> None:
        send(far, near, b"after second")
        trace.loop.call_soon(trace.callback("third", third))

    def third() -> None:
        # Its event came after the callback `second`, so one read took what both had sent.
        trace("pieces", client.calls.count("data_received"))
        trace.loop.call_soon(trace.callback("fourth", lambda: done.set_result(None)))

    trace.loop.call_soon(trace.callback("first", first))
    await done


@case
async def io_callbacks_add_to_the_next_turn(trace: Trace) -> None:
    """What data_received schedules runs after one poll, before the data that poll finds."""
    near, far = pair(trace)

    def received(data: bytes) -> None:
        if len(data) < 4:
            trace.loop.call_soon(trace.callback(f"soon after {data!r}"))
            trace.loop.call_later(0, trace.callback(f"later after {data!r}"))
            send(far, near, data + b".")
            trace.loop.call_soon(trace.callback(f"soon too after {data!r}"))

    client = trace.protocol("client", data_received=received)
    await trace.connect(client, near)
    send(far, near, b".")
    await client.received(10)


@case
async def threadsafe_and_soon_are_one_queue(trace: Trace) -> None:
    """call_soon and call_soon_threadsafe keep the order of the calls, from whichever thread."""
    loop = trace.loop

    def from_thread(name: str) -> None:
        loop.call_soon_threadsafe(trace.callback(name))

    def schedule() -> None:
        loop.call_soon(trace.callback("soon 1"))
        loop.call_soon_threadsafe(trace.callback("threadsafe 2"))
        loop.call_soon(trace.callback("soon 3"))
        thread = threading.Thread(target=from_thread, args=("from a thread 4",))
        thread.start()
        thread.join()
        loop.call_soon(trace.callback("soon 5"))
        loop.call_soon_threadsafe(trace.callback("threadsafe 6"))
        loop.call_soon(trace.callback("soon 7", lambda: done.set_result(None)))

    done = loop.create_future()
    loop.call_soon(schedule)
    await done


@case
async def threadsafe_runs_in_the_turn_of_soon(trace: Trace) -> None:
    """A call_soon_threadsafe from inside the loop is not one turn later than a call_soon."""
    loop = trace.loop

    def hop(name: str, left: int) -> None:
        trace(name, left)
        if left:
            schedule = loop.call_soon if name == "soon" else loop.call_soon_threadsafe
            schedule(hop, name, left - 1)

    loop.call_soon(hop, "threadsafe", 3)
    loop.call_soon(hop, "soon", 3)
    await trace.turns(4)


@case
async def due_timers_run_by_deadline(trace: Trace) -> None:
    """Timers that are due run in the order of their deadlines, in one turn."""
    loop = trace.loop
    now = loop.time()
    done = loop.create_future()
    for number in (3, 1, 4, 2, 5):
        loop.call_at(now + number / 1000, trace.callback(f"due {number}"))
    loop.call_at(now + 0.006, done.set_result, None)
    while loop.time() < now + 0.01:
        pass  # all of them are due before the loop looks
    loop.call_soon(trace.callback("soon"))
    await done


@case
async def timer_in_the_past(trace: Trace) -> None:
    """A deadline that has passed, and a negative delay, mean the next turn, after what is ready."""
    loop = trace.loop
    done = loop.create_future()
    loop.call_later(0, trace.callback("zero"))
    loop.call_later(-1, trace.callback("negative"))
    loop.call_at(0, trace.callback("at 0"))
    loop.call_soon(trace.callback("soon"))
    loop.call_soon(lambda: loop.call_soon(done.set_result, None))
    await done


@case
async def zero_timers_add_one_turn_each(trace: Trace) -> None:
    """call_later(0) from a timer runs in the next turn, behind that turn's ready callbacks."""
    loop = trace.loop
    done = loop.create_future()

    def timer(left: int) -> None:
        trace("timer", left)
        if not left:
            done.set_result(None)
            return
        loop.call_later(0, timer, left - 1)
        loop.call_soon(trace.callback("soon"), left)

    loop.call_later(0, timer, 3)
    await done


@case
async def cancelled_in_its_own_turn(trace: Trace) -> None:
    """A handle that an earlier callback of the same turn cancels does not run."""
    loop = trace.loop
    done = loop.create_future()
    loop.call_soon(lambda: (trace("cancels"), soon.cancel(), timer.cancel()))
    soon = loop.call_soon(trace.callback("cancelled soon"))
    timer = loop.call_later(0, trace.callback("cancelled timer"))
    loop.call_later(0, trace.callback("kept timer", lambda: done.set_result(None)))
    await done


@case
async def pause_before_ready_data(trace: Trace) -> None:
    """A callback ahead of the data's event that pauses reading keeps the data out of this turn."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    send(far, near, b"data")
    trace.loop.call_soon(trace.callback("pause", transport.pause_reading))
    for number in range(3):
        trace("turn", number)
        await trace.turns()
    trace.call(transport.resume_reading)
    trace.loop.call_soon(trace.callback("soon after resume"))
    await client.received(4)


@case
async def abort_before_ready_data(trace: Trace) -> None:
    """Nor is data delivered once a callback ahead of it has aborted or closed the transport."""
    for method in ("abort", "close"):
        near, far = pair(trace)
        client = trace.protocol("client")
        transport = await trace.connect(client, near)
        send(far, near, b"data")
        trace.loop.call_soon(trace.callback(method, getattr(transport, method)))
        await client.lost()


@case
async def set_protocol_before_ready_data(trace: Trace) -> None:
    """Data goes to the protocol that is set when its event is run, not when it was polled."""
    near, far = pair(trace)
    old, new = trace.protocol("old"), trace.protocol("new")
    transport = await trace.connect(old, near)
    send(far, near, b"data")
    trace.loop.call_soon(trace.callback("set_protocol", lambda: transport.set_protocol(new)))
    await new.received(4)


@case
async def set_protocol_one_hop_after_connecting(trace: Trace) -> None:
    """The task that opened a connection acts before the first data, which was there already."""
    near, far = pair(trace)
    send(far, near, b"early data")
    old, new = trace.protocol("old"), trace.protocol("new")
    transport = await trace.connect(old, near)
    trace("connected")
    trace.call(transport.set_protocol, new)
    await new.received(10)


@case
async def first_turns_of_a_connection(trace: Trace) -> None:
    """connection_made, the waiting task, then data: each with the turns asyncio takes."""
    near, far = pair(trace)
    send(far, near, b"early data")

    def hop(left: int) -> None:
        trace("hop", left)
        if left:
            trace.loop.call_soon(hop, left - 1)

    client = trace.protocol("client")
    trace.loop.call_soon(hop, 6)
    await trace.connect(client, near)
    trace("connected")
    await client.received(10)
    trace("received")


@case
async def end_of_stream_after_data(trace: Trace) -> None:
    """Data and the end that arrive together take a turn each."""
    near, far = pair(trace)
    client = trace.protocol("client")
    await trace.connect(client, near)

    def hop(left: int) -> None:
        trace("hop", left)
        if left:
            trace.loop.call_soon(hop, left - 1)

    trace.loop.call_soon(hop, 6)
    far.sendall(b"data")
    finish(far, near)
    await client.lost()


@case
async def closing_takes_one_turn(trace: Trace) -> None:
    """connection_lost comes in the turn after close() or abort(), in the order of the calls."""
    pairs = [pair(trace) for _ in range(3)]
    clients = [trace.protocol(f"client{number}") for number in range(3)]
    transports = [await trace.connect(c, near) for c, (near, _) in zip(clients, pairs, strict=True)]
    trace.loop.call_soon(trace.callback("before"))
    transports[2].close()
    transports[0].abort()
    trace.loop.call_soon(trace.callback("between"))
    transports[1].close()
    trace.loop.call_soon(trace.callback("after"))
    trace("closed all")
    await clients[1].lost()


@case
async def future_wake_up_takes_one_turn(trace: Trace) -> None:
    """A future set in data_received wakes its task in the next turn, before new data."""
    near, far = pair(trace)
    future = trace.loop.create_future()

    def received(data: bytes) -> None:
        if not future.done():
            future.set_result(data)
            send(far, near, b"second")

    client = trace.protocol("client", data_received=received)
    await trace.connect(client, near)
    send(far, near, b"first")
    trace("woken with", await future)
    await client.received(11)


@case
def slow_callback_does_not_lose_timers(trace: Trace) -> None:
    """Timers that become due while a callback blocks run in this order: ready, I/O, timers."""
    near, far = pair(trace)
    client = trace.protocol("client", data_received=lambda data: trace.loop.stop())
    trace.loop.run_until_complete(trace.connect(client, near))

    def slow() -> None:
        deadline = trace.loop.time() + 0.001
        trace.loop.call_at(deadline, trace.callback("timer"))
        send(far, near, b"data")
        while trace.loop.time() <= deadline:
            pass
        trace.loop.call_soon(trace.callback("soon"))

    trace.loop.call_soon(slow)
    trace.loop.run_forever()
