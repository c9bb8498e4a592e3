#!/usr/bin/env python3
"""Times the listings of a large table, and the replies that other clients get meanwhile.

    benches/listings.py target/release/glockd [LOCKS [PREFIX]]

Starts the daemon, takes LOCKS exclusive locks (by default a million) and as many shared ones, whose names begin with
PREFIX, and registers 10,000 names, or as many as the limit of descriptors allows. Then reads each listing three times
alone, and three times while a second client pings. Prints the best time of a listing, the processor time that the daemon
took for it, its size, the worst ping, and the daemon's memory.
"""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

NAMES = 10_000
BATCH = 10_000
ROUNDS = 3


class Daemon:
    def __init__(self, binary):
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "socket")
        self.process = subprocess.Popen(
            [binary, "-port", "0", "-ws", "0", "-unix", self.path],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not os.path.exists(self.path):
            if time.monotonic() > deadline:
                raise SystemExit("the daemon does not listen")
            time.sleep(0.01)

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        return client

    def memory(self):
        """Returns the resident memory, and the largest so far, in MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return tuple(int(fields[key].split()[0]) // 1024 for key in ("VmRSS", "VmHWM"))

    def cpu(self):
        """Returns the processor time of all threads so far, in seconds. Does not count time in which others ran."""
        total = 0
        for task in os.scandir(f"/proc/{self.process.pid}/task"):
            with open(f"{task.path}/schedstat") as schedstat:
                total += int(schedstat.read().split()[0])
        return total / 1e9

    def reset_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as refs:
            refs.write("5")


def run_all(client, lines):
    """Sends lines in batches, and reads one reply line for each."""
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        sender = threading.Thread(target=client.sendall, args=(b"".join(batch),))
        sender.start()
        left = len(batch)
        while left:
            left -= client.recv(1 << 20).count(b"\n")
        sender.join()


def listing(client, command):
    """Returns the time of a listing in seconds, and its bytes. A `ping` behind the listing marks its end."""
    end = b"1 pong: end\n"
    chunks, tail = [], b""
    started = time.monotonic()
    client.sendall(command + b"\nping end\n")
    while not tail.endswith(end):
        chunk = client.recv(1 << 22)
        if not chunk:
            raise SystemExit("the daemon has closed the connection")
        chunks.append(chunk)
        tail = (tail + chunk)[-len(end) :]
    elapsed = time.monotonic() - started
    return elapsed, b"".join(chunks)[: -len(end)]


class Pings:
    """The worst time of a ping on a connection of its own, while this is open."""

    def __init__(self, client):
        self.client, self.stop, self.worst = client, False, 0.0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop:
            started = time.monotonic()
            self.client.sendall(b"ping\n")
            self.client.recv(100)
            self.worst = max(self.worst, time.monotonic() - started)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        self.thread.join()


def check_order(command, text):
    """Fails unless the lines of `d` are sorted and none is there twice."""
    lines = text.split(b"\n")[:-1]
    if any(one >= two for one, two in zip(lines, lines[1:])):
        raise SystemExit(f"{command.decode()} is not sorted")


def main():
    binary = sys.argv[1]
    locks = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    prefix = sys.argv[3].encode() if len(sys.argv) > 3 else b"lock-"
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    daemon = Daemon(binary)
    try:
        holder, reader, pinger = (daemon.connect() for _ in range(3))
        # In no order, as clients come and go.
        order = [number * 7_368_787 % locks for number in range(locks)]
        for verb in (b"g", b"sg"):
            run_all(holder, [b"%s %s%08d\n" % (verb, prefix, number) for number in order])
        # Some descriptors are for other purposes, in this process and in the daemon.
        named = [daemon.connect() for _ in range(min(NAMES, limit - 100))]
        for number, client in enumerate(named):
            run_all(client, [b"iam client %d\n" % number])
        print(
            f"{locks} locks of each kind, {len(named)} names; memory {daemon.memory()[0]} MiB",
            flush=True,
        )
        for command in (b"d", b"ld", b"sd", b"dump", b"dump shared", b"who"):
            best, cpu, worst_ping = float("inf"), float("inf"), 0.0
            daemon.reset_peak()
            for _ in range(ROUNDS):
                before = daemon.cpu()
                elapsed, text = listing(reader, command)
                best, cpu = min(best, elapsed), min(cpu, daemon.cpu() - before)
                with Pings(pinger) as pings:
                    listing(reader, command)
                worst_ping = max(worst_ping, pings.worst)
            if command == b"d":
                check_order(command, text)
            print(
                f"{command.decode():12} {best * 1e3:8.1f} ms, of the processor {cpu * 1e3:7.1f} ms"
                f"  {len(text):10} bytes  worst ping {worst_ping * 1e3:6.2f} ms"
                f"  memory up to {daemon.memory()[1]} MiB",
                flush=True,
            )
    finally:
        daemon.process.terminate()
        daemon.process.wait()


main()
