"""A control file without a daemon: a terminal device, since a plain file would read back what was written to it.

Arguments: LINES ANSWER. Writes the device's path to standard output, answers a command of so many lines, and ends when
standard input does.
"""

import os
import pty
import sys
import termios

daemon, device = pty.openpty()
attributes = termios.tcgetattr(device)
attributes[1] &= ~termios.OPOST
attributes[3] &= ~termios.ECHO
termios.tcsetattr(device, termios.TCSANOW, attributes)
print(os.ttyname(device), flush=True)

command = b""
while command.count(b"\n") < int(sys.argv[1]):
    command += os.read(daemon, 4096)
os.write(daemon, sys.argv[2].encode() + b"\x04")  # End of file, at the beginning of a line.
sys.stdin.read()
