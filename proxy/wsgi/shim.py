"""The WSGI shim of the gateway: it serves a WSGI application (PEP 3333) by FastCGI.

Descriptor 0 is a listening unix socket. A few threads wait for requests on its connections, which the peer keeps, and each
answers one at a time. SIGTERM lets the requests in progress end and then the process.

It speaks to a gateway of its own version only, but does not trust it to be whole: what is not FastCGI ends the connection.
Nothing but the standard library of Python 3.9 is used, and all of it is imported before the application, which may
replace parts of it. The source is ASCII, because it travels in the environment.
"""

import errno
import gc
import importlib
import io
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from io import BytesIO
from queue import SimpleQueue

# Types of records (FastCGI 1.0, section 8).
BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, _, GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = range(1, 12)

RESPONDER = 1
KEEP_CONN = 1
COMPLETE, CANT_MULTIPLEX, _, UNKNOWN_ROLE = range(4)

HEADER_BYTES = 8
MAX_CONTENT = 65528  # of one record that is written: the largest multiple of 8, so that there is no padding
MAX_PARAMS = 1 << 20  # of one request
RECEIVE = 65536
GATHER = 32768  # blocks that are all there already are sent in pieces of so many bytes

SMALL = 16384  # is sent and received without letting go of the interpreter's lock
SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
PEER_CLOSED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

header = struct.Struct(">BBHHBB").pack  # version, type, request, length, padding, reserved

# How a request begins that keeps its connection, up to the length of its only PARAMS record, and how it ends if it has no body.
PLAIN_BEGIN = bytes([1, BEGIN, 0, 1, 0, 8, 0, 0, 0, RESPONDER, KEEP_CONN, 0, 0, 0, 0, 0, 1, PARAMS, 0, 1])
PLAIN_END = bytes([1, PARAMS, 0, 1, 0, 0, 0, 0, 1, STDIN, 0, 1, 0, 0, 0, 0])
PLAIN_PARAMS = len(PLAIN_BEGIN) + 4

# What the process can hold no more of, for now.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

EXIT_IMPORT = 3  # the application can't be imported


def record(kind, request, content):
    return header(1, kind, request, len(content), 0, 0) + content


def end_of_request(request, status):
    return record(END, request, bytes([0, 0, 0, 0, status, 0, 0, 0]))


class PeerGone(ConnectionError):
    """The peer has closed the connection, or what it sends is not FastCGI. The connection is of no further use."""


class Connection:
    """One connection of the front. Owned by the thread that has its turn; what others use is said at its place."""

    def __init__(self, server, sock):
        self.server = server
        self.sock = sock
        self.descriptor = sock.fileno()
        self.data = b""  # received; used up to pos
        self.pos = 0
        self.request = 1  # the one in progress, or the last one
        self.keep = True
        self.final = b""  # what ends the response
        self.stdin = False  # its end has not come
        self.left = 0  # content of the current STDIN record that was not read,
        self.padding = 0  # and what follows it
        self.body = None  # that reads from here
        self.broken = False
        self.more = False  # something may have come that no event will tell of
        self.idle = True  # also read by the main thread
        self.event = False  # something has come; set by whoever learns of it, as is
        self.ending = False  # the end of what the peer sends is among it
        self.turn = threading.Lock()  # held by the thread that serves, and for ever after the end
        self.lock = threading.Lock()  # held for each write to sock
        self.errors = Errors(self)
        self.base = dict(server.base)
        self.base["wsgi.errors"] = self.errors

    def attend(self, worker, events):
        """Answers what has come, unless another thread does. False means that the connection is over."""
        if events & PEER_CLOSED:
            self.ending = True
        self.event = True
        while self.event and self.turn.acquire(False):
            self.event = False
            try:
                while self.step(worker):
                    pass
            except PeerGone:
                return False
            self.turn.release()
        return True

    def step(self, worker):
        """Answers one request, if there is one. False means that nothing more has come."""
        if self.pos == len(self.data):
            data = worker.receive(self)
            if data is None:
                return False
            self.data, self.pos = data, 0
            self.more = len(data) == SMALL
        environ = self.receive()
        if environ is None:
            return True
        self.idle = False
        self.errors.active = True
        whole = self.answer(environ)
        self.errors.active = False
        if self.body is not None:
            self.body.connection = self.body = None
        if not whole or not self.keep:
            raise PeerGone("the response was the last one")
        self.skip_body()
        self.rest()
        return self.more or self.ending or self.pos < len(self.data)

    def rest(self):
        # The main thread sets stopping before it looks at idle, so that one of us sees the other.
        self.idle = True
        if self.server.stopping:
            self.hang_up()

    def hang_up(self):
        """Takes no more from the peer. What it has sent already can still be read."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:  # closed
            pass

    # Reading

    def lost(self, reason):
        self.broken = True
        return PeerGone(reason)

    def receive_some(self):
        try:
            data = self.sock.recv(RECEIVE)
        except OSError as e:
            raise self.lost("gateway: the connection to the front failed: %s" % e) from None
        if not data:
            raise self.lost("gateway: the front closed the connection")
        return data

    def need(self, n):
        """Receives until n bytes are there."""
        while len(self.data) - self.pos < n:
            self.data = self.data[self.pos:] + self.receive_some()
            self.pos = 0

    def take(self, n, padding=0):
        self.need(n + padding)
        pos = self.pos
        self.pos = pos + n + padding
        return self.data[pos:pos + n]

    def skip(self, n):
        while n > 0:
            self.need(1)
            m = min(n, len(self.data) - self.pos)
            self.pos += m
            n -= m

    def next_record(self):
        """Returns type, request, length and padding of the next record. Its content follows."""
        self.need(HEADER_BYTES)
        data, pos = self.data, self.pos
        if data[pos] != 1:
            raise self.lost("gateway: a FastCGI record of version %d" % data[pos])
        self.pos = pos + HEADER_BYTES
        return data[pos + 1], data[pos + 2] << 8 | data[pos + 3], data[pos + 4] << 8 | data[pos + 5], data[pos + 6]

    def receive(self):
        """Reads a request of which something has come and returns its environ; None: it was something else."""
        data = self.data
        if not self.pos and data.startswith(PLAIN_BEGIN) and len(data) >= PLAIN_PARAMS and not data[22]:
            end = PLAIN_PARAMS + (data[20] << 8 | data[21])
            if data[end:] == PLAIN_END:
                self.data = b""
                self.begin(1, True)
                environ = self.environ(data, PLAIN_PARAMS, end)
                environ["wsgi.input"] = BytesIO()
                return environ
        self.more = True
        params = self.receive_params()
        if params is None:
            return None
        environ = self.environ(params, 0, len(params))
        environ["wsgi.input"] = self.open_body(environ.get("CONTENT_LENGTH", ""))
        return environ

    def begin(self, request, keep):
        if request != self.request or not self.final:
            self.request = request
            self.final = record(STDOUT, request, b"") + end_of_request(request, COMPLETE)
        self.keep = keep

    def receive_params(self):
        """Reads up to the end of a request's PARAMS stream. What is left of the request before is skipped; None: it was all."""
        parts = None  # no request has begun
        size = 0
        while parts is not None or self.pos < len(self.data):
            kind, request, length, padding = self.next_record()
            content = self.take(length, padding)
            if request == 0 or kind == BEGIN and parts is not None or parts is None and kind != BEGIN:
                self.other_record(kind, request, content, parts is not None)
            elif kind == BEGIN:
                if self.accept_request(request, content):
                    parts = []
            elif request != self.request:
                pass  # of a request that was refused (section 3.3)
            elif kind == PARAMS and not content:
                return b"".join(parts)
            elif kind == PARAMS:
                size += length
                if size > MAX_PARAMS:
                    raise self.lost("gateway: more than %d bytes of parameters" % MAX_PARAMS)
                parts.append(content)
            elif kind == ABORT:
                self.send(end_of_request(request, COMPLETE))
                parts = None
            else:
                raise self.lost("gateway: a FastCGI record of type %d before a request" % kind)
        return None

    def accept_request(self, request, content):
        if len(content) != 8:
            raise self.lost("gateway: a FastCGI request begins with %d bytes" % len(content))
        if content[0] << 8 | content[1] != RESPONDER:
            self.send(end_of_request(request, UNKNOWN_ROLE))
            if not content[2] & KEEP_CONN:
                raise self.lost("gateway: a FastCGI request for another role")
            return False
        self.begin(request, bool(content[2] & KEEP_CONN))
        return True

    def other_record(self, kind, request, content, busy):
        """Answers a record that is no part of the request in progress."""
        if request == 0:
            self.answer_management(kind, content)
        elif kind == BEGIN and busy:
            if request == self.request:
                raise self.lost("gateway: a FastCGI request begins twice")
            self.send(end_of_request(request, CANT_MULTIPLEX))

    def answer_management(self, kind, content):
        if BEGIN <= kind < GET_VALUES:
            raise self.lost("gateway: a FastCGI record of type %d without a request" % kind)
        if kind != GET_VALUES:
            self.send(record(UNKNOWN_TYPE, 0, bytes([kind, 0, 0, 0, 0, 0, 0, 0])))
            return
        asked = {}
        self.parse(asked, content, 0, len(content))
        known = {"FCGI_MAX_CONNS": self.server.size, "FCGI_MAX_REQS": self.server.size, "FCGI_MPXS_CONNS": 0}
        answer = b""
        for name in known:
            if name in asked:
                value = str(known[name])
                answer += bytes([len(name), len(value)]) + (name + value).encode()
        self.send(record(GET_VALUES_RESULT, 0, answer))

    def environ(self, data, pos, end):
        """Makes an environ of the parameters in data[pos:end]."""
        environ = self.base.copy()
        self.parse(environ, data, pos, end)
        if environ.get("HTTPS", "off") in ("on", "1"):
            environ["wsgi.url_scheme"] = "https"
        return environ

    def parse(self, variables, data, i, end):
        # PEP 3333: the text is the bytes, read as ISO 8859-1. One decoding for all keeps the positions.
        text = data.decode("latin-1")
        try:
            while i < end:
                name = data[i]
                value = data[i + 1]
                if name | value < 128:
                    i += 2
                else:
                    name, i = long_length(data, i)
                    value, i = long_length(data, i)
                name += i
                value += name
                variables[text[i:name]] = text[name:value]
                i = value
        except IndexError:
            i = -1
        if i != end:
            raise self.lost("gateway: FastCGI parameters that are cut off")

    # The body of a request

    def open_body(self, length):
        """Returns what the application reads the body from. It need not have arrived."""
        length = int(length) if length.isdecimal() else None
        self.stdin, self.left, self.padding = True, 0, 0
        whole = self.whole_body()
        if whole is not None:
            return BytesIO(whole if length is None else whole[:length])
        if length == 0:
            return BytesIO()
        self.body = Body(self, length)
        return io.BufferedReader(self.body, RECEIVE)

    def whole_body(self):
        """Returns a body that was received with its end, in at most one record; or else None."""
        data, pos = self.data, self.pos
        end_record = header(1, STDIN, self.request, 0, 0, 0)
        content = b""
        if data[pos:pos + 4] == end_record[:4] and len(data) - pos > 2 * HEADER_BYTES and not data[pos + 6]:
            start = pos + HEADER_BYTES
            pos = start + (data[pos + 4] << 8 | data[pos + 5])
            content = data[start:pos]
        if data[pos:pos + HEADER_BYTES] != end_record:
            return None
        self.pos = pos + HEADER_BYTES
        self.stdin = False
        return content

    def read_body(self, view):
        """Fills view with some of the STDIN stream and returns how much; 0 at its end."""
        while self.left == 0:
            if not self.stdin:
                return 0
            self.next_stdin()
        n = min(len(view), self.left)
        ready = len(self.data) - self.pos
        if ready:
            n = min(n, ready)
            view[:n] = self.data[self.pos:self.pos + n]
            self.pos += n
        else:
            n = self.receive_into(view, n)
        self.left -= n
        return n

    def receive_into(self, view, n):
        try:
            n = self.sock.recv_into(view, n)
        except OSError as e:
            raise self.lost("gateway: the connection to the front failed: %s" % e) from None
        if n == 0:
            raise self.lost("gateway: the front closed the connection in the middle of a request body")
        return n

    def next_stdin(self):
        """Goes to the next STDIN record of the request, or to the end of the stream."""
        self.skip(self.padding)
        self.padding = 0
        while True:
            kind, request, length, padding = self.next_record()
            if request == self.request and kind == STDIN:
                self.left, self.padding = length, padding
                if length == 0:
                    self.stdin = False
                    self.skip(padding)
                    self.padding = 0
                return
            content = self.take(length, padding)
            if request != self.request or kind == BEGIN:
                self.other_record(kind, request, content, True)
            elif kind == ABORT:
                raise self.lost("gateway: the front aborted the request")
            else:
                raise self.lost("gateway: a FastCGI record of type %d in a request body" % kind)

    def skip_body(self):
        """Skips what is left of the record that the body was read from. Those that are still to come go with the next request."""
        if self.left or self.padding:
            self.skip(self.left + self.padding)
            self.left = self.padding = 0
        self.stdin = False

    # Answering

    def answer(self, environ):
        """Runs the application. False means that the response is not whole, and the connection to be closed."""
        response = Response(self, environ)
        try:
            response.relay(self.server.application(environ, response.start_response))
        except BaseException as e:
            return self.failed(response, e)
        return not self.broken

    def failed(self, response, error):
        self.server.end_copy()
        if self.broken:
            return False  # nobody reads the answer
        try:
            self.errors.write(describe(error))
            if response.complete:
                self.send(self.final)
            elif not response.sent:
                response.fail()
            else:
                return False
        except PeerGone:
            return False
        return True

    def send(self, data):
        """Sends records. Also called from other threads, by Errors."""
        with self.lock:
            if self.broken:
                raise PeerGone("gateway: the front is gone")
            try:
                if calls is not None and len(data) <= SMALL:
                    data = data[max(calls.send(self.descriptor, data, len(data), SEND_FLAGS), 0):]
                if data:
                    self.sock.sendall(data)
            except OSError as e:
                raise self.lost("gateway: the front hung up: %s" % e) from None


class Calls:
    """System calls that keep the interpreter's lock, which Python's own let go: for those that do not wait.

    Where several threads have requests, somebody else takes the lock then, and two changes of threads cost more than a small
    request. This way a thread goes from one request to the next, and lets go when nothing is left to do or the application
    waits for something.
    """

    def __init__(self):
        import ctypes
        c = ctypes.PyDLL(None)
        self.send, self.recv, self.epoll_wait, self.string_at = c.send, c.recv, c.epoll_wait, ctypes.string_at
        for call in (self.send, self.recv):
            call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            call.restype = ctypes.c_ssize_t
        gap = [] if os.uname().machine in ("x86_64", "i686", "i386") else [("gap", ctypes.c_int)]

        class Event(ctypes.Structure):  # epoll_event, whose data is aligned except on x86
            _fields_ = [("events", ctypes.c_uint32), *gap, ("fd", ctypes.c_int), ("rest", ctypes.c_int)]

        self.epoll_wait.argtypes = (ctypes.c_int, ctypes.POINTER(Event), ctypes.c_int, ctypes.c_int)
        self.Event, self.pointer = Event, ctypes.pointer
        self.buffer = lambda: ctypes.create_string_buffer(SMALL)


def find_calls():
    try:
        return Calls()
    except (ImportError, OSError, AttributeError):  # a Python without ctypes: slower
        return None


calls = find_calls()


def long_length(data, i):
    """Reads a length at i (section 3.4) and returns it with the position behind it."""
    n = data[i]
    if n < 128:
        return n, i + 1
    return (n & 127) << 24 | data[i + 1] << 16 | data[i + 2] << 8 | data[i + 3], i + 4


class Body(io.RawIOBase):
    """A request body that is still arriving: at most length bytes of it, or all if length is None."""

    def __init__(self, connection, length):
        self.connection = connection  # None: the request is over
        self.length = sys.maxsize if length is None else length

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.connection is None:
            raise ValueError("wsgi.input was read after the end of its request")
        if self.length == 0:
            return 0
        view = memoryview(buffer)[:self.length]
        n = self.connection.read_body(view)
        self.length -= n
        return n


class Errors(io.TextIOBase):
    """wsgi.errors: lines go to the front, which logs them with the request. Safe for concurrent use."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, connection):
        self.connection = connection
        self.active = False  # a request is in progress
        self.text = ""  # of a line that has no end yet
        self.text_lock = threading.Lock()

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("wsgi.errors takes str, not %s" % type(text).__name__)
        with self.text_lock:
            lines, newline, rest = (self.text + text).rpartition("\n")
            self.text = rest
        if newline:
            self.emit(lines + newline)
        return len(text)

    def flush(self):
        with self.text_lock:
            text, self.text = self.text, ""
        if text:
            self.emit(text)

    def emit(self, text):
        """Without a request the lines go where sys.stderr goes."""
        if self.active:
            try:
                self.send(text.encode(self.encoding, self.errors))
                return
            except PeerGone:
                pass
        sys.stderr.write(text)

    def send(self, data):
        for i in range(0, len(data), MAX_CONTENT):
            self.connection.send(record(STDERR, self.connection.request, data[i:i + MAX_CONTENT]))


class Response:
    """The response to one request, from start_response to the end of the output."""

    __slots__ = ("connection", "head", "has_length", "is_head", "sent", "complete", "blocks", "size", "limit")

    def __init__(self, connection, environ):
        self.connection = connection
        self.head = None  # without the empty line; None: start_response was not called
        self.has_length = False  # or must not have one
        self.is_head = environ.get("REQUEST_METHOD") == "HEAD"
        self.sent = False  # the head
        self.complete = False  # all of it but the end of the request
        self.blocks = []  # that were not sent,
        self.size = 0  # and their length. For HEAD: how much the body has
        # Blocks are gathered to so many bytes: none, because the next one may be long in coming (PEP 3333, "Buffering and Streaming").
        self.limit = 0

    def start_response(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a circle of references
        elif self.head is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self.head = self.make_head(status, headers)
        return self.write

    def make_head(self, status, headers):
        if not status[:3].isdecimal() or status[3:4] not in ("", " ") or status < "200":
            raise ValueError("status %r: must be like '200 OK', and final" % status)
        head = "Status: %s\r\n%s\r\n" % (status, "\r\n".join(map(": ".join, headers))) if headers else "Status: %s\r\n" % status
        lines = len(headers) + 1
        if head.count("\r") != lines or head.count("\n") != lines:
            raise ValueError("line breaks in the status %r or in a header of %r" % (status, headers))
        names = head.lower()
        self.has_length = "\ncontent-length:" in names or status[:3] in ("204", "304")
        return head.encode("latin-1")

    def write(self, block):
        """Takes a block of the output. It is also what start_response returns."""
        if not isinstance(block, bytes):
            raise TypeError("the application's output must be bytes, not %s" % type(block).__name__)
        if not block:
            return
        if self.head is None:
            raise AssertionError("output before start_response")
        self.size += len(block)
        if self.is_head:
            return
        self.blocks.append(block)
        if self.size >= self.limit:
            self.flush()

    def relay(self, result):
        """Sends what the application returned."""
        # Of one block the length is known before the first byte goes (PEP 3333, "Handling the Content-Length Header").
        close = None
        try:
            close = getattr(result, "close", None)
            one = has_one(result)
            if one:
                self.limit = sys.maxsize
            elif isinstance(result, (list, tuple)):
                self.limit = GATHER
            for block in result:
                self.write(block)
                if self.is_head and block:
                    break
            if close is None:
                self.finish(one, self.end())
                return
            self.finish(one, b"")  # the client need not wait for what close does
            self.complete = True
        finally:
            if close is not None:
                close()
        self.connection.send(self.end())

    def end(self):
        """Returns the record that ends the request, which comes after the last line of its errors."""
        errors = self.connection.errors
        if errors.text:
            errors.flush()
        return self.connection.final

    def finish(self, one, tail):
        """Sends what was not sent yet and the tail. A body that was gathered whole gets its length."""
        if self.head is None:
            raise AssertionError("the application did not call start_response")
        if not self.sent and not self.has_length and (not self.is_head or one and self.size):
            self.head += b"Content-Length: %d\r\n" % self.size
        self.flush(tail)

    def flush(self, tail=b""):
        blocks = self.blocks
        if not self.sent:
            blocks[:0] = (self.head, b"\r\n")
            self.sent = True
        content = b"".join(blocks)
        blocks.clear()
        self.size = 0
        send = self.connection.send
        request = self.connection.request
        if len(content) <= MAX_CONTENT:
            data = header(1, STDOUT, request, len(content), 0, 0) + content + tail if content else tail
            if data:
                send(data)
            return
        view = memoryview(content)
        for i in range(0, len(content), MAX_CONTENT):
            part = view[i:i + MAX_CONTENT]
            send(b"".join((header(1, STDOUT, request, len(part), 0, 0), part)))
        if tail:
            send(tail)

    def fail(self):
        """Answers 500 instead of what was gathered."""
        self.blocks.clear()
        self.size = 0
        self.has_length = True
        self.head = b"Status: 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n"
        if not self.is_head:
            self.blocks.append(b"500 Internal Server Error\n")
            self.head += b"Content-Length: 26\r\n"
        self.flush(self.end())


def has_one(result):
    try:
        return len(result) == 1
    except TypeError:
        return False


class FileWrapper:
    """wsgi.file_wrapper."""

    def __init__(self, file, block_size=0):
        self.read = file.read
        self.block_size = max(block_size, GATHER)  # it is a suggestion
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self):
        return self

    def __next__(self):
        block = self.read(self.block_size)
        if block:
            return block
        raise StopIteration


class Worker:
    """One thread."""

    def __init__(self, server):
        self.server = server
        self.wait_now = self.receive_now = None
        if calls is not None:
            self.make_calls(server.epoll.fileno())

    def make_calls(self, epoll):
        """Prepares the calls that keep the interpreter's lock, each with memory of its own."""
        event, buffer = calls.Event(), calls.buffer()
        pointer = calls.pointer(event)
        epoll_wait, recv, string_at = calls.epoll_wait, calls.recv, calls.string_at

        def wait_now():
            return (event.fd, event.events) if epoll_wait(epoll, pointer, 1, 0) == 1 else None

        def receive_now(descriptor):
            n = recv(descriptor, buffer, SMALL, socket.MSG_DONTWAIT)
            return string_at(buffer, n) if n > 0 else None

        self.wait_now, self.receive_now = wait_now, receive_now

    def run(self):
        server = self.server
        while True:
            event = self.wait_now() if self.wait_now is not None else None
            descriptor, events = event or server.wait()
            connection = server.connections.get(descriptor)
            try:
                if connection is not None:
                    if not connection.attend(self, events):
                        server.remove(connection)
                elif descriptor == server.listener.fileno():
                    server.accept()
                elif descriptor == server.ended:
                    return
            except Exception:
                traceback.print_exc()  # a mistake of ours
                if connection is not None:
                    server.remove(connection)

    def receive(self, connection):
        """Returns what has come; None: nothing."""
        if self.receive_now is not None:
            data = self.receive_now(connection.descriptor)
            if data is not None:
                return data
        try:
            data = connection.sock.recv(SMALL, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as e:
            raise connection.lost(str(e)) from None
        if not data:
            raise connection.lost("the front closed the connection")
        return data


class Server:
    """The connections and the threads.

    All threads are equal. Two at most wait for events; a thread that takes one and leaves nobody waiting wakes another. So while
    the application waits for something, somebody answers the next request, and while it does not, one or two threads do all.
    """

    def __init__(self, listener, application, size):
        self.listener = listener
        self.application = application
        self.size = size
        self.pid = os.getpid()
        self.stopping = False  # set once, by the main thread
        self.accepting = True  # cleared by the main thread
        self.connections = {}  # by descriptor
        self.wake = SimpleQueue()  # of the main thread. The only queue that a signal handler may use
        self.epoll = select.epoll()
        self.ended, self.end = os.pipe()  # a byte in it ends the threads. Closing would not: a forked process may hold it
        self.over = False  # it is there
        self.lock = threading.Lock()  # guards over and the next two
        self.waiting = 0  # threads that wait for events
        self.parked = 0  # threads that wait in seats
        self.seats = SimpleQueue()
        self.base = {
            "SCRIPT_NAME": "",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": size > 1,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,  # it ends where the body does, also when there is no CONTENT_LENGTH
            "wsgi.file_wrapper": FileWrapper,
        }

    def run(self):
        """Serves until SIGTERM. Returns the exit status."""
        # Until a forked process has left our signal handler behind, it would lose a SIGTERM.
        os.register_at_fork(before=block_stop, after_in_parent=unblock_stop, after_in_child=self.leave_copy)
        for signum in STOP_SIGNALS:
            signal.signal(signum, lambda *_: self.wake.put(None))
        self.listener.setblocking(False)
        self.epoll.register(self.listener, select.EPOLLIN | select.EPOLLET)
        self.epoll.register(self.ended, select.EPOLLIN)
        threads = [threading.Thread(target=Worker(self).run, name="request-%d" % i, daemon=True) for i in range(self.size)]
        for thread in threads:
            thread.start()
        error = self.wake.get()
        if error is not None:
            sys.stderr.write("gateway: accept: %s\n" % error)
            return 1
        self.stop()
        for thread in threads:
            thread.join()
        return 0

    def stop(self):
        """Ends the connections without a request at once, the others after theirs, and the threads with the last one."""
        self.stopping = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accept()  # what was waiting
        self.accepting = False
        for connection in list(self.connections.values()):
            if connection.idle:
                connection.hang_up()
        self.end_threads()

    def wait(self):
        """Waits for an event and returns its descriptor and what it is."""
        with self.lock:
            park = self.waiting >= 2 and not self.over
            if park:
                self.parked += 1
            else:
                self.waiting += 1
        if park:
            self.seats.get()
        event = self.epoll.poll(-1, 1)[0]
        with self.lock:
            call = self.waiting == 1 and self.parked > 0
            if call:
                self.parked -= 1
            else:
                self.waiting -= 1
        if call:  # that one waits in our place
            self.seats.put(None)
        return event

    def accept(self):
        """Accepts what is there."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in SHORTAGES:
                    time.sleep(0.1)
                    continue
                self.wake.put(e)
                return
            self.add(sock)

    def add(self, sock):
        sock.settimeout(None)  # whatever the application's default is
        connection = Connection(self, sock)
        self.connections[connection.descriptor] = connection
        connection.rest()
        # Edge-triggered: each event goes to one thread. The first one tells of what has come already.
        self.epoll.register(sock, EVENTS)

    def remove(self, connection):
        self.epoll.unregister(connection.sock)
        del self.connections[connection.descriptor]
        connection.sock.close()
        self.end_threads()

    def end_threads(self):
        """Ends the threads if there is nothing more to do."""
        if self.accepting or self.connections:
            return
        with self.lock:
            if self.over:
                return
            self.over = True
        os.write(self.end, b"x")
        for _ in range(self.size):
            self.seats.put(None)

    def leave_copy(self):
        """Runs in a process that the application forked: it must neither serve, nor keep our connections open, nor survive SIGTERM."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        unblock_stop()
        self.epoll.close()
        self.listener.close()
        for connection in self.connections.values():
            connection.broken = True
            connection.sock.close()

    def end_copy(self):
        """Ends a forked process that comes back out of the application: the request is not its own."""
        if os.getpid() != self.pid:
            os._exit(1)


def block_stop():
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def describe(error):
    """Returns a traceback without the frames of this file."""
    description = traceback.TracebackException(type(error), error, error.__traceback__)
    description.stack = traceback.StackSummary.from_list([f for f in description.stack if f.filename != __file__])
    return "".join(description.format())


def load(name):
    """Imports an application: "module:name", or "module:name()" for a function that makes one."""
    module, _, path = name.partition(":")
    path = path or "application"
    factory = path.endswith("()")
    application = importlib.import_module(module)
    for part in (path[:-2] if factory else path).split("."):
        application = getattr(application, part)
    if factory:
        application = application()
    if not callable(application):
        raise TypeError("%s is no WSGI application: it can't be called" % name)
    return application


def take_listener():
    """Takes the socket from descriptor 0, so that no program that the application starts gets it."""
    listener = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    listener.settimeout(None)
    return listener


def main():
    if sys.version_info < (3, 9):
        sys.exit("gateway: %s is Python %s; 3.9 is needed" % (sys.executable, sys.version.split()[0]))
    name, size = sys.argv[1], int(sys.argv[2])
    sys.argv = ["gateway"]
    sys.path[:] = [os.getcwd()] + [p for p in sys.path if p]
    sys.stdout.reconfigure(line_buffering=True)
    listener = take_listener()
    try:
        application = load(name)
    except BaseException as e:
        sys.stderr.write("%sgateway: the WSGI application %s can't be imported by %s in %s\n" % (
            describe(e), name, sys.executable, os.getcwd()))
        sys.stdout.flush()
        os._exit(EXIT_IMPORT)  # a thread that the application started would stay
    gc.collect()
    gc.freeze()  # what was imported stays: no collection need look at it again
    sys.exit(Server(listener, application, size).run())
