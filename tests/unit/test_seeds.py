"""Seed files: what is read, and what is said about files that are wrong."""

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seed_folder import list_seed_files, read_seed_batches
from dlgforge_core.planning.seeds import (
    SeedBatch,
    batch_name,
    parse_seed_batch,
    read_seed_file,
    read_seeds,
    topic_id,
)
from dlgforge_core.sources import SeedTopic

GOOD = '{"language": "en", "topic": "cooking", "question": "Why is my rice sticky?"}'


def yaml_batch(text: str, strict: bool = False) -> SeedBatch:
    return parse_seed_batch("seeds.yaml", text.encode(), strict=strict)


def topics_in(batch: SeedBatch, language: str) -> list[SeedTopic]:
    return [topic for topic in batch.topics if topic.language == language]


def jsonl_batch(*lines: str, strict: bool = False) -> SeedBatch:
    return parse_seed_batch("seeds.jsonl", "\n".join(lines).encode(), strict=strict)


# --- what is read


def test_yaml_gives_one_seed_topic_for_each_question() -> None:
    batch = yaml_batch("en:\n  cooking:\n    - Why?\n    - How?\n  farming:\nno:\n  reise: [Hvor?]\n")
    assert [(t.language, t.topic, t.question) for t in batch.topics] == [
        ("en", "cooking", "Why?"),
        ("en", "cooking", "How?"),
        ("en", "farming", None),
        ("no", "reise", "Hvor?"),
    ]
    assert batch.languages == ("en", "no")
    assert [t.topic for t in topics_in(batch, "no")] == ["reise"]
    assert {t.batch for t in batch.topics} == {"seeds"}
    assert batch.problems == ()


def test_jsonl_keeps_id_and_metadata() -> None:
    batch = jsonl_batch(
        '{"id": "a1", "language": "fr", "topic": "jardin", "metadata": {"source": "forum", "n": [1, 2]}}',
        "",
        GOOD,
    )
    first, second = batch.topics
    assert (first.id, first.question, first.metadata) == ("a1", None, {"source": "forum", "n": [1, 2]})
    assert second.id == topic_id("en", "cooking", "Why is my rice sticky?")


def test_the_same_topic_has_the_same_id_in_both_formats() -> None:
    from_yaml = yaml_batch("en:\n  cooking:\n  - Why is my rice sticky?\n").topics[0]
    assert from_yaml.id == jsonl_batch(GOOD).topics[0].id == "397579a6f6d25d46"


def test_digest_ignores_line_ends_and_byte_order_mark() -> None:
    unix = parse_seed_batch("a.yaml", b"en:\n  cooking:\n")
    assert parse_seed_batch("a.yaml", b"\xef\xbb\xbfen:\r\n  cooking:\r\n") == unix
    assert parse_seed_batch("a.yaml", b"en:\n  baking:\n").digest != unix.digest


def test_accents_have_one_form() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert yaml_batch(f"fr:\n  {decomposed}:\n").topics == yaml_batch(f"fr:\n  {composed}:\n").topics


def test_shipped_topics() -> None:
    (batch,) = read_seeds("", strict=True)
    assert batch.name == "starter"
    assert set(batch.languages) == {"en", "fr", "ar", "es"}
    for language in batch.languages:
        by_topic: dict[str, list[str]] = {}
        for topic in topics_in(batch, language):
            by_topic.setdefault(topic.topic, []).append(topic.question or "")
        assert len(by_topic) >= 12
        assert all(2 <= len(questions) <= 3 for questions in by_topic.values())
        assert all(re.search(r"[?؟]", "".join(questions)) for questions in by_topic.values())
    for topic in topics_in(batch, "ar"):
        assert re.fullmatch(r"[\u0600-\u06ff\s.,:]+", f"{topic.topic} {topic.question}")
    for topic in topics_in(batch, "es"):
        assert (topic.question or "").count("?") == (topic.question or "").count("¿") > 0


# --- what is wrong with an entry: it is left out and said; strict refuses the file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "is no object"),
        ('{"language": "en"}', "topic is missing"),
        ('{"topic": "x"}', "language is missing"),
        ('{"language": "en", "topic": "  "}', "topic = '  ' is empty"),
        ('{"language": "en", "topic": 5}', "topic = 5 is not text"),
        ('{"language": "e|n", "topic": "x"}', "language = 'e|n' is not a language"),
        ('{"language": "en", "topic": "x", "question": ["a"]}', "question = ['a'] is not text"),
        ('{"language": "en", "topic": "x", "question": ""}', "question = '' is empty"),
        ('{"language": "en", "topic": "x", "qestion": "a"}', "did you mean 'question'?"),
        ('{"language": "en", "topic": "x", "zzz": "a"}', "known keys: id, language"),
        ('{"language": "en", "topic": "x", "id": 7}', "id = 7 is not text"),
        ('{"language": "en", "topic": "x", "metadata": "m"}', "metadata = 'm' is no object"),
        ('{"language": "en", "topic": "x\\u0000"}', "control character U+0000"),
        ('{"language": "en", "topic": "x", "metadata": {"a": [{"b\\u0000": 1}]}}', "metadata holds"),
        ('{"language": "en", "topic": "\\ud800"}', "not valid JSON"),
        ('{"language": "en", "topic": "x", "metadata": {"a": NaN}}', "not valid JSON"),
        ('{"language": "en", "topic": "' + "x" * 501 + '"}', "topic has 501 characters"),
        ('{"language": "en", "topic": "x", "question": "' + "y" * 1_100_000 + '"}', "a line may have"),
        (GOOD, "id = "),
    ],
)
def test_a_bad_line_is_named_and_the_good_ones_kept(line: str, message: str) -> None:
    lines = [GOOD, line, '{"language": "ar", "topic": "الطبخ"}']
    batch = jsonl_batch(*lines)
    assert [t.language for t in batch.topics] == ["en", "ar"]
    (problem,) = batch.problems
    assert problem.startswith("seeds.jsonl:2: ")
    assert message in problem
    assert len(problem) < 300
    with pytest.raises(SeedError, match=re.escape(message)):
        jsonl_batch(*lines, strict=True)


def test_a_line_in_another_encoding_costs_only_itself() -> None:
    data = (
        GOOD.encode()
        + b'\n{"language": "fr", "topic": "caf\xe9"}\n'
        + '{"language": "fr", "topic": "thé"}'.encode()
    )
    batch = parse_seed_batch("seeds.jsonl", data)
    assert [t.topic for t in batch.topics] == ["cooking", "thé"]
    assert batch.problems == ("seeds.jsonl:2: byte 0xe9 is not UTF-8; write the line in UTF-8",)


def test_repeated_id_names_the_first_line() -> None:
    line = '{"id": "a", "language": "en", "topic": "%s"}'
    (problem,) = jsonl_batch(line % "x", "", line % "y").problems
    assert problem.startswith("seeds.jsonl:3: id = 'a': line 1 ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  farming: some text\n", "seeds.yaml:4: en: 'farming' is the text 'some text'"),
        ("  farming:\n  - What is this: a test\n", "seeds.yaml:5: en: 'farming': a question is a mapping"),
        ("  farming:\n  - ok\n  -\n", "seeds.yaml:6: en: 'farming': question is missing"),
        ("  ~: [a]\n", "seeds.yaml:4: en: topic is missing"),
        ("  '': [a]\n", "seeds.yaml:4: en: topic = '' is empty"),
        ("  cooking: [a]\n", "seeds.yaml:4: en: topic 'cooking' stands on line 2 already"),
        ("  farming: [a, a]\n", "seeds.yaml:4: en: 'farming': id = "),
        ("fr:\n", "seeds.yaml:4: fr is empty"),
        ("fr: [a]\n", "seeds.yaml:4: fr is a list"),
        ("en:\n  x:\n", "seeds.yaml:4: language 'en' stands on line 1 already"),
        ("'e|n':\n  x:\n", "seeds.yaml:4: language = 'e|n' is not a language"),
    ],
)
def test_a_bad_yaml_entry_is_named_and_the_good_ones_kept(text: str, message: str) -> None:
    text = f"en:\n  cooking:\n  - Why?\n{text}"
    batch = yaml_batch(text)
    assert (batch.topics[0].topic, batch.topics[0].question) == ("cooking", "Why?")
    (problem,) = batch.problems
    assert problem.startswith(message)
    with pytest.raises(SeedError, match=re.escape(message)):
        yaml_batch(text, strict=True)


# --- what is wrong with a whole file


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \r\n", "the file is empty"),
        (b"# only this\n", "nothing but comments"),
        (b"- a\n", "seeds.yaml:1: the file is a list; it must be a mapping"),
        (b"en:\n  a: [x\nfr: y\n", "seeds.yaml:3: not valid YAML"),
        (b"en:\n\ta:\n", "seeds.yaml:2: not valid YAML"),
        (b"en:\n  caf\xe9:\n", "seeds.yaml:2: byte 0xe9 is not UTF-8"),
        ("en:\n  a:\n".encode("utf-16"), "the file is UTF-16"),
        (b"en:\n  a\x00b:\n", "seeds.yaml:2: the line holds the control character U+0000"),
        (b"en:\n  a: &x [q]\n  b: *x\n", "seeds.yaml:2: anchors (&) and aliases (*)"),
        (b"en:\n  a:\n---\nfr:\n  b:\n", "seeds.yaml:3: a second document"),
        (b"en:\n  ? [a]\n  : b\n", "seeds.yaml:2: a key is a list"),
        (b"[" * 300_000, "nested more than"),
        (b"- " * 100_000, "nested more than"),
        (b"en:\n  a: text\n", "holds no usable seed topic:\n  seeds.yaml:2: "),
    ],
)
def test_a_broken_yaml_file_names_its_line(data: bytes, message: str) -> None:
    with pytest.raises(SeedError, match=re.escape(message)):
        parse_seed_batch("seeds.yaml", data)


def test_a_file_of_bad_lines_lists_the_first_twenty() -> None:
    with pytest.raises(SeedError) as raised:
        jsonl_batch(*["{}"] * 1000)
    lines = str(raised.value).splitlines()
    assert "no usable seed topic" in lines[0]
    assert lines[20].strip().startswith("seeds.jsonl:20:")
    assert len(lines) == 22


def test_problems_are_bounded() -> None:
    batch = jsonl_batch(GOOD, *["{}"] * 1000)
    assert len(batch.problems) == 101
    assert batch.problems[-1] == "seeds.jsonl: 900 more problems"


# --- folders and names


def test_a_folder_gives_a_batch_for_each_file_in_order(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.YAML", ".hidden.yaml", "notes.txt"):
        (tmp_path / name).write_text("en:\n  cooking:\n")
    (tmp_path / "d.jsonl").write_text(GOOD)
    (tmp_path / "e.yaml").mkdir()
    assert [b.name for b in read_seed_batches(str(tmp_path)).batches] == ["a", "b", "c", "d"]


def test_broken_files_of_a_folder_are_left_out_and_named_or_with_strict_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("en:\n  cooking:\n")
    (tmp_path / "b.yaml").write_text("[")
    (tmp_path / "c.jsonl").write_text("{}")
    found = read_seed_batches(str(tmp_path))
    assert [batch.name for batch in found.batches] == ["a"]
    assert list(found.unusable) == ["b.yaml", "c.jsonl"]
    assert "b.yaml:1" in found.problems[0]
    assert "c.jsonl:1" in found.problems[1]
    with pytest.raises(SeedError) as raised:
        read_seed_batches(str(tmp_path), strict=True)
    assert "b.yaml:1" in str(raised.value)
    assert "c.jsonl:1" in str(raised.value)
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(SeedError, match=r"c\.jsonl:1"):
        read_seed_batches(str(tmp_path))


def test_links_are_files_as_a_kubernetes_volume_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "seeds::here"
    for version, topic in (("..v1", "cooking"), ("..v2", "walking")):
        (folder / version).mkdir(parents=True)
        (folder / version / "a.yaml").write_text(f"en:\n  {topic}:\n")
    (folder / "..data").symlink_to("..v1")
    (folder / "a.yaml").symlink_to("..data/a.yaml")
    (folder / "b.yaml").symlink_to("nowhere")
    (folder / "c.yaml").symlink_to("..v1")
    (before,) = list_seed_files(str(folder))
    assert [b.topics[0].topic for b in read_seed_batches(str(folder), only="a").batches] == ["cooking"]
    (folder / "..next").symlink_to("..v2")
    (folder / "..next").replace(folder / "..data")
    (after,) = list_seed_files(str(folder))
    assert after.state != before.state
    assert [b.topics[0].topic for b in read_seed_batches(str(folder)).batches] == ["walking"]


@pytest.mark.parametrize("names", [("a.yaml", "a.jsonl"), ("a b.yaml", "a-b.yaml")])
def test_two_files_cannot_be_one_batch(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(SeedError, match="would be the seed batch"):
        read_seed_batches(str(tmp_path))
    (tmp_path / "c.jsonl").write_text(GOOD)
    found = read_seed_batches(str(tmp_path))
    assert [batch.name for batch in found.batches] == ["c"]
    assert found.unusable.keys() == set(names)


def test_paths_that_hold_no_seeds(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="holds no seed file"):
        read_seed_batches(str(tmp_path))
    with pytest.raises(SeedError, match="no such file or folder"):
        read_seed_batches(str(tmp_path / "nowhere"))
    (tmp_path / "seeds.txt").write_text("en,cooking")
    with pytest.raises(SeedError, match=r"not a seed file; seed files end in \.yaml"):
        read_seed_file(tmp_path / "seeds.txt")


def test_batch_names() -> None:
    assert batch_name("My seeds (v2).yaml") == "My-seeds-v2"
    assert batch_name("بذور.jsonl") == "بذور"
    assert batch_name("a...b|c.yaml") == "a.b-c"


@given(st.text(min_size=1).filter(lambda s: "/" not in s and "\0" not in s))
@settings(deadline=None)
def test_batch_names_are_safe(stem: str) -> None:
    name = batch_name(f"{stem}.yaml")
    assert 0 < len(name) < 100
    assert re.fullmatch(r"[\w.-]+", name)
    assert ".." not in name


# --- whatever is in a file


yaml_like = st.lists(
    st.sampled_from(["en", ":", " ", "\n", "- ", "[", "]", "{", "}", "&a ", "*a", "'", "~", "é"])
)
decodable = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | yaml_like.map("".join)


@given(
    st.sampled_from(["a.yaml", "a.jsonl", "a.csv", "a.tsv", "a.json", "a.parquet"]),
    st.binary(max_size=300) | decodable.map(str.encode),
)
@settings(deadline=None)
def test_any_content_is_read_or_refused(name: str, data: bytes) -> None:
    try:
        batch = parse_seed_batch(name, data)
    except SeedError as error:
        assert str(error).startswith(name)  # noqa: PT017
    else:
        assert batch.topics


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
entries = st.fixed_dictionaries(
    {"language": st.sampled_from(["en", "fr", "ar"]), "topic": texts},
    optional={"question": texts, "metadata": st.dictionaries(texts, st.integers(0, 9), max_size=2)},
)


@given(st.lists(st.tuples(entries, st.sampled_from([b"", b"{", b"\xff", b'{"a": 1}']))))
@settings(deadline=None)
def test_bad_lines_never_cost_good_ones(lines: list[tuple[dict[str, object], bytes]]) -> None:
    good = [orjson.dumps({**entry, "id": f"id{n}"}) for n, (entry, _) in enumerate(lines)]
    mixed = [part for line, (_, bad) in zip(good, lines, strict=True) for part in (bad, line)]
    try:
        expected = parse_seed_batch("a.jsonl", b"\n".join(good)).topics
    except SeedError:
        return
    assert parse_seed_batch("a.jsonl", b"\n".join(mixed)).topics == expected
