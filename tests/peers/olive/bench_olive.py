"""tests/bench olive: the founding benchmark. 100,000 preloaded jobs that do nothing, prefetch 80, 20 workers, RabbitMQ.

The rate runs from the first acks to the empty queue: the broker lets out 80 messages and then one per ack, so a queue
that has shrunk by 80 + k has seen k acks. CPU (user and system) of the worker's whole process tree is taken between
the same two moments, so start-up counts for nobody. Afterwards the same worker gets jobs that leave a trace, and every
one must have left it; then queue and unacknowledged messages must both be at zero.

Arguments: --quick; --only TEXT (systems whose name contains it); --jobs N; --rounds N.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(HERE.parent / "common"))

import pika  # noqa: E402

import bench  # noqa: E402
import systems  # noqa: E402

PREFETCH = 80
TRACED = 500
PATIENCE = 300  # seconds for anything to happen at all


class Row:
    def __init__(self, system):
        self.system = system
        self.rate, self.cpu, self.rss = [], [], []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    # Ours needs the full number to run for long enough; the quick form shortens the slow ones.
    jobs = {True: options.jobs or 100_000, False: options.jobs or (15_000 if options.quick else 100_000)}

    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "olive"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    scratch = Path(tempfile.mkdtemp(prefix="olive-bench-"))
    try:
        url = node(scratch, "start")
        os.environ["BENCH_AMQP_URL"] = url
        os.environ["BENCH_COUNTER"] = str(scratch / "counter")
        rows = [Row(s) for s in systems.all_systems(target / "release" / "olive") if options.only in s.name]
        for number in range(rounds):
            for row in rows[number % len(rows):] + rows[: number % len(rows)]:
                measure(row, url, jobs[isinstance(row.system, systems.Olive)], scratch)
        report(rows)
    finally:
        node(scratch, "remove")
        shutil.rmtree(scratch, ignore_errors=True)


def node(scratch, verb):
    script = [str(ROOT / "tests" / "rabbitmq"), verb, str(scratch / "node")]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def measure(row, url, jobs, scratch):
    system = row.system
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    system.prepare(channel)
    traced = system.job(channel, counting=True)  # the models are made before a worker could take them
    preload(url, system, channel, jobs)
    log = open(scratch / "worker.log", "wb")
    inherited = {k: v for k, v in os.environ.items() if not k.lower().startswith("olive_")}
    worker = subprocess.Popen(system.command(), env=inherited | system.env(url), cwd=scratch, stdin=subprocess.DEVNULL,
                              stdout=log, stderr=log, start_new_session=True)
    tree = bench.Tree(worker.pid)
    try:
        rate, cpu = time_emptying(channel, system.queue, jobs, tree, worker)
        check_traces(url, system, channel, traced, scratch)
        check_settled(scratch, system.queue)
    except BaseException:
        log.close()
        print((scratch / "worker.log").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        stop(worker, tree)
    channel.queue_purge(system.queue)
    connection.close()
    row.rate.append(rate)
    row.cpu.append(cpu)
    row.rss.append(tree.peak_rss / 2**20)
    print(f"{system.name:<36} {rate:>9.0f} tasks/s  {cpu:.4f} CPU s/1000  {row.rss[-1]:.0f} MiB", flush=True)


def preload(url, system, channel, jobs):
    publish(url, system.queue, *system.job(channel, counting=False), jobs)
    deadline = time.monotonic() + PATIENCE
    while (have := ready(channel, system.queue)) != jobs:
        assert time.monotonic() < deadline, f"{system.name}: {have} of {jobs} jobs preloaded"


def publish(url, queue, properties, body, count):
    """On a connection of its own: RabbitMQ slows down a connection that publishes much."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for _ in range(count):
        channel.basic_publish("", queue, systems.fresh(body), properties)
    connection.close()


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def time_emptying(channel, queue, jobs, tree, worker):
    """Acks per second, and CPU seconds per 1,000 jobs, from the first acks to the empty queue."""
    first = wait_for(channel, queue, worker, tree, below=jobs - PREFETCH)
    cpu_first, at_first = tree.cpu(), time.monotonic()
    wait_for(channel, queue, worker, tree, below=1)
    at_last, cpu_last = time.monotonic(), tree.cpu()
    done = first
    assert done > jobs / 2, f"{done} of {jobs} jobs left at the first look: too few to measure"
    return done / (at_last - at_first), (cpu_last - cpu_first) / done * 1000


def wait_for(channel, queue, worker, tree, below):
    deadline, sampled = time.monotonic() + PATIENCE, 0.0
    while (left := ready(channel, queue)) >= below:
        now = time.monotonic()
        assert now < deadline, f"{left} jobs left in {queue}"
        assert worker.poll() is None, f"the worker ended with {worker.returncode}"
        if now - sampled > 0.25:
            tree.cpu()
            sampled = now
        time.sleep(0.003)
    return left


def check_traces(url, system, channel, traced, scratch):
    """The worker really runs what it acks: each of these jobs leaves a reply, or a byte in a file."""
    counter = scratch / "counter"
    counter.write_text("")
    channel.queue_declare(systems.COUNT_QUEUE, durable=True)
    publish(url, system.queue, *traced, TRACED)
    deadline, traces = time.monotonic() + PATIENCE, 0
    replies = isinstance(system, systems.Olive)
    while traces < TRACED:
        assert time.monotonic() < deadline, f"{system.name}: {traces} of {TRACED} jobs left their trace"
        traces = ready(channel, systems.COUNT_QUEUE) if replies else counter.stat().st_size
        time.sleep(0.01)
    assert traces == TRACED, f"{system.name}: {traces} traces of {TRACED} jobs"
    if replies:
        for _ in range(TRACED):
            _, _, reply = channel.basic_get(systems.COUNT_QUEUE, auto_ack=True)
            assert b'"done"' in reply, f"{system.name}: {reply}"
        assert channel.queue_declare(f"{system.queue}.dead", passive=True).method.message_count == 0


def check_settled(scratch, queue):
    deadline = time.monotonic() + PATIENCE
    while True:
        script = [str(ROOT / "tests" / "rabbitmq"), "ctl", str(scratch / "node"), "list_queues", "name", "messages"]
        lines = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        counts = dict(line.split("\t") for line in lines if "\t" in line)
        if counts.get(queue) == "0":
            return
        assert time.monotonic() < deadline, f"{queue} still holds {counts.get(queue)} messages, ready or unacknowledged"


def stop(worker, tree):
    """Asks it to stop; what does not within 20 s is killed, with its children."""
    members = tree.members()
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(20)
    except subprocess.TimeoutExpired:
        print(f"  (pid {worker.pid} did not stop on SIGTERM within 20 s: killed)")
    for pid in members:
        if (fields := bench.stat(pid)) and fields[3] == str(worker.pid):  # still of the worker's session
            os.kill(pid, signal.SIGKILL)
    worker.wait()


def report(rows):
    median = statistics.median
    print(f"\n{'system':<36} {'tasks/s (least, greatest)':<30} {'CPU s/1000 (least, greatest)':<30} peak RSS MiB")
    for r in rows:
        rate = f"{median(r.rate):,.0f} ({min(r.rate):,.0f}, {max(r.rate):,.0f})"
        cpu = f"{median(r.cpu):.4f} ({min(r.cpu):.4f}, {max(r.cpu):.4f})"
        print(f"{r.system.name:<36} {rate:<30} {cpu:<30} {max(r.rss):.0f}")
    by_name = {r.system.name: r for r in rows}
    ours, dramatiq = by_name.get("olive, threads"), by_name.get(systems.Dramatiq.name)
    celery = [by_name[n] for n in ("celery, threads", "celery, prefork") if n in by_name]
    if ours and dramatiq:
        bench.ratio("rate-vs-dramatiq", bench.median_ratio(ours.rate, dramatiq.rate), ">=", 3)
    if ours and celery:
        best = max(celery, key=lambda r: median(r.rate))
        bench.ratio("rate-vs-celery", bench.median_ratio(ours.rate, best.rate), ">=", 6)
    if ours and dramatiq:
        bench.ratio("cpu-vs-dramatiq", bench.median_ratio(ours.cpu, dramatiq.cpu), "<=", 0.3)


if __name__ == "__main__":
    main()
