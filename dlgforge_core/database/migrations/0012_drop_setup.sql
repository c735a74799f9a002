-- What answered the calls when a dialogue was dropped: another set-up may do better.
ALTER TABLE dialogues ADD COLUMN drop_setup text;
