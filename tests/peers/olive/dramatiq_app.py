"""The benchmark's task in dramatiq."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

QUEUE = "bench.dramatiq"
broker = RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def do_nothing():
    pass


@dramatiq.actor(queue_name=QUEUE)
def count_me():
    with open(os.environ["BENCH_COUNTER"], "a") as counter:
        counter.write(".")
