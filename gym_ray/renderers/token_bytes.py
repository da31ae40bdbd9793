"""The bytes of single tokens, of which one character may take several.

Decoding a part of a character gives U+FFFD, whose bytes are others. Covered: byte-level
vocabularies, those that have a token for each byte beside their text (`<0xE6>`), and the
scripted policy's bytes. Any other tokenizer's tokens are whole characters.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """The bytes of a tokenizer's tokens.

    Args:
        tokenizer: satisfies the `renderers` library's `Tokenizer` protocol.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = getattr(tokenizer, "added_tokens_decoder", {})
        # How a vocabulary spells its tokens shows in how it decodes them.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._decoder = str(getattr(backend, "decoder", ""))

    def of(self, token_id: int) -> bytes:
        """Bytes of one token; of one that is not in the vocabulary, those of its text."""
        spelled = getattr(self._tokenizer, "token_bytes", None)
        if spelled is not None:
            return bytes(spelled(token_id))
        if token_id not in self._added:
            name = self._tokenizer.convert_ids_to_tokens(token_id) if self._decoder else None
            if isinstance(name, str):
                if "ByteLevel" in self._decoder and set(name) <= _byte_letters().keys():
                    return bytes(_byte_letters()[letter] for letter in name)
                if "ByteFallback" in self._decoder:
                    byte = _BYTE.fullmatch(name)
                    return bytes.fromhex(byte[1]) if byte else name.replace("▁", " ").encode()
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return str(text).encode("utf-8", "replace")


def text_offsets(pieces: Sequence[bytes]) -> list[int]:
    """Where in their common text each of the pieces starts, in characters; one that begins
    within a character starts where that does."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, position = [], 0
    for piece in pieces:
        offsets.append(position)
        position += len(decoder.decode(piece))
    return offsets


@functools.cache
def _byte_letters() -> dict[str, int]:
    """The byte each letter of a byte-level vocabulary stands for, as GPT-2 assigned them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + number): byte for number, byte in enumerate(others)}
