"""What model families write around thinking and turns: data, which `llm.markup` adds to.

A new family is a new line here, or one in the configuration until then.
"""

from __future__ import annotations

THINKING_WORDS = (
    *("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "reflect", "scratchpad"),
    *("scratch_pad", "monologue", "cot", "antthinking", "innermonologue", "chainofthought"),
)
"""A tag is about thinking when one of its name's parts is one of these: <think>, <seed:think>,
<seed:cot_budget_reflect>, <inner_monologue>, <|begin_of_thought|>, [THINK], ◁think▷."""

THINKING_PAIRS = (
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<unused94>", "<unused95>"),  # MedGemma
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("Here is my thought process:", "Here is my response:"),  # Granite 3.2
    ("Here's my thought process:", "Here's my response:"),
)
"""Marks around thinking that are no tags with such a name."""

ANSWER_TAGS = ("answer", "response", "final_answer", "final", "output", "solution", "reply")
"""Tags around an answer, as they stand after thinking in tags (Hunyuan, ERNIE, Reflection)."""

ANSWER_TOKENS = (
    *("<|begin_of_solution|>", "<|end_of_solution|>"),  # Sky-T1, OpenThinker
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),  # Command A
    *("<|begin_of_box|>", "<|end_of_box|>"),  # GLM-4.1V
    "<|content|>",  # Solar Open
)
"""Tokens around an answer, which go while it stays."""

CONTROL_NAMES = (
    *("bos", "eos", "eod", "eot", "eom", "eop", "sop", "eoa", "eoh", "pad", "unk"),
    *("bos_token", "eos_token", "pad_token", "begin_of_text", "end_of_text", "endoftext"),
    *(r"(?:start|end|begin)_of_(?:turn|utterance|image|text|role|message|sentence)", r"\w{1,20}_of_turn"),
    *(r"(?:begin|end)▁of▁\w{1,20}", r"im_(?:start|end|sep|middle)", r"unused_?\d{1,6}", r"reserved_\d{1,6}"),
    *(r"extra_id_\d{1,6}", r"special_\d{1,6}", r"tokens_unused_\d{1,6}", r"seed:(?:bos|eos|pad)", "用户"),
)
"""Names of control tokens in plain angle brackets, as patterns: <end_of_turn>, <eos>, <seed:bos>."""

CONTROL_BRACKETS = (
    *("INST", "SYS", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "TOOL_CONTENT"),
    *("gMASK", "BOS", "EOS", "EOT", "PAD", "UNK", r"UNUSED_TOKEN_\d{1,6}", "ARGS", "CALL_ID"),
)
"""Names of control tokens in square brackets, capitals as they are: [INST], [/INST], [gMASK]."""

CONTROL_LITERALS = ("]~!b[", "]~b]", "[e~[", "<<SYS>>", "<</SYS>>", "<endoftext|")
"""Control tokens of no common shape: MiniMax's, and Llama 2's around a system prompt."""

ANSWERING_ROLES = ("assistant", "model", "chatbot", "bot", "gpt", "ai", "CHATBOT_TOKEN", "助手")
"""How templates name the role that answers, after a token that begins a turn."""
