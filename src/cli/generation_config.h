// The sampling that a model's authors recommend.
#ifndef MOED_CLI_GENERATION_CONFIG_H_
#define MOED_CLI_GENERATION_CONFIG_H_

#include <string>

#include "base/status.h"
#include "request/sampling_params.h"

namespace moed {

// Where a request's sampling parameters come from when it leaves them out.
enum class GenerationConfigSource {
  kModel,  // the model's generation_config.json; what that leaves out too, SamplingParams
  kMoed,   // SamplingParams alone
};

// The defaults of SamplingParams with those of generation_config.json in `model_dir` over them: temperature, top_p,
// top_k, min_p and repetition_penalty; `"do_sample": false` is greedy. A folder without the file, and a model that is
// one file, change nothing. INVALID_ARGUMENT for values that no request could have. (End-of-sequence ids are read with
// the model's shape.)
absl::StatusOr<SamplingParams> ReadGenerationConfig(const std::string& model_dir);

}  // namespace moed

#endif  // MOED_CLI_GENERATION_CONFIG_H_
