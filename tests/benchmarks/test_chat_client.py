"""How the clients of the chat under load tell frames apart."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from benchmarks import chat_client

SAID = b'{"Type":"message","RoomId":"general","Username":"user1","Content":"#%07d Has anybody","Timestamp":"%b"}'


def frame(text: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """A frame as a server sends it."""
    return Frame(opcode, text).serialize(mask=False)


@pytest.mark.parametrize("size", [5, 125, 126, 60_000])
def test_frames_of_all_lengths_are_told_apart(size: int) -> None:
    """Heads of both lengths that texts have; control frames among them come as they are."""
    sent = [frame(b"a" * size), frame(b"1234", Opcode.PING), frame(b"b" * size)]

    assert chat_client.split(b"".join(sent)) == (sent, b"")


def test_what_has_not_come_yet_is_left() -> None:
    """Wherever the network cuts, the pieces make the same frames."""
    sent = frame(b"a" * 200) + frame(b"b" * 3)
    for cut in range(len(sent)):
        first, rest = chat_client.split(sent[:cut])
        second, nothing = chat_client.split(rest + sent[cut:])

        assert (first + second, nothing) == ([sent[:204], sent[204:]], b"")


def test_number_of_a_message() -> None:
    """Who hears a message knows which it was, whatever digits stand before and behind."""
    assert chat_client.number_in(frame(SAID % (42, b"2026-11-24T01:41:15Z"))) == 42
