"""Tags that say of a Dagster run which dlgforge run it worked on, and who the assets belong to."""

RUN_ID_TAG = "dlgforge/run_id"
FINGERPRINT_TAG = "dlgforge/fingerprint"
# On a run whose process holds a lock for as long as it lives; see `liveness`.
LIVENESS_TAG = "dlgforge/alive"
NOTHING_TAG = "dlgforge/nothing_to_make"  # the partitions of the run have no topics, or no seed file
JUDGED_TAG = "dlgforge/judged"  # `judgements` has judged in this run, under this fingerprint
PREVIEW_TAG = "dlgforge/preview"  # the run makes a few dialogues of the plan, and an estimate for all of it
RESUMES_TAG, RESUME_NUMBER_TAG = "dlgforge/resumes", "dlgforge/resume_number"
OWNERS = ["team:data-generation"]
