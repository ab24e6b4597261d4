#include "request/sampling_params.h"

#include <algorithm>
#include <cmath>

namespace moed {
namespace {

// `low` itself is allowed when `closed`. A NaN fails every comparison.
absl::Status CheckRange(const char* field, float value, float low, float high, bool closed) {
  if ((closed ? value >= low : value > low) && value <= high) return absl::OkStatus();
  return InvalidArgument("{} is {}; it must be in {}{}, {}]", field, value, closed ? '[' : '(', low, high);
}

absl::Status CheckTokenIds(const char* field, std::span<const int32_t> ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return InvalidArgument("{}[{}] is {}; token ids of this model are in [0, {})", field, i, ids[i], vocab_size);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const SamplingParams& params, int32_t vocab_size) {
  if (params.logit_bias.size() > SamplingParams::kMaxLogitBias) {
    return InvalidArgument("logit_bias has {} entries; at most {} are allowed", params.logit_bias.size(),
                           SamplingParams::kMaxLogitBias);
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return InvalidArgument("logit_bias names token {}; token ids of this model are in [0, {})", id, vocab_size);
    }
    MOED_RETURN_IF_ERROR(CheckRange("logit_bias", bias, -100.0f, 100.0f, true));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const SamplingParams& params, int32_t vocab_size) {
  if (params.stop.size() > SamplingParams::kMaxStops) {
    return InvalidArgument("stop has {} strings; at most {} are allowed", params.stop.size(),
                           SamplingParams::kMaxStops);
  }
  for (size_t i = 0; i < params.stop.size(); ++i) {
    if (params.stop[i].empty()) return InvalidArgument("stop[{}] is empty; a stop string has at least one byte", i);
    if (params.stop[i].size() > SamplingParams::kMaxStopBytes) {
      return InvalidArgument("stop[{}] has {} bytes; at most {} are allowed", i, params.stop[i].size(),
                             SamplingParams::kMaxStopBytes);
    }
  }
  if (params.stop_token_ids.size() > SamplingParams::kMaxStops) {
    return InvalidArgument("stop_token_ids has {} entries; at most {} are allowed", params.stop_token_ids.size(),
                           SamplingParams::kMaxStops);
  }
  return CheckTokenIds("stop_token_ids", params.stop_token_ids, vocab_size);
}

}  // namespace

absl::Status Validate(const SamplingParams& params, int32_t vocab_size) {
  MOED_RETURN_IF_ERROR(CheckRange("temperature", params.temperature, 0.0f, 100.0f, true));
  MOED_RETURN_IF_ERROR(CheckRange("top_p", params.top_p, 0.0f, 1.0f, false));
  MOED_RETURN_IF_ERROR(CheckRange("min_p", params.min_p, 0.0f, 1.0f, true));
  MOED_RETURN_IF_ERROR(CheckRange("repetition_penalty", params.repetition_penalty, 0.0f, 100.0f, false));
  MOED_RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty, -2.0f, 2.0f, true));
  MOED_RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty, -2.0f, 2.0f, true));
  if (params.top_k < 0) return InvalidArgument("top_k is {}; it must be 0 (off) or more", params.top_k);
  if (params.max_tokens < 1) return InvalidArgument("max_tokens is {}; it must be at least 1", params.max_tokens);
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    return InvalidArgument("min_tokens is {}; it must be in [0, max_tokens = {}]", params.min_tokens,
                           params.max_tokens);
  }
  if (params.logprobs < -1 || params.logprobs > SamplingParams::kMaxLogprobs) {
    return InvalidArgument("logprobs is {}; it must be in [-1, {}]", params.logprobs, SamplingParams::kMaxLogprobs);
  }
  MOED_RETURN_IF_ERROR(CheckLogitBias(params, vocab_size));
  return CheckStops(params, vocab_size);
}

void AddEosTokens(std::span<const int32_t> eos_token_ids, SamplingParams* params) {
  if (params->ignore_eos) return;
  for (int32_t id : eos_token_ids) {
    auto& stops = params->stop_token_ids;
    if (std::find(stops.begin(), stops.end(), id) == stops.end()) stops.push_back(id);
  }
}

}  // namespace moed
