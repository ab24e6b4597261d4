// Counts what one rendering has used against its Limits.
#ifndef MOED_TOKENIZER_JINJA_BUDGET_H_
#define MOED_TOKENIZER_JINJA_BUDGET_H_

#include <cstddef>
#include <cstdint>

#include "tokenizer/jinja/error.h"
#include "tokenizer/jinja/limits.h"

namespace moed::jinja {

class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}

  // `count` nodes evaluated or elements touched.
  void Step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.max_steps) FailLimit("the template took more than {} steps (max_steps)", limits_.max_steps);
  }

  // `bytes` of text read without keeping a copy.
  void Scan(size_t bytes) { Step(bytes / 64); }

  // A search in `text_bytes`, which at worst compares all of the pattern at every place.
  void Search(size_t text_bytes, size_t pattern_bytes) { Step(text_bytes / 64 * (1 + pattern_bytes / 16)); }

  // Levels of what a namespace holds, from the time that it begins to be printed until it is: values are bounded in
  // depth when they are made, but a namespace may come to hold anything later.
  void Nest(int levels) {
    if (levels > limits_.max_value_depth - nested_) {
      FailLimit("values are nested more than {} deep (max_value_depth)", limits_.max_value_depth);
    }
    nested_ += levels;
  }
  void Unnest(int levels) { nested_ -= levels; }

  // `bytes` of new values. Called before the memory is taken wherever a small input can ask for much.
  void Allocate(size_t bytes) {
    // Compared this way round, since `bytes` may be close to the largest number.
    if (bytes > limits_.max_value_bytes - bytes_) {
      FailLimit("the template builds values of more than {} bytes (max_value_bytes)", limits_.max_value_bytes);
    }
    bytes_ += bytes;
    Scan(bytes);
  }

  // A repetition of `count` pieces of `bytes` each, checked against overflow.
  void AllocateRepeated(uint64_t count, size_t bytes) {
    if (bytes != 0 && count > limits_.max_value_bytes / bytes) Allocate(limits_.max_value_bytes + 1);
    Allocate(static_cast<size_t>(count) * bytes);
  }

  const Limits& limits() const { return limits_; }

 private:
  const Limits& limits_;
  uint64_t steps_ = 0;
  size_t bytes_ = 0;
  int nested_ = 0;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_BUDGET_H_
