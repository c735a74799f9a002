"""The child process that reads documents, within limits of time and memory that end it when they are passed.

Frames, a length and so many bytes, go both ways. A job is a frame of JSON, frames of data, and an empty one;
the answer is a frame of JSON for a file, and one for each line of a JSONL batch.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from typing import Any, BinaryIO

import orjson

from dlgforge_core.common.child_limits import OUT_OF_MEMORY, limit_memory, processor_limit
from dlgforge_core.knowledge.document_types import Reading
from dlgforge_core.knowledge.documents import Problem, ReadDocument, read_document, read_line

LENGTH = struct.Struct(">I")
_IN_MEMORY = 1 << 20


def frame(payload: bytes) -> bytes:
    """`payload` with its length before it."""
    return LENGTH.pack(len(payload)) + payload


def main() -> None:
    """Read jobs from standard input until it ends."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    # Whatever a library prints must not get among the frames.
    sys.stdout = sys.stderr
    limit_memory(memory)
    try:
        while head := _frame(jobs):
            _job(orjson.loads(head), jobs, answers, seconds)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    answers.flush()
    os._exit(0)  # libraries' threads that have not ended yet may abort the end of Python


def _frame(stream: BinaryIO) -> bytes:
    """Return the next frame; empty at the end of the stream."""
    length = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(length)[0]) if len(length) == LENGTH.size else b""


def _job(job: dict[str, Any], jobs: BinaryIO, answers: BinaryIO, seconds: float) -> None:
    how = Reading(job["text_key"], job["encoding"], job["text_chars"])
    # A large file goes to disk: PDFs are read from there a piece at a time.
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as data:
        while part := _frame(jobs):
            data.write(part)
        data.seek(0)
        if job["first_line"] is None:
            with processor_limit(seconds):
                answer = _answer(read_document, job["name"], data, how)
            _reply(answers, answer)
            return
        for number, line in enumerate(data, job["first_line"]):
            with processor_limit(seconds):
                answer = _answer(read_line, job["name"], number, line, how) if line.strip() else b"[]"
            _reply(answers, answer)


def _answer(read: Any, name: str, *arguments: Any) -> bytes:
    try:
        items = read(name, *arguments)
    except MemoryError:
        raise
    except Exception as error:  # libraries meet the unforeseen in foreign files
        items = Problem(f"{name}: it cannot be read: {type(error).__name__}: {error}")
    found = []
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, ReadDocument):
            found.append([item.name, item.title, item.text])
        else:
            found.append([item.message[:2_000].encode("utf-8", "replace").decode()])
    return orjson.dumps(found)


def _reply(answers: BinaryIO, answer: bytes) -> None:
    answers.write(frame(answer))
    answers.flush()


if __name__ == "__main__":
    main()
