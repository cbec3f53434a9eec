"""A small BERT that finds the topics of comments, trained from nothing, and comments for it.

    python examples/huggingface/make.py [--out FOLDER] [--seed 0] [--rows 6000] [--epochs 3]

Writes model/ (config.json, model.safetensors, tokenizer.json) and comments.tsv (text, labels). A
comment says something about up to three topics of an order. Some also name a topic that they are
not about ("never mind the price"): its words alone mislead. The network is trained on comments of
its own, so that those of comments.tsv are new to it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH, LAYERS, MAX_TOKENS = 64, 4, 64
BATCH = 64
PEAK_LEARNING_RATE = 3e-3

THINGS = ("jacket", "lamp", "kettle", "chair", "backpack", "radio", "blanket", "mirror", "helmet")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
NUMBERS = ("two", "three", "four", "five", "six", "seven")
TOPICS = {
    "delivery": (
        ["delivery", "shipping", "courier"],
        [
            "the {thing} arrived {number} days late",
            "it came on {day} as promised",
            "the courier left the {thing} with a neighbour",
            "the box was torn when the {thing} came",
        ],
    ),
    "price": (
        ["price", "cost", "discount"],
        [
            "the {thing} is {number} times as expensive elsewhere",
            "i paid {number} coins too much for this {thing}",
            "it was cheap for a {thing}",
            "the discount of {day} was not applied",
        ],
    ),
    "quality": (
        ["quality", "material", "finish"],
        [
            "the {thing} broke after {number} days",
            "this {thing} is solid and well made",
            "a seam of the {thing} came apart on {day}",
            "the {thing} feels like it will last {number} years",
        ],
    ),
    "size": (
        ["size", "fit", "length"],
        [
            "the {thing} is {number} inches too short",
            "this {thing} is larger than it looks",
            "it does not fit with the {thing} that i have",
            "the {thing} is just as wide as i need",
        ],
    ),
    "service": (
        ["service", "support", "hotline"],
        [
            "the hotline kept me waiting for {number} hours",
            "they answered my mail about the {thing} on {day}",
            "a friendly lady helped me with the {thing}",
            "nobody replied since {day}",
        ],
    ),
}
ABOUT = (
    "i want to talk about the {word}",
    "the {word} made my {day}",
    "i am writing because of the {word}",
    "what a surprise the {word} was",
)
NOT_ABOUT = (
    "never mind the {word}",
    "this is not because of the {word}",
    "i do not want to talk about the {word}",
    "the {word} is not what made my {day}",
)
FILLERS = (
    "i ordered a {thing} on {day}",
    "this is my {number}th order",
    "my sister has the same {thing}",
    "i bought {number} of them",
)
DISCLAIMED = 0.35  # share of the comments that name a topic they are not about


def compose_comment(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A comment and its topics, none to three of them."""
    names = [str(name) for name in rng.permutation(list(TOPICS))]
    count = int(rng.choice(4, p=(0.05, 0.4, 0.35, 0.2)))
    clauses = []
    for name in names[:count]:
        words, clear = TOPICS[name]
        clauses.append((rng.choice([*clear, *ABOUT]), words))
    if rng.random() < DISCLAIMED:
        clauses.append((rng.choice(NOT_ABOUT), TOPICS[names[count]][0]))
    if not clauses or rng.random() < 0.5:
        clauses.append((rng.choice(FILLERS), [""]))
    filled = [
        str(clause).format(
            thing=rng.choice(THINGS),
            day=rng.choice(DAYS),
            number=rng.choice(NUMBERS),
            word=rng.choice(words),
        )
        for clause, words in (clauses[place] for place in rng.permutation(len(clauses)))
    ]
    text = filled[0]
    for clause in filled[1:]:
        text += str(rng.choice([", ", " and ", ". ", " but "])) + clause
    return text, sorted(names[:count])


def compose(rows: int, rng: np.random.Generator) -> tuple[list[str], list[list[str]]]:
    """Comments, no two alike, and their topics, `rows` of each."""
    comments: dict[str, list[str]] = {}
    while len(comments) < rows:
        text, topics = compose_comment(rng)
        comments[text] = topics
    return list(comments), list(comments.values())


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """One token per word."""
    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.train_from_iterator(texts, WordLevelTrainer(special_tokens=list(SPECIAL)))
    ends = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def make_network(vocabulary: int) -> BertForSequenceClassification:
    """BERT with one logit per topic, which its configuration names."""
    names = dict(enumerate(TOPICS))
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=MAX_TOKENS,
            initializer_range=0.1,  # the usual 0.02 is for wide models: this one would learn late
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label=names,
            label2id={name: number for number, name in names.items()},
            problem_type="multi_label_classification",
        )
    )


def train(
    network: BertForSequenceClassification, ids: Tensor, mask: Tensor, labels: Tensor, epochs: int
) -> None:
    """Train in place with AdamW and a one-cycle learning rate; ids and mask (n, tokens)."""
    steps = epochs * -(-len(ids) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(ids)).split(BATCH):
            tokens = int(mask[rows].sum(1).max())
            answer = network(ids[rows, :tokens], mask[rows, :tokens], labels=labels[rows])
            optimizer.zero_grad()
            answer.loss.backward()
            optimizer.step()
            schedule.step()


def write_comments(path: Path, texts: list[str], topics: list[list[str]]) -> None:
    """A table with a header, one comment a line."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["text", "labels"])
        for text, names in zip(texts, topics, strict=True):
            table.writerow([text, ",".join(names)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/examples/huggingface"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=6000, help="to train on, and as many to keep")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    texts, topics = compose(arguments.rows, rng)
    tokenizer = make_tokenizer(texts)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    ids, mask = (
        torch.tensor([getattr(encoding, field) for encoding in encodings])
        for field in ("ids", "attention_mask")
    )
    labels = torch.tensor([[float(name in row) for name in TOPICS] for row in topics])
    torch.set_num_threads(1)  # its products are too small for several cores to share
    torch.manual_seed(arguments.seed)
    network = make_network(tokenizer.get_vocab_size())
    train(network, ids, mask, labels, arguments.epochs)
    network.save_pretrained(arguments.out / "model")
    tokenizer.no_padding()
    tokenizer.save(str(arguments.out / "model" / "tokenizer.json"))
    write_comments(arguments.out / "comments.tsv", *compose(arguments.rows, rng))


if __name__ == "__main__":
    main()
