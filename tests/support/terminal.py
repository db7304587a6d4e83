"""Runs a command on a terminal of its own, as a person at it would: types Ctrl-C when the progress bar is drawn, and
an answer when it is asked for.

Arguments: ANSWER COMMAND...; \\x03 in the answer is Ctrl-C. Writes what the terminal showed to standard output, and ends with
the command's status. A step that never comes ends with the command.
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

answer = sys.argv[1].replace("\\x03", "\x03").encode()
command = sys.argv[2:]

process, terminal = pty.fork()
if process == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    os.environ["TERM"] = "xterm"
    os.execvp(command[0], command)

steps = [(rb"backup \S+ \[[^\]]*\]", b"\x03"), (rb"Cancel job \d+\? \[y/N\]", answer)]
shown = b""
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:  # The command has ended.
        break
    if not piece:
        break
    shown += piece
    if steps and re.search(steps[0][0], shown):
        os.write(terminal, steps.pop(0)[1])

status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(status if status >= 0 else 128 - status)
