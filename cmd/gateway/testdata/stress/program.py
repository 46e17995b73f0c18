"""A FastCGI program for one request at a time, with bad manners on demand: the last part of the path says which."""

import os
import signal
import socket
import struct
import sys
import time

GET_VALUES, GET_VALUES_RESULT = 9, 10
BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6
PAGE = b"Content-Type: text/plain\r\n\r\n"


def receive(conn, size):
    data = b""
    while len(data) < size:
        more = conn.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read(conn):
    _, kind, _, length, padding = struct.unpack("!BBHHBx", receive(conn, 8))
    return kind, receive(conn, length + padding)[:length]


def record(kind, data=b"", request=1):
    return struct.pack("!BBHHBx", 1, kind, request, len(data), 0) + data


def pairs(data):
    values = []
    while data:
        size = data[0]
        if size < 128:
            data = data[1:]
        else:
            size = struct.unpack("!L", data[:4])[0] & 0x7FFFFFFF
            data = data[4:]
        values.append(size)
        if len(values) == 2:
            name, value, data = data[: values[0]], data[values[0] : sum(values)], data[sum(values) :]
            yield name, value
            values = []


def request(conn):
    """Reads one request and returns its path, or None for a question about the program."""
    params = b""
    while True:
        kind, data = read(conn)
        if kind == GET_VALUES:
            conn.sendall(record(GET_VALUES_RESULT, b"", 0))
            return None
        if kind == PARAMS:
            params += data
        if kind == STDIN and not data:
            return dict(pairs(params))[b"REQUEST_URI"].decode()


def answer(conn, body):
    conn.sendall(record(STDOUT, PAGE + body) + record(STDOUT) + record(END, bytes(8)))


def wait_for(mark):
    while not os.path.exists(os.path.join(os.environ["MARKS"], mark)):
        time.sleep(0.02)


def serve(conn, listener):
    path = request(conn)
    if path is None:
        return
    manner = path.rpartition("/")[2]
    if manner == "garbage":
        conn.sendall(b"\xff" * 100)
    elif manner == "half":
        conn.sendall(record(STDOUT, PAGE + b"x" * 100)[:50])
        sys.exit(1)
    elif manner == "early":
        conn.sendall(record(STDOUT, b"hello before the header\n" + PAGE) + record(STDOUT) + record(END, bytes(8)))
    elif manner == "stranger":
        conn.sendall(record(STDOUT, PAGE, 7) + record(END, bytes(8), 7))
    elif manner == "deaf":
        listener.close()
        conn.close()
        time.sleep(600)
    elif manner == "fork":
        if os.fork() == 0:
            os.setsid()  # out of reach of a signal to the group, and with the connection
            wait_for("grandchild")
        os._exit(0)
    elif manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif manner == "die-once":
        try:
            os.open(os.path.join(os.environ["MARKS"], "died"), os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            answer(conn, b"alive")
        else:
            os._exit(1)
    elif manner == "hold":
        wait_for(path.split("/")[1])
        answer(conn, b"held")
    else:
        answer(conn, b"%d" % os.getpid())


listener = socket.socket(fileno=0)
while True:
    conn, _ = listener.accept()
    try:
        while True:
            serve(conn, listener)
    except (EOFError, OSError):
        conn.close()
