"""Documents of foreign files, read in a child process: one that is a bomb costs itself, and is named."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

import orjson
import psutil

from dlgforge_core.common.child_environment import child_environment
from dlgforge_core.common.child_limits import OUT_OF_MEMORY, fault_of, limited_command
from dlgforge_core.config import KnowledgeConfig
from dlgforge_core.knowledge.document_types import type_of
from dlgforge_core.knowledge.documents import Problem, ReadDocument
from dlgforge_core.knowledge.reader_process import LENGTH, frame

MAX_LINE_BYTES = 16 * 1024 * 1024
_PART_BYTES = 1 << 20
_LINES_AT_ONCE = 1_000
# Seconds of the clock, for each of a processor's that it may take, in which the reader must do something.
_PATIENCE = 6
# Most answers come sooner: what the reader has had of a processor, which takes long to ask, counts from then.
_MOMENT_S = 1.0
_START_S = 60.0
# A file whose lines do this to the reader so often is not read on.
_MAX_CRASHES = 10

_Line = tuple[int, bytes | None]


class _TooLongError(Exception):
    """The file has more bytes than a document may have."""


class ReaderError(Exception):
    """The child process ended or was silent; the message says why, as far as that is known.

    `lasting` is whether the same file would have the same fate.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


class DocumentReader:
    """Reads documents in a child process, which is started when it is needed and used for many of them."""

    def __init__(self, config: KnowledgeConfig) -> None:
        self._config = config
        self._limits = config.limits
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def read(self, name: str, stream: BinaryIO) -> Iterator[ReadDocument | Problem]:
        """Yield the documents of a file, one after the other, and what is wrong with it.

        Raises what reading `stream` raises, and ReaderError when it is not the file's fault.
        """
        kind = type_of(name)
        if kind is not None and kind.read is None:
            yield from self._lines(name, stream)
            return
        limit = self._limits.file_mib * 2**20
        try:
            self._send(name, None, _parts(stream, limit))
            yield from _items(self._answer(self._limits.seconds))
        except _TooLongError:
            self._end()
            yield Problem(
                f"{name}: more than {limit:,} bytes; a document may have that many at most "
                "(knowledge.limits.file_mib)"
            )
        except ReaderError as error:
            if not error.lasting:
                raise
            yield Problem(f"{name}: {error}")
        except BaseException:
            self._end()  # it would wait for the rest
            raise

    def _lines(self, name: str, stream: BinaryIO) -> Iterator[ReadDocument | Problem]:
        crashes = 0
        for first, lines in _batches(_numbered_lines(stream)):
            done = 0
            while done < len(lines):
                try:
                    self._send(name, first + done, [b"".join(line + b"\n" for line in lines[done:])])
                    while done < len(lines):
                        items = list(_items(self._answer(self._limits.seconds)))
                        done += 1
                        yield from items
                except ReaderError as error:
                    if not error.lasting:
                        raise
                    yield Problem(f"{name}, line {first + done}: {error}")
                    done += 1
                    crashes += 1
                    if crashes == _MAX_CRASHES:
                        yield Problem(f"{name}: {crashes} lines were like this; the rest of it is not read")
                        return
            if not lines:
                yield Problem(f"{name}, line {first}: longer than {MAX_LINE_BYTES:,} bytes")

    # The child

    def _send(self, name: str, first_line: int | None, parts: Iterable[bytes]) -> None:
        child = self._started()
        job = {
            "name": name,
            "first_line": first_line,
            "text_key": self._config.text_key,
            "encoding": self._config.encoding,
            "text_chars": self._limits.text_chars,
        }
        self._write(child, frame(orjson.dumps(job)))
        for part in parts:
            if part:
                self._write(child, frame(part))
        self._write(child, frame(b""))

    def _write(self, child: subprocess.Popen[bytes], data: bytes) -> None:
        assert child.stdin is not None
        view = memoryview(data)
        while view:
            if not select.select([], [child.stdin], [], _START_S)[1]:
                raise self._failure(silent_s=_START_S)
            try:
                view = view[os.write(child.stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._failure() from None

    def _answer(self, seconds: float) -> bytes:
        """Return the next answer of the child. Raises ReaderError."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        answers = child.stdout
        patience = _MOMENT_S + seconds * _PATIENCE

        def take(n: int) -> bytes:
            taken, used_s, wait_s = bytearray(), -1.0, _MOMENT_S
            while len(taken) < n:
                if not select.select([answers], [], [], wait_s)[0]:
                    # On a busy machine it may just have had little of a processor, which it is limited to.
                    now_s = _processor_s(child.pid)
                    if now_s <= used_s:
                        raise self._failure(silent_s=patience)
                    used_s, wait_s = now_s, seconds * _PATIENCE
                    continue
                part = os.read(answers.fileno(), min(n - len(taken), _PART_BYTES))
                if not part:
                    raise self._failure()
                taken += part
            return bytes(taken)

        return take(LENGTH.unpack(take(LENGTH.size))[0])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            limits = self._limits
            self._child = subprocess.Popen(
                limited_command(
                    "dlgforge_core.knowledge.reader_process", limits.seconds, limits.memory_mib * 2**20
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=child_environment(),
            )
            assert self._child.stdin is not None
            os.set_blocking(self._child.stdin.fileno(), False)
        return self._child

    def _failure(self, silent_s: float | None = None) -> ReaderError:
        """Why the child gave no answer; it is gone then."""
        child, limits = self._child, self._limits
        assert child is not None
        if silent_s is not None:
            self._end()
            return ReaderError(f"it was not read within {silent_s:.0f} s", lasting=False)
        code = child.wait()
        self._end()
        if code == -signal.SIGPROF:
            return ReaderError(
                f"it takes more than {limits.seconds:g} s of a processor to read (knowledge.limits.seconds)",
                lasting=True,
            )
        if code == OUT_OF_MEMORY:
            return ReaderError(
                f"it takes more than {limits.memory_mib:,} MiB of memory to read "
                "(knowledge.limits.memory_mib)",
                lasting=True,
            )
        if fault := fault_of(code):
            return ReaderError(f"reading it ends in {fault}", lasting=True)
        return ReaderError(f"the process that reads documents ended with {code}", lasting=False)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    assert stream is not None
                    stream.close()


def _processor_s(pid: int) -> float:
    """Return the seconds of a processor that a process has taken so far; 0 when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _items(answer: bytes) -> Iterator[ReadDocument | Problem]:
    for item in orjson.loads(answer):
        yield ReadDocument(*item) if len(item) == 3 else Problem(*item)


def _parts(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield what `stream` holds, in parts, counted as it comes: what servers say of sizes may be wrong."""
    n_bytes = 0
    while part := stream.read(_PART_BYTES):
        n_bytes += len(part)
        if n_bytes > limit:
            raise _TooLongError
        yield part


def _numbered_lines(stream: BinaryIO) -> Iterator[_Line]:
    """Lines without their end, numbered from 1; None for one that is too long."""
    number, rest, too_long = 0, bytearray(), False
    while part := stream.read(_PART_BYTES):
        *whole, last = part.split(b"\n")
        for line in whole:
            number += 1
            rest += line
            yield number, None if too_long or len(rest) > MAX_LINE_BYTES else bytes(rest)
            rest, too_long = bytearray(), False
        rest += last
        if len(rest) > MAX_LINE_BYTES:
            rest, too_long = bytearray(), True
    if rest or too_long:
        yield number + 1, None if too_long else bytes(rest)


def _batches(lines: Iterable[_Line]) -> Iterator[tuple[int, list[bytes]]]:
    """Lines that follow one another, and the first one's number; none for one that is too long."""
    batch, n_bytes, first = list[bytes](), 0, 1
    for number, line in lines:
        if line is None or len(batch) == _LINES_AT_ONCE or n_bytes + len(line) > _PART_BYTES:
            if batch:
                yield first, batch
            batch, n_bytes = [], 0
        if line is None:
            yield number, []
            continue
        if not batch:
            first = number
        batch.append(line)
        n_bytes += len(line)
    if batch:
        yield first, batch
