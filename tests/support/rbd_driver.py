"""Works on RBD images through Ceph's own binding: one JSON command a line, one JSON answer a line.

Ends when its input ends. Images stay open, for writing, from their first use until `close`.
"""

import json
import random
import struct
import sys

import rados
import rbd

cluster = rados.Rados(conffile=sys.argv[1])
cluster.conf_set("rbd_skip_partial_discard", "false")
cluster.conf_set("rbd_discard_granularity_bytes", "4096")
cluster.connect()
pools = {}
images = {}


def pool(command):
    key = (command.get("pool", sys.argv[2]), command.get("namespace", ""))
    if key not in pools:
        pools[key] = cluster.open_ioctx(key[0])
        pools[key].set_namespace(key[1])
    return pools[key]


def image(command):
    name = command["name"]
    if name not in images:
        images[name] = rbd.Image(pool(command), name)
    return images[name]


def close(command):
    if command["name"] in images:
        images.pop(command["name"]).close()


def create(c):
    rbd.RBD().create(
        pool(c), c["name"], c["size"], c["order"], old_format=False, features=c["features"],
        stripe_unit=c.get("stripe_unit", 0), stripe_count=c.get("stripe_count", 0), data_pool=c.get("data_pool"))


def clone(c):
    parent = image({"name": c["parent"]})
    if not parent.is_protected_snap(c["snapshot"]):
        parent.protect_snap(c["snapshot"])
    rbd.RBD().clone(pool(c), c["parent"], c["snapshot"], pool(c), c["name"], c["features"], c["order"])


def write(c):
    generator = random.Random(c["seed"])
    data = bytes(c["length"]) if c["seed"] == 0 else generator.randbytes(c["length"])
    image(c).write(data, c["offset"])


def write_file(c):
    """Makes the image equal to a file, writing only what differs and discarding what became zeros."""
    step, size = 1 << 16, image(c).size()
    with open(c["path"], "rb") as file:
        for offset in range(0, size, step):
            length = min(step, size - offset)
            new, old = file.read(length).ljust(length, b"\0"), image(c).read(offset, length)
            if new == old:
                continue
            if not any(new):
                image(c).write_zeroes(offset, length)
                continue
            if not any(old):
                image(c).write(new, offset)
                continue
            for start in range(0, length, 4096):
                piece = new[start:start + 4096]
                if piece != old[start:start + 4096]:
                    image(c).write(piece, offset + start)


def read(c):
    with rbd.Image(pool(c), c["name"], snapshot=c.get("snapshot"), read_only=True) as opened:
        size = opened.size()
        with open(c["path"], "wb") as out:
            for offset in range(0, size, 1 << 22):
                out.write(opened.read(offset, min(1 << 22, size - offset)))


def set_flags(c):
    """Flags a snapshot's object map, as a client does that could not keep it."""
    data = struct.pack("<QQQ", c["flags"], c["flags"], c["snapshot_id"])
    pool(c).execute("rbd_header." + c["name"], "rbd", "set_flags", data)


OPERATIONS = {
    "create": create,
    "clone": clone,
    "write": write,
    "read": read,
    "write_file": write_file,
    "set_flags": set_flags,
    "flatten": lambda c: image(c).flatten(),
    "close": close,
    "open": lambda c: image(c) and None,
    "lock": lambda c: image(c).lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE),
    "discard": lambda c: image(c).discard(c["offset"], c["length"]),
    "write_zeroes": lambda c: image(c).write_zeroes(c["offset"], c["length"]),
    "resize": lambda c: image(c).resize(c["size"]),
    "snapshot": lambda c: image(c).create_snap(c["snapshot"]),
    "remove_snapshot": lambda c: image(c).remove_snap(c["snapshot"]),
    "protect": lambda c: image(c).protect_snap(c["snapshot"]),
    "unprotect": lambda c: image(c).unprotect_snap(c["snapshot"]),
    "set_meta": lambda c: image(c).metadata_set(c["key"], c["value"]),
    "namespace": lambda c: rbd.RBD().namespace_create(pool({}), c["name"]),
    "flush": lambda c: image(c).flush(),
    "overlap": lambda c: image(c).overlap(),
    "size": lambda c: image(c).size(),
    "id": lambda c: image(c).id(),
    "list": lambda c: rbd.RBD().list(pool(c)),
}

for line in sys.stdin:
    command = json.loads(line)
    try:
        print(json.dumps({"ok": OPERATIONS[command["op"]](command)}), flush=True)
    except (rbd.Error, rados.Error, OSError) as error:
        print(json.dumps({"error": str(error), "errno": getattr(error, "errno", None)}), flush=True)
for opened in images.values():
    opened.close()
