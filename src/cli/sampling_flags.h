// The flags that say how to sample, for `moed generate` and `moed chat`.
#ifndef MOED_CLI_SAMPLING_FLAGS_H_
#define MOED_CLI_SAMPLING_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moed/v1/sampling.pb.h"

namespace CLI {
class App;
}  // namespace CLI

namespace moed {

// What was not given stays unset in the message, so that the defaults are those of the model that is served.
struct SamplingFlags {
  std::optional<int32_t> max_tokens, top_k;
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;

  void AddTo(CLI::App* command);
  // Apart, because a command that loads a model has an option of this name already.
  void AddSeedTo(CLI::App* command);
  v1::SamplingParams ToMessage() const;
};

}  // namespace moed

#endif  // MOED_CLI_SAMPLING_FLAGS_H_
