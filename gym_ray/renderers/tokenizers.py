"""Tokenizers: the byte-level one of the scripted policy, and a checkpoint's own.

Both satisfy the `renderers` library's `Tokenizer` protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gym_ray.errors import ConfigError, one_line
from gym_ray.renderers.model_files import require_model

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


class ByteTokenizer:
    """One token a byte, and the three ChatML control tokens. Needs no files.

    IDs 0-255 are the bytes of UTF-8 text; 256, 257 and 258 are `<|endoftext|>`,
    `<|im_start|>` and `<|im_end|>`.
    """

    name_or_path = "gym-ray/bytes"
    unk_token_id: int | None = None
    eos_token_id: int | None = 258
    vocab_size = 259
    longest_token = len(END_OF_TEXT)

    _special_ids = {END_OF_TEXT: 256, TURN_START: 257, TURN_END: 258}  # noqa: RUF012
    control_names = tuple(_special_ids)
    _special_texts = {number: text for text, number in _special_ids.items()}  # noqa: RUF012
    _split = re.compile("(" + "|".join(map(re.escape, _special_ids)) + ")")

    def encode(
        self,
        text: str,
        add_special_tokens: bool = False,
        split_special_tokens: bool = False,
        **_: Any,
    ) -> list[int]:
        """Token IDs of `text`.

        Args:
            text: any string; lone surrogates, which no byte sequence stands for, become "?".
            add_special_tokens: accepted for compatibility; this tokenizer adds none.
            split_special_tokens: encode the names of control tokens as ordinary text.
        """
        if split_special_tokens:
            return list(text.encode("utf-8", "replace"))
        token_ids: list[int] = []
        for piece in self._split.split(text):
            special = self._special_ids.get(piece)
            if special is None:
                token_ids.extend(piece.encode("utf-8", "replace"))
            else:
                token_ids.append(special)
        return token_ids

    def decode(
        self, token_ids: int | Iterable[int], skip_special_tokens: bool = False, **_: Any
    ) -> str:
        """Text of `token_ids`; bytes that are not UTF-8, and unknown IDs, become U+FFFD."""
        if isinstance(token_ids, int):
            token_ids = [token_ids]
        text: list[str] = []
        pending = bytearray()
        for token_id in token_ids:
            if 0 <= token_id < 256:
                pending.append(token_id)
                continue
            text.append(pending.decode("utf-8", "replace"))
            pending.clear()
            if not skip_special_tokens:
                text.append(self._special_texts.get(int(token_id), "\N{REPLACEMENT CHARACTER}"))
        text.append(pending.decode("utf-8", "replace"))
        return "".join(text)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token: itself, or a control token's name."""
        if 0 <= token_id < 256:
            return bytes([token_id])
        return self.decode(token_id).encode()

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """ID of a control token's name, None for any other; a list maps element by element."""
        if isinstance(tokens, str):
            return self._special_ids.get(tokens)
        return [self._special_ids.get(token) for token in tokens]


def load_tokenizer(model_path: str) -> Any:
    """The tokenizer of a checkpoint directory or a Hugging Face model name.

    Raises:
        ConfigError: there is none at `model_path`, or `transformers` cannot read it.
    """
    require_model(model_path)
    try:
        if _says_all(_files_of(model_path)):
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(model_path)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model_path)
    except Exception as error:
        raise ConfigError(
            f"no tokenizer could be loaded for policy.model {model_path!r} "
            f"({one_line(error, 200)}); give a checkpoint directory that holds tokenizer.json, "
            "or a model name the Hugging Face cache or hub has"
        ) from error


def vocabulary_size(tokenizer: Any) -> int:
    """How many token IDs a model of this tokenizer has, those included that pad its matrices.

    Args:
        tokenizer: of any kind; 2^31 for one that does not say.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.vocab_size
    vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
    if not vocabulary:
        return 2**31
    known = max(vocabulary.values()) + 1
    return max(known, _declared_size(tokenizer) or -(-known // _PADDING) * _PADDING)


#: Where a model does not say how many IDs it has: they are padded to multiples up to this.
_PADDING = 1024


def _declared_size(tokenizer: Any) -> int | None:
    """What the checkpoint's own config says, without asking the network."""
    from transformers.utils import cached_file

    try:
        file = cached_file(tokenizer.name_or_path, "config.json", local_files_only=True)
        config = json.loads(Path(str(file)).read_text("utf-8"))
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    except Exception:  # there is none, or it is of no model: each version raises its own
        return None
    return size if isinstance(size, int) else None


def _files_of(model_path: str) -> Path:
    """The directory a model's tokenizer is in, those of the hub in its cache."""
    if Path(model_path).is_dir():
        return Path(model_path)
    from transformers.utils import cached_file

    try:
        cached_file(model_path, "tokenizer_config.json")
        return Path(cached_file(model_path, "tokenizer.json")).parent
    except OSError:  # it has no such file
        return Path(model_path)


def _says_all(directory: Path) -> bool:
    """Whether tokenizer.json alone says how to tokenize.

    `AutoTokenizer` builds some of these anew by the class they name, and then loses what the
    class does not know: DeepSeek-V3, whose config names `LlamaTokenizerFast`, loses every space
    in transformers 5. It also imports torch, 270 MB and seconds in every process that renders.
    """
    if not (directory / "tokenizer.json").is_file():
        return False
    try:
        settings = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    # A class that came with the checkpoint is code, which `AutoTokenizer` refuses by itself.
    return isinstance(settings, dict) and "auto_map" not in settings
