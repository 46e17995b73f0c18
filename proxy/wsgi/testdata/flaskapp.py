import time

from flask import Flask, Response, request

app = Flask(__name__)


@app.route("/")
def index():
    return "hello from flask"


@app.route("/upload", methods=["POST"])
def upload():
    return "%s: %d bytes, %s" % (request.files["f"].filename, len(request.files["f"].read()), request.form["n"])


@app.route("/stream")
def stream():
    return Response(("%d " % i for i in range(3)), mimetype="text/plain")


@app.route("/sleep")
def sleep():
    time.sleep(0.01)
    return "slept"


@app.route("/fail")
def fail():
    raise LookupError("in a view")


def create_app():
    return app
