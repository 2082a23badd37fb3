"""The known identities of `tests.rs`, by another implementation: python3 vectors.py, with the package `blake3`."""

from blake3 import blake3
import json


def q(text):
    return json.dumps(text, ensure_ascii=False)


def taken_up(parts):
    texts = [text.encode() for part in parts for text in part]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def identity(parts):
    return blake3(taken_up(parts), derive_key_context="piton identity 1: result of a trial").hexdigest()


def seed(parts):
    word = blake3(taken_up(parts), derive_key_context="piton identity 1: seed of a trial").digest(length=8)
    return int.from_bytes(word, "little") >> 32


def h(text):
    return blake3(text.encode()).hexdigest()


def study(command, version):
    return [
        ("seed", "", "7"),
        command,
        *version,
        ("base", "shell", q("make {design}")),
        ("base param", "design", q('d"é')),
        ("base param", "idle", "1"),
        ("env", "LANG", q("C")),
        ("input", "flow", h("flow")),
        ("input", "lib/a.lib", h("lib/a.lib")),
    ]


tool = ("tool", "yosys", q("1"))
synth = study(("command", "argv", '["./synth.sh","{study_dir}/x","{fanout}","{{lit}}"]'), []) + [
    tool,
    ("metric", "area", '["stdout.log","area (\\\\d+)",0.5]'),
    ("output", "net.v", ""),
    ("output", "sdf/a.sdf", ""),
    ("param", "design", q('d"é')),
    ("param", "fanout", "8"),
    ("param", "flat", "true"),
    ("param", "idle", "1"),
]
line = ("command", "shell", q("place.sh {parent_dir} {seed} {density}"))
seen = [("param", "density", "0.5"), ("param", "flat", "true")]
place = (
    study(line, [("version", "", q("2"))])
    + [("input", "place.tcl", h("place.tcl")), tool]
    + seen
    + [("parent", "net.v", h("n")), ("parent", "sdf/a.sdf", h("a"))]
)
values = {
    "a": "1", "b": "1.0", "c": q("1"), "d": "false", "e": "-0.0", "f": "2.5e20", "g": "1e-300",
    "h": q('\u0001é"\\'), "i": "1e16", "j": str(-(2**63)),
}
closure = [("seed", "", str(2**64 - 1)), ("command", "closure", q("f")), ("version", "", q("v\n1"))]
closure += [("param", name, value) for name, value in values.items()]

for parts in (synth, place, closure):
    print(identity(parts))
for density in ("0.5", "1.0"):
    print(seed([("seed", "", "7"), line, ("param", "density", density), seen[1]]))
