// The UMT5 tokenizer: prompt text becomes token ids.
//
// Segmentation is sentencepiece's own (unigram model, NFKC-based normalisation, a word mark before every word). What
// transformers' fast tokenizer adds to it is done here: special tokens typed in the text keep their ids ("</s>"),
// the end-of-text id closes every prompt, prompts are cut and padded.
//
// The ids equal AutoTokenizer.from_pretrained(folder)'s for text as clean_prompt leaves it (no control characters,
// single spaces). They also do for raw text, except where tokenizers' own normaliser departs from sentencepiece's
// (it works on grapheme clusters and keeps U+2581 apart from a space).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fpsa::models::wan {

/// Prompts as the text encoder wants them.
struct TokenBatch {
  at::Tensor ids;   // [B, L] int64
  at::Tensor mask;  // [B, L] int64, 1 for a token and 0 for padding
};

/// How long the rows of a TokenBatch are.
enum class Padding {
  kLongest,    // as the longest prompt of the batch: what inference needs, since padding changes no state
  kMaxLength,  // as the limit: what diffusers hands to the encoder
};

/// A loaded tokenizer. Const calls may run in parallel.
class Tokenizer {
 public:
  /// Loads a tokenizer folder (spiece.model, with tokenizer.json beside it when there is one) or a .model file.
  ///   tokenizer.json decides the special tokens and whether unknown characters become bytes or the unknown id;
  ///   without it spiece.model does.
  ///   Errors    fpsa::Error: a missing, truncated or foreign file; two files that do not describe one vocabulary; no
  ///             pad or end-of-text id; special tokens with matching rules that are not implemented (single_word)
  static Tokenizer load(const std::filesystem::path& path);
  /// The same from the bytes of a spiece.model, without a tokenizer.json; `origin` begins every error message.
  static Tokenizer parse(std::string_view model, const std::string& origin);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Ids of one text, the end-of-text id last; a longer text loses its tail, never the end-of-text id.
  ///   Requires  max_length >= 1
  ///   Edges     empty text gives the end-of-text id alone
  ///   Errors    fpsa::Error on text that is not UTF-8
  std::vector<int64_t> encode(std::string_view text, int64_t max_length = kMaxLength) const;

  /// Encodes and pads at the right with pad_id().
  TokenBatch encode_batch(const std::vector<std::string>& texts, int64_t max_length = kMaxLength,
                          Padding padding = Padding::kMaxLength) const;

  /// One more than the largest id; the text encoder's vocab_size must not be smaller.
  int64_t vocab_size() const;
  int64_t pad_id() const;
  int64_t eos_id() const;
  int64_t unk_id() const;
  /// The piece of an id, "" when there is none.
  std::string piece(int64_t id) const;

  static constexpr int64_t kMaxLength = 512;  // Wan's text length

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  static Tokenizer build(std::string_view model, const std::filesystem::path& origin,
                         const std::filesystem::path& fast_path);  // fast_path may not exist
  std::unique_ptr<State> state_;
};

}  // namespace fpsa::models::wan
