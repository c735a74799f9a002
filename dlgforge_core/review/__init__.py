"""Review page: people read dialogues in a browser, mark and edit them.

For others: `reviewed.with_marks` and `reviewed.with_edits`, by which exports use what reviewers did.
`python -m dlgforge_core.review` serves the page, at `HOST` and `PORT` unless it is told otherwise.
"""

HOST, PORT = "127.0.0.1", 8321
