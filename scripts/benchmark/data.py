"""Volumes with real data: a file system image filled from this machine, and changes to it."""

import os
import random

from .machine import run, say

# What a server's disk holds: programs, libraries, texts, sources, package archives.
FOLDERS = ["~/.cargo/registry", "/usr/share", "/usr/lib", "/usr/bin", "/usr/include", "/var/lib", "~/.rustup", "/usr/local", "/opt"]
BLOCK = 4096


def make_image(path, size, mountpoint):
    """Makes an ext4 image of which about half is allocated: real files, and 5 % that do not compress."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", path)
    os.makedirs(mountpoint, exist_ok=True)
    run("mount", "-o", "loop", path, mountpoint)
    try:
        fill(mountpoint, size // 2)
    finally:
        run("umount", mountpoint)
    say(f"{os.path.basename(path)}: {allocated(path) >> 20} of {size >> 20} MiB allocated")


def fill(mountpoint, wanted):
    left = wanted - allocated_below(mountpoint)
    noise = os.path.join(mountpoint, "noise")
    os.mkdir(noise)
    for number in range(16):
        run("dd", "if=/dev/urandom", f"of={noise}/{number}", "bs=64K", f"count={wanted // 20 // 16 >> 16}")
        left -= wanted // 20 // 16
    for folder in FOLDERS:
        folder = os.path.expanduser(folder)
        if not os.path.isdir(folder):
            continue
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            bytes_there = int(run("du", "-s", "-x", "-B1", path, check=False).split("\t")[0] or 0)
            if bytes_there > left:
                continue
            target = os.path.join(mountpoint, folder.strip("/").replace("/", "-"))
            os.makedirs(target, exist_ok=True)
            # Files that vanish or cannot be read while they are copied do not matter.
            run("cp", "-a", "-x", path, target, check=False)
            left -= bytes_there
            if left < wanted // 200:
                return


def allocated_below(folder):
    stats = os.statvfs(folder)
    return (stats.f_blocks - stats.f_bfree) * stats.f_frsize


def allocated(path):
    return os.stat(path).st_blocks * 512


def extents(path):
    """Returns the runs of data of a file."""
    runs, position = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            runs.append((start, position))
    return runs


def write_dense(image, path):
    """Writes the data of an image without its holes: the bytes that a backup has to keep."""
    with open(image, "rb", buffering=0) as source, open(path, "wb", buffering=0) as target:
        for start, end in extents(image):
            source.seek(start)
            while start < end:
                piece = source.read(min(1 << 20, end - start))
                target.write(piece)
                start += len(piece)


def data_blocks(path):
    """Returns the offsets of the 4 KiB blocks that hold data."""
    return [offset for start, end in extents(path) for offset in range(start, end - BLOCK + 1, BLOCK)]


def sample(blocks, share, seed):
    return random.Random(seed).sample(blocks, max(1, int(len(blocks) * share)))


def scribble(path, blocks, share, seed):
    """Overwrites a share of the blocks with other blocks of the same image: real data, elsewhere."""
    chosen = sample(blocks, share, seed)
    sources = random.Random(seed + 1_000_000).choices(blocks, k=len(chosen))
    with open(path, "r+b", buffering=0) as file:
        for target, source in zip(chosen, sources):
            # A counter makes each block another one, as a page of a database has its own number.
            block = os.pread(file.fileno(), BLOCK - 8, source)
            os.pwrite(file.fileno(), seed.to_bytes(4, "little") + (target // BLOCK).to_bytes(4, "little") + block, target)
    return len(chosen) * BLOCK
