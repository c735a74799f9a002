"""Names of a dataset's assets: keys in the UI, keys of `ops` in run config, and names no recipe may have."""

SEED_FILES = "seed_files"
SEED_TOPICS = "seed_topics"
KNOWLEDGE_INDEX = "knowledge_index"
DIALOGUES = "dialogues"
JUDGEMENTS = "judgements"
DIALOGUE_DATASET = "dialogue_dataset"
HF_DATASET = "hf_dataset"

MATERIALIZED = (SEED_TOPICS, KNOWLEDGE_INDEX, DIALOGUES, JUDGEMENTS, DIALOGUE_DATASET, HF_DATASET)
"""Those that a run makes, in order."""

SECTIONS = {
    SEED_TOPICS: "seeds",
    KNOWLEDGE_INDEX: "knowledge",
    JUDGEMENTS: "judge",
    DIALOGUE_DATASET: "saving",
    "dialogue_checks": "checks",
}
"""The sections of a recipe that are the config of one op: of an asset, or of checks."""
