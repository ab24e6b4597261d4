// Pieces of text from a file, made fit for a message.
#ifndef MOED_CHECKPOINT_MESSAGE_TEXT_H_
#define MOED_CHECKPOINT_MESSAGE_TEXT_H_

#include <string>
#include <string_view>

namespace moed {

// `text` in quotation marks, control characters and broken UTF-8 escaped, cut when it is long: a hostile file must not
// fill the log.
std::string Quoted(std::string_view text);

// The words of a nlohmann::json exception that say what is wrong and where, without its tag, cut when it is long (it
// repeats the token that it stopped at).
std::string JsonErrorText(std::string_view what);

// For a message that a folder lacks what is read: "; it holds x.gguf, which …", of weights in another form; "" where it
// has none.
std::string OtherWeights(const std::string& folder);

}  // namespace moed

#endif  // MOED_CHECKPOINT_MESSAGE_TEXT_H_
