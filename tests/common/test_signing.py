"""Keys: who said it, over exactly what; and a private file that is nobody else's."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.errors import NetworkError
from fedrounds_common.leaving import Ask, signed_bytes, to_wire
from fedrounds_common.signing import PublicKey, SigningKey, read_signed, sign_json
from fedrounds_common.wire import parts_of, record_of, signature_of

KEY, OTHER = SigningKey.create(), SigningKey.create()


def test_a_key_is_the_same_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "signing.key"
    KEY.save(file)
    assert SigningKey.load(file).public == KEY.public
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o077 == 0
    with pytest.raises(FileExistsError):
        OTHER.save(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_a_private_key_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "signing.key"
    KEY.save(file)
    file.chmod(mode)
    with pytest.raises(NetworkError, match=f"FR-C92 .*mode {mode:04o}"):
        SigningKey.load(file)


def test_what_is_no_key_of_ours_is_named(tmp_path: Path) -> None:
    file = tmp_path / "signing.key"
    with pytest.raises(NetworkError, match="FR-C91"):
        SigningKey.load(file)
    other = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"-----BEGIN", other):
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(NetworkError, match="FR-C91"):
            SigningKey.load(file)
    for text in ("", "ed25519:", "ed25519:####", "rsa:AAAA", KEY.public.text[:-5]):
        with pytest.raises(NetworkError, match="FR-C91"):
            PublicKey.of_text(text)


def test_a_public_key_travels_as_text_and_is_read_aloud_as_a_fingerprint() -> None:
    assert PublicKey.of_text(KEY.public.text) == KEY.public
    groups = KEY.public.fingerprint.split("-")
    assert len(groups) == 10
    assert {len(group) for group in groups} == {4}
    assert KEY.public.fingerprint != OTHER.public.fingerprint
    assert KEY.public.fingerprint in repr(KEY)


@given(st.binary(max_size=64), st.integers(0, 511))
def test_one_changed_bit_and_the_signature_does_not_hold(data: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(data))
    assert KEY.public.holds(data, bytes(signature))
    assert not OTHER.public.holds(data, bytes(signature))
    assert not KEY.public.holds(data + b"\0", bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not KEY.public.holds(data, bytes(signature))


def test_a_signed_table_is_read_only_as_it_was_signed() -> None:
    table = {"site": "oslo", "cases": 12, "names": ["ä", "b"]}
    signed = sign_json(KEY, table)
    assert read_signed(signed, KEY.public) == table
    assert read_signed(dict(reversed(signed.items())), KEY.public) == table
    faults = (
        {**signed, "cases": 13}, {**signed, "more": 1}, table, {**signed, "signature": 7}, {**signed, "signature": "ä"},
        {**signed, "cases": float("nan")},
    )  # fmt: skip
    for fault in faults:
        with pytest.raises(NetworkError, match="FR-C90"):
            read_signed(fault, KEY.public)
    with pytest.raises(NetworkError, match="FR-C90"):
        read_signed(signed, OTHER.public)


def test_a_message_carries_its_signature_beside_it() -> None:
    header, buffer = to_wire(Ask("hello", "run", 0, "n", "study", "digest"))
    signature = KEY.sign(signed_bytes(header, buffer))
    record = record_of(header, buffer, signature)
    assert parts_of(record) == (header, buffer)
    assert KEY.public.holds(signed_bytes(*parts_of(record)), signature_of(record))
    assert signature_of(record_of(header, buffer)) == b""


def test_a_byte_cannot_move_between_header_and_buffer_under_one_signature() -> None:
    assert signed_bytes("ab", b"c") != signed_bytes("a", b"bc")
