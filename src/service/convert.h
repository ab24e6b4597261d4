// Between the API's messages and our own types.
#ifndef MOED_SERVICE_CONVERT_H_
#define MOED_SERVICE_CONVERT_H_

#include <nlohmann/json_fwd.hpp>

#include "base/status.h"
#include "moed/v1/chat.pb.h"
#include "moed/v1/sampling.pb.h"
#include "request/sampling_params.h"
#include "request/sequence.h"

namespace moed {

class Tokenizer;

// What is not set keeps its value in `defaults` (ServedModel::sampling_defaults). Ranges are checked later, by
// Validate().
SamplingParams ToSamplingParams(const v1::SamplingParams& message, const SamplingParams& defaults);

// The input of a chat template. INVALID_ARGUMENT that names the message for an empty conversation and for JSON that is
// malformed, no object, nested more than 64 deep, or larger than any tool is: more than 1024 keys in an object, or 2^18
// values in the conversation.
absl::StatusOr<nlohmann::ordered_json> ToTemplateInput(const v1::Conversation& conversation);

v1::FinishReason ToProto(FinishReason reason);
v1::Usage ToUsage(const SequenceStats& stats);
v1::Timings ToTimings(const SequenceStats& stats);
void FillLogprobs(const TokenLogprobs& logprobs, const Tokenizer& tokenizer, v1::TokenLogprobs* message);

}  // namespace moed

#endif  // MOED_SERVICE_CONVERT_H_
