// The parts of tokenizer.json, each read by a file of its own.
#ifndef MOED_TOKENIZER_TOKENIZER_JSON_H_
#define MOED_TOKENIZER_TOKENIZER_JSON_H_

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/json_field.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"

namespace moed {

// Each returns INVALID_ARGUMENT that names the field, or UNIMPLEMENTED that names the type. An absent field is a part
// that does nothing.
absl::StatusOr<Normalizer> ParseNormalizer(const JsonField& field);
absl::StatusOr<PreTokenizer> ParsePreTokenizer(const JsonField& field);
absl::StatusOr<Decoder::Options> ParseDecoder(const JsonField& field);

// An object with the flags of an added token, and its content; `id` is left as it is.
absl::StatusOr<AddedToken> ParseAddedToken(const JsonField& field);

// {"String": …} or {"Regex": …}
using JsonPattern = std::variant<std::string, std::shared_ptr<const Regex>>;
absl::StatusOr<JsonPattern> ParsePattern(const JsonField& field);

// "<path> has the type <type>, which is not supported"
absl::Status UnsupportedType(const JsonField& field, std::string_view type);

// Calls visit(field, type) for `field`, or for each part of it in order when it is a Sequence, whose parts are in
// `member`; Sequences may be nested, within bounds.
absl::Status ForEachPart(const JsonField& field, std::string_view member,
                         absl::FunctionRef<absl::Status(const JsonField&, const std::string&)> visit);

}  // namespace moed

#endif  // MOED_TOKENIZER_TOKENIZER_JSON_H_
