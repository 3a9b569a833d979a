#include "fpsa/models/wan/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fpsa/base/check.h"
#include "fpsa/io/json.h"
#include "fpsa/models/wan/prompt_unicode.h"

namespace fpsa::models::wan {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kLargestId = int64_t{1} << 31;

/// A string that is one token wherever it stands in the text.
struct SpecialToken {
  std::string text;
  int64_t id = 0;
};

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  FPSA_CHECK(in.good(), "tokenizer: cannot open ", path, "; the tokenizer folder must hold spiece.model");
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  FPSA_CHECK(!in.bad(), "tokenizer: cannot read ", path);
  return bytes;
}

/// What tokenizer.json says beyond the pieces. The vocabulary itself (most of the file) is checked, not kept.
struct FastTokenizer {
  std::vector<SpecialToken> special;
  int64_t unk_id = 0;
  bool byte_fallback = false;
};

bool flag(const json& object, const char* key, const fs::path& path) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return false;
  FPSA_CHECK(it->is_boolean(), "tokenizer: ", path, ": '", key, "' must be true or false, got ", it->dump());
  return it->get<bool>();
}

int64_t token_id(const json& value, const fs::path& path) {
  FPSA_CHECK(value.is_number_integer() && value >= 0 && value <= kLargestId, "tokenizer: ", path,
             ": an id must be an integer from 0 to 2^31, got ", value.dump());
  return value.get<int64_t>();
}

FastTokenizer parse_fast(const fs::path& path, const sentencepiece::SentencePieceProcessor& pieces) {
  const json root = io::read_json(path);
  FPSA_CHECK(root.is_object(), "tokenizer: ", path, " must hold a JSON object, got ", root.type_name());
  const auto model = root.find("model");
  FPSA_CHECK(model != root.end() && model->is_object() && (!model->contains("type") || (*model)["type"] == "Unigram"),
             "tokenizer: ", path, " must hold a Unigram model; the text encoder is UMT5");
  const auto vocab = model->find("vocab");
  FPSA_CHECK(vocab != model->end() && vocab->is_array() && static_cast<int>(vocab->size()) >= pieces.GetPieceSize(),
             "tokenizer: ", path, " must list at least the ", pieces.GetPieceSize(),
             " pieces of spiece.model; the two files do not belong together");
  for (int i = 0; i < pieces.GetPieceSize(); ++i) {
    const json& entry = (*vocab)[i];
    FPSA_CHECK(entry.is_array() && !entry.empty() && entry[0].is_string() &&
                   entry[0].get_ref<const std::string&>() == pieces.IdToPiece(i),
               "tokenizer: piece ", i, " is '", pieces.IdToPiece(i), "' in spiece.model and ", entry.dump(), " in ",
               path, "; the two files do not belong together");
  }
  FastTokenizer fast;
  const auto unk = model->find("unk_id");
  fast.unk_id = unk != model->end() && !unk->is_null() ? token_id(*unk, path) : pieces.unk_id();
  fast.byte_fallback = flag(*model, "byte_fallback", path);
  const json added = root.contains("added_tokens") ? root["added_tokens"] : json::array();
  FPSA_CHECK(added.is_array(), "tokenizer: ", path, ": 'added_tokens' must be a list, got ", added.type_name());
  for (const json& token : added) {
    FPSA_CHECK(token.is_object() && token.contains("content") && token["content"].is_string() &&
                   !token["content"].get_ref<const std::string&>().empty() && token.contains("id"),
               "tokenizer: ", path, ": an added token needs a content and an id, got ", token.dump());
    SpecialToken special;
    special.text = token["content"];
    special.id = token_id(token["id"], path);
    FPSA_CHECK(!flag(token, "single_word", path), "tokenizer: ", path, ": the added token '", special.text,
               "' asks for single_word matching, which is not supported");
    fast.special.push_back(std::move(special));
  }
  return fast;
}

/// The special tokens of spiece.model itself: what it marks as control or unknown.
std::vector<SpecialToken> control_pieces(const sentencepiece::SentencePieceProcessor& pieces) {
  std::vector<SpecialToken> special;
  for (int i = 0; i < pieces.GetPieceSize(); ++i)
    if (pieces.IsControl(i) || pieces.IsUnknown(i)) special.push_back({pieces.IdToPiece(i), i});
  return special;
}

}  // namespace

struct Tokenizer::State {
  sentencepiece::SentencePieceProcessor pieces;
  std::vector<SpecialToken> special;  // longest first, so that the first match at a place is the longest
  int64_t pad_id = 0, eos_id = 0, unk_id = 0, vocab_size = 0;
  bool byte_fallback = false;

  void append_plain(std::string_view text, std::vector<int64_t>& ids) const;
  const SpecialToken* special_at(std::string_view text, size_t place) const;
};

void Tokenizer::State::append_plain(std::string_view text, std::vector<int64_t>& ids) const {
  std::vector<int> found;
  const auto status = pieces.Encode(text, &found);
  FPSA_CHECK(status.ok(), "tokenizer: sentencepiece cannot encode the text: ", status.ToString());
  bool in_unknown = false;
  for (int id : found) {
    // With bytes switched off, a run of unknown characters is one unknown token, as the run's bytes would be here.
    const bool unknown = pieces.IsUnknown(id) || (!byte_fallback && pieces.IsByte(id));
    if (!unknown)
      ids.push_back(id);
    else if (!in_unknown)
      ids.push_back(unk_id);
    in_unknown = unknown;
  }
}

const SpecialToken* Tokenizer::State::special_at(std::string_view text, size_t place) const {
  for (const SpecialToken& token : special)
    if (text.compare(place, token.text.size(), token.text) == 0) return &token;
  return nullptr;
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const fs::path& path) {
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const fs::path model_path = fs::is_directory(path) ? path / "spiece.model" : path;
  return build(read_file(model_path), model_path, folder / "tokenizer.json");
}

Tokenizer Tokenizer::parse(std::string_view model, const std::string& origin) {
  return build(model, origin, {});
}

Tokenizer Tokenizer::build(std::string_view model, const fs::path& model_path, const fs::path& fast_path) {
  auto state = std::make_unique<State>();
  const auto status = state->pieces.LoadFromSerializedProto(model);
  FPSA_CHECK(!model.empty() && status.ok() && state->pieces.GetPieceSize() > 0, "tokenizer: ", model_path,
             " is not a sentencepiece model (", status.ToString(), "); a download may be incomplete or a pointer file");
  if (fs::exists(fast_path)) {
    FastTokenizer fast = parse_fast(fast_path, state->pieces);
    state->special = std::move(fast.special);
    state->unk_id = fast.unk_id;
    state->byte_fallback = fast.byte_fallback;
  } else {
    state->special = control_pieces(state->pieces);
    state->unk_id = state->pieces.unk_id();
    state->byte_fallback = true;  // a model without byte pieces yields none
  }
  state->vocab_size = state->pieces.GetPieceSize();
  for (const SpecialToken& token : state->special)
    state->vocab_size = std::max(state->vocab_size, token.id + 1);
  std::stable_sort(state->special.begin(), state->special.end(),
                   [](const SpecialToken& a, const SpecialToken& b) { return a.text.size() > b.text.size(); });
  const auto id_of = [&](const char* piece) {
    const int id = state->pieces.PieceToId(piece);
    FPSA_CHECK(state->pieces.IdToPiece(id) == piece, "tokenizer: ", model_path, " has no ", piece,
               " piece; UMT5's tokenizer has one");
    return static_cast<int64_t>(id);
  };
  state->pad_id = id_of("<pad>");
  state->eos_id = id_of("</s>");
  return Tokenizer(std::move(state));
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, int64_t max_length) const {
  FPSA_CHECK(max_length >= 1, "tokenizer: max_length must be at least 1, got ", max_length);
  check_utf8(text, "the prompt");
  std::vector<int64_t> ids;
  size_t begin = 0;
  for (size_t place = 0; place < text.size();) {
    const SpecialToken* token = state_->special_at(text, place);
    if (token == nullptr) {
      ++place;
      continue;
    }
    // Plain text loses its outer white space in sentencepiece, so a token's lstrip and rstrip ask for nothing more.
    state_->append_plain(text.substr(begin, place - begin), ids);
    ids.push_back(token->id);
    place += token->text.size();
    begin = place;
  }
  state_->append_plain(text.substr(begin), ids);
  if (static_cast<int64_t>(ids.size()) > max_length - 1) ids.resize(max_length - 1);
  ids.push_back(state_->eos_id);
  return ids;
}

TokenBatch Tokenizer::encode_batch(const std::vector<std::string>& texts, int64_t max_length, Padding padding) const {
  std::vector<std::vector<int64_t>> rows;
  int64_t longest = 1;
  for (const std::string& text : texts) {
    rows.push_back(encode(text, max_length));
    longest = std::max(longest, static_cast<int64_t>(rows.back().size()));
  }
  const int64_t batch = static_cast<int64_t>(rows.size());
  const int64_t length = padding == Padding::kMaxLength ? max_length : longest;
  TokenBatch out{at::full({batch, length}, pad_id(), at::kLong), at::zeros({batch, length}, at::kLong)};
  for (int64_t i = 0; i < batch; ++i) {
    std::copy(rows[i].begin(), rows[i].end(), out.ids.data_ptr<int64_t>() + i * length);
    std::fill_n(out.mask.data_ptr<int64_t>() + i * length, rows[i].size(), 1);
  }
  return out;
}

int64_t Tokenizer::vocab_size() const {
  return state_->vocab_size;
}
int64_t Tokenizer::pad_id() const {
  return state_->pad_id;
}
int64_t Tokenizer::eos_id() const {
  return state_->eos_id;
}
int64_t Tokenizer::unk_id() const {
  return state_->unk_id;
}

std::string Tokenizer::piece(int64_t id) const {
  if (id >= 0 && id < state_->pieces.GetPieceSize()) return state_->pieces.IdToPiece(static_cast<int>(id));
  for (const SpecialToken& token : state_->special)
    if (token.id == id) return token.text;
  return "";
}

}  // namespace fpsa::models::wan
