#!/usr/bin/env python3
"""Records a run of a command as an asciicast.

usage: scripts/record-demo.py OUTPUT.cast COMMAND...

The file is in the format of asciinema (version 2), so "asciinema play OUTPUT.cast" shows the run. Pauses are cut to two
seconds, and after each result there is time to read. Paths of this machine are replaced, so that the recording is the same wherever it is made.
"""
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import time

COLUMNS, ROWS, LONGEST_PAUSE, TIME_TO_READ = 110, 36, 2.0, 2.5


def main() -> int:
    output, command = sys.argv[1], sys.argv[2:]
    here = os.getcwd()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    events, at, last, rest = [], 0.0, time.monotonic(), b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the command has ended
            break
        if not data:
            break
        now = time.monotonic()
        at += min(now - last, LONGEST_PAUSE)
        last = now
        # Whole lines, so that a path is never cut in two.
        data, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            text = (data + newline).decode("utf-8", "replace")
            events.append([round(at, 3), "o", clean(text, here)])
            at += TIME_TO_READ * text.count("  ok: ")
    if rest:
        events.append([round(at, 3), "o", clean(rest.decode("utf-8", "replace"), here)])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        sys.stderr.write("".join(event[2] for event in events))
        return code
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": " ".join(command)}
    with open(output, "w", encoding="utf-8") as cast:
        for line in [header, *events]:
            cast.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0


def clean(text: str, here: str) -> str:
    text = text.replace(here, "~/vault-plugin-secrets-pipedream")
    return re.sub(r"/tmp/[A-Za-z0-9._-]+", "/tmp/demo", text)


if __name__ == "__main__":
    sys.exit(main())
