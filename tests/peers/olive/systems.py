"""The task queues compared: how each is started, and what its messages look like.

Every one runs 20 workers with a prefetch of 80 in all, on a durable classic queue of transient messages.
"""

import json
import os
import re
import sys
import time
import uuid
from pathlib import Path

import pika

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Olive:
    """Ours: Rust tasks on threads, or in processes of the same binary."""

    queue = "bench.olive"

    def __init__(self, binary, worker_type):
        self.name = f"olive, {worker_type}es" if worker_type == "process" else f"olive, {worker_type}s"
        self.binary = binary
        self.worker_type = worker_type

    def command(self):
        return [str(self.binary), "run"]

    def env(self, url):
        return {
            "olive_amqp_url": url,
            "olive_amqp_queue_name": self.queue,
            "olive_amqp_exchange_name": "bench.olive.x",
            "olive_amqp_routing_key": "bench.olive.k",
            "olive_worker_worker_type": self.worker_type,
            "olive_worker_num_workers": "20",
            "olive_amqp_qos": "80",
            "log_level": "warn",
        }

    def prepare(self, channel):
        channel.queue_declare(self.queue, durable=True)

    def job(self, channel, counting):
        """A message of one job, and a function that gives it an identity of its own."""
        body = {"func": "olive.tasks.do_nothing", "args": [], "kwargs": {}, "tid": str(uuid.uuid4()), "timeout": -1,
                "resp_exchange": None, "resp_routing_key": None}
        properties = pika.BasicProperties(content_type="text/plain", delivery_mode=1)
        if counting:
            properties.reply_to = COUNT_QUEUE
        return properties, json.dumps(body).encode()


COUNT_QUEUE = "bench.count"


class Peer:
    """A Python task queue: one real message of its own producer is taken as the model of all."""

    def prepare(self, channel):
        channel.queue_declare(self.queue, durable=True)

    def env(self, url):
        return {"PYTHONPATH": str(HERE)}

    def job(self, channel, counting):
        self.send_one("count_me" if counting else "do_nothing")
        deadline, method = time.monotonic() + 10, None
        while method is None:
            assert time.monotonic() < deadline, f"{self.name} published nothing to {self.queue}"
            method, properties, body = channel.basic_get(self.queue, auto_ack=True)
        properties.delivery_mode = 1
        return properties, body


class Celery(Peer):
    queue = "bench.celery"

    def __init__(self, pool):
        self.name = f"celery, {pool}"
        self.pool = pool

    def command(self):
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        return [str(BIN / "celery"), "-A", "celery_app", "worker", "-P", self.pool, "-c", "20", *quiet]

    def send_one(self, task):
        import celery_app

        getattr(celery_app, task).delay()


class Dramatiq(Peer):
    queue = "bench.dramatiq"
    name = "dramatiq, 2 processes x 10 threads"

    def command(self):
        return [str(BIN / "dramatiq"), "dramatiq_app", "--processes", "2", "--threads", "10"]

    def env(self, url):
        return super().env(url) | {"dramatiq_queue_prefetch": "40"}  # a process

    def prepare(self, channel):
        import dramatiq_app

        dramatiq_app.broker.declare_queue(dramatiq_app.QUEUE, ensure=True)

    def send_one(self, task):
        import dramatiq_app

        getattr(dramatiq_app, task).send()


class Sweepea:
    """The project olive set out from, when SWEEPEA_CHECKOUT names a checkout of it."""

    queue = "Olive.q"
    name = "sweepea, curio threads"

    def __init__(self, checkout):
        self.checkout = checkout

    def command(self):
        start = "from olive.app import OliveOly; from olive.common import OliveAppConfig as C; OliveOly(C.from_env()).start()"
        return [sys.executable, "-c", start]

    def env(self, url):
        return {"PYTHONPATH": f"{self.checkout}:{HERE}", "olive_amqp_url": url}

    def prepare(self, channel):
        channel.queue_declare(self.queue)  # not durable, as it declares it itself

    def job(self, channel, counting):
        func = "sweepea_task.count_me" if counting else "olive.tasks.do_nothing"
        body = {"func": func, "args": [], "kwargs": {}, "tid": str(uuid.uuid4()), "timeout": -1,
                "resp_exchange": "", "resp_routing_key": ""}
        return pika.BasicProperties(content_type="text/plain", delivery_mode=1), json.dumps(body).encode()


def fresh(body):
    """The same job under a new identity."""
    return UUID.sub(str(uuid.uuid4()).encode(), body)


def all_systems(binary):
    systems = [Olive(binary, "thread"), Olive(binary, "process"), Celery("threads"), Celery("prefork"), Dramatiq()]
    if checkout := os.environ.get("SWEEPEA_CHECKOUT"):
        systems.append(Sweepea(checkout))
    return systems
