"""Tasks for olive/tests/pool_processes.rs."""
import ctypes
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from os import system


def add(a, b=0):
    return a + b


def pid():
    return os.getpid()


def fail():
    raise ValueError("no")


def leave(code):
    os._exit(code)


def crash():
    ctypes.string_at(0)


def sleep(seconds, announce=None):
    if announce:
        tell(announce, [os.getpid()])
    time.sleep(seconds)


def wait_for(announce, go):
    tell(announce, [os.getpid()])
    while not os.path.exists(go):
        time.sleep(0.01)


def ends_of_children():
    """How a program and a fork of ours end by SIGTERM."""
    program = subprocess.Popen(["sleep", "600"])
    program.terminate()
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    forked.start()
    forked.terminate()
    forked.join()
    return [program.wait(), forked.exitcode]


def open_files_max():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tell(path, pids):
    """Whole or not at all, so that a reader never sees half of it."""
    with open(path + ".new", "w") as file:
        file.write(" ".join(map(str, pids)))
    os.rename(path + ".new", path)


def family(announce, seconds=600):
    """Children in our group and in a session of their own, and a daemon that we are not the parent of."""
    same = subprocess.Popen(["sleep", "600"])
    session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    shell = "setsid sh -c 'echo $$ > %s.pid; exec sleep 600' & exec true" % announce
    subprocess.run(["sh", "-c", shell])
    while not os.path.exists(announce + ".pid") or not open(announce + ".pid").read().strip():
        time.sleep(0.01)
    daemon = int(open(announce + ".pid").read())
    tell(announce, [os.getpid(), same.pid, session.pid, daemon])
    time.sleep(seconds)


def orphans(count):
    """Leaves short-lived processes behind whose parent has ended."""
    for _ in range(count):
        subprocess.run(["sh", "-c", "setsid true & exit 0"])


def flood(lines):
    for _ in range(lines):
        sys.stdout.write("x" * 60 + "\n")
    return lines


def say(text):
    print(text)
    print("err " + text, file=sys.stderr)


def whole(n):
    return "x" * n


def length(text):
    return len(text)


def open_files():
    return sorted(os.readlink("/proc/self/fd/" + fd).split(":")[0] for fd in os.listdir("/proc/self/fd")
                  if os.path.exists("/proc/self/fd/" + fd))
