// Pieces of text from a file, made fit for a message.
#ifndef MOED_CHECKPOINT_MESSAGE_TEXT_H_
#define MOED_CHECKPOINT_MESSAGE_TEXT_H_

#include <string>
#include <string_view>

#include "base/text.h"  // Quoted

namespace moed {

// The words of a nlohmann::json exception that say what is wrong and where, without its tag, escaped and cut when it is
// long (it repeats the token that it stopped at).
std::string JsonErrorText(std::string_view what);

// For a message that a folder lacks what is read: "; it holds x.gguf, which …", of weights in another form; "" where it
// has none.
std::string OtherWeights(const std::string& folder);

}  // namespace moed

#endif  // MOED_CHECKPOINT_MESSAGE_TEXT_H_
