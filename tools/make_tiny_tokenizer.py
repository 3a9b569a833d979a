#!/usr/bin/env python3
"""Makes models/tiny/tokenizer: a small sentencepiece unigram tokenizer over the caption grammar of the tiny model.

Every word of the grammar becomes one piece, printable ASCII becomes single characters, everything else becomes UTF-8
bytes, so no text is unknown. Letters are lowered and white space becomes a space before segmentation.

spiece.model is what the engine reads; tokenizer.json describes the same tokenizer to transformers, which must be told
to load it as it stands (PreTrainedTokenizerFast): its T5 class would switch the bytes off.

    .venv/bin/python tools/make_tiny_tokenizer.py [--output models/tiny/tokenizer]

Deterministic: the same bytes on every run.
"""

import argparse
import collections
import io
import itertools
import json
import math
import string
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

SHAPES = ["circle", "square", "triangle", "star", "ring"]
COLOURS = ["red", "green", "blue", "yellow", "orange", "cyan"]
BACKGROUNDS = ["white", "black", "gray", "purple"]
MOTIONS = {
    "moves left": "moving left", "moves right": "moving right", "moves up": "moving up", "moves down": "moving down",
    "bounces": "bouncing", "grows": "growing", "shrinks": "shrinking",
}
CHARACTER_SCORE = -12.0  # below every word's, so that spelling a known word out always loses
MAX_LENGTH = 512
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}
WHITE_SPACE = "\t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
WORD_MARK = "\u2581"


def captions():
    """Every sentence of the grammar, in a fixed order."""
    for shape, colour, background, motion in itertools.product(SHAPES, COLOURS, BACKGROUNDS, MOTIONS):
        article = "an" if colour == "orange" else "a"
        yield f"{article} {colour} {shape} {motion} on a {background} background"
        yield f"{article} {colour} {shape} {MOTIONS[motion]} against a {background} background"
        yield f"on a {background} background, {article} {colour} {shape} {motion}"
        yield f"the {shape} is {colour} and {motion}, the background is {background}"


def replacements():
    """What is rewritten before segmentation: (from, to) pairs of one character each."""
    yield from zip(string.ascii_uppercase, string.ascii_lowercase)
    yield from ((space, " ") for space in WHITE_SPACE + WORD_MARK)


def build():
    """The serialized sentencepiece model.

    The pieces are chosen here and scored by their share of the captions: the trainer's own pruning splits most words of
    so small a corpus. The trainer still runs, once, for what only it makes: the compiled normalisation rules.
    """
    characters = [WORD_MARK] + [c for c in map(chr, range(0x21, 0x7F)) if c not in string.ascii_uppercase]
    words = collections.Counter(WORD_MARK + word for caption in captions() for word in caption.replace(",", "").split())
    total = sum(words.values())
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("".join(f"{ord(a):X}\t{ord(b):X}\n" for a, b in replacements()))
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=captions(), model_writer=trained, model_type="unigram", vocab_size=400,
            hard_vocab_limit=False, byte_fallback=True, normalization_rule_tsv=str(rules), num_threads=1,
            pad_id=SPECIAL["<pad>"], eos_id=SPECIAL["</s>"], unk_id=SPECIAL["<unk>"], bos_id=-1,
            pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    model.normalizer_spec.normalization_rule_tsv = ""  # it names a temporary file
    del model.pieces[len(SPECIAL) + 256:]  # keeps the special tokens and the bytes
    learned = [(word, math.log(count / total)) for word, count in sorted(words.items())]
    learned += [(character, CHARACTER_SCORE) for character in characters if character not in words]
    for piece, score in learned:
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString(deterministic=True)


def tokenizer_json(pieces):
    """The same tokenizer in the format of the tokenizers package."""
    normalizers = [{"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in replacements()]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for text, i in SPECIAL.items()],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
            {"type": "Metaspace", "replacement": WORD_MARK, "prepend_scheme": "always", "split": True}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [SPECIAL["</s>"]], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": WORD_MARK, "prepend_scheme": "always",
                                       "split": True}]},
        "model": {"type": "Unigram", "unk_id": SPECIAL["<unk>"], "byte_fallback": True,
                  "vocab": [[pieces.id_to_piece(i), pieces.get_score(i)] for i in range(pieces.get_piece_size())]},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("models/tiny/tokenizer"))
    output = parser.parse_args().output
    model = build()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    words = sorted({word for caption in captions() for word in caption.replace(",", "").split()})
    split = [word for word in words if len(pieces.encode(word)) != 1]
    if split:
        raise SystemExit(f"these words of the grammar are not one piece: {split}")
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_LENGTH, **tokens,
              "padding_side": "right", "truncation_side": "right", "clean_up_tokenization_spaces": False,
              "model_input_names": ["input_ids", "attention_mask"]}
    output.mkdir(parents=True, exist_ok=True)
    (output / "spiece.model").write_bytes(model)
    for name, content in [("tokenizer.json", tokenizer_json(pieces)), ("tokenizer_config.json", config),
                          ("special_tokens_map.json", tokens)]:
        (output / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {pieces.get_piece_size()} pieces, {len(words)} words of the grammar, one piece each")


if __name__ == "__main__":
    main()
