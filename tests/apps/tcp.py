"""A TCP app for tests that speaks no HTTP. What it does with a connection is told by the first argument."""

import os
import socket
import sys
import threading
import time

MODE = sys.argv[1]
ENV = os.environ
PIECE = 1 << 16


def note(name, text):
    if name in ENV:
        with open(ENV[name], "a") as file:
            file.write(text + "\n")


def echo(client):
    while data := client.recv(PIECE):
        note("SEEN_FILE", data.decode(errors="replace"))
        if data == b"die":
            os._exit(3)
        client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def greet(client):
    """The app speaks first, as databases and mail servers do."""
    client.sendall(b"hello\n")
    echo(client)


def speak_first_to_the_end(client):
    """Says all it has to say, and only then listens."""
    client.sendall(b"that is all\n")
    client.shutdown(socket.SHUT_WR)
    count = 0
    while data := client.recv(PIECE):
        count += len(data)
    note("SEEN_FILE", str(count))


def answer_at_the_end(client):
    """Listens to the end, and only then answers."""
    count = 0
    while data := client.recv(PIECE):
        count += len(data)
    client.sendall(str(count).encode())


def serve(client):
    with client:
        try:
            MODES[MODE](client)
        except OSError as error:
            print("broken:", error, flush=True)


def pour(client):
    """Says much, and is gone before it is read."""
    client.sendall(b"x" * (1 << 20))
    client.close()
    note("SEEN_FILE", "poured")


MODES = {
    "echo": echo,
    "greet": greet,
    "speak": speak_first_to_the_end,
    "count": answer_at_the_end,
    "pour": pour,
    "deaf": lambda client: time.sleep(3600),
}


def main():
    note("STARTS_FILE", "start")
    if MODE == "exit":
        sys.exit(7)
    time.sleep(int(ENV.get("START_DELAY", "0")) / 1000)
    while "START_FILE" in ENV and not os.path.exists(ENV["START_FILE"]):
        time.sleep(0.01)
    if "SOCKET" in ENV:
        door = socket.socket(socket.AF_UNIX)
        door.bind(ENV["SOCKET"])
    else:
        door = socket.create_server(("127.0.0.1", int(ENV["PORT"])))
    door.listen(int(ENV.get("BACKLOG", "1024")))
    print("listening", flush=True)
    while True:
        client, _ = door.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


main()
