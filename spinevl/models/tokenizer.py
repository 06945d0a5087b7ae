"""The tiny LLM's tokenizer: byte-level BPE learned from the project's own prompts and answers.

Any text can be written with it; the words of our prompts take one token each, and digits one
token a digit, so that coordinates can be learned. The files in ``tiny_tokenizer/`` were made by
``python -m spinevl.models.tokenizer`` in the repository.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def learn(texts: Iterable[str], folder: Path, *, vocabulary: int = 768) -> None:
    """Learn a tokenizer of at most ``vocabulary`` tokens from ``texts`` and write it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def corpus(conf: Path) -> list[str]:
    """The lines of the shipped prompts and tasks, and every answer with a space before it."""
    lines = [
        line.strip()
        for group in ("prompts", "task")
        for file in sorted((conf / group).glob("*.yaml"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    boxes = [f" <ref>C{k}<ref><box>(1,2),(3,4)<box>" for k in range(2, 8)]
    levels = [f" C{k}-C{k + 1} C{k} C{k + 1}" for k in range(2, 7)]
    return 4 * [*lines, *boxes, *levels]


if __name__ == "__main__":
    repository = Path(__file__).resolve().parents[2]
    learn(corpus(repository / "conf"), Path(__file__).with_name("tiny_tokenizer"))
