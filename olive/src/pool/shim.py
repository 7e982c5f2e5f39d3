"""olive's Python worker: runs functions of the listed modules, one job at a time.

Frames (four bytes of length, big-endian, then JSON) arrive and leave on descriptor 0, moved out
of the way at once, so that print() and input() meet an ordinary standard output and /dev/null.
The other end is olive/src/pool/message.rs. Python 3.8 or later, standard library only;
what costs start-up time and is seldom needed (asyncio, traceback) is imported where it is.
"""
import _thread
import importlib
import json
import os
import signal
import struct
import sys

SHIM_FILE = "<olive shim>"  # the name this text was compiled under
TEXT_MAX = 16 * 1024  # longest message or traceback sent, in characters
PID = os.getpid()


class Channel:
    """The frames to and from the main process."""

    def __init__(self, max_len):
        fd = os.dup(0)  # not inheritable, as all descriptors that Python opens
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.reader = open(fd, "rb")
        self.writer = open(fd, "wb", closefd=False)
        self.max_len = max_len

    def receive(self):
        """The next message, or None when the main process has closed its end."""
        header = self.reader.read(4)
        if len(header) < 4:
            return None
        return self.reader.read(struct.unpack(">I", header)[0])

    def send(self, text):
        """Sends JSON text, which is ASCII: json.dumps escapes the rest."""
        payload = text.encode("ascii")
        if len(payload) > self.max_len:
            text = "the result is %d bytes of JSON, %d are allowed"
            return self.send(failed("ResultTooLarge", text % (len(payload), self.max_len)))
        self.writer.write(struct.pack(">I", len(payload)) + payload)
        self.writer.flush()


def unknown(reason):
    return json.dumps({"unknown": reason})


def failed(kind, message, trace=None):
    error = {"type": kind, "message": shorten(message), "traceback": trace}
    return json.dumps({"failed": error})


def shorten(text):
    """Keeps the end, where a traceback says what happened; lone surrogates are not text."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= TEXT_MAX else "[...] " + text[-TEXT_MAX:]


def is_ours(frame):
    file = frame.tb_frame.f_code.co_filename
    return file in (SHIM_FILE, importlib.__file__) or file.startswith("<frozen importlib")


def failure(error, note="%s"):
    """The reply for an exception: its type, its message, and its traceback without our frames."""
    frames = error.__traceback__
    while frames is not None and is_ours(frames):
        frames = frames.tb_next
    cls = type(error)
    kind = cls.__qualname__
    if cls.__module__ not in ("builtins", "__main__"):
        kind = cls.__module__ + "." + kind
    try:
        message = str(error)
    except Exception as inner:  # a __str__ that raises must not cost us the process
        message = "<its __str__ raised %s>" % type(inner).__name__
    import traceback

    try:
        trace = shorten("".join(traceback.format_exception(cls, error, frames)))
    except Exception:
        trace = None
    return failed(kind, note % shorten(message), trace)


def load(module, listed):
    """Imports a listed module."""
    if module not in listed:
        return unknown("%r is not a listed Python module" % module)
    try:
        importlib.import_module(module)
    except BaseException as error:
        where = "interpreter %s, sys.path %s" % (sys.executable, sys.path)
        where = where.replace("%", "%%")
        return failure(error, "importing " + module + " failed: %s (" + where + ")")
    return '"loaded"'


def find(func):
    """The function of that name and None, or None and why it is not a task.

    Looked up in the module's own dictionary: getattr would ask a module's __getattr__ as well.
    A name merely imported has another __module__ and is no task: a queue is not a shell.
    """
    module, _, name = func.rpartition(".")
    loaded = sys.modules.get(module)
    if loaded is None or name.startswith("_") or name not in vars(loaded):
        return None, "%s has no public function %r" % (module, name)
    value = vars(loaded)[name]
    if not callable(value) or isinstance(value, type):
        return None, "%s is not a function" % func
    home = getattr(value, "__module__", None)
    if home != module:
        return None, "%s is not defined in %s but in %s" % (name, module, home)
    return value, None


async def finish(awaitable):
    return await awaitable


def call(func, args, kwargs):
    """Runs one job. Whatever it raises is its outcome and not our end."""
    function, reason = find(func)
    if function is None:
        return unknown(reason)
    try:
        value = function(*args, **kwargs)
        if hasattr(type(value), "__await__"):
            import asyncio

            value = asyncio.run(finish(value))
    except BaseException as error:  # also SystemExit and KeyboardInterrupt
        return failure(error)
    try:
        return '{"done":%s}' % json.dumps(value, allow_nan=False, separators=(",", ":"))
    except Exception as error:
        return failed("ResultNotJson", "what %s returned is not JSON: %s" % (func, error))


def answer(frame, listed):
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        return failed("ArgumentsNotUsable", "Python cannot read the arguments: %s" % error)
    if "load" in message:
        return load(message["load"], listed)
    job = message["call"]
    return call(job["func"], job["args"], job["kwargs"])


def flush():
    """What the job printed must be in the pipe before its outcome is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed or replaced by the job
            pass


def outlast(*signals):
    """Lives on when these come: the main process decides when we go, not a signal to the service.

    A handler, for SIG_IGN would pass on to programs that the job starts; and copies that the job
    forks get back what was there, for multiprocessing ends its own by SIGTERM.
    """
    def nothing(number, frame):
        pass

    before = {number: signal.signal(number, nothing) for number in signals}
    forking = _thread._local()

    def hold():  # a signal to a copy that has not got its handlers back yet would be lost
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def release():
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def restore():
        for number, handler in before.items():
            if signal.getsignal(number) is nothing:
                signal.signal(number, handler)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=restore)


def main():
    outlast(signal.SIGTERM, signal.SIGINT)
    listed = json.loads(os.environ.pop("OLIVE_MODULES"))
    channel = Channel(int(os.environ.pop("OLIVE_FRAME_MAX")))
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.argv = ["olive"]
    channel.send('"ready"')
    while True:
        frame = channel.receive()
        if frame is None:
            return
        reply = answer(frame, listed)
        flush()
        if os.getpid() != PID:
            os._exit(0)  # the job forked, and this is the copy: the outcome is not its to tell
        channel.send(reply)


main()
