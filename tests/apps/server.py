"""A Python app for tests. What it does at its start is told by the environment or the first argument."""

import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = sys.argv[1] if len(sys.argv) > 1 else ""
STARTED = time.monotonic()


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            warm = time.monotonic() - STARTED > float(os.environ.get("WARM_AFTER", "0"))
            return self.reply(200 if warm else 503, "ok" if warm else "warming up")
        if self.path == "/env":
            return self.reply(200, "\n".join(f"{k}={v}" for k, v in sorted(os.environ.items())))
        if self.path == "/cwd":
            return self.reply(200, os.getcwd())
        self.reply(200, f"python {self.path}\n")

    def reply(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *args):
        # Between two words of a number there would be another thread's.
        if MODE not in ("count", "burst"):
            print("request", form % args, flush=True)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


def notify(text):
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + path[1:] if path.startswith("@") else path)
        sender.send(text.encode())


def serve():
    server = Server((os.environ.get("BIND", "127.0.0.1"), int(os.environ["PORT"])), App)
    if MODE == "notify":
        time.sleep(0.3)
        notify("READY=1\nSTATUS=up")
    server.serve_forever()


def fork_away():
    """A daemon as of old: two forks and a session of its own."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    serve()


def wrap():
    """Like `npm start`: leaves on SIGTERM and does not tell its child."""
    if os.fork() == 0:
        serve()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


def count():
    """Prints numbers as quickly as it may, until there is a file."""
    n = 0
    while not os.path.exists(os.environ["ENOUGH_FILE"]):
        print("".join(f"number {k} {'x' * (k % 50)}\n" for k in range(n, n + 20)), end="", flush=True)
        n += 20
        time.sleep(0.001)
    print("numbers end", n, flush=True)


def burst():
    """Prints more numbers at once than a pipe holds, as soon as there is a file."""
    while not os.path.exists(os.environ["BURST_FILE"]):
        time.sleep(0.01)
    enough = 40_000
    text = "".join(f"number {k} {'x' * (k % 50)}\n" for k in range(enough))
    print(f"{text}numbers end {enough}", flush=True)
    open(os.environ["BURST_FILE"] + ".done", "w").close()


if __name__ == "__main__":
    print("mode", MODE or "plain", flush=True)
    if MODE == "exit":
        print("cannot find my settings", file=sys.stderr, flush=True)
        sys.exit(7)
    elif MODE == "deaf":
        signal.pause()
    elif MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve()
    elif MODE == "fork":
        fork_away()
    elif MODE == "wrapper":
        wrap()
    elif MODE == "lines":
        for n in range(int(os.environ["LINES"])):
            print(f"line {n:06d} {'x' * (n % 50)}")
        sys.stdout.flush()
        serve()
    elif MODE in ("count", "burst"):
        threading.Thread(target=globals()[MODE], daemon=True).start()
        serve()
    else:
        serve()
