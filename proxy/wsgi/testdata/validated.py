"""An application that uses all of PEP 3333, watched by wsgiref's validator."""

import sys
from wsgiref.validate import validator


@validator
def application(environ, start_response):
    source, errors = environ["wsgi.input"], environ["wsgi.errors"]
    parts = [source.readline(), source.read(3), b"|".join(source.readlines()), source.read(1)]
    for line in source:
        parts.append(line)
    errors.write("a line\n")
    errors.writelines(["lines\n"])
    errors.flush()
    head = [("Content-Type", "text/plain")]
    if environ["PATH_INFO"] == "/write":
        start_response("200 OK", head)(b"written ")
    elif environ["PATH_INFO"] == "/error":
        start_response("200 OK", head)
        try:
            raise LookupError("caught")
        except LookupError:
            start_response("500 Oops", head, sys.exc_info())
    elif environ["PATH_INFO"] == "/none":
        start_response("204 No Content", [])
        return []
    else:
        start_response("200 OK", head)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    return iter([b"", b",".join(parts)])
