// Who goes first, and who yields: the one part of scheduling that is a matter of taste.
#ifndef MOED_SCHEDULER_POLICY_H_
#define MOED_SCHEDULER_POLICY_H_

#include <absl/time/time.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/status.h"
#include "request/sequence.h"

namespace moed {

// What a policy may know of a sequence. The scheduler owns it; it stays in its place while the sequence lives.
struct SequenceInfo {
  SequenceId id = 0;
  uint64_t order = 0;  // the n-th request that was added; unlike arrival times, no two are alike
  std::string_view tenant;
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
  int32_t num_tokens = 0;  // prompt and output so far
};

// Holds the queue of those who wait, and ranks those who run. Called by the scheduler's thread only.
//
// A policy must rank every two sequences one way until one of them ends, or the scheduler cannot promise that the
// first-ranked always makes progress.
class Policy {
 public:
  virtual ~Policy() = default;

  // `sequence` joins the queue: new, or preempted and to be computed again.
  virtual void Push(const SequenceInfo* sequence) = 0;
  // `sequence`, which is in the queue, leaves it: admitted, ended, or held back for a slow reader.
  virtual void Remove(const SequenceInfo* sequence) = 0;
  // The one to admit next, null when nobody waits. It stays in the queue, and nobody overtakes it, until it is removed.
  virtual const SequenceInfo* Front() const = 0;

  // Whether `a` is more important than `b`: computed first, and the last to give up its blocks. A strict total order.
  virtual bool Precedes(const SequenceInfo& a, const SequenceInfo& b) const = 0;
};

// First come, first served: admits in order of arrival, preempts the latest.
std::unique_ptr<Policy> MakeFcfsPolicy();

// By its name in options: "fcfs". INVALID_ARGUMENT, with the known names, for any other. (--scheduling-policy)
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name);

}  // namespace moed

#endif  // MOED_SCHEDULER_POLICY_H_
