"""Documents cut into chunks: sizes, offsets, overlap, and where the cuts fall."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.knowledge.chunking import chunk_spans

_PIECES = st.sampled_from(
    [
        "word",
        " ",
        "a longer sentence. ",
        "\n\n",
        "\n",
        "هذه جملة عربية. ",
        "这是一个句子。",
        "e\u0301",
        "x" * 70,
        "?!  ",
        "\t",
    ]
)


@given(st.lists(_PIECES, max_size=80).map("".join), st.integers(2, 120), st.data())
def test_chunks_cover_all_text_in_order_and_keep_to_their_size(
    text: str, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    spans = list(chunk_spans(text, size, overlap))
    seen = 0
    for start, end in spans:
        assert 0 < end - start <= size
        chunk = text[start:end]
        assert chunk == chunk.strip()
        assert not text[seen:start].strip()  # nothing but white space is left out
        assert seen - start <= overlap
        assert end > seen  # each brings something new
        seen = end
    assert not text[seen:].strip()
    assert [start for start, _ in spans] == sorted({start for start, _ in spans})


def test_cuts_fall_between_paragraphs_then_sentences_then_words() -> None:
    paragraphs = "\n\n".join(f"Paragraph {n} says something. It says more." for n in range(8))
    assert all(
        paragraphs[end - 1] == "." and paragraphs[end : end + 2] in ("\n\n", "")
        for _, end in chunk_spans(paragraphs, 100, 0)
    )
    sentences = "One short sentence here. " * 20
    assert all(sentences[end - 1] == "." for _, end in chunk_spans(sentences, 100, 0))
    words = "word " * 100
    assert all(re.fullmatch(r"(word )*word", words[start:end]) for start, end in chunk_spans(words, 33, 10))


def test_the_overlap_begins_with_a_sentence() -> None:
    text = "".join(f"Sentence number {n} stands here. " for n in range(20))
    spans = list(chunk_spans(text, 150, 50))
    for (_, before), (start, _) in pairwise(spans):
        assert text[start:].startswith("Sentence")
        assert 0 < before - start <= 50


def test_a_mark_stays_with_its_letter() -> None:
    text = "e\u0301" * 100
    assert all(text[start] == "e" for start, _ in chunk_spans(text, 7, 0))


def test_a_chunk_reaches_beyond_the_white_space_after_the_one_before() -> None:
    text = "这是一个句子。a longer sentence. "  # the overlap would leave room for "a" and a space only
    ends = [end for _, end in chunk_spans(text, 2, 1)]
    assert ends == sorted(set(ends))
