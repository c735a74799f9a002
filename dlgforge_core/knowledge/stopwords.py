"""Words that say nothing of what a text is about, in the shipped languages.

Others come from bm25s where it has them. In a folder of several languages a frequent word of one is rare
among all chunks, so that its weight alone does not put it out.
"""

from __future__ import annotations

from functools import lru_cache

from bm25s import stopwords as shipped  # type: ignore[import-untyped]

_ENGLISH = """
a about after again all also am an and any are aren as at be because been before being but by can cannot
could couldn did didn do does doesn doing don down each few for from further get had hadn has hasn have
haven having he her here hers him his how i if in into is isn it its itself just let ll me more most my no
nor not of off on once only or other our ours out over own re s same shan she should shouldn so some such t
than that the their theirs them then there these they this those through to too under until up us ve very
was wasn we were weren what when where which while who whom why will with won would wouldn you your yours
d m is one yes please tell
"""
_ARABIC = """
من في على إلى عن مع هذا هذه ذلك تلك هؤلاء الذي التي الذين اللذان اللتان اللواتي ما ماذا لماذا كيف متى أين
هل أم أو ثم حتى لكن لكنه لكنها بل لا لم لن ليس ليست كان كانت يكون تكون كانوا أن إن أنه أنها إنه إنها كل
بعض غير قد سوف هو هي هم هن أنا أنت نحن أنتم كما إذا إذ لو لأن لأنه لأنها بين عند عندما قبل بعد فوق تحت
منذ خلال حول دون فقط أيضا أيضًا جدا جدًا أي أيها أية كم كلما له لها لهم لي لك لنا به بها بهم فيه فيها فيهم
منه منها منهم عليه عليها عليهم إليه إليها عنه عنها معه معها يا نعم و ف ب ل ك مثل حيث هنا هناك لدى لدي
عندي أكثر أقل كي لكي مما عما ممن إلا سوى ذات ذا أما إما وهو وهي ولا وما ومن وفي وعلى فإن وإن وأن ولم
وقد وكان هذان هاتان بأن يجب يمكن
"""
# What an elided word leaves (l'eau, qu'il), and question words.
_FRENCH_TOO = "l d qu j n m t s c y est ce comment pourquoi combien quand faut"
_SPANISH_TOO = "cómo qué cuál cuáles cuándo cuánto cuánta cuántos dónde sé"
_BY_LANGUAGE = {
    "de": shipped.STOPWORDS_GERMAN,
    "nl": shipped.STOPWORDS_DUTCH,
    "pt": shipped.STOPWORDS_PORTUGUESE,
    "it": shipped.STOPWORDS_ITALIAN,
    "ru": shipped.STOPWORDS_RUSSIAN,
    "sv": shipped.STOPWORDS_SWEDISH,
    "no": shipped.STOPWORDS_NORWEGIAN,
    "da": shipped.STOPWORDS_DANISH,
    "tr": shipped.STOPWORDS_TURKISH,
    "fr": (*shipped.STOPWORDS_FRENCH, *_FRENCH_TOO.split()),
    "es": (*shipped.STOPWORDS_SPANISH, *_SPANISH_TOO.split()),
    "en": tuple(_ENGLISH.split()),
    "ar": tuple(_ARABIC.split()),
}


@lru_cache(maxsize=32)
def stopwords(language: str) -> frozenset[str]:
    """Return the stop words of a language (ISO 639-1), case-folded; empty where none are known."""
    return frozenset(word.casefold() for word in _BY_LANGUAGE.get(language, ()))
