"""Applications for the tests, by path."""

import io
import os
import subprocess
import sys
import threading
import time

closed = []  # what close() was called on


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Blocks:
    """Yields what it is given and remembers that it was closed."""

    def __init__(self, name, blocks):
        self.name = name
        self.blocks = iter(blocks)

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self.blocks)
        if isinstance(block, Exception):
            raise block
        return block

    def close(self):
        closed.append(self.name)


def ok(start_response, *headers):
    return start_response("200 OK", [("Content-Type", "text/plain"), *headers])


def variables(environ, start_response):
    ok(start_response)
    names = sorted(n for n in environ if n not in ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper"))
    return ["".join("%s=%a\n" % (n, environ[n]) for n in names).encode("ascii")]


def echo(environ, start_response):
    ok(start_response)
    return [environ["wsgi.input"].read()]


def count(environ, start_response):
    total, source = 0, environ["wsgi.input"]
    while True:
        block = source.read(100000)
        if not block:
            break
        total += len(block)
    ok(start_response)
    return [b"%d" % total]


def lines(environ, start_response):
    source = environ["wsgi.input"]
    ok(start_response)
    first = source.readline()
    part = source.readline(3)
    some = source.readlines(1)
    return [repr((source.read(2), first, part, some, list(source), source.read(), source.readline())).encode()]


def unread(environ, start_response):
    ok(start_response)
    return [b"not read"]


def some_read(environ, start_response):
    ok(start_response)
    return [environ["wsgi.input"].read(3)]


def late_body(environ, start_response):
    """Answers before it reads."""
    ok(start_response, ("X-Accel-Buffering", "no"))
    yield b"first "
    yield b"%d" % len(environ["wsgi.input"].read())


def late_read(environ, start_response):
    source = environ["wsgi.input"]
    ok(start_response)

    def read():
        try:
            late_read.outcome = source.read()
        except ValueError as e:
            late_read.outcome = str(e)

    if hasattr(late_read, "read"):
        late_read.read()
        return [late_read.outcome.encode()]
    late_read.read = read
    return [b"wait"]


def generator(environ, start_response):
    ok(start_response)
    yield b""
    yield b"one "
    yield b"two"


def late_start(environ, start_response):
    yield b""
    ok(start_response)
    yield b"late"


def nothing(environ, start_response):
    ok(start_response)
    return []


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return [b""]


def own_length(environ, start_response):
    ok(start_response, ("content-length", "3"))
    return [b"abc"]


def with_write(environ, start_response):
    write = ok(start_response)
    write(b"written ")
    write(b"")
    return [b"returned"]


def big(environ, start_response):
    ok(start_response)
    return [bytes(range(256)) * (20 << 12)]


def many(environ, start_response):
    ok(start_response)
    return (b"x" * 1000 for _ in range(20 << 10))


def stepwise(environ, start_response):
    """Goes on when it is told so by the existence of files."""
    name = environ["STEP"]
    ok(start_response)
    for i in range(3):
        while not os.path.exists("%s%d" % (name, i)):
            time.sleep(0.001)
        yield b"step %d" % i


def unbuffered(environ, start_response):
    ok(start_response, ("X-Accel-Buffering", "no"))
    return stepwise(environ, lambda *_: None)


def file(environ, start_response):
    ok(start_response)
    source = Blocks("file", [])
    data = io.BytesIO(b"0123456789" * 10000)
    source.read = data.read
    return environ["wsgi.file_wrapper"](source, 8192)


def raises(environ, start_response):
    raise LookupError("before")


def raises_after_start(environ, start_response):
    ok(start_response)
    raise LookupError("after start")


def raises_sent(environ, start_response):
    ok(start_response)
    return Blocks("sent", [b"some", LookupError("sent")])


def raises_in_close(environ, start_response):
    ok(start_response)
    blocks = Blocks("", [b"whole"])
    blocks.name = property()
    blocks.close = lambda: 1 // 0
    return blocks


def exits(environ, start_response):
    sys.exit(5)


def no_start(environ, start_response):
    return [b"x"]


def no_start_empty(environ, start_response):
    return []


def text(environ, start_response):
    ok(start_response)
    return ["text"]


def twice(environ, start_response):
    ok(start_response)
    ok(start_response)
    return [b"x"]


def replaced(environ, start_response):
    ok(start_response)
    try:
        raise LookupError("caught")
    except LookupError:
        start_response("503 Later", [("X-A", "b")], sys.exc_info())
    return [b"replaced"]


def replaced_late(environ, start_response):
    write = ok(start_response)
    write(b"w" * 40000)
    try:
        raise LookupError("too late")
    except LookupError:
        start_response("503 Later", [], sys.exc_info())
    return [b"x"]


def split(environ, start_response):
    ok(start_response, ("X-A", "b\r\nX-Evil: c"))
    return [b"x"]


def split_status(environ, start_response):
    start_response("200 OK\nX-Evil: c", [])
    return [b"x"]


def bad_status(environ, start_response):
    start_response("OK", [])
    return [b"x"]


def bad_value(environ, start_response):
    ok(start_response, ("X-A", 5))
    return [b"x"]


def latin(environ, start_response):
    ok(start_response, ("X-A", "\xe9"))
    return [b"x"]


def not_latin(environ, start_response):
    ok(start_response, ("X-A", "\u20ac"))
    return [b"x"]


def errors(environ, start_response):
    e = environ["wsgi.errors"]
    e.write("one ")
    e.writelines(["line\n", "caf\xe9 \ud800\n", "no "])
    print("end", end="", file=e)
    ok(start_response)
    return [b"x"]


def many_errors(environ, start_response):
    environ["wsgi.errors"].write("e" * 200000 + "\n")
    ok(start_response)
    return [b"x"]


def late_errors(environ, start_response):
    ok(start_response)
    if hasattr(late_errors, "stream"):
        late_errors.stream.write("between\n")
    late_errors.stream = environ["wsgi.errors"]
    threading.Timer(0.05, late_errors.stream.write, ["afterwards\n"]).start()
    return [b"x"]


def closed_names(environ, start_response):
    ok(start_response)
    names = ",".join(closed)
    closed.clear()
    return [names.encode()]


together = threading.Barrier(4)


def meets(environ, start_response):
    together.wait(20)
    ok(start_response)
    return [threading.current_thread().name.encode()]


def printed(environ, start_response):
    print("printed")
    ok(start_response)
    return [b"x"]


def descriptors(environ, start_response):
    """What a program gets that the application starts."""
    script = """if True:
        import os
        names = [os.readlink("/proc/self/fd/%d" % n) for n in range(256) if os.path.exists("/proc/self/fd/%d" % n)]
        print([n for n in names if "socket" in n], os.readlink("/proc/self/fd/0"), "GATEWAY_WSGI_SHIM" in os.environ)"""
    ok(start_response)
    return [subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, close_fds=False, check=True).stdout]


def forks(environ, start_response):
    """A copy of the process that comes back with an exception, and one that is ended by SIGTERM."""
    pid = os.fork()
    if pid == 0:
        raise LookupError("in the copy")
    _, first = os.waitpid(pid, 0)
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(2)
    os.kill(pid, 15)
    _, second = os.waitpid(pid, 0)
    ok(start_response)
    return [b"%d %d" % (first, second)]


def leaves_copy(environ, start_response):
    """Forks a process that outlives this one."""
    if os.fork() == 0:
        os.close(1)
        os.close(2)
        time.sleep(60)
        os._exit(0)
    ok(start_response)
    return [b"left"]


def application(environ, start_response):
    return globals()[environ["PATH_INFO"][1:] or "plain"](environ, start_response)
