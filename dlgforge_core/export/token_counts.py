"""Words and tokens of messages: tokens with a named tokenizer, or estimated, and then said to be."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlgforge_core.common.plain_files import read_plain
from dlgforge_core.common.words import count_words
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.scrub import last_part

BYTES_PER_TOKEN = 4
ESTIMATE = f"a token for every {BYTES_PER_TOKEN} bytes of a message in UTF-8, rounded up"
_FILE = "tokenizer.json"
_KEY = "saving.tokenizer"
_MOST_BYTES = 256 * 2**20
"""Of a tokenizer's file: some eight times as many as those of today's largest vocabularies."""
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """What counts tokens: a tokenizer by its name, or without one the estimate."""

    count: Callable[[str], int]
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the statistics have it."""
        return {"name": self.name or None, "estimated": not self.name, "rule": "" if self.name else ESTIMATE}


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has.

    Byte-level vocabularies of today's models take 4 to 5 bytes a token, in English as in Chinese or Arabic,
    whose letters have two or three bytes each.
    """
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def token_counter(tokenizer: str) -> TokenCounter:
    """Return what counts tokens: `tokenizer` is a file, a folder, a model of the hub, or empty.

    Raises ConfigError when there is no such tokenizer or it cannot be read.
    """
    if not tokenizer:
        return TokenCounter(estimated_tokens)
    path = Path(tokenizer).expanduser()
    path = path / _FILE if path.is_dir() else path
    found = _REPO.fullmatch(tokenizer)
    if path.is_file():
        name = last_part(path.as_posix())
    elif found and not tokenizer.endswith(".json"):
        path, name = _from_hub(found["repo"], found["revision"]), tokenizer
    else:
        raise ConfigError(
            f"{_KEY} = {tokenizer!r}: there is no such file; name a {_FILE}, a folder that holds one, or a "
            "model of the hub, for example Qwen/Qwen2.5-7B-Instruct"
        )
    return _read(path, name, tokenizer)


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download  # here and not above: half a second of import

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        return Path(hf_hub_download(repo, _FILE, revision=revision, endpoint=endpoint))
    except Exception as error:  # of the hub's own kinds, and of the HTTP client below it
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(
            f"{_KEY} = {repo!r}: the hub gives no {_FILE}: {reason}; give the path of the file, or leave the "
            "key empty, and tokens are estimated"
        ) from None


def _read(path: Path, name: str, tokenizer: str) -> TokenCounter:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            f"{_KEY} = {tokenizer!r} needs the package `tokenizers`: pip install 'dlgforge[tokens]', or "
            "leave the key empty, and tokens are estimated"
        ) from None
    try:
        data = read_plain(path, _MOST_BYTES)
        made = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain exceptions
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"{_KEY} = {tokenizer!r}: {path} is no tokenizer that is understood: {reason}"
        ) from None

    def count(text: str) -> int:
        safe = text.encode("utf-8", "replace").decode()
        return len(made.encode(safe, add_special_tokens=False).ids)

    return TokenCounter(count, f"{name} (SHA-256 {hashlib.sha256(data).hexdigest()[:16]})")


_OPENING = "opening"


@dataclass
class MessageSizes:
    """Words and tokens of the questions and answers of dialogues; add them one by one."""

    counter: TokenCounter = field(default_factory=lambda: TokenCounter(estimated_tokens))
    words: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    """Questions; there are as many answers."""
    openings: int = 0
    """Messages of the assistant before the first question."""

    def add(self, dialogue: Dialogue) -> None:
        """Count one dialogue in."""
        if dialogue.opening:
            self.openings += 1
            self.words[_OPENING] += count_words(dialogue.opening)
            self.tokens[_OPENING] += self.counter.count(dialogue.opening)
        for turn in dialogue.turns:
            self.messages += 1
            for role, text in (("user", turn.user), ("assistant", turn.assistant)):
                self.words[role] += count_words(text)
                self.tokens[role] += self.counter.count(text)

    def merge(self, other: MessageSizes) -> None:
        """Count those of another part in."""
        self.words.update(other.words)
        self.tokens.update(other.tokens)
        self.messages += other.messages
        self.openings += other.openings

    def to_json(self) -> dict[str, Any]:
        """As plain data: sums and means, of questions and answers apart."""
        return {
            "tokenizer": self.counter.to_json(),
            **{
                role: {
                    "words": self.words[role],
                    "tokens": self.tokens[role],
                    "mean_words": self._mean(self.words[role]),
                    "mean_tokens": self._mean(self.tokens[role]),
                }
                for role in ("user", "assistant")
            },
            **self._opening(),
        }

    def _opening(self) -> dict[str, Any]:
        if not self.openings:
            return {}
        words, tokens = self.words[_OPENING], self.tokens[_OPENING]
        return {"openings": {"messages": self.openings, "words": words, "tokens": tokens}}

    def _mean(self, total: int) -> float:
        return round(total / self.messages, 1) if self.messages else 0.0

    @property
    def counted_by(self) -> str:
        """How the tokens were had, in words."""
        return f"counted with {self.counter.name}" if self.counter.name else f"estimated: {ESTIMATE}"
