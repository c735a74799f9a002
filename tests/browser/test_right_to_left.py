"""Right-to-left conversations on the asset page, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.browser.pictures import picture
from tests.browser.test_ui import endpoint_env, show_markdown
from tests.end_to_end.job import Project, run_config
from tests.support.dagster_dev import dagster_dev
from tests.support.simulated_endpoint import simulated_endpoint

pytestmark = pytest.mark.timeout(300)

# Arabic with numbers and Latin words in it, where the order goes wrong without a direction. Long enough for
# Dagster to show it in a dialog instead of in the table.
QUESTION = "كيف أطبخ أرز basmati في 4 خطوات؟"
CONVERSATIONS = [
    [
        (
            QUESTION,
            "اغسل الأرز حتى يصفو الماء، ثم انقعه 20 دقيقة. سخّن ملعقتين من السمن وحمّص الأرز دقيقتين. أضف كوبًا "
            "ونصف كوب من الماء المغلي لكل كوب أرز مع الملح، ثم غطِّ القدر واتركه على نار هادئة 15 دقيقة.",
        ),
        (
            "وهل أرفع الغطاء لأرى إن كان قد نضج؟",
            "لا ترفعه قبل انتهاء الوقت، فالبخار هو الذي يطبخ الحبات. أطفئ النار بعد 15 دقيقة، وانتظر "
            "10 دقائق أخرى، ثم قلّب الأرز بشوكة حتى تنفصل حباته.",
        ),
    ],
    [
        (
            "ابني عمره 7 سنوات ويطلب جهاز tablet خاصًا به، فماذا أفعل؟",
            "أجّل الجهاز الخاص، واتفقا على وقت محدد لجهاز العائلة: 30 دقيقة في اليوم بعد الواجبات، وفي غرفة "
            "الجلوس لا في غرفة النوم. واكتبا الاتفاق على ورقة يراها الجميع.",
        ),
        (
            "وإن غضب عندما ينتهي الوقت؟",
            "نبّهه قبل النهاية بخمس دقائق، وكن هادئًا وثابتًا. ثم اقترح شيئًا يحبه، مثل اللعب في الحديقة أو "
            "قراءة قصة معًا، فالبديل أنفع من المنع وحده.",
        ),
    ],
]

VERDICT = {"score": 8, "reasons": ["accurate", "clear"], "comment": "إجابة واضحة ومفيدة."}

# Where the first and the last character of a text are within an element: x, y each.
PLACES = """(element, text) => {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const at = node.data.indexOf(text)
    if (at < 0) continue
    return [at, at + text.length - 1].map((index) => {
      const range = document.createRange()
      range.setStart(node, index)
      range.setEnd(node, index + 1)
      const box = range.getBoundingClientRect()
      return [box.x, box.y]
    })
  }
}"""


def first_and_last(paragraph: Locator, text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    first, last = paragraph.evaluate(PLACES, text)
    return tuple(first), tuple(last)


def speak_arabic(store: RunStore) -> None:
    """Make conversations in Arabic of what the simulated endpoint answered."""
    record = store.run()
    assert record is not None
    dialogues = sorted(
        store.dialogues(Scope(run_id=record.run_id)), key=lambda d: "الأرز" not in d.plan.topic.topic
    )
    for dialogue, conversation in zip(dialogues, CONVERSATIONS, strict=True):
        with store.connection() as connection:
            for index, texts in enumerate(conversation):
                connection.execute(
                    "UPDATE turns SET user_text = %s, assistant_text = %s "
                    "WHERE dialogue_id = %s AND turn_index = %s",
                    (*texts, dialogue.plan.dialogue_id, index),
                )


@pytest.mark.nightly
def test_samples_in_arabic_read_from_right_to_left(tmp_path: Path, page: Page) -> None:
    project = Project(tmp_path)
    config = run_config({}, total_samples=2, target_languages=["ar"], n_turns=2)
    with simulated_endpoint(verdict=VERDICT) as sim, dagster_dev(project, **endpoint_env(sim)) as dev:
        store = RunStore(Database(embedded_dsn(project.home)))
        try:
            for written_by_us in (False, True):
                if written_by_us:
                    speak_arabic(store)  # and a finished run, run again, shows what is there
                run = dev.client.submit_job_execution(
                    "generate_dialogues", run_config=config, asset_selection=["seed_topics", "dialogues"]
                )
                assert dev.wait_for_run(run) == "SUCCESS", dev.log()[-5000:]
        finally:
            release_embedded(project.home)
        dialog = show_markdown(page, dev, "dialogues", "samples")
        expect(dialog.get_by_text("User", exact=True).first).to_be_visible()
        paragraph = dialog.locator("p").filter(has_text=QUESTION).first
        start, end = first_and_last(paragraph, "كيف أطبخ أرز")
        assert start[1] == pytest.approx(end[1], abs=2), "on one line"
        assert start[0] > end[0], "the sentence begins at the right"
        number, mark = first_and_last(paragraph, "4 خطوات؟")
        assert mark[0] < number[0] < end[0], "the number and the question mark come after, to the left"
        latin, latin_end = first_and_last(paragraph, "basmati")
        assert number[0] < latin[0] < latin_end[0] < end[0], "the Latin word reads from left to right"
        picture(page, "samples-arabic")
