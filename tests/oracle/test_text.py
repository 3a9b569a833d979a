"""UMT5 encoder, tokenizer and prompt cleaning against transformers and diffusers."""

import functools
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models/tiny/tokenizer"

BASE = dict(vocab_size=97, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, dropout_rate=0.0,
            relative_attention_num_buckets=32, relative_attention_max_distance=128)
CONFIGS = {
    "base": {},
    "heads narrower than the model": dict(num_heads=2, d_kv=5),
    "heads wider than the model": dict(num_heads=4, d_kv=16),
    "far beyond the last bucket": dict(relative_attention_num_buckets=8, relative_attention_max_distance=9),
    "one layer, other epsilon": dict(num_layers=1, layer_norm_epsilon=1e-3),
    "many buckets": dict(relative_attention_num_buckets=64, relative_attention_max_distance=40),
}


def make(dtype=torch.float32, **changes):
    """A random encoder whose norms, biases and scores are all far from trivial, and its config.json."""
    config = UMT5Config(**{**BASE, **changes})
    model = UMT5EncoderModel(config).eval()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        spread = 1.0 if "layer_norm" not in name else 0.2
        parameter.data += spread * parameter.data.std().nan_to_num(1.0).clamp_min(0.2) * torch.randn(
            parameter.shape, generator=generator)
    return model.to(dtype), json.loads(config.to_json_string())


def weights_of(model):
    return {f"weights.{name}": t for name, t in model.state_dict().items() if name != "encoder.embed_tokens.weight"}


def make_ids(batch, length, vocab=97):
    """Random ids; row i has i * length // (2 * batch) padding tokens on the right."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(1, vocab, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        padding = row * length // (2 * batch)
        if padding:
            ids[row, -padding:] = 0
            mask[row, -padding:] = 0
    return ids, mask


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 20, 300])
def test_states(parity, assert_close, tolerance, name, length):
    model, config = make(**CONFIGS[name])
    ids, mask = make_ids(3, length)
    with torch.no_grad():
        expected = model(ids, mask).last_hidden_state
    states = parity("text.encode", {"text_encoder": config}, {**weights_of(model), "ids": ids, "mask": mask})["states"]
    assert_close(states, expected, tolerance("kModelF32"), "states")


def test_mask_may_have_holes(parity, assert_close, tolerance):
    model, config = make()
    ids, mask = make_ids(2, 12)
    mask[0, 3] = mask[1, 0] = 0
    with torch.no_grad():
        expected = model(ids, mask).last_hidden_state
    states = parity("text.encode", {"text_encoder": config}, {**weights_of(model), "ids": ids, "mask": mask})["states"]
    assert_close(states, expected, tolerance("kModelF32"), "states")


def test_bf16_is_as_near_to_f32_as_transformers_is(parity):
    model, config = make()
    ids, mask = make_ids(3, 40)
    with torch.no_grad():
        exact = model(ids, mask).last_hidden_state
        half = model.to(torch.bfloat16)
        theirs = half(ids, mask).last_hidden_state.float()
        rounded = {name: t.float() for name, t in half.state_dict().items()}
        model.float().load_state_dict(rounded)
        exact = model(ids, mask).last_hidden_state  # of the rounded weights: only the arithmetic differs
    ours = parity("text.encode", {"text_encoder": config},
                  {**{k: t.bfloat16() for k, t in weights_of(model).items()}, "ids": ids, "mask": mask})["states"]
    assert ours.dtype == torch.bfloat16
    valid = mask.bool()
    error = lambda states: (states.float() - exact)[valid].norm() / exact[valid].norm()
    # Peer rule: at most twice the same-precision error.
    assert error(ours) <= 2 * error(theirs), (error(ours), error(theirs))


def test_gradients(parity, assert_close, tolerance):
    model, config = make()
    ids, mask = make_ids(3, 24)
    cotangent = torch.randn(3, 24, BASE["d_model"]) * mask.unsqueeze(-1)
    states = model(ids, mask).last_hidden_state
    (states * cotangent).sum().backward()
    out = parity("text.gradients", {"text_encoder": config},
                 {**weights_of(model), "ids": ids, "mask": mask, "cotangent": cotangent})
    for name, parameter in model.named_parameters():
        assert_close(out["grad." + name], parameter.grad, tolerance("kModelF32"), name)


def test_names_and_shapes_of_the_real_encoder(parity):
    config = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**config))
    expected = {name: tuple(t.shape) for name, t in model.named_parameters()}
    out = parity("text.names", {"text_encoder": config}, {"unused": torch.zeros(1)})
    assert {name: tuple(t.shape[:-1]) for name, t in out.items()} == expected


@pytest.mark.parametrize("buckets,distance", [(32, 128), (8, 9), (64, 40), (4, 2), (30, 100)])
def test_buckets(parity, buckets, distance):
    config = UMT5Config(**{**BASE, "relative_attention_num_buckets": buckets,
                           "relative_attention_max_distance": distance})
    attention = UMT5EncoderModel(config).encoder.block[0].layer[0].SelfAttention
    relative = torch.arange(-599, 600)
    expected = attention._relative_position_bucket(relative)
    out = parity("text.buckets", {"length": 600, "num_buckets": buckets, "max_distance": distance},
                 {"unused": torch.zeros(1)})
    assert torch.equal(out["buckets"], expected)


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer

TEXTS = [
    "", " ", "   \n\t ", "a", "a red circle moves left on a gray background",
    "an orange ring bouncing against a white background", "  many    spaces   inside  ", "line\nbreaks\r\nand\ttabs",
    "A CAT, running! (fast); \"quoted\" 100% #1 a_b ~ ^ {x} [y] \\ / | < >", "雪の中で走る猫", "一只猫在雪地里奔跑,电影感",
    "два кота", "emoji 😀😀 👩‍👩‍👧 🇩🇪 end", "café naïve Ångström œuvre ß", "e\u0301 combining", "zero\u200bwidth \u00a0nbsp\u3000wide",
    "</s>", "<pad>", "<unk>", "red</s>blue", "red </s> blue", "<pad><pad> x", "a<unk>b <unk> c", "<extra_id_0> <extra_id_299>",
    "</s", "<<pad>>", "＜ｐａｄ＞ ﬁne ½ ①", "\u2581 mark \u2581\u2581x", "supercalifragilisticexpialidocious",
    "red " * 600, "雪" * 300, "the star is cyan and grows, the background is purple", "&amp; é \x00 \x07 \x7f end",
]


@functools.lru_cache
def load_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def assert_same_ids(parity, folder, texts, max_length=512):
    tokenizer = load_tokenizer(str(folder))
    theirs = tokenizer(texts, padding="max_length", max_length=max_length, truncation=True, add_special_tokens=True,
                       return_attention_mask=True, return_tensors="pt")
    ours = parity("text.tokens", {"folder": str(folder), "texts": texts, "max_length": max_length},
                  {"unused": torch.zeros(1)})
    wrong = [text[:60] for i, text in enumerate(texts) if not torch.equal(ours["ids"][i], theirs.input_ids[i])]
    assert not wrong, f"ids differ for {wrong}"
    assert torch.equal(ours["mask"], theirs.attention_mask)
    return theirs.input_ids


@pytest.mark.parametrize("max_length", [512, 7, 1])
def test_tiny_tokenizer_ids(parity, max_length):
    assert_same_ids(parity, TINY, TEXTS, max_length)


@settings(max_examples=6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.lists(strategies.text(max_size=40), min_size=20, max_size=60))
def test_tiny_tokenizer_ids_of_any_text(parity, texts):
    assert_same_ids(parity, TINY, texts, 64)


def test_tiny_tokenizer_is_what_its_tool_makes(tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import make_tiny_tokenizer
    finally:
        sys.path.pop(0)
    assert make_tiny_tokenizer.build() == (TINY / "spiece.model").read_bytes()
    assert {p.name for p in TINY.iterdir()} == {"spiece.model", "tokenizer.json", "tokenizer_config.json",
                                                "special_tokens_map.json"}


def umt5_like(folder, byte_fallback_in_fast):
    """A tokenizer as UMT5's: NFKC rules, bytes, <pad> </s> <s> <unk> first, sentinels after the model's pieces.

    Its fast file is built as transformers 4 converted UMT5's: with sentencepiece's compiled rules.
    """
    import base64

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    folder.mkdir()
    # Without the long repetitions: a piece of n equal characters makes segmentations of equal score, and which of
    # them wins is not defined.
    corpus = [line.strip() for text in TEXTS for line in text.splitlines() if line.strip() and len(text) < 200] * 3
    corpus += [word for path in sorted(ROOT.glob("fpsa/**/*.h"))[:20] for word in path.read_text().splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=str(folder / "spiece"), model_type="unigram", vocab_size=700,
        hard_vocab_limit=False, byte_fallback=True, normalization_rule_name="nmt_nfkc", num_threads=1,
        character_coverage=0.99, pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2)
    (folder / "spiece.vocab").unlink()
    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "spiece.model").read_bytes())
    pieces = [[piece.piece, piece.score] for piece in proto.pieces]
    special = [(i, pieces[i][0]) for i in range(4)] + [(len(pieces) + i, f"<extra_id_{i}>") for i in range(300)]
    fast = json.loads((TINY / "tokenizer.json").read_text())
    fast["added_tokens"] = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                             "normalized": False, "special": True} for i, text in special]
    fast["normalizer"] = {"type": "Precompiled",
                          "precompiled_charsmap": base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()}
    fast["pre_tokenizer"]["pretokenizers"][0] = {"type": "WhitespaceSplit"}
    fast["model"] = {"type": "Unigram", "unk_id": 3, "byte_fallback": byte_fallback_in_fast, "vocab": pieces}
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    shutil.copy(TINY / "tokenizer_config.json", folder)
    return folder


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_umt5_like_tokenizer_ids(parity, tmp_path, byte_fallback):
    # As the pipeline hands them over: cleaned, and without U+2581, which tokenizers keeps apart from a space.
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    texts = [prompt_clean(text) for text in TEXTS if "\u2581" not in text]
    ids = assert_same_ids(parity, umt5_like(tmp_path / "umt5", byte_fallback), texts)
    assert (ids == 3).any() == (not byte_fallback or any("<unk>" in text for text in texts))


# ---------------------------------------------------------------------------------------------------------------------
# Prompt cleaning

PROMPTS = TEXTS + [
    "&lt;b&gt; &amp;amp; &#39;x&#39; &#x2019; &copy &copy; &notit; &EACUTE; &SZLIG; &FFLIG; &nbsp;x",
    "<i>&eacute;</i> &EACUTE; &amp;lt;", "plain &EACUTE;\nthen <b> &EACUTE;\nafter &EACUTE;",
    "&#0; &#128; &#133; &#150; &#xD83D;&#xDE00; &#xFDD0; &#x110000; &#11; &#13; &#9; &#;&#x; &; & &#59;",
    "&CounterClockwiseContourIntegral; &NotEqualTilde; &fjlig; &hearts; &zwnj;x &NewLine; &Tab;",
    "\u201cquoted\u201d \u2018single\u2019 \u201e low \u201f \u02bc", "ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ ﬆ Ĳ ĳ ŉ Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ æ œ",
    "ＬＯＵＤ　ＮＯＩＳＥＳ！ ﾀｰﾝ ￦ ﾡ", "one\rtwo\r\nthree\u2028four\u2029five", "\x1b[31;1mred\x1b[0m \x1b[2K \x1b[ x \x1bc",
    "a\x00b\x07c\x0bd\x0ce\x1ff\x7fg\ufeffh\u206ai\ufff9j\ufffck\u200bl\u200em", "C1: \x80 \x85 \x91hi\x92 \x81",
    "e\u0301 A\u030a \u1112\u1161\u11ab \u2126 \u212b", "CAFÉ… É” É™ naïve «déjà» 20 °C ½ ×2 ¿qué? ¡sí!",
    "j’ai été”… “CAFÉ”", "zÅ‚oty", "les cafés été”… fermés",
    "Łódź złoty Dvořák İstanbul Ελλάδα Привет", "日本語テキスト 한국어 ไทย العربية עברית हिन्दी",
]

HEALTHY = ["café déjà vu", "naïve façade", "it’s “fine” — really…", "Ünïcödé ñandú", "雪の中の猫", "电影感,广角镜头",
           "😀 smile 🎬", "20 °C ±2 µm", "привет мир", "Ελλάδα", "한국어", "señor ¿qué tal?", "Größe", "100 € or £20", "Ω™ ©®",
           "zażółć gęślą jaźń", "Łódź złoty święto", "Dvořák příliš žluťoučký kůň", "İstanbul güneş ığdır",
           "Một con mèo đỏ đang chạy", "แมว สีแดง", "قطة حمراء", "लाल बिल्ली", "κόκκινη γάτα", "красный кот идёт"]


def misread(text, encoding):
    import ftfy  # registers the "sloppy" encodings, whose holes are Latin-1's

    return text.encode().decode(encoding)


def clean(parity, texts):
    out = parity("text.clean", {"texts": texts}, {"unused": torch.zeros(1)})
    data, place, cleaned = out["bytes"].numpy().tobytes(), 0, []
    for length in out["lengths"].tolist():
        cleaned.append(data[place:place + length].decode())
        place += length
    return cleaned


def assert_same_cleaning(parity, texts):
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean
    from diffusers.utils import is_ftfy_available

    assert is_ftfy_available()
    for text, ours in zip(texts, clean(parity, texts)):
        assert ours == prompt_clean(text), f"prompt {text!r}"


def test_cleaning(parity):
    assert_same_cleaning(parity, PROMPTS + HEALTHY)


@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252"])
def test_cleaning_of_misread_prompts(parity, encoding):
    once = [misread(text, encoding) for text in HEALTHY]
    twice = [misread(text, encoding) for text in once]
    around = [f"a {text}, cinematic" for text in once]
    assert_same_cleaning(parity, once + twice + around)


def every_reference():
    from html.entities import html5

    names = sorted(html5)
    yield from ("&" + name for name in names)
    yield from ("x&" + name + "y" for name in names)
    yield from ("&" + name.upper() for name in names)
    yield from (f"&#{number};" for number in list(range(0x180)) + [0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xFFFE, 0x10FFFF, 0x110000])
    yield from (f"&#x{number:x} " for number in range(0x180))


def test_cleaning_of_every_reference(parity):
    references = list(every_reference())
    assert_same_cleaning(parity, references)
    assert_same_cleaning(parity, ["<" + reference for reference in references])


def test_cleaning_of_every_character(parity):
    # Between letters and alone, without the characters that this Python's Unicode tables do not know yet.
    import unicodedata

    assigned = [chr(c) for c in range(0x11000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"]
    assert_same_cleaning(parity, ["a" + c + "b" for c in assigned])


# The characters of odd text. Curly quotes and accented letters stand in different prompts: side by side ftfy takes
# them for damaged UTF-8 and turns ”é into a Cyrillic letter, which clean_prompt deliberately does not.
PLAIN = list("abz019 .,!?&#;<>xX'\"\n\r\t\x0b\x1b[m\x85\xa0") + [
    "&amp;", "&lt", "&#x41;", "&#65", "&nbsp;", "\x1b[0m", "ﬁ", "ﬆ", "Ａ", "ｶ", "\u3000", "\u2028", "\ufeff", "\u0301",
    "雪", "猫", "😀", "\u200d", "\u202e", "д", "ж", "한", "ก"]
ODD_PROMPT = (strategies.lists(strategies.sampled_from(PLAIN + ["“", "”", "‘", "’"]), max_size=20).map("".join) |
              strategies.lists(strategies.sampled_from(PLAIN + ["&eacute;", "&EACUTE;"]), max_size=20).map("".join))


@settings(max_examples=6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.lists(ODD_PROMPT, min_size=30, max_size=80))
def test_cleaning_of_generated_prompts(parity, texts):
    assert_same_cleaning(parity, texts)


