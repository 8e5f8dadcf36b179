"""An app for tests that takes what it can get: memory, processes, processor time, files."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener(ThreadingHTTPServer):
    address_family = socket.AF_UNIX if "SOCKET" in os.environ else socket.AF_INET
    daemon_threads = True

    def server_bind(self):
        self.socket.bind(self.server_address)


def eat(mebibytes):
    eaten = [os.urandom(1 << 20) for _ in range(int(mebibytes))]
    return f"ate {len(eaten)}"


KEPT = []


def keep(mebibytes):
    """Eats, and does not let go."""
    KEPT.extend(os.urandom(1 << 20) for _ in range(int(mebibytes)))
    return f"kept {len(KEPT)}"


def fork(most):
    """As many children as there can be; tells how many, and ends them."""
    children = []
    try:
        for _ in range(int(most)):
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return str(len(children))


def bomb(_):
    """Processes that fork for ever, whatever becomes of the others."""
    if os.fork() == 0:
        while True:
            try:
                if os.fork() > 0 and os.getpid() % 3 == 0:
                    os._exit(0)
            except OSError:
                pass
    return "ticking"


def lose(mebibytes):
    """A child that eats; tells the signal that ended it."""
    child = os.fork()
    if child == 0:
        eat(mebibytes)
        os._exit(0)
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def hide(_):
    """A process that leaves nothing of us about it: no parent, session, output, or environment."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        for descriptor in range(20):
            try:
                os.close(descriptor)
            except OSError:
                pass
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os.wait()
    return "hidden"


def spin(seconds):
    """Processor time that was to be had in this time, in seconds."""
    began, end = time.process_time(), time.monotonic() + float(seconds)
    while time.monotonic() < end:
        pass
    return str(time.process_time() - began)


def open_files(most):
    files = []
    try:
        for _ in range(int(most)):
            files.append(open("/dev/null"))
    except OSError:
        pass
    return str(len(files))


def whoami(_):
    names = ["HOME", "USER", "LOGNAME"]
    who = [os.getuid(), os.getgid(), sorted(os.getgroups()), *(os.environ.get(name) for name in names)]
    return " ".join(str(one) for one in who)


def reopen(_):
    with open("/proc/self/fd/1", "w") as output:
        print("written anew", file=output)
    return "ok"


def write(path):
    """Writes a file; tells how that went."""
    try:
        with open(path.replace("+", "/"), "w") as file:
            file.write("written")
        return "written"
    except OSError as error:
        return error.strerror


def move(paths):
    """Renames a file; tells how that went."""
    try:
        os.rename(*paths.replace("+", "/").split(":"))
        return "moved"
    except OSError as error:
        return error.strerror


def tmp(_):
    return " ".join(sorted(os.listdir(tempfile.gettempdir())))


def show(mebibytes):
    """Prints numbered lines, as fast as they are taken."""
    lines = int(mebibytes) << 14
    for first in range(0, lines, 1024):
        block = "".join(f"line {number:58d}\n" for number in range(first, first + 1024))
        rest = block.encode()
        while rest:
            rest = rest[os.write(1, rest):]
    return str(lines - 1)


def orphans(count):
    """Processes that end when nobody is left who could wait for them."""
    for _ in range(int(count) // 100):
        child = os.fork()
        if child == 0:
            for _ in range(100):
                if os.fork() == 0:
                    os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)
    return "ended"


def say(line):
    """Asks at our own socket of doorbell's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.connect(os.environ["DOORBELL_SOCKET"])
        door.sendall(line.replace("+", " ").encode() + b"\n")
        return door.makefile().readline().strip()


def job(seconds):
    """Work that no request waits for, told by doorbell's own command."""
    command = [os.environ["DOORBELL"], "awake", "1h", "--name", "job", "--", "sleep", seconds]
    return str(subprocess.Popen(command).pid)


DEEDS = {
    "write": write,
    "move": move,
    "tmp": tmp,
    "say": say,
    "job": job,
    "door": lambda _: os.environ["DOORBELL_SOCKET"],
    "show": show,
    "orphans": orphans,
    "eat": eat,
    "keep": keep,
    "fork": fork,
    "bomb": bomb,
    "lose": lose,
    "hide": hide,
    "spin": spin,
    "wait": lambda seconds: str(time.sleep(float(seconds))),
    "open": open_files,
    "whoami": whoami,
    "reopen": reopen,
    "pid": lambda _: str(os.getpid()),
}


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        _, deed, *arguments = self.path.split("/")
        body = DEEDS.get(deed, lambda _: "here")(arguments[0] if arguments else "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "somebody"

    def log_message(self, form, *args):
        pass


if "NOTIFY_SOCKET" in os.environ:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(os.environ["NOTIFY_SOCKET"])
        place = os.environ.get("SOCKET") or ("127.0.0.1", int(os.environ["PORT"]))
        server = Listener(place, App)
        sender.send(b"READY=1")
else:
    server = Listener(os.environ.get("SOCKET") or ("127.0.0.1", int(os.environ["PORT"])), App)
server.serve_forever()
