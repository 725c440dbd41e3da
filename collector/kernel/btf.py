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

import msgspec
import orjson

from collector.errors import LoadError
from schemas.raw import Hook

BTF = Path("/sys/kernel/btf")

Types = dict[int, dict[str, Any]]

# A kernel has 130,000 types, and one in ten is read here: making objects of all takes a second of CPU.
_READ = re.compile(rb'"kind":"(?:STRUCT|UNION|ENUM(?:64)?)"|"bpf_rdonly_cast"')


class _Dump(msgspec.Struct):
    types: list[msgspec.Raw]


def kernel_flags(hook: Hook) -> dict[str, int]:
    """Return the K_* macros of bpf/ for a hook; raise `LoadError` if the kernel does not tell or lacks a field."""
    types = _dump("vmlinux")
    flags = _sk_buff(types) | _others(types) | _gso(types) | _fragments(types) | _conntrack(types) | _cast(types)
    return flags | (_tc(types) if hook == "tc" else _task(types) | _xfrm(types))


def _dump(module: str) -> Types:
    base = [] if module == "vmlinux" else ["-B", str(BTF / "vmlinux")]
    command = ["bpftool", *base, "-j", "btf", "dump", "file", str(BTF / module)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    except FileNotFoundError as error:
        raise LoadError("bpftool is not installed; it reads the kernel's type information (Debian: bpftool)") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"bpftool cannot read {BTF / module}: {error}") from error
    wanted = [raw for raw in map(bytes, msgspec.json.decode(done.stdout, type=_Dump).types) if _READ.search(raw)]
    return {entry["id"]: entry for entry in map(orjson.loads, wanted)}


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
        if inner and inner["kind"] in ("STRUCT", "UNION") and member["name"] in ("(anon)", "headers"):
            yield from _members(types, inner, offset)


def _offsets(types: Types, struct: str, *names: str) -> list[int]:
    found = dict(_members(types, _struct(types, struct)))
    for name in names:
        if name not in found:
            raise LoadError(f"this kernel's struct {struct} has no field {name}")
    return [found[name] for name in names]


def _sk_buff(types: Types) -> dict[str, int]:
    fields = {
        "len": "LEN",
        "data_len": "DATA_LEN",
        "head": "HEAD",
        "end": "END",
        "network_header": "NETWORK_HEADER",
        "inner_transport_header": "INNER_TRANSPORT_HEADER",
        "skb_iif": "IIF",
        "sk": "SK",
        "dev": "DEV",
        "_skb_refdst": "REFDST",
        "next": "NEXT",
    }
    offsets = _offsets(types, "sk_buff", *fields)
    flags = {f"K_SKB_{name}": bits // 8 for name, bits in zip(fields.values(), offsets, strict=True)}
    (pkt_type,) = _offsets(types, "sk_buff", "pkt_type")
    return flags | {
        **_bit(types, "encapsulation", "SKB_ENCAPSULATION"),
        "K_SKB_PKT_TYPE": pkt_type // 8,
        "K_SKB_PKT_TYPE_SHIFT": pkt_type % 8,
    }


def _task(types: Types) -> dict[str, int]:
    """Return byte and mask of a task's flag that it sends a copy of a packet, or nothing on a kernel before 6.16."""
    bit = dict(_members(types, _struct(types, "task_struct"))).get("in_nf_duplicate")
    return {} if bit is None else {"K_TASK_IN_NF_DUPLICATE": bit // 8, "K_TASK_IN_NF_DUPLICATE_MASK": 1 << bit % 8}


def _xfrm(types: Types) -> dict[str, int]:
    """Return where a route says that IPsec encrypts what takes it, or nothing on a kernel without IPsec."""
    bits = dict(_members(types, _struct(types, "dst_entry"))).get("xfrm")
    return {} if bits is None else {"K_DST_XFRM": bits // 8}


def _cast(types: Types) -> dict[str, int]:
    """Return the number by which a program calls bpf_rdonly_cast(), or nothing on a kernel before 6.2."""
    found = [id_ for id_, entry in types.items() if entry["kind"] == "FUNC" and entry["name"] == "bpf_rdonly_cast"]
    return {"K_RDONLY_CAST": found[0]} if found else {}


def _tc(types: Types) -> dict[str, int]:
    """Return what only the program for tc reads, and the part of sk_buff that has all it reads of it."""
    (mac_header,) = _offsets(types, "sk_buff", "mac_header")
    at_ingress = _bit(types, "tc_at_ingress", "SKB_TC_AT_INGRESS")
    optional = ["_nfct"] if "_nfct" in dict(_members(types, _struct(types, "sk_buff"))) else []
    read = ["tc_at_ingress", "encapsulation", "mac_header", "network_header", "inner_transport_header", "end", "head"]
    bits = _offsets(types, "sk_buff", *read, *optional)
    first, last = min(bits) // 64 * 8, max(bits) // 64 * 8 + 8  # none is longer than 8 bytes, all are aligned
    return {
        "K_SKB_MAC_HEADER": mac_header // 8,
        **at_ingress,
        "K_SKB_COPY_FROM": first,
        "K_SKB_COPY_BYTES": last - first,
    }


def _bit(types: Types, field: str, macro: str) -> dict[str, int]:
    """Return the byte and the mask of a flag of sk_buff."""
    (bit,) = _offsets(types, "sk_buff", field)
    return {f"K_{macro}": bit // 8, f"K_{macro}_MASK": 1 << bit % 8}


def _others(types: Types) -> dict[str, int]:
    wanted = {
        "nf_hook_state": {
            "hook": "STATE_HOOK",
            "pf": "STATE_PF",
            "in": "STATE_IN",
            "out": "STATE_OUT",
            "sk": "STATE_SK",
        },
        "net_device": {"ifindex": "DEV_IFINDEX", "mtu": "DEV_MTU"},
        "skb_shared_info": {
            "gso_size": "SHINFO_GSO_SIZE",
            "gso_type": "SHINFO_GSO_TYPE",
            "frag_list": "SHINFO_FRAG_LIST",
        },
        "rtable": {"rt_flags": "RTABLE_FLAGS"},
        "dst_entry": {"_metrics": "DST_METRICS", "expires": "DST_EXPIRES"},
    }
    flags: dict[str, int] = {}
    for struct, fields in wanted.items():
        for field, bits in zip(fields, _offsets(types, struct, *fields), strict=True):
            flags[f"K_{fields[field]}"] = bits // 8
    return flags


def _enumerators(types: Types) -> dict[str, int]:
    return {
        value["name"]: value["val"]
        for entry in types.values()
        if entry["kind"] in ("ENUM", "ENUM64")
        for value in entry["values"]
        if value["name"].startswith(("SKB_GSO_", "IPS_"))
    }


def _gso(types: Types) -> dict[str, int]:
    bits = _enumerators(types)
    wanted = ("TCPV4", "TCPV6", "SCTP", "UDP")
    missing = [name for name in wanted if f"SKB_GSO_{name}" not in bits]
    if missing:
        raise LoadError(f"this kernel's BTF has no SKB_GSO_{missing[0]}")
    return {f"K_GSO_{name}": bits[f"SKB_GSO_{name}"] for name in wanted}


def _fragments(types: Types) -> dict[str, int]:
    control_block, ignore_df = _offsets(types, "sk_buff", "cb", "ignore_df")
    inet, inet_flags = _offsets(types, "inet_skb_parm", "frag_max_size", "flags")
    inet6, inet6_flags = _offsets(types, "inet6_skb_parm", "frag_max_size", "flags")
    (path_mtu,) = _offsets(types, "rtable", "rt_pmtu")  # a bit field that ends with its 32-bit word
    return {
        "K_SKB_IGNORE_DF": ignore_df // 8,
        "K_SKB_IGNORE_DF_MASK": 1 << ignore_df % 8,
        "K_CB_INET_FRAGMENT": (control_block + inet) // 8,
        "K_CB_INET6_FRAGMENT": (control_block + inet6) // 8,
        # Of two bytes the lower, which comes first on all machines that this runs on.
        "K_CB_INET_FLAGS": (control_block + inet_flags) // 8,
        "K_CB_INET6_FLAGS": (control_block + inet6_flags) // 8,
        "K_RTABLE_PMTU": path_mtu // 8,
        "K_RTABLE_PMTU_SHIFT": path_mtu % 8,
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
