"""Tags that say of a Dagster run which dlgforge run it worked on, and who the assets belong to."""

RUN_ID_TAG = "dlgforge/run_id"
FINGERPRINT_TAG = "dlgforge/fingerprint"
OWNERS = ["team:data-generation"]
