"""What is measured. Each measure returns rows of the table; every ratio is of medians of interleaved runs."""

import json
import os
import shutil
import threading
import time
from statistics import median

from . import data
from .machine import cpu_seconds, dd, drop_caches, read_into_page_cache, run, say, timed
from .services import Ceph, Daemon, repository_bytes

MB = 1e6


class Row:
    """One line of the table. `ratio` is value over baseline; `least` or `most` is the aim."""

    def __init__(self, what, value, baseline="", ratio=None, least=None, most=None):
        self.what, self.value, self.baseline, self.ratio = what, value, baseline, ratio
        self.aim = f"at least {least}" if least else f"at most {most}" if most else "none"
        self.passed = None if not (least or most) else ratio >= least if least else ratio <= most


class Bench:
    """Where everything is, and what the measures share."""

    def __init__(self, folder, quick, runs):
        self.folder, self.quick, self.runs = folder, quick, runs
        self.volumes = os.path.join(folder, "volumes")
        self.image = os.path.join(self.volumes, "real.raw")
        self.dense = os.path.join(self.volumes, "dense.raw")
        os.makedirs(self.volumes, exist_ok=True)

    def make_data(self):
        if os.path.exists(self.dense):
            return
        say("making real data")
        data.make_image(self.image, 1 << 30 if self.quick else 8 << 30, os.path.join(self.folder, "fill"))
        data.write_dense(self.image, self.dense)

    def place(self, name):
        """An empty folder for one part of one measure."""
        path = os.path.join(self.folder, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path

    def daemon(self, name, **options):
        return Daemon(self.place(name), options.pop("volumes", self.volumes), **options)

    def remove(self, name):
        shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)


def full(bench):
    """A full backup, against zstd and sha256sum of the same bytes; and what it stores, against qcow2."""
    read_into_page_cache(bench.image)
    read_into_page_cache(bench.dense)
    packed, qcow2 = os.path.join(bench.folder, "dense.zst"), os.path.join(bench.folder, "real.qcow2")
    plain, backups = [], []
    for number in range(bench.runs):
        plain.append(timed(["zstd", "-3", "-T2", "-q", "-f", "-o", packed, bench.dense], ["sha256sum", bench.dense]))
        os.remove(packed)
        os.sync()
        with bench.daemon("full") as daemon:
            wall, cpu, _ = daemon.job("backup", "local/real --name full")
        stored = repository_bytes(daemon.repository)
        backups.append((wall, cpu))
        say(f"full backup {number + 1}: {wall:.1f} s, {cpu:.1f} CPU s; baseline {plain[-1][0]:.1f} s, {plain[-1][1]:.1f} CPU s")
    qemu_wall, qemu_cpu = timed(["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", bench.image, qcow2])
    qcow2_bytes = os.path.getsize(qcow2)
    os.remove(qcow2)
    bench.remove("full")
    bytes_there = os.path.getsize(bench.dense)
    wall, cpu = (median(column) for column in zip(*backups))
    base_wall, base_cpu = (median(column) for column in zip(*plain))
    busy = median(cpu / wall for wall, cpu in backups)
    return [
        Row(f"full backup of {bytes_there / MB:.0f} MB of data in a volume of {os.path.getsize(bench.image) / MB:.0f} MB, CPU seconds",
            f"{cpu:.1f} s ({wall:.1f} s of time, {busy:.2f} cores busy, {bytes_there / MB / wall:.0f} MB/s)",
            f"`zstd -3 -T2` and `sha256sum`: {base_cpu:.1f} s ({base_wall:.1f} s of time)", cpu / base_cpu, most=1.2),
        Row("bytes stored for it", f"{stored / MB:.1f} MB",
            f"`qemu-img convert -c`, zstd: {qcow2_bytes / MB:.1f} MB ({qemu_cpu:.1f} CPU s, {qemu_wall:.1f} s)", stored / qcow2_bytes, most=1.0),
    ]


def read(bench):
    """Sequential and random reads of an image without holes."""
    tmpfs = os.path.join("/dev/shm", f"amberfs-bench-{os.getpid()}")
    limits, cold, cpu, warm, memory = [], [], [], [], []
    rows = []
    with bench.daemon("read") as daemon:
        _, _, backup = daemon.job("backup", "local/dense")
        size = os.path.getsize(bench.dense)
        try:
            # What fits into half of the memory that is free, at most 2 GiB: the rate does not depend on it.
            shutil.copyfile(daemon.image(backup), tmpfs) if size <= 2 << 30 else run("dd", f"if={bench.dense}", f"of={tmpfs}", "bs=1M", "count=2048")
            for number in range(bench.runs):
                decoded, decode_seconds = daemon.decode_limit(backup)
                limits.append(decoded / decode_seconds)
                daemon.restart_cold()
                image = daemon.image(backup)
                before = cpu_seconds(daemon.process.pid)
                wall, dd_cpu = dd(image)
                cold.append(size / wall)
                # Per byte: chunks that occur more than once are decoded once in the one, each time in the other.
                cpu.append((cpu_seconds(daemon.process.pid) - before + dd_cpu) / size * decoded / decode_seconds)
                dd(image)
                warm.append(size / dd(image)[0])
                dd(tmpfs)
                memory.append(os.path.getsize(tmpfs) / dd(tmpfs)[0])
                say(f"read {number + 1}: limit {limits[-1] / MB:.0f}, cold {cold[-1] / MB:.0f}, warm {warm[-1] / MB:.0f}, tmpfs {memory[-1] / MB:.0f} MB/s")
        finally:
            if os.path.exists(tmpfs):
                os.remove(tmpfs)
        limit, cold, warm, memory = (median(rates) for rates in (limits, cold, warm, memory))
        rows.append(Row("cold sequential read, 1 MiB reads", f"{cold / MB:.0f} MB/s", f"one core decoding the same chunks (per CPU second): {limit / MB:.0f} MB/s", cold / limit, least=1.5))
        rows.append(Row("CPU seconds of that read, the daemon's and the reader's", f"{median(cpu):.2f} of those of decoding alone", f"two idle cores would give at most {2 / median(cpu):.2f} times one core's decoding", median(cpu)))
        rows.append(Row("warm sequential read", f"{warm / MB:.0f} MB/s", f"the file on tmpfs: {memory / MB:.0f} MB/s", warm / memory, least=0.5))
        daemon.restart_cold()
        rows.append(Row("cold random reads of 4 KiB, 1 reader", *random_reads(daemon.image(backup), 1)))
        daemon.restart_cold()
        rows.append(Row("cold random reads of 4 KiB, 16 readers", *random_reads(daemon.image(backup), 16)))
        read_into_page_cache(daemon.image(backup))
        rows.append(Row("warm random reads of 4 KiB, 1 reader", *random_reads(daemon.image(backup), 1)))
        rows.append(Row("random reads of 4 KiB past the page cache (O_DIRECT), 16 readers", *random_reads(daemon.image(backup), 16, "--direct=1")))
    bench.remove("read")
    return rows


def random_reads(path, readers, *options):
    text = run("fio", "--name=r", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync", "--thread", f"--numjobs={readers}",
               "--group_reporting", "--time_based", "--runtime=5", "--invalidate=0", "--randrepeat=0", "--norandommap", "--output-format=json", *options)
    figures = json.loads(text[text.index("{"):])["jobs"][0]["read"]
    half = figures["clat_ns"]["percentile"]["50.000000"] / 1000
    return f"{figures['iops']:.0f} a second, half of them within {half:.1f} us", ""


def chain(bench):
    """The newest of 100 incrementals, against a full backup of the same state."""
    rows = []
    for pattern, title in (("scattered", "scattered blocks of 4 KiB"), ("runs", "runs of 1 MiB")):
        rows.append(chain_of(bench, pattern, title))
    return rows


def chain_of(bench, pattern, title):
    name = f"chain-{pattern}"
    volumes = bench.place(name + "-volumes")
    volume = os.path.join(volumes, "chain.raw")
    length = 128 << 20 if bench.quick else 512 << 20
    run("dd", f"if={bench.dense}", f"of={volume}", "bs=1M", f"count={length >> 20}")
    blocks = data.data_blocks(volume)
    rates = {"chain": [], "full": []}
    daemons = {"chain": bench.daemon(name, volumes=volumes), "full": bench.daemon(name + "-full", volumes=volumes)}
    with daemons["chain"] as daemon:
        daemon.job("backup", "local/chain")
        for number in range(100):
            change(volume, blocks, pattern, number)
            _, _, newest = daemon.job("backup", "local/chain --incremental")
    with daemons["full"] as daemon:
        _, _, backup = daemon.job("backup", "local/chain")
    for number in range(bench.runs):
        for kind, id in (("chain", newest), ("full", backup)):
            daemon = daemons[kind]
            # Started once, so that the packs are the only thing that is warm.
            with daemon:
                daemon.restart_cold()
                rates[kind].append(os.path.getsize(volume) / dd(daemon.image(id))[0])
        say(f"chain of {title} {number + 1}: {rates['chain'][-1] / MB:.0f} MB/s, full {rates['full'][-1] / MB:.0f} MB/s")
    for folder in (name, name + "-full", name + "-volumes"):
        bench.remove(folder)
    deep, flat = median(rates["chain"]), median(rates["full"])
    return Row(f"cold read of the newest of 100 incrementals, 1 % each, {title}", f"{deep / MB:.0f} MB/s", f"a full backup of the same state: {flat / MB:.0f} MB/s", deep / flat, least=0.9)


def change(volume, blocks, pattern, seed):
    if pattern == "scattered":
        data.scribble(volume, blocks, 0.01, seed)
        return
    # Whole runs of 256 neighbouring blocks.
    starts = data.sample(blocks[::256], 0.01, seed)
    wanted = [offset + step * data.BLOCK for offset in starts for step in range(256)]
    data.scribble(volume, [offset for offset in wanted if offset <= blocks[-1]], 1, seed)


def many(bench):
    """Time to the first byte with many backups."""
    count, volume_count = (100, 10) if bench.quick else (1000, 10)
    volumes = bench.place("many-volumes")
    for number in range(volume_count):
        run("dd", f"if={bench.dense}", f"of={volumes}/v{number}.raw", "bs=1M", "count=16", f"skip={number * 16}")
    daemon = bench.daemon("many", volumes=volumes)
    with daemon:
        for round in range(count // volume_count):
            lines = [f"local/v{number} --incremental" for number in range(volume_count)]
            answers = daemon.submit("backup", "\n".join(lines))
            for answer in answers:
                daemon.wait(answer["job"])
            for number in range(volume_count):
                volume = f"{volumes}/v{number}.raw"
                data.scribble(volume, data.data_blocks(volume), 0.002, round)
        newest = answers[-1]["backup"]
    ready, first = [], []
    for _ in range(bench.runs):
        drop_caches()
        begin = time.monotonic()
        with daemon:
            ready.append(time.monotonic() - begin)
            with open(daemon.image(newest), "rb", buffering=0) as file:
                file.read(1)
            first.append(time.monotonic() - begin)
    bench.remove("many")
    bench.remove("many-volumes")
    return [Row(f"first byte of the newest of {count} backups ({volume_count} chains), from the start of the daemon, all caches cold", f"{median(first):.2f} s (mounted after {median(ready):.2f} s)")]


def rbd(bench):
    """An incremental of an RBD volume after 1 % of random 4 KiB writes; a restore, against rbd import."""
    with Ceph(bench.place("ceph")) as ceph:
        run(*ceph.rbd("import", bench.image, "rbd/vm"))
        with bench.daemon("rbd", ceph=ceph) as daemon:
            daemon.job("backup", "rbd/vm")
            rows = rbd_incremental(bench, ceph, daemon) + rbd_restore(bench, ceph, daemon)
        bench.remove("rbd")
    return rows


def rbd_incremental(bench, ceph, daemon):
    blocks = data.data_blocks(bench.image)
    read_ratios, stored_ratios, changed, walls = [], [], 0, []
    for number in range(bench.runs):
        changed = write_rbd(ceph, data.sample(blocks, 0.01, number))
        bytes_before, stored_before = ceph.bytes_read(), repository_bytes(daemon.repository)
        wall, _, _ = daemon.job("backup", "rbd/vm --incremental")
        walls.append(wall)
        read_ratios.append((ceph.bytes_read() - bytes_before) / changed)
        stored_ratios.append((repository_bytes(daemon.repository) - stored_before) / changed)
        say(f"incremental {number + 1}: {changed / MB:.1f} MB changed, read {read_ratios[-1]:.3f}, stored {stored_ratios[-1]:.3f} times, {wall:.1f} s")
    changed_text = f"{changed / MB:.1f} MB changed"
    read_ratio, stored_ratio = median(read_ratios), median(stored_ratios)
    return [
        Row("incremental on RBD after 1 % random 4 KiB writes: bytes read (counted by the OSD)", f"{read_ratio * changed / MB:.1f} MB ({median(walls):.1f} s)", changed_text, read_ratio, most=1.3),
        Row("bytes stored for it, manifest and record included (the bytes written do not compress)", f"{stored_ratio * changed / MB:.1f} MB", changed_text, stored_ratio, most=1.3),
    ]


def write_rbd(ceph, offsets):
    """Writes random bytes to blocks of rbd/vm, through librbd."""
    script = "import os, sys, rados, rbd\n" \
        "with rados.Rados(conffile=sys.argv[1]) as cluster, cluster.open_ioctx('rbd') as pool, rbd.Image(pool, 'vm') as image:\n" \
        "    pending = []\n" \
        "    for offset in map(int, sys.stdin):\n" \
        "        pending.append(image.aio_write(os.urandom(4096), offset, lambda completion: None))\n" \
        "        if len(pending) == 64:\n" \
        "            for one in pending: one.wait_for_complete_and_cb()\n" \
        "            pending = []\n" \
        "    for one in pending: one.wait_for_complete_and_cb()\n" \
        "    image.flush()\n"
    run("/usr/bin/python3", "-c", script, ceph.conf, input="\n".join(map(str, sorted(offsets))))
    return len(offsets) * data.BLOCK


def rbd_restore(bench, ceph, daemon):
    imports, restores = [], []
    _, _, backup = daemon.job("backup", "rbd/vm")
    read_into_page_cache(bench.image)
    read_into_page_cache(os.path.join(daemon.repository, "packs"))
    for number in range(bench.runs):
        wall, _ = timed(ceph.rbd("import", bench.image, "rbd/imported"))
        imports.append(wall)
        run(*ceph.rbd("rm", "rbd/imported"))
        wall, _, _ = daemon.job("restore", f"{backup} --name restored")
        restores.append(wall)
        run(*ceph.rbd("rm", "rbd/restored"))
        say(f"restore {number + 1}: {restores[-1]:.1f} s, rbd import {imports[-1]:.1f} s")
    restore, imported = median(restores), median(imports)
    return [Row("restore to a new RBD volume, speed", f"{restore:.1f} s", f"`rbd import` of the same raw file: {imported:.1f} s", imported / restore, least=1.0)]


def memory(bench):
    """Peak resident memory with tight limits: four backups at once, and readers meanwhile."""
    volumes = bench.place("memory-volumes")
    for number in range(4):
        run("dd", f"if={bench.dense}", f"of={volumes}/v{number}.raw", "bs=1M", "count=1024", f"skip={number * 16}")
    with bench.daemon("memory", volumes=volumes, memory="128MiB", cache="128MiB") as daemon:
        _, _, backup = daemon.job("backup", "local/v0")
        reader = threading.Thread(target=dd, args=[daemon.image(backup)])
        reader.start()
        answers = daemon.submit("backup", "\n".join(f"local/v{number}" for number in (0, 1, 2, 3)))
        for answer in answers:
            daemon.wait(answer["job"])
        reader.join()
    bench.remove("memory")
    bench.remove("memory-volumes")
    peak, limit, _ = Daemon.peaks[-1]
    return [Row("peak resident memory, four backups and a reader at once, limits 128 MiB + 128 MiB", f"{peak / MB:.0f} MB", f"limits: {limit / MB:.0f} MB", peak / limit, most=1.0)]


MEASURES = {"full": full, "read": read, "chain": chain, "many": many, "rbd": rbd, "memory": memory}
