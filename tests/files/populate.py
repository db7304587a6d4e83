"""Fills a mounted file system with every kind of file that people have, and some that nobody should.

populate.py FOLDER            all of it
populate.py FOLDER journal    what is to stand in the journal only: changes after everything was synced
"""

import os
import random
import socket
import stat
import subprocess
import sys

root = os.fsencode(sys.argv[1])
pick = random.Random(7)


def at(*names):
    return os.path.join(root, *(name.encode() if isinstance(name, str) else name for name in names))


def write(path, content, mode=0o644):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def quietly(call, *arguments, **options):
    """For what not every file system has."""
    try:
        call(*arguments, **options)
    except OSError:
        pass


def git(folder, rounds):
    def run(*arguments):
        environment = dict(os.environ, HOME="/nonexistent", GIT_CONFIG_NOSYSTEM="1")
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

    os.makedirs(folder, exist_ok=True)
    run("init", "-q")
    for number in range(rounds):
        for file in range(40):
            write(os.path.join(folder, b"f%d" % file), pick.randbytes(pick.randrange(9000)))
        run("add", "-A")
        run("commit", "-q", "-m", str(number))


def everything():
    git(at("repository"), 3)
    write(at("large"), pick.randbytes(24 << 20))
    write(at("empty"), b"")
    for size in (1, 59, 60, 61, 511, 512, 1023, 1024, 1025, 4095, 4096, 4097, 65536, 70000):
        write(at("size-%d" % size), pick.randbytes(size))
    with open(at("sparse"), "wb") as file:
        for place in (5 << 20, 90 << 20, (200 << 20) - 3):
            file.seek(place)
            file.write(b"data in the middle of nothing")
        file.truncate(300 << 20)
    write(at("all-hole"), b"")
    os.truncate(at("all-hole"), 3 << 20)
    with open(at("preallocated"), "wb") as file:
        file.write(b"x" * 5000)
        quietly(os.posix_fallocate, file.fileno(), 0, 1 << 20)
    os.mkdir(at("fragments"))
    with open(at("fragments", "a"), "wb") as one, open(at("fragments", "b"), "wb") as two:
        for number in range(600):
            for file in (one, two):
                file.write(pick.randbytes(4096))
                file.flush()
                os.fsync(file.fileno())
                if number % 3 == 0:
                    file.seek(8192, os.SEEK_CUR)
    os.mkdir(at("many"))
    for number in range(3000):
        write(at("many", "entry-%d-%s" % (number, "n" * (number % 90))), b"%d" % number)
    for number in range(0, 3000, 7):
        os.unlink(at("many", "entry-%d-%s" % (number, "n" * (number % 90))))
    deep = at("deep")
    for number in range(60):
        deep = os.path.join(deep, b"level%d" % number)
    os.makedirs(deep)
    write(os.path.join(deep, b"bottom"), b"bottom")
    os.mkdir(at("names"))
    for name in (b"\xff\xfe", b"new\nline", b" ", b"...", b"-rf", b"\x01\x7f", "\u00e4\u6f22".encode(), b"x" * 255, b"a\\b", b"*?"):
        write(at("names", name), name)
    os.mkdir(at("links"))
    for length in (1, 58, 59, 60, 61, 255, 256, 900, 1000):
        os.symlink(b"t" * min(length, 255) + b"/u" * ((length - min(length, 255)) // 2), at("links", "to-%d" % length))
    os.symlink("../large", at("links", "up"))
    os.symlink("/etc/passwd", at("links", "out"))
    os.symlink("loop", at("links", "loop"))
    os.symlink("../many", at("links", "folder"))
    quietly(os.setxattr, at("links", "to-59"), b"security.test", b"x" * 40, follow_symlinks=False)
    quietly(os.setxattr, at("links", "to-1"), b"trusted.test", b"x" * 800, follow_symlinks=False)
    quietly(os.setxattr, at("large"), b"user.test", b"y" * 500)
    for number in range(3):
        os.link(at("size-4097"), at("links", "hard-%d" % number))
    os.mkdir(at("modes"))
    for mode in (0, 0o444, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777):
        write(at("modes", "%o" % mode), b"m", mode)
        os.chown(at("modes", "%o" % mode), pick.randrange(1 << 16), pick.randrange(1 << 31))
        os.chmod(at("modes", "%o" % mode), mode)
    os.mkdir(at("modes", "sticky"), 0o1777)
    os.chmod(at("modes", "sticky"), 0o1777)
    os.chown(at("modes", "sticky"), 70000, 80000)
    os.mkdir(at("special"))
    os.mkfifo(at("special", "fifo"))
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(at("special"))
    server.bind("socket")
    os.chdir(here)
    for name, kind, number in (("null", stat.S_IFCHR, (1, 3)), ("block", stat.S_IFBLK, (8, 300)), ("big", stat.S_IFCHR, (300, 70000))):
        os.mknod(at("special", name), kind | 0o640, os.makedev(*number))
    os.mkdir(at("times"))
    for seconds in (0, 1, 86400, 2**31 - 1, 2**31 + 5, 4102444800):
        write(at("times", "%d" % seconds), b"t")
        os.utime(at("times", "%d" % seconds), ns=(seconds * 10**9, seconds * 10**9 + 123456789))


def in_the_journal():
    """Each change is synced, so that it must be there; nothing was written back but by the journal."""
    for number in range(40):
        write(at("journal-%d" % number), pick.randbytes(3000))
    os.mkdir(at("journal-folder"))
    for number in range(200):
        write(at("journal-folder", "file-%d" % number), b"%d" % number)
    for number in range(0, 3000, 7):
        name = "entry-%d-%s" % (number + 1, "n" * ((number + 1) % 90))
        if os.path.exists(at("many", name)):
            os.rename(at("many", name), at("journal-folder", name))
    os.unlink(at("size-512"))
    os.truncate(at("large"), 10 << 20)
    os.chmod(at("size-61"), 0o600)
    os.symlink("late", at("links", "late"))
    folder = os.open(root, os.O_RDONLY)
    for path in (at("journal-folder", "file-199"), at("large"), at("journal-39")):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
    os.fsync(folder)


if sys.argv[2:] == ["journal"]:
    in_the_journal()
else:
    everything()
