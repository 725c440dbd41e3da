# SPDX-License-Identifier: Apache-2.0
"""Where the running kernel keeps the fields that bpf/ reads, from its own type information (BTF).

bcc has no CO-RE relocations, so the offsets become -D flags. bpftool reads the BTF; a parser of our own would have
to follow every new kind of type.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from collector.errors import LoadError
from schemas.raw import Hook

BTF = Path("/sys/kernel/btf")

Types = dict[int, dict[str, Any]]

# By struct and field, the macro (without K_) that gets the field's offset in bytes. That of a flag's mask, or of a bit
# field's shift, stands for both.
Macros = dict[str, dict[str, str]]
_FIELDS: Macros = {
    "sk_buff": {
        "len": "SKB_LEN",
        "data_len": "SKB_DATA_LEN",
        "head": "SKB_HEAD",
        "end": "SKB_END",
        "network_header": "SKB_NETWORK_HEADER",
        "inner_transport_header": "SKB_INNER_TRANSPORT_HEADER",
        "skb_iif": "SKB_IIF",
        "sk": "SKB_SK",
        "dev": "SKB_DEV",
        "_skb_refdst": "SKB_REFDST",
        "next": "SKB_NEXT",
        "pkt_type": "SKB_PKT_TYPE_SHIFT",
        "encapsulation": "SKB_ENCAPSULATION_MASK",
        "ignore_df": "SKB_IGNORE_DF_MASK",
    },
    "nf_hook_state": {"hook": "STATE_HOOK", "pf": "STATE_PF", "in": "STATE_IN", "out": "STATE_OUT", "sk": "STATE_SK"},
    "net_device": {"ifindex": "DEV_IFINDEX", "mtu": "DEV_MTU"},
    "skb_shared_info": {
        "gso_size": "SHINFO_GSO_SIZE",
        "gso_type": "SHINFO_GSO_TYPE",
        "frag_list": "SHINFO_FRAG_LIST",
    },
    # rt_pmtu ends with its 32-bit word.
    "rtable": {"rt_flags": "RTABLE_FLAGS", "rt_pmtu": "RTABLE_PMTU_SHIFT"},
    "dst_entry": {"_metrics": "DST_METRICS", "expires": "DST_EXPIRES"},
}
_TC: Macros = {"sk_buff": {"mac_header": "SKB_MAC_HEADER", "tc_at_ingress": "SKB_TC_AT_INGRESS_MASK"}}
# What not every kernel has: from 6.16 on, a task's flag that it sends a copy of a packet; with IPsec, where a route
# says that IPsec encrypts what takes it.
_IF_ANY: Macros = {
    "task_struct": {"in_nf_duplicate": "TASK_IN_NF_DUPLICATE_MASK"},
    "dst_entry": {"xfrm": "DST_XFRM"},
}
# Read beside those.
_MORE_STRUCTS = (
    "inet_skb_parm",
    "inet6_skb_parm",
    "nf_conn",
    "nf_conntrack_tuple_hash",
    "nf_conntrack_tuple",
    "nf_conntrack_man",
)
_ENUMERATORS = ("SKB_GSO_", "IPS_")
# What memory is read as that has no type: of 200 bytes all can be read, in words or parts of them (if_link.h).
_WORDS = "rtnl_link_stats64"
# A kernel has 130,000 types: these few are found in bpftool's text, as making objects of all takes a second of CPU.
_STRUCTS = sorted({*_FIELDS, *_TC, *_IF_ANY, *_MORE_STRUCTS, _WORDS})
_WHOLE, _BEGUN = "|".join([*_STRUCTS, "bpf_rdonly_cast"]), "|".join(_ENUMERATORS)
_READ = re.compile(f'"name":"(?:(?:{_WHOLE})"|{_BEGUN})'.encode())
_TYPE = b'{"id":'
# Members whose own members are read as if they were the struct's.
_TRANSPARENT = ("(anon)", "headers")


def kernel_flags(hook: Hook) -> dict[str, int]:
    """Return the K_* macros of bpf/ for a hook; raise `LoadError` if the kernel does not tell or lacks a field."""
    types = _dump("vmlinux")
    flags = _macros(types, _FIELDS) | _gso(types) | _fragments(types) | _conntrack(types) | _cast(types)
    if hook == "tc":
        return flags | _macros(types, _TC) | _copied(types)
    return flags | _macros(types, _IF_ANY, all_there=False)


def _dump(module: str) -> Types:
    base = [] if module == "vmlinux" else ["-B", str(BTF / "vmlinux")]
    command = ["bpftool", *base, "-j", "btf", "dump", "file", str(BTF / module)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    except FileNotFoundError as error:
        raise LoadError("bpftool is not installed; it reads the kernel's type information (Debian: bpftool)") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"bpftool cannot read {BTF / module}: {error}") from error
    try:
        return _read(done.stdout)
    except (ValueError, LookupError) as error:
        raise LoadError(f"bpftool says of {BTF / module} what is not understood: {error!r}") from error


def _read(dump: bytes) -> Types:
    """Return the types that are read here, and those that are transparent in them; LookupError if there are none."""
    types: Types = {}
    wanted, end = [], 0
    for found in _READ.finditer(dump):
        if found.start() >= end:  # else in the type before
            wanted.append(dump.rindex(_TYPE, 0, found.start()))
            end = _end(dump, found.start())
    while wanted:
        entry = _entry(dump, wanted.pop())
        types[entry["id"]] = entry
        for member in entry.get("members", ()):
            if member["name"] in _TRANSPARENT and member["type_id"] not in types:
                at = dump.find(b"%b%d," % (_TYPE, member["type_id"]))
                if at >= 0:  # else the kernel's own, where this is a module's dump
                    wanted.append(at)
    if not types:
        raise LookupError("no types")
    return types


def _entry(dump: bytes, at: int) -> dict[str, Any]:
    entry: dict[str, Any] = orjson.loads(dump[at : _end(dump, at + 1)].rstrip().removesuffix(b"]}").rstrip(b","))
    return entry


def _end(dump: bytes, within: int) -> int:
    """Return where the type ends that this place is in."""
    end = dump.find(_TYPE, within)
    return len(dump) if end < 0 else end


def _struct(types: Types, name: str) -> dict[str, Any]:
    for entry in types.values():
        if entry["kind"] == "STRUCT" and entry["name"] == name:
            return entry
    raise LoadError(f"this kernel's BTF has no struct {name}")


def _members(types: Types, record: dict[str, Any], base: int = 0) -> Iterator[tuple[str, int]]:
    """Yield names and offsets in bits, those of unnamed members and of sk_buff's group `headers` included."""
    for member in record["members"]:
        offset = base + member["bits_offset"]
        yield member["name"], offset
        inner = types.get(member["type_id"])
        if inner and inner["kind"] in ("STRUCT", "UNION") and member["name"] in _TRANSPARENT:
            yield from _members(types, inner, offset)


def _offsets(types: Types, struct: str, *names: str) -> list[int]:
    found = dict(_members(types, _struct(types, struct)))
    for name in names:
        if name not in found:
            raise LoadError(f"this kernel's struct {struct} has no field {name}")
    return [found[name] for name in names]


def _macros(types: Types, wanted: Macros, *, all_there: bool = True) -> dict[str, int]:
    flags: dict[str, int] = {}
    for struct, macros in wanted.items():
        found = dict(_members(types, _struct(types, struct)))
        for field, macro in macros.items():
            if field not in found and all_there:
                raise LoadError(f"this kernel's struct {struct} has no field {field}")
            if field in found:
                flags |= _macro(macro, found[field])
    return flags


def _macro(name: str, bit: int) -> dict[str, int]:
    byte, _, part = name.rpartition("_")
    if part in ("MASK", "SHIFT"):
        return {f"K_{byte}": bit // 8, f"K_{name}": 1 << bit % 8 if part == "MASK" else bit % 8}
    return {f"K_{name}": bit // 8}


def _cast(types: Types) -> dict[str, int]:
    """Return the numbers of bpf_rdonly_cast() and of what it casts to, or nothing on a kernel before 6.2."""
    found = [id_ for id_, entry in types.items() if entry["kind"] == "FUNC" and entry["name"] == "bpf_rdonly_cast"]
    if not found:
        return {}
    structs = {"K_WORDS": _struct(types, _WORDS)["id"], "K_SK_BUFF": _struct(types, "sk_buff")["id"]}
    return {"K_RDONLY_CAST": found[0], **structs}


def _copied(types: Types) -> dict[str, int]:
    """Return the part of sk_buff that has all that the program for tc reads of it."""
    optional = ["_nfct"] if "_nfct" in dict(_members(types, _struct(types, "sk_buff"))) else []
    read = ["tc_at_ingress", "encapsulation", "mac_header", "network_header", "inner_transport_header", "end", "head"]
    bits = _offsets(types, "sk_buff", *read, *optional)
    first, last = min(bits) // 64 * 8, max(bits) // 64 * 8 + 8  # none is longer than 8 bytes, all are aligned
    return {"K_SKB_COPY_FROM": first, "K_SKB_COPY_BYTES": last - first}


def _enumerators(types: Types) -> dict[str, int]:
    return {
        value["name"]: value["val"]
        for entry in types.values()
        if entry["kind"] in ("ENUM", "ENUM64")
        for value in entry["values"]
        if value["name"].startswith(_ENUMERATORS)
    }


def _gso(types: Types) -> dict[str, int]:
    bits = _enumerators(types)
    wanted = ("TCPV4", "TCPV6", "SCTP", "UDP")
    missing = [name for name in wanted if f"SKB_GSO_{name}" not in bits]
    if missing:
        raise LoadError(f"this kernel's BTF has no SKB_GSO_{missing[0]}")
    return {f"K_GSO_{name}": bits[f"SKB_GSO_{name}"] for name in wanted}


def _fragments(types: Types) -> dict[str, int]:
    (control_block,) = _offsets(types, "sk_buff", "cb")
    inet, inet_flags = _offsets(types, "inet_skb_parm", "frag_max_size", "flags")
    inet6, inet6_flags = _offsets(types, "inet6_skb_parm", "frag_max_size", "flags")
    return {
        "K_CB_INET_FRAGMENT": (control_block + inet) // 8,
        "K_CB_INET6_FRAGMENT": (control_block + inet6) // 8,
        # Of two bytes the lower, which comes first on all machines that this runs on.
        "K_CB_INET_FLAGS": (control_block + inet_flags) // 8,
        "K_CB_INET6_FLAGS": (control_block + inet6_flags) // 8,
    }


def _conntrack(types: Types) -> dict[str, int]:
    """Return the offsets within a connection's entry, or nothing on a kernel without conntrack."""
    nfct = dict(_members(types, _struct(types, "sk_buff"))).get("_nfct")
    if nfct is None:
        return {}
    if not any(entry["kind"] == "STRUCT" and entry["name"] == "nf_conn" for entry in types.values()):
        if not (BTF / "nf_conntrack").exists():
            return {}
        types = types | _dump("nf_conntrack")
    status, tuplehash = _offsets(types, "nf_conn", "status", "tuplehash")
    (hash_tuple,) = _offsets(types, "nf_conntrack_tuple_hash", "tuple")
    (source,) = _offsets(types, "nf_conntrack_tuple", "src")
    address, port = _offsets(types, "nf_conntrack_man", "u3", "u")
    original = (tuplehash + hash_tuple + source) // 8  # tuplehash[IP_CT_DIR_ORIGINAL = 0], then IP_CT_DIR_REPLY
    return {
        "K_SKB_NFCT": nfct // 8,
        "K_CT_STATUS": status // 8,
        "K_CT_ORIGINAL_SRC": original,
        "K_CT_REPLY_SRC": original + int(_struct(types, "nf_conntrack_tuple_hash")["size"]),
        "K_CT_MAN_ADDRESS": address // 8,
        "K_CT_MAN_PORT": port // 8,
        "K_IPS_SRC_NAT": _enumerators(types).get("IPS_SRC_NAT", 1 << 4),
        "K_IPS_DST_NAT": _enumerators(types).get("IPS_DST_NAT", 1 << 5),
    }
