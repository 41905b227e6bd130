"""The page of a try: one file, no script, no link outside; every tensor, every number and every byte that would leave."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedrounds_client.ledger import payload_digest
from fedrounds_client.waiting import Waiting
from fedrounds_common.arrays import Array
from fedrounds_common.leaving import from_wire

FULL = 4 << 20  # bytes of one payload that the page prints whole; of a larger one each tensor's ends
ENDS = 512
ROW = 32
BINS = 24
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #d8dee4;
vertical-align:top;overflow-wrap:anywhere}td.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f8fa;padding:.6rem;overflow:auto;max-height:24rem;font-size:12px}svg{vertical-align:middle}
.bad{color:#a40e26;font-weight:600}"""

Payloads = Mapping[str, tuple[str, bytes]]


def page_of(site: str, asked: Waiting, payloads: Payloads, said: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        payloads: header and buffer by kind. said: what try.json says.
    """
    parts = [part for kind, (header, buffer) in payloads.items() for part in _payload(kind, header, buffer)]
    off = (
        "The process that made this had no network."
        if said["network_off"]
        else '<span class="bad">This machine could not cut the process off from the network.</span>'
    )
    done = "One round was done" if "update" in payloads else "What a run of no rounds asks for was made"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>What would leave {_text(site)}</title><style>{STYLE}</style></head><body>",
        f"<h1>What would leave {_text(site)} in one round</h1>",
        f"<p>Study <code>{_text(asked.study)}</code>, asked for by the coordinator with the key "
        f"<code>{_text(asked.coordinator)}</code>. {done} on this site's own cases, with the study's "
        f"start weights, in {said['seconds']:.3g} s. Nothing was sent. {off}</p>",
        "<p>In a real round <code>run</code>, <code>nonce</code>, <code>seconds</code> and the round's number are "
        "others, and a signature of 64 bytes over the payload goes with it.</p>",
        *parts, "</body></html>\n",
    ])  # fmt: skip


def _payload(kind: str, header: str, buffer: bytes) -> Iterator[str]:
    message, scalars = from_wire(header, buffer), json.loads(header)
    arrays: Mapping[str, Array] = getattr(message, "arrays", None) or getattr(message, "tally", {})
    total = len(header.encode()) + len(buffer)
    yield f"<h2>{_text(kind)}: {total:,} bytes</h2>"
    yield f"<p>SHA-256 of the payload <code>{payload_digest(header, buffer)}</code>; it lies beside this page as "
    yield f"<code>{_text(kind)}.json</code> ({len(header.encode()):,} bytes) and <code>{_text(kind)}.bin</code> "
    yield f"({len(buffer):,} bytes).</p><h3>Numbers and names</h3><table><tr><th>entry</th><th>value</th></tr>"
    for name, value in scalars.items():
        if name not in ("arrays", "tally"):
            yield f"<tr><td>{_text(name)}</td><td>{_text(json.dumps(value, ensure_ascii=False))}</td></tr>"
    yield f"</table><h3>{len(arrays)} tensors</h3>"
    yield from _tensors(arrays, whole=len(buffer) <= FULL)
    yield f"<h3>The header, as it would travel</h3><pre>{_text(header)}</pre>"


def _tensors(arrays: Mapping[str, Array], *, whole: bool) -> Iterator[str]:
    heads = ("tensor", "type and shape", "from byte", "bytes", "least", "largest", "mean", "norm", "values")
    yield f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    offset, dumps = 0, []
    for name, array in arrays.items():
        data = np.asarray(array, order="C").tobytes()
        shape = "×".join(map(str, array.shape)) or "1"
        cells = (f"{offset:,}", f"{len(data):,}", *_numbers(array))
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        yield f"<tr><td>{_text(name)}</td><td>{array.dtype.name} {shape}</td>{numbers}<td>{_histogram(array)}</td></tr>"
        dumps.append(_dump(name, data, offset, whole=whole))
        offset += len(data)
    yield "</table><h3>Bytes</h3>"
    if not whole:
        yield "<p>Of each tensor the first and last bytes; the file beside this page holds them all, and the sum proves it.</p>"
    yield from dumps


def _numbers(array: Array) -> tuple[str, str, str, str]:
    values = np.asarray(array, np.float64)
    if not values.size:
        return "–", "–", "–", "–"
    found = (values.min(), values.max(), values.mean(), np.sqrt(np.square(values).sum()))
    least, largest, mean, norm = (f"{number:.6g}" for number in found)
    return least, largest, mean, norm


def _histogram(array: Array) -> str:
    """How the values lie between the least and the largest, as bars."""
    values = np.asarray(array, np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size < 2 or values.min() == values.max():
        return ""
    counts, _ = np.histogram(values, BINS)
    heights = np.ceil(20 * counts / counts.max()).astype(int)
    bars = "".join(
        f'<rect x="{4 * place}" y="{20 - height}" width="3" height="{height}"/>' for place, height in enumerate(heights)
    )
    return f'<svg width="{4 * BINS}" height="20" fill="#57606a" role="img" aria-label="distribution">{bars}</svg>'


def _dump(name: str, data: bytes, offset: int, *, whole: bool) -> str:
    if whole or len(data) <= 2 * ENDS:
        lines = _hex(data, offset)
    else:
        tail = len(data) - ENDS
        lines = [*_hex(data[:ENDS], offset), "…", *_hex(data[tail:], offset + tail)]
    total = hashlib.sha256(data).hexdigest()
    text = "\n".join(lines)
    return f"<details><summary>{_text(name)}: {len(data):,} bytes, SHA-256 {total}</summary><pre>{text}</pre></details>"


def _hex(data: bytes, offset: int) -> list[str]:
    return [f"{offset + start:08x}  {data[start : start + ROW].hex(' ', 4)}" for start in range(0, len(data), ROW)]


def _text(text: str) -> str:
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))
