// The model's logits over given tokens, without sampling: for `moed logits`, perplexity and the tests.
#ifndef MOED_ENGINE_SCORE_H_
#define MOED_ENGINE_SCORE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"

namespace moed {

// Given the row of one token: its prompt, its index there, and f32 [vocab].
using LogitsSink = std::function<void(size_t prompt, size_t index, std::span<const float> logits)>;

// Runs the prompts through an engine that nobody else uses meanwhile, as ragged batches: as many prompts at once as its
// slots, blocks and token budget allow, each in pieces of at most `chunk` tokens (0: as large as fits). Rows of one
// prompt come in order. INVALID_ARGUMENT for an empty prompt, an id out of range or a prompt that the cache cannot hold
// (named).
absl::Status ScorePrompts(Engine& engine, std::span<const std::vector<int32_t>> prompts, int32_t chunk,
                          const LogitsSink& sink);

}  // namespace moed

#endif  // MOED_ENGINE_SCORE_H_
