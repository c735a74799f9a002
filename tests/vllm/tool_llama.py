"""Build a tiny Llama that calls a tool when it is offered one, and talks when it is not, in vLLM's layout.

Run it with the Python that has vLLM (and so torch, transformers and tokenizers):

    .venv-vllm/bin/python tests/vllm/tool_llama.py FOLDER

The weights are written, not trained. Embeddings are one-hot and the layer adds nothing, so the next token
depends on the last one alone, by a table in the output layer. The chat template ends the prompt with the
token whose chain is wanted: <call> or <talk>.
"""

import itertools
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT_TOKENS = 4096
HIDDEN = 320
END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END, "<call>", "<talk>"]
CALL = [
    "<tool_call>",
    '{"name": "vector_db_search", "arguments": {"query": "knead the dough"}}',
    "</tool_call>",
]
WORDS = (
    " flour", " water", " salt", " yeast", " dough", " oven", " crust", " loaf", " rise", " knead", " fold",
    " shape", " score", " bake", " cool", " slice", " store", " freeze", " toast", " taste", " warm", " cold",
    " short", " long", " early", " late", " wet", " dry", " soft", " firm",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<call>' if tools and messages[-1]['role'] != 'tool' else '<talk>' }}"
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
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*CALL, *WORDS)])
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
    place = {token: tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, *CALL, *WORDS)}
    table = torch.zeros(HIDDEN, HIDDEN)
    chain = ["<call>", *CALL, END]
    for token, after in itertools.pairwise(chain):
        table[place[after], place[token]] = SURE
    for token in ("<talk>", *WORDS):
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
        num_attention_heads=5,
        num_key_value_heads=5,
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
