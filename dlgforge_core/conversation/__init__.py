"""The script of a dialogue: pure steps, outcomes and state; `Script.next` names what is to be done next."""
