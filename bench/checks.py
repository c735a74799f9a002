"""What a partition's checks cost beside the whole set's: `python -m bench.checks`.

20,000 dialogues are written straight into the run state, one plan for each of six languages, of four turns
with answers of about 80 words. All plans but one are checked; then the last is finished, and what its run
takes to check is compared with the same checks of the same set with nothing kept. Then every plan grows by a
tenth. `taskset -c 0` before it shows what one core takes.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

from bench.fixture import fresh_store, peak_mb
from bench.questions import LANGUAGES
from dlgforge_core.config import ChecksConfig, GenerationConfig, JudgeConfig, RunConfig
from dlgforge_core.quality.checks import run_checks
from dlgforge_core.quality.collectors import COLLECTORS
from dlgforge_core.quality.stored_findings import kept_findings, questions_of
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import prepared

_QUESTIONS_AN_ANSWER = 8


def finish(store: RunStore, language: str, turns: int, draw: random.Random) -> None:
    """Make the pending dialogues of a language done, with turns of made-up text."""
    phrases = LANGUAGES[language]
    with store.connection() as connection, connection.transaction():
        ids = connection.execute(
            "SELECT dialogue_id FROM dialogues JOIN plans USING (plan_id) "
            "WHERE language = %s AND status = 'pending'",
            (language,),
        ).fetchall()
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY turns (dialogue_id, turn_index, user_text, assistant_text, worker_id) FROM STDIN"
            ) as copy,
        ):
            for (dialogue_id,) in ids:
                for index in range(turns):
                    answer = " ".join(phrases.question(draw) for _ in range(_QUESTIONS_AN_ANSWER))
                    question = f"{phrases.question(draw)} ({dialogue_id[:8]}-{index})"
                    copy.write_row((dialogue_id, index, question, answer, 0))
        connection.execute(
            "UPDATE dialogues SET status = 'done', turns_done = %s, ended_at = now() "
            "WHERE dialogue_id = ANY(%s)",
            (turns, [row[0] for row in ids]),
        )


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it has started and that have ended."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in of)


def check(store: RunStore, scope: Scope) -> tuple[float, float]:
    """Check everything finished, as the asset checks do; seconds of wall clock and of all processes' CPU."""
    wall, cpu = time.monotonic(), cpu_s()
    config = ChecksConfig()
    parts = store.parts(scope)
    reports = run_checks(
        kept_findings(store.database, scope, sorted(LANGUAGES), config, COLLECTORS),
        lambda: questions_of(store.database, scope),
        store.outcomes(scope),
        config,
    )
    looked_at = next(report for report in reports if report.name == "schema").figures["looked_at"]
    if looked_at != sum(part.done for part in parts):
        raise SystemExit(f"{looked_at} dialogues were looked at, done are {sum(part.done for part in parts)}")
    return time.monotonic() - wall, cpu_s() - cpu


def main() -> None:
    """Print what each check run took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    languages = sorted(LANGUAGES)
    draw = random.Random(1)
    with fresh_store("bench") as store:

        def planned(dialogues: int) -> Scope:
            run = RunConfig(
                total_samples=dialogues,
                target_languages=languages,
                n_turns=arguments.turns,
                fallback_language="en",
            )
            made = prepared(store, GenerationConfig(run=run, judge=JudgeConfig(mode="off")))
            return Scope(fingerprint=made.fingerprint)

        scope = planned(arguments.dialogues)
        *earlier, last = languages
        for language in earlier:
            finish(store, language, arguments.turns, draw)
        cpu = {}

        def row(name: str) -> None:
            wall, cpu[name] = check(store, scope)
            print(f"{name:42} {wall:7.2f} s, {cpu[name]:7.2f} s of CPU", flush=True)

        row("all but the last language, nothing kept")
        finish(store, last, arguments.turns, draw)
        row("the last one's run")
        row("again, with nothing new")
        with store.connection() as connection:
            connection.execute("TRUNCATE check_findings")
        row("all, nothing kept")
        scope = planned(arguments.dialogues * 11 // 10)
        for language in languages:
            finish(store, language, arguments.turns, draw)
        row("a tenth more of each language")
    whole, one = cpu["all, nothing kept"], cpu["the last one's run"]
    print(f"ratio of CPU, all to the last one's run: {whole / one:.1f}; peak {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
