"""The benchmark's task in Celery, set up in its favour: no results, no chatter between workers."""

import os

from celery import Celery

QUEUE = "bench.celery"
app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_default_delivery_mode="transient",
    worker_prefetch_multiplier=4,  # times 20 workers: the prefetch of 80 that all have
)


@app.task
def do_nothing():
    pass


@app.task
def count_me():
    with open(os.environ["BENCH_COUNTER"], "a") as counter:
        counter.write(".")
