"""A small web app: the standard library's server on the port that Doorbell picked."""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.time()


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.reply("ok\n")
        host = self.headers.get("X-Forwarded-Host", "?")
        client = self.headers.get("X-Forwarded-For", "?")
        self.reply(
            f"Hello from Python.\n\n"
            f"You asked {host} for {self.path}, from {client}.\n"
            f"This process is {time.time() - STARTED:.1f} s old and sleeps when nobody calls.\n"
        )

    def reply(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    address = (os.environ["HOST"], int(os.environ["PORT"]))
    print("listening on %s:%d" % address, flush=True)
    ThreadingHTTPServer(address, Hello).serve_forever()
