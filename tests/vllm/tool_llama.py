"""Build a tiny Llama that calls the tools it is offered, by a script, and talks otherwise, in vLLM's layout.

Run it with the Python that has vLLM (and so torch, transformers and tokenizers):

    .venv-vllm/bin/python tests/vllm/tool_llama.py FOLDER

The weights are written, not trained. Embeddings are one-hot and the layer adds nothing, so the next token
depends on the last one alone, by a table in the output layer. The chat template sees the conversation and
the tools, and ends the prompt with the token that what is wanted follows: <talk>, or a key of WRITTEN.
"""

import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT_TOKENS = 8192
HIDDEN = 384
END = "<|im_end|>"
CONTROL = ["<|endoftext|>", "<|im_start|>", END]


def call(name: str, arguments: str) -> str:
    """Return a call as Hermes models write it; `arguments` are JSON, or not."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# What is written: by reader, turn and round in the recipe `library`, and where there is a search.
WRITTEN = {
    "<search>": call("vector_db_search", '{"query": "knead the dough"}'),
    "<r1.1.0>": call("find_books", '{"words": "melville"}') + call("reader_account", '{"reader_id": "r1"}'),
    "<r1.1.1>": call("lend_book", '{"book_id": "b1", "reader_id": "r1"}'),
    "<r1.1.2>": call("pay_fine", '{"reader_id": "r1", "amount": 2.5}')
    + call("lend_book", '{"book_id": "b1", "reader_id": "r1"}'),
    "<r1.2.0>": call("renew_book", '{"book_id": "b1"}') + call("lend_book", '{"book_id": "b2"}'),
    # vLLM's parser reads neither of these two, and gives them as text.
    "<r2.1.0>": call("find_books", '{"words": "eliot"') + call("find_books", '{"words": "austen"}'),
    "<r2.1.1>": call("reserve_book", '{"book_id": "b3", "reader_id": "r2"}'),
    "<ask r1>": "My card is r1.",
    "<ask r2>": "My card is r2.",
}
WORDS = (
    " flour", " water", " salt", " yeast", " dough", " oven", " crust", " loaf", " rise", " knead", " fold",
    " shape", " score", " bake", " cool", " slice", " store", " freeze", " toast", " taste", " warm", " cold",
    " short", " long", " early", " late", " wet", " dry", " soft", " firm",
)  # fmt: skip
SPECIAL = [*CONTROL, "<talk>", *WRITTEN]
CHAT_TEMPLATE = (
    "{% set at = namespace(turn=0, round=0, reader='', goal='') %}"
    "{% for message in messages %}"
    "{% set content = message['content'] or '' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>' + '\n' }}"
    "{% if message['role'] == 'user' %}{% set at.turn = at.turn + 1 %}{% set at.round = 0 %}"
    "{% elif message['tool_calls'] %}{% set at.round = at.round + 1 %}{% endif %}"
    "{% for reader in ['r1', 'r2'] %}"
    "{% if 'My card is ' + reader in content %}{% set at.reader = reader %}{% endif %}"
    "{% if 'Your card is ' + reader in content %}{% set at.goal = reader %}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{% set names = tools | map(attribute='function.name') | list if tools else [] %}"
    "{% set call = '<' ~ at.reader ~ '.' ~ at.turn ~ '.' ~ at.round ~ '>' %}"
    "{{ '<ask ' + at.goal + '>' if at.goal and not tools"
    " else '<search>' if 'vector_db_search' in names and messages[-1]['role'] != 'tool'"
    f" else call if 'lend_book' in names and call in {sorted(WRITTEN)}"
    " else '<talk>' }}"
    "{% endif %}"
)
SURE = 40.0
LIKELY = 20.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, so that any text can be encoded, and whole tokens for what the model writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: n for n, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*WRITTEN.values(), *WORDS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=END,
        pad_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )


def transitions(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Logits of the next token (rows) by the last one (columns)."""
    place = {token: tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, *WRITTEN.values(), *WORDS)}
    table = torch.zeros(HIDDEN, HIDDEN)
    spoken = ["<talk>", *WORDS]
    for token, text in WRITTEN.items():
        table[place[text], place[token]] = SURE
        if "<tool_call>" in text:
            table[place[END], place[text]] = SURE
        else:
            spoken.append(text)
    for token in spoken:
        for word in WORDS:
            table[place[word], place[token]] = LIKELY
    for word in WORDS:
        table[place[word], place[word]] = 0.0
        table[place[END], place[word]] = LIKELY + 1.0
    return table


def build(folder: Path) -> None:
    """Write tokenizer, configuration and weights (about 2 MB) to `folder`."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=HIDDEN,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(HIDDEN))
        # The norm before it makes a one-hot vector sqrt(HIDDEN) long.
        model.lm_head.weight.copy_(transitions(tokenizer) / HIDDEN**0.5)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
