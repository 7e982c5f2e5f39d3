"""One peer in Python, one shape, one rate: peers.py PEER send|receive COUNT DEPTH DIRECTORY.

Prints messages a second. `send`: COUNT lone sends, each as durable as the peer makes it, onto a queue of DEPTH.
`receive`: COUNT messages received and settled one by one from a queue of DEPTH (the peers have no batches).
"""

import os
import pathlib
import sys
import time

BODY = b"x" * 64


def original(directory):
    sys.path.insert(0, os.path.join(os.environ["PERSIPUBSUB_CHECKOUT"], "py"))
    import persipubsub.environment
    import persipubsub.queue

    env = persipubsub.environment.initialize(path=pathlib.Path(directory))
    limits = persipubsub.queue.HighWaterMark(max_messages=10**9)
    env.new_control(subscriber_ids={"sub"}, high_water_mark=limits)
    publisher, subscriber = env.new_publisher(), env.new_subscriber(identifier="sub")

    def receive():
        with subscriber.receive(timeout=1) as message:
            return message

    return publisher.send, publisher.send_many, receive


def persist_queue(directory):
    import persistqueue

    queue = persistqueue.SQLiteAckQueue(directory, auto_commit=True)

    def receive():
        message = queue.get(block=False)
        queue.ack(message)
        return message

    return queue.put, lambda bodies: [queue.put(body) for body in bodies], receive


def huey(directory):
    from huey.storage import SqliteStorage

    storage = SqliteStorage(filename=os.path.join(directory, "huey.db"), fsync=True, journal_mode="wal")
    return storage.enqueue, lambda bodies: [storage.enqueue(body) for body in bodies], storage.dequeue


def litequeue(directory):
    from litequeue import LiteQueue

    queue = LiteQueue(os.path.join(directory, "lite.db"))

    def receive():
        message = queue.pop()
        queue.done(message.message_id)
        return message.data

    text = BODY.decode()
    return lambda _: queue.put(text), lambda bodies: [queue.put(text) for _ in bodies], receive


def main():
    peer, shape, count, depth, directory = sys.argv[1:]
    count, depth = int(count), int(depth)
    makers = {"original": original, "persist-queue": persist_queue, "huey": huey, "litequeue": litequeue}
    send, fill, receive = makers[peer](directory)
    if depth:
        fill([BODY] * depth)
    begin = time.perf_counter()
    for _ in range(count):
        if shape == "send":
            send(BODY)
        else:
            assert len(receive()) == 64
    print(count / (time.perf_counter() - begin))


if __name__ == "__main__":
    main()
