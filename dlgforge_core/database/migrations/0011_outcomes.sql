-- What came of the steps of a dialogue's turn in progress (conversation.outcomes), in order: a call whose outcome is
-- here is never made again. Committing a turn removes its rows. `turn_index` of a finished dialogue that lacks
-- verdicts is the one after its last.
CREATE TABLE outcomes (
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,
    position     smallint NOT NULL,
    kind         text NOT NULL,
    data         jsonb NOT NULL,
    PRIMARY KEY (dialogue_id, turn_index, position)
);

-- What earlier versions knew of turns in progress. A draft of an earlier turn was left over from before its commit.
INSERT INTO outcomes (dialogue_id, turn_index, position, kind, data)
SELECT f.dialogue_id, f.turn_index, 0, 'asked', jsonb_build_object('question', f.question)
FROM drafts f JOIN dialogues d USING (dialogue_id) WHERE d.status = 'pending' AND f.turn_index = d.turns_done
UNION ALL
SELECT f.dialogue_id, f.turn_index, 1, 'answered',
       jsonb_build_object('answer', f.answer)
       || CASE WHEN f.details IS NULL THEN '{}' ELSE jsonb_build_object('details', f.details) END
FROM drafts f JOIN dialogues d USING (dialogue_id)
WHERE d.status = 'pending' AND f.turn_index = d.turns_done AND f.answer IS NOT NULL;
DROP TABLE drafts;

-- Dialogues that lack verdicts because the judge, meanwhile, gave none that could be used: how many, and why the last
-- one was not had. With `again` the run that goes on now is to have them judged, for the `attempt`th time.
CREATE TABLE unjudged (
    dialogue_id  text PRIMARY KEY REFERENCES dialogues ON DELETE CASCADE,
    verdicts     smallint NOT NULL,
    reason       text NOT NULL,
    detail       text NOT NULL,
    attempt      smallint NOT NULL DEFAULT 0,
    again        boolean NOT NULL DEFAULT false
);
