"""Processes, their CPU time and memory, and the page cache. Everything that is waited for has a limit."""

import os
import resource
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
COMMAND_SECONDS_MAX = 1800


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


def run(*command, **options):
    """Runs a command to its end and returns what it printed; an error when it fails."""
    options.setdefault("timeout", COMMAND_SECONDS_MAX)
    options.setdefault("check", True)
    command = [str(word) for word in command]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options).stdout
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.strip()}") from error


def timed(*commands):
    """Runs commands one after the other; returns wall and CPU seconds of all of them together."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    for command in commands:
        run(*command)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_seconds(pid):
    """User and system time of a process and its threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory(pid):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmHWM")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


def read_into_page_cache(path):
    """Reads a file, or all files below a folder."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def dd(path):
    """Reads a file from its beginning to its end, 1 MiB at a time; returns wall and CPU seconds."""
    return timed(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"])


def load_average():
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def wait_until(true, seconds, what):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} seconds")
        time.sleep(0.01)


def end(process, seconds):
    """Ends a process that this program started, and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
