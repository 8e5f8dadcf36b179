"""An app whose connections outlive it: each one that it accepts it gives to a keeper outside of its
process tree, which answers in the app's name.

    handover.py keep SOCKET     the keeper
    handover.py SOCKET          the app
"""

import itertools
import os
import socket
import sys
import threading

NUMBERS = itertools.count()


def keep(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            run(take, listener.accept()[0])


def take(app):
    while True:
        name, descriptors, _, _ = socket.recv_fds(app, 64, 1)
        if not name:
            return
        run(answer, socket.socket(fileno=descriptors[0]), name.decode())


def answer(client, name):
    body = f"{name} {next(NUMBERS)}".encode()
    requests = client.makefile("rb")
    while requests.readline():
        while requests.readline() not in (b"\r\n", b""):
            pass
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def serve(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
        keeper.connect(path)
        listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
        while True:
            client, _ = listener.accept()
            socket.send_fds(keeper, [str(os.getpid()).encode()], [client.fileno()])
            client.close()


def run(task, *arguments):
    threading.Thread(target=task, args=arguments, daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep(sys.argv[2])
    else:
        serve(sys.argv[1])
