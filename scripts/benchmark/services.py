"""The daemon and the Ceph cluster, started and ended by this program."""

import json
import os
import subprocess
import time

from .machine import cpu_seconds, drop_caches, end, peak_memory, read_into_page_cache, run, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AMBERFS = os.path.join(ROOT, "target/release/amberfs")
CEPH_CLUSTER = os.path.join(ROOT, "scripts/ceph-cluster")
START_SECONDS_MAX = 120
JOB_SECONDS_MAX = 1800


class Daemon:
    """An amberfs mount over a repository in `folder`; made when there is none."""

    # Peak resident bytes beside the configured limit, of each daemon that ended.
    peaks = []

    def __init__(self, folder, volumes, memory="1GiB", cache="512MiB", ceph=None):
        self.folder, self.mount = folder, os.path.join(folder, "mnt")
        self.repository = os.path.join(folder, "repository")
        self.limit = size(memory) + size(cache)
        os.makedirs(self.mount, exist_ok=True)
        text = f'[repository]\nurl = "dir:{self.repository}"\ncache = "{cache}"\n[limits]\nmemory = "{memory}"\n'
        text += f'[source.local]\ntype = "dir"\npath = "{volumes}"\n'
        if ceph:
            text += f'[source.rbd]\ntype = "rbd"\nconf = "{ceph.conf}"\nuser = "amberfs-restore"\npool = "rbd"\n'
        self.config = os.path.join(folder, "amberfs.toml")
        with open(self.config, "w") as file:
            file.write(text)
        if not os.path.exists(self.repository):
            run(AMBERFS, "repo", "init", "--config", self.config)
        self.process = None

    def __enter__(self):
        with open(os.path.join(self.folder, "log"), "a") as log:
            self.process = subprocess.Popen([AMBERFS, "mount", "--config", self.config, self.mount], stderr=log)
        wait_until(self.is_ready, START_SECONDS_MAX, f"the daemon in {self.folder} serves")
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended: see {self.folder}/log")
        return os.path.exists(os.path.join(self.mount, "control/backup"))

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.peaks.append((peak_memory(self.process.pid), self.limit, os.path.basename(self.folder)))
        end(self.process, 120)
        subprocess.run(["umount", "-l", self.mount], stderr=subprocess.DEVNULL)

    def restart_cold(self):
        """Its caches and the kernel's are empty afterwards; only the repository's files are in the page cache."""
        self.__exit__()
        drop_caches()
        read_into_page_cache(self.repository)
        self.__enter__()

    def submit(self, control, line):
        with open(os.path.join(self.mount, "control", control), "r+b", buffering=0) as file:
            file.write(line.encode() + b"\n")
            answer = file.read().decode()
        return [dict(pair.split("=", 1) for pair in line.split()[1:]) for line in answer.splitlines()]

    def wait(self, job):
        deadline = time.monotonic() + JOB_SECONDS_MAX
        while True:
            with open(os.path.join(self.mount, "jobs", job)) as file:
                fields = json.load(file)
            if fields["state"] == "done":
                return fields
            if fields["state"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise RuntimeError(f"job {job}: {fields['state']}: {fields['error']}")
            time.sleep(0.02)

    def job(self, control, line):
        """Runs a command to its end; returns wall and CPU seconds of the daemon, and the backup's id."""
        before, begin = cpu_seconds(self.process.pid), time.monotonic()
        [answer] = self.submit(control, line)
        self.wait(answer["job"])
        wall, cpu = time.monotonic() - begin, cpu_seconds(self.process.pid) - before
        return wall, cpu, answer["backup"]

    def image(self, backup):
        return os.path.join(self.mount, "backups", backup, "image")

    def info(self, backup):
        with open(os.path.join(self.mount, "backups", backup, "info.json")) as file:
            return json.load(file)

    def decode_limit(self, backup):
        """Bytes and CPU seconds of one thread that decodes this backup's chunks, from memory."""
        line = run("cargo", "bench", "--quiet", "--bench", "decode_limit", "--", self.repository, backup, cwd=ROOT)
        fields = dict(pair.split("=") for pair in line.split())
        return int(fields["plain_bytes"]), float(fields["cpu_seconds"])


class Ceph:
    """A cluster of one monitor and one OSD, bluestore on a sparse file."""

    def __init__(self, folder):
        self.folder, self.conf = folder, os.path.join(folder, "ceph.conf")
        self.socket = os.path.join(folder, "run/osd.asok")

    def __enter__(self):
        run(CEPH_CLUSTER, "start", self.folder, "store=bluestore", "size=40", f"until={os.getpid()}")
        # The OSD's counters are read through its admin socket, which the cluster has none of by default.
        run(CEPH_CLUSTER, "osd-stop", self.folder, "0")
        with open(self.conf) as file:
            text = file.read()
        with open(self.conf, "w") as file:
            file.write(text.replace("[osd]\n", f"[osd]\nadmin_socket = {self.socket}\n"))
        run(CEPH_CLUSTER, "osd-start", self.folder, "0")
        return self

    def __exit__(self, *_):
        subprocess.run([CEPH_CLUSTER, "stop", self.folder], stdout=subprocess.DEVNULL)

    def rbd(self, *words):
        return ["rbd", "-c", self.conf, "--no-progress", *words]

    def bytes_read(self):
        """Bytes that the OSD has sent to its clients."""
        return json.loads(run("ceph", "--admin-daemon", self.socket, "perf", "dump", timeout=60))["osd"]["op_r_out_bytes"]


def size(text):
    number = int(text.rstrip("GMKiB"))
    return number << {"K": 10, "M": 20, "G": 30}[text[len(str(number))]]


def repository_bytes(repository):
    """Bytes of the repository's objects, without the index, which can be made again."""
    total = 0
    for kind in ("packs", "manifests", "records"):
        for folder, _, names in os.walk(os.path.join(repository, kind)):
            total += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
    return total
