#include "checkpoint/message_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "base/text.h"

namespace moed {

std::string JsonErrorText(std::string_view what) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
  if (const size_t tag = what.find("] "); what.starts_with('[') && tag != std::string_view::npos) {
    what.remove_prefix(tag + 2);
  }
  return Escaped(what);
}

std::string OtherWeights(const std::string& folder) {
  std::string gguf, pickle;  // the first of each by name
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string(), ending = entry.path().extension().string();
    constexpr std::string_view kPickles[] = {".bin", ".pt", ".pth", ".ckpt"};
    const bool pickled = std::find(std::begin(kPickles), std::end(kPickles), ending) != std::end(kPickles);
    if (std::string* const first = ending == ".gguf" ? &gguf
                                   : pickled         ? &pickle
                                                     : nullptr;
        first != nullptr && (first->empty() || name < *first)) {
      *first = name;
    }
  }
  if (!gguf.empty()) return fmt::format("; it holds {}, a model by itself: give the path of that file", Quoted(gguf));
  if (pickle.empty()) return "";
  return fmt::format(
      "; it holds {}, and pickled weights are not read, since they may run code: save_pretrained of transformers "
      "writes safetensors",
      Quoted(pickle));
}

}  // namespace moed
